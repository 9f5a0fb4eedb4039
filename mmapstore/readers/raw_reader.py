"""Samples whose bytes lie in files as they are: mapped where they lie in one piece, read with `preadv` everywhere.

A run of samples in one piece of one file is offered as a view of a memory map. Gathers of many short windows copy from
that map while all of the file fits in memory, which costs half of what the kernel takes for it. Where it does not fit, and
from files in many pieces, they use vectored `preadv` straight into the caller's arrays: a gather through a map then faults
page by page, and stalls.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..files.descriptors import Descriptor, Descriptors, let_go, read_exactly, read_rows, will_need
from ..files.process_memory import memory_available
from ..plain.array_spec import StoredLayout
from ..plain.errors import DamagedFileError, NotFoundError
from ..plain.extents import Extents
from ..plain.runs import Numbers, Runs, runs_of
from .contract import Array, Part, Reader


class StoredRaw(Reader):
    """Reads samples at the places an `Extents` names. The layout must keep each sample in one piece (`has_rows`).

    Not `mapped`: no view is offered, and nothing is mapped ever.
    """

    gathers = offers_views = takes_advice = True

    def __init__(self, extents: Extents, layout: StoredLayout, why: str, mapped: bool = True) -> None:
        self._given = extents
        self._extents = extents.cut(_samples_in_row(layout))
        self._files = Descriptors(None if extents.one_file_each else extents.path)
        self._folder = _existing_folder(extents.file_of(0)) if extents.one_file_each else None
        self._layout = layout
        self.why = why
        self.spec = layout.spec(extents.dtype)
        self._mapped = mapped and extents.is_one_run
        self.place = "memory-mapped" if self._mapped else "read in place"
        self._swapped = not extents.dtype.isnative
        self._fits: bool | None = None  # all of it in memory; asked when first needed, and once an epoch

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredRaw, (self._given, self._layout, self.why, self._mapped)

    # --- the contract --------------------------------------------------------------------------------------------

    def read(self, start: int, stop: int, out: Array) -> None:
        if self._layout.is_consecutive:
            self._read_rows(start, [out])
        else:
            for place, row in enumerate(self._layout.rows_of(np.arange(start, stop)).tolist()):
                self._read_rows(row, [out[place : place + 1]])
        self._to_native(out)

    def view(self, start: int, stop: int) -> Array | None:
        extents = self._extents
        if self._swapped or not self._mapped or extents.offset_of(0) < 0:
            return None
        by_episode = self._layout.samples_first(self._map())
        if self._layout.is_consecutive:
            return by_episode.reshape(self.spec.shape)[start:stop]
        episode, first = divmod(start, self._layout.episode_length)
        if first + stop - start > self._layout.episode_length:
            return None  # the run goes on in another episode, which lies elsewhere
        return by_episode[episode, first : first + stop - start]

    def gather(self, starts: Numbers, parts: Sequence[Part]) -> None:
        if self._fits is None:
            self._fits = self._mapped and self._extents.offset_of(0) >= 0 and self.spec.nbytes <= memory_available()
        if self._fits:
            self._gather_from_map(starts, parts)
        elif not self._layout.is_consecutive:
            self._gather_frames(starts, parts)
        elif (runs := _few_runs(starts, parts)) is not None:
            at, first = 0, parts[0].first
            for start, stop in runs.tolist():
                self._read_rows(start + first, [parts[0].out[at : at + stop - start, 0]])
                at += stop - start
        else:
            for first, pieces in _adjacent(parts):
                if self._extents.is_one_run:
                    self._gather_from_one_run(starts, first, pieces)
                else:
                    for window, start in enumerate(starts.tolist()):
                        self._read_rows(start + first, [out[window, a:b] for out, a, b in pieces])
        for part in parts:
            self._to_native(part.out)

    @property
    def files(self) -> list[str]:
        return [self._extents.path if self._folder is None else self._folder]

    def will_need(self, start: int, stop: int) -> None:
        self._advise(start, stop, will_need)

    def let_go(self, start: int, stop: int) -> None:
        self._advise(start, stop, let_go)

    def check(self) -> None:
        self._files.check()
        self._check_folder()
        self._fits = None

    def _check_folder(self) -> None:
        """Without its directory, a file that is missing is no chunk that was never written."""
        if self._folder is not None and not os.path.isdir(self._folder):
            raise DamagedFileError(
                f"{self._folder} does not exist any more: the array was deleted or moved since it was opened. Open it again "
                "where it is."
            )

    def _advise(self, start: int, stop: int, advise: Callable[[Descriptor, int, int], None]) -> None:
        if not self._layout.is_consecutive:
            return  # the rows lie far apart: a call for each costs more than it brings
        for extent, offset, first, last in self._extents.runs(start, min(stop, len(self.spec))):
            if offset >= 0:
                try:
                    descriptor = self._files.get(self._extents.file_of(extent))
                except (NotFoundError, OSError):
                    continue  # advice never fails; reading will say what is wrong
                advise(descriptor, offset, (last - first) * self._extents.row_nbytes)

    # --- rows ----------------------------------------------------------------------------------------------------

    def _gather_from_map(self, starts: Array, parts: Sequence[Part]) -> None:
        rows = mapped_array(
            self._files,
            self._extents.path,
            self._extents.offset_of(0),
            (self._extents.rows, *self.spec.sample_shape),
            self.spec.dtype,  # in native byte order whatever it is stored in: `_to_native` swaps what was taken
        )
        for part in parts:
            part.take(rows, self._layout.rows_of(part.frames(starts)))

    def _gather_from_one_run(self, starts: Array, first: int, pieces: list[tuple[Array, int, int]]) -> None:
        """The hot path of shuffled training: one system call for each window, into the arrays that are handed out."""
        base = self._extents.offset_of(0) + first * self._extents.row_nbytes
        outs = [out if (a, b) == (0, out.shape[1]) else out[:, a:b] for out, a, b in pieces]
        read_rows(self._open(0), (starts * self._extents.row_nbytes + base).tolist(), outs)

    def _gather_frames(self, starts: Array, parts: Sequence[Part]) -> None:
        for part in parts:
            rows = self._layout.rows_of(part.frames(starts))
            for window, row_numbers in enumerate(rows.tolist()):
                for k, row in enumerate(row_numbers):
                    self._read_rows(row, [part.out[window, k : k + 1]])

    def _read_rows(self, row: int, outs: list[Array]) -> None:
        """Consecutive rows, beginning with `row`, into arrays of rows, one after the other."""
        total = sum(len(out) for out in outs)
        runs = self._extents.runs(row, row + total)
        if len(runs) == 1:
            self._read_run(runs[0], outs)
            return
        rows = [out[k : k + 1] for out in outs for k in range(len(out))] if len(outs) > 1 else None
        for run in runs:
            self._read_run(run, [outs[0][run[2] : run[3]]] if rows is None else rows[run[2] : run[3]])

    def _read_run(self, run: tuple[int, int, int, int], outs: list[Array]) -> None:
        extent, offset, _, _ = run
        if offset >= 0:
            try:
                read_exactly(self._open(extent), offset, outs)
                return
            except NotFoundError:
                if self._extents.fill is None:
                    raise
                self._check_folder()
        if self._extents.fill is None:
            raise DamagedFileError(f"{self._extents.file_of(extent)} stores nothing for extent {extent}, and names no fill value.")
        for out in outs:
            # In stored byte order, as everything read is: _to_native swaps it along with the rest.
            out.view(self._extents.dtype)[...] = self._extents.fill

    def _map(self) -> Array:
        return mapped_array(self._files, self._extents.path, self._extents.offset_of(0), self._layout.shape, self._extents.dtype)

    def _open(self, extent: int) -> Descriptor:
        return self._files.get(self._extents.file_of(extent))

    def _to_native(self, out: Array) -> None:
        if self._swapped:
            out.byteswap(inplace=True)


def mapped_array(files: Descriptors, path: str, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Plain bytes of a file as a read-only array: a view of a memory map that lives as long as the array."""
    nbytes = math.prod(shape) * dtype.itemsize
    return np.ndarray(shape, dtype, files.get(path).map(offset, nbytes), offset)


def _existing_folder(path: str) -> str:
    """The nearest directory above a file that exists. For the file of a chunk that is the array's, or one inside it."""
    folder = os.path.dirname(path)
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    return folder


def _samples_in_row(layout: StoredLayout) -> int:
    """Samples in each row along the first stored axis: more than one where N and T both are stored."""
    return layout.samples // layout.shape[0]


def _few_runs(starts: Array, parts: Sequence[Part]) -> Runs | None:
    """The runs of single samples in stored order, if they are fewer than half of the samples; None for windows and other orders."""
    if len(parts) > 1 or parts[0].count > 1 or not (np.diff(starts) > 0).all():
        return None
    runs = runs_of(starts)
    return runs if len(runs) <= len(starts) // 2 else None


def _adjacent(parts: Sequence[Part]) -> list[tuple[int, list[tuple[Array, int, int]]]]:
    """Frames that lie next to each other, over all parts, so that one call reads them.

    Returns (offset of the first frame, [(out, first k, last k + 1), ...]) for each group.
    """
    frames: list[tuple[int, Array, int, int]] = []
    for part in parts:
        if part.step == 1:
            frames.append((part.first, part.out, 0, part.count))
        else:
            frames.extend((part.first + k * part.step, part.out, k, k + 1) for k in range(part.count))
    frames.sort(key=lambda frame: frame[0])
    groups: list[tuple[int, list[tuple[Array, int, int]]]] = []
    end = None
    for first, out, a, b in frames:
        if first == end:
            groups[-1][1].append((out, a, b))
        else:
            groups.append((first, [(out, a, b)]))
        end = first + b - a
    return groups
