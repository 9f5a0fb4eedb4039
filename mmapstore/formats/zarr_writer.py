"""Writes a new Zarr 3 array in blocks of samples, as an ordinary store that any Zarr program reads."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..codecs.encoding import CODEC_NBYTES, chunk_encoder
from ..files.durable_writes import sync_directory, sync_tree
from ..files.system_errors import explaining_write_errors, raised_in
from ..files.worker_threads import share_out, usable_cpus
from ..plain.array_spec import checked_dtype
from ..plain.chunk_grid import ChunkGrid
from ..plain.errors import (
    InvalidTypeError,
    InvalidValueError,
    MmapstoreError,
    StateMismatchError,
    TargetExistsError,
    WriteError,
)
from .contract import Array, NewArray, Selection, StoredArray, Writer
from .zarr_library import chunks_of, explaining_damage, library, named, opened, stored_dtype
from .zarr_metadata import directory_inside, node_at, read_node

_LIBRARY_NBYTES = 1 << 20  # of zarr-python, at work on metadata
COMPRESSIONS = ("zstd", "gzip", "blosc", "lz4")


def create(path: str | os.PathLike[str], key: str | None, new: NewArray) -> ZarrWriter:
    """Create a Zarr 3 array, at the root of a new directory or under `key` of a new or existing store.

    Chunks are `chunk_samples` whole samples; their files lie side by side ("c.0.0.0"), so that making them durable takes one
    call for the directory. Compressions: "zstd", "gzip", "blosc" (zstd after a byte shuffle), "lz4" (blosc's, after a shuffle).

    Raises TargetExistsError, WriteError, MissingPackageError, InvalidValueError (compression, shape), InvalidTypeError (dtype).
    """
    zarr = library()
    name, key = os.fspath(path), (key or "").strip("/")
    directory = directory_inside(name, key)
    where = named(name, key)
    dtype = _checked_new(where, new)
    parents = key.split("/")[:-1] if key else []
    for depth in range(len(parents) + 1) if key else ():
        parent = read_node(directory_inside(name, "/".join(parents[:depth])))
        if parent is not None and parent.is_array:
            raise TargetExistsError(f"{parent.directory} is a Zarr array, which cannot hold {key!r}. Write to another store.")
    if os.path.lexists(directory) and (key or not os.path.isdir(directory) or os.listdir(directory)):
        raise TargetExistsError(f"{where} exists. Choose another name, or delete it first.")
    with explaining_write_errors(where, _refusal), _ignoring_text():
        array = zarr.create_array(
            store=zarr.storage.LocalStore(name),
            name=key or None,
            shape=tuple(int(n) for n in new.shape),
            dtype=dtype.newbyteorder("="),
            chunks=_new_chunks(new),
            compressors=_compressor(new.compression, dtype) if new.like is None else _compressors_like(where, new.like),
            filters=None,
            serializer=zarr.codecs.BytesCodec(endian=_endian(dtype)),
            fill_value=dtype.type() if new.like is None else new.like.located.fill,  # type: ignore[union-attr]
            zarr_format=3,
            attributes=dict(new.attributes),
            chunk_key_encoding={"name": "default", "configuration": {"separator": "."}},
        )
    return ZarrWriter(where, name, directory, array, dtype, new)


def reopen(path: str | os.PathLike[str], key: str | None, new: NewArray) -> ZarrWriter:
    """Go on with an array that `create` made. A resizable one may have another length than `new.shape[0]` by now.

    Raises StateMismatchError if it differs from `new`, and what `open_array` raises if it is missing or damaged.
    """
    zarr = library()
    name, key = os.fspath(path), (key or "").strip("/")
    where = named(name, key)
    dtype = _checked_new(where, new)
    node = node_at(name, key)
    if not node.is_array:
        raise StateMismatchError(f"{where} is a group; expected the array that was begun there. Delete it to start again.")
    found, layout = opened(where, node)
    shape, stored, chunks = tuple(found.shape), stored_dtype(found, layout, where), chunks_of(found)
    fixed = 1 if new.resizable and shape else 0  # axes from here on must agree
    same = shape[fixed:] == tuple(new.shape)[fixed:] and stored == dtype and chunks == _new_chunks(new)
    if not same or node.version != 3:
        raise StateMismatchError(
            f"{where} holds {shape} {stored} in chunks of {chunks}, but {tuple(new.shape)} {dtype} "
            f"in chunks of {_new_chunks(new)} is to be written. Delete it to start again."
        )
    directory = directory_inside(name, key)
    if not new.is_shared:
        _remove_unfinished(directory)
    with explaining_damage(where), _ignoring_text():
        array = zarr.open_array(store=zarr.storage.LocalStore(directory), mode="r+", zarr_format=3)
    return ZarrWriter(where, name, directory, array, dtype, new)


def writing_nbytes(new: NewArray, block_nbytes: int) -> int:
    """Return the bytes of memory that writing a block of whole chunks takes beside it, at most."""
    chunk = new.chunk_nbytes
    encoders = min(usable_cpus(), max(1, block_nbytes // max(1, chunk)))
    is_split = any(each < length for each, length in zip(new.grid.chunk[1:], new.shape[1:], strict=True))
    goes_past = new.resizable or new.shape[0] % max(1, new.grid.chunk[0]) > 0
    copied = chunk * (encoders if is_split else goes_past)  # into one piece; and where a chunk goes past the end
    is_encoded = new.compression is not None or new.like is not None
    encoded = chunk + chunk // 8 + (3 if new.compression in ("blosc", "lz4") else 1) * CODEC_NBYTES if is_encoded else 0
    return _LIBRARY_NBYTES + copied + encoders * encoded


def _remove_unfinished(directory: str) -> None:
    """Remove unfinished chunks of a killed process: zarr-python and we write beside the file, and rename."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith((".partial", ".tmp")) and entry.is_file(follow_symlinks=False):
                os.unlink(entry.path)


class ZarrWriter(Writer):
    """Writes samples. Whole chunks are encoded by as many threads as there are processors, each of which holds one. zarr-python,
    which would hold ten, is given the chunks that a block cuts, one by one: it decodes and encodes them again.
    """

    def __init__(self, name: str, store: str, directory: str, array: Any, dtype: np.dtype[Any], new: NewArray) -> None:
        self.name = name
        self._store = store
        self._directory = directory
        self._array = array
        self.dtype = dtype
        self.resizable = new.resizable
        self._encode: Callable[[Array], Any] | None = None  # as the codecs of `_compressor` do it
        if new.like is None and not _is_big(dtype):
            self._encode = chunk_encoder(new.compression, dtype.itemsize if dtype.kind != "S" else 1)
        self._unsynced: set[tuple[int, ...]] = set()
        self._grid = ChunkGrid(tuple(array.shape), tuple(array.chunks))

    @property
    def shape(self) -> tuple[int, ...]:
        return self._grid.shape

    def write_box(self, box: Selection, block: Array) -> None:
        """Write any region, its chunks in threads."""
        touched = list(self._grid.touching(box))
        with self._explaining():
            share_out(touched, functools.partial(self._write_parts, block.astype(self._array.dtype, copy=False)))
        self._unsynced.update(self._grid.place(number) for number, _, _ in touched)

    def _write_parts(self, block: Array, touched: Iterator[tuple[int, Selection, Selection]]) -> None:
        each, shape = self._grid.chunk, self._grid.shape
        for number, inside, within in touched:
            corner = [at * length for at, length in zip(self._grid.place(number), each, strict=True)]
            part = tuple(slice(at + cut.start, at + cut.stop) for at, cut in zip(corner, inside, strict=True))
            ends = [min(at + length, end) for at, length, end in zip(corner, each, shape, strict=True)]
            if self._encode is None or part != tuple(map(slice, corner, ends)):
                self._array[part] = block[within]
                continue
            chunk = block[within]
            if chunk.shape != each or not chunk.flags.c_contiguous:
                chunk = np.zeros(each, block.dtype)  # the fill value stands past the end
                chunk[inside] = block[within]
            if chunk.reshape(-1).view(np.uint8).any():
                self.write_encoded(number, self._encode(chunk), 0)
            else:  # no file stands for a chunk of the fill value
                Path(self._file_of(self._grid.place(number))).unlink(missing_ok=True)

    def read_box(self, box: Selection) -> Array:
        with explaining_damage(f"{self.name}, region {box}"):
            return np.asarray(self._array[box], self.dtype)

    def write_encoded(self, number: int, stored: bytes | bytearray, skipped: int) -> None:
        """One chunk as its file is to hold it. `skipped` is 0: Zarr applies every codec to every chunk."""
        place = self._grid.place(number)
        file = self._file_of(place)
        with self._explaining():
            temporary = f"{file}.{uuid.uuid4().hex}.tmp"  # another process may be writing the same chunk
            with Path(temporary).open("wb") as chunk:
                chunk.write(stored)
            os.replace(temporary, file)
        self._unsynced.add(place)

    def _file_of(self, place: tuple[int, ...]) -> str:
        return os.path.join(self._directory, *self._array.metadata.encode_chunk_key(place).split("/"))

    def flush(self) -> None:
        """Return when the disk has all that was written: chunk files, metadata, and the directories that name them."""
        with self._explaining():
            for place in sorted(self._unsynced):
                file = self._file_of(place)
                if os.path.exists(file):  # zarr stores no file for a chunk that holds nothing but the fill value
                    sync_tree(file)
            folder = os.path.abspath(self._directory)
            above = os.path.dirname(os.path.abspath(self._store))
            while folder != above:
                metadata = os.path.join(folder, "zarr.json")
                if os.path.exists(metadata):
                    sync_tree(metadata)
                sync_directory(folder)
                folder = os.path.dirname(folder)
            sync_directory(above)
        self._unsynced.clear()

    def resize(self, samples: int) -> None:
        """Make it that many samples long; chunk files past them are deleted."""
        with self._explaining():
            self._array.resize((samples, *self.shape[1:]))
        self._grid = ChunkGrid((samples, *self.shape[1:]), self._grid.chunk)

    def close(self) -> None:
        """Nothing is held open between calls."""

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        with explaining_write_errors(self.name), _ignoring_text():
            try:
                yield
            except (MmapstoreError, OSError, MemoryError):
                raise
            except Exception as error:  # codecs and zarr raise whatever they like
                raise WriteError(
                    f"{self.name} cannot be written: {type(error).__name__}: {error}. Delete it and write it again."
                ) from error


def _checked_new(where: str, new: NewArray) -> np.dtype[Any]:
    if not new.shape or min(new.shape) < 0 or new.chunk_samples < 1:
        asked = f"shape {new.shape} in chunks of {new.chunk_samples} samples"
        raise InvalidValueError(f"{where} cannot have {asked}; expected (samples, ...) and chunks of 1 or more.")
    known = ", ".join(repr(name) for name in COMPRESSIONS)
    if new.compression is not None and new.compression not in COMPRESSIONS:
        raise InvalidValueError(f"compression={new.compression!r} is not known for Zarr; expected None or one of {known}.")
    dtype = checked_dtype(new.dtype, where)
    if dtype.kind != "S" and dtype.itemsize > (16 if dtype.kind == "c" else 8):
        raise InvalidTypeError(f"{where} cannot hold {dtype}: Zarr 3 has no such type. Cast it, or write to .npy.")
    return dtype


def _new_chunks(new: NewArray) -> tuple[int, ...]:
    if new.chunks is not None or new.like is not None:
        chunks = new.chunks or new.like.chunks or ()  # type: ignore[union-attr]
        return tuple(min(int(each), max(1, int(length))) for each, length in zip(chunks, new.shape, strict=True))
    samples = int(new.chunk_samples) if new.resizable else min(int(new.chunk_samples), max(1, int(new.shape[0])))
    return (samples, *(max(1, int(n)) for n in new.shape[1:]))


def _compressor(compression: str | None, dtype: np.dtype[Any]) -> Any:
    codecs = library().codecs
    element_nbytes = dtype.itemsize if dtype.kind != "S" else 1
    shuffle = "shuffle" if element_nbytes > 1 else "noshuffle"
    if compression == "zstd":
        return codecs.ZstdCodec(level=3)
    if compression == "gzip":
        return codecs.GzipCodec(level=5)
    if compression in ("blosc", "lz4"):
        cname = "zstd" if compression == "blosc" else "lz4"
        return codecs.BloscCodec(cname=cname, clevel=5, shuffle=shuffle, typesize=element_nbytes)
    return None


_AS_ZARR = {"zstd": "ZstdCodec", "gzip": "GzipCodec", "blosc": "BloscCodec", "crc32c": "Crc32cCodec"}


def takes_chunks_of(stored: StoredArray) -> bool:
    """Return True if the encoded chunks of `stored` can be the files of a new array, by their codecs and byte order."""
    chunks = stored.located
    return (
        chunks is not None
        and stored.chunks is not None
        and chunks.axes is None
        and not _is_big(chunks.dtype)
        and all(codec.name in _AS_ZARR for codec in chunks.chain)
    )


def _compressors_like(where: str, like: StoredArray) -> Any:
    if not takes_chunks_of(like):
        raise InvalidValueError(f"{where} cannot be encoded as {like.name} is. Leave the codecs to be chosen anew.")
    codecs = library().codecs
    return [getattr(codecs, _AS_ZARR[codec.name])() for codec in like.located.chain] or None  # type: ignore[union-attr]


def _endian(dtype: np.dtype[Any]) -> str | None:
    return None if dtype.itemsize == 1 or dtype.kind == "S" else "big" if _is_big(dtype) else "little"


def _is_big(dtype: np.dtype[Any]) -> bool:
    return dtype.byteorder == ">" or (dtype.byteorder == "=" and sys.byteorder == "big")


@contextlib.contextmanager
def _ignoring_text() -> Iterator[None]:
    """Ignore the warning that fixed-width bytes are a data type that zarr-python has and the specification lacks (zarr 3.1)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification")
        yield


def _refusal(error: Exception, where: str) -> MmapstoreError | None:
    if isinstance(error, OSError) or not raised_in(error, "zarr", "numcodecs"):
        return None
    return InvalidValueError(f"{where} cannot be created: zarr refuses it ({type(error).__name__}: {error}).")
