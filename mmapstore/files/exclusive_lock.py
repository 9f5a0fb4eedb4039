"""Lock a target between processes and threads: the holder writes, and every other writer gets an error that names the holder.

The kernel locks a small file made for it, and lets go of it when the holder ends, however it ends. A file that a kill left behind
locks nothing. (filelock keeps no name of the holder, and a forked child would hold on to its locks.)
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterator

from ..plain.errors import LockedFileError
from .system_errors import explaining_write_errors

_REFUSED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}

if sys.platform == "win32":
    import msvcrt

    _FAR = 1 << 30  # a locked byte cannot be read by others: one that is not there does no harm

    def _take(descriptor: int) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(error.errno, error.strerror) from error

    def _drop(descriptor: int, path: str) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        os.close(descriptor)
        os.unlink(path)  # what is open cannot be deleted there

else:
    import fcntl

    def _take(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _drop(descriptor: int, path: str) -> None:
        os.unlink(path)  # while it is held: whoever opened it meanwhile sees that it has no name any more, and makes another
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough: a program that forks in C has the descriptor too
        os.close(descriptor)


_held_here: set[int] = set()  # descriptors of the locks of this process


def _close_in_child() -> None:
    """Close the descriptors in a forked child, which would hold the locks after the writer died."""
    while _held_here:
        with contextlib.suppress(OSError):
            os.close(_held_here.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def exclusive_lock(path: str, target: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the file `path` alone while the block runs, so that nobody else writes `target`; it is deleted afterwards.

    Raises LockedFileError, naming the process that holds it, after `patience` seconds; WriteError if the file cannot be made. Warns
    where the file system has no locks: then nothing is held.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "x.npy.lock")
    ...     with exclusive_lock(path, "x.npy"):
    ...         print(os.listdir(folder))
    ...     os.listdir(folder)
    ['x.npy.lock']
    []
    """
    until = time.monotonic() + patience
    while True:
        try:
            with explaining_write_errors(target):
                descriptor = _held(path, target)
            break
        except LockedFileError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.05)
    try:
        yield
    finally:
        if descriptor in _held_here:  # not in a forked child that leaves the block
            _held_here.discard(descriptor)
            with contextlib.suppress(OSError):
                _drop(descriptor, path)


def _held(path: str, target: str) -> int:
    while True:
        descriptor, is_held = os.open(path, os.O_RDWR | os.O_CREAT, 0o666), False
        _held_here.add(descriptor)
        try:
            _take_or_explain(descriptor, target)
            with contextlib.suppress(FileNotFoundError):  # the file was deleted between opening and locking it
                is_held = os.path.samestat(os.fstat(descriptor), os.stat(path))
            if is_held:
                _sign(descriptor)
                return descriptor
        finally:
            if not is_held:
                _held_here.discard(descriptor)
                os.close(descriptor)


def _take_or_explain(descriptor: int, target: str) -> None:
    try:
        _take(descriptor)
    except BlockingIOError as error:
        os.lseek(descriptor, 0, os.SEEK_SET)
        holder = os.read(descriptor, 200).decode(errors="replace") or "a process that began just now"
        raise LockedFileError(
            f"{target} is being written by another run: {holder}. Wait until it ends, or choose another name."
        ) from error
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        warnings.warn(
            f"the file system of {target} has no locks ({error.strerror}): "
            "nothing keeps a second run from writing to it at the same time. See that there is none.",
            RuntimeWarning,
            stacklevel=2,
        )


def _sign(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # a full disk: those who write data there will tell
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
