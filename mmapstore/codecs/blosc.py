"""Frames of Blosc 1, as Zarr and HDF5's filter 32001 store them, by whichever installed library decodes outside the lock."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from .codec import WORTH_A_PART, Bytes, CorruptChunk, Step, check_size, decoded_by, header_of, installed

_HEADER = struct.Struct("<4BIII")  # versions of format and compressor, flags, itemsize, then bytes: decoded, of a block, stored
_BLOCKS = 4 << 20  # the longest block that Blosc chooses by itself is 4 MiB


_MEMCPYED, _NEVER_SPLIT = 0x02, 0x10  # flags of a frame: stored as it is; no block of it is split into streams
_BSTARTS = np.dtype("<u4")


class Unblosc(Step):
    """One Blosc frame, which says how long it is; its shuffle is undone by Blosc."""

    def __init__(self) -> None:
        self._decode = installed("blosc", "numcodecs.blosc", "decompress")

    def own_nbytes(self, decoded: int) -> int:
        return 5 * min(decoded, _BLOCKS) + (1 << 18)  # three blocks of Blosc's own; a frame of one block, and that decoded

    def undo(self, source: Bytes, nbytes: int, out: Bytes) -> Bytes:
        _checked(source, nbytes)
        decoded_by(self._decode, "blosc", source, out)
        return out

    def undo_part(self, source: Bytes, nbytes: int, start: int, stop: int, out: Bytes) -> bool:
        """Blocks are compressed each by itself: those that are wanted are decoded, each in a frame made for it alone."""
        frame = _checked(source, nbytes)
        if frame.flags & _MEMCPYED:
            if frame.stored < _HEADER.size + nbytes:
                raise CorruptChunk(f"its blosc frame claims {frame.stored} bytes, too few for {nbytes} that are not compressed")
            out[:] = source[_HEADER.size + start : _HEADER.size + stop]
            return True
        size = frame.block
        if not 0 < size <= min(nbytes, _BLOCKS):
            return False
        first, last = start // size, -(-stop // size)
        if (min(last * size, nbytes) - first * size) > WORTH_A_PART * nbytes:
            return False
        blocks = -(-nbytes // size)
        table = source[_HEADER.size : _HEADER.size + 4 * blocks]
        begins = table.view(_BSTARTS).astype(np.int64) if len(table) == 4 * blocks else np.zeros(1, np.int64)
        if begins.min() < _HEADER.size + 4 * blocks or begins.max() >= frame.stored:
            raise CorruptChunk(f"its blosc frame of {frame.stored} bytes says that a block begins outside of it")
        ends = np.sort(np.append(begins, frame.stored))  # threads write blocks in any order
        decoded: Bytes | None = None
        for number in range(first, last):
            begin = number * size
            length = min(size, nbytes - begin)
            # A short block is never split, which a decoder cannot see where it is the only one.
            flags = frame.flags | (_NEVER_SPLIT if length < size else 0)
            end = int(ends[np.searchsorted(ends, begins[number], side="right")])
            held = end - int(begins[number])
            alone = np.empty(_HEADER.size + 4 + held, np.uint8)
            header = _HEADER.pack(frame.version, frame.codec_version, flags, frame.itemsize, length, length, len(alone))
            alone[: _HEADER.size + 4] = np.frombuffer(header + (_HEADER.size + 4).to_bytes(4, "little"), np.uint8)
            alone[_HEADER.size + 4 :] = source[begins[number] : end]
            low, high = max(start, begin), min(stop, begin + length)
            if high - low == length:
                decoded_by(self._decode, "blosc", alone, out[low - start : high - start])
                continue
            if decoded is None:
                decoded = np.empty(size, np.uint8)
            decoded_by(self._decode, "blosc", alone, decoded[:length])
            out[low - start : high - start] = decoded[low - begin : high - begin]
        return True


class _Frame(NamedTuple):
    """The header of a frame. `block` and `stored` are in bytes: of each decoded block but the last, and of all of the frame."""

    version: int
    codec_version: int
    flags: int
    itemsize: int
    decoded: int
    block: int
    stored: int


def _checked(source: Bytes, nbytes: int) -> _Frame:
    # Blosc is told where the frame starts and not where it ends, so the length that it claims is checked here.
    frame = _Frame(*_HEADER.unpack(header_of(source, _HEADER.size, "a blosc header")))
    check_size(frame.decoded, nbytes)
    if not _HEADER.size <= frame.stored <= len(source):
        raise CorruptChunk(f"its blosc frame claims {frame.stored} bytes, stored are {len(source)}")
    return frame
