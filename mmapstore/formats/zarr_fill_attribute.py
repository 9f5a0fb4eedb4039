"""The attribute `_FillValue` of arrays in Zarr, by the rules of xarray (xarray.backends.zarr.FillValueCoder).

In Zarr format 3 a float is base64 of a little-endian double, and an integer or bool a JSON number; text and bytes have the array's
`fill_value` instead, as all types have in format 2.
"""

from __future__ import annotations

import base64
import struct
from typing import Any

import numpy as np

from .tree_contract import FILL


def placed(attributes: dict[str, Any], dtype: np.dtype[Any], is_text: bool, fill: Any) -> tuple[dict[str, Any], Any]:
    """Return (attributes, fill_value) of a new Zarr 3 array, for attributes as JSON and the value of elements never stored.

    >>> placed({"_FillValue": -999.0}, np.dtype("f4"), False, None), placed({"_FillValue": " "}, np.dtype("S1"), False, None)
    (({'_FillValue': 'AAAAAAA4j8A='}, 0), ({}, b' '))
    """
    given = attributes.get(FILL)
    rest = {name: value for name, value in attributes.items() if name != FILL}
    if is_text or dtype.kind == "S":
        raw = given.encode("utf-8", "surrogateescape") if isinstance(given, str) else b""
        if given is None or (raw and (is_text or len(raw) <= dtype.itemsize)):
            return rest, raw.decode("utf-8", "surrogateescape") if is_text else raw
        return attributes, "" if is_text else b""
    fill = 0 if fill is None else fill
    if isinstance(given, (int, float)) and dtype.kind == "f":
        return {**rest, FILL: base64.b64encode(struct.pack("<d", given)).decode("ascii")}, fill
    if isinstance(given, float) and dtype.kind in "iu" and given.is_integer():
        return {**rest, FILL: int(given)}, fill
    return attributes, fill


def decoded(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return a `_FillValue` as it was before `placed`; other values as they are.

    >>> decoded("AAAAAAA4j8A=", np.dtype("f4")), decoded("none", np.dtype("f4")), decoded(-1, np.dtype("i2"))
    (-999.0, 'none', -1)
    """
    if dtype.kind == "f" and isinstance(value, str) and len(value) == 12:
        try:
            return struct.unpack("<d", base64.b64decode(value, validate=True))[0]
        except (ValueError, struct.error):
            return value
    return value


def of_array(fill: Any) -> Any:
    """Return the `fill_value` of a Zarr array as JSON has it: a number, text, or None if there is none."""
    if isinstance(fill, (bytes, np.bytes_)):
        try:
            return fill.decode("utf-8") or None
        except UnicodeDecodeError:
            return None
    value = fill.item() if isinstance(fill, (np.generic, np.ndarray)) and np.ndim(fill) == 0 else fill
    return value if isinstance(value, (bool, int, float, str)) else None
