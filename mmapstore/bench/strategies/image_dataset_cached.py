"""`keras.utils.image_dataset_from_directory` with `.cache()`, as the tutorials add it: decoded once, and then kept.

What is kept are float32 images: four times the bytes of their pixels, and far more than the files have.
"""

from __future__ import annotations

from typing import Any

from ...plain import framework_memory as rules
from ..contract import Task
from .feed import feed

NAME = "image_dataset_from_directory.cache()"
KINDS = ("images",)
STORED = ("folder",)
REQUIRES = ()


def private(task: Task) -> int:
    return rules.cached_images(feed(task))


def least(task: Task) -> int:
    return rules.cached_images_at_least(feed(task))


def fit_arguments(task: Task) -> dict[str, Any]:
    import keras
    import tensorflow as tf

    height, width, channels = task.shape
    data = keras.utils.image_dataset_from_directory(
        task.path,
        image_size=(height, width),
        color_mode="grayscale" if channels == 1 else "rgb",
        batch_size=task.batch,
        shuffle=False,
        verbose=False,
    )
    return {"x": data.cache().prefetch(tf.data.AUTOTUNE)}
