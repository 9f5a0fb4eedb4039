"""CRC-32 by libdeflate: ten times as fast as Python's zlib, and the same number."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

_MOST = 2**31 - 1  # the package takes the size as a C int


def crc32(values: np.ndarray[Any, Any], before: int = 0) -> int:
    """Return the CRC-32 of the bytes of a C-contiguous array, behind those that `before` is of. Leaves the interpreter's lock.

    >>> crc32(np.frombuffer(b"789", np.uint8), crc32(np.frombuffer(b"123456", np.uint8))) == zlib.crc32(b"123456789")
    True
    """
    import deflate

    flat = values.reshape(-1).view(np.uint8)
    found: int = (deflate if len(flat) <= _MOST else zlib).crc32(flat.data, before)
    return found
