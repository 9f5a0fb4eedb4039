"""Samples held in memory because reading them again would cost more: of a window of blocks, or a stretch in stored order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..files.lent_buffers import LentBuffers
from ..readers.contract import Array, Part, Reader, read_runs

Numbers = np.ndarray[Any, np.dtype[np.int64]]


def merged(runs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same samples in as few runs [start, stop) as possible, in rising order.

    >>> merged([(10, 14), (0, 3), (13, 20), (3, 5)])
    [(0, 5), (10, 20)]
    """
    found: list[tuple[int, int]] = []
    for start, stop in sorted(runs):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found


class Resident:
    """The samples of some runs, in one buffer. Each is read, and so decoded, once, however many windows look at it.

    Parameters
    ----------
    capacity : samples the buffer is made for: buffers of one size can be lent again
    shared : samples at the beginning of the runs that others have read: they are copied from what `before` gives, which is
        asked last, for it may have to wait; where it gives None they are read
    """

    def __init__(
        self,
        reader: Reader,
        runs: Sequence[tuple[int, int]],
        buffers: LentBuffers,
        capacity: int = 0,
        shared: int = 0,
        before: Callable[[], Resident | None] | None = None,
    ) -> None:
        kept = merged(runs)
        self._starts = np.array([start for start, _ in kept], np.int64)
        self._rows = np.concatenate([[0], np.cumsum([stop - start for start, stop in kept])]).astype(np.int64)
        samples = int(self._rows[-1])
        self.samples = buffers.lend((max(samples, capacity), *reader.spec.sample_shape), reader.spec.dtype)[:samples]
        head, tail = _cut(kept, shared)
        if tail:
            read_runs(reader, tail, self.samples[shared:])
        there = before() if before is not None and head else None
        if there is None:
            if head:
                read_runs(reader, head, self.samples[:shared])
            return
        at = 0
        for start, stop in head:
            first = int(there.rows(np.array([start]))[0])
            np.copyto(self.samples[at : at + stop - start], there.samples[first : first + stop - start])
            at += stop - start

    def rows(self, wanted: Numbers) -> Numbers:
        """Where in `samples` each of these samples is; all have to be here."""
        run = np.searchsorted(self._starts, wanted, side="right") - 1
        return self._rows[run] + wanted - self._starts[run]

    def run(self, start: int, stop: int) -> Array | None:
        """A view of samples [start, stop); None if they are not all here."""
        number = int(np.searchsorted(self._starts, start, side="right")) - 1
        if number < 0:
            return None
        first = int(self._rows[number]) + start - int(self._starts[number])
        return self.samples[first : first + stop - start] if first + stop - start <= int(self._rows[number + 1]) else None

    def gather(self, starts: Numbers, parts: Sequence[Part]) -> None:
        """As `GathersWindows.gather`, for windows each inside of one run."""
        lowest = min(part.first for part in parts)
        rows = self.rows(starts + lowest) - lowest
        for part in parts:
            part.take(self.samples, part.frames(rows))


def _cut(runs: Sequence[tuple[int, int]], samples: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The first `samples` samples of the runs, and the rest.

    >>> _cut([(0, 3), (5, 9)], 4)
    ([(0, 3), (5, 6)], [(6, 9)])
    """
    head, tail = [], []
    for start, stop in runs:
        middle = min(start + samples, stop)
        samples -= middle - start
        head += [(start, middle)] if start < middle else []
        tail += [(middle, stop)] if middle < stop else []
    return head, tail
