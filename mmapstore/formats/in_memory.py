"""Live NumPy arrays: views of a memory map, followed back to the bytes of their file, and arrays in RAM."""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np

from ..files.mapped_files import shows_file
from ..plain.array_likes import exact_array, is_array_like, lies_in_memory
from ..plain.array_spec import checked_dtype
from ..plain.errors import DamagedFileError, InvalidTypeError, NotFoundError
from .contract import Array, Selection, StoredArray
from .located import Located, one_run


def is_live(obj: Any) -> bool:
    """Return True for NumPy arrays, memory maps, their views, and tables, tensors and the like of other libraries."""
    return is_array_like(obj)


def from_live(obj: Any) -> MappedArray | ArrayInMemory:
    """Return an array as a StoredArray, without a copy where NumPy needs none.

    A view of a `np.memmap`, however it was sliced, transposed or wrapped, becomes a MappedArray: it knows its file and
    pickles as a few numbers. Everything else is data in RAM, copy-on-write maps (mode "c") and maps of deleted files included.

    Raises InvalidTypeError for lists, masked values, arrays that are not in memory yet, and dtypes other than fixed-size numbers.

    >>> stored = from_live(np.zeros((10, 3, 4, 4)))
    >>> stored.name, stored.shape, stored.located
    ('array in RAM', (10, 3, 4, 4), None)
    """
    if not is_array_like(obj):
        raise InvalidTypeError(
            f"a {type(obj).__name__} is not an array; expected a NumPy array or memory map. "
            "If it fits in memory, give np.asarray(...) of it."
        )
    if not lies_in_memory(obj):
        raise InvalidTypeError(
            f"a {type(obj).__module__}.{type(obj).__qualname__} is read or computed only when it is used. Open the file that it is "
            "read from, give np.asarray(...) of it if it fits in memory, or write it to a file once with mmapstore.ingest."
        )
    array = exact_array(obj, "the array" if isinstance(obj, np.ndarray) else f"the {type(obj).__name__}").view(np.ndarray)
    checked_dtype(array.dtype, "the array")
    root = _root_map(obj)
    if root is None or array.size == 0:
        return ArrayInMemory(array, "array in RAM")
    path, offset_of_map, address_of_map, nbytes_of_map = root
    low, high = _byte_bounds(array.shape, array.strides, array.dtype.itemsize)
    start = array.__array_interface__["data"][0] - address_of_map
    if start + low < 0 or start + high > nbytes_of_map:
        return ArrayInMemory(array, "array in RAM")
    return MappedArray(path, offset_of_map + start, array)


class ArrayInMemory(StoredArray):
    """An array in RAM as a StoredArray. Pickles as its data."""

    storage = "in RAM"
    why_not = "it is an array in RAM"

    def __init__(self, array: Array, name: str) -> None:
        self.name, self.shape, self.dtype = name, array.shape, array.dtype
        self._array = array.view()
        self._array.flags.writeable = False

    def __reduce__(self) -> tuple[Any, ...]:
        return ArrayInMemory, (self._array, self.name)

    def as_array(self) -> Array:
        """Return a view of the caller's array or map, read-only. A file that shrinks under a map kills its reader."""
        return self._array

    def read_box(self, selection: Selection, out: Array) -> None:
        out[...] = self._array[selection]


class MappedArray(ArrayInMemory):
    """A view of a memory map as a StoredArray. Pickles as path, byte offset, shape, strides and dtype, and maps the file again.

    offset : byte of the file at which element [0, 0, ...] lies
    """

    path: str
    located: Located | None = None
    why_not = ""

    def __init__(self, path: str, offset: int, array: Array) -> None:
        super().__init__(array, path)
        self.path, self.offset = path, offset
        order = "contiguous"
        if array.flags.c_contiguous:
            self.located = one_run(path, offset, self.shape, self.dtype)
        else:
            self.why_not = "a view with strides: its rows do not follow each other"
            order = f"strides {array.strides}"
        self.storage = f"memory map at byte {offset}, {order}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _map_again, (self.path, self.offset, self.shape, self._array.strides, self.dtype)


def _map_again(path: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]) -> MappedArray:
    low, high = _byte_bounds(shape, strides, dtype.itemsize)
    try:
        found = os.stat(path).st_size
        if found < offset + high:
            raise DamagedFileError(
                f"{path} has {found} bytes, but a memory map of it reached to byte {offset + high}. "
                "It was truncated or replaced meanwhile."
            )
        mapped = np.memmap(path, np.uint8, "r", offset + low, (high - low,))
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{path} does not exist here; a memory map of it was pickled. Pickles of maps need their file."
        ) from error
    return MappedArray(path, offset, np.ndarray(shape, dtype, mapped, -low, strides))


def _root_map(array: Array) -> tuple[str, int, int, int] | None:
    """Return path, byte offset in the file, address and length of the map that `array` is a view of; None if it is of none."""
    found: Any = array
    while found is not None:
        if isinstance(found, np.memmap) and isinstance(getattr(found, "_mmap", None), mmap.mmap):
            break
        found = getattr(found, "base", None)
    if found is None or found.mode == "c" or not found.filename:
        return None
    path = os.path.abspath(found.filename)
    buffer: mmap.mmap = found._mmap
    # A slice keeps the offset of the array that was opened, so only the addresses tell where it lies.
    whole = np.frombuffer(buffer, np.uint8)
    start = found.offset - found.offset % mmap.ALLOCATIONGRANULARITY
    try:
        if not os.path.isfile(path) or os.stat(path).st_size != buffer.size() or not shows_file(whole, start, path):
            return None  # deleted, or another file has taken its place
    except (OSError, ValueError):
        return None
    return path, start, whole.__array_interface__["data"][0], whole.nbytes


def _byte_bounds(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> tuple[int, int]:
    """Return the first byte, and the last + 1, of a view that is not empty, relative to its first element."""
    reaches = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    return sum(min(reach, 0) for reach in reaches), sum(max(reach, 0) for reach in reaches) + itemsize
