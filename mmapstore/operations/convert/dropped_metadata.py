"""Choose the attributes of an array that its copy keeps, and name the metadata that a copy of that array alone lacks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from ...formats.containers import open_tree
from ...formats.contract import Writing
from ...formats.registry import split_inside
from ...plain.cf_packing import ATTRIBUTES
from ...plain.errors import MmapstoreError

_OF_FORMATS = ("layout", "_ARRAY_DIMENSIONS", "_Netcdf4Dimid", "_Netcdf4Coordinates", "_NCProperties")


def held_by(writing: Writing, attributes: Mapping[str, Any], unpacked: bool) -> dict[str, Any]:
    """Return the attributes that an array of this format keeps; those of packed values only if the values stay packed."""
    found = {name: writing.kept_attribute(value) for name, value in _meant(attributes, unpacked).items()}
    return {name: value for name, value in found.items() if value is not None}


def lost_in(writing: Writing, attributes: Mapping[str, Any], unpacked: bool) -> list[str]:
    """Return the names of the attributes that the format cannot keep."""
    return sorted(set(_meant(attributes, unpacked)) - set(held_by(writing, attributes, unpacked)))


def _meant(attributes: Mapping[str, Any], unpacked: bool) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name not in _OF_FORMATS and not (unpacked and name in ATTRIBUTES)}


def left_behind(name: str, shape: tuple[int, ...], fill_is_kept: bool) -> str:
    """Return a sentence on an array that is called "a.h5::/x" and stored in `shape`; "" if nothing is dropped.

    The sentence names the remedy, `convert --all`.
    """
    path, inside = split_inside(name)
    found = []
    if os.path.exists(path) and not path.lower().endswith(".npy"):
        with contextlib.suppress(MmapstoreError, OSError):  # the array itself could be opened, which is enough
            with contextlib.closing(open_tree(path)) as tree:
                (values, *_) = tree.arrays(inside or "/")
            if (whole := values.shape[: len(shape)]) != shape:
                found.append(
                    f"elements never stored, up to the length of its unlimited dimension ({whole} in netCDF, {shape} stored)"
                )
            if values.dimensions:
                found.append(f"the names of its axes ({', '.join(each or 'none' for each in values.dimensions)})")
            if values.fill is not None and not fill_is_kept:
                found.append(f"its fill value {values.fill}")
    return f"Not copied from {name}: {' and '.join(found)}. `mmapstore convert --all` copies them too." if found else ""
