"""`tf.data.Dataset.from_tensor_slices` of a memory map: the first line of the tf.data guide.

The map becomes tensors at once, and tf.data keeps them for as long as the dataset lives.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...plain import framework_memory as rules
from ..contract import Task
from .feed import feed

NAME = "from_tensor_slices(memmap)"
KINDS = ("next", "labelled")
STORED = ("npy",)
REQUIRES = ()


def private(task: Task) -> int:
    return rules.from_tensor_slices(feed(task))


def fit_arguments(task: Task) -> dict[str, Any]:
    import tensorflow as tf

    a = np.load(task.path, mmap_mode="r")
    x, y = (a[:-1], a[1:]) if task.labels is None else (a, np.load(task.labels))
    return {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(task.batch).prefetch(tf.data.AUTOTUNE)}
