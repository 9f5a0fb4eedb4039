"""The small named values beside an array, in a form that the target holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...plain.cf_packing import ATTRIBUTES

_OF_FORMATS = ("layout", "_ARRAY_DIMENSIONS", "_Netcdf4Dimid", "_Netcdf4Coordinates", "_NCProperties")


def held_by(format: str, attributes: Mapping[str, Any], unpacked: bool) -> dict[str, Any]:
    """Those that an array of this format keeps; of unpacked values without those that say how they were packed."""
    kept = {name: value for name, value in attributes.items() if name not in _OF_FORMATS and not (unpacked and name in ATTRIBUTES)}
    if format == "hdf5_file":
        return {name: value for name, value in kept.items() if _is_plain(value)}
    if format == "zarr_store":
        found = {name: as_json(value) for name, value in kept.items()}
        return {name: value for name, value in found.items() if value is not None}
    return {}


def lost_in(format: str, attributes: Mapping[str, Any], unpacked: bool) -> list[str]:
    """Names of those that it cannot keep."""
    kept = held_by(format, attributes, unpacked)
    return sorted(
        name for name in attributes if name not in kept and name not in _OF_FORMATS and not (unpacked and name in ATTRIBUTES)
    )


def as_json(value: Any) -> Any:
    """A value that JSON holds and that is equal; None where there is none.

    >>> as_json(np.float32(0.5)), as_json(np.array([1, 2], "i2")), as_json(b"m/s"), as_json(1j)
    (0.5, [1, 2], 'm/s', None)
    """
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return None
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, np.ndarray) and value.ndim:
        found = [as_json(each) for each in value]
        return None if any(each is None for each in found) else found
    if isinstance(value, (np.generic, np.ndarray)):
        return as_json(value.item()) if value.dtype.kind in "biufSU" and value.dtype.itemsize <= (1 << 20) else None
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        found = [as_json(each) for each in value]
        return None if any(each is None for each in found) else found
    if isinstance(value, Mapping):
        made = {str(name): as_json(each) for name, each in value.items()}
        return None if any(each is None for each in made.values()) else made
    return None


def _is_plain(value: Any) -> bool:
    """True for numbers, text and lists of one of these, which h5py writes."""
    try:
        return np.asarray(value).dtype.kind in "biufcSU"
    except ValueError:
        return False
