"""`.npy` files: one array of plain bytes behind a short header. Read through a map, written in place; never any pickle."""

from __future__ import annotations

import contextlib
import io
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files.direct_io import DirectFile, empty_at
from ..files.durable_writes import allocate, sync_data, write_at
from ..files.system_errors import explaining_read_errors, explaining_write_errors
from ..plain.array_spec import checked_dtype
from ..plain.errors import DamagedFileError, InvalidValueError, KeyNotFoundError, StateMismatchError, TargetExistsError
from .contract import Array, Listing, NewArray, Selection, Writer
from .raw_file import PlainBytes

_MAGIC = b"\x93NUMPY"
_MOST_HEADER_BYTES = 10_000  # what numpy.load accepts: longer headers make ast.literal_eval slow or crash
_DIRECT_NBYTES = 64 << 20  # files that are smaller stay in the page cache, for whoever trains from them next
MOST_BYTES = len(_MAGIC) + 6 + _MOST_HEADER_BYTES  # before the payload
_OTHER_MAGICS = {b"PK\x03\x04": "a zip archive: if it is one of NumPy, name it .npz", b"\x89HDF\r\n": "an HDF5 file: name it .h5"}


@dataclass(frozen=True)
class NpyHeader:
    """The contents of a header, and the byte at which the payload starts. `dtype` is not checked yet."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    offset: int


def matches(path: str | os.PathLike[str]) -> bool:
    """Return True if the file starts as a .npy file does. False for anything that cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def list_arrays(path: str | os.PathLike[str], inside: str = "") -> list[Listing]:
    """Return the one array of the file, under the key "". Raises as `open_array` does, but lists dtypes that cannot be opened."""
    _refuse_key(path, inside)
    header = _read_header(os.fspath(path))
    return [Listing("", header.shape, header.dtype, "Fortran order" if header.fortran_order else "contiguous")]


def open_array(path: str | os.PathLike[str], key: str | None = None) -> NpyArray:
    """Return the array of a .npy file, its header read and its payload not.

    Raises NotFoundError, KeyNotFoundError (there are no keys), DamagedFileError (no .npy file, a damaged header, fewer bytes than
    it declares), InvalidTypeError (dtypes that are not fixed-size numbers, such as Python objects).

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(os.path.join(folder, "x.npy"), np.arange(6, dtype=np.uint8).reshape(3, 2))
    ...     stored = open_array(os.path.join(folder, "x.npy"))
    ...     box = np.empty((1, 2), np.float32)
    ...     stored.read_box((slice(1, 2), slice(0, 2)), box)
    >>> stored.shape, stored.dtype, stored.located.offset, box
    ((3, 2), dtype('uint8'), 128, array([[2., 3.]], dtype=float32))
    """
    _refuse_key(path, key)
    name = os.fspath(path)
    return NpyArray(name, header_of(name))


def create(path: str | os.PathLike[str], key: str | None, new: NewArray) -> NpyWriter:
    """Create a .npy file of the shape asked for, and take all of its disk space.

    Chunks and attributes of `new` have no place in a .npy file and are skipped. Raises TargetExistsError, WriteError,
    InvalidValueError and InvalidTypeError (a compression, a key, no sample axis, or a dtype that .npy files should not hold).
    """
    _refuse_key(path, key)
    name = os.fspath(path)
    return begin(name, new.shape, _checked_new(name, new), new.resizable)


def begin(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], resizable: bool = False) -> NpyWriter:
    """Create a file for an array of any shape, also () for a scalar. Raises TargetExistsError, WriteError."""
    if os.path.lexists(name):
        raise TargetExistsError(f"{name} exists. Choose another name, or delete it first.")
    with explaining_write_errors(name):
        file = io.FileIO(name, "x+")
    try:
        with explaining_write_errors(name):
            header = header_bytes(shape, dtype)
            allocate(file.fileno(), len(header) + math.prod(shape) * dtype.itemsize)
            write_at(file.fileno(), 0, np.frombuffer(header, np.uint8))
    except BaseException:
        file.close()
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    return NpyWriter(name, file, NpyHeader(_plain(shape), False, dtype, len(header)), resizable)


def reopen(path: str | os.PathLike[str], key: str | None, new: NewArray) -> NpyWriter:
    """Go on with a file that `create` made. A resizable one may have another length than `new.shape[0]` by now.

    Raises StateMismatchError if it holds something else than `new`, and what `open_array` raises if it is missing or short.
    """
    _refuse_key(path, key)
    name = os.fspath(path)
    dtype = _checked_new(name, new)
    header = header_of(name)
    fixed = 1 if new.resizable and header.shape else 0  # axes from here on must agree
    same = header.shape[fixed:] == _plain(new.shape)[fixed:] and header.dtype == dtype and not header.fortran_order
    if not same:
        raise StateMismatchError(
            f"{name} holds {header.shape} {header.dtype}{' in Fortran order' * header.fortran_order}, "
            f"but {_plain(new.shape)} {dtype} is to be written. Delete it to start again."
        )
    if len(header_bytes(header.shape, header.dtype)) != header.offset:
        raise StateMismatchError(
            f"{name} was not written by mmapstore: its header leaves no room to grow. Delete it to start again."
        )
    with explaining_write_errors(name):
        file = io.FileIO(name, "r+")
    return NpyWriter(name, file, header, new.resizable)


class NpyArray(PlainBytes):
    """A .npy file as a StoredArray. Pickles by path; `as_array` shows all of it as one read-only memory map."""

    def __init__(self, name: str, header: NpyHeader) -> None:
        super().__init__(name, name, header.shape, header.dtype, header.offset, header.fortran_order)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_array, (self.path,)


class NpyWriter(Writer):
    """A .npy file that is written in place. `numpy.load` reads it at any time, with zeros for values not written yet."""

    flushes_beside = hasattr(os, "pwrite")

    def __init__(self, name: str, file: io.FileIO, header: NpyHeader, resizable: bool) -> None:
        self.name, self.dtype, self.resizable = name, header.dtype, resizable
        self._file = file
        self._header = header
        self._row_nbytes = math.prod(header.shape[1:]) * header.dtype.itemsize
        self._direct: DirectFile | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self._header.shape

    def _write_samples(self, start: int, block: Array) -> None:
        """Through the page cache, unlike `write_box`: the next to read may be a training."""
        with explaining_write_errors(self.name):
            write_at(self._file.fileno(), self._header.offset + start * self._row_nbytes, block)

    def _read_samples(self, start: int, stop: int) -> Array:
        shape = (stop - start, *self.shape[1:])
        with explaining_read_errors(self.name):
            self._file.seek(self._header.offset + start * self._row_nbytes)
            found = np.fromfile(self._file, self.dtype, math.prod(shape))
        if len(found) < math.prod(shape):
            raise DamagedFileError(f"{self.name} ends before sample {stop}. Delete it and write it again.")
        return found.reshape(shape)

    def write_box(self, box: Selection, block: Array) -> None:
        """Write a region that is one run of bytes: single places along the first axes, then a slice, then whole axes."""
        offset = self._offset_of(box)
        with explaining_write_errors(self.name):
            self._straight().write(offset, np.ascontiguousarray(block, self._header.dtype))

    def read_box(self, box: Selection) -> Array:
        """Return a region that is one run of bytes as it is on disk: past the page cache, or with its pages dropped first."""
        offset = self._offset_of(box)
        shape = tuple(part.stop - part.start for part in box)
        out = empty_at(math.prod(shape) * self._header.dtype.itemsize, offset).view(self._header.dtype).reshape(shape)
        with explaining_read_errors(self.name):
            straight = self._straight()
            if not straight.is_direct and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._file.fileno(), offset, out.nbytes, os.POSIX_FADV_DONTNEED)
            found = straight.read(offset, out)
        if found < out.nbytes:
            raise DamagedFileError(f"{self.name} ends {out.nbytes - found} bytes too soon. Delete it and write it again.")
        return out

    def memory_offset(self, box: Selection) -> int:
        """Return the distance from a page's beginning at which a block is written without a copy (`empty_at`)."""
        return self._offset_of(box)

    def _straight(self) -> DirectFile:
        if self._direct is None:
            large = self._header.offset + math.prod(self._header.shape) * self._header.dtype.itemsize >= _DIRECT_NBYTES
            self._direct = DirectFile(self.name, self._file.fileno(), large)
        return self._direct

    def _offset_of(self, box: Selection) -> int:
        """Return the byte at which a box begins. Raises InvalidValueError unless they are one run."""
        shape, lengths = self._header.shape, tuple(part.stop - part.start for part in box)
        partial = [axis for axis, (length, whole) in enumerate(zip(lengths, shape, strict=True)) if length != whole]
        outside = any(not 0 <= part.start <= part.stop <= length for part, length in zip(box, shape, strict=True))
        if outside or any(length != 1 for length in lengths[: max(partial, default=0)]):
            raise InvalidValueError(f"{self.name} of shape {shape} is written in runs of bytes; {box} is none.")
        place = 0
        for part, length in zip(box, shape, strict=True):
            place = place * length + part.start
        return self._header.offset + place * self._header.dtype.itemsize

    def flush(self) -> None:
        """Return when the disk has all that was written."""
        with explaining_write_errors(self.name):
            sync_data(self._file.fileno())

    def close(self) -> None:
        if self._direct is not None:
            self._direct.close()
        self._file.close()

    def resize(self, samples: int) -> None:
        """Change the header in place; the rest of the file is taken, or given back."""
        header = self._header
        shape = (samples, *header.shape[1:])
        encoded = header_bytes(shape, header.dtype)
        assert len(encoded) == header.offset, "numpy keeps 21 digits for the sample count"
        nbytes = header.offset + samples * self._row_nbytes
        with explaining_write_errors(self.name):
            # The header never declares more than the file holds, whenever the process is killed.
            if samples > header.shape[0]:
                allocate(self._file.fileno(), nbytes)
            write_at(self._file.fileno(), 0, np.frombuffer(encoded, np.uint8))
            if samples < header.shape[0]:
                self._file.truncate(nbytes)
        self._header = NpyHeader(shape, False, header.dtype, header.offset)


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(n) for n in shape)


def _refuse_key(path: str | os.PathLike[str], key: str | None) -> None:
    if key:
        raise KeyNotFoundError(
            f"{os.fspath(path)} is a .npy file: it holds one array without a name; got key {key!r}. Leave the key out."
        )


def _checked_new(name: str, new: NewArray) -> np.dtype[Any]:
    if new.compression is not None:
        raise InvalidValueError(
            f"{name} cannot be compressed ({new.compression!r}): .npy is plain bytes. Write to .h5 or .zarr, or leave it out."
        )
    if not new.shape or min(new.shape) < 0:
        raise InvalidValueError(f"{name} cannot have shape {new.shape}; expected (samples, ...).")
    return checked_dtype(new.dtype, name)


def header_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Return a header that ends at a multiple of 64 bytes, and that is equally long for every number of samples."""
    buffer = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": _plain(shape)})
    return buffer.getvalue()


def header_of(name: str) -> NpyHeader:
    """Return the header, once its dtype is one we hold and the file has the bytes it declares."""
    header = _read_header(name)
    with explaining_read_errors(name):
        return checked_header(header, name, os.stat(name).st_size)


def checked_header(header: NpyHeader, name: str, nbytes: int) -> NpyHeader:
    """Return the header, once its dtype is one we hold and the `nbytes` from the magic on are those that it declares, or more."""
    dtype = checked_dtype(header.dtype, name)
    declared = header.offset + math.prod(header.shape) * dtype.itemsize
    if nbytes < declared:
        raise DamagedFileError(
            f"{name} is truncated: its header declares {header.shape} {dtype}, {declared} bytes with the header, "
            f"but the file has {nbytes}. Copy or write it again."
        )
    # An array with one axis (longer than 1) lies the same way in both orders.
    return NpyHeader(header.shape, header.fortran_order and sum(n != 1 for n in header.shape) > 1, dtype, header.offset)


def _read_header(name: str) -> NpyHeader:
    with explaining_read_errors(name), Path(name).open("rb") as file:
        return parsed_header(file.read(MOST_BYTES), name)


def parsed_header(start: bytes, name: str) -> NpyHeader:
    """Return the header in the first `MOST_BYTES` bytes of a file. Raises DamagedFileError, naming `name`."""
    if not start.startswith(_MAGIC):
        known = next(
            (f"It is {words}." for magic, words in _OTHER_MAGICS.items() if start.startswith(magic)), "Check how it was written."
        )
        found = f"starts with {start[:6]!r}" if start else "is empty"
        raise DamagedFileError(f"{name} is not a .npy file: it {found}; expected {_MAGIC!r}. {known}")
    version = tuple(start[6:8])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise DamagedFileError(
            f"{name} is a .npy file of version {version}; expected 1.0, 2.0 or 3.0. It is damaged, or written by a newer NumPy."
        )
    try:
        at, layout = 8, "<H" if version == (1, 0) else "<I"
        (length,) = struct.unpack_from(layout, start, at)
        offset = at + struct.calcsize(layout) + length
        if length > _MOST_HEADER_BYTES:
            raise ValueError(f"it declares {length} bytes of header; at most {_MOST_HEADER_BYTES} are accepted")
        # Versions 2 and 3 differ in the encoding of the field names of compound dtypes alone, which are refused anyway.
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(io.BytesIO(start[at:offset]))
        shape = _plain(shape)
        if min(shape, default=0) < 0:
            raise ValueError(f"its shape is {shape}")
    except Exception as error:  # literal_eval and the tokenizer raise a dozen kinds on damaged text
        raise DamagedFileError(f"{name} has a damaged .npy header: {error}. Copy or write it again.") from error
    return NpyHeader(shape, fortran_order, dtype, offset)
