"""The source of a conversion: any array that opens, read in regions of it as it is stored."""

from __future__ import annotations

import contextlib
import math
import os
import string
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ...batches.dataset import Dataset
from ...batches.notes import FieldNotes, packed_of
from ...batches.opening import entries_beside, open_quietly
from ...files.descriptors import Descriptors, read_exactly
from ...formats.contract import StoredArray
from ...formats.located import Located
from ...formats.registry import open_live, open_stored, split_inside
from ...plain.array_likes import is_fields
from ...plain.array_spec import DEFAULT_LAYOUTS, StoredLayout
from ...plain.cf_packing import Packed, Packing
from ...plain.chunk_grid import Box
from ...plain.errors import InvalidTypeError, InvalidValueError, MmapstoreError
from ...plain.guessed_axes import Doubt, doubt_about
from ...plain.inside_names import file_of, split_name
from ...plain.manifest import DIRECTORY_MANIFEST, ArrayManifest
from ...readers.contract import Reader
from ...readers.decoded import Decoded, decoded_reader

Array = np.ndarray[Any, np.dtype[Any]]

_IN_PLACE = "read where the bytes lie"


class Origin(Protocol):
    """An array, opened and not read."""

    name: str  # what messages and the manifest call it
    # shape, dtype: as stored; values come in native byte order
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    layout: str  # one letter per axis, where they are known; "" where there are no usual ones
    episodes: tuple[int, ...]  # offsets in samples, length E + 1, where a manifest says them
    noted: FieldNotes  # class names and order, where a manifest says them
    chunks: tuple[int, ...] | None  # shape of what is decoded as a whole; None where any region costs its bytes alone
    # storage, how: in words: as it lies, and how it is reached
    storage: str
    how: str
    paths: Sequence[str]  # files that are read, none of which may be the target
    attributes: Mapping[str, Any]  # small named values beside it
    # how numbers become values, by these attributes: of each of its files; empty where they are the values
    packed: Sequence[Packed]
    doubts: Sequence[Doubt]  # why axes that were not named are likely others than the usual ones
    stored: StoredArray | None  # the array of a format that all of this is; None for several files joined

    def scratch_nbytes(self, chunks: int) -> int:
        """Return the bytes of memory that a `read_box` of parts of so many chunks takes beside the caller's buffer."""
        ...

    def fit(self, nbytes: int) -> None:
        """Read in fewer threads from now on if that takes more than `nbytes`; one may still take more."""
        ...

    def read_box(self, box: Box, out: Array) -> None:
        """Fill `out`, C-contiguous, of the shape of `box` and native dtype. One thread at a time."""
        ...


def opened(source: Any, key: str | None, source_layout: str | None) -> Origin:
    """Whatever `mmapstore.open` takes and holds one array. Raises what that raises; InvalidTypeError for several fields."""
    if isinstance(source, Dataset):
        if key is not None:
            raise InvalidValueError(f"key={key!r} names an array inside a file, but an opened dataset was given. Leave it out.")
        return Joined(source)
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        outer, inside = split_inside(path)
        if key is not None and inside is not None:
            raise InvalidValueError(f"{path} already names an array inside the file; leave out key={key!r}.")
        inside = key if key is not None else inside
        if os.path.exists(outer) and not os.path.isfile(os.path.join(outer, DIRECTORY_MANIFEST)):
            stored = open_stored(outer, inside)
            entry = _described(outer, stored)
            return Stored(stored, source_layout or (entry.layout if entry else None), entry)
        return Joined(open_quietly(source, key, source_layout))
    if isinstance(source, (list, tuple)) or is_fields(source):
        return Joined(open_quietly(source, key, source_layout))
    if key is not None:
        raise InvalidValueError(f"key={key!r} names an array inside a file, but a live {type(source).__name__} was given.")
    return Stored(open_live(source), source_layout, None)


class Stored:
    """A source that is one array of a format."""

    def __init__(self, stored: StoredArray, layout: str | None, entry: ArrayManifest | None) -> None:
        self.stored: StoredArray | None = stored
        self._array = stored
        self.name = stored.name
        self.shape = tuple(int(n) for n in stored.shape)
        self.dtype = stored.dtype
        if self.dtype.kind not in "biufcS":
            raise InvalidTypeError(f"{self.name} holds {self.dtype}, which is converted with the tree it is in (--all).")
        given = layout
        if layout is None:
            layout = DEFAULT_LAYOUTS.get(len(self.shape), "")
        elif 0 not in self.shape:
            StoredLayout.of(layout, self.shape, self.name)
        self.layout = layout.upper()
        same = entry is not None and tuple(entry.shape) == self.shape and entry.layout == self.layout
        self.episodes: tuple[int, ...] = entry.episodes if entry is not None and same else ()
        self.noted = FieldNotes.of(entry.notes if entry is not None else None)
        self.chunks: tuple[int, ...] | None = None
        self.storage = stored.storage
        path = file_of(self.name)
        self.paths: Sequence[str] = [os.path.abspath(path)] if os.path.exists(path) else []
        self.attributes: Mapping[str, Any] = stored.attributes()
        self.packed: Sequence[Packed] = packed_of(stored)
        doubt = doubt_about(self.name, self.shape, given, "MATLAB_class" in self.attributes)
        self.doubts: Sequence[Doubt] = [doubt] if doubt else []
        self._native = self.dtype.newbyteorder("=")
        self._read = self._way()

    def _way(self) -> Any:
        """Choose how regions are read, None for `_read_bytes`. Sets `how`, and `chunks` where these are decoded as a whole."""
        stored = self._array
        self._scratch_nbytes = 0
        self._reader: Decoded | None = None
        if math.prod(self.shape) == 0 or not self.shape:
            self.how = "nothing is stored" if self.shape else "one value"
            return stored.read_box
        located = stored.located
        if located is not None and located.offset is not None:
            self._files = Descriptors(located.root)
            self._path, self._offset = located.root, located.offset
            self.how = _IN_PLACE
            return None
        # Letters that name nothing: the first axis stands for samples, so that axes stay in stored order.
        letters = "N" + string.ascii_lowercase[: len(self.shape) - 1]
        reader, _ = decoded_reader(stored, StoredLayout(letters, self.shape)) if len(letters) == len(self.shape) else (None, "")
        if reader is not None:
            self.chunks = stored.chunks
            self._reader = reader
            self.how = "decoded in threads"
            return reader.read_box
        self.chunks = stored.chunks
        chunk = math.prod(self.chunks or (0,)) * self.dtype.itemsize
        self._scratch_nbytes = 2 * chunk + stored.cache_nbytes + (8 << 20)
        self.how = "an array in RAM" if stored.storage.startswith("in RAM") else "through the format's own library"
        if stored.as_array() is not None:
            self._scratch_nbytes = 0
        return stored.read_box

    def scratch_nbytes(self, chunks: int) -> int:
        return self._scratch_nbytes if self._reader is None else self._reader.scratch_of_chunks(chunks)

    def fit(self, nbytes: int) -> None:
        if self._reader is not None:
            self._reader = self._reader.within(nbytes)
            self._read = self._reader.read_box

    @property
    def is_plain(self) -> bool:
        """True where the bytes lie in one piece of a file, in order: it is mapped without any conversion."""
        return self.how == _IN_PLACE

    def read_box(self, box: Box, out: Array) -> None:
        (self._read or self._read_bytes)(box, out)  # a bound method kept here would keep the file open

    def _read_bytes(self, box: Box, out: Array) -> None:
        """Runs of bytes: those of the last axes that the box has all of are read at once."""
        axis = len(self.shape)
        while axis > 0 and box[axis - 1] == slice(0, self.shape[axis - 1]):
            axis -= 1
        axis = max(axis, 1)  # the axis along which a run is a stretch
        run = math.prod(self.shape[axis:]) * self.dtype.itemsize
        descriptor = self._files.get(self._path)
        rows = out.reshape(math.prod(out.shape[: axis - 1]), -1)
        for number, place in enumerate(np.ndindex(out.shape[: axis - 1])):
            flat = 0
            for part, at, length in zip(box, place, self.shape, strict=False):
                flat = flat * length + part.start + at
            flat = flat * self.shape[axis - 1] + box[axis - 1].start
            read_exactly(descriptor, self._offset + flat * run, [rows[number]])
        if not self.dtype.isnative:
            out.byteswap(inplace=True)


class Joined:
    """A dataset of one field: several files in a row, or a field of a directory. Regions are runs of samples."""

    def __init__(self, dataset: Dataset) -> None:
        if len(dataset.readers) > 1:
            raise InvalidTypeError(
                f"{dataset.name} has several fields ({', '.join(dataset.fields)}); expected one array. Name it, as in "
                f"ds[{next(iter(dataset.fields))!r}] or 'DIRECTORY::/{next(iter(dataset.fields))}'."
            )
        reader: Reader = next(iter(dataset.readers.values()))
        if len(dataset) != len(reader.spec):
            raise InvalidTypeError(f"{dataset.name} is a part of a dataset. Give all of it, and samples=(start, stop).")
        self.stored: StoredArray | None = None
        self._reader = reader
        self.name = dataset.name
        self.shape, self.dtype, self.layout = reader.spec.shape, reader.spec.dtype, reader.spec.layout
        self.episodes = tuple(int(at) for at in dataset.episodes)
        self.noted = next(iter(dataset.notes.values()), FieldNotes())
        together = reader.decoded_together
        self.chunks = (together, *self.shape[1:]) if together > 1 else None
        self.storage, self.how = reader.place, reader.why
        self.paths: Sequence[str] = [os.path.abspath(path) for path in reader.files]
        self.attributes: Mapping[str, Any] = {}
        self.packed: Sequence[Packed] = next(iter(dataset.packed.values()), ())
        self.doubts: Sequence[Doubt] = list(dataset.doubts.values())

    def scratch_nbytes(self, chunks: int) -> int:
        return self._reader.scratch_nbytes

    def fit(self, nbytes: int) -> None:
        self._reader = self._reader.within(nbytes)

    def read_box(self, box: Box, out: Array) -> None:
        if any(part != slice(0, length) for part, length in zip(box[1:], self.shape[1:], strict=True)):
            raise InvalidValueError(f"{self.name}: one sample of {self.shape[1:]} takes more than max_memory=. Raise it.")
        self._reader.read(box[0].start, box[0].stop, out)


def packing_of(origin: Origin) -> Packing | None:
    """Return the packing that all files share. Raises InvalidValueError for files that are packed differently."""
    found = {each.packing for each in origin.packed}
    if len(found) > 1 or (found and origin.stored is None and len(origin.packed) != len(origin.paths)):
        raise InvalidValueError(
            f"{origin.name} joins files that are packed each its own way. Convert each by itself with unpack=True (--unpack), and "
            "open the results as one."
        )
    return next(iter(found), None)


def encoded_of(stored: StoredArray | None) -> Located | None:
    """Return the encoded chunks of an array; None where only its library can read them."""
    return stored.located if stored is not None and stored.chunks else None


def fingerprint(origin: Origin) -> dict[str, Any]:
    """Small JSON that changes when the source does: sizes and times of change of its files, and a few of its values."""
    stamps = []
    for path in origin.paths:
        with contextlib.suppress(OSError):
            status = os.stat(path)
            stamps.append([os.path.basename(path), 0 if os.path.isdir(path) else status.st_size, status.st_mtime_ns])
    outer = file_of(origin.name)  # a path may be spelled in several ways, and differ from machine to machine
    name = os.path.basename(outer) + origin.name[len(outer) :]
    found: dict[str, Any] = {"name": name, "shape": list(origin.shape), "dtype": origin.dtype.str, "layout": origin.layout}
    if stamps:
        found["files"] = zlib.crc32(repr(stamps).encode())
    if stamps and all(os.path.isfile(path) for path in origin.paths):
        return found
    mark = 0
    for at in sorted({0, origin.shape[0] // 2, origin.shape[0] - 1}) if origin.shape and 0 not in origin.shape else ():
        row = np.empty((1, *origin.shape[1:]), origin.dtype.newbyteorder("="))
        origin.read_box((slice(at, at + 1), *(slice(0, length) for length in origin.shape[1:])), row)
        mark = zlib.crc32(row.reshape(-1).view(np.uint8).data, mark)
    return {**found, "content": mark}


def provenance(origin: Origin) -> dict[str, Any]:
    """Return the facts of the source for the manifest of the target."""
    files = []
    for path in list(origin.paths)[:1000]:
        with contextlib.suppress(OSError):
            status = os.stat(path)
            nbytes = None if os.path.isdir(path) else status.st_size
            files.append({"path": path, "bytes": nbytes, "mtime_ns": status.st_mtime_ns})
    chunks = list(origin.chunks) if origin.chunks else None
    return {"files": files, "dtype": origin.dtype.str, "shape": list(origin.shape), "storage": origin.storage, "chunks": chunks}


def _described(path: str, stored: StoredArray) -> ArrayManifest | None:
    """Return the entry of an array in the manifest beside its file; None where no entry describes this array."""
    key = (split_name(stored.name)[1] or "").strip("/")
    with contextlib.suppress(MmapstoreError):
        for entry in entries_beside(path).values():
            if entry.key.strip("/") == key and entry.shape == tuple(stored.shape) and stored.dtype == np.dtype(entry.dtype):
                return entry
    return None
