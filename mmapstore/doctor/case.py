"""What is judged: a field, how it is stored and read, and how it is to be trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..batches.batches import Batches
from ..batches.dataset import Dataset
from ..batches.opening import open_quietly
from ..files.process_memory import memory_available
from ..formats.contract import EncodedChunks, HasChunks, StoredArray
from ..operations.decodes import decodes_per_chunk
from ..plain.array_spec import ArraySpec, StoredLayout
from ..plain.cf_packing import Packed
from ..plain.errors import InvalidTypeError, InvalidValueError, KeyNotFoundError
from ..plain.windows import Episodes, NextFrame
from ..readers.contract import Decodes, Reader
from .frameworks import Frameworks
from .places import Place, largest_inside, places_of, require_inside

NEXT, NONE = "next", "none"
_LEAST_STEP = 0.002  # seconds that Keras itself takes for a training step, with next to no model
_STEP_SPEED = 1e9  # bytes per second of its batches that no real model trains faster than on a processor


@dataclass(frozen=True)
class Case:
    """
    Attributes
    ----------
    path : as it was given; `name` what `mmapstore.open` takes for what is judged
    dataset, field : of all fields; the one that x comes from
    places : of every field
    stored, layout : of x, the first file of several
    target : NEXT (the frame after x), NONE, or the name of a field
    batch : samples in a batch
    given_layout : what --layout said
    max_memory : bytes that an epoch may take; None for no limit
    available : bytes of memory that could be used now
    is_largest : nobody named this array: it is the largest of several
    """

    path: str
    name: str
    dataset: Dataset
    field: str
    places: dict[str, Place]
    stored: StoredArray
    layout: StoredLayout
    target: str
    batch: int
    given_layout: str | None
    max_memory: int | None
    frameworks: Frameworks
    available: int
    is_largest: bool = False

    @property
    def place(self) -> Place:
        return self.places[self.field]

    @property
    def reader(self) -> Reader:
        return self.dataset.readers[self.field]

    @property
    def spec(self) -> ArraySpec:
        return self.reader.spec

    @property
    def packed(self) -> list[Packed]:
        """Of x, the files whose stored numbers train as something that they are not."""
        return [each for each in self.dataset.packed.get(self.field, ()) if each.packing.misleads]

    @property
    def chunks(self) -> EncodedChunks | None:
        """Of x, where chunks are read and put together, decoded or not, by mmapstore itself."""
        return self.stored.encoded if isinstance(self.stored, HasChunks) and isinstance(self.reader, Decodes) else None

    @property
    def chunk(self) -> tuple[int, ...] | None:
        """Shape of the pieces that are read, or decoded, as a whole; None where there are none."""
        if self.chunks is not None:
            return self.chunks.grid.chunk
        return None if self.stored.chunks is None else tuple(self.stored.chunks)

    @property
    def is_compressed(self) -> bool:
        return self.chunks is not None and len(self.chunks.chain) > 0

    @property
    def is_by_library(self) -> bool:
        """Read through the format's own library, for want of a faster way."""
        return "by its library" in self.reader.place

    @cached_property
    def stored_nbytes(self) -> int:
        """On disk."""
        return self.place.nbytes()

    @cached_property
    def decodes(self) -> float:
        """How often a shuffled epoch of next-frame pairs decodes each chunk; 1 where nothing is decoded, or it cannot be told."""
        return decodes_per_chunk(self.reader, Episodes.of(self.dataset.episodes)) or 1.0

    @property
    def floatx(self) -> np.dtype[Any]:
        return np.dtype(self.frameworks.floatx)

    @property
    def is_cast(self) -> bool:
        """A float of another size than Keras trains in."""
        return self.spec.dtype.kind == "f" and self.spec.dtype != self.floatx

    @property
    def exceeds_memory(self) -> bool:
        """The page cache cannot keep what is stored from one epoch to the next."""
        return self.stored_nbytes > self.available

    def batches(self, shuffle: bool | int = True, batch: int | None = None, max_memory: int | None = None) -> Batches:
        """As one would train on it: in the dtype that Keras trains in."""
        target: Any = NextFrame() if self.target == NEXT else None if self.target == NONE else self.target
        dtype = {self.field: self.floatx} if self.is_cast else None
        return self.dataset.batches(
            batch or self.batch, target, inputs=self.field, shuffle=shuffle, dtype=dtype, max_memory=max_memory
        )

    @cached_property
    def usual(self) -> Batches:
        """Shuffled the usual way."""
        return self.batches()

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return len(self.usual)

    @property
    def delivered_nbytes(self) -> int:
        """Of x and y of an epoch, as the model gets them."""
        itemsize = self.floatx.itemsize if self.is_cast else self.spec.dtype.itemsize
        x = math.prod(self.spec.sample_shape) * itemsize
        y = x if self.target == NEXT else 0 if self.target == NONE else self.dataset.readers[self.target].spec.sample_nbytes
        return self.usual.samples * (x + y)


def least_step(case: Case) -> float:
    """Seconds that no training step on such batches is likely to stay under."""
    return max(_LEAST_STEP, case.delivered_nbytes / case.steps / _STEP_SPEED)


def case_of(
    path: str,
    frameworks: Frameworks,
    *,
    key: str | None = None,
    layout: str | None = None,
    batch: int = 32,
    target: str | None = None,
    max_memory: int | None = None,
) -> Case:
    """Open what is to be judged, reading headers alone. Raises what `mmapstore.open` raises."""
    name, is_largest = require_inside(path, key), False
    try:
        dataset = open_quietly(name, layout=layout)
    except KeyNotFoundError:
        largest = largest_inside(name)
        if largest is None:
            raise
        is_largest, name = True, largest
        dataset = open_quietly(name, layout=layout)
    places = places_of(name, list(dataset.readers))
    x = next(iter(dataset.readers))
    stored = places[x].stored()
    if dataset.readers[x].spec.dtype.kind == "S":
        raise InvalidTypeError(f"{name} holds bytes, and models train on numbers; expected bool, integers or floats.")
    case = Case(
        path=path,
        name=name,
        dataset=dataset,
        field=x,
        places=places,
        stored=stored,
        layout=StoredLayout.of(layout or places[x].layout, tuple(stored.shape), stored.name),
        target=_target_of(dataset, target),
        batch=batch,
        given_layout=layout,
        max_memory=max_memory,
        frameworks=frameworks,
        available=memory_available(),
        is_largest=is_largest,
    )
    _ = case.usual  # refuses a batch, or a target, that does not fit the data
    return case


def _target_of(dataset: Dataset, target: str | None) -> str:
    """As asked; else the second field of numbers, where there is one, or the next frame, if samples follow each other."""
    names = list(dataset.readers)
    if target is None:
        others = [name for name in names[1:] if dataset.readers[name].spec.dtype.kind != "S"]
        return others[0] if others else NEXT if len(dataset) > 1 and not dataset.mixed else NONE
    if target not in (NEXT, NONE, *names):
        fields = f", or a field ({', '.join(names)})" if len(names) > 1 else ""
        raise InvalidValueError(f"--target {target} is not understood; expected next, none{fields}.")
    return target
