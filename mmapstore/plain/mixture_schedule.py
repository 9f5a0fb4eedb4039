"""The sources of the steps of a mixture, a pure function of (seed, epoch): whole numbers, no tables, no I/O.

A step is a batch, or a sample, of one source. Before any step of an epoch, source 0 has given its exact share, rounded down or up;
source 1 has given its share of the steps that are left for sources 1, 2, ...; and so on. A number drawn for each epoch moves the
steps at which shares are rounded up. Steps are cut into blocks, and the sources inside a block are sorted by random keys: any
stretch of an epoch has nearly the proportions of all of it, and a source still gives its own steps in order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from .errors import InvalidValueError
from .runs import Numbers

_MOST_STEPS = 2**40  # in an epoch: at a million a second, twelve days


def counts_in_epoch(lengths: Sequence[int], weights: Sequence[float], stop: str) -> list[int]:
    """Return the steps that each source of `lengths` steps gives in an epoch. The weights add up to 1.

    One source gives each of its steps exactly once: with "first" the source that its share uses up first, so that no source gives
    more than it has; with "all" the last one, so that no source gives less. All others give their share, to the nearest whole step.
    Raises InvalidValueError if that is nothing.

    >>> counts_in_epoch([10, 100], [0.7, 0.3], "first"), counts_in_epoch([10, 100], [0.7, 0.3], "all")
    ([10, 4], [233, 100])
    """
    steps = (min if stop == "first" else max)(length / weight for length, weight in zip(lengths, weights, strict=True) if weight)
    if steps > _MOST_STEPS:
        raise InvalidValueError(
            f"weights={list(weights)} make an epoch of {steps:.3g} steps with stop='all', so that a source of "
            "little weight comes to its end. Give it a larger weight, or stop='first'."
        )
    counts = [round(weight * steps) for weight in weights]
    for source, (count, weight) in enumerate(zip(counts, weights, strict=True)):
        if weight and not count:
            raise InvalidValueError(
                f"weights={list(weights)} give source {source} none of the {sum(counts)} steps of an epoch: its share is "
                f"{weight * steps:.2g} steps. Give it a larger weight, or leave the source out."
            )
    return counts


class MixtureSchedule:
    """The source of each step of an epoch, for sources that give `counts` steps, mixed within blocks of `block` steps.

    >>> schedule = MixtureSchedule([7, 3], block=5, seed=0)
    >>> [schedule.block_of(epoch=0, block=block)[0].tolist() for block in (0, 1)]
    [[0, 0, 1, 1, 0], [0, 1, 0, 0, 0]]
    """

    def __init__(self, counts: Sequence[int], block: int, seed: int) -> None:
        self.counts = list(counts)
        self._block, self._seed = block, seed
        self._kept: tuple[tuple[int, int], Numbers, list[int]] | None = None

    def __len__(self) -> int:
        """Steps in an epoch."""
        return sum(self.counts)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that a block takes."""
        return 64 * self._block

    def block_of(self, epoch: int, block: int) -> tuple[Numbers, list[int]]:
        """Return the source of each step of a block, read-only, and the steps that each source has given in this epoch before."""
        kept = self._kept  # read once: another thread may replace it
        if kept is None or kept[0] != (epoch, block):
            start, stop = block * self._block, min((block + 1) * self._block, len(self))
            before, after = self._given(epoch, start), self._given(epoch, stop)
            in_turn = np.repeat(np.arange(len(before)), np.subtract(after, before))
            keys = hashlib.shake_128(self._key(epoch, "block", block)).digest(8 * len(in_turn))
            mixed = in_turn[np.argsort(np.frombuffer(keys, "<u8"), kind="stable")]
            mixed.flags.writeable = False
            kept = self._kept = (epoch, block), mixed, before
        return kept[1:]

    def _given(self, epoch: int, steps: int) -> list[int]:
        """Return how many of the first `steps` steps of an epoch each source gives. Python's integers: products are large."""
        found, left, total = [], steps, len(self)
        for source, count in enumerate(self.counts):
            moved = int.from_bytes(hashlib.blake2b(self._key(epoch, "source", source), digest_size=8).digest(), "little")
            found.append((left * count + moved % total) // total if count else 0)
            left, total = left - found[-1], total - count
        return found

    def _key(self, epoch: int, purpose: str, number: int) -> bytes:
        return f"mmapstore mixture 1: seed {self._seed} epoch {epoch} {purpose} {number}".encode()
