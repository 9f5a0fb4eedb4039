"""Checksums stored beside the bytes that they protect: verified, and cut off. Four bytes, little-endian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .codec import Bytes, CorruptChunk, NoDecoder, Step, header_of, installed


class Checksum32(Step):
    """crc32c, and the crc32 and adler32 of numcodecs, before or behind the data."""

    fills = False
    takes_any_size = True

    def __init__(self, name: str, location: str) -> None:
        if location not in ("start", "end"):
            raise NoDecoder(f"{name} with its checksum at {location!r}, which is neither 'start' nor 'end'")
        self._name, self._at_end = name, location == "end"
        self._sum: Callable[[Bytes], int] = self._summing()

    def _summing(self) -> Callable[[Bytes], int]:
        if self._name != "crc32c":
            return installed(self._name, "deflate", self._name)
        value = installed("crc32c", "google_crc32c", "value")
        import google_crc32c

        if google_crc32c.implementation != "c":
            raise NoDecoder("crc32c needs google-crc32c with its compiled part, which this machine has not")
        return value

    def encoded_nbytes(self, decoded: int) -> int | None:
        return decoded + 4

    def undo(self, source: Bytes, nbytes: int, out: Bytes) -> Bytes:
        header_of(source, 4, f"its {self._name} checksum")
        data, tail = (source[:-4], source[-4:]) if self._at_end else (source[4:], source[:4])
        found, stored = self._sum(data) & 0xFFFFFFFF, int.from_bytes(tail.tobytes(), "little")
        if not self._agree(found, stored):
            raise CorruptChunk(f"its {self._name} checksum is {found:#010x}, stored is {stored:#010x}")
        return data

    def _agree(self, found: int, stored: int) -> bool:
        return found == stored


class Fletcher32(Checksum32):
    """HDF5's filter, over big-endian words of 16 bits."""

    def __init__(self) -> None:
        super().__init__("fletcher32", "end")

    def _summing(self) -> Callable[[Bytes], int]:
        return fletcher32()

    def _agree(self, found: int, stored: int) -> bool:
        # As HDF5 does: old versions wrote the bytes of each half swapped on some machines.
        return stored in (found, (found & 0x00FF00FF) << 8 | (found >> 8) & 0x00FF00FF)


def fletcher32() -> Callable[[Any], int]:
    """Return the function of HDF5's checksum. Raises NoDecoder where imagecodecs, which has it, is not installed."""
    found = installed("fletcher32", "imagecodecs", "h5checksum_fletcher32")
    return lambda data: int(found(data)) & 0xFFFFFFFF if len(data) else 0
