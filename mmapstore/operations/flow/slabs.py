"""The pieces of an array that are read, written and checked one after the other: arithmetic, no I/O.

A slab is a run of values in C order: single places along the first axes, a stretch along one axis, all of the axes behind it. Slabs
in order give every value once and in C order, so that digests need no second pass. They begin and end where chunks of the target
do, and where chunks of the source do as far as memory allows: a chunk that two slabs share is decoded for each of them.
"""

from __future__ import annotations

import math

from ...plain.c_order import Slabs

PREFERRED_NBYTES = 8 << 20  # large enough that calls cost nothing, small enough to stay in cache from reading to writing
_CHUNKS = 4  # decoded at once, so that no thread waits long for another
_BORDERS = 8  # chunks in a slab where its ends cut chunks in two: so many that these cost little


def planned(
    shape: tuple[int, ...],
    itemsize: int,
    most_nbytes: int,
    target: tuple[int, ...] | None = None,
    source: tuple[int, ...] | None = None,
    first: tuple[int, ...] | None = None,
    preferred_nbytes: int = PREFERRED_NBYTES,
) -> Slabs | None:
    """The slabs of at most `most_nbytes` that cut no chunk of the target, and decode chunks of the source the fewest times.

    `target`, `source` are shapes of chunks, in the order of the axes of `shape`; None where nothing is chunked. `first` is where
    the array begins in that of the source, whose chunks are counted from its own corner. None if one row of chunks is too large.

    >>> planned((1000, 64, 64), 4, 8 << 20, source=(100, 64, 64))       # 100 rows are 1.6 MB: 5 chunks
    Slabs(shape=(1000, 64, 64), axis=0, step=500)
    >>> planned((1000, 64, 64), 4, 2 << 20, source=(1000, 8, 8))        # nothing lasts: as many rows as fit
    Slabs(shape=(1000, 64, 64), axis=0, step=128)
    """
    if not shape or 0 in shape:
        return Slabs(shape, 0, 1)
    target = target or (1,) * len(shape)
    source = source or (1,) * len(shape)
    first = first or (0,) * len(shape)
    for axis, length in enumerate(shape):
        each = min(target[axis], length)
        row = math.prod(shape[axis + 1 :]) * itemsize
        if each * row <= most_nbytes:
            return Slabs(
                shape, axis, _step(length, row, each, source[axis], first[axis] % source[axis], most_nbytes, preferred_nbytes)
            )
        if each != 1:
            return None  # the places of a chunk lie apart in C order, and are needed all at once
    return None


def _step(length: int, row: int, each: int, decoded: int, offset: int, most_nbytes: int, preferred_nbytes: int) -> int:
    """Places along the axis: a multiple of `each`, and of the `decoded` together where that fits."""
    most = min(most_nbytes // row // each * each, -(-length // each) * each)
    preferred = min(most, max(each, preferred_nbytes // row // each * each))
    together = math.lcm(each, decoded)
    if decoded == 1:
        return preferred
    if not offset and together <= most:
        return together * max(1, preferred // together, min(_CHUNKS, most // together))
    # Chunks are cut at both ends of a slab: the more of them in it, the smaller the part that is decoded twice.
    return min(most, max(preferred, _BORDERS * decoded // each * each))


def decodes(slabs: Slabs, source: tuple[int, ...], first: tuple[int, ...] | None = None) -> tuple[int, int]:
    """(how many times a chunk of the source is decoded, over all slabs; how many chunks hold the array).

    >>> decodes(Slabs((1000, 64, 64), 0, 128), (1000, 8, 8)), decodes(Slabs((1000, 64, 64), 0, 500), (100, 64, 64))
    ((512, 64), (10, 10))
    """
    if not slabs.shape or 0 in slabs.shape:
        return 0, 0
    first = first or (0,) * len(slabs.shape)
    chunks = [(at + length - 1) // each - at // each + 1 for at, length, each in zip(first, slabs.shape, source, strict=True)]
    length, each, at = slabs.shape[slabs.axis], source[slabs.axis], first[slabs.axis]
    starts = range(at, at + length, slabs.step)
    along = sum((min(start + slabs.step, at + length) - 1) // each - start // each + 1 for start in starts)
    before, behind = slabs.shape[: slabs.axis], chunks[slabs.axis + 1 :]
    return math.prod(before) * along * math.prod(behind), math.prod(chunks)
