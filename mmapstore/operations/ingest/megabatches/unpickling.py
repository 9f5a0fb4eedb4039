"""Files that are loaded whole: pickles of any protocol, those of joblib, and `.npz` archives with all their arrays.

A pickle is a program. Loading one runs it with the rights of whoever loads it, so nothing here does unless it is told to.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ....files.system_errors import explaining_read_errors
from ....plain.errors import DamagedFileError, MissingPackageError, MmapstoreError, UnsafeFileError

PICKLE_SUFFIXES = (".pkl", ".pickle", ".pkl.gz", ".pickle.gz", ".joblib")
SUFFIXES = (*PICKLE_SUFFIXES, ".npz")
_COMPRESSED: dict[bytes, Callable[[BinaryIO], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_NUMBERS = {bool: 0, int: 36, float: 24, type(None): 0}  # bytes of one in memory; larger ints are rare
_JOBLIB = "joblib.numpy_pickle"  # the module whose classes only joblib's own reader can make sense of


def is_pickle(path: str) -> bool:
    return path.lower().endswith(PICKLE_SUFFIXES)


def refuse_pickle(path: str) -> UnsafeFileError:
    return UnsafeFileError(
        f"{path} is a pickle, and loading a pickle runs whatever code its author put into it, with your rights; nothing can tell "
        "beforehand what that is. If you trust where it comes from, pass allow_pickle=True to mmapstore.Megabatches "
        "(--allow-pickle). If not, ask for it as .npz."
    )


def load_whole(path: str, allow_pickle: bool) -> Any:
    """Load the contents of a file into memory: of a `.npz` archive a dict of its arrays.

    Raises
    ------
    UnsafeFileError : it is a pickle, or holds one, and `allow_pickle` is False
    DamagedFileError : truncated, not what its suffix says, made of classes that are not to be found here
    NotFoundError, NotReadableError, MissingPackageError
    """
    with _explaining(path):
        if not is_pickle(path):
            return _load_npz(path, allow_pickle)
        if not allow_pickle:
            raise refuse_pickle(path)
        if not path.lower().endswith(".joblib"):
            with contextlib.suppress(_WrittenByJoblibError):
                return _load_pickle(path)
        return _load_joblib(path)


def held_while_loading(path: str) -> int:
    """Return the bytes that loading takes beside the loaded values. Older protocols hold a value twice while they decode it."""
    if not is_pickle(path):
        return 0
    try:
        with Path(path).open("rb") as file:
            start = file.read(2)
            if any(magic.startswith(start) for magic in _COMPRESSED) or path.lower().endswith(".joblib"):
                return 2 << 20  # decompressed in pieces; in each, only what is new is held
            factor = 2 if start[:1] != b"\x80" else 1 if start < b"\x80\x03" else 0
            return (1 << 20) + factor * os.fstat(file.fileno()).st_size
    except OSError:
        return 0


def least_held(path: str) -> int:
    """Return the least bytes that the loaded values take, as far as the file tells without being loaded."""
    try:
        if is_pickle(path):
            return os.stat(path).st_size
        with zipfile.ZipFile(path) as archive:
            return sum(info.file_size for info in archive.infolist())
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        return 0  # reading it will say what is wrong


class _WrittenByJoblibError(Exception):
    pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        if module.startswith(_JOBLIB):
            raise _WrittenByJoblibError
        return super().find_class(module, name)


def _load_pickle(path: str) -> Any:
    with Path(path).open("rb") as file:
        start = file.read(8)
        file.seek(0)
        opened = next((open_it for magic, open_it in _COMPRESSED.items() if start.startswith(magic)), None)
        stream = opened(file) if opened is not None else file
        # Texts of Python 2 have no encoding: they come as the bytes that they are.
        loaded = _Unpickler(stream, encoding="bytes").load()
        if stream.read(1):
            raise DamagedFileError(
                f"{path} goes on behind its first pickle. Files of several pickles are not read: save one dict in each file."
            )
        return loaded


def _load_joblib(path: str) -> Any:
    try:
        import joblib
    except ImportError as error:
        raise MissingPackageError(
            f"{path} was written by joblib, which is not installed. Install it with: pip install 'mmapstore[pickles]'"
        ) from error
    return joblib.load(path)


@contextlib.contextmanager
def _explaining(path: str) -> Iterator[None]:
    """Translate whatever a file's content raises: a pickle may raise anything, SystemExit too."""
    try:
        with explaining_read_errors(path):
            yield
    except MmapstoreError:
        raise
    except (ImportError, AttributeError) as error:
        raise DamagedFileError(
            f"{path} holds objects of a class that is not to be found here ({error}). Install the package that defines it, in the "
            "version that wrote the file, or have plain arrays saved instead."
        ) from error
    except (Exception, SystemExit) as error:
        raise _damaged(path, error) from error


def _damaged(path: str, error: BaseException) -> DamagedFileError:
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if "LZ4" in said.upper():
        return DamagedFileError(f"{path} is compressed with lz4, and cannot be read ({said}). Install it with: pip install lz4")
    return DamagedFileError(
        f"{path} cannot be loaded ({said}). It is truncated or damaged, or something else than its suffix says. "
        "Copy or write it again."
    )


def _load_npz(path: str, allow_pickle: bool) -> dict[str, Any]:
    with Path(path).open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise DamagedFileError(f"{path} is not a .npz archive, or is truncated. Copy or write it again.")
        file.seek(0)
        with np.load(file, allow_pickle=allow_pickle) as archive:
            return {name: _npz_array(archive, name, path, allow_pickle) for name in archive.files}


def _npz_array(archive: Any, name: str, path: str, allow_pickle: bool) -> Any:
    try:
        return archive[name]
    except (Exception, SystemExit) as error:
        if not allow_pickle and "allow_pickle" in str(error):
            raise UnsafeFileError(
                f"{path}: the array {name!r} holds Python objects as a pickle, and loading a pickle runs whatever code its author "
                "put into it. If you trust where it comes from, pass allow_pickle=True (--allow-pickle); texts need none if they "
                "are saved as numpy.array(texts, dtype=str)."
            ) from error
        raise _damaged(f"{path}::/{name}", error) from error


def held_by(value: Any) -> int:
    """Return the bytes of a loaded value. An object with several references is counted each time."""
    if isinstance(value, np.ndarray):
        return value.nbytes if value.dtype != object else held_by(value.tolist())
    if isinstance(value, dict):
        return sys.getsizeof(value) + sum(held_by(each) for pair in value.items() for each in pair)
    if not isinstance(value, (list, tuple)):
        return sys.getsizeof(value)
    kinds = set(map(type, value))
    if kinds <= _NUMBERS.keys():
        return sys.getsizeof(value) + len(value) * max(map(_NUMBERS.__getitem__, kinds), default=0)
    return sys.getsizeof(value) + sum(map(sys.getsizeof if kinds <= {*_NUMBERS, str, bytes} else held_by, value))
