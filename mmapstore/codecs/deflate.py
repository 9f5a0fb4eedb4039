"""zlib and gzip streams, by libdeflate (the package `deflate`), and by Python's own zlib where that refuses them.

libdeflate was the fastest of those that were tried, and `deflate` the smallest package of it; it leaves the interpreter's lock.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from .codec import Bytes, CorruptChunk, Step, check_size, refused

Form = Literal["zlib", "gzip"]
_WINDOW_BITS: dict[Form, int] = {"zlib": zlib.MAX_WBITS, "gzip": 16 + zlib.MAX_WBITS}
# The package takes the size as a C int, so longer chunks go to zlib, which streams.
_MOST = 2**31 - 1


def inflate(source: Bytes, nbytes: int, form: Form) -> bytes:
    """Decode at most `nbytes` + 1 bytes by Python's zlib, checksums verified; gzip members that follow one another are joined.

    >>> inflate(np.frombuffer(zlib.compress(b"abc"), np.uint8), 3, "zlib")
    b'abc'
    """
    parts: list[bytes] = []
    left, rest = nbytes + 1, source.data
    while True:
        stream = zlib.decompressobj(_WINDOW_BITS[form])
        try:
            found = stream.decompress(rest, left)
        except zlib.error as error:
            raise CorruptChunk(refused(form, source, error)) from error
        parts.append(found)
        left -= len(found)
        if left and not stream.eof:
            raise CorruptChunk(f"its {form} stream stops short, after {nbytes + 1 - left} decoded bytes; expected {nbytes}")
        rest = memoryview(stream.unused_data)
        if form == "zlib" or not left or bytes(rest[:2]) != b"\x1f\x8b":
            return parts[0] if len(parts) == 1 else b"".join(parts)


class Inflate(Step):
    """A zlib or gzip stream."""

    fills = False

    def __init__(self, form: Form) -> None:
        import deflate

        self._form: Form = form
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
            if found is not None and len(found) < nbytes and self._form == "gzip":
                found = None  # perhaps a second member follows
        if found is None:
            found = inflate(source, nbytes, self._form)
        if len(found) > nbytes:
            raise CorruptChunk(f"it decodes to more than {nbytes} bytes, expected exactly {nbytes}")
        check_size(len(found), nbytes)
        return np.frombuffer(found, np.uint8)
