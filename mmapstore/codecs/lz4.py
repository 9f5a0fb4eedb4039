"""LZ4 in the frames of numcodecs and of HDF5's filter 32004, and LZF in that of h5py's filter 32000."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from .codec import Bytes, CorruptChunk, Step, check_size, decoded_by, header_of, installed

_HDF5_HEADER = struct.Struct(">QI")  # decoded bytes, and those of a block
_MOST = 0x7E000000  # LZ4 counts the bytes of a block in an int


class NumcodecsLz4(Step):
    """Four bytes, little-endian, that say the decoded size; then one LZ4 block."""

    def __init__(self) -> None:
        self._decode = installed("numcodecs-lz4", "numcodecs.lz4", "decompress")

    def undo(self, source: Bytes, nbytes: int, out: Bytes) -> Bytes:
        check_size(int.from_bytes(header_of(source, 4, "an lz4 header"), "little"), nbytes)
        decoded_by(self._decode, "lz4", source, out)
        return out


class Hdf5Lz4(Step):
    """The decoded size and that of a block, then blocks, each behind its stored size; all big-endian.

    A block that did not shrink is stored as it was.
    """

    def __init__(self) -> None:
        self._block = block_decoder("hdf5-lz4")

    def own_nbytes(self, decoded: int) -> int:
        return most_stored(decoded)

    def undo(self, source: Bytes, nbytes: int, out: Bytes) -> Bytes:
        declared, block = _HDF5_HEADER.unpack(header_of(source, _HDF5_HEADER.size, "an lz4 header"))
        check_size(declared, nbytes)
        if block == 0:
            raise CorruptChunk("its lz4 header says that blocks have 0 bytes")
        at = _HDF5_HEADER.size
        for start in range(0, nbytes, block):
            target = out[start : start + block]
            stored = int.from_bytes(source[at : at + 4].tobytes(), "big")
            at += 4
            if at + stored > len(source):
                raise CorruptChunk(f"its lz4 block at byte {at} claims {stored} bytes, {max(len(source) - at, 0)} follow")
            if stored == len(target):
                target[:] = source[at : at + stored]
            else:
                self._block(source[at : at + stored], target)
            at += stored
        return out


class Hdf5Lzf(Step):
    """One LZF stream, which h5py's filter stores where it is shorter than the chunk."""

    def __init__(self) -> None:
        self._decode = installed("lzf", "imagecodecs", "lzf_decode")

    def undo(self, source: Bytes, nbytes: int, out: Bytes) -> Bytes:
        check_size(len(decoded_by(self._decode, "lzf", source, out=out)) if len(source) else 0, nbytes)
        return out


def most_stored(decoded: int) -> int:
    """Return the most bytes of a block of `decoded` bytes that LZ4 could not shrink."""
    return decoded + decoded // 255 + 32


def block_decoder(codec: str) -> Callable[[Bytes, Bytes], None]:
    """Return a function that fills a buffer from one LZ4 block of exactly that many decoded bytes."""
    library = installed(codec, "numcodecs.lz4", "decompress")

    def decode(source: Bytes, out: Bytes) -> None:
        most = most_stored(len(out))
        if len(source) > most or len(out) > _MOST:
            raise CorruptChunk(f"its lz4 block of {len(out)} bytes has {len(source)} stored ones, expected at most {most}")
        framed = np.empty(4 + len(source), np.uint8)
        framed[:4] = np.frombuffer(len(out).to_bytes(4, "little"), np.uint8)
        framed[4:] = source
        decoded_by(library, "lz4", framed, out)  # raises where the block has another size than the header

    return decode
