"""Sources of one field: arrays, opened datasets, iterables."""

from __future__ import annotations

import itertools
import os
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ...batches.dataset import Dataset
from ...batches.notes import warn_of_packed
from ...batches.opening import dataset_of
from ...files.lent_buffers import new_pages
from ...formats.contract import StoredArray
from ...formats.registry import open_live
from ...plain.array_likes import exact_array, is_read_in_slices
from ...plain.array_spec import DEFAULT_LAYOUTS, LETTERS, ArraySpec, StoredLayout, checked_dtype
from ...plain.errors import InvalidTypeError, InvalidValueError
from ...plain.guessed_axes import Doubt, doubt_about
from ...readers.contract import Reader
from .contract import ONLY, Array, Piece, Position

_MOST_DECODINGS = 4  # of a chunk that is read in parts to save memory


def content_mark(*samples: Array) -> str:
    """CRC-32 of a few samples, as 8 hex digits."""
    mark = 0
    for sample in samples:
        mark = zlib.crc32(np.ascontiguousarray(sample).reshape(-1).view(np.uint8).data, mark)
    return f"{mark:08x}"


def starts_between(starts: Sequence[int] | Array, first: int, last: int) -> list[int]:
    """Return the rising `starts` that are in [first, last), counted from `first`."""
    return [int(start) - first for start in starts[bisect_left(starts, first) : bisect_left(starts, last)]]


class SlicedArray(StoredArray):
    """An array of another library that is read in slices: a netCDF4 variable, a PyTables array, a Dask array."""

    storage = "read in slices"

    def __init__(self, array: Any, name: str) -> None:
        self._array, self.name = array, name
        self.shape = tuple(int(length) for length in array.shape)
        chunks = getattr(array, "chunks", None)
        self.chunks = chunks if isinstance(chunks, tuple) and all(isinstance(each, int) for each in chunks) else None
        # netCDF4 announces the dtype on disk and gives scaled values: the dtype is that of a value which was read.
        self.dtype = exact_array(array[tuple(slice(0, 1) for _ in self.shape)], name).dtype

    def read_box(self, selection: tuple[slice, ...], out: Array) -> None:
        out[...] = exact_array(self._array[selection], self.name)

    def attributes(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        return {name: 1 for name in names or () if name in getattr(self._array, "attrs", ())}


def array_source(array: Any, source_layout: str | None) -> DatasetSource:
    """Return the source of anything with a shape, a dtype and slices: an ndarray, HDF5 dataset, Zarr array, table or tensor."""
    paths = [os.path.abspath(path) for path in [_file_of(array)] if path]
    name = _name_of(array, paths)
    if isinstance(array, np.ndarray) or not is_read_in_slices(array):
        array = exact_array(array, name)
    StoredLayout.of(source_layout, tuple(array.shape), name)
    try:
        stored = open_live(array)
    except InvalidTypeError:
        stored = SlicedArray(array, name)
    stored.name = name
    dataset = dataset_of(stored, source_layout)
    warn_of_packed(each for field in dataset.packed.values() for each in field)
    return DatasetSource(dataset, name, paths, list(dataset.doubts.values()))


def _file_of(array: Any) -> str | None:
    """The file behind an array, where it tells: memory maps (and views of them), HDF5 datasets, Zarr arrays."""
    base = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and getattr(base, "filename", None):
            return os.fspath(base.filename)  # type: ignore[arg-type]
        base = base.base
    found = getattr(getattr(array, "file", None), "filename", None) or getattr(getattr(array, "store", None), "root", None)
    return os.fspath(found) if isinstance(found, (str, os.PathLike)) else None


def _name_of(array: Any, paths: list[str]) -> str:
    if not paths:
        return "an array in RAM" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
    inside = str(getattr(array, "name", None) or "").strip("/")
    return f"{paths[0]}::/{inside}" if inside else paths[0]


class DatasetSource:
    """A source: one field of an opened dataset."""

    gives_from_any_sample = True

    def __init__(self, dataset: Dataset, name: str, paths: list[str], doubts: Sequence[Doubt] = ()) -> None:
        self._dataset, self.doubts = dataset, doubts
        self._together = max(1, self._reader.decoded_together)
        self._takes_whole = True
        self.name = name
        self.paths = paths
        shape = tuple(int(n) for n in dataset.shape)
        self._spec = ArraySpec(shape, checked_dtype(dataset.dtype, name), str(dataset.layout))
        self.specs = {ONLY: self._spec}
        self.samples: int | None = len(dataset)
        self.guess = len(dataset)
        note = next(iter(dataset.notes.values()), None)
        self.notes: Mapping[str, Mapping[str, Any]] = {} if note is None else {ONLY: note.to_json()}
        self._starts = np.asarray(dataset.episodes, np.int64)[:-1]
        samples = len(dataset)
        marks = [np.array(dataset[at : at + 1]) for at in sorted({0, samples // 2, samples - 1})]
        self.fingerprint: dict[str, Any] = {
            "kind": "dataset",
            "name": name,
            "shape": list(shape),
            "dtype": str(dataset.dtype),
            "layout": self._spec.layout,
            "files": stamp(paths),
            "content": content_mark(*marks),
        }

    @property
    def _reader(self) -> Reader:
        return next(iter(self._dataset.readers.values()))

    def fit(self, nbytes: int) -> None:
        self._dataset = self._dataset.within(nbytes // 2)
        self._takes_whole = self._together * self._spec.sample_nbytes <= nbytes // 8

    def pieces(self, after: Position, at_most: int) -> Iterator[Piece]:
        at, step = after.samples, self._step(at_most)
        nbytes = self._held_nbytes(step)
        room = new_pages(nbytes).view(self._spec.dtype).reshape(-1, *self._spec.sample_shape) if nbytes else None
        while at < len(self._dataset):
            stop = min(at + step - at % min(step, self._together), len(self._dataset))
            read = self._dataset.run_into(at, stop, room)
            for start in range(0, len(read), at_most):
                piece = read[start : start + at_most]
                yield Piece({ONLY: piece}, starts_between(self._starts, at + start, at + start + len(piece)))
            at += len(read)

    def memory(self, at_most: int) -> dict[str, int]:
        step = self._step(at_most)
        # Samples picked here and there may each lie in a chunk of their own; others in a chunk that begins before them.
        decoding = self._reader.scratch_of(step + self._together - 1) if self._is_whole else self._reader.scratch_nbytes
        return {"samples being read": self._held_nbytes(step), "decoding": decoding}

    @property
    def _is_whole(self) -> bool:
        return len(self._dataset) == len(self._reader.spec)

    def _held_nbytes(self, step: int) -> int:
        """Return the bytes of the samples that are read at once; 0 where all of them are views of a mapped file."""
        is_mapped = self._is_whole and self._reader.view(0, len(self._dataset)) is not None
        return 0 if is_mapped else min(step, len(self._dataset)) * self._spec.sample_nbytes

    def _step(self, at_most: int) -> int:
        """Return the samples to read at once: whole chunks, or where they take too much memory, no less than a fourth."""
        is_cut = at_most < self._together <= _MOST_DECODINGS * at_most and not self._takes_whole
        return at_most if is_cut else max(1, at_most // self._together) * self._together


def stamp(paths: Iterable[str]) -> str:
    """Digest of names, sizes and times of change: other text when a file was changed, in 8 hex digits."""
    mark = 0
    for path in paths:
        found = Path(path).stat() if Path(path).exists() else None
        size, changed = (found.st_size, found.st_mtime_ns) if found and not Path(path).is_dir() else (0, 0)
        mark = zlib.crc32(os.fsencode(os.path.abspath(path)) + f"\0{size}\0{changed}\0".encode(), mark)
    return f"{mark:08x}"


class IterableSource:
    """A list, a generator, anything that gives samples or blocks of samples one after the other."""

    gives_from_any_sample = False
    notes: Mapping[str, Mapping[str, Any]] = MappingProxyType({})

    def __init__(self, iterable: Iterable[Any], source_layout: str | None, layout: str | None, any_dtype: bool) -> None:
        self.name = f"a {type(iterable).__name__}"
        self.paths: list[str] = []
        self._any_dtype = any_dtype
        iterator = iter(iterable)
        # An empty block says nothing of the samples; the first with one does.
        read = (self._array(item, number) for number, item in enumerate(iterator))
        first = next((item for item in read if item.size), None)
        if first is None:
            raise InvalidValueError(
                f"{self.name} gave no samples. Check that it was not iterated over before: a generator gives its items once."
            )
        self._items: Iterator[Array] | None = itertools.chain([first], read)
        self._letters = _block_letters(source_layout, layout, first.ndim, self.name)
        block = first.shape if first.ndim == len(self._letters) else (1, *first.shape)
        doubt = doubt_about(f"an item of {self.name}", block, source_layout)
        self.doubts = [doubt] if doubt else []
        stored, _ = self._as_samples(first)
        self._item_nbytes = first.nbytes
        gives_blocks = first.ndim == len(self._letters)
        known = len(iterable) if isinstance(iterable, Sized) and not gives_blocks else None
        self.samples = known
        self.guess = known or 0
        self._spec = ArraySpec(
            (known or 0, *stored.spec(first.dtype).sample_shape), first.dtype.newbyteorder("="), stored.spec(first.dtype).layout
        )
        self.specs = {ONLY: self._spec}
        self.fingerprint: dict[str, Any] = {
            "kind": "iterable",
            "sample shape": list(self._spec.sample_shape),
            "dtype": str(self._spec.dtype),
            "layout": self._letters,
            "content": content_mark(first),
        }

    def _array(self, item: Any, number: int) -> Array:
        if isinstance(item, (dict, tuple)):
            raise InvalidTypeError(
                f"Item {number} of {self.name} is a {type(item).__name__}; expected one array. "
                'Ingest each field of its own: ingest({"image": images, "label": labels}, directory).'
            )
        array = exact_array(item, f"Item {number} of {self.name}")
        checked_dtype(array.dtype, f"Item {number} of {self.name}")
        return array

    def _as_samples(self, item: Array) -> tuple[StoredLayout, Array]:
        """Return the layout of an item, and the item as (episodes, samples, *sample)."""
        letters = self._letters
        if item.ndim == len(letters) - 1:
            left_out = "N" if "N" in letters else "T"
            letters = letters.replace(left_out, "")
            if not set(letters) & {"N", "T"}:
                letters, item = "N" + letters, item[None]
        stored = StoredLayout.of(letters, item.shape, f"An item of {self.name}")
        return stored, stored.samples_first(item)

    def pieces(self, after: Position, at_most: int) -> Iterator[Piece]:
        if after.samples != 0 or self._items is None:
            raise AssertionError("an iterable gives its samples once, from the first on")
        items, self._items = self._items, None
        at = 0
        for item in items:
            if item.size == 0 and item.ndim == len(self._letters):
                continue
            if item.ndim not in (len(self._letters), len(self._letters) - 1):
                raise InvalidValueError(
                    f"Sample {at} of {self.name} has shape {item.shape}, "
                    f"those before it {self._spec.sample_shape}. All samples have to be alike."
                )
            stored, episodes = self._as_samples(item)
            found = stored.sample_shape
            if found != self._spec.sample_shape:
                raise InvalidValueError(
                    f"Sample {at} of {self.name} has shape {found}, those before it {self._spec.sample_shape}. "
                    "All samples have to be alike: crop or pad them first, or ingest them as separate arrays."
                )
            if item.dtype.newbyteorder("=") != self._spec.dtype and not self._any_dtype:
                raise InvalidTypeError(
                    f"Sample {at} of {self.name} has dtype {item.dtype}, "
                    f"those before it {self._spec.dtype}. Say dtype= to convert all to one."
                )
            for episode in episodes:
                if self.samples is not None and at + len(episode) > self.samples:
                    raise InvalidValueError(
                        f"{self.name} has a length of {self.samples} and gives more samples than that. "
                        "Mend its __len__, or pass iter() of it."
                    )
                begins = (0,) if at == 0 or "T" in stored.letters else ()
                yield Piece({ONLY: episode}, begins)
                at += len(episode)

    def memory(self, at_most: int) -> dict[str, int]:
        # The one before, the next, and the room of an earlier one, which malloc cannot use again where something small lies in it.
        return {"items given by the iterable": 3 * self._item_nbytes}


def _block_letters(source_layout: str | None, layout: str | None, axes: int, name: str) -> str:
    """The letters of a block of what the iterable gives; a single sample has one axis less."""
    if source_layout is not None:
        letters = str(source_layout).upper()
        if set(letters) - set(LETTERS) or len(set(letters)) != len(letters) or not set(letters) & {"N", "T"}:
            raise InvalidValueError(
                f"source_layout={source_layout!r} is not understood; expected each letter of {LETTERS} at most once, with N or T."
            )
        if axes not in (len(letters), len(letters) - 1):
            raise InvalidValueError(
                f"{name} gives arrays with {axes} axes; "
                f"source_layout={source_layout!r} means {len(letters)} for a block, {len(letters) - 1} for a sample."
            )
        return letters
    # Without a word about blocks each item is one sample, but four axes are a block of what most people have.
    usual = "NCHW" if layout is not None and axes == 4 else DEFAULT_LAYOUTS.get(axes + 1) if layout is None or axes < 4 else None
    if usual is None:
        raise InvalidValueError(
            f"{name} gives arrays with {axes} axes; say what each is with source_layout=, "
            "such as 'NCDHW' for volumes or blocks of them."
        )
    return usual
