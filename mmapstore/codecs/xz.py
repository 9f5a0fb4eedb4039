"""LZMA streams, by Python's own library, which leaves the interpreter's lock. Not every Python was built with it."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from .codec import NoDecoder, refused, wrong_size
from .contract import Bytes, CorruptChunk

_MOST_DICTIONARY = 128 << 20  # twice that of the strongest preset; a stream may ask for 4 GiB


class Unxz:
    """One or more LZMA streams, one behind the other.

    `settings` are those of numcodecs: the number that the module lzma has for the format, and the filters of raw streams. It is
    no faster than zarr, which has numcodecs decode without a cap, but bounded.
    """

    fills = False
    takes_any_size = False

    def __init__(self, settings: Mapping[str, Any]) -> None:
        lzma = _library()
        self._format, self._filters = settings.get("format", lzma.FORMAT_XZ), settings.get("filters")
        if self._format == lzma.FORMAT_RAW:
            given = self._filters if isinstance(self._filters, list) else []
            dictionaries = [found.get("dict_size", 0) if isinstance(found, dict) else None for found in given]
            if not all(isinstance(size, int) and 0 <= size <= _MOST_DICTIONARY for size in dictionaries):
                raise NoDecoder(f"lzma with dictionaries of {dictionaries} bytes, more than {_MOST_DICTIONARY}")
        try:
            self._stream()
        except (ValueError, TypeError, lzma.LZMAError) as error:
            raise NoDecoder(f"lzma with settings that it does not take ({error})") from error

    def _stream(self) -> Any:
        lzma = _library()
        if self._format == lzma.FORMAT_RAW:
            return lzma.LZMADecompressor(self._format, filters=self._filters)
        return lzma.LZMADecompressor(self._format, memlimit=_MOST_DICTIONARY + (1 << 20))

    def encoded_nbytes(self, decoded: int) -> int | None:
        return None

    def own_nbytes(self, decoded: int) -> int:
        return 3 * decoded + (2 << 20)  # what it returns, doubled as it grows, and as much of its dictionary as is touched

    def undo(self, source: Bytes, nbytes: int, out: Bytes | None) -> Bytes:
        parts: list[bytes] = []
        found, rest = 0, source.data
        while True:
            stream = self._stream()
            try:
                part = stream.decompress(rest, nbytes + 1 - found)
            except (_library().LZMAError, EOFError) as error:
                if parts:
                    break  # what follows a whole stream and is none is left out, as Python's lzma does
                raise CorruptChunk(refused("lzma", source, error)) from error
            parts.append(part)
            found += len(part)
            rest = memoryview(stream.unused_data)
            if found > nbytes:
                raise CorruptChunk(f"it decodes to more than {nbytes} bytes, expected exactly {nbytes}")
            if not stream.eof and self._filters is None:  # raw streams need not tell where they end
                raise CorruptChunk(f"its lzma stream stops short, after {found} decoded bytes; expected {nbytes}")
            if not rest:
                break
        if found != nbytes:
            raise CorruptChunk(wrong_size(found, nbytes))
        return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)


def _library() -> types.ModuleType:
    try:
        import lzma
    except ImportError as error:
        raise NoDecoder("this Python was built without lzma") from error
    return lzma
