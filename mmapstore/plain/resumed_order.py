"""The rest of an epoch that other numbers of workers have begun, divided among the workers of now. Arithmetic, no I/O.

All workers of a run have seen equally many samples when a position is saved. The rest of the epoch is the rest of each shard, in
order, and the samples that no shard had. It is divided as a whole epoch is: into ranges of equal length, at most count - 1 samples
left out. Another number of workers may resume a rest that was begun, any number of times.
"""

from __future__ import annotations

import bisect
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .runs import Numbers, Runs
from .sample_order import SampleOrder, Window


class Begun(NamedTuple):
    """Each of `workers` has seen so many `samples` of its share."""

    workers: int
    samples: int


class Piece(NamedTuple):
    """Positions [start, stop) of the shard that has the places [first, first + length) in the row of all shards."""

    first: int
    length: int
    start: int
    stop: int


def batches_of(samples: int, batch_size: int, drop_last: bool) -> int:
    """Return the number of batches that samples make; with `drop_last`, of full ones.

    >>> batches_of(10, 4, drop_last=False), batches_of(10, 4, drop_last=True)
    (3, 2)
    """
    return samples // batch_size if drop_last else -(-samples // batch_size)


def samples_left(anchors: int, before: Sequence[Begun]) -> int:
    """Return the number of samples of an epoch that nobody has seen.

    >>> samples_left(11, [Begun(workers=2, samples=3)])
    5
    """
    return anchors - sum(workers * samples for workers, samples in before)


def pieces_left(anchors: int, shift: int, before: Sequence[Begun]) -> list[Piece]:
    """Return the samples of an epoch that nobody has seen. Of the first workers, no shard had the first `shift` samples.

    >>> [(piece.first, piece.start, piece.stop) for piece in pieces_left(11, 0, [Begun(workers=2, samples=3)])]
    [(0, 3, 5), (5, 3, 5), (10, 0, 1)]
    """
    (workers, samples), *later = before
    share = anchors // workers
    end = shift + workers * share
    shards = [Piece(shift + worker * share, share, samples, share) for worker in range(workers)]
    pieces = [Piece(0, shift, 0, shift), *shards, Piece(end, anchors - end, 0, anchors - end)]
    for workers, samples in later:
        total = sum(piece.stop - piece.start for piece in pieces)
        share = total // workers
        cuts = [(worker * share + samples, (worker + 1) * share) for worker in range(workers)]
        pieces = [piece for cut in (*cuts, (workers * share, total)) for piece in between(pieces, *cut)]
    return [piece for piece in pieces if piece.start < piece.stop]


def between(pieces: Sequence[Piece], start: int, stop: int) -> list[Piece]:
    """Return the samples [start, stop) of the row that the pieces make.

    >>> between([Piece(0, 5, 3, 5), Piece(5, 5, 3, 5)], 1, 3)
    [Piece(first=0, length=5, start=4, stop=5), Piece(first=5, length=5, start=3, stop=4)]
    """
    found, at = [], 0
    for piece in pieces:
        low, high = piece.start + max(start - at, 0), min(piece.stop, piece.start + stop - at)
        if low < high:
            found.append(piece._replace(start=low, stop=high))
        at += piece.stop - piece.start
    return found


class ResumedOrder(SampleOrder):
    """The order of a shard, in one epoch that other numbers of workers have begun; in other epochs that of `SampleOrder`.

    The last batch of the resumed epoch has the number of the last batch of any epoch. So the epoch begins behind position 0, at the
    first sample of a batch, and may end before or behind `len(order)`.

    Parameters
    ----------
    order : of whole epochs
    epoch : the one that is resumed
    before : the workers and their samples, in turn
    batch_size, drop_last : of `Batches`

    >>> order = ResumedOrder(SampleOrder(11, None), 0, [Begun(workers=2, samples=3)], batch_size=4, drop_last=False)
    >>> order.begin(0), order.end(0), order.anchors_at(0, 4, 9).tolist()
    (4, 9, [3, 4, 8, 9, 10])
    """

    def __init__(self, order: SampleOrder, epoch: int, before: Sequence[Begun], batch_size: int, drop_last: bool) -> None:
        super().__init__(order.anchors, order.shuffling, order.seed, order.shard, order.draws)
        self.epoch, self.before = epoch, tuple(before)
        index, count = self.shard
        share = samples_left(self.anchors, before) // count
        first = batches_of(self.length, batch_size, drop_last) - batches_of(share, batch_size, drop_last)
        self._begin, self._end = first * batch_size, first * batch_size + share
        left = pieces_left(self.anchors, epoch % (self.anchors % before[0].workers + 1), before)
        self._unused = [(order.over(*piece[:2]), piece) for piece in between(left, count * share, self.anchors)]
        self._pieces = [(order.over(*piece[:2]), piece) for piece in between(left, index * share, (index + 1) * share)]
        self._starts, windows = [self._begin], 0  # the position at which each piece starts
        self._before: list[int] = []  # number of the first window of each piece, less the number of the window that it starts in
        for one, piece in self._pieces:
            self._starts.append(self._starts[-1] + piece.stop - piece.start)
            if self.shuffling is not None:
                low, high = (one.window_at(epoch, position).number for position in (piece.start, piece.stop - 1))
                self._before.append(windows - low)
                windows += high - low + 1

    def begin(self, epoch: int) -> int:
        return self._begin if epoch == self.epoch else super().begin(epoch)

    def end(self, epoch: int) -> int:
        return self._end if epoch == self.epoch else super().end(epoch)

    @property
    def number(self) -> int:
        return 1 + zlib.crc32(repr((self.epoch, self.before)).encode())

    @property
    def ends(self) -> tuple[int, ...]:
        return self.length, self._end

    def left_out(self, epoch: int) -> Numbers:
        if epoch != self.epoch:
            return super().left_out(epoch)
        found = [one.anchors_at(epoch, piece.start, piece.stop) for one, piece in self._unused]
        return np.concatenate([np.empty(0, np.int64), *found])

    def _numbers_at(self, epoch: int, start: int, stop: int) -> Numbers:
        if epoch != self.epoch:
            return super()._numbers_at(epoch, start, stop)
        found = [one._numbers_at(epoch, *span) for one, *span in self._between(start, stop)]
        return np.concatenate([np.empty(0, np.int64), *found])

    def window_at(self, epoch: int, position: int) -> Window:
        if epoch != self.epoch:
            return super().window_at(epoch, position)
        number, one, piece, shift = self._piece_at(position)
        window = one.window_at(epoch, position - shift)
        # Another piece, or another worker, has the positions of the window outside of this piece.
        start, stop = max(window.start, piece.start), min(window.stop, piece.stop)
        return window._replace(number=self._before[number] + window.number, start=start + shift, stop=stop + shift)

    def window_runs(self, epoch: int, window: Window) -> Iterator[Runs]:
        if epoch != self.epoch:
            return super().window_runs(epoch, window)
        _, one, _, shift = self._piece_at(window.start)
        return one.window_runs(epoch, one.window_at(epoch, window.start - shift))

    def runs_at(self, epoch: int, start: int, stop: int) -> Iterator[Runs]:
        if epoch != self.epoch:
            yield from super().runs_at(epoch, start, stop)
        else:
            for one, *span in self._between(start, stop):
                yield from one.runs_at(epoch, *span)

    @property
    def pieces(self) -> int:
        return max(1, len(self._pieces))

    def largest_window(self) -> tuple[int, int]:
        found = [super().largest_window(), *(one.largest_window() for one, _ in self._pieces)]
        return max(anchors for anchors, _ in found), max(blocks for _, blocks in found)

    def _piece_at(self, position: int) -> tuple[int, SampleOrder, Piece, int]:
        """Return the number of the piece with a position, its shard, the piece, and positions less those of the shard."""
        number = bisect.bisect(self._starts, position) - 1
        one, piece = self._pieces[number]
        return number, one, piece, self._starts[number] - piece.start

    def _between(self, start: int, stop: int) -> Iterator[tuple[SampleOrder, int, int]]:
        """Yield the shards that have positions [start, stop) of the epoch, each with the range of its own positions."""
        while start < stop:
            _, one, piece, shift = self._piece_at(start)
            end = min(stop, piece.stop + shift)
            yield one, start - shift, end - shift
            start = end
