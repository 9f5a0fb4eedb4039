"""The array in RAM, and views of it one frame apart, in `fit(x, y)`.

What every tutorial does. TensorFlow makes a tensor of x and one of y, each a copy of all of it, beside the array.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...plain import framework_memory as rules
from ..contract import Task
from .feed import feed

NAME = "array in RAM, fit(x, y)"
KINDS = ("next", "labelled")
STORED = ("npy",)
REQUIRES = ()


def private(task: Task) -> int:
    return rules.array_in_ram(feed(task))


def fit_arguments(task: Task) -> dict[str, Any]:
    a = np.load(task.path)
    x, y = (a[:-1], a[1:]) if task.labels is None else (a, np.load(task.labels))
    return {"x": x, "y": y, "batch_size": task.batch, "shuffle": False}
