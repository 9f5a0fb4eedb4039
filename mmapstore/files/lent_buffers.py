"""64-byte aligned buffers that are lent, and reused only after every array that looks into them has died.

TensorFlow takes an aligned NumPy array without a copy and keeps it as long as it likes, so only the last reference can return
the memory. NumPy shortens chains of views to their first array; the array that is lent therefore has as base an object that is
no array, which dies with the last view.
"""

from __future__ import annotations

import collections
import math
import mmap
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
ALIGNMENT = 64
_Memory = tuple[mmap.mmap, int]  # and its address


class _Loan:
    """The base of every array that looks into one buffer."""

    def __init__(self, memory: _Memory, home: collections.deque[_Memory], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._memory = memory
        self._home = home
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": dtype.str, "data": (memory[1], False)}

    def __del__(self) -> None:
        # deque.append is atomic and takes no lock: this may run in any thread, also in the middle of `lend`.
        self._home.append(self._memory)


class LentBuffers:
    """A pool of buffers, by size. `lend` reuses one whose last borrower has died, or makes a new one.

    >>> pool = LentBuffers()
    >>> first = pool.lend((4, 3), np.dtype("f4"))
    >>> address = first.ctypes.data
    >>> view = first[1:3].T
    >>> del first                                              # the view still holds the buffer
    >>> pool.lend((4, 3), np.dtype("f4")).ctypes.data == address
    False
    >>> del view
    >>> pool.lend((12,), np.dtype("i4")).ctypes.data % 64
    0
    """

    def __init__(self) -> None:
        self._free: dict[int, collections.deque[_Memory]] = {}

    def lend(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return a writable C-contiguous array of arbitrary contents whose first byte lies on a page boundary."""
        size = max(1, -(-math.prod(shape) * dtype.itemsize // mmap.PAGESIZE)) * mmap.PAGESIZE
        home = self._free.get(size)
        if home is None:
            home = self._free.setdefault(size, collections.deque(maxlen=8))
        try:
            memory = home.pop()  # the one returned last: its pages are the likeliest to be in the processor's cache
        except IndexError:
            made = _new_memory(size)
            memory = made, np.frombuffer(made, np.uint8, 1).__array_interface__["data"][0]
        return np.asarray(_Loan(memory, home, shape, dtype))

    def __reduce__(self) -> tuple[type[LentBuffers], tuple[()]]:
        return LentBuffers, ()


def new_pages(nbytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return that many bytes of arbitrary contents, which go back to the system when the array dies.

    malloc keeps what it was given back, up to 64 MiB for each thread, and may find no use for it.
    """
    return np.frombuffer(_new_memory(max(1, nbytes)), np.uint8)


def _new_memory(size: int) -> mmap.mmap:
    try:
        if hasattr(mmap, "MAP_PRIVATE"):
            # What mmap gives by default is shared with forked children: they would write into the parent's batches.
            return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return mmap.mmap(-1, size)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"{size} bytes cannot be had: {error}") from error


def is_aligned(array: Array) -> bool:
    """Return True if TensorFlow takes the array without a copy."""
    return array.flags.c_contiguous and int(array.__array_interface__["data"][0]) % ALIGNMENT == 0
