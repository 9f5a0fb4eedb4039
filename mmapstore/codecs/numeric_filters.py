"""The filters of numcodecs that store other numbers than they are given: delta, scale and offset, casts, packed bits.

Each computes what numcodecs computes, by the same NumPy calls, so that the bits are the same; in blocks, into the caller's buffer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .codec import NoDecoder
from .contract import Bytes, CorruptChunk

_BLOCK = 1 << 15  # elements that are computed at once, which bounds the memory beside the buffers
_WIDEST = 16  # bytes of an element of an intermediate result


def _dtype(codec: str, settings: Mapping[str, Any], name: str, default: str | None = None) -> np.dtype[Any]:
    given = settings.get(name)
    if given is None and default is not None:
        given = settings.get(default)
    try:
        found: np.dtype[Any] = np.dtype("V" if given is None else given)
    except TypeError:
        found = np.dtype("V")
    if found.kind not in "biufc":
        raise NoDecoder(f"{codec} with {name}={given!r}, which is no type of numbers")
    return found


class _Numbers:
    """The common part of the filters: elements of `stored` on one side, of `decoded` on the other."""

    fills = True
    takes_any_size = False

    def __init__(self, codec: str, decoded: np.dtype[Any], stored: np.dtype[Any]) -> None:
        if stored.kind == "c" and decoded.kind != "c":
            raise NoDecoder(f"{codec} that stores {decoded} as {stored}")
        self._codec, self._decoded, self._stored = codec, decoded, stored

    def encoded_nbytes(self, decoded: int) -> int | None:
        count, rest = divmod(decoded, self._decoded.itemsize)
        if rest:
            raise NoDecoder(f"{self._codec} of {self._decoded} elements cannot have encoded {decoded} bytes")
        return count * self._stored.itemsize

    def own_nbytes(self, decoded: int) -> int:
        return 4 * _BLOCK * _WIDEST

    def undo(self, source: Bytes, nbytes: int, out: Bytes | None) -> Bytes:
        assert out is not None
        # Values that do not fit are cast as numcodecs would cast them, silently: the bytes decide, not we.
        with np.errstate(all="ignore"):
            self._restore(source.view(self._stored), out.view(self._decoded))
        return out

    def _restore(self, stored: np.ndarray[Any, Any], decoded: np.ndarray[Any, Any]) -> None:
        for start in range(0, len(stored), _BLOCK):
            decoded[start : start + _BLOCK] = self._values(stored[start : start + _BLOCK])

    def _values(self, stored: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return stored


class AsType(_Numbers):
    """Stored in another type: numcodecs' astype, and quantize, whose rounding is not undone."""


class Delta(_Numbers):
    """The first element, then differences between neighbours."""

    def own_nbytes(self, decoded: int) -> int:
        # NumPy adds up integers in its widest type, and casts at the end.
        return decoded // self._decoded.itemsize * _WIDEST + (1 << 17)

    def _restore(self, stored: np.ndarray[Any, Any], decoded: np.ndarray[Any, Any]) -> None:
        np.cumsum(stored, out=decoded)


class FixedScaleOffset(_Numbers):
    """(x - offset) * scale, rounded."""

    def __init__(self, codec: str, decoded: np.dtype[Any], stored: np.dtype[Any], scale: Any, offset: Any) -> None:
        super().__init__(codec, decoded, stored)
        if not isinstance(scale, (int, float)) or not isinstance(offset, (int, float)) or scale == 0:
            raise NoDecoder(f"{codec} with scale={scale!r} and offset={offset!r}, which are not two numbers to divide by and add")
        self._scale, self._offset = scale, offset

    def _values(self, stored: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        found: np.ndarray[Any, Any] = (stored / self._scale) + self._offset
        return found


class PackBits:
    """Booleans, eight to a byte, behind one byte that counts the bits that fill up the last."""

    fills = False
    takes_any_size = False

    def encoded_nbytes(self, decoded: int) -> int | None:
        return 1 + -(-decoded // 8)

    def own_nbytes(self, decoded: int) -> int:
        return decoded + 8

    def undo(self, source: Bytes, nbytes: int, out: Bytes | None) -> Bytes:
        padded = -nbytes % 8
        if len(source) == 0 or int(source[0]) != padded:
            found = int(source[0]) if len(source) else None
            raise CorruptChunk(f"its packed bits claim {found} bits of padding, expected {padded}")
        return np.unpackbits(source[1:], count=nbytes)


class Unchanged:
    """A filter that only changed values when it encoded: bitround."""

    fills = False
    takes_any_size = False

    def encoded_nbytes(self, decoded: int) -> int | None:
        return decoded

    def own_nbytes(self, decoded: int) -> int:
        return 0

    def undo(self, source: Bytes, nbytes: int, out: Bytes | None) -> Bytes:
        return source


def astype(settings: Mapping[str, Any]) -> AsType:
    return AsType("astype", _dtype("astype", settings, "decode_dtype"), _dtype("astype", settings, "encode_dtype"))


def delta(settings: Mapping[str, Any]) -> Delta:
    decoded, stored = _dtype("delta", settings, "dtype"), _dtype("delta", settings, "astype", "dtype")
    if decoded.kind == "b" or stored.kind == "b":
        raise NoDecoder("delta of booleans")
    return Delta("delta", decoded, stored)


def quantize(settings: Mapping[str, Any]) -> AsType:
    return AsType("quantize", _dtype("quantize", settings, "dtype"), _dtype("quantize", settings, "astype", "dtype"))


def fixed_scale_offset(settings: Mapping[str, Any]) -> FixedScaleOffset:
    name = "fixedscaleoffset"
    types = _dtype(name, settings, "dtype"), _dtype(name, settings, "astype", "dtype")
    return FixedScaleOffset(name, *types, settings.get("scale"), settings.get("offset"))
