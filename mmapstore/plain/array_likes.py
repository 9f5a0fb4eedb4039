"""Array-likes of any library as NumPy arrays of exactly their values."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from .errors import InvalidTypeError, MmapstoreError

_EXACT = np.float64(2**53)  # float64 holds every integer up to this one
_DEEPEST = 64  # axes of a NumPy array
_NUMBERS = {int, float, complex, bool, bytes, str}


def is_fields(obj: Any) -> TypeGuard[Mapping[Any, Any]]:
    """True for dicts of sources by field name. SciPy's `dok_matrix` is a dict too, of its values."""
    return isinstance(obj, Mapping) and not _is_sparse(obj)


def is_array_like(obj: Any) -> bool:
    """True for arrays, tables and tensors that NumPy reads as one array, and for sparse matrices; False for lists and iterators."""
    kind = type(obj)
    is_one = hasattr(kind, "__array__") or hasattr(kind, "__array_interface__") or isinstance(obj, memoryview) or _is_sparse(obj)
    return is_one and hasattr(obj, "shape") and not isinstance(obj, np.generic)


def is_read_in_slices(obj: Any) -> bool:
    """True for arrays of other libraries whose slices are counted as NumPy's are, so that a part can be read alone."""
    # Tables and series of pandas count by their labels.
    is_positional = isinstance(getattr(obj, "dtype", None), np.dtype) and not hasattr(obj, "iloc")
    return is_positional and hasattr(obj, "shape") and hasattr(obj, "__getitem__") and not _is_sparse(obj)


def lies_in_memory(obj: Any) -> bool:
    """True if `numpy.asarray` of an array-like reads no file and computes nothing."""
    # xarray marks what it has not loaded by `_in_memory` (private, but nothing public says the same), Dask by `chunks`.
    if getattr(obj, "chunks", None) is not None or not getattr(obj, "_in_memory", True):
        return False
    held = ("to_numpy", "numpy", "__dlpack__", "__array_interface__")
    return _is_sparse(obj) or isinstance(obj, memoryview) or any(hasattr(type(obj), name) for name in held)


def exact_array(value: Any, where: str) -> np.ndarray[Any, np.dtype[Any]]:
    """Return `value` as `numpy.asarray` reads it, a plain ndarray and a view where that is one.

    Raises InvalidTypeError, naming `where`, if values lie under a mask, if the matrix is sparse, if there is no one shape, and if
    NumPy's common dtype changes a value: `numpy.asarray([2**63, -1])` is float64.

    >>> exact_array([[1, 2.5], [True, 3]], "a list").dtype
    dtype('float64')
    """
    _require_all_seen(value, where, 0)
    try:
        array: np.ndarray[Any, np.dtype[Any]] = np.asarray(value)
    except (MmapstoreError, MemoryError):
        raise
    except Exception as error:  # `__array__` is code of other libraries, which may raise anything
        raise InvalidTypeError(
            f"{where} is not an array of one shape and dtype ({type(error).__name__}: {error}). Give NumPy arrays."
        ) from error
    if not isinstance(value, np.ndarray):
        _require_same_values(array, value, where)
    return array


def _is_sparse(obj: Any) -> bool:
    kind = type(obj)
    return hasattr(kind, "toarray") and not hasattr(kind, "__array__")


def _require_all_seen(value: Any, where: str, depth: int) -> None:
    """Raise for what `numpy.asarray` drops without an error: masks, and sparse matrices, of which it makes a single object."""
    if isinstance(value, (list, tuple)):
        if depth < _DEEPEST and not set(map(type, value)) <= _NUMBERS:
            for each in value:
                _require_all_seen(each, where, depth + 1)
        return
    masked = sys.modules.get("numpy.ma")  # nobody holds a masked array without having loaded it, which takes long
    if masked is not None and isinstance(value, masked.MaskedArray):
        mask = masked.getmask(value)
        if mask.dtype.kind == "b" and mask.any():
            raise InvalidTypeError(
                f"{where} holds a masked array, which would lose its mask; give array.filled(value), and the mask as a field "
                "of its own."
            )
    if _is_sparse(value):
        raise InvalidTypeError(
            f"{where} is a sparse {type(value).__name__} of shape {value.shape}; expected a dense array. Give matrix.toarray() if "
            "it fits in memory, or give ingest() a generator of dense rows: "
            "(row for at in range(0, m.shape[0], 256) for row in m[at : at + 256].toarray()), with m = matrix.tocsr()."
        )


def _require_same_values(array: np.ndarray[Any, np.dtype[Any]], value: Any, where: str) -> None:
    """Raise if the common dtype of what was given has changed a value: large integers among floats, numbers among texts."""
    if array.dtype.kind == "S":
        changeable = np.ones(array.shape, np.bool_)
    elif array.dtype.kind in "fc":
        with np.errstate(all="ignore"):
            changeable = np.isfinite(array) & (np.abs(array) >= _EXACT)
    else:
        return
    if not changeable.any():
        return
    found = array[changeable].tolist()
    if hasattr(value, "iloc"):
        value = value.astype(object)  # pandas finds a common dtype first, also on the way to objects
    given = [each.item() if isinstance(each, np.generic) else each for each in np.asarray(value, object)[changeable]]
    changed = next((pair for pair in zip(given, found, strict=True) if pair[0] != pair[1]), None)
    if changed is not None:
        raise InvalidTypeError(
            f"{where} holds {changed[0]!r}, which becomes {changed[1]!r} in the common dtype of its values, {array.dtype}. "
            "Give np.asarray(values, dtype) of a dtype that holds all of them, or one array for each kind of values."
        )
