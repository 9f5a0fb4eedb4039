"""Samples behind the end of a `.npy` file that others may be reading: its header says nothing of them until all are there.

1. the samples are written behind those that the header declares, which are never touched, and are on disk;
2. `show` writes the header, which is the same up to one number, and as long as before: one call, within one block of any disk.

Killed before 2, the file is what it was, with bytes behind its end that no reader looks at, and that `forget` gives back.
"""

from __future__ import annotations

import io
import math
import os

import numpy as np

from ..files.durable_writes import allocate, sync_data
from ..files.system_errors import explaining_write_errors
from ..plain.errors import DamagedFileError, InvalidValueError, StateMismatchError
from .contract import Array, NewArray
from .npy_file import NpyWriter, header_bytes, header_of


def reopen(path: str | os.PathLike[str], key: str | None, new: NewArray) -> NpyTail:
    """Go on behind a file that exists. Unless `new` is resizable, disk space for all samples is taken at once.

    Raises StateMismatchError if it holds other samples than `new`, or its header has no room for a larger number; WriteError.
    """
    name = os.fspath(path)
    header = header_of(name)
    if header.shape[1:] != tuple(new.shape[1:]) or header.dtype != new.dtype or header.fortran_order:
        raise StateMismatchError(
            f"{name} holds {header.shape} {header.dtype}{' in Fortran order' * header.fortran_order}; samples of "
            f"{tuple(new.shape[1:])} {new.dtype} cannot follow."
        )
    if len(header_bytes(header.shape, header.dtype)) != header.offset:
        raise StateMismatchError(f"{name} has a header without room for a larger number of samples. Ingest it into a new file.")
    with explaining_write_errors(name):
        file = io.FileIO(name, "r+")
        try:
            if not new.resizable:
                allocate(file.fileno(), header.offset + math.prod(new.shape) * header.dtype.itemsize)
        except BaseException:
            file.close()
            raise
    return NpyTail(name, file, header, new.resizable)


class NpyTail(NpyWriter):
    """Writes behind the samples that the header declares; writing declared samples again does nothing."""

    def write(self, start: int, block: Array) -> None:
        there = min(len(block), max(0, self.shape[0] - start))
        if there < len(block):
            self._write_samples(start + there, np.ascontiguousarray(block[there:], self.dtype))

    def read(self, start: int, stop: int) -> Array:
        """Return samples [start, stop), also behind the declared ones. Raises DamagedFileError where the file ends."""
        return self._read_samples(start, stop)

    def truncate(self, samples: int) -> None:
        """Give back the room behind the first `samples`. Raises InvalidValueError for fewer than the header declares."""
        if samples < self.shape[0]:
            raise InvalidValueError(f"{self.name} declares {self.shape[0]} samples; cannot keep the first {samples}.")
        with explaining_write_errors(self.name):
            self._file.truncate(self._header.offset + samples * self._row_nbytes)


def show(path: str, samples: int) -> None:
    """Have the header declare that many samples, which are there. The same once more does no harm."""
    header = header_of(path)
    shape = (samples, *header.shape[1:])
    encoded = header_bytes(shape, header.dtype)
    declared = header.offset + math.prod(shape) * header.dtype.itemsize
    with explaining_write_errors(path), io.FileIO(path, "r+") as file:
        if len(encoded) != header.offset or os.fstat(file.fileno()).st_size < declared:
            raise DamagedFileError(f"{path} is not the file that {samples} samples were written to: somebody replaced it.")
        file.write(encoded)
        sync_data(file.fileno())


def forget(path: str) -> None:
    """Cut the file to what its header declares."""
    header = header_of(path)
    with explaining_write_errors(path):
        os.truncate(path, header.offset + math.prod(header.shape) * header.dtype.itemsize)
