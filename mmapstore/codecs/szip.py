"""HDF5's szip filter, by libaec through imagecodecs, which leaves the interpreter's lock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .codec import Bytes, NoDecoder, Step, check_size, decoded_by, header_of, installed

_MOST_BLOCK, _MOST_BLOCKS = 32, 128  # pixels of a block, and blocks of a scanline: the limits of the format


class Unszip(Step):
    """Four bytes, little-endian, that say the decoded size; then one stream."""

    def __init__(self, options: int, block: int, bits: int, scanline: int) -> None:
        if not (2 <= block <= _MOST_BLOCK and block % 2 == 0 and block <= scanline <= block * _MOST_BLOCKS):
            raise NoDecoder(f"szip with blocks of {block} elements in lines of {scanline}, which the format has not")
        if not (1 <= bits <= 24 or bits in (32, 64)):
            raise NoDecoder(f"szip with elements of {bits} bits, which the format has not")
        if scanline % block:
            raise NoDecoder(
                f"szip in lines of {scanline} elements, no multiple of its blocks of {block}: a decoder outside HDF5 does not tell "
                "there whether a stream stops short"
            )
        self._decode = installed("szip", "imagecodecs", "szip_decode")
        self._settings = (options, block, bits, scanline)

    def own_nbytes(self, decoded: int) -> int:
        return 2 * decoded + (1 << 18)  # elements of 32 and 64 bits are stored apart, and lines filled up

    def undo(self, source: Bytes, nbytes: int, out: Bytes) -> Bytes:
        check_size(int.from_bytes(header_of(source, 4, "an szip header"), "little"), nbytes)
        check_size(len(decoded_by(self._decode, "szip", source[4:], *self._settings, out=out)), nbytes)
        return out


def unszip(settings: Mapping[str, Any]) -> Unszip:
    return Unszip(*(settings.get(name, 0) for name in ("options", "block", "bits", "scanline")))
