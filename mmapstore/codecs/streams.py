"""bzip2 and LZMA streams, by Python's own libraries, which leave the interpreter's lock and stop where they are told to."""

from __future__ import annotations

import bz2
from collections.abc import Mapping
from typing import Any

import numpy as np

from .codec import Bytes, CorruptChunk, NoDecoder, Step, check_size, refused

_MOST_DICTIONARY = 128 << 20  # twice that of the strongest preset; a stream may ask for 4 GiB


class Streams(Step):
    """One or more streams, one behind the other; bytes behind the last are left out."""

    fills = False
    name = "bzip2"
    ends = True  # each stream says where it ends
    follows: bytes | None = b""  # how a further stream begins; None where there is one alone

    def own_nbytes(self, decoded: int) -> int:
        return 3 * decoded + (4 << 20)  # the result, doubled as it grows; bzip2's blocks, or as much of a dictionary as is touched

    def _stream(self) -> Any:
        return bz2.BZ2Decompressor()

    def undo(self, source: Bytes, nbytes: int, out: Bytes) -> Bytes:
        parts: list[bytes] = []
        found, rest = 0, source.data
        while True:
            stream = self._stream()
            try:
                part = stream.decompress(rest, nbytes + 1 - found)
            except Exception as error:  # OSError, ValueError, EOFError, LZMAError, zlib.error
                if parts and not self.follows:
                    break
                raise CorruptChunk(refused(self.name, source, error)) from error
            parts.append(part)
            found += len(part)
            if found > nbytes:
                raise CorruptChunk(f"it decodes to more than {nbytes} bytes, expected exactly {nbytes}")
            if not stream.eof and self.ends:
                raise CorruptChunk(f"its {self.name} stream stops short, after {found} decoded bytes; expected {nbytes}")
            rest = memoryview(stream.unused_data)
            if not rest or self.follows is None or bytes(rest[: len(self.follows)]) != self.follows:
                break
        check_size(found, nbytes)
        return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)


class Unxz(Streams):
    """`settings` are those of numcodecs: the number that the module lzma has for the format, and the filters of raw streams.

    It is no faster than zarr, which has numcodecs decode without a cap, but bounded.
    """

    name = "lzma"

    def __init__(self, settings: Mapping[str, Any]) -> None:
        try:
            import lzma
        except ImportError as error:
            raise NoDecoder("this Python was built without lzma") from error
        kind, filters = settings.get("format", lzma.FORMAT_XZ), settings.get("filters")
        self._lzma: Any = lzma.LZMADecompressor
        self._options: dict[str, Any] = {"format": kind, "memlimit": _MOST_DICTIONARY + (1 << 20)}
        self.ends = filters is None  # raw streams need not
        if kind == lzma.FORMAT_RAW:
            given = filters if isinstance(filters, list) else []
            dictionaries = [found.get("dict_size", 0) if isinstance(found, dict) else None for found in given]
            if not all(isinstance(size, int) and 0 <= size <= _MOST_DICTIONARY for size in dictionaries):
                raise NoDecoder(f"lzma with dictionaries of {dictionaries} bytes, more than {_MOST_DICTIONARY}")
            self._options = {"format": kind, "filters": filters}
        try:
            self._stream()
        except (ValueError, TypeError, lzma.LZMAError) as error:
            raise NoDecoder(f"lzma with settings that it does not take ({error})") from error

    def _stream(self) -> Any:
        return self._lzma(**self._options)
