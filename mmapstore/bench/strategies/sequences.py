"""Strategies on a hand-written Sequence (`keras.utils.PyDataset`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...plain.inside_names import split_name
from ..contract import Task
from . import framework_memory as rules
from .strategy import arrays, by_read, strategy


@strategy("hand-written Sequence", rules.by_slice)
def sequence(task: Task, **queue: int) -> dict[str, Any]:
    """A careful hand-written Sequence (`keras.utils.PyDataset`) over a memory map: batch i is slice i of x and of y.

    Six lines, and the one to beat on a plain warm .npy in sequential order.
    """
    import keras

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(**queue)
            self.kept = arrays(task, mmap_mode="r")

        def __len__(self) -> int:
            return -(-task.pairs // task.batch)

        def __getitem__(self, i: int) -> Any:
            return tuple(one[i * task.batch : (i + 1) * task.batch] for one in self.kept)

    return {"x": Batches(), "shuffle": False}


@strategy("hand-written Sequence, shuffled", rules.by_sample)
def sequence_shuffled(task: Task) -> dict[str, Any]:
    """A hand-written Sequence that shuffles: each batch is gathered from all over the memory map.

    Perfect shuffling, and fast, as long as the file stays in the page cache. Where it does not, each sample is a separate read.
    """
    import keras

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.kept = arrays(task, mmap_mode="r")
            self.random = np.random.default_rng(task.seed)
            self.on_epoch_end()

        def on_epoch_end(self) -> None:
            self.order = self.random.permutation(task.pairs)

        def __len__(self) -> int:
            return -(-task.pairs // task.batch)

        def __getitem__(self, i: int) -> Any:
            chosen = self.order[i * task.batch : (i + 1) * task.batch]
            return tuple(one[chosen] for one in self.kept)

    return {"x": Batches(), "shuffle": False}


@strategy("hand-written Sequence, workers=4", rules.by_slice)
def sequence_workers(task: Task) -> dict[str, Any]:
    """The hand-written Sequence with `workers=4`: Keras fills a queue of ten batches from four threads.

    Slices of a map cost nothing to make, nor to keep in a queue: the threads only hand them on.
    """
    return sequence(task, workers=4, max_queue_size=10)


def _sliced(task: Task, stored: Any) -> dict[str, Any]:
    """One slice of `stored` for both x and y: each slice costs a read and a decoding."""
    import keras

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.labels = None if task.labels is None else np.load(task.labels)

        def __len__(self) -> int:
            return -(-task.pairs // task.batch)

        def __getitem__(self, i: int) -> Any:
            start, stop = i * task.batch, min((i + 1) * task.batch, task.pairs)
            if task.kind == "next":
                frames = stored[start : stop + 1]
                return frames[:-1], frames[1:]
            x = stored[start:stop]
            return (x,) if self.labels is None else (x, self.labels[start:stop])

    return {"x": Batches(), "shuffle": False}


@strategy("h5py Sequence", by_read, stored=("h5",), requires=("h5py",))
def h5py_sequence(task: Task) -> dict[str, Any]:
    """A careful Sequence over h5py: one slice of the file for both x and y.

    h5py decodes on one core, under a lock of its own; a chunk that spans two batches is decoded for both, unless HDF5's cache
    holds it.
    """
    import h5py

    file, key = split_name(task.path)
    return _sliced(task, h5py.File(file, "r")[key])


@strategy("zarr Sequence", by_read, stored=("zarr",), requires=("zarr",))
def zarr_sequence(task: Task) -> dict[str, Any]:
    """A careful Sequence over zarr-python: one slice of the store for both x and y.

    A slice reads its chunks concurrently; zarr-python keeps no chunk, so a chunk that spans two batches is decoded for both.
    """
    import zarr

    store, key = split_name(task.path)
    return _sliced(task, zarr.open_array(store, path=(key or "").strip("/"), mode="r"))
