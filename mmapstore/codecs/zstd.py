"""Zstandard frames, decoded straight into the caller's buffer."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .contract import Bytes, CorruptChunk
from .step import missing, refused, wrong_size

_MAGIC = b"\x28\xb5\x2f\xfd"


def declared_nbytes(source: Bytes) -> int | None:
    """Decoded bytes of the first frame as its header declares them; None where it does not, or is no frame.

    >>> import numpy as np
    >>> declared_nbytes(np.frombuffer(bytes.fromhex("28b52ffd2003190000616263"), np.uint8))
    3
    """
    head = source[:18].tobytes()
    if len(head) < 6 or not head.startswith(_MAGIC):
        return None
    flags = head[4]
    single, width = flags >> 5 & 1, flags >> 6
    length = (single, 2, 4, 8)[width]
    start = 5 + (0 if single else 1) + (0, 1, 2, 4)[flags & 3]
    if not length or len(head) < start + length:
        return None
    return int.from_bytes(head[start : start + length], "little") + (256 if length == 2 else 0)


class Unzstd:
    """One or more zstd frames; their checksums are verified where they have one."""

    fills = True
    takes_any_size = False

    def __init__(self) -> None:
        self._decode = _library()

    def encoded_nbytes(self, decoded: int) -> int | None:
        return None

    def own_nbytes(self, decoded: int) -> int:
        return 1 << 18

    def undo(self, source: Bytes, nbytes: int, out: Bytes | None) -> Bytes:
        assert out is not None
        declared = declared_nbytes(source)
        if declared is not None and declared > nbytes:
            raise CorruptChunk(wrong_size(declared, nbytes))
        if declared is not None and declared < nbytes and self._fits(source, out[:-1]):
            # The libraries do not say how much of `out` they filled. Several frames may fill it together, so ask: less than all?
            raise CorruptChunk(f"it decodes to fewer than {nbytes} bytes; its first frame has {declared}")
        try:
            self._decode(source, out)
        except MemoryError:
            raise
        except Exception as error:
            raise CorruptChunk(refused("zstd", source, error)) from error
        return out

    def _fits(self, source: Bytes, out: Bytes) -> bool:
        try:
            self._decode(source, out)
        except MemoryError:
            raise
        except Exception:
            return False
        return True


def _library() -> Callable[[Bytes, Bytes], Any]:
    try:
        from numcodecs.zstd import decompress
    except ImportError:
        pass
    else:
        decode: Callable[[Bytes, Bytes], Any] = decompress
        return decode
    try:
        zstd_decode: Any = importlib.import_module("imagecodecs").zstd_decode
    except ImportError:
        raise missing("zstd", "numcodecs", "imagecodecs") from None

    def by_imagecodecs(source: Bytes, out: Bytes) -> None:
        found = zstd_decode(source, out=out)
        if len(found) != len(out):
            raise ValueError(wrong_size(len(found), len(out)))

    return by_imagecodecs
