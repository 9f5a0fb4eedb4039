"""Opening one dataset of an HDF5 file with every check that a file from elsewhere needs, and keeping few files open."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections import OrderedDict
from typing import Any

import numpy as np

from ..plain.array_spec import checked_dtype
from ..plain.errors import InvalidTypeError, InvalidValueError, UnsafeFileError
from .hdf5_filters import filters_of
from .hdf5_layout import check_stored_bytes
from .hdf5_library import explaining_read_errors, library, open_to_read
from .hdf5_paths import find, name_of, no_such_key, the_only_one
from .hdf5_virtual import SOURCES_CACHE_NBYTES, sources_of

_LIBRARY_CACHE_NBYTES = 1 << 20  # what HDF5 keeps of decoded chunks unless told otherwise
_MOST_CACHE_NBYTES = 64 << 20


def being_written(file: Any) -> bool:
    # A file that this process has open "r+" is "r+" under every handle, also one that asked for "r".
    return bool(file.mode != "r" or file.swmr_mode)


class Opened:
    """A dataset and the file it needs, closed when nobody refers to this any more."""

    def __init__(self, file: Any, dataset: Any) -> None:
        self.file = file
        self.dataset = dataset
        self.has_filters = False  # not asked yet
        self.pid = os.getpid()

    def __del__(self) -> None:
        try:
            if getattr(self, "pid", None) not in (None, os.getpid()):
                # Closing what a fork inherited would unlock the file under the parent, so it stays open in the child.
                _inherited.append((self.file, self.dataset))
        except AttributeError:  # when the interpreter ends globals are gone
            pass


_inherited: list[Any] = []


class _RecentlyUsed:
    """Keeps the files of the arrays used last open, at most `most`: thousands of files may be joined into one dataset.

    An array opens its file again when it finds `_opened` empty. HDF5 takes half a megabyte for each.
    """

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self.reset()

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._arrays: OrderedDict[int, weakref.ref[Any]] = OrderedDict()

    def touch(self, array: Any) -> None:
        closing = []
        with self._lock:
            self._arrays[id(array)] = weakref.ref(array)
            self._arrays.move_to_end(id(array))
            while len(self._arrays) > self._most:
                closing.append(self._arrays.popitem(last=False)[1]())
        for other in closing:
            if other is not None:
                other._opened = None  # a read in progress holds its own reference


recently_used = _RecentlyUsed()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=recently_used.reset)


def open_checked(path: str, key: str, shown_path: str) -> tuple[Opened, str]:
    """Return the dataset, found without leaving the file, and its full key. Refuses a dataset whose bytes lie elsewhere."""
    file = open_to_read(path)
    try:
        return _checked(file, path, key, shown_path)
    except BaseException:
        # The traceback may hold on to it, and HDF5 would then show the old contents of a file that was mended meanwhile.
        file.close()
        raise


def _checked(file: Any, path: str, key: str, shown_path: str) -> tuple[Opened, str]:
    h5py = library()
    with explaining_read_errors(name_of(shown_path, key)):
        item = find(file, shown_path, key)
        if isinstance(item, h5py.Group):
            key = the_only_one(file, shown_path, item)
            item = find(file, shown_path, key)
        if not isinstance(item, h5py.Dataset):
            raise no_such_key(file, shown_path, key)
        name = name_of(shown_path, key)
        sources = refuse_foreign_storage(item, name)
        refuse_null(item, name)
        plain_dtype(item, name)
        if not being_written(file):
            check_stored_bytes(item, path, name)
            for source in sources:
                check_stored_bytes(source, path, name_of(shown_path, source.name))
        cache, within = _cache_wanted(item, len(sources)), item.name
        if cache is not None:
            item = source = None  # while they are open, opening them again would share their caches
            sources.clear()
            item = _opened_with_cache(file, within, *cache)
        return Opened(file, item), key.strip("/")


def refuse_foreign_storage(dataset: Any, name: str) -> list[Any]:
    """Raise UnsafeFileError where bytes of the dataset lie in other files; return the sources of a virtual one."""
    sources = sources_of(dataset, name)
    for each in (dataset, *sources):
        if each.external is not None:
            files = ", ".join(repr(entry[0]) for entry in each.external[:3])
            raise UnsafeFileError(
                f"{name} keeps its bytes in other files ({files}), which are not read, because a file from elsewhere could name "
                "any file of yours. If you trust it, rewrite it as an ordinary dataset: `h5repack -l NAME:CONTI IN OUT`."
            )
    return sources


def refuse_null(dataset: Any, name: str) -> None:
    if dataset.shape is None:
        raise InvalidValueError(
            f"{name} is empty: a null dataspace, which has no shape. Expected an array of numbers; check how it was written."
        )


def plain_dtype(dataset: Any, name: str) -> np.dtype[Any]:
    try:
        dtype = dataset.dtype
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(
            f"{name} has a type that NumPy lacks ({error}); expected fixed-size numbers. Store it as numbers, then open that."
        ) from error
    # h5py hangs its own notes (enumeration names, encodings) on dtypes; two arrays that differ in those alone are the same to us.
    return np.dtype(checked_dtype(dtype, name).str)


def _cache_wanted(dataset: Any, sources: int) -> tuple[int, int] | None:
    """(slots, bytes) of a chunk cache that holds all chunks one sample touches; None where the default does.

    Without it HDF5 decodes a chunk of over 1 MiB again for each sample that is read from it. Each source of a virtual dataset has
    a cache of the size that the dataset is opened with.
    """
    if sources:
        return 521, SOURCES_CACHE_NBYTES // sources
    if not dataset.chunks or not filters_of(dataset) or dataset.size == 0:
        return None
    across = math.prod(-(-n // chunk) for n, chunk in zip(dataset.shape[1:], dataset.chunks[1:], strict=True))
    nbytes = across * math.prod(dataset.chunks) * dataset.id.get_type().get_size()
    return (max(521, 10 * across + 1), nbytes) if _LIBRARY_CACHE_NBYTES < nbytes <= _MOST_CACHE_NBYTES else None


def _opened_with_cache(file: Any, key: str, slots: int, nbytes: int) -> Any:
    h5py = library()
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(slots, nbytes, 0.75)
    return h5py.Dataset(h5py.h5d.open(file.id, key.encode("utf-8", "surrogateescape"), access))
