"""Choose the attributes of an array that a target holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...formats.contract import Writing
from ...plain.cf_packing import ATTRIBUTES

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
