"""Errors of the system and of libraries, translated in one place: one table of error numbers, and rules for each library.

Mistakes of mmapstore itself pass as they are: an exception without an error number is a library's only where a frame of that
library raised it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator

from ..plain.errors import DamagedFileError, MmapstoreError, NotFoundError, NotReadableError, ReadError, WriteError

Rule = Callable[[Exception, str], "MmapstoreError | None"]
"""Translate an exception met while `where`, the second argument, was read or written; None if another rule is to decide."""

_NO_PERMISSION = "Permission was denied. Write where you may, or change the permissions of that directory."
_READING: dict[int, tuple[type[MmapstoreError], str]] = {
    errno.ENOENT: (NotFoundError, "does not exist. Check the path"),
    errno.EACCES: (NotReadableError, "may not be read by this user. Change its permissions, or ask its owner to."),
    errno.EPERM: (NotReadableError, "may not be read by this user. Change its permissions, or ask its owner to."),
    errno.EISDIR: (DamagedFileError, "is a directory; expected a file. Name the file inside it."),
    errno.ENOTDIR: (DamagedFileError, "cannot be read: a part of its path is a file, not a directory. Check the path."),
    errno.ELOOP: (DamagedFileError, "cannot be read: links on its path lead in a circle. Open the file by its own path."),
    errno.EMFILE: (ReadError, "cannot be opened: too many files are open in this process. Close some, or raise `ulimit -n`."),
    errno.ENFILE: (ReadError, "cannot be opened: too many files are open on this machine. Close some programs, and try again."),
    errno.ENOMEM: (ReadError, "cannot be read: the system has no memory left for it. Close other programs, and try again."),
}
_WRITING = {
    errno.ENOSPC: "The disk is full. Free space, then run the same command again: it resumes.",
    errno.EDQUOT: "The disk quota is used up. Free space, then run the same command again: it resumes.",
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EROFS: "That file system is read-only. Write somewhere else.",
    errno.ENOENT: "The directory does not exist. Create it first.",
    errno.ENOTDIR: "Part of that path is a file, not a directory.",
}
_HOPELESS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def read_error(error: Exception, where: str, doing: str = "") -> MmapstoreError | None:
    """Translate an error number of the system met while `where` was read; `doing` says more, such as " while reading at byte 40".

    The result keeps the error number as `errno`. None for an exception without one.

    >>> read_error(FileNotFoundError(errno.ENOENT, "No such file or directory"), "/data/x.npy")
    NotFoundError('/data/x.npy does not exist. Check the path.')
    """
    if not isinstance(error, OSError) or not error.errno:
        return None
    kind, text = _READING.get(error.errno, (DamagedFileError, ""))
    if error.errno == errno.ENOENT:
        text += "." if os.path.isabs(where) else f" and the directory that it is relative to: {os.getcwd()}."
    elif not text:
        text = (
            f"cannot be read: {os.strerror(error.errno)}{doing}. Check the disk and the connection to it, or copy the file from "
            "where it is whole."
        )
    found = kind(f"{where} {text}")
    found.errno = error.errno  # type: ignore[attr-defined]
    return found


def write_error(error: Exception, where: str) -> MmapstoreError | None:
    """Translate an error of the system met while `where` was written; None for other exceptions."""
    if not isinstance(error, OSError):
        return None
    remedy = _WRITING.get(error.errno or 0, "Check the disk, then run the same command again.")
    return WriteError(f"{where} cannot be written: {error.strerror or error}. {remedy}")


def raised_in(error: BaseException, *packages: str) -> bool:
    """Tell whether the exception passed through a frame of one of these packages, such as "h5py"."""
    at = error.__traceback__
    while at is not None:
        if at.tb_frame.f_globals.get("__name__", "").partition(".")[0] in packages:
            return True
        at = at.tb_next
    return False


@contextlib.contextmanager
def explaining(where: str | os.PathLike[str], *rules: Rule) -> Iterator[None]:
    """Raise the first translation that `rules` have for an exception of the block; an exception that none knows passes."""
    try:
        yield
    except MmapstoreError:
        raise
    except Exception as error:
        for rule in rules:
            found = rule(error, os.fspath(where))
            if found is not None:
                raise found from error
        raise


def explaining_read_errors(where: str | os.PathLike[str], *rules: Rule) -> contextlib.AbstractContextManager[None]:
    """Translate errors met while `where` is read: by `rules` first, then by the table of error numbers."""
    return explaining(where, *rules, read_error)


def explaining_write_errors(where: str | os.PathLike[str], *rules: Rule) -> contextlib.AbstractContextManager[None]:
    """Translate errors met while `where` is written: by `rules` first, then by the table of error numbers."""
    return explaining(where, *rules, write_error)


def is_of_this_machine(error: BaseException) -> bool:
    """Tell whether a full or broken disk, or exhausted memory or descriptors, is to blame, not the object in hand."""
    if isinstance(error, MemoryError):
        return not isinstance(error, MmapstoreError)
    found = error.__cause__ if isinstance(error, (WriteError, ReadError)) else error
    return isinstance(found, OSError) and found.errno in _HOPELESS
