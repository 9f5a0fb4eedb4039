"""`from_generator` that yields one sample after the other from a memory map it closes over, batched by tf.data.

The form of the documentation. It reads what it yields and nothing else; each sample costs a call into Python.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ...plain import framework_memory as rules
from ..contract import Task
from .feed import feed

NAME = "from_generator, by sample"
KINDS = ("next", "labelled")
STORED = ("npy",)
REQUIRES = ()


def private(task: Task) -> int:
    return rules.by_sample(feed(task))


def fit_arguments(task: Task) -> dict[str, Any]:
    import tensorflow as tf

    a = np.load(task.path, mmap_mode="r")

    def pairs() -> Any:
        yield from pairwise(a) if task.labels is None else zip(a, np.load(task.labels), strict=True)

    x = tf.TensorSpec(task.shape, task.dtype)
    y = x if task.labels is None else tf.TensorSpec((), tf.int64)
    data = tf.data.Dataset.from_generator(pairs, output_signature=(x, y))
    return {"x": data.batch(task.batch).prefetch(tf.data.AUTOTUNE)}
