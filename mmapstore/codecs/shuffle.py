"""The byte shuffle: first bytes of all elements, then second bytes of all elements, and so on.

Undone by NumPy alone. The ways that were tried, in GB/s on one and two threads for 480,000 float32: widening neighbouring bytes by
shift and or 7.4 and 14, in blocks of 65,536 elements 6.3 and 6.7, one strided copy per byte 3.8 and 7.5, one transposed copy 1.4
and 2.6, numcodecs, which keeps the interpreter's lock, 3.7 and 3.7.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np

from .codec import Bytes, Step

# Elements. Longer blocks take memory. In shorter ones each call is so short that threads wait for each other to wake up whenever
# one asks for the interpreter's lock back, and two threads are no faster than one.
_BLOCK = 1 << 18
_FEW = 1 << 15  # elements; below, one strided copy per byte takes less time
_local = threading.local()

Planes = np.ndarray[Any, np.dtype[Any]]


def unshuffle(source: Bytes, itemsize: int, out: Bytes) -> None:
    """Give every element its bytes back. A tail shorter than one element was never shuffled.

    >>> out = np.empty(5, np.uint8)
    >>> unshuffle(np.array([1, 3, 2, 4, 9], np.uint8), 2, out)
    >>> out.tolist()
    [1, 2, 3, 4, 9]
    """
    count = len(out) // itemsize
    whole = count * itemsize
    if whole < len(out):
        out[whole:] = source[whole:]
    planes = source[:whole].reshape(itemsize, count)
    if _widens(itemsize, count):
        _widen_all(planes, out[:whole].view(f"<u{itemsize}"))
    elif itemsize <= 16:
        elements = out[:whole].reshape(count, itemsize)
        for at in range(itemsize):
            elements[:, at] = planes[at]
    else:
        out[:whole].reshape(count, itemsize).T[...] = planes


def unshuffle_rows(sources: Planes, itemsize: int, outs: Planes) -> None:
    """Do the same for the chunks in the rows of two arrays of bytes, all by one call. Their length is a multiple of `itemsize`.

    >>> outs = np.empty((2, 4), np.uint8)
    >>> unshuffle_rows(np.array([[1, 3, 2, 4], [5, 7, 6, 8]], np.uint8), 2, outs)
    >>> outs.tolist()
    [[1, 2, 3, 4], [5, 6, 7, 8]]
    """
    planes = sources.reshape(len(sources), itemsize, -1)
    if _widens(itemsize, outs.size // itemsize):
        elements = outs.view(f"<u{itemsize}")
        _widen(planes.transpose(1, 0, 2), elements, _spare(itemsize, elements.size))
    else:
        outs.reshape(len(outs), -1, itemsize)[...] = planes.transpose(0, 2, 1)


def _widens(itemsize: int, count: int) -> bool:
    return itemsize in (2, 4, 8) and count >= _FEW and sys.byteorder == "little"


def _spare_nbytes(itemsize: int, count: int) -> int:
    """Return the bytes of memory that `_spare` keeps for a thread."""
    return min(count, _BLOCK) * {4: 4, 8: 12}.get(itemsize, 0) if count >= _FEW else 0


def _spare(itemsize: int, count: int) -> dict[int, Planes]:
    """Return two halves of each width below `itemsize` for `count` elements, which this thread keeps."""
    spare: dict[int, Planes] = _local.__dict__.setdefault("spare", {})
    for width in (2, 4):
        if width < itemsize and (width not in spare or spare[width].shape[1] < count):
            spare[width] = np.empty((2, count), f"<u{width}")
    return spare


def _widen_all(planes: Planes, out: Planes) -> None:
    block = -(-len(out) // -(-len(out) // _BLOCK))
    spare = _spare(len(planes), block)
    for start in range(0, len(out), block):
        _widen(planes[:, start : start + block], out[start : start + block], spare)


def _widen(planes: Planes, out: Planes, spare: dict[int, Planes]) -> None:
    """Elements from the planes of their bytes: each half by the same means, then high << bits | low."""
    half = len(planes) // 2
    if half == 1:
        low, high = planes
    else:
        low, high = spare[half][:, : out.size].reshape(2, *out.shape)
        _widen(planes[:half], low, spare)
        _widen(planes[half:], high, spare)
    np.left_shift(high, 8 * half, out=out, dtype=out.dtype)
    np.bitwise_or(out, low, out=out, dtype=out.dtype)


class Unshuffle(Step):
    """HDF5's shuffle filter, and the one of numcodecs, which refuses to write chunks with a tail."""

    def __init__(self, itemsize: int) -> None:
        self.itemsize = itemsize

    def encoded_nbytes(self, decoded: int) -> int | None:
        return decoded

    def own_nbytes(self, decoded: int) -> int:
        return _spare_nbytes(self.itemsize, decoded // self.itemsize)

    def undo_rows(self, sources: Planes, outs: Planes) -> None:
        """Undo it in all rows of bytes by one call."""
        if self.itemsize <= 1:
            outs[...] = sources
        else:
            unshuffle_rows(sources, self.itemsize, outs)

    def undo(self, source: Bytes, nbytes: int, out: Bytes) -> Bytes:
        if self.itemsize <= 1:
            out[:] = source
        else:
            unshuffle(source, self.itemsize, out)
        return out
