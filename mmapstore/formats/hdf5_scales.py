"""Give the axes of a new HDF5 file dimension scales, by their names: `hdf5_dimensions` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .hdf5_dimensions import NO_VARIABLE, Names, is_scale, nearest, text_of
from .hdf5_library import library
from .hdf5_paths import encoded
from .tree_contract import inside

_MOST_REFERENCES_NBYTES = 60 << 10  # an attribute in an object's header has at most 64 KiB


def attach(file: Any, axes: Mapping[str, Names], lists: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
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
