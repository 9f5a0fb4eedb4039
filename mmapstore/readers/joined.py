"""Several readers, one after the other, as one. Each is an episode, unless episodes were given."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..plain.array_spec import ArraySpec
from ..plain.runs import Numbers, Runs, cut
from .contract import Array, Part, Reader


def join(readers: Sequence[Reader]) -> Reader:
    """Return one reader over all of them, in order. Their dtypes and sample shapes must agree."""
    return readers[0] if len(readers) == 1 else Joined(readers)


class Joined(Reader):
    """It gathers if all of its readers do."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._readers = list(readers)
        self._offsets = np.concatenate([[0], np.cumsum([len(reader.spec) for reader in readers])]).astype(np.int64)
        first = readers[0].spec
        self.spec = ArraySpec((int(self._offsets[-1]), *first.sample_shape), first.dtype, first.layout)
        self.place = " or ".join(sorted({reader.place for reader in readers}))
        self.why = f"{len(readers)} files, joined; " + "; or ".join(sorted({reader.why for reader in readers}))
        self.gathers = all(reader.gathers for reader in readers)
        self.joins_runs = any(reader.joins_runs for reader in readers)
        self.offers_views = any(reader.offers_views for reader in readers)
        self.takes_advice = any(reader.takes_advice for reader in readers)
        self._kept_nbytes = sum(reader.kept_nbytes for reader in readers)

    def __reduce__(self) -> tuple[Any, ...]:
        return Joined, (self._readers,)

    @property
    def scratch_nbytes(self) -> int:
        """All that readers keep, and once the most that one needs while it reads, for they read one after the other."""
        return self._kept_nbytes + max(reader.scratch_nbytes - reader.kept_nbytes for reader in self._readers)

    @property
    def left_nbytes(self) -> int:
        return max(reader.left_nbytes for reader in self._readers)

    @property
    def kept_nbytes(self) -> int:
        return self._kept_nbytes

    def within(self, nbytes: int) -> Reader:
        spare = nbytes - self._kept_nbytes
        found = [reader.within(spare + reader.kept_nbytes) for reader in self._readers]
        return self if all(a is b for a, b in zip(found, self._readers, strict=True)) else Joined(found)

    @property
    def files(self) -> list[str]:
        return [path for reader in self._readers for path in reader.files]

    @property
    def decoded_together(self) -> int:
        return max(reader.decoded_together for reader in self._readers)

    def whole_chunks(self, start: int, stop: int) -> tuple[int, int]:
        if stop <= start:
            return start, stop
        pieces = self._pieces(start, stop)
        (head, first, first_end, _), (tail, last_start, last, _) = pieces[0], pieces[-1]
        start -= first - head.whole_chunks(first, first_end)[0]
        return start, stop + tail.whole_chunks(last_start, last)[1] - last

    def _pieces(self, start: int, stop: int) -> list[tuple[Reader, int, int, int]]:
        """(reader, first, last + 1 in that reader, where it lands relative to `start`)."""
        found = []
        number = int(np.searchsorted(self._offsets, start, side="right")) - 1
        at = start
        while at < stop:
            base, end = int(self._offsets[number]), min(stop, int(self._offsets[number + 1]))
            found.append((self._readers[number], at - base, end - base, at - start))
            at, number = end, number + 1
        return found

    def read(self, start: int, stop: int, out: Array) -> None:
        for reader, first, last, place in self._pieces(start, stop):
            reader.read(first, last, out[place : place + last - first])

    def read_runs(self, runs: Runs, out: Array) -> None:
        # Runs that one reader fills go to it together: it decodes a chunk once for all of them.
        pieces, files = cut(runs[runs[:, 0] < runs[:, 1]], self._offsets)
        ends = np.cumsum(pieces[:, 1] - pieces[:, 0])
        cuts = [0, *(np.flatnonzero(np.diff(files)) + 1).tolist(), len(pieces)]
        for first, last in pairwise(cuts):
            if first < last:
                number, begin = int(files[first]), int(ends[first - 1]) if first else 0
                self._readers[number].read_runs(pieces[first:last] - self._offsets[number], out[begin : int(ends[last - 1])])

    def gather(self, starts: Numbers, parts: Sequence[Part]) -> None:
        # The file of a window is the file of its first frame, which is not always its anchor: y may lie before x.
        lowest = min(part.first for part in parts)
        highest = max(part.first + (part.count - 1) * part.step for part in parts)
        numbers = np.searchsorted(self._offsets, starts + lowest, side="right") - 1
        crossing = starts + highest >= self._offsets[numbers + 1]  # episodes were given that go on from file to file
        for window in np.flatnonzero(crossing).tolist():
            for part in parts:
                for k in range(part.count):
                    sample = int(starts[window]) + part.first + k * part.step
                    self.read(sample, sample + 1, part.out[window, k : k + 1])
        numbers[crossing] = -1
        cuts = (np.flatnonzero(np.diff(numbers)) + 1).tolist()
        for a, b in zip([0, *cuts], [*cuts, len(starts)], strict=True):
            if numbers[a] >= 0:
                own = [Part(part.first, part.count, part.step, part.out[a:b]) for part in parts]
                self._readers[int(numbers[a])].gather(starts[a:b] - self._offsets[numbers[a]], own)

    def view(self, start: int, stop: int) -> Array | None:
        pieces = self._pieces(start, stop)
        return pieces[0][0].view(pieces[0][1], pieces[0][2]) if len(pieces) == 1 else None

    def will_need(self, start: int, stop: int) -> None:
        for reader, first, last, _ in self._pieces(start, min(stop, len(self.spec))):
            reader.will_need(first, last)

    def let_go(self, start: int, stop: int) -> None:
        for reader, first, last, _ in self._pieces(start, min(stop, len(self.spec))):
            reader.let_go(first, last)

    def check(self) -> None:
        for reader in self._readers:
            reader.check()
