"""Strategies that give Keras or tf.data whole arrays, and those on `tf.data.Dataset.from_generator`."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ..contract import Task
from . import framework_memory as rules
from .strategy import arrays, strategy


@strategy("array in RAM, fit(x, y)", rules.array_in_ram)
def array_in_ram(task: Task) -> dict[str, Any]:
    """The array in RAM, and views of it one frame apart, in `fit(x, y)`.

    Most tutorials do so. TensorFlow makes a tensor of x and one of y, each a copy of all of it, beside the array.
    """
    return dict(zip("xy", arrays(task, mmap_mode=None), strict=False)) | {"batch_size": task.batch, "shuffle": False}


@strategy("fit(memmap)", rules.fit_arrays)
def fit_memmap(task: Task) -> dict[str, Any]:
    """A memory map straight into `fit(x, y)`, in the hope that Keras reads a batch at a time.

    Keras does not: the map is an array to Keras, and all of x and all of y become tensors before the first step.
    """
    return dict(zip("xy", arrays(task, mmap_mode="r"), strict=False)) | {"batch_size": task.batch, "shuffle": False}


@strategy("from_tensor_slices(memmap)", rules.from_tensor_slices)
def from_tensor_slices(task: Task) -> dict[str, Any]:
    """`tf.data.Dataset.from_tensor_slices` of a memory map: the first line of the tf.data guide.

    The map becomes tensors at once, and tf.data keeps the tensors for as long as the dataset lives.
    """
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(arrays(task, mmap_mode="r"))
    return {"x": data.batch(task.batch).prefetch(tf.data.AUTOTUNE)}


@strategy("timeseries_dataset_from_array", rules.from_tensor_slices, kinds=("next",))
def timeseries(task: Task) -> dict[str, Any]:
    """`keras.utils.timeseries_dataset_from_array`: made for windows over time; here each window is one frame.

    Both arrays become tensors, and tf.data gathers the windows from them. x has an axis for time, of length 1.
    """
    import keras

    x, y = arrays(task, mmap_mode="r")
    return {"x": keras.utils.timeseries_dataset_from_array(x, y, sequence_length=1, batch_size=task.batch)}


def signature(task: Task) -> tuple[Any, ...]:
    """Describe one (x, y), or (x,), to tf.data."""
    import tensorflow as tf

    x = tf.TensorSpec(task.shape, task.dtype)
    return {"next": (x, x), "input": (x,)}.get(task.kind, (x, tf.TensorSpec((), tf.int64)))


@strategy("from_generator(args=[memmap])", rules.from_generator_args)
def from_generator_args(task: Task) -> dict[str, Any]:
    """`from_generator(gen, args=[memmap])`: a generator function that is given its array.

    `args` are tensors, so the map becomes a tensor; and every pass over the dataset makes a NumPy array of the tensor.
    """
    import tensorflow as tf

    def pairs(a: Any, *labels: Any) -> Any:
        yield from pairwise(a) if task.kind == "next" else zip(a, *labels, strict=True)

    args = [np.load(path, mmap_mode="r") for path in (task.path, task.labels) if path is not None]
    data = tf.data.Dataset.from_generator(pairs, args=args, output_signature=signature(task))
    return {"x": data.batch(task.batch).prefetch(tf.data.AUTOTUNE)}


@strategy("from_generator, by sample", rules.by_sample)
def from_generator(task: Task) -> dict[str, Any]:
    """`from_generator` that yields one sample after the other from a memory map it closes over, batched by tf.data.

    The form of the documentation. It reads only the samples it yields; each sample costs a call into Python.
    """
    import tensorflow as tf

    kept = arrays(task, mmap_mode="r")
    data = tf.data.Dataset.from_generator(lambda: zip(*kept, strict=True), output_signature=signature(task))
    return {"x": data.batch(task.batch).prefetch(tf.data.AUTOTUNE)}


@strategy(".shuffle(n)", rules.shuffle_buffer)
def shuffle_n(task: Task) -> dict[str, Any]:
    """`.shuffle(n)` with a buffer as large as the data, as the documentation asks for perfect shuffling; batched afterwards.

    tf.data holds the samples themselves in the buffer, not their numbers. A sample that the generator yields at a multiple of
    64 bytes is not copied: the buffer then points into the map. From the second epoch on the next buffer is filled while the
    first is given back, so the peak lies between one and two buffers.
    """
    import tensorflow as tf

    kept = arrays(task, mmap_mode="r")
    data = tf.data.Dataset.from_generator(lambda: zip(*kept, strict=True), output_signature=signature(task))
    return {"x": data.shuffle(task.pairs, seed=task.seed).batch(task.batch).prefetch(tf.data.AUTOTUNE)}


@strategy("from_generator, by batch", rules.by_slice)
def batched_generator(task: Task) -> dict[str, Any]:
    """`from_generator` that yields whole batches, slices of a memory map: the fastest use of tf.data.

    A slice at a multiple of 64 bytes is not even copied.
    """
    import tensorflow as tf

    kept = arrays(task, mmap_mode="r")

    def batches() -> Any:
        for i in range(0, task.pairs, task.batch):
            yield tuple(one[i : i + task.batch] for one in kept)

    signature = tuple(tf.TensorSpec((None, *one.shape[1:]), one.dtype) for one in kept)
    return {"x": tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(tf.data.AUTOTUNE)}
