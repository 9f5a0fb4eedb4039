"""`ImageDataGenerator.flow_from_directory`: deprecated, still in tf.keras, and in most scripts one finds.

Every epoch opens and decodes every file, one after the other, in Python.
"""

from __future__ import annotations

from typing import Any

from ...plain import framework_memory as rules
from ..contract import Task
from .feed import feed

NAME = "ImageDataGenerator"
KINDS = ("images",)
STORED = ("folder",)
REQUIRES = ("PIL",)


def private(task: Task) -> int:
    return rules.decoded_images(feed(task))


def least(task: Task) -> int:
    return rules.decoded_images(feed(task), rules.LEAST_ALIVE)


def fit_arguments(task: Task) -> dict[str, Any]:
    import tensorflow as tf

    height, width, channels = task.shape
    images = tf.keras.preprocessing.image.ImageDataGenerator().flow_from_directory(
        task.path,
        target_size=(height, width),
        color_mode="grayscale" if channels == 1 else "rgb",
        class_mode="sparse",
        batch_size=task.batch,
        shuffle=False,
    )
    return {"x": images, "shuffle": False}
