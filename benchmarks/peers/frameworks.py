"""Peers that TensorFlow and Keras offer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .by_hand import whole_array
from .contract import Batch, Job, Opened, peer


def _tuples(data: Any) -> Iterator[Batch]:
    for batch in data.as_numpy_iterator():
        yield batch if isinstance(batch, tuple) else (batch,)


@peer("from_tensor_slices", forms="npy", accesses=("sequential", "next", "fit"), requires=("tensorflow",), pip="tensorflow")
def from_tensor_slices(job: Job) -> Opened:
    """Arrays in RAM, tf.data with prefetch."""
    import tensorflow as tf

    array = whole_array(job)
    data = tf.data.Dataset.from_tensor_slices((array[:-1], array[1:]) if job.pairs else array)
    data = data.batch(job.kind.batch).prefetch(tf.data.AUTOTUNE)
    del array
    return Opened(lambda epoch: _tuples(data), keras=lambda: data)


@peer("timeseries_dataset_from_array", forms="npy", requires=("keras", "tensorflow"), pip="tensorflow", default=False)
def timeseries(job: Job) -> Opened:
    """Keras's own next-frame tool, over the memory map."""
    import keras

    array = np.load(job.path, mmap_mode="r")
    data = keras.utils.timeseries_dataset_from_array(
        array[:-1] if job.pairs else array,
        array[1:] if job.pairs else None,
        sequence_length=1,
        batch_size=job.kind.batch,
        shuffle=job.shuffled,
        seed=job.seed if job.shuffled else None,
    )
    return Opened(lambda epoch: _tuples(data))


@peer(
    "from_generator, per sample",
    forms="npy",
    accesses=("sequential", "next", "shuffled", "fit"),
    requires=("tensorflow",),
    pip="tensorflow",
    default=False,
)
def from_generator(job: Job) -> Opened:
    """A generator of single samples over the map, batched and prefetched by tf.data; shuffled, in random order."""
    import tensorflow as tf

    array = np.load(job.path, mmap_mode="r")
    spec = tf.TensorSpec(job.kind.shape, tf.float32)
    epochs = iter(range(10**9))

    def samples() -> Iterator[Any]:
        order = np.random.default_rng([job.seed, next(epochs)]).permutation(job.anchors) if job.shuffled else range(job.anchors)
        for i in order:
            yield (array[i], array[i + 1]) if job.pairs else array[i]

    data = tf.data.Dataset.from_generator(samples, output_signature=(spec, spec) if job.pairs else spec)
    data = data.batch(job.kind.batch).prefetch(tf.data.AUTOTUNE)
    return Opened(lambda epoch: _tuples(data), keras=lambda: data)
