"""One codec of a chain, undone: the base of the classes in the files beside this one."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class CorruptChunk(Exception):
    """The stored bytes of a chunk cannot be those that were written. The reader adds file, chunk and offset."""


class NoDecoder(Exception):
    """The reason why a codec cannot be undone here, in words for `info`."""


WORTH_A_PART = 0.8  # of the cost of the whole: below, a part is decoded by itself


class Step:
    """Undoes one codec. Any number of threads may call its methods at once.

    Attributes
    ----------
    fills : `undo` writes into a buffer that it is given; else it returns memory of its own, or a view of the source
    takes_any_size : the number of decoded bytes need not be known, as for checksums. `undo` is then given -1.
    """

    fills = True
    takes_any_size = False

    def encoded_nbytes(self, decoded: int) -> int | None:
        """Return the bytes that `decoded` bytes become; None where that depends on their values.

        Raises NoDecoder for a number of bytes that the codec cannot have encoded.
        """
        return None

    def own_nbytes(self, decoded: int) -> int:
        """Return the bytes of memory that one call takes at most beside the source and the buffer that it is given."""
        return 0

    def undo(self, source: Bytes, nbytes: int, out: Bytes) -> Bytes:
        """Return the decoded bytes: `out`, all `nbytes` of it filled, where the step `fills`; else `nbytes` of its own.

        Raises CorruptChunk, and nothing else, whatever the source is.
        """
        raise NotImplementedError

    def undo_part(self, source: Bytes, nbytes: int, start: int, stop: int, out: Bytes) -> bool:
        """Fill `out` with bytes [start, stop) of the `nbytes` decoded; return False where all would cost about as much."""
        return False


def installed(codec: str, module: str, name: str) -> Callable[..., Any]:
    """Return the function `name` of a module. Raises NoDecoder, which names the package, where it is not installed."""
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except ImportError:
        package = module.partition(".")[0].replace("_", "-")
        raise NoDecoder(f"{codec} needs the package {package}: pip install 'mmapstore[codecs]'") from None
    return found


def decoded_by(decode: Callable[..., Any], codec: str, source: Bytes, *arguments: Any, **options: Any) -> Any:
    """Return the result of `decode(source, ...)`. Every error that a library raises about the bytes becomes a CorruptChunk."""
    try:
        return decode(source, *arguments, **options)
    except MemoryError:
        raise
    except Exception as error:
        raise CorruptChunk(refused(codec, source, error)) from error


def refused(codec: str, source: Bytes, why: object) -> str:
    """Return the words of a CorruptChunk for bytes that a library rejects."""
    return f"its {len(source)} stored bytes are not a {codec} stream that can be decoded ({why})"


def check_size(found: int, expected: int) -> None:
    """Raise CorruptChunk unless a chunk decodes to the bytes that it should."""
    if found != expected:
        raise CorruptChunk(f"it decodes to {found} bytes, expected {expected}")


def header_of(source: Bytes, nbytes: int, codec: str) -> bytes:
    """Return the first bytes of a chunk. Raises CorruptChunk where it has fewer than `nbytes`."""
    if len(source) < nbytes:
        raise CorruptChunk(f"it has {len(source)} bytes, fewer than the {nbytes} of {codec}")
    return source[:nbytes].tobytes()
