"""A careful Sequence over zarr-python: one slice of the store for both x and y.

A slice reads its chunks concurrently; zarr-python keeps no chunk, so one that spans two batches is decoded for both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...plain import framework_memory as rules
from ..contract import Task
from .feed import decoding_nbytes, feed

NAME = "zarr Sequence"
KINDS = ("next", "labelled")
STORED = ("zarr",)
REQUIRES = ("zarr",)


def private(task: Task) -> int:
    return rules.by_read(feed(task), decoding_nbytes(task))


def fit_arguments(task: Task) -> dict[str, Any]:
    import keras
    import zarr

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            store, _, key = task.path.partition("::")
            self.a = zarr.open_array(store, path=key.strip("/"), mode="r")
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
