"""The samples of an augmented round, their repeats and their order: a pure function of (seed, round). Arithmetic only."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np

from .draws import Balance
from .sample_order import SampleOrder, Shuffling

Numbers = np.ndarray[Any, np.dtype[np.int64]]
WINDOW_BYTES = 32 * 2**20  # of samples that are mixed, and held in memory, at a time


class Round(NamedTuple):
    """The samples of one round, in order."""

    samples: Numbers  # the number of each one's original
    repeats: Numbers  # the number of samples of the same original before each
    ends: list[int]  # one past the last position of each window; originals of one window lie in a few runs of the source


class RoundOrder:
    """Draws `samples_per_class` samples of each class for each round.

    Within a class, uses differ by at most one in a round and over all rounds: a class with enough originals has each at most
    once in a round. With `validation`, each original is drawn at least once, so a class with more than `samples_per_class`
    originals has them all.

    Parameters
    ----------
    codes : the class of each original, small unsigned integers; each class has at least one
    sample_nbytes : of an original or of what is made of it, the larger

    >>> order = RoundOrder(np.array([0, 0, 0, 0, 1], np.uint8), 2, seed=7, sample_nbytes=1)
    >>> drawn = order.draw(0)
    >>> np.bincount(drawn.samples, minlength=5).tolist(), drawn.repeats[drawn.samples == 4].tolist()
    ([1, 1, 0, 0, 2], [0, 1])
    """

    def __init__(
        self, codes: np.ndarray[Any, Any], samples_per_class: int, seed: int, sample_nbytes: int, validation: bool = False
    ) -> None:
        members = np.bincount(codes).tolist()
        self.counts = [max(samples_per_class, count) if validation else samples_per_class for count in members]
        self._rule = Balance(codes, self.counts, seed)
        shuffling = Shuffling.of(max(2, WINDOW_BYTES // max(1, sample_nbytes)), sample_nbytes)
        digest = hashlib.blake2b(f"mmapstore rounds 1: seed {seed}".encode(), digest_size=8).digest()
        self._order = SampleOrder(len(self), shuffling, int.from_bytes(digest, "little"))

    def __len__(self) -> int:
        """Samples in a round."""
        return sum(self.counts)

    @property
    def most_repeats(self) -> float:
        """The samples of a round that are made of one original of the rarest class, on average."""
        return max(self._rule.repeats)

    @property
    def window(self) -> int:
        """The most samples in a window."""
        return self._order.largest_window()[0]

    @property
    def nbytes(self) -> int:
        """Bytes of memory: the classes of all originals, and a round's numbers while they are worked out and kept."""
        return self._rule.nbytes + 8 * len(self._rule) + 48 * len(self)

    def draw(self, number: int) -> Round:
        """Return round `number`. Takes time linear in the originals and in the samples of a round."""
        uses = np.concatenate([np.asarray(piece, np.int64) for piece in self._rule.uses(number)])
        drawn = np.repeat(np.arange(len(uses)), uses)  # in stored order, as the numbers of the order stand for them
        samples = drawn[self._order.anchors_at(number, 0, len(self))]
        by_sample = np.argsort(samples, kind="stable")
        repeats = np.empty_like(samples)
        repeats[by_sample] = np.arange(len(samples)) - np.repeat(np.cumsum(uses) - uses, uses)
        ends = [0]
        while ends[-1] < len(self):
            ends.append(self._order.window_at(number, ends[-1]).stop)
        return Round(samples, repeats, ends[1:])
