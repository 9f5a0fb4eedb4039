"""The subject of a diagnosis: a field, how it is stored and read, and how a model is to be trained on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..batches.batches import Batches
from ..batches.dataset import Dataset
from ..batches.opening import open_quietly, several_paths
from ..files.process_memory import memory_available
from ..files.stored_files import nbytes_on_disk
from ..formats.contract import StoredArray
from ..formats.located import Located
from ..formats.registry import identify, list_stored, open_stored, split_inside
from ..operations.decodes import decodes_per_chunk
from ..operations.verify.manifest_check import described_arrays
from ..plain.array_spec import ArraySpec, StoredLayout
from ..plain.cf_packing import Packed
from ..plain.errors import InvalidTypeError, InvalidValueError, KeyNotFoundError
from ..plain.windows import Episodes, NextFrame
from ..readers.contract import Reader
from .frameworks import Frameworks

NEXT, NONE = "next", "none"
_LEAST_STEP = 0.002  # seconds of a training step in Keras itself, with next to no model
_STEP_SPEED = 1e9  # bytes of batches per second above which no real model trains on a processor


@dataclass(frozen=True)
class Location:
    """The files or stores that hold one field."""

    paths: tuple[str, ...]  # paths for `mmapstore.open`, one for each file: "a.npy", "a.h5::/frames"
    layout: str | None = None  # axes according to the manifest; None without a manifest

    @property
    def outer(self) -> str:
        """The file or store of the first path."""
        return split_inside(self.paths[0])[0]

    @property
    def format(self) -> str:
        """ ".npy", "HDF5", "Zarr" or ".npz"."""
        return identify(self.outer).title


@dataclass(frozen=True)
class Subject:
    """An array to train on."""

    name: str  # path that `mmapstore.open` takes for the array
    # of all fields, as `locations`
    dataset: Dataset
    field: str  # the field that x comes from
    locations: dict[str, Location]
    # the array of x as it is stored, the first file of several, and its axes
    stored: StoredArray
    layout: StoredLayout
    target: str  # NEXT (the frame after x), NONE, or the name of a field
    batch: int  # samples in a batch
    given_layout: str | None  # the value of --layout
    max_memory: int | None  # upper bound of the bytes of an epoch; None for no bound
    frameworks: Frameworks
    available: int  # bytes of memory that are available now
    is_largest: bool = False  # True if nobody named this array, which is the largest of several

    @property
    def location(self) -> Location:
        return self.locations[self.field]

    @property
    def reader(self) -> Reader:
        return self.dataset.readers[self.field]

    @property
    def spec(self) -> ArraySpec:
        return self.reader.spec

    @property
    def packed(self) -> list[Packed]:
        """Packed files of x, whose stored numbers mislead a model."""
        return [each for each in self.dataset.packed.get(self.field, ()) if each.packing.misleads]

    @property
    def chunks(self) -> Located | None:
        """Chunks of x that mmapstore itself reads, with or without a codec."""
        return self.stored.located if self.stored.chunks and self.reader.decoded_together else None

    @property
    def chunk(self) -> tuple[int, ...] | None:
        """Shape of a chunk, which is read or decoded as a whole; None for arrays without chunks."""
        shape = self.stored.chunks if self.chunks is None else self.chunks.grid.chunk
        return None if shape is None else tuple(shape)

    @property
    def is_compressed(self) -> bool:
        return self.chunks is not None and len(self.chunks.chain) > 0

    @property
    def is_by_library(self) -> bool:
        """True if samples are read with the format's own library, which is slower."""
        return "by its library" in self.reader.place

    @cached_property
    def stored_nbytes(self) -> int:
        """Bytes on disk; of a file that holds several arrays, all of its bytes."""
        return sum(nbytes_on_disk(outer) for outer in {split_inside(path)[0] for path in self.location.paths})

    @cached_property
    def decodes(self) -> float:
        """Times that a shuffled epoch of next-frame pairs decodes each chunk; 1 where nothing is decoded."""
        return decodes_per_chunk(self.reader, Episodes.of(self.dataset.episodes)) or 1.0

    @property
    def floatx(self) -> np.dtype[Any]:
        return np.dtype(self.frameworks.floatx)

    @property
    def is_cast(self) -> bool:
        """True for floats of another size than Keras trains in."""
        return self.spec.dtype.kind == "f" and self.spec.dtype != self.floatx

    @property
    def exceeds_memory(self) -> bool:
        """True if the page cache cannot keep the stored bytes from one epoch to the next."""
        return self.stored_nbytes > self.available

    def batches(self, shuffle: bool | int = True, batch: int | None = None, max_memory: int | None = None) -> Batches:
        """Return batches for training, in the dtype that Keras trains in."""
        target: Any = {NEXT: NextFrame(), NONE: None}.get(self.target, self.target)
        dtype = {self.field: self.floatx} if self.is_cast else None
        return self.dataset.batches(
            batch or self.batch, target, inputs=self.field, shuffle=shuffle, dtype=dtype, max_memory=max_memory
        )

    @cached_property
    def usual(self) -> Batches:
        """Batches with `shuffle=True`."""
        return self.batches()

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return len(self.usual)

    @property
    def delivered_nbytes(self) -> int:
        """Bytes of x and y in an epoch, as the model gets them."""
        itemsize = self.floatx.itemsize if self.is_cast else self.spec.dtype.itemsize
        x = math.prod(self.spec.sample_shape) * itemsize
        y = x if self.target == NEXT else 0 if self.target == NONE else self.dataset.readers[self.target].spec.sample_nbytes
        return self.usual.samples * (x + y)

    @property
    def least_step(self) -> float:
        """Seconds that every training step on such batches is likely to take at least."""
        return max(_LEAST_STEP, self.delivered_nbytes / self.steps / _STEP_SPEED)


def subject_of(
    path: str,
    frameworks: Frameworks,
    *,
    key: str | None = None,
    layout: str | None = None,
    batch: int = 32,
    target: str | None = None,
    max_memory: int | None = None,
) -> Subject:
    """Open the array to be judged, reading headers only. Raises what `mmapstore.open` raises."""
    outer, inside = split_inside(path)
    if key is not None and inside is not None:
        raise KeyNotFoundError(f"{path} already names an array inside the file; leave out --key {key}.")
    name, is_largest = path if key is None else _joined(outer, key), False
    try:
        dataset = open_quietly(name, layout=layout)
    except KeyNotFoundError:
        largest = _largest_inside(name)
        if largest is None:
            raise
        is_largest, name = True, largest
        dataset = open_quietly(name, layout=layout)
    locations = _locations_of(name, list(dataset.readers))
    x = next(iter(dataset.readers))
    stored = open_stored(*split_inside(locations[x].paths[0]))  # joined files are alike
    if dataset.readers[x].spec.dtype.kind == "S":
        raise InvalidTypeError(f"{name} holds bytes, and models train on numbers; expected bool, integers or floats.")
    axes = StoredLayout.of(layout or locations[x].layout, tuple(stored.shape), stored.name)
    y, available = _target_of(dataset, target), memory_available()
    subject = Subject(name, dataset, x, locations, stored, axes, y, batch, layout, max_memory, frameworks, available, is_largest)
    _ = subject.usual  # raises for a batch size or a target that does not fit the data
    return subject


def _target_of(dataset: Dataset, target: str | None) -> str:
    """Return the target asked for; else the second field of numbers, or the next frame if samples follow each other."""
    names = list(dataset.readers)
    if target is None:
        others = [name for name in names[1:] if dataset.readers[name].spec.dtype.kind != "S"]
        return others[0] if others else NEXT if len(dataset) > 1 and not dataset.mixed else NONE
    if target not in (NEXT, NONE, *names):
        fields = f", or a field ({', '.join(names)})" if len(names) > 1 else ""
        raise InvalidValueError(f"--target {target} is not understood; expected next, none{fields}.")
    return target


def _locations_of(path: str, fields: list[str]) -> dict[str, Location]:
    """Return the location of each field of `mmapstore.open(path)`."""
    if (joined := several_paths(path)) is not None:
        return {fields[0]: Location(tuple(joined))}
    found = {each.field: Location((_joined(each.path, each.entry.key),), each.entry.layout) for each in described_arrays(path)}
    if len(fields) > 1:
        return {field: found[field] for field in fields}
    outer, inside = split_inside(path)
    return {fields[0]: next(iter(found.values()), Location((_joined(outer, inside or ""),)))}


def _largest_inside(path: str) -> str | None:
    """Return the array that is more than twice as large as all others in a file or store; None if there is none."""
    outer, inside = split_inside(path)
    sizes = {
        each.key: getattr(each.dtype, "itemsize", 0) * math.prod(max(0, length) for length in each.shape) * bool(each.shape)
        for each in list_stored(outer, inside)
    }
    ordered = sorted(sizes, key=lambda key: -sizes[key])
    if len(ordered) < 2 or sizes[ordered[0]] <= 2 * sizes[ordered[1]]:
        return None
    return _joined(outer, ordered[0])


def _joined(outer: str, key: str) -> str:
    return f"{outer}::/{key.strip('/')}" if key.strip("/") else outer
