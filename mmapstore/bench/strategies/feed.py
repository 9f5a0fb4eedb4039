"""A task as the rules of the frameworks see it."""

from __future__ import annotations

import math

import numpy as np

from ...formats.registry import open_stored, split_inside
from ...plain.framework_memory import Feed
from ..contract import Task


def feed(task: Task) -> Feed:
    """
    >>> feed(Task("labelled", "npy", "x.npy", 1000, (3, 4), "float64", "y.npy"))
    Feed(array=96000, pairs=1000, batch=32, x=96, y=8, x_cast=48, y_cast=None, x_float=48, shift=None)
    """
    values, dtype, is_next = math.prod(task.shape), np.dtype(task.dtype), task.kind == "next"
    x, as_float = values * dtype.itemsize, values * 4
    cast = as_float if dtype.kind == "f" and dtype.itemsize != 4 else None
    return Feed(
        array=task.nbytes,
        pairs=task.pairs,
        batch=task.batch,
        x=x,
        y=x if is_next else 8,
        x_cast=cast,
        y_cast=cast if is_next else None,
        x_float=as_float,
        shift=1 if is_next else None,
    )


def decoding_nbytes(task: Task) -> int:
    """What a format's library needs to decode a chunk: as it is stored, and a buffer for the filters. 0 where there are none."""
    stored = open_stored(*split_inside(task.path))
    return 0 if stored.chunks is None else 2 * math.prod(stored.chunks) * np.dtype(task.dtype).itemsize
