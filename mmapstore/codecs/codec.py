"""One step of a chain, undone: what the files beside this one provide for each codec."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from .contract import Bytes, CorruptChunk

WORTH_A_PART = 0.8  # of the cost of the whole: below, a part is decoded by itself


class Step(Protocol):
    """Undoes one codec. Any number of threads may call `undo` at once."""

    @property
    def fills(self) -> bool:
        """True if `undo` writes into a buffer that it is given; else it returns memory of its own, or a view of the source."""
        ...

    @property
    def takes_any_size(self) -> bool:
        """True if the number of bytes that come out need not be known: checksums need it not. `undo` is then given -1."""
        ...

    def encoded_nbytes(self, decoded: int) -> int | None:
        """Bytes that `decoded` bytes become; None where that depends on their values.

        Raises NoDecoder for a number of bytes that the codec cannot have encoded.
        """
        ...

    def own_nbytes(self, decoded: int) -> int:
        """Bytes of memory that one call takes at most beside the source and the buffer that it is given."""
        ...

    def undo(self, source: Bytes, nbytes: int, out: Bytes | None) -> Bytes:
        """The decoded bytes: `out`, all `nbytes` of it filled, where the step `fills`; else `nbytes` of its own.

        Raises CorruptChunk, and nothing else, whatever the source is.
        """
        ...


@runtime_checkable
class StepInParts(Protocol):
    """An ability: some of the decoded bytes can be had for less than all of them."""

    def undo_part(self, source: Bytes, nbytes: int, start: int, stop: int, out: Bytes) -> bool:
        """Fill `out` with bytes [start, stop) of the `nbytes` decoded; or return False where all would cost about as much."""
        ...


class NoDecoder(Exception):
    """Why a codec cannot be undone here, in words for `info`."""


def installed(codec: str, module: str, name: str) -> Callable[..., Any]:
    """Return the function `name` of a module. Raises NoDecoder, which names the package, where it is not installed."""
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except ImportError:
        raise missing(codec, module.partition(".")[0]) from None
    return found


def decoded_by(decode: Callable[..., Any], codec: str, source: Bytes, *arguments: Any, **options: Any) -> Any:
    """Return the result of `decode(source, ...)`. Whatever a library raises about the bytes is a CorruptChunk."""
    try:
        return decode(source, *arguments, **options)
    except MemoryError:
        raise
    except Exception as error:
        raise CorruptChunk(refused(codec, source, error)) from error


class Compressor:
    """The common part of compressors' steps, which fill the buffer that they are given."""

    fills = True
    takes_any_size = False

    def encoded_nbytes(self, decoded: int) -> int | None:
        return None


def missing(codec: str, package: str) -> NoDecoder:
    """The error where the package that decodes is not installed."""
    return NoDecoder(f"{codec} needs the package {package}: pip install 'mmapstore[codecs]'")


def refused(codec: str, source: Bytes, why: object) -> str:
    """Words for a CorruptChunk when a library rejects the bytes."""
    return f"its {len(source)} stored bytes are not a {codec} stream that can be decoded ({why})"


def wrong_size(found: int, expected: int) -> str:
    return f"it decodes to {found} bytes, expected {expected}"
