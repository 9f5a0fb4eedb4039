"""Frames of Blosc 1, as Zarr and HDF5's filter 32001 store them, by whichever installed library decodes outside the lock."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable
from typing import Any

from .contract import Bytes, CorruptChunk
from .step import missing, refused, wrong_size

_HEADER = struct.Struct("<BBBBIII")  # versions of format and compressor, flags, itemsize, then bytes: decoded, of a block, stored
_BLOCKS = 4 << 20  # the longest block that Blosc chooses by itself is 4 MiB


class Unblosc:
    """One Blosc frame, which says how long it is; its shuffle is undone by Blosc."""

    fills = True
    takes_any_size = False

    def __init__(self) -> None:
        self._decode = _library()

    def encoded_nbytes(self, decoded: int) -> int | None:
        return None

    def own_nbytes(self, decoded: int) -> int:
        return 3 * min(decoded, _BLOCKS) + (1 << 18)

    def undo(self, source: Bytes, nbytes: int, out: Bytes | None) -> Bytes:
        assert out is not None
        # Blosc is told where the frame starts and not where it ends, so the length that it claims is checked here.
        if len(source) < _HEADER.size:
            raise CorruptChunk(f"it has {len(source)} bytes, fewer than the {_HEADER.size} of a blosc header")
        *_, decoded, _block, stored = _HEADER.unpack(source[: _HEADER.size].tobytes())
        if decoded != nbytes:
            raise CorruptChunk(wrong_size(decoded, nbytes))
        if not _HEADER.size <= stored <= len(source):
            raise CorruptChunk(f"its blosc frame claims {stored} bytes, stored are {len(source)}")
        try:
            self._decode(source, out)
        except MemoryError:
            raise
        except Exception as error:
            raise CorruptChunk(refused("blosc", source, error)) from error
        return out


def _library() -> Callable[[Bytes, Bytes], Any]:
    try:
        from numcodecs.blosc import decompress
    except ImportError:
        pass
    else:
        decode: Callable[[Bytes, Bytes], Any] = decompress
        return decode
    try:
        blosc_decode: Any = importlib.import_module("imagecodecs").blosc_decode
    except ImportError:
        raise missing("blosc", "numcodecs", "imagecodecs") from None
    return lambda source, out: blosc_decode(source, numthreads=1, out=out)
