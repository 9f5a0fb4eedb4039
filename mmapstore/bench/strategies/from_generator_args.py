"""`from_generator(gen, args=[memmap])`: a generator function that is given its array.

`args` are tensors, so the map becomes one; and every pass over the dataset makes a NumPy array of that for the generator.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ...plain import framework_memory as rules
from ..contract import Task
from .feed import feed

NAME = "from_generator(args=[memmap])"
KINDS = ("next", "labelled")
STORED = ("npy",)
REQUIRES = ()


def private(task: Task) -> int:
    return rules.from_generator_args(feed(task))


def fit_arguments(task: Task) -> dict[str, Any]:
    import tensorflow as tf

    def pairs(a: Any, *labels: Any) -> Any:
        yield from zip(a, *labels, strict=True) if labels else pairwise(a)

    args = [np.load(task.path, mmap_mode="r"), *([] if task.labels is None else [np.load(task.labels)])]
    x = tf.TensorSpec(task.shape, task.dtype)
    y = x if task.labels is None else tf.TensorSpec((), tf.int64)
    data = tf.data.Dataset.from_generator(pairs, args=args, output_signature=(x, y))
    return {"x": data.batch(task.batch).prefetch(tf.data.AUTOTUNE)}
