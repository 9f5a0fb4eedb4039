"""Samples whose bytes lie in files as they are: mapped where they lie in one piece, read with `preadv` everywhere.

A run of samples in one piece of one file is offered as a view of a memory map. Gathers of many short windows copy from
that map while all of the file fits in memory, which costs half of the kernel's time for it. Larger files, and
files in many pieces, are read by vectored `preadv` straight into the caller's arrays: a gather through a map then faults
page by page, and stalls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..files.descriptors import Descriptor, Descriptors, let_go, read_exactly, read_rows, will_need
from ..files.direct_io import AT_ONCE, BOUNCE_NBYTES, WORTH_NBYTES, LongReads
from ..files.process_memory import memory_available
from ..files.worker_threads import share_out
from ..formats.located import Located
from ..plain.array_spec import StoredLayout
from ..plain.errors import NotFoundError
from ..plain.runs import Runs, runs_of
from .array_view import MappedReader
from .contract import Array, Part

_SMALL_NBYTES = 256 * 2**10


class StoredRaw(MappedReader):
    """Reads samples at the places of a `Located` that has rows. The layout must keep each sample in one piece (`has_rows`).

    Not `mapped`: no view is offered, and nothing is ever mapped.
    """

    takes_advice = True

    def __init__(self, located: Located, layout: StoredLayout, why: str, mapped: bool = True) -> None:
        self._located = located
        self._files = Descriptors(located.root)
        self._layout = layout
        self.why = why
        self.spec = layout.spec(located.dtype)
        self._row_nbytes = self.spec.sample_nbytes
        self._rows_together = located.grid.chunk[0] * (layout.samples // layout.shape[0])
        self._mapped = mapped and located.offset is not None
        self.place = "memory-mapped" if self._mapped else "read in place"
        self._swapped = not located.dtype.isnative
        self._exceeds: bool | None = None
        self._long_reads: LongReads | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredRaw, (self._located, self._layout, self.why, self._mapped)

    # --- the contract --------------------------------------------------------------------------------------------

    def read(self, start: int, stop: int, out: Array) -> None:
        if self._layout.is_consecutive and self._located.offset is not None and out.nbytes >= WORTH_NBYTES and self.exceeds_memory:
            self._read_long(self._located.offset + start * self._row_nbytes, out)
        elif self._layout.is_consecutive:
            self._read_rows(start, [out])
        else:
            for place, row in enumerate(self._layout.rows_of(np.arange(start, stop)).tolist()):
                self._read_rows(row, [out[place : place + 1]])
        self._to_native(out)

    @property
    def exceeds_memory(self) -> bool:
        """True if all of it did not fit into memory when this was asked first, or first in an epoch."""
        if self._exceeds is None:
            self._exceeds = self.spec.nbytes > memory_available()
        return self._exceeds

    def read_runs(self, runs: Runs, out: Array) -> None:
        if not self.exceeds_memory or len(runs) * WORTH_NBYTES > out.nbytes:
            super().read_runs(runs, out)
            return
        ends = np.cumsum(runs[:, 1] - runs[:, 0]).tolist()
        tasks = [(start, stop, out[end - (stop - start) : end]) for (start, stop), end in zip(runs.tolist(), ends, strict=True)]

        def read_some(taken: Iterable[tuple[int, int, Array]]) -> None:
            for task in taken:
                self.read(*task)

        share_out(tasks, read_some, AT_ONCE)  # while one piece is copied out of its buffer, the next is read

    def _read_long(self, offset: int, out: Array) -> None:
        descriptor, reads = self._files.get(self._located.root), self._long_reads
        if reads is None or reads.descriptor is not descriptor:
            reads = self._long_reads = LongReads(descriptor)
        reads.read(offset, out)

    @property
    def scratch_nbytes(self) -> int:
        return AT_ONCE * BOUNCE_NBYTES if self.exceeds_memory and self._located.offset is not None else 0

    def view(self, start: int, stop: int) -> Array | None:
        return super().view(start, stop) if self._mapped else None

    def gather(self, starts: Array, parts: Sequence[Part]) -> None:
        # Mapping a file takes longer than reading a window of it: of many small files joined, each has one of a batch.
        if self._mapped and not self.exceeds_memory and (len(starts) > 1 or self.spec.nbytes > _SMALL_NBYTES):
            super().gather(starts, parts)
            return
        if not self._layout.is_consecutive:
            self._gather_frames(starts, parts)
        elif (runs := _few_runs(starts, parts)) is not None:
            at, first = 0, parts[0].first
            for start, stop in runs.tolist():
                self._read_rows(start + first, [parts[0].out[at : at + stop - start, 0]])
                at += stop - start
        else:
            for first, pieces in _adjacent(parts):
                if self._located.offset is not None:
                    self._gather_from_one_run(starts, first, pieces, self._located.offset)
                else:
                    for window, start in enumerate(starts.tolist()):
                        self._read_rows(start + first, [out[window, a:b] for out, a, b in pieces])
        for part in parts:
            self._to_native(part.out)

    @property
    def files(self) -> list[str]:
        return [self._located.root]

    def will_need(self, start: int, stop: int) -> None:
        # A file has to be opened to be asked for, which takes as long as to read it where it is small.
        if self.spec.nbytes > _SMALL_NBYTES or self._located.offset is None:
            self._advise(start, stop, will_need)

    def let_go(self, start: int, stop: int) -> None:
        self._advise(start, stop, let_go)

    def check(self) -> None:
        self._files.check()
        self._exceeds = None

    def _advise(self, start: int, stop: int, advise: Callable[[Descriptor, int, int], None]) -> None:
        if not self._layout.is_consecutive:
            return  # the rows lie far apart: a call for each costs more than it brings
        for chunk, within, first, last in self._runs(start, min(stop, len(self.spec))):
            place = self._located.place(chunk)
            if place is not None:
                try:
                    descriptor = self._files.get(place.path)
                except (NotFoundError, OSError):
                    continue  # advice never fails; reading will say what is wrong
                advise(descriptor, place.offset + within, (last - first) * self._row_nbytes)

    # --- rows ----------------------------------------------------------------------------------------------------

    def _runs(self, start: int, stop: int) -> list[tuple[int, int, int, int]]:
        """Rows [start, stop) as (chunk, byte within it, first, last + 1 relative to `start`), in order."""
        found = []
        at = start
        while at < stop:
            chunk, within = divmod(at, self._rows_together)
            count = min(self._rows_together - within, stop - at)
            found.append((chunk, within * self._row_nbytes, at - start, at - start + count))
            at += count
        return found

    def _gather_from_one_run(self, starts: Array, first: int, pieces: list[tuple[Array, int, int]], offset: int) -> None:
        """The hot path of shuffled training: one system call for each window, into the arrays that are handed out."""
        base = offset + first * self._row_nbytes
        outs = [out if (a, b) == (0, out.shape[1]) else out[:, a:b] for out, a, b in pieces]
        read_rows(self._files.get(self._located.root), (starts * self._row_nbytes + base).tolist(), outs)

    def _gather_frames(self, starts: Array, parts: Sequence[Part]) -> None:
        for part in parts:
            rows = self._layout.rows_of(part.frames(starts))
            for window, row_numbers in enumerate(rows.tolist()):
                for k, row in enumerate(row_numbers):
                    self._read_rows(row, [part.out[window, k : k + 1]])

    def _read_rows(self, row: int, outs: list[Array]) -> None:
        """Read consecutive rows, beginning with `row`, into arrays of rows, one after the other."""
        runs = self._runs(row, row + sum(len(out) for out in outs))
        if len(runs) == 1:
            self._read_run(runs[0], outs)
            return
        rows = [out[k : k + 1] for out in outs for k in range(len(out))] if len(outs) > 1 else None
        for run in runs:
            self._read_run(run, [outs[0][run[2] : run[3]]] if rows is None else rows[run[2] : run[3]])

    def _read_run(self, run: tuple[int, int, int, int], outs: list[Array]) -> None:
        chunk, within, _, _ = run
        place = self._located.place(chunk)
        if place is not None:
            try:
                read_exactly(self._files.get(place.path), place.offset + within, outs)
                return
            except NotFoundError:
                if not self._located.one_file_each:
                    raise
                self._files.check()  # a chunk that was never written is missing, too, but not the directory
        for out in outs:
            # In stored byte order, as everything read is: _to_native swaps it along with the rest.
            out.view(self._located.dtype)[...] = self._located.fill

    def _array(self) -> Array:
        """Return all of the array, read-only: a view of a memory map that lives as long as the view."""
        located = self._located
        assert located.offset is not None
        mapped = self._files.get(located.root).map(located.offset, self.spec.nbytes)
        return np.ndarray(self._layout.shape, located.dtype, mapped, located.offset)

    def _to_native(self, out: Array) -> None:
        if self._swapped:
            out.byteswap(inplace=True)


def _few_runs(starts: Array, parts: Sequence[Part]) -> Runs | None:
    """Return the runs of single samples in stored order, if fewer than half of the samples; None for windows and other orders."""
    if len(starts) == 1 or len(parts) > 1 or parts[0].count > 1 or not (np.diff(starts) > 0).all():
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
