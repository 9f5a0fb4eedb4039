"""`keras.utils.image_dataset_from_directory`: what Keras recommends. Every epoch decodes every file, in the threads of tf.data."""

from __future__ import annotations

from typing import Any

from ...plain import framework_memory as rules
from ..contract import Task
from .feed import feed

NAME = "image_dataset_from_directory"
KINDS = ("images",)
STORED = ("folder",)
REQUIRES = ()


def private(task: Task) -> int:
    return rules.decoded_images(feed(task))


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
    return {"x": data.prefetch(tf.data.AUTOTUNE)}
