"""`.shuffle(n)` with a buffer as large as the data, as the documentation asks for perfect shuffling; batched afterwards.

tf.data holds the samples themselves in that buffer, not their numbers. A sample that the generator yields at a multiple of
64 bytes is not copied, though: the buffer then points into the map, and costs little beside it. From the second epoch on the
next buffer is filled while the first is given back: between one and two of them are there at the peak, as chance has it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ...plain import framework_memory as rules
from ..contract import Task
from .feed import feed

NAME = ".shuffle(n)"
KINDS = ("next", "labelled")
STORED = ("npy",)
REQUIRES = ()


def private(task: Task) -> int:
    return rules.shuffle_buffer(feed(task))


def least(task: Task) -> int:
    return rules.shuffle_buffer_at_least(feed(task))


def fit_arguments(task: Task) -> dict[str, Any]:
    import tensorflow as tf

    a = np.load(task.path, mmap_mode="r")

    def pairs() -> Any:
        yield from pairwise(a) if task.labels is None else zip(a, np.load(task.labels), strict=True)

    x = tf.TensorSpec(task.shape, task.dtype)
    y = x if task.labels is None else tf.TensorSpec((), tf.int64)
    data = tf.data.Dataset.from_generator(pairs, output_signature=(x, y)).shuffle(task.pairs, seed=task.seed)
    return {"x": data.batch(task.batch).prefetch(tf.data.AUTOTUNE)}
