"""Read files by descriptors of our own: positioned and vectored reads, memory maps, advice to the kernel."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..plain.errors import DamagedFileError, NotFoundError
from .system_errors import explaining_read_errors, read_error

Array = np.ndarray[Any, np.dtype[Any]]
MOST_OPEN = 64  # descriptors in a process, of a thousand or so that it may have
_PROBED_NBYTES = 8 << 20
_MOST_BUFFERS = 1024  # IOV_MAX on Linux and macOS: one preadv takes no more
# A pipe in the place of a file would block until somebody writes to it.
_READING = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)


class Descriptors:
    """The read-only file descriptors of one reader: opened when needed, closed with the reader or when others are needed more.

    At most `MOST_OPEN` are open in a process, over all readers: a Zarr store has a file for each chunk, and a process may have
    some thousand descriptors. Each reader has its own, so that a file that is replaced stays the old one for its reader.

    Parameters
    ----------
    path : the only file, if there is one: each time it is opened again it is checked to be the same; or the directory of all files
    """

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._opened = _status(path) if path is not None else None

    def get(self, path: str) -> Descriptor:
        """Return a descriptor that stays open as long as it is referenced."""
        key = (id(self), path)
        with _open.lock:
            found = _open.descriptors.get(key)
            if found is not None:
                _open.descriptors.move_to_end(key)
                return found
            found = Descriptor(path)
            if path == self._path and self._opened is not None and not os.path.samestat(self._opened, found.status):
                raise _replaced(path)
            _open.descriptors[key] = found
            while len(_open.descriptors) > MOST_OPEN:
                _open.descriptors.popitem(last=False)
            return found

    def check(self) -> None:
        """Raise DamagedFileError if the file is no longer as it was when this object was made, or the directory another or gone.

        One `stat`: another inode, size or time of change; of a directory, whose files come and go, another inode. Does nothing
        without a `path`.
        """
        if self._path is None or self._opened is None:
            return
        then, is_directory = self._opened, stat.S_ISDIR(self._opened.st_mode)
        try:
            now = _status(self._path)
        except NotFoundError as error:
            if not is_directory:
                raise
            raise DamagedFileError(
                f"{self._path} does not exist any more: it was deleted or moved since it was opened. Open it again where it is."
            ) from error
        if not os.path.samestat(then, now):
            raise _replaced(self._path, "directory" if is_directory else "file")
        if is_directory:
            return
        if then.st_size != now.st_size:
            raise DamagedFileError(
                f"{self._path} ends at byte {now.st_size}, but had {then.st_size} bytes when it was opened. It was "
                f"{'truncated or replaced' if now.st_size < then.st_size else 'written to'} since it was opened; "
                "open it again once it is whole."
            )
        if then.st_mtime_ns != now.st_mtime_ns:
            seconds = (now.st_mtime_ns - then.st_mtime_ns) / 1e9
            raise DamagedFileError(
                f"{self._path} was written to since it was opened: its time of change is {abs(seconds):.3g} s "
                f"{'later' if seconds > 0 else 'earlier'} than then. Open it again once nothing writes to it."
            )

    def __del__(self) -> None:
        try:
            with _open.lock:
                for key in [key for key in _open.descriptors if key[0] == id(self)]:
                    del _open.descriptors[key]
        except AttributeError:  # when the interpreter ends globals are gone: `_open`, and contextlib as well
            pass

    def __reduce__(self) -> tuple[type[Descriptors], tuple[str | None]]:
        return Descriptors, (self._path,)


class _Open:
    """Every descriptor open in this process, the one used last at the end."""

    def __init__(self) -> None:
        # Reentrant: a garbage collection inside `get` may run `__del__` of another reader.
        self.lock = threading.RLock()
        self.descriptors: OrderedDict[tuple[int, str], Descriptor] = OrderedDict()

    def after_fork(self) -> None:
        self.lock = threading.RLock()  # another thread may have held it


_open = _Open()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open.after_fork)


def _status(path: str) -> os.stat_result:
    with explaining_read_errors(path):
        return os.stat(path)


def _replaced(path: str, kind: str = "file") -> DamagedFileError:
    return DamagedFileError(f"{path} was replaced by another {kind} since it was opened. Open it again.")


def check_is_file(path: str, status: os.stat_result) -> None:
    """Raise DamagedFileError for a directory, and for pipes and devices, which may block, or never end."""
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe, a device or a socket"
        raise DamagedFileError(f"{path} is {kind}; expected a file. Check the path, or write the data again.")


def read_small(path: str, most: int) -> bytes:
    """Read all of a small file.

    Raises NotFoundError, NotReadableError, DamagedFileError (also for more than `most` bytes).
    """
    descriptor = Descriptor(path)
    size = descriptor.status.st_size
    if size > most:
        raise DamagedFileError(f"{path} has {size} bytes; expected at most {most}. It is damaged; copy or write it again.")
    content = np.empty(size, np.uint8)
    read_exactly(descriptor, 0, [content])
    return content.tobytes()


def read_small_text(path: str, most: int = 64 << 20) -> str:
    """Read all of a small file of UTF-8 text, such as metadata.

    Raises NotFoundError, NotReadableError, DamagedFileError (also for more than `most` bytes, and for what is no text).
    """
    try:
        return read_small(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"{path} is not text: {error}. It is damaged; copy or write it again.") from error


class Descriptor:
    """An open file, closed with the last reference to it. Raises what `check_is_file` does, NotFoundError, NotReadableError."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._map: mmap.mmap | None = None
        try:
            self.number = os.open(path, _READING)
        except OSError as error:
            raise read_error(error, path) or error from error
        self.status = os.fstat(self.number)
        check_is_file(path, self.status)

    def map(self, offset: int, nbytes: int) -> mmap.mmap:
        """Return a read-only memory map of the file, made once; it lives as long as an array looks into it.

        Raises DamagedFileError if the file is too short for these bytes: touching a map past the end kills the process.
        """
        if self._map is None or offset + nbytes > len(self._map):
            size = os.fstat(self.number).st_size
            if offset + nbytes > size:
                raise DamagedFileError(
                    f"{self.path} ends at byte {size}, but {nbytes} bytes at offset {offset} were expected. "
                    "It was truncated or replaced since it was opened; write it again."
                )
            with explaining_read_errors(self.path):
                self._map = mmap.mmap(self.number, size, access=mmap.ACCESS_READ)
        return self._map

    def unmap_pages(self, offset: int, nbytes: int) -> None:
        """Take pages out of the map, if there is one: the kernel does not drop pages that a process has mapped."""
        start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (offset + nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - start
        if self._map is not None and length > 0 and hasattr(mmap, "MADV_DONTNEED"):
            with contextlib.suppress(OSError, ValueError):
                self._map.madvise(mmap.MADV_DONTNEED, start, length)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self.number)


def read_exactly(descriptor: Descriptor, offset: int, outs: Sequence[Array]) -> None:
    """Fill the C-contiguous arrays `outs`, one after the other, from the bytes at `offset`.

    One system call where the kernel gives all at once, which it does for files; short reads are gone on with.
    Raises DamagedFileError if the file ends first.
    """
    wanted = sum(out.nbytes for out in outs)
    done = _preadv(descriptor, list(outs[:_MOST_BUFFERS]), offset) if wanted else 0
    if done == wanted:
        return
    rest = [out.reshape(-1).view(np.uint8).data for out in outs]
    skip = done
    while rest:
        while rest and skip >= len(rest[0]):
            skip -= len(rest[0])
            rest.pop(0)
        if not rest:
            break
        rest[0] = rest[0][skip:]
        skip = _preadv(descriptor, rest[:_MOST_BUFFERS], offset + done)
        if skip == 0:
            size = os.fstat(descriptor.number).st_size
            raise DamagedFileError(
                f"{descriptor.path} ends at byte {size}, but {wanted} bytes at offset {offset} were expected. "
                "It was truncated or replaced since it was opened; write it again."
            )
        done += skip


def read_small_file(path: str, out: Any) -> int:
    """Read a file into the beginning of `out`: return its bytes, len(out) where it may have more, -1 for any error."""
    with contextlib.suppress(OSError, AttributeError):  # Windows has no preadv
        number = os.open(path, _READING)
        try:
            return os.preadv(number, [out], 0)
        finally:
            os.close(number)
    return -1


def read_rows(descriptor: Descriptor, offsets: Sequence[int], outs: Sequence[Array]) -> None:
    """Row k of every array of `outs`, one after the other, from the bytes at `offsets[k]`: one system call for each k.

    This is the inner loop of shuffled training, so it does nothing else while all goes well.
    """
    nbytes = sum(out[0].nbytes for out in outs) if offsets else 0
    number, preadv = descriptor.number, getattr(os, "preadv", None)
    single = outs[0] if len(outs) == 1 else None
    for k, offset in enumerate(offsets):
        rows = [single[k]] if single is not None else [out[k] for out in outs]
        try:
            if preadv is not None and preadv(number, rows, offset) == nbytes:
                continue
        except OSError:
            pass  # read_exactly meets it again, and says what it was
        read_exactly(descriptor, offset, rows)


def _preadv(descriptor: Descriptor, buffers: Any, offset: int) -> int:
    try:
        if hasattr(os, "preadv"):
            return os.preadv(descriptor.number, buffers, offset)
        return _preadv_by_seek(descriptor, buffers, offset)
    except OSError as error:
        found = read_error(error, descriptor.path, f" while reading at byte {offset}")
        raise found or error from error


_seek_lock = threading.Lock()


def _preadv_by_seek(descriptor: Descriptor, buffers: Any, offset: int) -> int:
    """Windows has no positioned read: seek and read, one thread at a time."""
    done = 0
    with _seek_lock:
        os.lseek(descriptor.number, offset, os.SEEK_SET)
        for buffer in buffers:
            flat = memoryview(buffer).cast("B")
            data = os.read(descriptor.number, len(flat))
            flat[: len(data)] = data
            done += len(data)
            if len(data) < len(flat):
                break
    return done


def will_need(descriptor: Descriptor, offset: int, nbytes: int) -> None:
    """Ask the kernel to read these bytes into the page cache soon. Returns at once; does nothing where there is no such call."""
    if hasattr(os, "posix_fadvise") and nbytes > 0 and not are_cached(descriptor, offset, nbytes):
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor.number, offset, nbytes, os.POSIX_FADV_WILLNEED)


def are_cached(descriptor: Descriptor, offset: int, nbytes: int) -> bool:
    """Return True if these bytes seem to be in the page cache, by a byte of each `_PROBED_NBYTES`.

    The advice looks at every page, which takes a tenth of the time that copying all of them takes.
    """
    places = (*range(offset, offset + nbytes - 1, _PROBED_NBYTES), offset + nbytes - 1)
    try:
        return all(os.preadv(descriptor.number, [bytearray(1)], place, os.RWF_NOWAIT) == 1 for place in places)
    except (OSError, AttributeError):  # the byte is not there, or the system cannot tell
        return False


def let_go(descriptor: Descriptor, offset: int, nbytes: int) -> None:
    """Let the kernel drop the pages that lie wholly in these bytes. Arrays of a map stay right: their pages are read again."""
    descriptor.unmap_pages(offset, nbytes)
    if hasattr(os, "posix_fadvise") and nbytes > 0:
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor.number, offset, nbytes, os.POSIX_FADV_DONTNEED)
