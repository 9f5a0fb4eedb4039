"""A request, and its meaning for one array: axes, region, chunks and codecs of the target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...plain.array_spec import LETTERS
from ...plain.cf_packing import Packing
from ...plain.chunk_grid import usual_chunk_samples
from ...plain.errors import InvalidTypeError, InvalidValueError
from ...plain.windows import whole_number
from ..flow.casts import Cast, Casting
from ..flow.target import Target
from .origin import Origin, encoded_of

_SAME_CODEC = {"zlib": "gzip", "hdf5-lz4": "lz4", "numcodecs-lz4": "lz4", "hdf5-bitshuffle": "bitshuffle"}


@dataclass(frozen=True)
class Request:
    """The options of `convert`."""

    layout: str | None
    dtype: Any
    casting: Casting
    samples: Any
    compression: str | None
    chunks: Sequence[int] | None
    chunk_samples: int | None
    unpack: bool


def require_values(origin: Origin) -> None:
    if not origin.shape or 0 in origin.shape:
        what = "is a scalar" if not origin.shape else f"has shape {origin.shape}, and holds no values"
        raise InvalidValueError(
            f"{origin.name} {what}: there is no array to convert. Convert the file it is in, with all=True (--all), to keep it."
        )


def axes_of(origin: Origin, layout: str | None) -> tuple[tuple[int, ...], str]:
    """Return the axis of the source that each axis of the target is, and the layout of the target."""
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


def region_of(origin: Origin, samples: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
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


def copies_chunks(
    origin: Origin,
    target: Target,
    request: Request,
    axes: tuple[int, ...],
    cast: Cast,
    packing: Packing | None,
    first: tuple[int, ...],
    shape: tuple[int, ...],
) -> bool:
    """True where the chunks of the source can be those of the target as they are."""
    takes = target.writing.takes_chunks_of
    if takes is None or origin.stored is None or origin.chunks is None or request.compression is not None:
        return False
    changed = packing is not None or not cast.is_copy or axes != tuple(range(len(axes))) or not origin.dtype.isnative
    wanted = request.chunks is None or tuple(request.chunks) == origin.chunks
    # A chunk that the end of the source cuts is full-size there too.
    aligned = all(
        at % each == 0 and (length % each == 0 or at + length == whole)
        for at, length, each, whole in zip(first, shape, origin.chunks, origin.shape, strict=True)
    )
    return bool(not changed and wanted and request.chunk_samples is None and aligned and takes(origin.stored))


def chunks_and_codec(
    origin: Origin,
    target: Target,
    request: Request,
    shape: tuple[int, ...],
    layout: str,
    dtype: np.dtype[Any],
    source_chunks: tuple[int, ...] | None,
    copies: bool,
) -> tuple[tuple[int, ...] | None, str | None]:
    """The chunks and the compression of the target; None for neither."""
    given = [name for name in ("compression", "chunks", "chunk_samples") if getattr(request, name) not in (None, "none")]
    if not target.writing.compressions:
        if given:
            raise InvalidValueError(
                f"{given[0]}={getattr(request, given[0])!r} has no place in .npy, which is plain bytes ({target.path}). "
                "Leave it out, or write .h5 or .zarr."
            )
        return None, None
    if request.chunks is not None and request.chunk_samples is not None:
        raise InvalidValueError("chunks= and chunk_samples= were both given; expected one of them.")
    if copies:
        assert source_chunks is not None
        return tuple(min(each, length) for each, length in zip(source_chunks, shape, strict=True)), None
    compression = request.compression if request.compression != "none" else None
    if request.compression is None:
        compression = _kept_codec(origin, target.writing.compressions)
    whole = [1 if letter in "NT" else length for letter, length in zip(layout or "N" + "?" * (len(shape) - 1), shape, strict=True)]
    axis = layout.index("T" if "T" in layout else "N") if layout else 0
    if request.chunks is not None:
        chunks = _checked_chunks(request.chunks, shape)
    elif request.chunk_samples is not None:
        whole[axis] = whole_number("chunk_samples", request.chunk_samples, least=1)
        chunks = tuple(whole)
    elif compression is None and target.writing.maps_uncompressed:
        return None, None
    elif source_chunks is not None:
        chunks = source_chunks
    else:
        whole[axis] = usual_chunk_samples(math.prod(whole) * dtype.itemsize)
        chunks = tuple(whole)
    return tuple(min(each, length) for each, length in zip(chunks, shape, strict=True)), compression


def _kept_codec(origin: Origin, known: Sequence[str]) -> str | None:
    """Return the compression of the source, or the usual one of those `known` in its place; None where there was none."""
    encoded = encoded_of(origin.stored)
    if origin.chunks is None or (encoded is None and "uncompressed" in origin.storage):
        return None
    names = [_SAME_CODEC.get(codec.name, codec.name) for codec in encoded.chain] if encoded is not None else ["?"]
    names = [name for name in names if name not in ("shuffle", "numcodecs-shuffle", "fletcher32", "crc32c", "crc32", "adler32")]
    if not names:
        return None
    return next((name for name in names if name in known), known[0])


def _checked_chunks(chunks: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    if not isinstance(chunks, (tuple, list)) or len(chunks) != len(shape):
        raise InvalidValueError(f"chunks={chunks!r} does not fit {shape}; expected one length for each axis.")
    return tuple(whole_number("chunks", each, least=1) for each in chunks)
