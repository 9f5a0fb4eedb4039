"""Frames of Blosc 1, as Zarr and HDF5's filter 32001 store them, by whichever installed library decodes outside the lock."""

from __future__ import annotations

import struct

from .contract import Bytes, CorruptChunk
from .step import Compressor, decoded_by, first_installed, wrong_size

_HEADER = struct.Struct("<BBBBIII")  # versions of format and compressor, flags, itemsize, then bytes: decoded, of a block, stored
_BLOCKS = 4 << 20  # the longest block that Blosc chooses by itself is 4 MiB


class Unblosc(Compressor):
    """One Blosc frame, which says how long it is; its shuffle is undone by Blosc."""

    def __init__(self) -> None:
        decode, package = first_installed("blosc", ("numcodecs.blosc", "decompress"), ("imagecodecs", "blosc_decode"))
        self._decode = decode if package == "numcodecs" else lambda source, out: decode(source, numthreads=1, out=out)

    def own_nbytes(self, decoded: int) -> int:
        return 3 * min(decoded, _BLOCKS) + (1 << 18)

    def undo(self, source: Bytes, nbytes: int, out: Bytes | None) -> Bytes:
        assert out is not None
        # Blosc is told where the frame starts and not where it ends, so the length that it claims is checked here.
        if len(source) < _HEADER.size:
            raise CorruptChunk(f"it has {len(source)} bytes, fewer than the {_HEADER.size} of a blosc header")
        *_, claimed, _block, stored = _HEADER.unpack(source[: _HEADER.size].tobytes())
        if claimed != nbytes:
            raise CorruptChunk(wrong_size(claimed, nbytes))
        if not _HEADER.size <= stored <= len(source):
            raise CorruptChunk(f"its blosc frame claims {stored} bytes, stored are {len(source)}")
        decoded_by(self._decode, "blosc", source, out)
        return out
