"""Zarr stores in directories, formats 2 and 3: read and written through zarr-python, their chunks located for reads of our own."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..plain.array_spec import checked_lengths
from ..plain.errors import InvalidTypeError, KeyNotFoundError, MissingPackageError, MmapstoreError
from . import zarr_fill_attribute
from .contract import Array, Listing, Selection, StoredArray
from .located import Located
from .zarr_layout import Layout
from .zarr_library import chunks_of, explaining_damage, fill_of, library, named, opened, stored_dtype
from .zarr_metadata import METADATA_FILES, Node, arrays_below, directory_inside, listed, node_at, read_node


def matches(path: str | os.PathLike[str]) -> bool:
    """Return True for a directory with zarr.json, .zarray or .zgroup in it."""
    return any(os.path.isfile(os.path.join(path, name)) for name in METADATA_FILES)


def list_arrays(path: str | os.PathLike[str], inside: str = "") -> list[Listing]:
    """Return all arrays at or below `inside`, in order of their keys, with the reason where one cannot be opened."""
    name, inside = os.fspath(path), inside.strip("/")
    node_at(name, inside)
    found = []
    for key, node in arrays_below(name, inside):
        try:
            if node is None:
                read_node(directory_inside(name, key))  # raises again what is wrong with it
                continue
            array, layout = opened(named(name, key), node)
            dtype: np.dtype[Any] | str = str(array.dtype)
            with contextlib.suppress(InvalidTypeError):
                dtype = stored_dtype(array, layout, key)
            found.append(Listing(key, tuple(int(n) for n in array.shape), dtype, _storage(array, node, layout)))
        except MissingPackageError:
            raise
        except MmapstoreError as error:
            found.append(Listing(key, (), "unknown", f"cannot be opened: {error}"))
    return found


def open_array(path: str | os.PathLike[str], key: str | None = None) -> ZarrArray:
    """Return one array of a store in a directory; its metadata is read, its chunks are not.

    `key` may be left out, or name a group, where there is only one array.

    Raises NotFoundError, KeyNotFoundError (the text lists the arrays), DamagedFileError, MissingPackageError, UnsafeFileError (a
    key or link that leads out of the store, or a codec that runs code), InvalidTypeError (dtypes that are not fixed-size numbers).

    >>> import os, tempfile
    >>> from mmapstore.formats.contract import NewArray
    >>> from mmapstore.formats.zarr_writer import create
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     writer = create(os.path.join(folder, "a.zarr"), "frames", NewArray((4, 2), np.dtype("f4"), chunk_samples=2))
    ...     writer.write(0, np.arange(8, dtype="f4").reshape(4, 2))
    ...     stored = open_array(os.path.join(folder, "a.zarr"))
    ...     box = np.empty((1, 2), "f4")
    ...     stored.read_box((slice(3, 4), slice(0, 2)), box)
    >>> stored.shape, stored.storage, os.path.basename(stored.located.place(1).path), box
    ((4, 2), 'Zarr 3, chunks of (2, 2), uncompressed', 'c.1.0', array([[6., 7.]], dtype=float32))
    """
    name, key = os.fspath(path), (key or "").strip("/")
    node = node_at(name, key)
    if not node.is_array:
        keys = [found for found, _ in arrays_below(name, key)]
        where = f"{named(name, key)} is a group"
        if not keys:
            raise KeyNotFoundError(f"{where} that holds no arrays. Check how it was written, or give the key of another group.")
        if len(keys) > 1:
            raise KeyNotFoundError(f"{where} with several arrays: {listed(name, key)}. Say which one with key=.")
        key = keys[0]
        node = node_at(name, key)
    array, layout = opened(named(name, key), node)
    return ZarrArray(named(name, key), array, node, layout, (os.path.abspath(name), key))


def is_live(obj: Any) -> bool:
    """Return True for an open `zarr.Array` or `zarr.Group`. Does not import zarr: without it there is none."""
    zarr = sys.modules.get("zarr")
    return zarr is not None and isinstance(obj, (zarr.Array, zarr.Group))


def from_live(obj: Any) -> ZarrArray:
    """Wrap an open zarr array: opened again by path if it is in a directory; else read through the handle, and not pickled."""
    zarr = library()
    if not is_live(obj):
        raise InvalidTypeError(f"a {type(obj).__name__} is not a zarr array; expected what zarr.open_array gives.")
    if isinstance(obj.store, zarr.storage.LocalStore):
        return open_array(obj.store.root, obj.path)
    where = f"{type(obj.store).__name__}{f'::/{obj.path}' * bool(obj.path)}"
    if isinstance(obj, zarr.Group):
        held = ", ".join(obj.array_keys()) or "it has none"
        raise InvalidTypeError(f"a zarr group in {where} is not an array; give one of its arrays: {held}.")
    return ZarrArray(where, obj, None, Layout("", None, f"its chunks live in a {type(obj.store).__name__}"), None)


class ZarrArray(StoredArray):
    """A Zarr array. Pickles by path; `read_box` makes one temporary copy of the region."""

    located: Located | None = None
    why_not = ""

    def __init__(self, name: str, array: Any, node: Node | None, layout: Layout, reopened_from: tuple[str, str] | None) -> None:
        self.name = name
        self.shape = tuple(int(n) for n in array.shape)
        self.dtype = stored_dtype(array, layout, name)
        self.chunks = chunks_of(array)
        checked_lengths(self.shape, self.chunks, name)
        self.storage = _storage(array, node, layout)
        self.located, self.why_not = layout.located(self.shape, self.dtype, fill_of(array, self.dtype)), layout.why_not
        self._array = array
        self._reopened_from = reopened_from

    def __reduce__(self) -> tuple[Any, ...]:
        if self._reopened_from is None:
            raise InvalidTypeError(
                f"{self.name} cannot be sent to another process: only arrays in a directory can be opened again there. "
                "Copy it into one first, for example with zarr.save_array('copy.zarr', array)."
            )
        return open_array, self._reopened_from

    def attributes(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        """As they are stored, and `_FillValue` as xarray keeps it: as the fill value of Zarr 2, or, of floats, in base64."""
        metadata = self._array.metadata
        found = dict(metadata.attributes) if isinstance(metadata.attributes, Mapping) else {}
        if "_FillValue" in found:
            found["_FillValue"] = zarr_fill_attribute.decoded(found["_FillValue"], self.dtype)
        elif "_ARRAY_DIMENSIONS" in found and metadata.zarr_format == 2 and metadata.fill_value is not None:
            found["_FillValue"] = np.asarray(metadata.fill_value, self.dtype)[()]
        return found if names is None else {name: found[name] for name in names if name in found}

    def read_box(self, selection: Selection, out: Array) -> None:
        with explaining_damage(f"{self.name}, region {selection}"):
            out[...] = self._array[selection]


def _storage(array: Any, node: Node | None, layout: Layout) -> str:
    version = f"Zarr {node.version}" if node else "Zarr, open in this process"
    chunks = f", chunks of {chunks_of(array)}" if chunks_of(array) else ""
    return f"{version}{chunks}{f', {layout.words}' if layout.words else ''}"
