"""Samples held in memory because reading them again would cost more: of a window of blocks, or a stretch in stored order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..files.lent_buffers import LentBuffers
from ..plain.runs import Numbers, Runs, merged
from ..readers.contract import Array, Part, Reader, read_runs


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
        runs: Runs,
        buffers: LentBuffers,
        capacity: int = 0,
        shared: int = 0,
        before: Callable[[], Resident | None] | None = None,
    ) -> None:
        kept = merged(runs)
        self._starts = kept[:, 0]
        self._rows = np.concatenate([[0], np.cumsum(kept[:, 1] - kept[:, 0])])
        samples = int(self._rows[-1])
        self.samples = buffers.lend((max(samples, capacity), *reader.spec.sample_shape), reader.spec.dtype)[:samples]
        head, tail = _cut(kept, self._rows, shared)
        if len(tail):
            read_runs(reader, tail, self.samples[shared:])
        there = before() if before is not None and len(head) else None
        if there is None:
            if len(head):
                read_runs(reader, head, self.samples[:shared])
            return
        at = 0
        for (start, stop), first in zip(head.tolist(), there.rows(head[:, 0]).tolist(), strict=True):
            np.copyto(self.samples[at : at + stop - start], there.samples[first : first + stop - start])
            at += stop - start

    def rows(self, wanted: Numbers) -> Numbers:
        """Return the place of each of these samples in `samples`; all have to be here."""
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


def _cut(runs: Runs, rows: Numbers, samples: int) -> tuple[Runs, Runs]:
    """The first `samples` samples of the runs, and the rest. `rows` counts the samples before each run.

    >>> [part.tolist() for part in _cut(np.array([[0, 3], [5, 9]]), np.array([0, 3, 7]), 4)]
    [[[0, 3], [5, 6]], [[6, 9]]]
    """
    begun = int(np.searchsorted(rows, samples))  # runs that begin before
    head, tail = runs[:begun].copy(), runs[begun:]
    if begun and rows[begun] > samples:
        middle = head[-1, 1] - (rows[begun] - samples)
        tail = np.concatenate([[[middle, head[-1, 1]]], tail])
        head[-1, 1] = middle
    return head, tail
