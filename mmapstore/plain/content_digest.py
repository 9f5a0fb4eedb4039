"""SHA-256 of the values of an array: the same for the same values in any file format, byte order or chunking."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from .errors import InvalidTypeError

_PIECE = 1 << 16  # elements converted at a time: their buffer stays in the cache of one core


class ContentDigest:
    """SHA-256 over values in C order, little-endian, bool as the bytes 0 and 1. Shape and dtype are no part of it.

    Blocks are given in order; a block of any strides counts as its values in C order. Values stored contiguously in little-endian
    order are hashed where they lie, others through a buffer of at most 64 Ki elements. hashlib lets other threads run meanwhile, so
    one thread can hash while others read and write; one digest is used by one thread at a time.

    Raises InvalidTypeError for Python objects and for compound values, whose bytes are not their values.

    >>> import numpy as np
    >>> values = np.arange(6, dtype=">i2").reshape(2, 3)
    >>> digest = ContentDigest()
    >>> for row in values:
    ...     digest.update(row)
    >>> digest.hexdigest() == content_sha256(values) == hashlib.sha256(values.astype("<i2").tobytes()).hexdigest()
    True
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, block: np.ndarray[Any, Any]) -> None:
        """Count the values of `block`, an array of any shape; it is neither kept nor changed."""
        dtype = block.dtype
        if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
            raise InvalidTypeError(
                f"An array of dtype {dtype} has no content digest; expected fixed-size values of one kind (numbers, bool, dates, "
                "bytes, text). Digest each field of its own."
            )
        if block.size == 0 or dtype.itemsize == 0:
            return
        is_bool = dtype.kind == "b"
        little = np.dtype(np.uint8) if is_bool else dtype.newbyteorder("<")
        if little == dtype and block.flags.c_contiguous:
            self._hash.update(block.reshape(-1).view(np.uint8).data)
            return
        values = block.view(np.uint8) if is_bool else block
        pieces = np.nditer(
            [values],
            ["external_loop", "buffered"],
            [["readonly"]],
            op_dtypes=[little],
            order="C",
            casting="equiv",
            buffersize=_PIECE,
        )
        for piece in pieces:
            # A byte other than 0 or 1 is a true value as well, where a file holds one.
            contiguous: np.ndarray[Any, Any] = np.not_equal(piece, 0) if is_bool else np.ascontiguousarray(piece)
            self._hash.update(contiguous.view(np.uint8).data)

    def hexdigest(self) -> str:
        """The digest of all values so far, as 64 hex digits."""
        return self._hash.hexdigest()


def content_sha256(values: np.ndarray[Any, Any]) -> str:
    """The content digest of a whole array, as 64 hex digits.

    >>> content_sha256(np.array([True, False])) == content_sha256(np.array([1, 0], np.uint8))
    True
    """
    digest = ContentDigest()
    digest.update(values)
    return digest.hexdigest()
