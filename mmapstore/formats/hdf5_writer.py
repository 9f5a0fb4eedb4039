"""Writes a new HDF5 dataset in blocks of samples, as an ordinary file that any HDF5 program reads."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..codecs.encoding import CODEC_NBYTES, FilterEncoder
from ..files import durable_writes
from ..files.worker_threads import share_out, usable_cpus
from ..plain.chunk_grid import ChunkGrid
from ..plain.errors import (
    InvalidValueError,
    StateMismatchError,
    TargetExistsError,
    UnsafeFileError,
)
from .contract import Array, NewArray, Selection, Writer
from .hdf5_chunk_list import ChunkList
from .hdf5_creation import creation_options, refuse_mismatch
from .hdf5_filters import FILTERS
from .hdf5_library import explaining_failed_writes, explaining_read_errors, library, open_to_read, open_to_write
from .hdf5_paths import find, name_of, no_such_key, parts_of

DEFAULT_KEY = "data"
_MOST_METADATA_NBYTES = 16 << 20
_COPY_NBYTES = 8 << 20
_SLACK_NBYTES = 1 << 20  # headers, attributes
_CHUNK_ENTRY_NBYTES = 512  # of index for each chunk, generously
_LIBRARY_NBYTES = 10_000_000  # HDF5's cache of chunks, its smaller ones, and what malloc keeps of them
_ENCODED_NBYTES = 8 << 20  # of chunks that are encoded at once, before they are written
_END_AT = {0: 40, 1: 44, 2: 28, 3: 28}  # of the end of the file in the superblock, by its version; offsets take 8 bytes


def create(path: str | os.PathLike[str], key: str | None, new: NewArray) -> Hdf5Writer:
    """Create a dataset `key` ("data" if None) in a new file, or in an HDF5 file that exists and has none of that name.

    Uncompressed, it is contiguous and its space is set aside at once, so that it can be memory-mapped; uncompressed and
    `resizable`, it lies in plain chunks of `chunk_samples` whole samples, which are still read where they lie; compressed, in
    chunks of `chunk_samples` whole samples. Compressions: gzip (level 4, after shuffle), lzf (after shuffle); with the package
    hdf5plugin also blosc, blosc2, bitshuffle, bzip2, lz4, zstd.

    Raises TargetExistsError, WriteError, LockedFileError, InvalidValueError, InvalidTypeError, MissingPackageError.
    """
    path, key = os.fspath(path), "/".join(parts_of(key or "")) or DEFAULT_KEY
    name = name_of(path, key)
    options = creation_options(name, new)
    if os.path.isdir(path):
        raise TargetExistsError(f"{path} is a directory; expected a file to write. Name a file inside it.")
    existed = os.path.exists(path)
    with explaining_failed_writes(path):
        contiguous_nbytes = 0 if "chunks" in options else math.prod(options["shape"]) * options["dtype"].itemsize
        if not existed:
            _check_room(path, contiguous_nbytes + _SLACK_NBYTES)
    file = open_to_write(path, "r+" if existed else "x")
    try:
        with explaining_read_errors(name):
            _refuse_taken(file, path, key)
        with explaining_failed_writes(path):
            _reserve(file, contiguous_nbytes + _SLACK_NBYTES)
            dataset = file.create_dataset(key, **options)
            for attribute, value in new.attributes.items():
                dataset.attrs[attribute] = value
            del dataset
            writer = Hdf5Writer(path, key, new, file)
            writer.flush()
        return writer
    except BaseException:
        with contextlib.suppress(Exception):
            file.close()
        if not existed:
            with contextlib.suppress(OSError):
                os.unlink(path)
        raise


def reopen(path: str | os.PathLike[str], key: str | None, new: NewArray) -> Hdf5Writer:
    """Go on with a dataset that `create` made. A resizable or compressed one may have another length than `new.shape[0]` by now.

    Raises StateMismatchError if it holds something else than `new`; NotFoundError, KeyNotFoundError, DamagedFileError,
    LockedFileError.
    """
    path, key = os.fspath(path), "/".join(parts_of(key or "")) or DEFAULT_KEY
    name = name_of(path, key)
    options = creation_options(name, new)
    with open_to_read(path):  # says "missing" and "damaged" in the words for reading
        pass
    end = _declared_end(path)
    file = open_to_write(path, "r+")
    try:
        with explaining_read_errors(name):
            dataset = find(file, path, key)
            if not isinstance(dataset, library().Dataset):
                raise no_such_key(file, path, key)
            refuse_mismatch(dataset, name, new, options)
            if dataset.chunks and ChunkList(dataset).walk(lambda chunk: chunk.byte_offset + chunk.size > end or None):
                raise StateMismatchError(
                    f"{name} has chunks behind the end that its file declares, as a kill leaves it: HDF5 cannot write there. "
                    "Delete it to start again."
                )
            del dataset
            return Hdf5Writer(path, key, new, file)
    except BaseException:
        file.close()
        raise


def writing_nbytes(new: NewArray, block_nbytes: int) -> int:
    """Return the bytes of memory that writing a block takes beside it, at most."""
    chunk, cpus = new.chunk_nbytes, usable_cpus()
    index = min(_MOST_METADATA_NBYTES, len(new.grid) * _CHUNK_ENTRY_NBYTES)  # which HDF5 keeps until the file is flushed
    if new.compression is None and new.like is None:
        return _LIBRARY_NBYTES + index + block_nbytes
    if 4 * chunk > _ENCODED_NBYTES:  # encoded by HDF5, which has a chunk as it was, as it becomes, and between two filters
        return _LIBRARY_NBYTES + index + 3 * chunk + chunk // 8
    encoders = min(cpus, max(1, block_nbytes // max(1, chunk)))
    held = min(block_nbytes, _ENCODED_NBYTES)
    return _LIBRARY_NBYTES + index + held + held // 8 + encoders * (FilterEncoder.scratch_nbytes(chunk) + CODEC_NBYTES)


def _declared_end(path: str) -> int:
    """Return the number of bytes that the superblock says are in use. A kill may leave it older than the index of chunks."""
    with io.FileIO(path) as file:
        head = file.read(64)
    version = head[8] if head[:8] == b"\x89HDF\r\n\x1a\n" else -1
    if version not in _END_AT:
        return 1 << 63  # behind a user block, or of a form that is not known here
    return int.from_bytes(head[_END_AT[version] :][:8], "little")


def _check_room(path: str, nbytes: int) -> None:
    """Raise what the system says if the disk has no room for that many bytes. HDF5 would find out with a file half made."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        _allocate(descriptor, 0, nbytes)
    finally:
        os.close(descriptor)
        os.unlink(path)


def _reserve(file: Any, nbytes: int) -> None:
    """Set disk space aside behind what HDF5 has in use, so that its next writes find room.

    HDF5 does not recover from a full disk: it keeps what it could not write, and crashes the process when the file is closed.
    """
    _allocate(file.id.get_vfd_handle(), file.id.get_filesize(), nbytes)


def _allocate(descriptor: int, offset: int, nbytes: int) -> None:
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, offset, nbytes)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise


def _encoder_of(dataset: Any, chunk_nbytes: int) -> FilterEncoder | None:
    """Return an encoder; None for no chunks or filters, filters that HDF5 alone applies, and chunks too large to hold several."""
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(at) for at in range(plist.get_nfilters())]
    if dataset.chunks is None or not filters or 4 * chunk_nbytes > _ENCODED_NBYTES:
        return None
    known = [(FILTERS[code].codec if code in FILTERS else "", tuple(values)) for code, _, values, _ in filters]
    return FilterEncoder.of(known)


def _refuse_taken(file: Any, path: str, key: str) -> None:
    name = name_of(path, key)
    group = file["/"]
    parts = parts_of(key)
    for depth, part in enumerate(parts, start=1):
        encoded = part.encode("utf-8", "surrogateescape")
        if not group.id.links.exists(encoded):
            return
        if group.id.links.get_info(encoded).type != library().h5l.TYPE_HARD:
            raise UnsafeFileError(f"{name}: {part!r} is a link; a new dataset is not written through links. Choose another name.")
        group = group[part]
        if depth == len(parts) or not isinstance(group, library().Group):
            raise TargetExistsError(f"{name_of(path, group.name)} exists. Choose another key, or delete the file first.")


class Hdf5Writer(Writer):
    """A dataset that is written in place, by one thread at a time.

    Blocks written before the last `flush` survive the end of the process at any moment between flushes: HDF5 is kept from
    writing half of its index early. In uncompressed datasets, whose values have their places from the start, a kill during a
    flush does no harm either; with compression it can damage the index, which opening or a checksum shows.
    """

    def __init__(self, path: str, key: str, new: NewArray, file: Any) -> None:
        self._path = path
        self._key = key
        self.name = name_of(path, key)
        self._new, self.resizable = new, new.resizable
        self._take(file)
        self.dtype = np.dtype(self._dataset.dtype.str)

    def _take(self, file: Any) -> None:
        self._file = file
        self._dataset = file[self._key]
        self._dataset_chunks = tuple(self._dataset.chunks or ())
        self._chunk_nbytes = math.prod(self._dataset_chunks) * self._dataset.dtype.itemsize
        self._encoder = _encoder_of(self._dataset, self._chunk_nbytes)
        config = file.id.get_mdc_config()
        config.evictions_enabled = False  # and, as HDF5 then requires, no resizing:
        config.incr_mode = config.flash_incr_mode = config.decr_mode = 0
        file.id.set_mdc_config(config)

    def __repr__(self) -> str:
        return f"<writer of {self.name}>"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._dataset.shape)

    def write_box(self, box: Selection, block: Array) -> None:
        """Write any region. Whole chunks are encoded in threads if the filters are gzip or zstd."""
        with explaining_failed_writes(self._path):
            self._write(box, np.ascontiguousarray(block, self._dataset.dtype))

    def read_box(self, box: Selection) -> Array:
        with explaining_read_errors(self.name):
            found: Array = np.asarray(self._dataset[box])
        return found

    def _write(self, box: Selection, block: Array) -> None:
        dataset = self._dataset
        if dataset.chunks is None:
            dataset.write_direct(block, dest_sel=box)
            return
        grid = ChunkGrid(tuple(dataset.shape), tuple(dataset.chunks))
        touched = list(grid.touching(box))
        _reserve(self._file, self._most_added(len(touched)))
        if self._encoder is None or not grid.holds_whole(box):
            dataset.write_direct(block, dest_sel=box)
            return
        # Encoded chunks are held until they are written, in order: so the file is the same each time.
        together = max(1, _ENCODED_NBYTES // self._chunk_nbytes)
        for first in range(0, len(touched), together):
            part = touched[first : first + together]
            stored: list[Any] = [None] * len(part)
            share_out(enumerate(part), functools.partial(self._encode, block, stored))
            for (number, _, _), (encoded, skipped) in zip(part, stored, strict=True):
                self._place(grid, number, encoded, skipped)

    def _encode(self, block: Array, stored: list[Any], tasks: Iterator[tuple[int, tuple[int, Selection, Selection]]]) -> None:
        assert self._encoder is not None
        for at, (_, inside, within) in tasks:
            values = block[within]
            if values.shape != self._dataset_chunks or not values.flags.c_contiguous:
                chunk: Array = np.full(self._dataset_chunks, self._dataset.fillvalue, block.dtype)  # what lies past the end
                chunk[inside] = values
                values = chunk
            stored[at] = self._encoder.encode(values.reshape(-1).view(np.uint8))

    def write_encoded(self, number: int, stored: bytes | bytearray, skipped: int) -> None:
        """One chunk, encoded by the same filters; `skipped` is its filter mask."""
        with explaining_failed_writes(self._path):
            _reserve(self._file, self._most_added(1))
            self._place(ChunkGrid(tuple(self._dataset.shape), self._dataset_chunks), number, stored, skipped)

    def _place(self, grid: ChunkGrid, number: int, stored: Any, skipped: int) -> None:
        offsets = tuple(place * each for place, each in zip(grid.place(number), grid.chunk, strict=True))
        with library()._objects.phil:  # before h5py 3.16 this call takes no lock, and threads that do crash with it
            self._dataset.id.write_direct_chunk(offsets, stored, skipped)

    def _most_added(self, chunks: int) -> int:
        """Return the bytes that HDF5 may add to the file before the end of the next flush: `chunks`, and all that it holds back."""
        chunk_nbytes = self._chunk_nbytes
        # A codec may add a little to what it cannot compress.
        written = chunks * (chunk_nbytes + chunk_nbytes // 64 + _CHUNK_ENTRY_NBYTES)
        h5f = library().h5f
        held_back = self._dataset.id.get_access_plist().get_chunk_cache()[1] * h5f.get_obj_count(self._file.id, h5f.OBJ_FILE)
        return int(written + held_back + self._file.id.get_mdc_size()[2] + _SLACK_NBYTES)

    def flush(self) -> None:
        """Return when the disk has all that was written."""
        with explaining_failed_writes(self._path):
            self._flush_file()
            os.fsync(self._file.id.get_vfd_handle())
            if self._file.id.get_mdc_size()[2] > _MOST_METADATA_NBYTES:
                # Nothing is evicted while we write, so the index of a long array would pile up in memory.
                self._close_file()
                self._take(open_to_write(self._path, "r+"))

    def resize(self, samples: int) -> None:
        """Make it that many samples long.

        Chunked arrays change in place. HDF5 cannot shorten a contiguous one: it is copied to a new file, which takes the place of
        the old (once more the disk space, 8 MiB of memory); create it with `resizable=True` where that is likely.
        """
        with explaining_failed_writes(self._path):
            if self._dataset.chunks is not None:
                self._dataset.resize(samples, axis=0)
            else:
                self._copy_shorter(samples)

    def _copy_shorter(self, samples: int) -> None:
        h5py = library()
        if h5py.h5f.get_obj_count(self._file.id, h5py.h5f.OBJ_FILE) > 1:
            raise InvalidValueError(
                f"{self.name} is to be cut to {samples} samples, for which its file is written anew, but this process has the "
                "file open a second time. Close that first, or create the array with resizable=True."
            )
        temporary = f"{self._path}.shorter"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        try:
            with h5py.File(temporary, "x") as target:
                _copy_all_but(self._file, target, self._key)
                new = replace(self._new, shape=(samples, *self._dataset.shape[1:]))
                shorter = target.create_dataset(self._key, **creation_options(self.name, new))
                for attribute, value in self._dataset.attrs.items():
                    shorter.attrs[attribute] = value
                for start, stop in _steps(samples, self._dataset):
                    shorter.write_direct(self._dataset[start:stop], dest_sel=np.s_[start:stop])
                target.flush()
                os.fsync(target.id.get_vfd_handle())
            self._close_file()
            durable_writes.replace(temporary, self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self._take(open_to_write(self._path, "r+"))

    def close(self) -> None:
        """Flush, and close the file."""
        with explaining_failed_writes(self._path):
            self._close_file()

    def _flush_file(self) -> None:
        self._file.flush()
        descriptor, used = self._file.id.get_vfd_handle(), self._file.id.get_filesize()
        if os.fstat(descriptor).st_size > used and self._file.userblock_size == 0:
            os.ftruncate(descriptor, used)  # gives back what was reserved and not needed

    def _close_file(self) -> None:
        if not self._file:
            return
        self._flush_file()
        self._dataset = None
        self._file.close()


def _steps(samples: int, dataset: Any) -> Iterator[tuple[int, int]]:
    step = max(1, _COPY_NBYTES // max(1, math.prod(dataset.shape[1:]) * dataset.dtype.itemsize))
    for start in range(0, samples, step):
        yield start, min(samples, start + step)


def _copy_all_but(source: Any, target: Any, key: str) -> None:
    """Copy a group, its links as links, without the dataset `key`."""
    h5py = library()
    target.attrs.update(source.attrs)
    first, _, rest = key.partition("/")
    for name in source:
        if name == first:
            if rest:
                _copy_all_but(source[name], target.create_group(name), rest)
            continue
        link = source.get(name, getlink=True)
        if isinstance(link, h5py.HardLink):
            source.copy(name, target, name)
        else:
            target[name] = link
