"""h5py, imported when first needed, and its errors translated into words that say what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path
from typing import Any

from ..files.system_errors import explaining, raised_in, read_error, write_error
from ..plain.errors import (
    DamagedFileError,
    LockedFileError,
    MemoryBudgetError,
    MissingPackageError,
    MmapstoreError,
    TargetExistsError,
    UnsafeFileError,
    WriteError,
)
from .foreign_files import hdf5_driver

_LOCKED_BY_OTHERS = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES}
_WRITE_CACHE_NBYTES = 1 << 20  # of chunks not written yet, for each dataset; HDF5 2 would hold 8 MiB back
_METADATA_NBYTES = 1 << 20  # kept by HDF5, which takes four times as much memory; by default it begins with 2 MiB and may keep 32
_LIBRARY_ERRORS = (OSError, RuntimeError, ValueError, KeyError)


def library() -> Any:
    """Return the module h5py. Raises MissingPackageError where it is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise MissingPackageError('HDF5 files need the package h5py. Install it with: pip install "mmapstore[hdf5]"') from error
    return h5py


def filter_plugins() -> Any | None:
    """Return the module hdf5plugin, whose import brings blosc, zstd, lz4 ... to h5py; None if it is not installed."""
    try:
        import hdf5plugin  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return None
    return hdf5plugin


def open_to_read(path: str) -> Any:
    """Return an h5py.File, read-only. Joins a writer that shares the file (SWMR); never goes round a lock."""
    h5py = library()
    with explaining_read_errors(path):
        try:
            file = h5py.File(path, "r")
            config = file.id.get_mdc_config()
            config.initial_size = config.min_size = config.max_size = _METADATA_NBYTES
            file.id.set_mdc_config(config)
            return file
        except OSError as error:
            if "already open for write" not in str(error):
                raise
            # HDF5 grants this only for files that are being written in the mode made for sharing.
            with contextlib.suppress(OSError):
                return h5py.File(path, "r", swmr=True)
            raise


def open_to_write(path: str, mode: str) -> Any:
    """Return an h5py.File opened "r+" or "x". Never "w": that empties the file before HDF5 asks for its lock."""
    h5py = library()
    with explaining_failed_writes(path):
        return h5py.File(path, mode, rdcc_nbytes=_WRITE_CACHE_NBYTES)


def explaining_read_errors(where: str) -> contextlib.AbstractContextManager[None]:
    """Translate errors of h5py and the system met while the file or dataset `where` is read."""
    return explaining(where, _read_rule)


def explaining_failed_writes(path: str) -> contextlib.AbstractContextManager[None]:
    """Translate errors of h5py and the system met while `path` is written."""
    return explaining(path, _write_rule)


def _read_rule(error: Exception, where: str) -> MmapstoreError | None:
    if isinstance(error, MemoryError):
        return MemoryBudgetError(
            f"{where} cannot be read: HDF5 finds no memory for what the file declares ({str(error) or 'it names no number'}). Read "
            "fewer samples at a time; if the data is not that large, the file is damaged."
        )
    return _explained(error, where) if _is_of_hdf5(error) else None


def _write_rule(error: Exception, path: str) -> MmapstoreError | None:
    if not _is_of_hdf5(error):
        return None
    if _is_lock(error) or "signature not found" in str(error) or "truncated file" in str(error):
        return _explained(error, path)
    number = _error_number(error)
    if number == errno.EEXIST:
        return TargetExistsError(f"{path} exists. Choose another name, or delete it first.")
    if number is None:
        return WriteError(f"{path} cannot be written: HDF5 refuses ({error}). Delete it and write it again.")
    return write_error(OSError(number, os.strerror(number)), path)


def _is_of_hdf5(error: Exception) -> bool:
    """Tell errors of HDF5 and the system from mistakes of mmapstore, such as a ValueError of NumPy."""
    return _error_number(error) is not None or (isinstance(error, _LIBRARY_ERRORS) and raised_in(error, "h5py"))


def _error_number(error: Exception) -> int | None:
    """Return the system's error number, which h5py mostly hides in its text."""
    found = getattr(error, "errno", None) or next((int(number) for number in re.findall(r"errno = (\d+)", str(error))), None)
    return found or None


def _is_lock(error: Exception) -> bool:
    return any(words in str(error) for words in ("unable to lock file", "already open for", "unable to set status flags"))


def _explained(error: Exception, where: str) -> MmapstoreError:
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    number = _error_number(error)
    if _is_lock(error):
        return LockedFileError(_lock_text(text, number, where))
    if number is not None and (found := read_error(OSError(number, os.strerror(number)), where)):
        return found
    if ("truncated file" in text or "driver should be used" in text) and (needed := hdf5_driver(where)):
        return UnsafeFileError(
            f"{where} is one of several files that are one HDF5 file together, written with HDF5's driver {needed[0]}; expected a "
            f"file that is whole by itself. Make one of them: `h5repack NAME OUT`, where NAME is {needed[1]}."
        )
    if match := re.search(r"truncated file: eof = (\d+), .*stored_eof = (\d+)", text):
        return DamagedFileError(
            f"{where} is truncated: found {match[1]} bytes, expected {match[2]} as its header says. The copy or the program that "
            "wrote it was interrupted; copy or write it again."
        )
    if "signature not found" in text:
        return DamagedFileError(
            f"{where} is not an HDF5 file: expected the HDF5 signature (89 48 44 46 ...), found {_first_bytes(where)}. Check what "
            "wrote it; if it is another format, give it the suffix of that format."
        )
    if "filter" in text and ("not registered" in text or "unable to open plugin" in text or "can't open directory" in text):
        return MissingPackageError(
            f"{where} is compressed with a filter that h5py lacks. Install it with: pip install hdf5plugin ({text})"
        )
    return DamagedFileError(
        f"{where} is damaged or cut short: HDF5 cannot read it ({text}); expected a whole HDF5 file. Copy or write it again; "
        "`h5dump -H FILE` shows how much of it can still be read."
    )


def _lock_text(text: str, number: int | None, where: str) -> str:
    if "unable to lock file" in text and number not in _LOCKED_BY_OTHERS:
        reason = os.strerror(number) if number else text
        return (
            f"{where} cannot be locked: its file system refuses file locks ({reason}), as some network and cluster file systems "
            "do; HDF5 expects one. Copy the file to a local disk; or, only if you are certain that nothing writes to it "
            "meanwhile, set the environment variable HDF5_USE_FILE_LOCKING=FALSE before Python starts. The risk: nothing then "
            "notices a writer, and half-written data is read as good."
        )
    if "already open for read-only" in text:
        return (
            f"{where} cannot be written: this process has it open for reading. Close or delete the h5py object or mmapstore "
            "dataset that reads it, then write."
        )
    if "unable to lock file" in text:
        return (
            f"{where} is held by another program, which has it open (HDF5 locks a file that is being written, and one that is "
            "being read against writers). Close it there and try again; or have the writer share it (h5py: libver='latest', then "
            "file.swmr_mode = True). Setting the environment variable HDF5_USE_FILE_LOCKING=FALSE would go round the lock, at the "
            "risk of reading half-written data."
        )
    return (
        f"{where} is marked as being written: a program has it open for writing, or died while it had. Close it there; to read "
        "along, have the writer share it (h5py: file.swmr_mode = True). If no program has it open any more, clear the mark with "
        "`h5clear -s FILE`, and mistrust what was written last."
    )


def _first_bytes(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            found = file.read(8)
    except OSError:
        return "nothing readable"
    return found.hex(" ") if found else "an empty file"
