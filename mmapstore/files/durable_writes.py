"""Writes that survive a crash: synced to the disk, and published under their name only when they are complete."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_seek_lock = threading.Lock()  # Windows has no positioned write


def allocate(number: int, nbytes: int) -> None:
    """Make the file of a descriptor at least `nbytes` long, on disk too where the system can: a full disk is an error now.

    A hole in a mapped file would be a SIGBUS later.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(number, 0, nbytes)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    if os.fstat(number).st_size < nbytes:
        os.ftruncate(number, nbytes)


def sync_data(number: int) -> None:
    """Wait until the disk has all that was written to a descriptor."""
    getattr(os, "fdatasync", os.fsync)(number)


def write_at(number: int, offset: int, samples: Array) -> None:
    """Write all bytes of a C-contiguous array at `offset` of a descriptor."""
    rest = samples.reshape(-1).view(np.uint8).data
    while rest:
        if hasattr(os, "pwrite"):
            done = os.pwrite(number, rest, offset)
        else:
            with _seek_lock:
                os.lseek(number, offset, os.SEEK_SET)
                done = os.write(number, rest)
        rest, offset = rest[done:], offset + done


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Make a rename in this directory survive a crash. Does nothing where directories cannot be opened (Windows)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_tree(path: str | os.PathLike[str]) -> None:
    """fsync a file, or every file and directory below a directory."""
    if not os.path.isdir(path):
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return
    for folder, _, names in os.walk(path):
        for name in names:
            sync_tree(os.path.join(folder, name))
        sync_directory(folder)


def replace(temporary: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Move a finished sibling into place, over a file of that name, and make that durable.

    A directory cannot be replaced atomically: an old one is moved aside first and deleted afterwards.
    """
    old = None
    if os.path.isdir(target):
        old = f"{os.fspath(target)}.replaced"
        os.replace(target, old)
    try:
        os.replace(temporary, target)
    except OSError:
        if old is not None:
            os.replace(old, target)
        raise
    sync_directory(os.path.dirname(os.path.abspath(target)))
    if old is not None:
        shutil.rmtree(old)


def remove(path: str | os.PathLike[str]) -> None:
    """Delete a file, a link, or a directory with all that is in it, if it is there."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def write_text_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Write a small file of text so that a reader sees all of it or the one before."""
    write_atomically(path, text.encode() or b"\n")


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a small file, of at least one byte, so that a reader sees all of it or the one before."""
    temporary = f"{os.fspath(path)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    number = os.open(temporary, flags, 0o666)
    try:
        write_at(number, 0, np.frombuffer(content, np.uint8))
        os.fsync(number)
    finally:
        os.close(number)
    replace(temporary, path)
