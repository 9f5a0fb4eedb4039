"""The plan of a conversion, made before it begins: axes, values, chunks, and the size of the pieces."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...files.worker_threads import usable_cpus
from ...formats.contract import NewArray
from ...plain.c_order import Slabs
from ...plain.cf_packing import Packing
from ...plain.chunk_grid import Box
from ...plain.memory_budget import MemoryPlan, format_bytes
from ..flow.casts import SCRATCH_NBYTES, Cast, checked_target
from ..flow.copying import VERIFIED
from ..flow.slabs import PREFERRED_NBYTES, decodes, planned
from ..flow.target import Target
from .dropped_metadata import held_by
from .origin import Origin, packing_of
from .request import Request, axes_of, chunks_and_codec, copies_chunks, region_of, require_values

BUFFERS = 3  # slabs on the way: one is read, one digested and written, one waits between
_LEAST_NBYTES = 1 << 20  # of a slab: smaller ones save nothing beside fixed buffers
_SMALL_THINGS = 4 << 20  # manifest, journal, Python objects, and what malloc rounds up


@dataclass(frozen=True)
class Plan:
    """A conversion of one array.

    Attributes
    ----------
    axes : axis i of the target is axis `axes[i]` of the source
    first, shape : the region of the source that is converted, in stored order of its axes
    layout : of the target; "" where axes have no letters
    cast, packing : how values change; `packing` is None where stored integers are kept
    new : the array to create
    copies_chunks : chunks are written as they are, encoded; they are decoded for their digest all the same
    slabs : of the target
    """

    origin: Origin
    target: Target
    axes: tuple[int, ...]
    first: tuple[int, ...]
    shape: tuple[int, ...]
    layout: str
    cast: Cast
    packing: Packing | None
    new: NewArray
    copies_chunks: bool
    slabs: Slabs

    def in_slabs(self, axis: int, step: int) -> Plan:
        """Return the plan in the slabs of an earlier call, whose checksums are of them, whatever fits now."""
        return replace(self, slabs=Slabs(self.slabs.shape, axis, step))

    @property
    def is_as_it_comes(self) -> bool:
        """True if what is read is what is written."""
        return self.packing is None and self.cast.is_copy and self.axes == tuple(range(len(self.axes)))

    @property
    def source_dtype(self) -> np.dtype[Any]:
        """The dtype of the values that are read, in native byte order."""
        return self.origin.dtype.newbyteorder("=")

    @property
    def nbytes(self) -> int:
        """Bytes of all values as written, uncompressed."""
        return math.prod(self.new.shape) * self.new.dtype.itemsize

    @property
    def samples(self) -> int:
        return math.prod(self.new.shape[axis] for axis in self._sample_axes)

    @property
    def sample_values(self) -> int:
        return math.prod(self.new.shape) // self.samples

    @property
    def _sample_axes(self) -> list[int]:
        return [axis for axis, letter in enumerate(self.layout) if letter in "NT"] or [0]

    @property
    def is_in_sample_order(self) -> bool:
        """True if samples follow each other in C order, so that blocks of them can have checksums."""
        order = [letter for axis, letter in enumerate(self.layout) if letter in "NT" and self.new.shape[axis] > 1]
        leading = self._sample_axes == list(range(len(self._sample_axes)))
        return leading and order in ([], ["N"], ["T"], ["N", "T"])

    @property
    def decodes(self) -> tuple[int, int]:
        """(decodings of chunks of the source, chunks of it that are needed)."""
        if self.origin.chunks is None:
            return 0, 0
        chunks, first = (tuple(found[axis] for axis in self.axes) for found in (self.origin.chunks, self.first))
        return decodes(self.slabs, chunks, first)

    @property
    def target_chunks(self) -> int:
        """Number of chunks of the target; 0 where it has none."""
        chunks = self.new.chunks
        return 0 if chunks is None else math.prod(-(-n // each) for n, each in zip(self.new.shape, chunks, strict=True))

    def source_box(self, box: Box) -> Box:
        """The region of the source that becomes `box` of the target."""
        found = list(box)
        for part, axis in zip(box, self.axes, strict=True):
            found[axis] = slice(part.start + self.first[axis], part.stop + self.first[axis])
        return tuple(found)

    @property
    def _chunks_at_once(self) -> int:
        """The most chunks of the source that one slab has values of."""
        if self.origin.chunks is None:
            return 1
        found, slabs = 1, self.slabs
        for axis, (length, place) in enumerate(zip(slabs.shape, self.axes, strict=True)):
            each, first = self.origin.chunks[place], self.first[place]
            if axis < slabs.axis:
                continue
            step = slabs.step if axis == slabs.axis else length
            cut = 0 if step % each == first % each == 0 else 1 + (step % each != 1 and axis == slabs.axis)
            found *= min(step // each + cut, (first + length - 1) // each - first // each + 1) or 1
        return found

    def memory(self) -> MemoryPlan:
        """Predicted peak of private memory: while slabs are copied, or while they are read back after that."""
        values, writing = self.slabs.most_values, self.target.writing
        slab, chunk = values * self.new.dtype.itemsize, self.new.chunk_nbytes
        decoding = chunk * 9 // 2 + _LEAST_NBYTES if self.new.compression or self.copies_chunks else _LEAST_NBYTES
        copying = {
            "pieces on the way": min(BUFFERS * slab, self.nbytes),
            "piece as it is stored": 0 if self.is_as_it_comes else values * self.source_dtype.itemsize,
            "unpacked piece": values * self.packing.dtype.itemsize if self.packing and not self.cast.is_copy else 0,
            "conversion": 0 if self.is_as_it_comes else usable_cpus() * SCRATCH_NBYTES,
            "reading": self.origin.scratch_nbytes(self._chunks_at_once),
            "writing": writing.writing_nbytes(self.new, slab),
            "reading back": slab if writing.flushes_beside else 0,
            "chunk as it is stored": chunk + chunk // 8 + (64 << 10) if self.copies_chunks else 0,
        }
        after = {"pieces read back": min(VERIFIED * slab, self.nbytes), "reading back": decoding}
        parts = max(copying, copying if writing.flushes_beside else after, key=lambda found: sum(found.values()))
        parts["bookkeeping"] = _SMALL_THINGS + 120 * len(self.slabs)
        return MemoryPlan({name: nbytes for name, nbytes in parts.items() if nbytes})


def plan_of(origin: Origin, target: Target, request: Request, max_memory: int) -> Plan:
    """Raises InvalidValueError and InvalidTypeError for request that cannot be meant, MemoryBudgetError if nothing fits."""
    require_values(origin)
    axes, layout = axes_of(origin, request.layout)
    first, shape = region_of(origin, request.samples)
    packing = packing_of(origin) if request.unpack else None
    comes = packing.dtype if packing else origin.dtype.newbyteorder("=")
    cast = Cast(comes, checked_target(comes, request.dtype) if request.dtype is not None else comes, request.casting)
    new_shape = tuple(shape[axis] for axis in axes)
    source_chunks = tuple(origin.chunks[axis] for axis in axes) if origin.chunks else None
    starts = tuple(first[axis] for axis in axes)

    def fitted(keeps_chunks: bool) -> Plan:
        """Return the plan with or without the chunks of the source, in the largest pieces that fit, else in the smallest."""
        copies = keeps_chunks and copies_chunks(origin, target, request, axes, cast, packing, first, shape)
        kept = source_chunks if keeps_chunks else None
        chunks, compression = chunks_and_codec(origin, target, request, new_shape, layout, cast.target, kept, copies)
        attributes = {**held_by(target.writing, origin.attributes, packing is not None), **({"layout": layout} if layout else {})}
        like = origin.stored if copies else None
        new = NewArray(new_shape, cast.target, compression, attributes=attributes, chunks=chunks, like=like)
        plan = Plan(origin, target, axes, first, shape, layout, cast, packing, new, copies, Slabs(new_shape, len(new_shape) - 1, 1))
        # Where axes change places, plain bytes are collected in runs that are the longer, the more of them are wanted at once.
        scattered = source_chunks is None and axes[-1] != len(axes) - 1
        most = max_memory
        while most > 0:
            slabs = planned(
                new_shape, cast.target.itemsize, most, chunks, source_chunks, starts, most if scattered else PREFERRED_NBYTES
            )
            if slabs is None:
                break
            plan = replace(plan, slabs=slabs)
            if plan.memory().total <= max_memory:
                return plan
            most = min(most * 7 // 8, slabs.most_values * cast.target.itemsize)
        return replace(plan, slabs=_least_slab(new_shape, cast.target.itemsize, chunks))

    def choices() -> Iterator[Plan]:
        for nbytes in (max_memory // 2, 0):  # in fewer threads where the chunks of the source are large
            origin.fit(nbytes)
            for keeps_chunks in (True, False):  # not those of thousands of samples each, nor those a row of which is too large
                yield (plan := fitted(keeps_chunks))
                if plan.new.chunks != source_chunks or request.chunks is not None:
                    break

    found = []
    for plan in choices():
        found.append(plan)
        if plan.memory().total <= max_memory:
            break
    plan = min(found, key=lambda plan: plan.memory().total)
    needed, smaller = (
        plan.memory(),
        ", or choose smaller chunks for the target (chunk_samples=, chunks=)" if plan.new.chunks else "",
    )
    remedy = f"Give max_memory={format_bytes(needed.total * 1.01)!r} or more{smaller}."
    needed.require(max_memory, f"Converting {origin.name}", remedy)
    return plan


def _least_slab(shape: tuple[int, ...], itemsize: int, chunks: tuple[int, ...] | None) -> Slabs:
    for axis, each in enumerate(chunks or ()):
        if each > 1:
            return Slabs(shape, axis, each)
    return planned(shape, itemsize, _LEAST_NBYTES) or Slabs(shape, len(shape) - 1, 1)


def call_of(plan: Plan, source: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a call that a resumed call has to share with the interrupted one, as plain JSON."""
    return {
        "convert": source,
        "target": plan.target.key,
        "axes": list(plan.axes),
        "region": [list(plan.first), list(plan.shape)],
        "dtype": plan.new.dtype.str,
        "casting": plan.cast.casting if not plan.cast.is_copy else "",
        "packing": str(plan.packing or ""),
        "compression": plan.new.compression,
        "chunks": list(plan.new.chunks) if plan.new.chunks else None,
        "copies chunks": plan.copies_chunks,
        "slabs": [plan.slabs.axis, plan.slabs.step],
        "layout": plan.layout,
        "file": os.path.basename(plan.target.path),
    }
