"""Elements of HDF5 types without a fixed size or meaning: runs of variable length, and references; h5py errs with some of them."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .contract import Array
from .hdf5_library import library

_MOST_LETTERS = 200


def _parts(kind: Any) -> Iterator[Any]:
    """Yield the types that an h5py type is made of: those of the members of a compound, and of the elements of an array type."""
    h5t = library().h5t
    if isinstance(kind, h5t.TypeCompoundID):
        for index in range(kind.get_nmembers()):
            yield from _parts(kind.get_member_type(index))
    elif isinstance(kind, h5t.TypeArrayID):
        yield from _parts(kind.get_super())
    else:
        yield kind


def holds_runs(kind: Any) -> bool:
    """Return True if elements of an h5py type are, or hold, runs of variable length other than text."""
    return any(isinstance(part, library().h5t.TypeVlenID) for part in _parts(kind))


def is_flat(kind: Any) -> bool:
    """Return True if the bytes of an element are all of it: no text or runs of variable length, no references."""
    h5t = library().h5t
    return not any(
        part.is_variable_str() if isinstance(part, h5t.TypeStringID) else isinstance(part, (h5t.TypeVlenID, h5t.TypeReferenceID))
        for part in _parts(kind)
    )


def has_references(kind: Any, regions_only: bool = False) -> bool:
    """Return True if elements of an h5py type are, or hold, object or region references."""
    h5t = library().h5t
    return any(
        has_references(part.get_super(), regions_only)
        if isinstance(part, h5t.TypeVlenID)
        else isinstance(part, h5t.TypeReferenceID) and not (regions_only and part.equal(h5t.STD_REF_OBJ))
        for part in _parts(kind)
    )


def refusal(kind: Any) -> str:
    """Return the reason if values of an h5py type must not be read through h5py, which would end the process; else "".

    Seen with h5py 3.11 to 3.16: elements of 12 bytes are converted in room for 8.
    """
    runs = (part for part in _parts(kind) if isinstance(part, library().h5t.TypeVlenID))
    is_refused = any(has_references(part, regions_only=True) for part in runs)
    return "h5py cannot read runs of variable length that hold region references" if is_refused else ""


def in_stored_order(values: Array, dtype: np.dtype[Any]) -> Array:
    """Return values that h5py read as `dtype`, with runs of big-endian numbers in their stored byte order.

    h5py to 3.16 returns their bytes as they are stored, under a dtype of the other byte order: 1 becomes 16777216.
    """
    return _mended(values, dtype) if _holds_swapped_runs(dtype) and _labels_are_wrong() else values


def _holds_swapped_runs(dtype: np.dtype[Any]) -> bool:
    if dtype.names is not None:
        return any(_holds_swapped_runs(dtype[name]) for name in dtype.names)
    if dtype.subdtype is not None:
        return _holds_swapped_runs(dtype.subdtype[0])
    element = library().check_vlen_dtype(dtype)
    return isinstance(element, np.dtype) and (_is_swapped(element) or _holds_swapped_runs(element))


def _is_swapped(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biufcmM" and not dtype.isnative


def _mended(values: Array, dtype: np.dtype[Any]) -> Array:
    base = dtype
    while base.subdtype is not None:  # arrays of arrays
        base = base.subdtype[0]
    if not _holds_swapped_runs(base):
        return values
    out = values.copy()
    if base.names is not None:
        for name in base.names:
            out[name] = _mended(values[name], base[name])
        return out
    element = library().check_vlen_dtype(base)
    flat, found = out.reshape(-1), values.reshape(-1)
    for index in range(flat.size):
        run = found[index]
        if isinstance(run, np.ndarray):
            flat[index] = run.view(element) if _is_swapped(element) else _mended(run, element)
    return out


@functools.cache
def _labels_are_wrong() -> bool:
    """Return True if the installed h5py labels big-endian runs wrongly; a file in memory shows it."""
    h5py = library()
    swapped = np.dtype("u2").newbyteorder("S")
    with h5py.File(f"mmapstore-{uuid.uuid4()}", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("x", (1,), h5py.vlen_dtype(swapped))
        dataset[0] = np.array([1], swapped)
        return int(dataset[0][0]) != 1


def stored_elements(kind: Any, data: bytes) -> Any:
    """Return the bytes of an element that HDF5 gave in its own type; for variable length, those that its addresses lead to."""
    h5t = library().h5t
    if isinstance(kind, h5t.TypeCompoundID):
        members = ((kind.get_member_offset(index), kind.get_member_type(index)) for index in range(kind.get_nmembers()))
        return tuple(stored_elements(member, data[at : at + member.get_size()]) for at, member in members)
    if isinstance(kind, h5t.TypeArrayID):
        return _each(kind.get_super(), data)
    if isinstance(kind, h5t.TypeVlenID):
        length, address = (int(word) for word in np.frombuffer(data, np.uintp))
        base = kind.get_super()
        return _each(base, ctypes.string_at(address, length * base.get_size()) if length else b"")
    if isinstance(kind, h5t.TypeStringID) and kind.is_variable_str():
        (address,) = (int(word) for word in np.frombuffer(data, np.uintp))
        return ctypes.string_at(address) if address else b""
    return data


def _each(kind: Any, data: bytes) -> Any:
    size = kind.get_size()
    return data if is_flat(kind) else [stored_elements(kind, data[at : at + size]) for at in range(0, len(data), size)]


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
