"""Checksums stored beside the bytes that they protect: verified, and cut off."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from .codec import NoDecoder, missing
from .contract import Bytes, CorruptChunk

_ROW = 1024  # 16-bit words
_ROWS = 64  # at once: few enough for BLAS to stay in the calling thread, and for all sums to be exact in float64
_PLACES = np.ascontiguousarray(np.stack([np.ones(_ROW), np.arange(float(_ROW))], axis=1))


def fletcher32(data: Bytes) -> int:
    """HDF5's variant, over big-endian 16-bit words; an odd last byte counts as the upper half of one.

    >>> hex(fletcher32(np.frombuffer(b"abcde", np.uint8)))
    '0x4ff029c7'
    """
    # Modulo 65535 a swap of the two bytes of a word is a multiplication by 256, of sums too: so native words, swapped at the end.
    count = (len(data) + 1) // 2
    whole = len(data) // (2 * _ROW) * _ROW
    words = data[: 2 * whole].view("<u2")
    plain = placed = 0  # sums of words, and of words times their places
    for start in range(0, whole, _ROW * _ROWS):
        block = words[start : start + _ROW * _ROWS].reshape(-1, _ROW).astype(np.float64)
        of_rows, placed_in_rows = (block @ _PLACES).T
        plain += (total := int(of_rows.sum()))
        placed += int(placed_in_rows.sum()) + start * total + _ROW * int(of_rows @ _PLACES[: len(block), 1])
    last = np.zeros(2 * _ROW, np.uint8)  # zeros add nothing, so the rest is made a row too; an odd byte is an upper half already
    last[: len(data) - 2 * whole] = data[2 * whole :]
    of_row, placed_in_row = (last.view("<u2").astype(np.float64) @ _PLACES).tolist()
    plain += int(of_row)
    placed += int(placed_in_row) + whole * int(of_row)
    return _swapped(_folded(count * plain - placed)) << 16 | _swapped(_folded(plain))


def _folded(total: int) -> int:
    # Ones' complement addition, which keeps 0xFFFF apart from the 0 that only zeros give.
    return (total - 1) % 0xFFFF + 1 if total else 0


def _swapped(half: int) -> int:
    return (half << 8 | half >> 8) & 0xFFFF


class Fletcher32:
    """HDF5's fletcher32 filter: four bytes behind the data, little-endian.

    As HDF5 does, the sum with the bytes of each half swapped is accepted: old versions wrote that on some machines.
    """

    fills = False
    takes_any_size = True

    def __init__(self) -> None:
        self._sum: Callable[[Bytes], int] = fletcher32
        try:
            found: Any = importlib.import_module("imagecodecs").h5checksum_fletcher32
        except (ImportError, AttributeError):
            return
        # Believed where it agrees on a sample: HDF5's variant differs from the textbook's.
        probe = np.frombuffer(b"abcde", np.uint8)
        if found(probe) == fletcher32(probe):
            self._sum = found

    def encoded_nbytes(self, decoded: int) -> int | None:
        return decoded + 4

    def own_nbytes(self, decoded: int) -> int:
        return 8 * _ROW * _ROWS + (1 << 14)

    def undo(self, source: Bytes, nbytes: int, out: Bytes | None) -> Bytes:
        if len(source) < 4:
            raise CorruptChunk(f"it has {len(source)} bytes, fewer than the 4 of its fletcher32 checksum")
        data, stored = source[:-4], int.from_bytes(source[-4:].tobytes(), "little")
        found = self._sum(data) & 0xFFFFFFFF if len(data) else 0
        if stored not in (found, _swapped(found >> 16) << 16 | _swapped(found & 0xFFFF)):
            raise CorruptChunk(f"its fletcher32 checksum is {found:#010x}, stored is {stored:#010x}")
        return data


class Checksum32:
    """crc32c, and the crc32 and adler32 of numcodecs: four bytes, little-endian, before or behind the data."""

    fills = False
    takes_any_size = True

    def __init__(self, name: str, location: str) -> None:
        if location not in ("start", "end"):
            raise NoDecoder(f"{name} with its checksum at {location!r}, which is neither 'start' nor 'end'")
        self._name, self._at_end = name, location == "end"
        self._sum = _summing(name)

    def encoded_nbytes(self, decoded: int) -> int | None:
        return decoded + 4

    def own_nbytes(self, decoded: int) -> int:
        return 0

    def undo(self, source: Bytes, nbytes: int, out: Bytes | None) -> Bytes:
        if len(source) < 4:
            raise CorruptChunk(f"it has {len(source)} bytes, fewer than the 4 of its {self._name} checksum")
        data, tail = (source[:-4], source[-4:]) if self._at_end else (source[4:], source[:4])
        found, stored = self._sum(data), int.from_bytes(tail.tobytes(), "little")
        if found != stored:
            raise CorruptChunk(f"its {self._name} checksum is {found:#010x}, stored is {stored:#010x}")
        return data


def _summing(name: str) -> Callable[[Bytes], int]:
    if name == "crc32c":
        try:
            library: Any = importlib.import_module("google_crc32c")
        except ImportError:
            raise missing(name, "google-crc32c") from None
        if library.implementation != "c":
            raise NoDecoder("crc32c needs google-crc32c with its compiled part, which this machine has not")
        return lambda data: int(library.value(data))
    found: Callable[[Bytes], int] = getattr(importlib.import_module("deflate"), name)
    return found
