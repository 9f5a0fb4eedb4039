"""Runs of samples read once and held in memory, and windows cut from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..files.lent_buffers import LentBuffers
from ..readers.contract import Part, Reader

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

    `capacity` is the number of samples the buffer is made for: buffers of one size can be lent again.
    """

    def __init__(self, reader: Reader, runs: Sequence[tuple[int, int]], buffers: LentBuffers, capacity: int = 0) -> None:
        kept = merged(runs)
        self._starts = np.array([start for start, _ in kept], np.int64)
        self._rows = np.concatenate([[0], np.cumsum([stop - start for start, stop in kept])]).astype(np.int64)
        samples = int(self._rows[-1])
        self.samples = buffers.lend((max(samples, capacity), *reader.spec.sample_shape), reader.spec.dtype)[:samples]
        for (start, stop), row in zip(kept, self._rows.tolist(), strict=False):
            reader.read(start, stop, self.samples[row : row + stop - start])

    def gather(self, starts: Numbers, parts: Sequence[Part]) -> None:
        """As `GathersWindows.gather`, for windows inside the runs."""
        for part in parts:
            for k in range(part.count):
                wanted = starts + (part.first + k * part.step)
                run = np.searchsorted(self._starts, wanted, side="right") - 1
                rows = self._rows[run] + wanted - self._starts[run]
                for out, row in zip(part.out[:, k : k + 1], rows.tolist(), strict=True):
                    out[0] = self.samples[row]
