"""The order of an epoch as arithmetic: three bijections on anchor numbers, no I/O, no state, no permutation in memory.

Anchors are numbered 0 .. V-1. A position is a place in the epoch; the order says which anchor stands there. Where anchors are
balanced or weighted, the numbers are those of an epoch's draws (`Draws`), each of which stands for an anchor, in stored order:
all that follows holds for draws as for anchors.

(a) Blocks of `block` consecutive anchors are permuted. One block, the last, may be short; where it went is found by
    the inverse permutation, and the positions after it shift by what it lacks.
(b) A shard is a consecutive range of V // count positions: equal steps for every shard, at most count - 1 anchors
    left out, others in each epoch: so many positions at the beginning or the end of the row, in turns.
(c) The shard is cut into windows of whole blocks, about `blocks_per_window` each and balanced; anchors are permuted
    inside each window. A window is what reading keeps at hand.

Both permutations are Feistel networks keyed by BLAKE2b of (seed, epoch, purpose): the same on every machine, and for
ever, since no random generator of a library takes part.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .draws import Draws
from .errors import InvalidTypeError, InvalidValueError
from .runs import Numbers, Runs, as_runs, power_of_two_within

BLOCK_BYTES = 2 * 2**20  # long enough that a disk or decoder works at full speed, short enough that many fit in a window
BLOCKS_PER_WINDOW = 32  # a batch of 32 then mixes about 16 places of the data: see effective_batch
_ROUNDS, _ROUNDS_WHEN_SMALL = 8, 16  # measured: pairs of positions are evenly spread from here on; tiny grids mix slower
_SHIFT = np.uint64(32)
_AT_HAND = 4096  # positions whose anchors are looked up together, and kept: 32 kB


class Permutation:
    """A keyed bijection on 0 .. size-1, computed for any numbers asked, in either direction.

    A Feistel network over pairs (high, low) of a rows x columns grid just above `size`: each half is shifted by a
    hash of the other, which can be undone. Numbers that leave 0 .. size-1 walk on along their cycle until they are
    back; the grid exceeds `size` by less than one row, so hardly any does.

    >>> order = Permutation(10, b"key")
    >>> shuffled = order(np.arange(10))
    >>> sorted(shuffled.tolist()) == list(range(10)), order.inverse(shuffled).tolist() == list(range(10))
    (True, True)
    """

    def __init__(self, size: int, key: bytes) -> None:
        self.size = size
        columns = math.isqrt(size - 1) + 1 if size > 1 else 1
        self._columns = np.uint64(columns)
        self._rows = np.uint64(-(-size // columns))
        rounds = _ROUNDS if size >= 64 else _ROUNDS_WHEN_SMALL
        digest = b"".join(hashlib.blake2b(key, digest_size=16, salt=bytes([turn])).digest() for turn in range(rounds))
        self._keys = np.frombuffer(digest, "<u8").astype(np.uint64).reshape(rounds, 2)

    def __call__(self, numbers: Numbers) -> Numbers:
        return self._walk(numbers, forward=True)

    def inverse(self, numbers: Numbers) -> Numbers:
        return self._walk(numbers, forward=False)

    def _walk(self, numbers: Numbers, forward: bool) -> Numbers:
        if self.size == 1:
            return np.zeros_like(numbers)
        found: np.ndarray[Any, np.dtype[np.uint64]] = self._once(numbers.astype(np.uint64), forward)
        outside = np.flatnonzero(found >= self.size)
        while outside.size:
            found[outside] = self._once(found[outside], forward)
            outside = outside[found[outside] >= self.size]
        return found.astype(np.int64)

    def _once(self, numbers: Any, forward: bool) -> Any:
        high, low = np.divmod(numbers, self._columns)
        for turn in range(len(self._keys)) if forward else reversed(range(len(self._keys))):
            if turn % 2 == 0:
                low = _shifted(low, high, self._keys[turn], self._columns, forward)
            else:
                high = _shifted(high, low, self._keys[turn], self._rows, forward)
        return high * self._columns + low


def _shifted(half: Any, other: Any, keys: Any, modulus: np.uint64, forward: bool) -> Any:
    """Return (half ± hash(other)) modulo `modulus`; the hash is the finalizer of MurmurHash3 with the key mixed in twice."""
    mixed = other + keys[0]
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xFF51AFD7ED558CCD)
    mixed ^= keys[1]
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xC4CEB9FE1A85EC53)
    mixed >>= _SHIFT
    mixed *= modulus  # the upper 32 bits scaled to 0 .. modulus-1: a division would cost three times as much
    mixed >>= _SHIFT
    shifted = half + mixed if forward else half + (modulus - mixed)
    return np.minimum(shifted, np.subtract(shifted, modulus, out=mixed), out=mixed)  # below the modulus it wraps around, to more


@dataclass(frozen=True)
class Shuffling:
    """The measures of shuffling: anchors in a block, blocks in a window."""

    block: int
    blocks_per_window: int

    @classmethod
    def of(cls, shuffle: bool | int, sample_nbytes: int) -> Shuffling | None:
        """Make the measures from `shuffle=` and the bytes of a sample alone: one seed gives one order everywhere.

        True: 32 blocks of 1 to 2 MiB. A number: that many samples in a window, in blocks of 1 to 2 MiB, or in
        32 smaller ones where the window is too small for that: mixing is kept, reads get shorter.

        The samples of a block are a power of two, as those of most chunks: each chunk then lies in one block, and is decoded once.

        >>> Shuffling.of(True, 30_000), Shuffling.of(10_000, 30_000)
        (Shuffling(block=64, blocks_per_window=32), Shuffling(block=64, blocks_per_window=156))
        >>> Shuffling.of(320, 30_000)
        Shuffling(block=8, blocks_per_window=40)
        """
        if shuffle is False:
            return None
        usual = power_of_two_within(BLOCK_BYTES // max(1, sample_nbytes))
        if shuffle is True:
            return cls(usual, BLOCKS_PER_WINDOW)
        if isinstance(shuffle, (bool, np.bool_)) or not isinstance(shuffle, (int, np.integer)):
            raise InvalidTypeError(
                f"shuffle={shuffle!r} is not understood; expected False, True, or the samples of a shuffling window."
            )
        if shuffle < 2:
            raise InvalidValueError(
                f"shuffle={shuffle} samples cannot be shuffled; expected 2 or more, True for the usual window, or False."
            )
        block = min(usual, power_of_two_within(int(shuffle) // BLOCKS_PER_WINDOW))
        return cls(block, max(1, round(int(shuffle) / block)))

    @property
    def window(self) -> int:
        """Anchors in a full window."""
        return self.block * self.blocks_per_window

    def effective_batch(self, batch_size: int) -> float:
        """Return the size of the batch of independent samples that mixes as well: B / (1 + (B - 1) / K).

        Samples of one block are alike; a batch drawn from K blocks has B/K samples of each. Taken at its worst
        (samples of a block all equal), its mean varies like that of this many independent samples.

        >>> round(Shuffling(64, 32).effective_batch(32), 2)
        16.25
        """
        return batch_size / (1 + (batch_size - 1) / self.blocks_per_window)


class Window(NamedTuple):
    """Positions [start, stop) of an epoch that are shuffled among themselves, and the blocks they come from."""

    number: int
    start: int
    stop: int
    first_place: int
    last_place: int


class SampleOrder:
    """The anchors at each position of one shard, in one epoch after the other.

    Parameters
    ----------
    anchors : how many there are, V
    shuffling : None for the sequential order
    seed : any int
    shard : (index, count); shard `index` of `count` sees V // count anchors in each epoch
    draws : which anchors an epoch draws; None is each of them once

    >>> order = SampleOrder(1000, Shuffling(10, 4), seed=7)
    >>> sorted(order.anchors_at(3, 0, 1000).tolist()) == list(range(1000))
    True
    """

    def __init__(
        self, anchors: int, shuffling: Shuffling | None, seed: int = 0, shard: tuple[int, int] = (0, 1), draws: Draws | None = None
    ) -> None:
        self.anchors = anchors
        self.shuffling = shuffling
        self.draws = draws
        self.seed = int(seed)
        self.shard = index, count = shard
        self.length = anchors // count
        self._first = index * self.length
        self._turns = anchors % count + 1  # epochs that begin at different positions
        if shuffling is not None:
            self._blocks = -(-anchors // shuffling.block)
            self._missing = self._blocks * shuffling.block - anchors
        self._epoch: tuple[int, Permutation, int] | None = None
        self._inside: tuple[tuple[int, int], Permutation] | None = None
        self._at_hand: tuple[tuple[int, int], Numbers] | None = None

    def __len__(self) -> int:
        """Positions in an epoch of this shard."""
        return self.length

    def begin(self, epoch: int) -> int:
        """Return the first position of an epoch: 0, but for an epoch that is resumed; see `ResumedOrder`."""
        return 0

    def end(self, epoch: int) -> int:
        """Return the position behind the last of an epoch."""
        return self.length

    @property
    def number(self) -> int:
        """A number for the epoch that is resumed, and for those who began it; 0 for whole epochs."""
        return 0

    @property
    def ends(self) -> tuple[int, ...]:
        """The positions behind the last of all epochs."""
        return (self.length,)

    def first(self, epoch: int) -> int:
        """Return the place of position 0 in the row of all shards."""
        return self._first + epoch % self._turns

    def over(self, first: int, length: int) -> SampleOrder:
        """Return the order of other positions in the row of all shards: [first, first + length)."""
        other = copy.copy(self)
        other._first, other.length, other._turns, other._inside, other._at_hand = first, length, 1, None, None
        return other

    def left_out(self, epoch: int) -> Numbers:
        """Return the anchors that no shard has in an epoch, at most count - 1."""
        shift, held = epoch % self._turns, self.shard[1] * self.length
        rest = [self.over(0, shift), self.over(shift + held, self.anchors - shift - held)]
        return np.concatenate([each.anchors_at(epoch, 0, len(each)) for each in rest])

    def anchors_at(self, epoch: int, start: int, stop: int) -> Numbers:
        """Return the anchors at positions [start, stop) of this shard, in order, read-only. Any range, at the cost of its length.

        A shuffled or drawn range is looked up with its neighbours, which are kept for the batches that follow: one batch alone
        would cost more in calls of NumPy than in arithmetic.
        """
        if (self.shuffling is None and self.draws is None) or start // _AT_HAND != (stop - 1) // _AT_HAND:
            return self._looked_up(epoch, start, stop)
        first = max(start // _AT_HAND * _AT_HAND, self.begin(epoch))
        cached = self._at_hand  # read once: another thread may replace it
        if cached is None or cached[0] != (epoch, first):
            last = min((start // _AT_HAND + 1) * _AT_HAND, self.end(epoch))
            cached = ((epoch, first), self._looked_up(epoch, first, last))
            cached[1].flags.writeable = False
            self._at_hand = cached
        return cached[1][start - first : stop - first]

    def _looked_up(self, epoch: int, start: int, stop: int) -> Numbers:
        numbers = self._numbers_at(epoch, start, stop)
        return numbers if self.draws is None else self.draws.anchors(epoch, numbers)

    def _numbers_at(self, epoch: int, start: int, stop: int) -> Numbers:
        """Return the numbers of anchors, or of draws, at these positions."""
        if self.shuffling is None:
            return np.arange(self.first(epoch) + start, self.first(epoch) + stop, dtype=np.int64)
        found = np.empty(stop - start, np.int64)
        at = start
        while at < stop:
            window = self.window_at(epoch, at)
            end = min(stop, window.stop)
            shuffled = self._inner(epoch, window)(np.arange(at - window.start, end - window.start, dtype=np.int64))
            found[at - start : end - start] = self._anchors(epoch, shuffled + (window.start + self.first(epoch)))
            at = end
        return found

    # --- windows: what a reader keeps at hand ------------------------------------------------------------------

    def window_at(self, epoch: int, position: int) -> Window:
        """Return the shuffling window that holds a position of this shard."""
        low, high = self._place(epoch, self.first(epoch)), self._place(epoch, self.first(epoch) + self.length - 1)
        places = high - low + 1
        windows = self._windows(places)
        place = self._place(epoch, self.first(epoch) + position) - low
        number = min(place * windows // places, windows - 1)
        while place < number * places // windows:
            number -= 1
        while place >= (number + 1) * places // windows:
            number += 1
        first, end = low + number * places // windows, low + (number + 1) * places // windows
        start = max(self._place_start(epoch, first) - self.first(epoch), 0)
        stop = min(self._place_start(epoch, end) - self.first(epoch), self.length)
        return Window(number, start, stop, first, end - 1)

    def window_runs(self, epoch: int, window: Window) -> Iterator[Runs]:
        """Yield the runs of anchors that the blocks of a window hold; without draws, one run for each block in turn."""
        assert self.shuffling is not None
        block, missing, (blocks, short) = self.shuffling.block, self._missing, self._permuted(epoch)
        places = np.arange(window.first_place, window.last_place + 1, dtype=np.int64)
        begins = places * block - np.where(places > short, missing, 0)  # positions
        ends = (places + 1) * block - np.where(places >= short, missing, 0)
        held = np.clip(np.stack([begins, ends], axis=1), window.start + self.first(epoch), window.stop + self.first(epoch))
        runs = (held - begins[:, None]) + blocks(places)[:, None] * block
        yield from self.runs_of(epoch, runs)

    def runs_at(self, epoch: int, start: int, stop: int) -> Iterator[Runs]:
        """Yield the runs of anchors at positions [start, stop) of a sequential order."""
        yield from self.runs_of(epoch, as_runs([(self.first(epoch) + start, self.first(epoch) + stop)]))

    @property
    def pieces(self) -> int:
        """The most ranges of consecutive anchors, or draws, that a sequential epoch is made of."""
        return 1

    def runs_of(self, epoch: int, runs: Runs) -> Iterator[Runs]:
        """Yield the runs of anchors behind these runs of numbers; of draws a bounded part of them at a time."""
        if self.draws is None:
            yield runs
        else:
            yield from self.draws.runs(epoch, runs)

    def largest_window(self) -> tuple[int, int]:
        """Return the most anchors, and the most blocks, that any window of any epoch can hold: for predicting memory."""
        if self.shuffling is None:
            return 0, 0
        # A shard of n positions touches at most n // block + 2 places (it may begin and end inside a block),
        # and one more where the short block lies within it.
        most = min(self._blocks, self.length // self.shuffling.block + 3)
        blocks = max(-(-places // self._windows(places)) for places in range(max(1, most - 3), most + 1))
        return min(blocks * self.shuffling.block, self.length), blocks

    def _windows(self, places: int) -> int:
        assert self.shuffling is not None
        return max(1, round(places / self.shuffling.blocks_per_window))

    # --- the bijections -----------------------------------------------------------------------------------------

    def _permuted(self, epoch: int) -> tuple[Permutation, int]:
        """Return the permutation of blocks in this epoch, and the place where it put the last, possibly short block."""
        cached = self._epoch  # read once: another thread may replace it
        if cached is None or cached[0] != epoch:
            blocks = Permutation(self._blocks, self._key(epoch, "blocks", 0))
            cached = (epoch, blocks, int(blocks.inverse(np.array([self._blocks - 1]))[0]))
            self._epoch = cached
        return cached[1], cached[2]

    def _inner(self, epoch: int, window: Window) -> Permutation:
        cached = self._inside
        if cached is None or cached[0] != (epoch, window.number):
            # The place is part of the key: windows of different shards are then permuted independently.
            inner = Permutation(window.stop - window.start, self._key(epoch, "window", window.first_place))
            cached = ((epoch, window.number), inner)
            self._inside = cached
        return cached[1]

    def _key(self, epoch: int, purpose: str, number: int) -> bytes:
        return f"mmapstore order 1: seed {self.seed} epoch {epoch} {purpose} {number}".encode()

    def _place(self, epoch: int, position: int) -> int:
        """Return the place in the permuted row of blocks that an epoch-wide position falls into."""
        assert self.shuffling is not None
        block, (_, short) = self.shuffling.block, self._permuted(epoch)
        return position // block if position < short * block else max(short, (position + self._missing) // block)

    def _place_start(self, epoch: int, place: int) -> int:
        assert self.shuffling is not None
        return place * self.shuffling.block - (self._missing if place > self._permuted(epoch)[1] else 0)

    def _anchors(self, epoch: int, positions: Numbers) -> Numbers:
        """Return the anchors at epoch-wide positions before (c): blocks in their new places, each in stored order inside."""
        assert self.shuffling is not None
        block, (blocks, short) = self.shuffling.block, self._permuted(epoch)
        shifted = np.where(positions < (short + 1) * block - self._missing, positions, positions + self._missing)
        place, within = np.divmod(shifted, block)
        first, last = int(place.min()), int(place.max())
        # A window has few places, and each stands for many positions.
        found: Numbers = blocks(np.arange(first, last + 1))[place - first] if last - first < len(place) else blocks(place)
        return found * block + within
