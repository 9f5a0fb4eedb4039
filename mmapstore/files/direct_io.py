"""Write and read large blocks past the page cache (O_DIRECT).

Copying gigabytes through the page cache costs more processor time than hashing them, and evicts the pages of other programs; bytes
that are read back directly were on the disk. The kernel asks for addresses, offsets and lengths in multiples of a page: the few
bytes before and after take the ordinary calls.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import time
from typing import Any

import numpy as np

from .descriptors import Descriptor, read_exactly
from .durable_writes import write_at
from .lent_buffers import new_pages

Array = np.ndarray[Any, np.dtype[Any]]
PAGE = 4096  # a multiple of every block size that a file system asks for
WORTH_NBYTES = 1 << 20
BOUNCE_NBYTES, AT_ONCE = 2 << 20, 2
_TRIALS = 16
_NOT_HERE = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}


def empty_at(nbytes: int, offset: int = 0) -> Array:
    """Return new bytes at an address that is as far from a page's beginning as `offset` of a file is.

    The system has them back as soon as the array dies: malloc keeps such a block for its thread, and takes another beside it
    where something small came to lie in the first.
    """
    return room_at(new_pages(nbytes + PAGE), offset)[:nbytes]


def room_at(room: Array, offset: int) -> Array:
    """Return the part of a buffer of bytes that begins as far from a page's beginning as `offset`; it skips up to a page."""
    return room[(offset - int(room.ctypes.data)) % PAGE :]


class DirectFile:
    """A file opened for direct I/O beside its descriptor `number`, which is used where the system has no direct I/O."""

    _direct: int | None = None

    def __init__(self, path: str, number: int, wanted: bool = True) -> None:
        self._number = number
        self._works = True
        if wanted and hasattr(os, "O_DIRECT") and hasattr(os, "preadv"):
            with contextlib.suppress(OSError):  # tmpfs, some network file systems
                self._direct = os.open(path, os.O_RDWR | os.O_DIRECT | getattr(os, "O_CLOEXEC", 0))

    @property
    def is_direct(self) -> bool:
        return self._direct is not None and self._works

    def write(self, offset: int, block: Array) -> None:
        """Write all bytes of a C-contiguous array at `offset`, directly where its address allows it (`empty_at`)."""
        flat = block.reshape(-1).view(np.uint8)
        head, tail = self._aligned(offset, flat)
        at = head
        while at < tail and self._works and self._direct is not None:
            try:
                at += os.pwrite(self._direct, flat[at:tail].data, offset + at)
            except OSError as error:
                self._give_up(error)
            if at % PAGE != head % PAGE:
                break  # a short write: the rest is no longer in whole pages
        write_at(self._number, offset, flat[:head])
        write_at(self._number, offset + at, flat[at:])

    def read(self, offset: int, out: Array) -> int:
        """Fill a C-contiguous array from `offset`; returns the number of bytes that there were."""
        flat = out.reshape(-1).view(np.uint8)
        head, tail = self._aligned(offset, flat)
        at = self._read(self._number, offset, flat[:head])
        if at < head:
            return at
        while at < tail and self._works and self._direct is not None:
            try:
                done = os.preadv(self._direct, [flat[at:tail].data], offset + at)
            except OSError as error:
                self._give_up(error)
                break
            at += done
            if not done or done % PAGE:
                break
        return at + self._read(self._number, offset + at, flat[at:])

    def _read(self, number: int, offset: int, flat: Array) -> int:
        done = 0
        while done < len(flat):
            found = os.preadv(number, [flat[done:].data], offset + done)
            if not found:
                break
            done += found
        return done

    def _aligned(self, offset: int, flat: Array) -> tuple[int, int]:
        """Return the ends of the whole pages in `flat`; (0, 0) where pages of the file do not meet those of memory."""
        if not self.is_direct or len(flat) < WORTH_NBYTES or (int(flat.ctypes.data) - offset) % PAGE:
            return 0, 0
        head = -offset % PAGE
        return head, head + (len(flat) - head) // PAGE * PAGE

    def _give_up(self, error: OSError) -> None:
        """Fall back to the ordinary calls if the system has no direct I/O here; raise any other error."""
        if error.errno not in _NOT_HERE:
            raise error
        self._works = False  # and the descriptor stays open: another thread may be reading from it

    def close(self) -> None:
        """Close the direct descriptor, once nobody reads or writes."""
        direct, self._direct = self._direct, None
        if direct is not None:
            os.close(direct)

    def __del__(self) -> None:
        self.close()


class LongReads:
    """Reads long pieces of one open file, through the page cache or past it: whichever was faster in the first few pieces.

    Under a limit of memory the page cache may cost half of the speed: each page that is read has to be found a place, and a time
    after it is given up again. Past it there is one copy more, out of one of `AT_ONCE` buffers of `BOUNCE_NBYTES`.
    """

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self._direct: int | None = None
        self._free: collections.deque[Array] = collections.deque()
        self._trials: list[tuple[float, bool]] = []  # seconds for a byte, and whether past the page cache
        with contextlib.suppress(OSError, AttributeError):  # no such flag, a file system without direct I/O, no /proc
            self._direct = os.open(f"/proc/self/fd/{descriptor.number}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
            self._free.extend(empty_at(BOUNCE_NBYTES) for _ in range(AT_ONCE))

    def read(self, offset: int, out: Array) -> None:
        """Fill a C-contiguous array. Raises DamagedFileError if the file ends first. Any thread may call it."""
        is_direct, began = self._is_direct_next, time.perf_counter()
        if not (is_direct and self._read_past(offset, out.reshape(-1).view(np.uint8))):
            read_exactly(self.descriptor, offset, [out])
        if len(self._trials) < _TRIALS:
            self._trials.append(((time.perf_counter() - began) / out.nbytes, is_direct))

    @property
    def _is_direct_next(self) -> bool:
        if self._direct is None:
            return False
        if len(self._trials) < _TRIALS:
            return len(self._trials) % 2 == 0
        past, through = (np.median([cost for cost, direct in self._trials if direct == way] or [np.inf]) for way in (True, False))
        return bool(past < through)

    def _read_past(self, offset: int, flat: Array) -> bool:
        """Read by whole pages into a buffer, and copy; False where all buffers are in use, the system refuses, or the file ends."""
        try:
            bounce = self._free.pop()
        except IndexError:
            return False
        try:
            assert self._direct is not None
            at = 0
            while at < len(flat):
                low = (offset + at) // PAGE * PAGE
                wanted = min(BOUNCE_NBYTES, -(-(offset + len(flat)) // PAGE) * PAGE - low)
                skipped = offset + at - low
                taken = min(os.preadv(self._direct, [bounce[:wanted].data], low) - skipped, len(flat) - at)
                if taken <= 0:
                    return False
                flat[at : at + taken] = bounce[skipped : skipped + taken]
                at += taken
        except OSError:
            return False
        finally:
            self._free.append(bounce)
        return True

    def __del__(self) -> None:
        if (direct := getattr(self, "_direct", None)) is not None:
            os.close(direct)
