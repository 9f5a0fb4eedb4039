"""HDF5 files: a dataset opened where it lies; listing, live h5py objects, and writing.

Contiguous datasets and chunks are located, if their places and codecs can be told without HDF5; the rest is read through h5py. An
h5py.File is open in each process while an array of it lives (of many arrays, the 64 used last), and closed with it.

A file from elsewhere is handed to HDF5's own code in any case, which is not made for hostile ones. Checked before it decodes:
links, storage and sources outside the file, shapes and chunks, bytes declared and stored, the index of chunks, the settings of its
filters. Not bounded by us, where HDF5 alone decodes (`info` says so): chunks that unpack to more than they should, deflate up to
1032 times their stored bytes; and what scale-offset, szip, nbit and third-party filters do with the contents of a chunk.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..plain.array_spec import checked_lengths
from ..plain.cf_packing import unwritten_fill
from ..plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError
from .contract import Array, Listing, Selection, StoredArray
from .hdf5_attributes import plain_attributes
from .hdf5_chunks import locate
from .hdf5_filters import check_filter_settings, need_filters
from .hdf5_layout import fill_of, is_allocated, leaves_gaps, storage_words
from .hdf5_library import explaining_read_errors, library, open_to_read
from .hdf5_opening import (
    Opened,
    being_written,
    open_checked,
    plain_dtype,
    recently_used,
    refuse_foreign_storage,
    refuse_null,
)
from .hdf5_paths import find, listings, name_of, no_such_key
from .hdf5_virtual import SOURCES_CACHE_NBYTES, read_nbytes, sources_of
from .located import Located

# HDF5 by the names that fields give it. Not ".mat", which MATLAB reads with a header of its own alone, nor ".keras", a zip archive.
TREE_SUFFIXES = (".h5", ".hdf5", ".he5", ".hdf", ".nc", ".nc4", ".h5ad", ".h5mu", ".loom", ".nwb", ".nxs", ".nx5", ".emd", ".cxi")
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_CAST_NBYTES = 4 << 20


def matches(path: str | os.PathLike[str]) -> bool:
    """Return True if the file at `path` is HDF5, by its signature: at byte 0, or behind a user block at 512, 1024, 2048 ..."""
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            at = 0
            while at + len(_SIGNATURE) <= size:
                file.seek(at)
                if file.read(len(_SIGNATURE)) == _SIGNATURE:
                    return True
                at = at * 2 or 512
    except OSError:
        pass
    return False


def list_arrays(path: str | os.PathLike[str], inside: str = "") -> list[Listing]:
    """Return every dataset at or below `inside`, those that `open_array` would refuse included. Links are not followed.

    Raises NotFoundError, KeyNotFoundError, LockedFileError, DamagedFileError; UnsafeFileError if `inside` leads out of the file.
    """
    path = os.fspath(path)
    with open_to_read(path) as file, explaining_read_errors(name_of(path, inside)):
        item = find(file, path, inside)
        if item is None:
            raise no_such_key(file, path, inside)
        return listings(item)


def open_array(path: str | os.PathLike[str], key: str | None = None) -> Hdf5Array:
    """Open one dataset; nothing of it is read.

    `key` names a dataset, or a group in which exactly one lies; None is the whole file.

    Raises KeyNotFoundError, which lists what is there; InvalidTypeError for objects, variable-length and compound types;
    UnsafeFileError for links, storage or virtual sources outside the file; LockedFileError; DamagedFileError.

    >>> import tempfile, h5py, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with h5py.File(f"{folder}/a.h5", "w") as file:
    ...         file["frames"] = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    ...     array = open_array(f"{folder}/a.h5")
    ...     out = np.empty((2, 3, 2), np.float32)
    ...     array.read_box((slice(1, 3), slice(0, 3), slice(0, 2)), out)
    ...     print(array.shape, array.dtype, array.storage, out[0, 0])
    ...     del array
    (4, 3, 2) float32 contiguous [6. 7.]
    """
    path = os.fspath(path)
    return Hdf5Array(os.path.abspath(path), key or "", path)


def is_live(item: Any) -> bool:
    """Return True for an h5py.Dataset. Never imports h5py."""
    h5py = sys.modules.get("h5py")
    return h5py is not None and hasattr(h5py, "Dataset") and isinstance(item, h5py.Dataset)


def from_live(dataset: Any) -> Hdf5Array:
    """Wrap an h5py.Dataset: opened again by path where its file is an ordinary one, open for reading only; else itself."""
    with explaining_read_errors("the h5py.Dataset"):
        if not dataset:
            raise InvalidValueError(
                "The h5py.Dataset belongs to a file that is closed. Open the file again, or open it by path: "
                "open('FILE.h5::/NAME')."
            )
        path = _ordinary_path(dataset)
        if path is not None and dataset.name is not None:
            return Hdf5Array(path, dataset.name, path)
        return _LiveHdf5Array(dataset)


def _ordinary_path(dataset: Any) -> str | None:
    """Return the path that leads to the very file the dataset is open in; None if there is none, or it is open for writing."""
    file = dataset.file
    if file.driver != "sec2" or being_written(file):
        return None
    path = os.path.abspath(os.fsdecode(file.filename))
    try:
        return path if _lies_at(path, file) else None
    except (OSError, NotImplementedError):
        return None


def _lies_at(path: str, file: Any) -> bool:
    """Return True if the path still leads to the open file."""
    return os.path.samestat(os.stat(path), os.fstat(file.id.get_vfd_handle()))


def takes_chunks_of(stored: StoredArray) -> bool:
    """Return True if the encoded chunks of `stored` can be written as they are into a dataset created like it."""
    return isinstance(stored, Hdf5Array) and stored.chunks is not None and stored.located is not None


class Hdf5Array(StoredArray):
    """A dataset in an HDF5 file."""

    def __init__(self, path: str, key: str, shown_path: str) -> None:
        self._path = path
        self._shown_path = shown_path
        opened, self._key = open_checked(path, key, shown_path)
        self._opened: Opened | None = opened
        name = name_of(shown_path, self._key)
        try:
            with explaining_read_errors(name):  # damaged settings show when they are asked for
                self._describe(opened.dataset, name)
        except BaseException:
            opened.file.close()
            raise
        recently_used.touch(self)

    def _describe(self, dataset: Any, name: str) -> None:
        self.name = name
        self.shape = tuple(int(n) for n in dataset.shape)
        self.dtype = plain_dtype(dataset, name)
        self.chunks = tuple(int(n) for n in dataset.chunks) if dataset.chunks else None
        checked_lengths(self.shape, self.chunks, name)
        sources = sources_of(dataset, name)
        for each in (dataset, *sources):
            check_filter_settings(each, name if each is dataset else f"{name}, put together from {each.name}")
        self.storage = storage_words(dataset)
        self._blank = fill_of(dataset, self.dtype) if leaves_gaps(dataset) and (self.chunks or not is_allocated(dataset)) else None
        cache_nbytes = dataset.id.get_access_plist().get_chunk_cache()[1] if self.chunks else 0
        of_each = SOURCES_CACHE_NBYTES // max(1, len(sources)) if self._opened is not None else None
        self.cache_nbytes = cache_nbytes + read_nbytes(sources, of_each)
        self.is_being_written = being_written(dataset.file)

    @property
    def located(self) -> Located | None:
        return self._located[0]

    @property
    def why_not(self) -> str:
        return self._located[1]

    @functools.cached_property
    def _located(self) -> tuple[Located | None, str]:
        opened = self._open()
        with explaining_read_errors(self.name):
            if being_written(opened.file):
                return None, "the file is being written, so what lies on disk may be behind"
            if opened.file.driver != "sec2":  # as the environment variable HDF5_DRIVER may have it
                return None, f"HDF5 is told to read its file through the driver {opened.file.driver}"
            if not _lies_at(self._path, opened.file):
                raise DamagedFileError(f"{self._path} was replaced by another file since it was opened. Open it again.")
            found = locate(opened.dataset, self._path, self.name, self.dtype)
        if found[0] is not None:
            self._opened = None  # reading needs HDF5 no more, whose open file takes half a megabyte
        return found

    def _open(self) -> Opened:
        opened = self._opened
        if opened is None or opened.pid != os.getpid():
            opened, _ = open_checked(self._path, self._key, self._shown_path)
            found = tuple(opened.dataset.shape), plain_dtype(opened.dataset, self.name)
            if found != (self.shape, self.dtype):
                raise DamagedFileError(
                    f"{self.name} has changed since it was opened: found {found[0]} {found[1]}, expected {self.shape} "
                    f"{self.dtype}. Open it again."
                )
            self._opened = opened
        recently_used.touch(self)
        return opened

    def attributes(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        """Return attributes of the dataset, without references and those that HDF5's dimension scales need."""
        with explaining_read_errors(self.name):
            return plain_attributes(self._open().dataset, names)

    def unwritten(self) -> float | None:
        """As netCDF4-python has it: any HDF5 file may be one of NetCDF, and bytes need a fill value that somebody set."""
        if self.dtype.itemsize == 1 and self.create_plist().fill_value_defined() != library().h5d.FILL_VALUE_USER_DEFINED:
            return None
        return unwritten_fill(self.dtype)

    def create_plist(self) -> Any:
        """Return a copy of the properties that the dataset was created with: chunks, filters, fill value."""
        with explaining_read_errors(self.name):
            return self._open().dataset.id.get_create_plist()

    def read_box(self, selection: Selection, out: Array) -> None:
        if out.size == 0:
            return
        opened = self._open_for_library()
        with explaining_read_errors(self.name):
            self._read(opened.dataset, selection, out)

    def require_codecs(self) -> None:
        self._open_for_library()

    def _open_for_library(self) -> Opened:
        opened = self._open()
        if not opened.has_filters:
            with explaining_read_errors(self.name):
                for each in (opened.dataset, *sources_of(opened.dataset, self.name)):
                    need_filters(each, self.name)
            opened.has_filters = True
        return opened

    def _read(self, dataset: Any, selection: Selection, out: Array) -> None:
        native = self.dtype.newbyteorder("=")
        if self._blank is not None:
            out[...] = self._blank
        if native.kind == "S" and out.dtype == native and out.flags.c_contiguous:
            out = out.view(dataset.dtype)  # which knows the character set: HDF5 does not convert between two
        if out.dtype.newbyteorder("=") == native and out.flags.c_contiguous:
            dataset.read_direct(out, selection)
            return
        # NumPy casts, not HDF5, whose rules differ for values out of range; a few chunks at a time.
        if out.ndim == 0:
            out[...] = dataset[()]
            return
        first, last, _ = selection[0].indices(self.shape[0])
        each = self.chunks[0] if self.chunks else 1
        step = max(1, _CAST_NBYTES // (each * max(1, math.prod(out.shape[1:]) * native.itemsize))) * each
        buffer = np.empty((min(step + each, last - first), *out.shape[1:]), native)
        buffer = buffer.view(dataset.dtype) if native.kind == "S" else buffer
        at = first
        while at < last:
            end = min(last, (at // each) * each + step)
            part = buffer[: end - at]
            if self._blank is not None:
                part[...] = self._blank
            dataset.read_direct(part, (slice(at, end), *selection[1:]))
            np.copyto(out[at - first : end - first], part, casting="unsafe")
            at = end

    def __reduce__(self) -> tuple[Any, ...]:
        return Hdf5Array, (self._path, self._key, self._shown_path)


class _LiveHdf5Array(Hdf5Array):
    """A dataset of a file that is in memory, or open for writing in this process: read through the caller's own object."""

    def __init__(self, dataset: Any) -> None:
        name = name_of(os.fsdecode(dataset.file.filename), dataset.name or "(without a name)")
        self._live = Opened(dataset.file, dataset)
        self._opened = None
        refuse_foreign_storage(dataset, name)
        refuse_null(dataset, name)
        self._describe(dataset, name)

    @functools.cached_property
    def _located(self) -> tuple[Located | None, str]:
        ordinary = self._live.dataset and self._live.file.driver == "sec2"
        reason = "its file is open for writing in this process, so what lies on disk may be behind"
        return None, reason if ordinary else "its file is not an ordinary one on disk"

    def _open(self) -> Opened:
        if not self._live.dataset:
            raise InvalidValueError(
                f"{self.name}: its file was closed. Keep it open while it is read, or open it by path: open({self.name!r})."
            )
        return self._live

    def __reduce__(self) -> tuple[Any, ...]:
        raise InvalidTypeError(
            f"{self.name} is a live h5py.Dataset whose file is open for writing, or in memory, and cannot be sent to another "
            f"process. Close the file and open it by path instead: open({self.name!r})."
        )
