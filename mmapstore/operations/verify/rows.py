"""Arrays as rows of equal size, which are read in order by the readers of batches, in blocks that are read ahead."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from ...files.lent_buffers import new_pages
from ...formats.contract import Selection, StoredArray
from ...formats.in_memory import ArrayInMemory
from ...formats.located import one_run
from ...plain.array_spec import StoredLayout
from ...plain.errors import DamagedFileError, MmapstoreError
from ...readers.contract import Reader
from ...readers.library_reader import LibraryReader
from ...readers.raw_reader import StoredRaw
from ...readers.select_reader import reader_for

Array = np.ndarray[Any, np.dtype[Any]]
BLOCK_NBYTES = 8 << 20  # large enough that calls cost nothing, small enough to stay in the cache from reading to comparing
BLOCKS = 2  # held for each array: one is being read while the other is looked at
BOOKKEEPING = 4 << 20  # Python objects, and what malloc rounds up
BY_LIBRARY = "through the format's own library"


def rows_together(rows: Reader, nbytes: int, most_nbytes: int) -> int:
    """Return the rows to read at a time: `nbytes` in whole chunks, unless one row of chunks takes over `most_nbytes`."""
    each, together = max(1, rows.spec.sample_nbytes), max(1, rows.decoded_together)
    fitting = max(1, nbytes // each)
    if together > fitting:
        fitting = together if together * each <= most_nbytes else max(1, most_nbytes // each)
    return max(1, min(fitting // together * together or fitting, len(rows.spec)))


def scratch_nbytes(rows: Reader, together: int, starts: int) -> int:
    """Return the bytes that `read_ahead` takes beside its blocks: `together` rows in each, from multiples of `starts` on."""
    each = max(1, rows.decoded_together)
    at_once = BLOCKS if together < len(rows.spec) else 1  # the next one may begin while one is under way
    return rows.scratch_of(at_once * (together + (each - 1 if math.gcd(starts, together) % each else 0)))


def rows_in_order(stored: StoredArray, most_row_nbytes: int, independent: bool = False, leading: int = 1) -> Reader:
    """Return all values in C order of the stored axes, in rows of at most `most_row_nbytes`, for which long samples are cut.

    `independent`: read by h5py, zarr or NumPy itself. `leading`: axes, 1 or 2, that no row goes across. Raises MissingPackageError
    where the library lacks a codec.
    """
    shape, dtype = tuple(int(n) for n in stored.shape), stored.dtype.newbyteorder("=")
    cut = min(leading, len(shape))  # axes that are counted off; those behind them make a row
    while cut < len(shape) and math.prod(shape[cut:]) * dtype.itemsize > most_row_nbytes:
        cut += 1
    has_values = 0 not in shape
    located = stored.located if has_values else None
    if shape and cut == leading and not independent and has_values:
        # Letters without a meaning keep the stored order of axes.
        layout = StoredLayout("NT"[:leading] + "".join(chr(ord("a") + axis) for axis in range(len(shape) - leading)), shape)
        with contextlib.suppress(DamagedFileError):  # the format's own library tells whether it is
            return reader_for(stored, layout, mapped=False)
    elif not independent and located is not None and located.offset is not None:
        flat = one_run(located.root, located.offset, (math.prod(shape),), stored.dtype)
        return StoredRaw(flat, StoredLayout("N", flat.grid.shape), "read with preadv where the bytes lie", mapped=False)
    stored.require_codecs()
    folded = _Folded(stored, cut)
    return LibraryReader(folded, StoredLayout("NC", folded.shape), BY_LIBRARY)


def by_numpy(name: str, path: str) -> StoredArray:
    """Open a .npy file by `numpy.load`, which judges our own reader of these files. Raises DamagedFileError."""
    try:
        return ArrayInMemory(np.load(path, mmap_mode="r", allow_pickle=False), name)
    except (ValueError, OSError, EOFError) as error:
        raise DamagedFileError(f"{name} cannot be read by numpy.load: {error}. Copy or write it again.") from error


class _Folded(StoredArray):
    """A stored array of two axes: those before `cut` counted as one, and those behind it as one."""

    def __init__(self, stored: StoredArray, cut: int) -> None:
        self._stored, self._cut = stored, cut
        self._whole = tuple(slice(0, n) for n in stored.shape[cut:])
        self.name, self.storage, self.dtype = stored.name, stored.storage, stored.dtype
        self.shape = (math.prod(stored.shape[:cut]), math.prod(stored.shape[cut:]))
        chunk = stored.chunks or (1,) * len(stored.shape)
        together = chunk[cut - 1] if cut else 1
        self.chunks = (together, math.prod(chunk) // together) if stored.chunks else None
        self.element_nbytes = stored.element_nbytes
        self.cache_nbytes = stored.cache_nbytes

    def read_box(self, selection: Selection, out: Array) -> None:
        if not self._cut:
            self._stored.read_box((), out.reshape(()))
            return
        at, stop, done = selection[0].start, selection[0].stop, 0
        *leading, along = self._stored.shape[: self._cut]
        while at < stop:
            before, first = divmod(at, along)
            count = min(along - first, stop - at)
            place = tuple(slice(int(n), int(n) + 1) for n in np.unravel_index(before, leading)) if leading else ()
            box = (*place, slice(first, first + count), *self._whole)
            self._stored.read_box(box, out[done : done + count].reshape([part.stop - part.start for part in box]))
            at, done = at + count, done + count


def read_ahead(
    rows: Reader, steps: Sequence[tuple[int, int]], together: int, threads: ThreadPoolExecutor
) -> Iterator[tuple[int, int, Array | MmapstoreError]]:
    """Yield (first row, last + 1, their values or why they cannot be read) of each step, of at most `together` rows.

    Values are (rows, *row shape), and valid until the next are asked for: while they are looked at, the next are being read.
    """
    spec = rows.spec
    buffers = [
        new_pages(together * spec.sample_nbytes).view(spec.dtype).reshape(together, *spec.sample_shape) for _ in range(BLOCKS)
    ]

    def read(start: int, stop: int, out: Array) -> Array | MmapstoreError:
        try:
            rows.read(start, stop, out)
        except MmapstoreError as error:
            return error
        return out

    now: tuple[int, int, Future[Array | MmapstoreError]] | None = None
    if len(steps) == 1:  # a thread would cost as much as a small array
        yield *steps[0], read(*steps[0], buffers[0][: steps[0][1] - steps[0][0]])
        return
    for turn, (start, stop) in enumerate(steps):
        ahead = threads.submit(read, start, stop, buffers[turn % BLOCKS][: stop - start])
        if now is not None:
            yield now[0], now[1], now[2].result()
        now = start, stop, ahead
    if now is not None:
        yield now[0], now[1], now[2].result()
