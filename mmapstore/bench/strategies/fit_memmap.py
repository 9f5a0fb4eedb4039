"""A memory map straight into `fit(x, y)`, in the hope that Keras reads a batch at a time.

It does not: the map is an array to Keras, and all of x and all of y become tensors before the first step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...plain import framework_memory as rules
from ..contract import Task
from .feed import feed

NAME = "fit(memmap)"
KINDS = ("next", "labelled")
STORED = ("npy",)
REQUIRES = ()


def private(task: Task) -> int:
    return rules.fit_arrays(feed(task))


def fit_arguments(task: Task) -> dict[str, Any]:
    a = np.load(task.path, mmap_mode="r")
    x, y = (a[:-1], a[1:]) if task.labels is None else (a, np.load(task.labels))
    return {"x": x, "y": y, "batch_size": task.batch, "shuffle": False}
