"""What a conversion does, decided before it begins: which axes, which values, which chunks, in pieces of how many bytes."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...codecs.encoding import FilterEncoder
from ...files.worker_threads import usable_cpus
from ...formats.contract import NewArray
from ...plain.array_spec import LETTERS
from ...plain.chunk_grid import Box
from ...plain.errors import InvalidTypeError, InvalidValueError, MemoryBudgetError
from ...plain.memory_budget import MemoryPlan, format_bytes
from ..ingest.target import Target
from .attributes import held_by
from .casts import SCRATCH_NBYTES, Cast, Casting, checked_target
from .origin import Origin, encoded_of
from .packed import Packing
from .slabs import PREFERRED_NBYTES, Slabs, decodes, planned

CHUNK_NBYTES = 512 << 10
BUFFERS = 3  # slabs on the way: one is read, one digested and written, one waits between
_SMALL_THINGS = 6 << 20  # manifest, journal, Python objects, and what malloc rounds up
# What the format's library holds while it writes and reads back, in slabs and in bytes.
_LIBRARY = {"npy_file": (1, 0), "hdf5_file": (2, 10_000_000), "zarr_store": (4, 6_000_000)}
_SAME_CODEC = {"zlib": "gzip", "hdf5-lz4": "lz4", "numcodecs-lz4": "lz4", "hdf5-bitshuffle": "bitshuffle"}
_KNOWN = {
    "hdf5_file": ("gzip", "lzf", "zstd", "blosc", "blosc2", "bitshuffle", "bzip2", "lz4"),
    "zarr_store": ("zstd", "gzip", "blosc", "lz4"),
}
_ALWAYS = ("gzip", "lzf")
_INSTEAD = {"hdf5_file": "gzip", "zarr_store": "zstd"}


@dataclass(frozen=True)
class Plan:
    """One array to convert.

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

    @property
    def is_as_it_comes(self) -> bool:
        """True if what is read is what is written."""
        return self.packing is None and self.cast.is_copy and self.axes == tuple(range(len(self.axes)))

    @property
    def source_dtype(self) -> np.dtype[Any]:
        """Of what is read, in native byte order."""
        return self.origin.dtype.newbyteorder("=")

    @property
    def nbytes(self) -> int:
        """Of all values as written, uncompressed."""
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
        """How many chunks the target has; 0 where it has none."""
        chunks = self.new.chunks
        return 0 if chunks is None else math.prod(-(-n // each) for n, each in zip(self.new.shape, chunks, strict=True))

    def source_box(self, box: Box) -> Box:
        """The region of the source that becomes `box` of the target."""
        found = list(box)
        for part, axis in zip(box, self.axes, strict=True):
            found[axis] = slice(part.start + self.first[axis], part.stop + self.first[axis])
        return tuple(found)

    def memory(self) -> MemoryPlan:
        """Predicted peak of private memory."""
        values, chunk = self.slabs.most_values, math.prod(self.new.chunks or (0,)) * self.new.dtype.itemsize
        slab = values * self.new.dtype.itemsize
        slabs, fixed = _LIBRARY[self.target.format]
        encoding = (
            usable_cpus() * FilterEncoder.scratch_nbytes(chunk) + (8 << 20) if chunk and self.target.format == "hdf5_file" else 0
        )
        parts = {
            "pieces on the way": BUFFERS * slab,
            "piece as it is stored": 0 if self.is_as_it_comes else values * self.source_dtype.itemsize,
            "unpacked piece": values * self.packing.dtype.itemsize if self.packing and not self.cast.is_copy else 0,
            "conversion": 0 if self.is_as_it_comes else usable_cpus() * SCRATCH_NBYTES,
            "reading": self.origin.scratch_nbytes,
            "writing and reading back": slabs * max(slab, chunk) + fixed + encoding,
            "chunk as it is stored": chunk + chunk // 8 + (64 << 10) if self.copies_chunks else 0,
            "bookkeeping": _SMALL_THINGS + 120 * len(self.slabs),
        }
        return MemoryPlan({name: nbytes for name, nbytes in parts.items() if nbytes})


@dataclass(frozen=True)
class Wishes:
    """What was asked for, as `convert` takes it."""

    layout: str | None
    dtype: Any
    casting: Casting
    samples: Any
    compression: str | None
    chunks: Sequence[int] | None
    chunk_samples: int | None
    unpack: bool


def plan_of(origin: Origin, target: Target, wishes: Wishes, max_memory: int) -> Plan:
    """Raises InvalidValueError and InvalidTypeError for wishes that cannot be meant, MemoryBudgetError if nothing fits."""
    _require_values(origin)
    axes, layout = _axes(origin, wishes.layout)
    first, shape = _region(origin, wishes.samples)
    packing = Packing.of(origin.attributes, origin.dtype) if wishes.unpack else None
    comes = packing.dtype if packing else origin.dtype.newbyteorder("=")
    cast = Cast(comes, checked_target(comes, wishes.dtype) if wishes.dtype is not None else comes, wishes.casting)
    new_shape = tuple(shape[axis] for axis in axes)
    source_chunks = tuple(origin.chunks[axis] for axis in axes) if origin.chunks else None
    copies = _copies_chunks(origin, target, wishes, axes, cast, packing, first, shape)
    chunks, compression = _chunks_and_codec(origin, target, wishes, new_shape, layout, cast.target, source_chunks, copies)
    new = NewArray(
        new_shape,
        cast.target,
        compression,
        attributes={**held_by(target.format, origin.attributes, packing is not None), **({"layout": layout} if layout else {})},
        chunks=chunks,
        like=origin.stored if copies else None,
    )

    def with_slabs(slabs: Slabs) -> Plan:
        return Plan(origin, target, axes, first, shape, layout, cast, packing, new, copies, slabs)

    most = _most_nbytes(with_slabs(Slabs(new_shape, len(new_shape) - 1, 1)), max_memory)
    starts = tuple(first[axis] for axis in axes)
    # Where axes change places, plain bytes are collected in runs that are the longer, the more of them are wanted at once.
    scattered = source_chunks is None and axes[-1] != len(axes) - 1
    preferred = most if scattered else PREFERRED_NBYTES
    slabs = planned(new_shape, cast.target.itemsize, most, chunks, source_chunks, starts, preferred) if most > 0 else None
    if slabs is None:
        least = _least_slab(new_shape, chunks)
        with_slabs(least).memory().require(max_memory, f"Converting {origin.name}", _remedy(chunks))
        raise MemoryBudgetError(
            f"Converting {origin.name} takes pieces of {format_bytes(least.most_values * cast.target.itemsize)}, and "
            f"max_memory={format_bytes(max_memory)} leaves {format_bytes(max(most, 0))} for each. {_remedy(chunks)}"
        )
    plan = with_slabs(slabs)
    plan.memory().require(max_memory, f"Converting {origin.name}", _remedy(chunks))
    return plan


def _remedy(chunks: tuple[int, ...] | None) -> str:
    smaller = ", or choose smaller chunks for the target (chunk_samples=, chunks=)" if chunks else ""
    return f"Give a larger max_memory={smaller}."


def _least_slab(shape: tuple[int, ...], chunks: tuple[int, ...] | None) -> Slabs:
    for axis, each in enumerate(chunks or ()):
        if each > 1:
            return Slabs(shape, axis, each)
    return Slabs(shape, len(shape) - 1, 1)


def _most_nbytes(plan: Plan, max_memory: int) -> int:
    """Bytes that a slab may have, from what is predicted for slabs of one value and for the rest."""
    little = plan.memory().total
    each = sum(
        {
            "on the way": BUFFERS * plan.new.dtype.itemsize,
            "stored": 0 if plan.is_as_it_comes else plan.source_dtype.itemsize,
            "unpacked": plan.packing.dtype.itemsize if plan.packing and not plan.cast.is_copy else 0,
            "library": _LIBRARY[plan.target.format][0] * plan.new.dtype.itemsize,
        }.values()
    )
    # The record of slabs grows where they are small: what it takes for pieces of one value says nothing.
    fixed = little - 120 * len(plan.slabs) + min(120 * len(plan.slabs), max_memory // 16)
    return (max_memory - fixed) // each * plan.new.dtype.itemsize


def _require_values(origin: Origin) -> None:
    if not origin.shape or 0 in origin.shape:
        what = "is a scalar" if not origin.shape else f"has shape {origin.shape}, and holds no values"
        raise InvalidValueError(
            f"{origin.name} {what}: there is no array to convert. Convert the file it is in, with all=True (--all), to keep it."
        )


def _axes(origin: Origin, layout: str | None) -> tuple[tuple[int, ...], str]:
    """Which axis of the source each axis of the target is, and its layout."""
    kept = tuple(range(len(origin.shape)))
    if layout is None:
        return kept, origin.layout
    if not isinstance(layout, str):
        raise InvalidTypeError(f"layout={layout!r} is not text; expected one letter per axis, such as 'NCHW', or None.")
    wanted = layout.upper()
    if set(wanted) - set(LETTERS) or len(set(wanted)) != len(wanted) or not set(wanted) & {"N", "T"}:
        raise InvalidValueError(
            f"layout={layout!r} is not understood; expected each letter of {LETTERS} at most once, with N or T among them."
        )
    if not origin.layout:
        raise InvalidValueError(
            f"{origin.name} has {len(origin.shape)} axes without letters; name them with source_layout=, or leave layout= out."
        )
    missing = [letter for letter in origin.layout if letter not in wanted]
    if missing == ["T"] and "N" in origin.layout:
        raise InvalidValueError(
            f"layout={layout!r} would write the samples of all episodes of {origin.layout} one after the other. ingest does that: "
            f"mmapstore.ingest({origin.name!r}, ..., source_layout={origin.layout!r}, layout={layout!r})."
        )
    if missing:
        raise InvalidValueError(
            f"layout={layout!r} does not say where {', '.join(missing)} of the source's {origin.layout} go; name every axis."
        )
    letters = "".join(letter for letter in wanted if letter in origin.layout)
    return tuple(origin.layout.index(letter) for letter in letters), letters


def _region(origin: Origin, samples: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The corner and the shape of what is converted."""
    corner, shape = [0] * len(origin.shape), list(origin.shape)
    if samples is None:
        return tuple(corner), tuple(shape)
    axis = origin.layout.index("T" if "T" in origin.layout else "N") if origin.layout else 0
    if "T" in origin.layout and "N" in origin.layout and origin.shape[origin.layout.index("N")] > 1:
        raise InvalidValueError(
            f"samples={samples!r} cannot be taken out of {origin.layout} {origin.shape}, which has an axis of episodes. "
            f"Ingest it: mmapstore.ingest(mmapstore.open({origin.name!r})[start:stop], ...)."
        )
    length = shape[axis]
    if isinstance(samples, slice):
        if samples.step not in (None, 1):
            raise InvalidValueError(f"samples={samples!r} has a step; expected consecutive samples.")
        start, stop = samples.start, samples.stop
    elif isinstance(samples, (tuple, list)) and len(samples) == 2:
        start, stop = samples
    else:
        raise InvalidTypeError(f"samples={samples!r} is not a range; expected (start, stop) or a slice.")
    ends = []
    for value, default in ((start, 0), (stop, length)):
        if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__")):
            raise InvalidTypeError(f"samples={samples!r} is not a range of whole numbers; expected (start, stop) or a slice.")
        ends.append(default if value is None else int(value) + (length if value < 0 else 0))
    if not 0 <= ends[0] < ends[1] <= length:
        raise InvalidValueError(f"samples={samples!r} is not a range in the {length} samples of {origin.name}.")
    corner[axis], shape[axis] = ends[0], ends[1] - ends[0]
    return tuple(corner), tuple(shape)


def _copies_chunks(
    origin: Origin,
    target: Target,
    wishes: Wishes,
    axes: tuple[int, ...],
    cast: Cast,
    packing: Packing | None,
    first: tuple[int, ...],
    shape: tuple[int, ...],
) -> bool:
    """True where the chunks of the source can be those of the target as they are."""
    takes = getattr(target.module, "takes_chunks_of", None)
    if takes is None or origin.stored is None or origin.chunks is None or wishes.compression is not None:
        return False
    changed = packing is not None or not cast.is_copy or axes != tuple(range(len(axes))) or not origin.dtype.isnative
    wanted = wishes.chunks is None or tuple(wishes.chunks) == origin.chunks
    # A chunk that the end of the source cuts is full-size there too.
    aligned = all(
        at % each == 0 and (length % each == 0 or at + length == whole)
        for at, length, each, whole in zip(first, shape, origin.chunks, origin.shape, strict=True)
    )
    return bool(not changed and wanted and wishes.chunk_samples is None and aligned and takes(origin.stored))


def _chunks_and_codec(
    origin: Origin,
    target: Target,
    wishes: Wishes,
    shape: tuple[int, ...],
    layout: str,
    dtype: np.dtype[Any],
    source_chunks: tuple[int, ...] | None,
    copies: bool,
) -> tuple[tuple[int, ...] | None, str | None]:
    """The chunks and the compression of the target; None for neither."""
    given = [name for name in ("compression", "chunks", "chunk_samples") if getattr(wishes, name) not in (None, "none")]
    if target.format == "npy_file":
        if given:
            raise InvalidValueError(
                f"{given[0]}={getattr(wishes, given[0])!r} has no place in .npy, which is plain bytes ({target.path}). "
                "Leave it out, or write .h5 or .zarr."
            )
        return None, None
    if wishes.chunks is not None and wishes.chunk_samples is not None:
        raise InvalidValueError("chunks= and chunk_samples= were both given; expected one of them.")
    if copies:
        assert source_chunks is not None
        return tuple(min(each, length) for each, length in zip(source_chunks, shape, strict=True)), None
    compression = wishes.compression if wishes.compression != "none" else None
    if wishes.compression is None:
        compression = _kept_codec(origin, target.format)
    whole = [1 if letter in "NT" else length for letter, length in zip(layout or "N" + "?" * (len(shape) - 1), shape, strict=True)]
    axis = layout.index("T" if "T" in layout else "N") if layout else 0
    if wishes.chunks is not None:
        chunks = _checked_chunks(wishes.chunks, shape)
    elif wishes.chunk_samples is not None:
        whole[axis] = _positive("chunk_samples", wishes.chunk_samples)
        chunks = tuple(whole)
    elif compression is None and target.format == "hdf5_file":
        return None, None  # contiguous: it maps
    elif source_chunks is not None:
        chunks = source_chunks
    else:
        whole[axis] = max(1, CHUNK_NBYTES // max(1, math.prod(whole) * dtype.itemsize))
        chunks = tuple(whole)
    return tuple(min(each, length) for each, length in zip(chunks, shape, strict=True)), compression


def _kept_codec(origin: Origin, format: str) -> str | None:
    """The compression of the source, or the one that stands for it in the target's format; None where there was none."""
    encoded = encoded_of(origin.stored)
    if origin.chunks is None or (encoded is None and "uncompressed" in origin.storage):
        return None
    names = [_SAME_CODEC.get(codec.name, codec.name) for codec in encoded.chain] if encoded is not None else ["?"]
    names = [name for name in names if name not in ("shuffle", "numcodecs-shuffle", "fletcher32", "crc32c", "crc32", "adler32")]
    if not names:
        return None
    found = next((name for name in names if name in _KNOWN[format]), None)
    needs_plugin = format == "hdf5_file" and found not in _ALWAYS and importlib.util.find_spec("hdf5plugin") is None
    return _INSTEAD[format] if found is None or needs_plugin else found


def _checked_chunks(chunks: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    if not isinstance(chunks, (tuple, list)) or len(chunks) != len(shape):
        raise InvalidValueError(f"chunks={chunks!r} does not fit {shape}; expected one length for each axis.")
    return tuple(_positive("chunks", each) for each in chunks)


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(f"{name}={value!r} is not a whole number.")
    if value < 1:
        raise InvalidValueError(f"{name}={value} is less than 1.")
    return value


def call_of(plan: Plan, source: dict[str, Any]) -> dict[str, Any]:
    """What a resumed call has to have in common with the one that was interrupted, as plain JSON."""
    return {
        "convert": source,
        "target": plan.target.opened_as,
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
