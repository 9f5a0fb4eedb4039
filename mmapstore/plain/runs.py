"""Runs [start, stop) of samples, as int64 arrays of shape (runs, 2). Arithmetic only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[np.int64]]
Runs = np.ndarray[Any, np.dtype[np.int64]]


def as_runs(runs: Runs | Sequence[tuple[int, int]]) -> Runs:
    return np.asarray(runs, np.int64).reshape(-1, 2)


def runs_of(samples: Numbers) -> Runs:
    """Return the runs of neighbours in samples that rise or repeat.

    >>> runs_of(np.array([3, 4, 4, 7])).tolist()
    [[3, 5], [7, 8]]
    """
    breaks = np.flatnonzero(np.diff(samples) > 1)
    return np.stack([samples[np.append(0, breaks + 1)], samples[np.append(breaks, len(samples) - 1)] + 1], axis=1)


def samples_of(runs: Runs) -> Numbers:
    """Return the samples of runs, one run after the other.

    >>> samples_of(np.array([[3, 5], [7, 8]])).tolist()
    [3, 4, 7]
    """
    lengths = runs[:, 1] - runs[:, 0]
    ends = np.cumsum(lengths)
    found: Numbers = np.arange(int(ends[-1]) if len(ends) else 0, dtype=np.int64) + np.repeat(runs[:, 0] - ends + lengths, lengths)
    return found


def power_of_two_within(most: int) -> int:
    """Return the largest power of two up to `most`; 1 for less than 1.

    >>> [power_of_two_within(most) for most in (0, 1, 69, 64)]
    [1, 1, 64, 64]
    """
    return 1 << max(1, most).bit_length() - 1


def pieces_of(runs: Runs, size: int) -> Iterator[Numbers]:
    """Yield the samples of runs, none of them empty, one run after the other, `size` at a time.

    >>> [piece.tolist() for piece in pieces_of(np.array([[3, 5], [7, 10]]), 3)]
    [[3, 4, 7], [8, 9]]
    """
    lengths = runs[:, 1] - runs[:, 0]
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    for first in range(0, total, size):
        places = np.arange(first, min(first + size, total), dtype=np.int64)
        yield places + (runs[:, 0] - ends + lengths)[np.searchsorted(ends, places, side="right")]


def merged(runs: Runs | Sequence[tuple[int, int]], gap: int = 0) -> Runs:
    """Return the same samples in as few runs as possible, in rising order; gaps of up to `gap` samples are filled.

    >>> merged([(10, 14), (0, 3), (13, 20), (3, 5)]).tolist()
    [[0, 5], [10, 20]]
    """
    given = as_runs(runs)
    if len(given) < 2:
        return given
    given = given[np.argsort(given[:, 0], kind="stable")]
    ends = np.maximum.accumulate(given[:, 1])
    begins = np.flatnonzero(np.append(True, given[1:, 0] > ends[:-1] + gap))
    return np.stack([given[begins, 0], ends[np.append(begins[1:], len(given)) - 1]], axis=1)


def cut(runs: Runs, offsets: Numbers) -> tuple[Runs, Numbers]:
    """Cut runs, none of them empty, at rising offsets from 0 to the end: return the pieces, and which interval each lies in.

    >>> pieces, intervals = cut(np.array([[1, 3], [4, 9]]), np.array([0, 5, 8, 10]))
    >>> pieces.tolist(), intervals.tolist()
    ([[1, 3], [4, 5], [5, 8], [8, 9]], [0, 0, 1, 2])
    """
    first = np.searchsorted(offsets, runs[:, 0], side="right") - 1
    pieces = np.searchsorted(offsets, runs[:, 1] - 1, side="right") - first
    run = np.repeat(np.arange(len(runs)), pieces)
    interval: Numbers = first[run] + np.arange(len(run)) - (np.cumsum(pieces) - pieces)[run]
    found = np.stack([np.maximum(runs[run, 0], offsets[interval]), np.minimum(runs[run, 1], offsets[interval + 1])], axis=1)
    return found, interval
