"""Strategies on a folder of images, one folder for each class."""

from __future__ import annotations

import os
from typing import Any

from ..contract import Task
from . import framework_memory as rules
from .strategy import strategy

_FOLDER: dict[str, Any] = {"kinds": ("images",), "stored": ("folder",)}


@strategy("ImageDataGenerator", rules.decoded_images, requires=("PIL",), **_FOLDER)
def image_data_generator(task: Task) -> dict[str, Any]:
    """`ImageDataGenerator.flow_from_directory`: deprecated, still in tf.keras, and in most scripts.

    Every epoch opens and decodes every file, one after the other, in Python.
    """
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


def _from_directory(task: Task) -> Any:
    import keras

    height, width, channels = task.shape
    return keras.utils.image_dataset_from_directory(
        task.path,
        image_size=(height, width),
        color_mode="grayscale" if channels == 1 else "rgb",
        batch_size=task.batch,
        shuffle=False,
        verbose=False,
    )


@strategy("image_dataset_from_directory", lambda task: rules.decoded_in_threads(task, queues=2), **_FOLDER)
def image_dataset(task: Task) -> dict[str, Any]:
    """`keras.utils.image_dataset_from_directory`: Keras's recommendation. Every epoch decodes every file, in threads of tf.data.

    Keras's own queue of batches lies before the queue that the tutorials add, and each grows by itself: some dozens of batches.
    """
    import tensorflow as tf

    return {"x": _from_directory(task).prefetch(tf.data.AUTOTUNE)}


@strategy("image_dataset_from_directory.cache()", rules.cached_images, **_FOLDER)
def image_dataset_cached(task: Task) -> dict[str, Any]:
    """`keras.utils.image_dataset_from_directory` with `.cache()`, as the tutorials add it: decoded once, and then kept.

    The cache keeps float32 images: four times the bytes of their pixels, and far more than the files have.
    """
    import tensorflow as tf

    return {"x": _from_directory(task).cache().prefetch(tf.data.AUTOTUNE)}


def _stored_at(task: Task) -> str:
    return task.prepared or f"{task.path.rstrip(os.sep)}-ingested"


def _ingest(task: Task) -> None:
    import mmapstore as mm

    if not os.path.exists(_stored_at(task)):
        os.makedirs(os.path.dirname(os.path.abspath(_stored_at(task))), exist_ok=True)
        images = mm.Images(
            task.path, size=task.shape[:2], channels=task.shape[2], dtype="uint8", order="sorted", source_field=False
        )
        mm.ingest(images, _stored_at(task), layout="NHWC", progress=False)


def _private(task: Task) -> int:
    import mmapstore as mm

    opened = mm.open(_stored_at(task), episodes=task.samples)  # NotFoundError until they are ingested
    return opened.batches(task.batch, "label", inputs="image").memory.total


@strategy("mmapstore, images ingested", _private, prepare=_ingest, requires=("PIL",), **_FOLDER)
def mmapstore_images(task: Task) -> dict[str, Any]:
    """The images ingested once (`mmapstore ingest FOLDER DIRECTORY`), and then read from a memory map, in sequential order.

    Decoding is paid before training, and the map holds uint8 pixels: more disk than the JPEGs, less memory than floats.
    """
    import mmapstore as mm

    batches = mm.open(_stored_at(task), episodes=task.samples).batches(task.batch, "label", inputs="image")
    return {"x": batches.to_keras(), "shuffle": False}
