"""`keras.utils.timeseries_dataset_from_array`: made for windows over time; here they are one frame long.

Both arrays become tensors, and tf.data gathers the windows from them. x has an axis for time, of length 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...plain import framework_memory as rules
from ..contract import Task
from .feed import feed

NAME = "timeseries_dataset_from_array"
KINDS = ("next",)
STORED = ("npy",)
REQUIRES = ()


def private(task: Task) -> int:
    return rules.from_tensor_slices(feed(task))


def fit_arguments(task: Task) -> dict[str, Any]:
    import keras

    a = np.load(task.path, mmap_mode="r")
    return {"x": keras.utils.timeseries_dataset_from_array(a[:-1], a[1:], sequence_length=1, batch_size=task.batch)}
