"""Packed integers, as the CF conventions of NetCDF have them: value = stored * scale_factor + add_offset, and a fill for none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
_SCALES, _FILLS = {"scale_factor": 1.0, "add_offset": 0.0}, ("_FillValue", "missing_value")
ATTRIBUTES = (*_SCALES, *_FILLS, "_Unsigned", "valid_min", "valid_max", "valid_range")
_SLICE = 1 << 16


@dataclass(frozen=True)
class Packing:
    """How stored integers become values.

    Attributes
    ----------
    scale, offset : value = stored * scale + offset
    fills : stored numbers that stand for "no value"
    unsigned : the stored integers are to be taken without a sign (`_Unsigned` of older files)
    dtype : of the values: that of the attributes, float32 or float64

    >>> packing = Packing.of({"scale_factor": np.float32(0.5), "_FillValue": np.int16(-1)}, np.dtype("i2"))
    >>> out = np.empty(3, packing.dtype)
    >>> packing.unpack(np.array([4, -1, 7], "i2"), out); out.tolist(), str(packing)
    ([2.0, nan, 3.5], 'stored * 0.5, no value where -1 is stored')
    """

    scale: float
    offset: float
    fills: tuple[int, ...]
    unsigned: bool
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> Packing | None:
        """What the attributes of an array say; None where its integers are the values."""
        if dtype.kind not in "iu":
            return None
        given = {name: np.asarray(attributes[name]).reshape(-1) for name in ATTRIBUTES if name in attributes}
        numbers = {name: found for name, found in given.items() if found.dtype.kind in "biuf" and len(found)}
        unsigned = dtype.kind == "i" and str(attributes.get("_Unsigned", "")).lower() in ("true", "1")
        scale, offset = (float(numbers[name][0]) if name in numbers else neutral for name, neutral in _SCALES.items())
        stored = np.dtype(f"u{dtype.itemsize}") if unsigned else dtype
        fills = sorted({_as_stored(value, stored) for name in _FILLS for value in numbers.get(name, ()) if np.isfinite(value)})
        if (scale, offset) == (1, 0) and not fills and not unsigned:
            return None
        if not (math.isfinite(scale) and math.isfinite(offset)):
            return None
        types = {numbers[name].dtype for name in _SCALES if name in numbers}
        # Integers of 32 bits and more have digits that float32 has not.
        narrow = bool(types) and all(found.kind == "f" and found.itemsize <= 4 for found in types)
        small = not types and dtype.itemsize <= 2
        return cls(scale, offset, tuple(fills), unsigned, np.dtype(np.float32 if narrow or small else np.float64))

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
        out[...] = stored * np.float64(self.scale) + np.float64(self.offset)
        for fill in self.fills:
            out[stored == fill] = np.nan

    def __str__(self) -> str:
        words = ["stored"]
        if self.scale != 1:
            words.append(f"* {self.scale:g}")
        if self.offset:
            words.append(f"{'+' if self.offset > 0 else '-'} {abs(self.offset):g}")
        ways = [" ".join(words)] if len(words) > 1 else []
        if self.unsigned:
            ways.append("stored without a sign")
        if self.fills:
            ways.append(f"no value where {' or '.join(map(str, self.fills))} is stored")
        return ", ".join(ways)


def _as_stored(value: Any, stored: np.dtype[Any]) -> int:
    """A fill value as the integer that is compared with: -1 means 255 for bytes that are taken without a sign."""
    found = int(value)
    return found % (1 << (8 * stored.itemsize)) if stored.kind == "u" and found < 0 else found
