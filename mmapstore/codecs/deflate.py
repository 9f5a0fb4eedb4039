"""zlib and gzip streams, by libdeflate (the package `deflate`), and by Python's own zlib where that refuses them.

libdeflate was the fastest of those that were tried, and `deflate` the smallest package of it; it leaves the interpreter's lock.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from .codec import Bytes
from .streams import Streams

# The package takes the size as a C int, so longer chunks go to zlib, which streams.
_MOST = 2**31 - 1


class Inflate(Streams):
    """A zlib stream, or gzip streams one behind the other, checksums verified."""

    def __init__(self, form: Literal["zlib", "gzip"]) -> None:
        import deflate

        self.name, self.follows = form, b"\x1f\x8b" if form == "gzip" else None
        self._fast: Callable[[Bytes, int], Any] = deflate.zlib_decompress if form == "zlib" else deflate.gzip_decompress

    def own_nbytes(self, decoded: int) -> int:
        # The bytes that are returned, and those before them, which malloc keeps where small objects have cut them in two.
        # libdeflate has tables. zlib doubles what it returns as it grows, and has a window.
        return 2 * decoded + (1 << 17)

    def undo(self, source: Bytes, nbytes: int, out: Bytes) -> Bytes:
        found: Any = None
        if nbytes <= _MOST:
            try:
                found = self._fast(source, nbytes)
            except MemoryError:
                raise
            except Exception:
                found = None  # "Decompression failed", whatever was wrong: zlib can say what
        if found is not None and len(found) == nbytes:
            return np.frombuffer(found, np.uint8)
        del found  # too few bytes: perhaps a second gzip stream follows
        return super().undo(source, nbytes, out)

    def _stream(self) -> Any:
        return zlib.decompressobj(zlib.MAX_WBITS + 16 * (self.name == "gzip"))
