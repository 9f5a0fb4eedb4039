"""A careful Sequence over h5py: one slice of the file for both x and y, for each one costs a read and a decoding.

h5py decodes on one core, under a lock of its own; a chunk that spans two batches is decoded for both, unless its cache
holds it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...plain import framework_memory as rules
from ..contract import Task
from .feed import decoding_nbytes, feed

NAME = "h5py Sequence"
KINDS = ("next", "labelled")
STORED = ("h5",)
REQUIRES = ("h5py",)


def private(task: Task) -> int:
    return rules.by_read(feed(task), decoding_nbytes(task))


def fit_arguments(task: Task) -> dict[str, Any]:
    import h5py
    import keras

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            file, _, key = task.path.partition("::")
            self.a = h5py.File(file, "r")[key]
            self.labels = None if task.labels is None else np.load(task.labels)

        def __len__(self) -> int:
            return -(-task.pairs // task.batch)

        def __getitem__(self, i: int) -> Any:
            start, stop = i * task.batch, min((i + 1) * task.batch, task.pairs)
            if self.labels is not None:
                return self.a[start:stop], self.labels[start:stop]
            frames = self.a[start : stop + 1]
            return frames[:-1], frames[1:]

    return {"x": Batches(), "shuffle": False}
