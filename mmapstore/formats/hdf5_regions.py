"""Describe HDF5 region references by text that is equal for equal selections."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from .hdf5_library import library

_MOST_LETTERS = 200


def region_words(item: Any, reference: Any, path_of: Callable[[Any], str]) -> str:
    """Return the path of the dataset and the elements: corners of boxes, first and last, or points. "" for a null reference.

    `item` is any object of the file of an h5py.RegionReference. A long selection is given by its digest.

    >>> import h5py, tempfile
    >>> with tempfile.TemporaryDirectory() as folder, h5py.File(f"{folder}/a.h5", "w") as file:
    ...     file["x"] = range(9)
    ...     region_words(file, file["x"].regionref[2:4], lambda reference: "/x")
    '/x boxes [[[2], [3]]]'
    """
    if not reference:
        return ""
    h5py = library()
    space = h5py.h5r.get_region(reference, item.file.id)
    kind = space.get_select_type()
    if kind == h5py.h5s.SEL_HYPERSLABS:
        words = f"boxes {_listed(space.get_select_hyper_blocklist())}"
    elif kind == h5py.h5s.SEL_POINTS:
        words = f"points {_listed(space.get_select_elem_pointlist())}"
    else:
        words = "all" if kind == h5py.h5s.SEL_ALL else "nothing"
    return f"{path_of(reference)} {words}"


def _listed(places: Any) -> str:
    text = str(np.asarray(places).tolist())
    return text if len(text) <= _MOST_LETTERS else f"with SHA-256 {hashlib.sha256(text.encode()).hexdigest()}"
