"""Packed values, as the CF conventions of NetCDF have them: value = stored * scale_factor + add_offset, and numbers for "no value".

The rules are those of netCDF4-python (`Variable.set_auto_maskandscale`); where it masks, the value is NaN.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from ..plain.inside_names import file_of

Array = np.ndarray[Any, np.dtype[Any]]
_SCALES, _FILLS = {"scale_factor": 1.0, "add_offset": 0.0}, ("_FillValue", "missing_value")
ATTRIBUTES = (*_SCALES, *_FILLS, "_Unsigned", "valid_min", "valid_max", "valid_range")
_SLICE = 1 << 16
_MOST_FILLS = 1 << 10  # each is compared with every value, and a file may declare millions
# The numbers that the NetCDF library puts where nothing was written, by NumPy's names (netcdf.h, NC_FILL_*).
_UNWRITTEN = {
    "i1": -127,
    "u1": 255,
    "i2": -32767,
    "u2": 65535,
    "i4": -2147483647,
    "u4": 4294967295,
    "i8": -9223372036854775806,
    "u8": 18446744073709551614,
    "f4": 9.969209968386869e36,
    "f8": 9.969209968386869e36,
}


@dataclass(frozen=True)
class Packing:
    """The rule by which stored numbers become values: stored * scale + offset, or no value.

    >>> packing = Packing.of({"scale_factor": np.float32(0.5), "_FillValue": np.int16(-1)}, np.dtype("i2"))
    >>> out = np.empty(3, packing.dtype)
    >>> packing.unpack(np.array([4, -1, 7], "i2"), out); out.tolist(), str(packing)
    ([2.0, nan, 3.5], 'stored * 0.5, no value where -1 is stored')
    """

    scale: float
    offset: float
    fills: tuple[float, ...]  # stored numbers that stand for "no value", as the attributes declare them
    low: float | None  # stored numbers below stand for "no value"
    high: float | None  # stored numbers above stand for "no value"
    unwritten: float | None  # the number that NetCDF stores where nothing was written; None where it counts as any other
    unsigned: bool  # the stored integers are taken without a sign (`_Unsigned`), and so are `fills` and the bounds
    # Of the values: the float dtype that holds the stored numbers and the attributes. Integers of 64 bits become float64, which
    # rounds those above 2**53.
    dtype: np.dtype[Any]
    unused: tuple[str, ...] = ()  # attributes that the stored dtype does not hold, such as -9999.9 beside float32

    @classmethod
    def of(cls, attributes: Mapping[str, Any], dtype: np.dtype[Any], unwritten: float | None = None) -> Packing | None:
        """Return the packing that the attributes of an array declare; None where the stored numbers are the values.

        `unwritten` counts only beside attributes that say something else, and where `_FillValue` does not take its place.
        """
        if dtype.kind not in "iuf":
            return None
        stored = dtype.newbyteorder("=")
        unsigned = dtype.kind == "i" and _text(attributes.get("_Unsigned")) in ("true", "True")
        numbers = {name: _numbers(attributes[name], stored) for name in ATTRIBUTES[2:] if name in attributes}
        held = {
            name: found.view(f"u{dtype.itemsize}" if unsigned else stored) for name, found in numbers.items() if found is not None
        }
        fills = {fill for name in _FILLS if name in held for fill in held[name].tolist() if fill == fill}
        low, high = (_bound(held.get(name)) for name in ("valid_min", "valid_max"))
        if "valid_range" in held and held["valid_range"].size == 2:
            low, high = (_bound(each) for each in np.split(held["valid_range"], 2))
        scale, offset, types = _scales(attributes)
        if (scale, offset) == (1, 0) and not fills and not unsigned and low is high is None:
            return None
        wide = np.result_type(stored, *types, *([np.float32] if dtype.kind != "f" else []))
        unused = tuple(name for name, found in numbers.items() if found is None and name != "_Unsigned")
        left = unwritten if "_FillValue" not in held and not unsigned else None
        return cls(scale, offset, tuple(sorted(fills)), low, high, left, unsigned, wide, unused)

    @property
    def misleads(self) -> bool:
        """True where the stored numbers train as something that they are not. A valid range alone says nothing of them."""
        return bool((self.scale, self.offset) != (1, 0) or self.fills or self.unsigned)

    def unpack(self, stored: Array, out: Array) -> None:
        """Fill `out`, of the same shape and of `dtype`. Computed as float64 and rounded once; no value is NaN."""
        if stored.size > _SLICE and stored.ndim:
            step = max(1, _SLICE // max(1, stored[0].size))
            for start in range(0, len(stored), step):
                part = slice(start, start + step) if step > 1 else start
                self.unpack(stored[part], out[part])
            return
        if self.unsigned:
            stored = stored.astype(f"u{stored.dtype.itemsize}")
        with np.errstate(all="ignore"):  # an infinity, or a number beyond float32, is what the attributes ask for
            if (self.scale, self.offset) == (1, 0):
                out[...] = stored
            else:
                out[...] = stored * np.float64(self.scale) + np.float64(self.offset)
            for fill in (*self.fills, *([] if self.unwritten is None else [self.unwritten])):
                out[stored == fill] = np.nan
            if self.low is not None:
                out[stored < self.low] = np.nan
            if self.high is not None:
                out[stored > self.high] = np.nan

    def __str__(self) -> str:
        words = ["stored"]
        if self.scale != 1:
            words.append(f"* {self.scale:g}")
        if self.offset:
            words.append(f"{'-' if self.offset < 0 else '+'} {abs(self.offset):g}")
        ways = [" ".join(words)] if len(words) > 1 else []
        if self.unsigned:
            ways.append("stored without a sign")
        if self.fills:
            ways.append(f"no value where {' or '.join(map(_short, self.fills))} is stored")
        bounds = [f"{word} {_short(at)}" for word, at in (("below", self.low), ("above", self.high)) if at is not None]
        if bounds:
            ways.append(f"no value {' or '.join(bounds)}")
        return ", ".join([*ways, *(f"{name} not used: the dtype does not hold it" for name in self.unused)])


class Packed(NamedTuple):
    """A stored array that is packed, and its name as `mmapstore.open` takes it."""

    name: str
    packing: Packing


def packed_words(packed: Iterable[Packed]) -> str:
    """Say of arrays whose numbers mislead what was found, what it means, and the command to write; "" where none misleads.

    >>> packing = Packing.of({"_FillValue": np.float32(-9999)}, np.dtype("f4"))
    >>> packed_words([Packed("a.nc::/t", packing)]).partition(", which")[0]
    'a.nc::/t holds packed values (no value where -9999 is stored)'
    """
    packed = [each for each in packed if each.packing.misleads]
    if not packed:
        return ""
    name, packing = packed[0]
    alike = "alike" if len({each.packing for each in packed}) == 1 else "each its own way"
    more = f" and {len(packed) - 1} more {alike}" if len(packed) > 1 else ""
    call = f'mmapstore.convert(array, "{PurePath(name).stem}.npy", unpack=True)'
    if os.path.exists(file_of(name)):
        call = shlex.join(["mmapstore", "convert", name, f"{PurePath(name).stem}-unpacked.npy", "--unpack"])
    return (
        f"{name} holds packed values ({packing}){more}, which are read as stored. "
        f"To write the values themselves, NaN where there is none: {call}"
    )


def unwritten_fill(dtype: np.dtype[Any]) -> float | None:
    """Return the number that NetCDF stores where nothing was written; None for dtypes that NetCDF has not."""
    return _UNWRITTEN.get(dtype.str[1:])


def _numbers(value: Any, stored: np.dtype[Any]) -> Array | None:
    """Return an attribute as numbers of the dtype `stored`; None if it is no numbers, or the dtype does not hold one of them."""
    found = _array(value)
    if found.dtype.kind not in "iuf" or found.size > _MOST_FILLS:
        return None
    if not isinstance(value, (np.generic, np.ndarray)) and stored.kind == "f":
        found = found.astype(stored)  # JSON has numbers without a dtype: -9999.9 is meant as the array has it
    with np.errstate(all="ignore"):
        cast = np.atleast_1d(found.astype(stored))
    same = (found == cast) | (np.isnan(found) & np.isnan(cast))
    return cast.reshape(-1) if same.all() else None


def _array(value: Any) -> Array:
    try:
        return np.asarray(value)
    except ValueError:  # lists of different lengths, which JSON may hold
        return np.empty(0, object)


def _bound(found: Array | None) -> float | None:
    """Return a single number; None for none, several, and NaN."""
    bound: float | None = found.item() if found is not None and found.size == 1 else None
    return bound if bound == bound else None


def _scales(attributes: Mapping[str, Any]) -> tuple[float, float, list[np.dtype[Any]]]:
    """Return scale, offset, and the dtypes in which they are given. Neither counts where one of them is no number."""
    found, types = [], []
    for name, neutral in _SCALES.items():
        value = _array(attributes.get(name, neutral))
        try:
            found.append(float(value.item()))
        except (TypeError, ValueError):
            return 1.0, 0.0, []
        if name in attributes:
            types.append(value.dtype if value.dtype.kind in "iuf" else np.dtype(np.float64))
    return found[0], found[1], types


def _text(value: Any) -> str:
    """Return the text of an attribute, in any form in which libraries give text, one-element arrays among them."""
    found = _array(value)
    text = found.item() if found.size == 1 else ""
    return (text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)).replace("\0", "")


def _short(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)
