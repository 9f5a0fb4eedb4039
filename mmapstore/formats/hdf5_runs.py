"""Runs of variable length in HDF5: where h5py errs with them, and their elements as they are stored."""

from __future__ import annotations

import ctypes
import functools
import uuid
from typing import Any

import numpy as np

from .contract import Array
from .hdf5_library import library


def holds_runs(kind: Any) -> bool:
    """True where elements of an h5py type are, or hold, runs of variable length other than text."""
    h5t = library().h5t
    if isinstance(kind, h5t.TypeCompoundID):
        return any(holds_runs(kind.get_member_type(index)) for index in range(kind.get_nmembers()))
    if isinstance(kind, h5t.TypeArrayID):
        return holds_runs(kind.get_super())
    return isinstance(kind, h5t.TypeVlenID)


def is_flat(kind: Any) -> bool:
    """True where the bytes of an element are all of it: no text or runs of variable length, no references."""
    h5t = library().h5t
    if isinstance(kind, h5t.TypeCompoundID):
        return all(is_flat(kind.get_member_type(index)) for index in range(kind.get_nmembers()))
    if isinstance(kind, h5t.TypeArrayID):
        return is_flat(kind.get_super())
    if isinstance(kind, h5t.TypeStringID):
        return not kind.is_variable_str()
    return not isinstance(kind, (h5t.TypeVlenID, h5t.TypeReferenceID))


def has_references(kind: Any, regions_only: bool = False) -> bool:
    """True where elements of an h5py type are, or hold, object or region references."""
    h5t = library().h5t
    if isinstance(kind, h5t.TypeCompoundID):
        return any(has_references(kind.get_member_type(index), regions_only) for index in range(kind.get_nmembers()))
    if isinstance(kind, (h5t.TypeVlenID, h5t.TypeArrayID)):
        return has_references(kind.get_super(), regions_only)
    return isinstance(kind, h5t.TypeReferenceID) and not (regions_only and kind.equal(h5t.STD_REF_OBJ))


def refusal(kind: Any) -> str:
    """Why values of an h5py type must not be read through h5py: it ends the process. "" where they can.

    Seen with h5py 3.11 to 3.16: elements of 12 bytes are converted in room for 8.
    """
    h5t = library().h5t
    if isinstance(kind, h5t.TypeCompoundID):
        found = (refusal(kind.get_member_type(index)) for index in range(kind.get_nmembers()))
        return next((words for words in found if words), "")
    if isinstance(kind, h5t.TypeArrayID):
        return refusal(kind.get_super())
    if isinstance(kind, h5t.TypeVlenID) and has_references(kind, regions_only=True):
        return "h5py cannot read runs of variable length that hold region references"
    return ""


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
    """True if the installed h5py labels big-endian runs wrongly; a file in memory shows it."""
    h5py = library()
    swapped = np.dtype("u2").newbyteorder("S")
    with h5py.File(f"mmapstore-{uuid.uuid4()}", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("x", (1,), h5py.vlen_dtype(swapped))
        dataset[0] = np.array([1], swapped)
        return int(dataset[0][0]) != 1


def stored_elements(kind: Any, data: bytes) -> Any:
    """The bytes of one element that HDF5 gave in its own type: of what has variable length, those that its addresses lead to."""
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
