"""Names of axes in HDF5: find them from dimension scales and labels, as netCDF, h5netcdf and xarray do, and write them so."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..plain.chunk_grid import Box
from .contract import Array
from .hdf5_library import library
from .hdf5_paths import decoded, encoded
from .tree_contract import Kind, Node, TreeArray, inside

SCALE_ATTRIBUTES = ("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates")
"""Attributes by which HDF5 and netCDF note the dimensions of a dataset. A writer makes them anew from the names of axes."""
LABELS = "DIMENSION_LABELS"
NETCDF_ATTRIBUTES = ("_NCProperties", "_nc3_strict", "_Netcdf4Dimid", "_Netcdf4Coordinates")
_MOST_REFERENCES_NBYTES = 60 << 10  # an attribute in an object's header has at most 64 KiB
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
        """Return True if `attach` makes this attribute of an array anew from the `names` of its axes.

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


def attach_scales(file: Any, axes: Mapping[str, Names], lists: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """Give the axes of datasets their dimension scales, and make those that are missing.

    Parameters
    ----------
    file : open h5py.File
    axes : names of the axes of each dataset, by path
    lists : scales by path, in place of names: a list for each axis, of the datasets that have them

    Returns (paths of the scales that were added without values, {path: why} of `lists` that could not be followed).

    Not by H5DSattach_scale: it reads a CLASS attribute of variable length as if it were text of fixed length, and takes one dataset
    in sixteen for a scale, by the address of that text (HDF5 1.14.6). It also writes the list of references anew for each dataset.
    """
    found = _Attaching(file)
    for path, names in sorted(axes.items()):
        found.add_variable(path, names)
    for path, names in sorted(axes.items(), key=lambda each: (each[0].count("/"), each[0])):  # groups around before those inside
        found.add_axes(path, names, lists.get(path, []))
    found.write()
    return found.added, found.failed


class _Attaching:
    def __init__(self, file: Any) -> None:
        self.added: list[str] = []
        self.failed: dict[str, str] = {}
        self._file = file
        self._scales: dict[str, Any] = {}
        self._several_axes: dict[str, Names] = {}
        self._attached: dict[str, list[list[str]]] = {}
        self._labels: dict[str, list[str]] = {}

    def _at(self, path: str) -> Any:
        return self._file[encoded(path)]

    def add_variable(self, path: str, names: Names) -> None:
        """Take a variable with the name of its first axis, which holds the coordinates along it, as the scale."""
        item = self._at(path)
        if item.shape and ((names and names[0] == path.rsplit("/", 1)[-1]) or is_scale(item)):
            self._scales[path] = item
            if item.ndim > 1:
                self._several_axes[path] = names

    def add_axes(self, path: str, names: Names, lists: list[list[str]]) -> None:
        item = self._at(path)
        if path in self._scales and item.ndim == 1:
            return
        attached: list[list[str]] = []
        for axis, length in enumerate(item.shape):
            given = [scale for scale in lists[axis] if scale] if axis < len(lists) else []
            name = names[axis] if axis < len(names) else None
            if given:
                there = [scale for scale in given if isinstance(self._file.get(encoded(scale)), library().Dataset)]
                if there != given:
                    self.failed[path] = f"{', '.join(sorted({*given} - {*there}))}, which it names, is no array there"
                self._scales |= {scale: self._at(scale) for scale in there if scale not in self._scales}
                attached.append(there)
            else:
                scale = self._scale_for(path, name, length) if name else None
                attached.append([scale] if scale else [])
        if any(attached):
            self._attached[path] = attached
        labels = [name if name and not scales else "" for name, scales in zip(names, attached, strict=False)]
        if any(labels):
            self._labels[path] = labels

    def _scale_for(self, path: str, name: str, length: int) -> str | None:
        scale = nearest(path, name, self._scales)
        while scale and self._scales[scale].shape[:1] != (length,):  # of another length: that in a group around
            scale = nearest(scale.rpartition("/")[0], name, self._scales)
        own = inside(path.rpartition("/")[0] or "/", name)
        if scale or "/" in name or name in (".", "..") or "\0" in name or encoded(own) in self._file:
            return scale
        item = self._file.create_dataset(encoded(own), (length,), ">f4")  # never allocated
        item.attrs["NAME"] = np.bytes_(f"{NO_VARIABLE}.{length:10d}")
        self._scales[own] = item
        self.added.append(own)
        return own

    def write(self) -> None:
        h5py = library()
        for path in self._scales:
            self._attached.pop(path, None)  # HDF5 has no scales of scales: netCDF notes the axes of such variables by numbers
        references: dict[str, list[tuple[Any, int]]] = {path: [] for path in self._scales}
        for path, attached in self._attached.items():
            item = self._at(path)
            made = np.empty(item.ndim, object)
            for axis, scales in enumerate(attached):
                made[axis] = np.array([self._scales[scale].ref for scale in scales], h5py.ref_dtype)
                for scale in scales:
                    references[scale].append((item.ref, axis))
            item.attrs.create("DIMENSION_LIST", made, made.shape, h5py.vlen_dtype(h5py.ref_dtype))
        for path, item in self._scales.items():
            item.make_scale(text_of(item.attrs.get("NAME", "")) or path.rsplit("/", 1)[-1])
            element = np.dtype([("dataset", h5py.ref_dtype), ("dimension", np.uint32)])
            if references[path] and len(references[path]) * element.itemsize <= _MOST_REFERENCES_NBYTES:
                item.attrs.create("REFERENCE_LIST", np.array(references[path], element))
        if self._several_axes:
            self._note_numbers()
        for path, labels in self._labels.items():
            if "DIMENSION_LABELS" not in (item := self._at(path)).attrs:
                for axis, label in enumerate(labels):
                    if label:
                        item.dims[axis].label = label

    def _note_numbers(self) -> None:
        """Number all scales, as netCDF does if variables that are scales have further axes."""
        numbers = {path: number for number, path in enumerate(self._scales)}
        for path, item in self._scales.items():
            item.attrs["_Netcdf4Dimid"] = np.int32(numbers[path])
        for path, names in self._several_axes.items():
            found = [nearest(path, name, self._scales) for name in names]
            if None not in found:
                self._scales[path].attrs["_Netcdf4Coordinates"] = np.array([numbers[str(scale)] for scale in found], np.int32)
