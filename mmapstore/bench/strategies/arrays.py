"""Strategies that give Keras or tf.data whole arrays."""

from __future__ import annotations

from typing import Any

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
