"""The anchors that an epoch draws: a multiset of V of V anchors, a pure function of (seed, epoch). Arithmetic only.

Draws are numbered 0 .. V-1 by the anchors they stand for, so that blocks of draws are blocks of the store: the order of an
epoch shuffles draws as it shuffles anchors, each anchor is read once, and its repeats fall into one shuffling window.

The uses of each anchor in an epoch follow from a rule. All rules are one idea: anchor r of n stands at a fixed place t of a
circle, an epoch goes m steps around it, and an anchor is drawn each time it is passed. So each anchor is drawn m // n or
m // n + 1 times in an epoch, and the draws of two anchors over all epochs differ by at most one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .errors import InvalidValueError
from .runs import Numbers, Runs, merged, pieces_of, runs_of

_SPAN = 16  # anchors between two sums that are kept: a position is found in one of them by counting
_PIECE = 2**16  # anchors worked on at a time; a multiple of _SPAN
_AT_ONCE = 2**15  # anchors looked up at a time, in some MB
_EPOCHS_KEPT = 2  # the one that is read, and the next, which is begun while the last batches of the first are in use


class Draws:
    """The anchors that an epoch draws, by the number of the draw.

    >>> draws = Draws(Balance(np.array([0, 0, 0, 0, 1, 0], np.uint8), [3, 3], seed=0))
    >>> np.bincount(draws.anchors(0, np.arange(6)), minlength=6).tolist()
    [0, 1, 0, 1, 3, 1]
    """

    def __init__(self, rule: Balance | Weighted) -> None:
        self.rule = rule
        self._dtype = np.min_scalar_type(rule.most)
        self._kept: tuple[tuple[int, Any, Numbers], ...] = ()

    def __len__(self) -> int:
        return len(self.rule)

    @property
    def nbytes(self) -> int:
        """Bytes of memory: the rule, and the uses of each anchor with their sums for two epochs."""
        sums = 8 * (-(-len(self) // _SPAN) + 1)
        return self.rule.nbytes + _EPOCHS_KEPT * (len(self) * self._dtype.itemsize + sums) + 64 * min(len(self), _PIECE)

    def anchors(self, epoch: int, numbers: Numbers) -> Numbers:
        """Return the anchor of each of these draws of an epoch. The first call in an epoch takes time linear in V."""
        uses, sums = self._uses(epoch)
        span = np.searchsorted(sums, numbers, side="right") - 1
        found = np.empty(len(numbers), np.int64)
        step = _PIECE // _SPAN
        for i in range(0, len(numbers), step):
            part = span[i : i + step]
            before = (numbers[i : i + step] - sums[part]).astype(np.int32)[:, None]
            found[i : i + step] = part * _SPAN + (np.cumsum(uses[part], axis=1, dtype=np.int32) <= before).sum(axis=1)
        return found

    def runs(self, epoch: int, numbers: Runs) -> Iterator[Runs]:
        """Yield the runs of anchors that these runs of draws stand for, in rising order, from `_AT_ONCE` anchors at a time."""
        uses = self._uses(epoch)[0].reshape(-1)
        last = np.array([0, 1])  # numbers of draws, and of anchors, that runs hold, less than their ends
        found = self.anchors(epoch, (numbers - last).reshape(-1)).reshape(-1, 2) + last
        for anchors in pieces_of(merged(found), _AT_ONCE):
            drawn = anchors[uses[anchors] > 0]
            if len(drawn):
                yield runs_of(drawn)

    def _uses(self, epoch: int) -> tuple[Any, Numbers]:
        """Return the uses of each anchor, in rows of `_SPAN`, and the draws before each row."""
        kept = self._kept  # read once: another thread may replace it
        for one, uses, sums in kept:
            if one == epoch:
                return uses, sums
        rows = -(-len(self) // _SPAN)
        uses = np.zeros((rows, _SPAN), self._dtype)
        flat, at = uses.reshape(-1), 0
        for piece in self.rule.uses(epoch):
            flat[at : at + len(piece)] = piece
            at += len(piece)
        sums = np.zeros(rows + 1, np.int64)
        np.cumsum(uses.sum(axis=1, dtype=np.int64), out=sums[1:])
        self._kept = ((epoch, uses, sums), *kept)[:_EPOCHS_KEPT]
        return uses, sums


class Balance:
    """Draws each class as often as asked, and the anchors of a class equally often.

    Parameters
    ----------
    codes : the class of each anchor, small unsigned integers
    counts : draws of each class in an epoch; they add up to the anchors
    """

    def __init__(self, codes: np.ndarray[Any, Any], counts: Sequence[int], seed: int) -> None:
        self._codes = codes
        self._seed = seed
        self.counts = [int(count) for count in counts]
        self.members = np.bincount(codes, minlength=len(self.counts)).tolist()

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def nbytes(self) -> int:
        return int(self._codes.nbytes)

    @property
    def repeats(self) -> list[float]:
        """The mean number of times that an epoch draws an anchor of each class."""
        return [count / max(1, members) for count, members in zip(self.counts, self.members, strict=True)]

    @property
    def most(self) -> int:
        """The most draws of one anchor in an epoch."""
        return max(math.ceil(repeats) for repeats in self.repeats)

    def uses(self, epoch: int) -> Iterator[Numbers]:
        """Yield the number of draws of each anchor in an epoch, for `_PIECE` anchors at a time."""
        members = np.maximum(1, np.array(self.members, np.int64))
        whole, rest = np.divmod(np.array(self.counts, np.int64), members)
        steps = np.array([_stride(n) for n in members.tolist()], np.int64)
        # Python's integers: an epoch may have any number. The circle of a class begins at a place of its own.
        places = zip(self.counts, members.tolist(), strict=True)
        begun = np.array([(_number(self._seed, code) + epoch * m) % n for code, (m, n) in enumerate(places)], np.int64)
        seen = np.zeros(len(members), np.int64)
        for start in range(0, len(self._codes), _PIECE):
            codes = self._codes[start : start + _PIECE]
            # The rank of each anchor in its class: its place in a stable sort by class, less where the class begins there.
            order = np.argsort(codes, kind="stable")
            here = np.bincount(codes, minlength=len(members))
            ranks = np.empty(len(codes), np.int64)
            ranks[order] = np.arange(len(codes)) - np.repeat(np.cumsum(here) - here - seen, here)
            seen += here
            size = members[codes]
            passed = (ranks * steps[codes] + begun[codes]) % size >= size - rest[codes]
            yield whole[codes] + passed


class Weighted:
    """Draws each anchor in proportion to its weight: in each epoch the expected number, rounded down or up.

    Weights are laid end to end on a line of V steps, and an anchor is drawn for each step that falls into its weight; the steps
    of later epochs are moved by the golden ratio, so that uses over many epochs come near the expected number evenly.

    Parameters
    ----------
    weights : of each anchor, finite and not negative, in any unit; kept as given
    """

    def __init__(self, weights: np.ndarray[Any, Any], seed: int) -> None:
        self._weights = weights
        self._seed = seed
        self._total = 0.0
        for piece in self._pieces():  # as `uses` adds them; `sum` would round otherwise from Python 3.12 on
            self._total += float(np.cumsum(piece, dtype=np.float64)[-1])
        if not (math.isfinite(self._total) and self._total > 0):
            raise InvalidValueError(f"the sampling weights add up to {self._total}; expected a finite number above 0.")

    def __len__(self) -> int:
        return len(self._weights)

    @property
    def nbytes(self) -> int:
        return int(self._weights.nbytes)

    @property
    def most(self) -> int:
        return math.ceil(float(self._weights.max()) / self._total * len(self)) + 1

    def uses(self, epoch: int) -> Iterator[Numbers]:
        steps, before, done = len(self), 0.0, 0
        ahead = (_number(self._seed, 0) % 2**53 / 2**53 + epoch % 2**40 * ((math.sqrt(5) - 1) / 2)) % 1.0
        for piece in self._pieces():
            line = before + np.cumsum(piece, dtype=np.float64)
            before = float(line[-1])
            passed = np.floor(line / self._total * steps + ahead).astype(np.int64)
            yield np.diff(passed, prepend=done)
            done = int(passed[-1])

    def _pieces(self) -> Any:
        return (self._weights[start : start + _PIECE] for start in range(0, len(self._weights), _PIECE))


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """Cut `total` into whole numbers in proportion to the weights, each rounded down or up (largest remainders up).

    >>> shares(10, [1, 1, 1]), shares(100, [1, 3])
    ([4, 3, 3], [25, 75])
    """
    exact = [total * weight / math.fsum(weights) for weight in weights]
    found = [math.floor(one) for one in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (found[i] - exact[i], i))
    for i in by_remainder[: total - sum(found)]:
        found[i] += 1
    return found


def _stride(members: int) -> int:
    """Return the step around a circle of so many places that leaves no place out, and spreads any number of steps evenly."""
    step = max(1, round(members * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, members) != 1:
        step += 1
    return step


def _number(seed: int, code: int) -> int:
    digest = hashlib.blake2b(f"mmapstore draws 1: seed {seed} class {code}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
