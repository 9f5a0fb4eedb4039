"""The hand-written Sequence with `workers=4`: Keras fills a queue of ten batches from four threads.

Slices of a map cost nothing to make, nor to keep in a queue: there is nothing for the threads to do but to hand them on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...plain import framework_memory as rules
from ..contract import Task
from .feed import feed

NAME = "hand-written Sequence, workers=4"
KINDS = ("next", "labelled")
STORED = ("npy",)
REQUIRES = ()


def private(task: Task) -> int:
    return rules.by_slice(feed(task))


def fit_arguments(task: Task, look_ahead: int = 10) -> dict[str, Any]:
    import keras

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(workers=4, max_queue_size=look_ahead)
            a = np.load(task.path, mmap_mode="r")
            self.x, self.y = (a[:-1], a[1:]) if task.labels is None else (a, np.load(task.labels))

        def __len__(self) -> int:
            return -(-len(self.x) // task.batch)

        def __getitem__(self, i: int) -> Any:
            part = slice(i * task.batch, (i + 1) * task.batch)
            return self.x[part], self.y[part]

    return {"x": Batches(), "shuffle": False}
