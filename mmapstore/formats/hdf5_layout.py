"""The layout of an HDF5 dataset in its file: in words, and the reasons for which HDF5 alone reads it."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from ..plain.errors import DamagedFileError
from .hdf5_filters import FLETCHER32, filters_of
from .hdf5_library import library


def _filter_words(dataset: Any) -> str:
    filters = filters_of(dataset)
    words = " after ".join(words for code, words in reversed(filters) if code != FLETCHER32)
    checked = "with checksums" if any(code == FLETCHER32 for code, _ in filters) else ""
    return ", ".join(part for part in (words or "uncompressed", checked) if part)


def storage_words(dataset: Any) -> str:
    """Return a few words for `info`: "contiguous", "chunks of (64, 3, 50, 50), gzip 4 after shuffle"."""
    h5d = library().h5d
    if dataset.shape is None:
        return "nothing (a null dataspace)"
    if dataset.is_virtual:
        return "virtual: put together from other datasets"
    if dataset.external is not None:
        return "external: its bytes lie in other files"
    if dataset.chunks is not None:
        return f"chunks of {tuple(dataset.chunks)}, {_filter_words(dataset)}"
    if dataset.id.get_create_plist().get_layout() == h5d.COMPACT:
        return "compact, inside the header"
    return "contiguous" if is_allocated(dataset) else "contiguous, nothing stored yet: every value is the fill value"


def is_allocated(dataset: Any) -> bool:
    """Return True if a contiguous dataset has stored bytes: get_offset() of any other may return a made-up number."""
    return bool(dataset.id.get_space_status() == library().h5d.SPACE_STATUS_ALLOCATED and dataset.id.get_storage_size() > 0)


def check_stored_bytes(dataset: Any, path: str, name: str) -> None:
    """Raise DamagedFileError if a contiguous dataset declares more bytes than the file holds."""
    if dataset.id.get_create_plist().get_layout() != library().h5d.CONTIGUOUS or not is_allocated(dataset):
        return
    declared = math.prod(dataset.shape) * dataset.id.get_type().get_size()
    stored, offset, size = dataset.id.get_storage_size(), dataset.id.get_offset(), os.path.getsize(path)
    if stored < declared or offset is None or offset + declared > size:
        raise DamagedFileError(
            f"{name} declares {declared} bytes at offset {offset}; found {stored} bytes set aside for them in a file of {size} "
            "bytes. The file is truncated or damaged; copy or write it again."
        )


def _unequal_type(dataset: Any, dtype: np.dtype[Any]) -> bool:
    """Return True unless the stored elements are, bit for bit, what NumPy calls `dtype`: 12-bit integers in 16 bits are not."""
    h5t = library().h5t
    kind = dataset.id.get_type()
    if kind.get_size() != dtype.itemsize:
        return True
    if isinstance(kind, h5t.TypeEnumID):
        kind = kind.get_super()
    if isinstance(kind, h5t.TypeBitfieldID):  # h5py does not tell its precision
        return all(kind != getattr(h5t, f"STD_B{8 * dtype.itemsize}{order}") for order in ("LE", "BE"))
    if isinstance(kind, h5t.TypeIntegerID):
        return bool(kind.get_precision() != 8 * dtype.itemsize or kind.get_offset() != 0)
    return bool(h5t.py_create(dtype, logical=True) != kind)


def why_hdf5_alone(dataset: Any, dtype: np.dtype[Any]) -> str:
    """Return the reason if only HDF5 makes values of the stored elements, wherever they lie; else ""."""
    if dataset.ndim == 0:
        return "it is a scalar"
    if dataset.size == 0:
        return "it holds no values"
    if dataset.is_virtual:
        return "it is put together from other datasets"
    if dataset.external is not None:
        return "its bytes lie elsewhere"
    if _unequal_type(dataset, dtype):
        return f"its elements are not stored as plain {dtype}, so HDF5 converts them"
    return ""


def fill_of(dataset: Any, dtype: np.dtype[Any]) -> Any:
    """Return the value of elements that were never stored, one element of `dtype`; 0 where the file leaves it open."""
    plist = dataset.id.get_create_plist()
    if leaves_gaps(dataset) or plist.fill_value_defined() == library().h5d.FILL_VALUE_UNDEFINED:
        return np.zeros((), dtype)[()]
    return np.asarray(dataset.fillvalue).astype(dtype)[()]


def leaves_gaps(dataset: Any) -> bool:
    """Return True if HDF5 does not touch the caller's buffer for values never stored: its old contents would pass for data."""
    h5d = library().h5d
    plist = dataset.id.get_create_plist()
    return bool(plist.get_fill_time() == h5d.FILL_TIME_NEVER or plist.fill_value_defined() == h5d.FILL_VALUE_UNDEFINED)
