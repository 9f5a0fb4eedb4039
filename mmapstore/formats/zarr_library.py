"""The zarr package: imported when first needed, its arrays opened read-only, its errors put into our words."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import numpy as np

from ..files.system_errors import explaining_read_errors, raised_in
from ..plain.array_spec import checked_dtype
from ..plain.errors import DamagedFileError, MemoryBudgetError, MissingPackageError, MmapstoreError
from .zarr_layout import Layout, layout_of, refuse_code
from .zarr_metadata import Node


def library() -> Any:
    try:
        import zarr
        import zarr.codecs
        import zarr.storage
    except ImportError as error:
        raise MissingPackageError(
            "Zarr stores need the package zarr, which is not installed: pip install 'mmapstore[zarr]'"
        ) from error
    return zarr


def named(path: str, key: str) -> str:
    return f"{path}::/{key}" if key else path


def opened(where: str, node: Node) -> tuple[Any, Layout]:
    """Return the array as zarr-python opens it, read-only, and its layout. Refuses codecs that run code before zarr sees them."""
    refuse_code(node)
    zarr = library()
    with explaining_damage(where), warnings.catch_warnings():
        # Of codecs and dtypes that Zarr 3 does not standardise: news for who wrote the store, not for who reads it.
        warnings.simplefilter("ignore")
        store = zarr.storage.LocalStore(node.directory, read_only=True)
        if node.version == 3:  # the metadata is known; zarr would read it in another thread, which takes longer than a small array
            array = zarr.Array.from_dict(zarr.storage.StorePath(store), node.metadata)
        else:
            array = zarr.open_array(store=store, mode="r", zarr_format=2)
    return array, layout_of(node, tuple(int(n) for n in array.shape), array.dtype)


def stored_dtype(array: Any, layout: Layout, where: str) -> np.dtype[Any]:
    """Zarr 3 leaves the byte order to a codec, and zarr-python then reports the native one."""
    dtype = checked_dtype(array.dtype, where)
    return dtype.newbyteorder(layout.form.encoding.byte_order) if layout.form else dtype


def fill_of(array: Any, dtype: np.dtype[Any]) -> Any:
    """Return the value of elements that were never stored: one element, in native byte order."""
    native = dtype.newbyteorder("=")
    return np.zeros((), native)[()] if array.fill_value is None else np.asarray(array.fill_value).astype(native)[()]


def chunks_of(array: Any) -> tuple[int, ...] | None:
    try:
        return tuple(int(n) for n in array.chunks) or None
    except NotImplementedError:  # a grid of chunks of several sizes
        return None


def explaining_damage(where: str) -> contextlib.AbstractContextManager[None]:
    """Translate errors of zarr-python and the system met while the array or group `where` is read."""
    return explaining_read_errors(where, _damage)


def _damage(error: Exception, where: str) -> MmapstoreError | None:
    if isinstance(error, MemoryError):
        return MemoryBudgetError(
            f"{where} cannot be read: zarr finds no memory for what the store declares ({str(error) or 'it names no number'}). "
            "Read fewer samples at a time; if the data is not that large, the store is damaged."
        )
    if getattr(error, "errno", None) or not raised_in(error, "zarr", "numcodecs"):
        return None
    return DamagedFileError(
        f"{where} cannot be read: {type(error).__name__}: {error}. "
        "The store is damaged, or of a kind zarr does not know; copy it again."
    )
