"""A `.npy` file that is filled block by block, in any order, by any number of processes, and that survives being killed.

Beside it lies a file of flags, one byte for each block: 1 where the block is there. A flag is written only after the block
is on the disk, so whatever is flagged is right, whenever the process or the machine died. In the process that wrote a block
it counts at once. Two processes that fill the same block write the same bytes.
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading
import time
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files.descriptors import Descriptors, let_go, read_exactly, will_need
from ..files.durable_writes import replace, sync_data, write_at
from ..files.exclusive_lock import exclusive_lock
from ..files.system_errors import explaining_read_errors, explaining_write_errors
from ..formats.npy_file import header_bytes
from ..plain.array_spec import ArraySpec
from ..plain.errors import DamagedFileError, LockedFileError, MmapstoreError, SlowAccessWarning, WriteError
from .contract import Array

Numbers = np.ndarray[Any, np.dtype[np.int64]]

SYNC_BYTES = 64 * 2**20  # written before the disk is waited for: what a kill loses of the work, at most
_PATIENCE = 60.0  # seconds to wait for another process that makes the same file, which takes it milliseconds


def flags_of(path: str) -> str:
    """Return the file of flags that belongs to a cache file."""
    return path.removesuffix(".npy") + ".filled"


def allocated_nbytes(path: str) -> int:
    """Return the bytes that a file takes on its disk; 0 if it does not exist. Holes take none."""
    try:
        status = os.stat(path)
    except OSError:
        return 0
    blocks: int | None = getattr(status, "st_blocks", None)  # Windows does not tell
    return status.st_size if blocks is None else blocks * 512


class CacheFile:
    """Samples of `spec` at `path`, in blocks [ends[k], ends[k + 1]). Made by `cache_file`. Any thread may call any method.

    `writes` is False where the directory may only be read, and once a write has failed: then nothing is written any more.
    """

    def __init__(self, path: str, spec: ArraySpec, ends: Numbers) -> None:
        self.path = path
        self.spec = spec
        self._ends = ends
        self._header = header_bytes(spec.shape, spec.dtype)
        if self._fault() is not None:
            self._begin()
        self._status = os.stat(path)
        self._data, self._flags = Descriptors(path), Descriptors(flags_of(path))
        self._known = np.zeros(len(ends) - 1, bool)
        self._writing: _Writing | None = None
        with contextlib.suppress(OSError):  # may only be read: what is there is used
            self._writing = _Writing(path, flags_of(path))
            weakref.finalize(self, self._writing.close).atexit = False
            # When the interpreter ends, threads may still be writing: a number that was closed could be another file's by then.
            weakref.finalize(self, self._writing.flush_if_possible)
        self.writes = self._writing is not None
        self._look(0, len(self._known))

    # --- what is there ---------------------------------------------------------------------------------------------------

    def filled(self, first: int, last: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return a mask of the blocks [first, last) that are there, also by other processes. A view: not to be written to."""
        if not self._known[first:last].all():
            self._look(first, last)
        return self._known[first:last]

    def _look(self, first: int, last: int) -> None:
        """Learn what others have flagged meanwhile."""
        found = np.empty(last - first, np.uint8)
        with contextlib.suppress(MmapstoreError):  # without its flags a block is decoded again
            read_exactly(self._flags.get(flags_of(self.path)), first, [found])
            self._known[first:last] |= found == 1

    def check(self) -> None:
        """Raise DamagedFileError if the file was deleted, replaced or cut since it was opened."""
        check_same(self.path, self._status)

    # --- reading ---------------------------------------------------------------------------------------------------------

    def read(self, start: int, stop: int, out: Array) -> None:
        """Fill `out` with samples [start, stop), whose blocks are there."""
        read_exactly(self._data.get(self.path), self._offset(start), [out])

    def will_need(self, start: int, stop: int) -> None:
        with contextlib.suppress(MmapstoreError, OSError):
            will_need(self._data.get(self.path), self._offset(start), self._offset(stop) - self._offset(start))

    def let_go(self, start: int, stop: int) -> None:
        with contextlib.suppress(MmapstoreError, OSError):
            let_go(self._data.get(self.path), self._offset(start), self._offset(stop) - self._offset(start))

    def _offset(self, sample: int) -> int:
        return len(self._header) + sample * self.spec.sample_nbytes

    # --- writing ---------------------------------------------------------------------------------------------------------

    def write(self, number: int, samples: Array) -> None:
        """Write a block. A failure is a warning, and the last write."""
        if not self.writes or self._writing is None:
            return
        try:
            write_at(self._writing.data, self._offset(int(self._ends[number])), samples)
        except OSError as error:
            self._stop(error)
            return
        self._known[number] = True
        self._writing.written.append(number)
        self._writing.nbytes += samples.nbytes
        if self._writing.nbytes >= SYNC_BYTES:
            self.flush()

    def flush(self) -> None:
        """Return when the disk has every block that was written, and its flag."""
        if self._writing is None:
            return
        numbers = self._writing.take()
        try:
            self._writing.put_down(numbers)
        except OSError as error:
            self._known[numbers] = False  # the kernel may have dropped what it could not write
            self._stop(error)

    def _stop(self, error: OSError) -> None:
        if self.writes:
            self.writes = False
            warnings.warn(
                f"{self.path} cannot be written any further: {error.strerror or error}. Its samples are used; the rest is "
                "decoded in every epoch, as without a cache. Free space and start again: it goes on where it ended.",
                SlowAccessWarning,
                stacklevel=2,
            )

    # --- making ----------------------------------------------------------------------------------------------------------

    def _fault(self) -> str | None:
        """Return the reason if the files cannot be used; "" if there are none, None if they can."""
        flags_path = flags_of(self.path)
        for path in (self.path, flags_path):
            if os.path.lexists(path) and not os.path.isfile(path):
                raise WriteError(f"{path} is in the way: it is no file. Move it, or choose another directory for the cache.")
        if not os.path.exists(self.path):
            return ""
        with explaining_read_errors(self.path):
            with Path(self.path).open("rb") as file:
                header = file.read(len(self._header))
            size, expected = os.stat(self.path).st_size, self._offset(len(self.spec))
            if header != self._header:
                return "it does not begin as it was written"
            if size != expected:
                return f"it has {size} bytes, expected {expected}"
            if not os.path.exists(flags_path):
                return f"{flags_path}, which says what is in it, is gone"
            flags = np.fromfile(flags_path, np.uint8, len(self._ends))
        if len(flags) != len(self._ends) - 1 or flags.max(initial=0) > 1:
            return f"{flags_path}, which says what is in it, is damaged"
        return None

    def _begin(self) -> None:
        """Make both files, empty, unless somebody else just did."""
        with explaining_write_errors(self.path), _patient_lock(self.path):
            fault = self._fault()
            if fault is None:
                return
            if fault:
                warnings.warn(
                    f"{self.path} cannot be used: {fault}. It is begun again, and the data decoded once more.",
                    SlowAccessWarning,
                    stacklevel=2,
                )
            # The flags first: none must be left of a file that is no more.
            _write_durably(flags_of(self.path), b"", len(self._ends) - 1)
            _write_durably(self.path, self._header, self._offset(len(self.spec)))


_files: weakref.WeakValueDictionary[str, CacheFile] = weakref.WeakValueDictionary()
_files_lock = threading.Lock()


def cache_file(path: str, spec: ArraySpec, ends: Numbers) -> CacheFile:
    """Return the cache file at `path`, made if it is not there: one object for all in this process, so that none fills it twice.

    One that is damaged is begun again, with a warning. Raises WriteError if it cannot be made.
    """
    with _files_lock:
        found = _files.get(path)
        if found is not None and found.writes and found.spec == spec:
            with contextlib.suppress(MmapstoreError):
                found.check()
                return found
        made = _files[path] = CacheFile(path, spec, ends)
        return made


def _forget_lock() -> None:
    global _files_lock
    _files_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)


class _Writing:
    """The descriptors that are written through, and the blocks that were written and have no flag yet."""

    def __init__(self, path: str, flags_path: str) -> None:
        mode = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        self.data = os.open(path, mode)
        try:
            self._flags = os.open(flags_path, mode)
        except OSError:
            os.close(self.data)
            raise
        self.written: collections.deque[int] = collections.deque()  # appended to and emptied without a lock: a fork may come
        self.nbytes = 0

    def take(self) -> list[int]:
        self.nbytes = 0
        found: list[int] = []
        with contextlib.suppress(IndexError):
            while True:
                found.append(self.written.popleft())
        return found

    def put_down(self, numbers: Iterable[int]) -> None:
        rising = sorted(numbers)
        if not rising:
            return
        sync_data(self.data)
        for first, count in _runs(rising):
            write_at(self._flags, first, np.ones(count, np.uint8))

    def flush_if_possible(self) -> None:
        with contextlib.suppress(OSError):  # what has no flag is decoded again
            self.put_down(self.take())

    def close(self) -> None:
        self.flush_if_possible()
        os.close(self.data)
        os.close(self._flags)


def _runs(rising: Sequence[int]) -> Iterator[tuple[int, int]]:
    """
    >>> list(_runs([2, 3, 4, 7]))
    [(2, 3), (7, 1)]
    """
    first = last = rising[0]
    for number in rising[1:]:
        if number > last + 1:
            yield first, last + 1 - first
            first = number
        last = number
    yield first, last + 1 - first


def check_same(path: str, opened: os.stat_result) -> None:
    """Raise DamagedFileError unless the file has the size and identity it had. Its time of change may differ: others write
    blocks that are there already."""
    try:
        now = os.stat(path)
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be found any more: {error.strerror}. Call cache(...) again.") from error
    if not os.path.samestat(now, opened) or now.st_size != opened.st_size:
        raise DamagedFileError(
            f"{path} was {'cut or written over' if os.path.samestat(now, opened) else 'replaced'} since it was opened: it has "
            f"{now.st_size} bytes, expected {opened.st_size}. Call cache(...) again; what is missing is decoded anew."
        )


@contextlib.contextmanager
def _patient_lock(path: str) -> Iterator[None]:
    """Hold the lock on making this file; wait while another process does."""
    give_up = time.monotonic() + _PATIENCE
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(exclusive_lock(f"{path}.lock", path))
                break
            except LockedFileError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.01)
        yield


def _write_durably(path: str, begin: bytes, nbytes: int) -> None:
    """A file of that many bytes, zero but for those it begins with, that takes no room for them; it replaces one of that name."""
    temporary = f"{path}.tmp"
    with Path(temporary).open("wb") as file:
        file.write(begin)
        file.truncate(nbytes)
        file.flush()
        os.fsync(file.fileno())
    replace(temporary, path)
