"""A hand-written Sequence that shuffles: each batch is gathered from all over the memory map.

Perfect shuffling, and fast, as long as the file stays in the page cache. Where it does not, every sample is a read of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...plain import framework_memory as rules
from ..contract import Task
from .feed import feed

NAME = "hand-written Sequence, shuffled"
KINDS = ("next", "labelled")
STORED = ("npy",)
REQUIRES = ()


def private(task: Task) -> int:
    return rules.by_read(feed(task))


def fit_arguments(task: Task) -> dict[str, Any]:
    import keras

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            a = np.load(task.path, mmap_mode="r")
            self.x, self.y = (a[:-1], a[1:]) if task.labels is None else (a, np.load(task.labels))
            self.random = np.random.default_rng(task.seed)
            self.on_epoch_end()

        def on_epoch_end(self) -> None:
            self.order = self.random.permutation(len(self.x))

        def __len__(self) -> int:
            return -(-len(self.order) // task.batch)

        def __getitem__(self, i: int) -> Any:
            chosen = self.order[i * task.batch : (i + 1) * task.batch]
            return self.x[chosen], self.y[chosen]

    return {"x": Batches(), "shuffle": False}
