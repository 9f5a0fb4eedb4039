"""Ask which pages of files are in the page cache, bring files in, and drop them."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .process_memory import memory_available

_PIECE = 1 << 30  # bytes that are asked about at a time


def drop(paths: Sequence[Path]) -> float:
    """Drop files from the page cache and return the share of their pages that is left; 1.0 on a system that cannot drop.

    Pages that a process has mapped stay, and so does everything on a tmpfs.
    """
    if not hasattr(os, "posix_fadvise"):
        return 1.0
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # what is not written yet cannot go
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return cached_share(paths)


def warm(paths: Sequence[Path]) -> bool:
    """Bring files into the page cache; False where they are larger than the memory available, and are left as they are."""
    if sum(path.stat().st_size for path in paths) > memory_available():
        return False
    for path in paths:
        if cached_share([path]) < 1.0:
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass
    return True


def cached_share(paths: Sequence[Path]) -> float:
    """Return the share of the pages of files that is in the page cache, 0.0 to 1.0; 0.0 on a system that does not report it.

    The kernel reports files that the user owns or may write to; of other files it says that every page is there.
    """
    if not hasattr(os, "posix_fadvise"):
        return 0.0
    pages = cached = 0
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            pages += -(-size // mmap.PAGESIZE)
            cached += resident_pages(descriptor, size)
        finally:
            os.close(descriptor)
    return cached / max(1, pages)


def resident_pages(descriptor: int, size: int) -> int:
    """Return the number of pages of the first `size` bytes of a file that are in the page cache. Raises OSError."""
    return sum(_resident(descriptor, start, min(_PIECE, size - start)) for start in range(0, size, _PIECE))


def _resident(descriptor: int, start: int, size: int) -> int:
    # mincore, and not a read with RWF_NOWAIT: newer kernels begin to read ahead where such a read finds nothing.
    libc = ctypes.CDLL(None, use_errno=True)
    with mmap.mmap(descriptor, size, prot=mmap.PROT_READ, offset=start) as mapped:
        seen = np.frombuffer(mapped, np.uint8)
        resident = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
        failed = libc.mincore(ctypes.c_void_p(seen.ctypes.data), ctypes.c_size_t(size), ctypes.c_void_p(resident.ctypes.data))
        del seen
    if failed:
        raise OSError(ctypes.get_errno(), "mincore failed")
    return int((resident & 1).sum())
