"""A selection of the samples of a store, kept as runs of neighbours. Arithmetic only."""

from __future__ import annotations

from typing import Any

import numpy as np

from .runs import Numbers, Runs, runs_of


class Selection:
    """Samples of a store in stored order, numbered 0 .. len - 1, as runs of neighbours: 16 bytes of memory for each run.

    Parameters
    ----------
    starts : the first sample of each run in the store, rising
    before : how many selected samples lie before each run; one more at the end, the number of all

    >>> chosen = Selection.of(np.array([2, 3, 4, 8, 9]))
    >>> len(chosen), chosen.runs(1, 4).tolist(), chosen.places(np.array([0, 3])).tolist()
    (5, [[3, 5], [8, 9]], [2, 8])
    """

    def __init__(self, starts: Numbers, before: Numbers) -> None:
        self.starts = starts
        self.before = before

    @classmethod
    def between_samples(cls, start: int, stop: int) -> Selection:
        """Select the samples [start, stop) of the store."""
        return cls(np.array([start], np.int64), np.array([0, stop - start], np.int64))

    @classmethod
    def of(cls, samples: Numbers) -> Selection:
        """Select samples of the store given by their numbers, rising and at least one."""
        runs = runs_of(samples.astype(np.int64))
        return cls(runs[:, 0].copy(), np.append(0, np.cumsum(runs[:, 1] - runs[:, 0])))

    @classmethod
    def of_mask(cls, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> Selection:
        """Select the samples of the store, at least one, whose entry in `mask` is True: in three bytes for each entry."""
        ends = np.flatnonzero(np.diff(mask.view(np.int8), prepend=np.int8(0), append=np.int8(0)))
        return cls(ends[::2], np.append(0, np.cumsum(ends[1::2] - ends[::2])))

    def __len__(self) -> int:
        return int(self.before[-1])

    @property
    def is_one_run(self) -> bool:
        return len(self.starts) == 1

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the runs take."""
        return int(self.starts.nbytes + self.before.nbytes)

    @property
    def bounds(self) -> tuple[int, int]:
        """The first sample in the store, and one past the last."""
        return int(self.starts[0]), int(self.starts[-1] + self.before[-1] - self.before[-2])

    def count_before(self, samples: Numbers) -> Numbers:
        """Return how many selected samples lie before each of these samples of the store."""
        run = np.searchsorted(self.starts, samples, side="left")
        length = np.diff(self.before, prepend=0)[run]  # of the run before, which may reach beyond
        last = np.where(run > 0, self.starts[run - 1], 0)
        found: Numbers = self.before[run] - np.maximum(0, last + length - samples)
        return found

    def places(self, numbers: Numbers) -> Numbers:
        """Return the sample in the store of each selected number."""
        if self.is_one_run:
            return numbers + int(self.starts[0])
        run = np.searchsorted(self.before, numbers, side="right") - 1
        found: Numbers = self.starts[run] + (numbers - self.before[run])
        return found

    def runs(self, start: int, stop: int) -> Runs:
        """Return the runs in the store of the selected numbers [start, stop)."""
        part = self.between(start, stop)
        return np.stack([part.starts, part.starts + np.diff(part.before)], axis=1)

    def between(self, start: int, stop: int) -> Selection:
        """Return the selection of the selected numbers [start, stop)."""
        if self.is_one_run:
            return Selection.between_samples(int(self.starts[0]) + start, int(self.starts[0]) + stop)
        a = int(np.searchsorted(self.before, start, side="right")) - 1
        b = int(np.searchsorted(self.before, stop, side="left"))
        before = np.clip(self.before[a : b + 1], start, stop)
        return Selection(self.starts[a:b] + (before[:-1] - self.before[a:b]), before - start)

    def then(self, other: Selection) -> Selection:
        """Return the selection of these samples and, after them, those of another, which lie behind them in the store."""
        starts = np.concatenate([self.starts, other.starts])
        return Selection(starts, np.concatenate([self.before, other.before[1:] + len(self)]))

    def take(self, chosen: Selection) -> Selection:
        """Return the selection of the selected numbers that `chosen` selects."""
        if self.is_one_run:
            return Selection(chosen.starts + self.starts[0], chosen.before)
        return Selection.of(self.places(chosen.places(np.arange(len(chosen)))))
