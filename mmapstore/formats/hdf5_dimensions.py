"""Find the names of axes in an HDF5 file from dimension scales and labels, as netCDF, h5netcdf and xarray do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container
from dataclasses import replace
from typing import Any

import numpy as np

from ..plain.chunk_grid import Box
from .contract import Array
from .hdf5_library import library
from .hdf5_paths import decoded
from .tree_contract import Kind, Node, TreeArray, inside

SCALE_ATTRIBUTES = ("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates")
"""Attributes by which HDF5 and netCDF note the dimensions of a dataset. A writer makes them anew from the names of axes."""
LABELS = "DIMENSION_LABELS"
NETCDF_ATTRIBUTES = ("_NCProperties", "_nc3_strict", "_Netcdf4Dimid", "_Netcdf4Coordinates")
NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable"  # the beginning of NAME, by the netCDF-4 specification

Names = tuple[str | None, ...]
_READ_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError)


class Dimensions:
    """The dimensions that the objects of a file declare. A walk notes the objects one by one.

    `is_netcdf`: a netCDF library wrote the file.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._scales: set[str] = set()
        self._by_id: dict[int, str] = {}
        self._unlimited: list[str] = []
        self._lengths: dict[str | None, int] | None = None
        self.is_netcdf = any(library().h5a.exists(file.id, name.encode()) for name in NETCDF_ATTRIBUTES)

    def note(self, node: Node, item: Any) -> None:
        """Take note of a group or dataset, under the path that it has from now on."""
        self.is_netcdf = self.is_netcdf or any(name in NETCDF_ATTRIBUTES for name in node.attributes)
        with contextlib.suppress(*_READ_ERRORS):
            if node.kind == Kind.ARRAY and None in (item.maxshape or ()):
                self._unlimited.append(node.path)
            if node.kind in (Kind.ARRAY, Kind.DIMENSION) and "CLASS" in node.attributes and is_scale(item):
                self._scales.add(node.path)
                if "_Netcdf4Dimid" in node.attributes:
                    self._by_id[int(item.attrs["_Netcdf4Dimid"])] = _name_of(node.path)

    def forget(self) -> None:
        """Forget the paths of all objects, which get others."""
        self._scales.clear()
        self._unlimited.clear()

    def of(self, item: Any, path: str, path_of: Callable[[Any], str]) -> Names:
        """Return a name or None for each axis of a dataset; () if no axis has a name.

        In this order: the attached scales; the scales that netCDF notes by number, for a variable that is a scale itself; the own
        name of a scale; the labels. `path_of` gives the path that an h5py.Reference leads to, "" for none.
        """
        with contextlib.suppress(*_READ_ERRORS):
            names: list[str | None] = [None] * len(item.shape or ())
            ids = np.asarray(item.attrs.get("_Netcdf4Coordinates", ())).reshape(-1)
            if "DIMENSION_LIST" in item.attrs:
                for axis, scales in enumerate(item.attrs["DIMENSION_LIST"]):
                    if len(scales):
                        names[axis] = _name_of(self._path_of(scales[0], path_of)) or None
            elif is_scale(item):
                if len(ids) == len(names) and all(int(number) in self._by_id for number in ids):
                    names = [self._by_id[int(number)] for number in ids]
                elif len(names) == 1:
                    names = [_name_of(path)]
            for axis, label in enumerate(labels_of(item)):
                names[axis] = names[axis] or label or None
            return tuple(names) if any(names) else ()
        return ()

    def _path_of(self, reference: Any, path_of: Callable[[Any], str]) -> str:
        if not reference or (path := path_of(reference)):
            return path if reference else ""
        found = library().h5r.dereference(reference, self._file.id)  # outside of the group that is converted
        return decoded(library().h5i.get_name(found) or b"")

    def shape(self, item: Any, path: str, at: Callable[[str], Any], path_of: Callable[[Any], str]) -> tuple[int, ...]:
        """Return the shape of a dataset in netCDF: an unlimited dimension is as long as in the longest of its variables.

        HDF5 stores each variable as far as it was written. `at` gives the dataset at a path.
        """
        stored = tuple(int(n) for n in item.shape)
        if not self.is_netcdf or None not in item.maxshape:
            return stored

        def scales_of(path: str, item: Any) -> list[str | None]:
            return [nearest(path, name, self._scales) for name in self.of(item, path, path_of)]

        if self._lengths is None:
            self._lengths = {}
            for other in self._unlimited:
                found = at(other)
                for scale, length in zip(scales_of(other, found), found.shape, strict=False):
                    self._lengths[scale] = max(int(length), self._lengths.get(scale, 0))
        lengths, scales = self._lengths, scales_of(path, item) or [None] * len(stored)
        return tuple(
            max(length, lengths.get(scale, 0)) if limit is None and scale else length
            for length, limit, scale in zip(stored, item.maxshape, scales, strict=True)
        )

    def is_derived(self, name: str, value: Any, path: str, names: Names) -> bool:
        """Return True if `hdf5_scales.attach` makes this attribute of an array anew from the `names` of its axes.

        `value` is the attribute as JSON. Names alone do not tell of several scales for an axis, of scales with other names, or of
        scales in groups beside that of the array.
        """
        own = _name_of(path)
        if name in ("CLASS", "NAME"):
            is_usual = name == "CLASS" or value in ("", own) or str(value).startswith(NO_VARIABLE)
            return path in self._scales and names[:1] == (own,) and is_usual
        if name == "DIMENSION_LIST" and isinstance(value, list):
            found = [nearest(path, axis, self._scales) for axis in names or (None,) * len(value)]
            return all(paths in ([], [""], [at]) for paths, at in zip(value, found, strict=False))
        return name in SCALE_ATTRIBUTES


def extended(values: TreeArray, shape: tuple[int, ...]) -> TreeArray:
    """Return an array that continues with fill values, for elements never stored, up to `shape`."""
    if shape == values.shape:
        return values

    def read(box: Box) -> Array:
        out: Array = np.zeros([part.stop - part.start for part in box], values.dtype)
        out[...] = out if values.fill is None else values.fill
        stored = tuple(slice(part.start, min(part.stop, length)) for part, length in zip(box, values.shape, strict=True))
        if all(part.start < part.stop for part in stored):
            out[tuple(slice(part.stop - part.start) for part in stored)] = values.read(stored)
        return out

    words = f"filled from {values.shape} to the length of its unlimited dimension"
    return replace(values, shape=shape, read=read, stored=None, changed=(*values.changed, words))


def is_scale(item: Any) -> bool:
    """Return True for an h5py.Dataset that is a dimension scale."""
    return "CLASS" in item.attrs and text_of(item.attrs["CLASS"]) == "DIMENSION_SCALE"


def is_length_alone(item: Any) -> bool:
    """Return True for a scale that netCDF made for the name and length of a dimension: its values mean nothing."""
    return is_scale(item) and text_of(item.attrs.get("NAME", "")).startswith(NO_VARIABLE)


def labels_of(item: Any) -> list[str]:
    """Return the labels of the axes of a dataset, "" for an axis without.

    Not by H5DSget_label: it takes any attribute of this name for as many texts as there are axes, and otherwise ends the process
    (HDF5 1.14.6).
    """
    found = np.asarray(item.attrs.get(LABELS, ()), object)
    return [text_of(label) for label in found] if found.shape == (len(item.shape or ()),) else []


def nearest(path: str, name: str | None, scales: Container[str]) -> str | None:
    """Return the scale of this name in the group of an array, else in the groups around it, up to the root."""
    group = path
    while name and group:
        group = group.rpartition("/")[0]
        if inside(group or "/", name) in scales:
            return inside(group or "/", name)
    return None


def text_of(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def _name_of(path: str) -> str:
    return path.rsplit("/", 1)[-1]
