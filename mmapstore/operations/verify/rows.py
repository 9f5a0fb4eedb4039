"""The values of one array in order, in blocks of bounded size, read ahead of whoever looks at them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...formats.contract import Selection, StoredArray
from ...plain.array_spec import ArraySpec, StoredLayout
from ...plain.errors import DamagedFileError, MmapstoreError
from ...plain.extents import Extents
from ...readers.contract import Decodes, NeedsScratch, Reader
from ...readers.library_reader import LibraryReader
from ...readers.raw_reader import StoredRaw
from ...readers.select_reader import reader_for

Array = np.ndarray[Any, np.dtype[Any]]
BLOCK_NBYTES = 8 << 20  # large enough that calls cost nothing, small enough to stay in the cache from reading to comparing
_UNDER_WAY = 10  # what zarr-python's async.concurrency is unless it was set
_COPIES = 6  # of a piece, in a library: all its chunks encoded and decoded at once, as zarr has them in its threads, and the result
BLOCKS = 2  # held for each array: one is being read while the other is looked at


@dataclass(frozen=True)
class Rows:
    """An array as rows of equal size that are read in order: samples, or, of samples too large to hold, parts of them.

    Attributes
    ----------
    name : what messages call the array
    shape : of all of it, in the order of the axes in which values come
    reader : reads runs of rows; None where there is no value
    how : how the bytes are reached, in words
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    reader: Reader | _LibraryRows | None
    how: str

    @property
    def rows(self) -> int:
        return 0 if self.reader is None else len(self.reader.spec)

    @property
    def row_values(self) -> int:
        return 0 if self.reader is None else math.prod(self.reader.spec.sample_shape)

    @property
    def row_nbytes(self) -> int:
        return self.row_values * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.rows * self.row_nbytes

    @property
    def scratch_nbytes(self) -> int:
        return self.reader.scratch_nbytes if isinstance(self.reader, NeedsScratch) else 0

    def rows_together(self, nbytes: int, most_nbytes: int) -> int:
        """Rows to read at a time: about `nbytes` of them, in whole chunks unless one row of chunks takes over `most_nbytes`."""
        beside = self.reader.element_nbytes if isinstance(self.reader, _LibraryRows) else 0
        fitting = max(1, nbytes // max(1, self.row_nbytes + beside * self.row_values))
        together = self.reader.decoded_together if isinstance(self.reader, Decodes) else 1
        if together > fitting:
            fitting = together if together * self.row_nbytes <= most_nbytes else max(1, most_nbytes // self.row_nbytes)
        return max(1, min(fitting // together * together or fitting, self.rows))

    def steps(self, together: int) -> Iterator[tuple[int, int]]:
        for start in range(0, self.rows, together):
            yield start, min(start + together, self.rows)


def rows_in_order(stored: StoredArray, most_row_nbytes: int, independent: bool = False) -> Rows:
    """All values in C order of the stored axes. Rows are at most `most_row_nbytes`, for which long samples are cut.

    `independent`: read by h5py, zarr or NumPy itself, and by none of our readers.
    """
    shape, dtype = tuple(int(n) for n in stored.shape), stored.dtype.newbyteorder("=")
    if math.prod(shape) == 0:
        return Rows(stored.name, shape, dtype, None, "nothing is stored")
    reader: Reader | _LibraryRows
    sample_nbytes = math.prod(shape[1:]) * dtype.itemsize
    if not independent and 0 < len(shape) <= 6 and sample_nbytes <= most_row_nbytes:
        # Letters that keep the stored order; with all six of them samples run along the first two axes, in that order.
        letters = "NTCDHW" if len(shape) == 6 else "NCDHW"[: len(shape)]
        with contextlib.suppress(DamagedFileError):  # the format's own library tells whether it is
            reader = reader_for(stored, StoredLayout(letters, shape), mapped=False)
            return Rows(stored.name, shape, dtype, reader, reader.why)
    extents = stored.extents
    if not independent and extents is not None and extents.is_one_run and extents.offset_of(0) >= 0:
        flat = Extents.one_run(extents.path, extents.offset_of(0), math.prod(shape), stored.dtype.itemsize, stored.dtype)
        reader = StoredRaw(flat, StoredLayout("N", (flat.rows,)), "read with preadv where the bytes lie", mapped=False)
        return Rows(stored.name, shape, dtype, reader, reader.why)
    reader = _LibraryRows(stored, most_row_nbytes)
    return Rows(stored.name, shape, dtype, reader, reader.why)


def rows_by_layout(stored: StoredArray, layout: StoredLayout, independent: bool = False) -> Rows:
    """Sample by sample, as `layout` has them: to compare arrays whose axes are stored in other orders."""
    reader: Reader = (
        LibraryReader(stored, layout, "through the format's own library") if independent else reader_for(stored, layout, False)
    )
    return Rows(stored.name, reader.spec.shape, reader.spec.dtype, reader, reader.why)


class _LibraryRows:
    """Rows read by the format's own library. A row is whatever the fewest leading axes leave that is small enough."""

    def __init__(self, stored: StoredArray, most_row_nbytes: int) -> None:
        shape = tuple(int(n) for n in stored.shape)
        itemsize = stored.dtype.itemsize
        cut = min(1, len(shape))
        while cut < len(shape) and math.prod(shape[cut:]) * itemsize > most_row_nbytes:
            cut += 1
        self._stored = stored
        self._shape = shape
        self.element_nbytes: int = getattr(stored, "element_nbytes", 0)  # that reading takes beside each value
        self._cut = cut  # axes that are counted off; those behind them make a row
        self._piece = max(2 * most_row_nbytes, math.prod(shape[cut:]) * itemsize)  # callers read no more than this at a time
        rows = math.prod(shape[:cut])
        self.spec = ArraySpec((rows, *shape[cut:]), stored.dtype.newbyteorder("="), "N")
        self.why = "through the format's own library"
        self.place = "decoded by its library"

    @property
    def decoded_together(self) -> int:
        chunks = self._stored.chunks
        return chunks[self._cut - 1] if chunks and self._cut else 1

    def whole_chunks(self, start: int, stop: int) -> tuple[int, int]:
        each = self.decoded_together
        return start - start % each, min(len(self.spec), -(-stop // each) * each)

    @property
    def scratch_nbytes(self) -> int:
        """Chunks, encoded and decoded, as many as zarr has under way at once, and the piece that is read, several times over."""
        chunks = self._stored.chunks
        chunk = math.prod(chunks) * self._stored.dtype.itemsize if chunks else 0
        piece = min(BLOCK_NBYTES, self._piece, self.spec.nbytes)
        kept: int = getattr(self._stored, "cache_nbytes", 0)
        beside = min(self.element_nbytes * math.prod(self._shape), max(self._piece, BLOCK_NBYTES))
        under_way = min(_UNDER_WAY, 2 + piece // max(1, chunk))
        return 2 * under_way * chunk + _COPIES * piece + kept + beside

    def read(self, start: int, stop: int, out: Array) -> None:
        if not self._cut:
            self._stored.read_box((), out.reshape(self._shape))
            return
        along = self._shape[self._cut - 1]
        whole = tuple(slice(0, n) for n in self._shape[self._cut :])
        at = start
        while at < stop:
            before, first = divmod(at, along)
            last = min(along, first + stop - at)
            leading = np.unravel_index(before, self._shape[: self._cut - 1]) if self._cut > 1 else ()
            selection: Selection = (*(slice(int(n), int(n) + 1) for n in leading), slice(first, last), *whole)
            count = last - first
            box = out[at - start : at - start + count].reshape(*[1] * (self._cut - 1), count, *self._shape[self._cut :])
            self._stored.read_box(selection, box)
            at += count


class NumpyFile:
    """A .npy file read by `numpy.load`: what judges our own reader of such files."""

    def __init__(self, stored: StoredArray, path: str) -> None:
        try:
            self._array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DamagedFileError(f"{path} cannot be read by numpy.load: {error}. Copy or write it again.") from error
        self.name, self.shape, self.dtype = stored.name, self._array.shape, self._array.dtype
        self.chunks = None
        self.storage = stored.storage
        self.extents = None
        self.why_not_raw = "numpy.load is asked to read it"

    def read_box(self, selection: Selection, out: Array) -> None:
        np.copyto(out, self._array[selection], casting="unsafe")


def read_ahead(
    values: Rows, steps: Sequence[tuple[int, int]] | Iterator[tuple[int, int]], together: int, threads: ThreadPoolExecutor
) -> Iterator[tuple[int, int, Array | MmapstoreError]]:
    """(first row, last + 1, their values or why they cannot be read) of each step, of at most `together` rows.

    Rows are (rows, *row shape), and valid until the next is asked for: while they are looked at, the next are being read.
    """
    reader = values.reader
    if reader is None:
        return
    shape = reader.spec.sample_shape
    buffers = [np.empty((together, *shape), values.dtype) for _ in range(BLOCKS)]

    def read(start: int, stop: int, out: Array) -> Array | MmapstoreError:
        try:
            reader.read(start, stop, out)
        except MmapstoreError as error:
            return error
        return out

    waiting: tuple[int, int, Future[Array | MmapstoreError]] | None = None
    turn = 0
    try:
        for start, stop in steps:
            ahead = threads.submit(read, start, stop, buffers[turn % BLOCKS][: stop - start])
            turn += 1
            now, waiting = waiting, (start, stop, ahead)
            if now is not None:
                yield now[0], now[1], now[2].result()
        if waiting is not None:
            now, waiting = waiting, None
            yield now[0], now[1], now[2].result()
    finally:
        if waiting is not None:
            waiting[2].exception()  # nobody may write into a buffer that is gone
