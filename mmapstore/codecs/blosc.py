"""Frames of Blosc 1, as Zarr and HDF5's filter 32001 store them, by whichever installed library decodes outside the lock."""

from __future__ import annotations

import struct

from .codec import Bytes, CorruptChunk, Step, check_size, decoded_by, header_of, installed

_HEADER = struct.Struct("<4BIII")  # versions of format and compressor, flags, itemsize, then bytes: decoded, of a block, stored
_BLOCKS = 4 << 20  # the longest block that Blosc chooses by itself is 4 MiB


class Unblosc(Step):
    """One Blosc frame, which says how long it is; its shuffle is undone by Blosc."""

    def __init__(self) -> None:
        self._decode = installed("blosc", "numcodecs.blosc", "decompress")

    def own_nbytes(self, decoded: int) -> int:
        return 3 * min(decoded, _BLOCKS) + (1 << 18)  # three blocks of Blosc's own

    def undo(self, source: Bytes, nbytes: int, out: Bytes) -> Bytes:
        # Blosc is told where the frame starts and not where it ends, so the length that it claims is checked here.
        *_, decoded, _, stored = _HEADER.unpack(header_of(source, _HEADER.size, "a blosc header"))
        check_size(decoded, nbytes)
        if not _HEADER.size <= stored <= len(source):
            raise CorruptChunk(f"its blosc frame claims {stored} bytes, stored are {len(source)}")
        decoded_by(self._decode, "blosc", source, out)
        return out
