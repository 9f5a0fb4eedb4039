"""The part that each sample goes to in a random, stratified or grouped split. Arithmetic only.

One seed gives one split on every machine, for ever: there are integers, a keyed permutation, and floats that are added one
after the other, since sums whose order is left to a library differ in the last bit.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .sample_order import Permutation

Numbers = np.ndarray[Any, np.dtype[np.int64]]
Codes = np.ndarray[Any, np.dtype[Any]]

_AT_ONCE = 2**17  # samples dealt together: about 10 MB of arithmetic
_TURNS, _ASKED_AGAIN = 5, 20_000  # times that each group is asked where it suits best, unless there are more groups


def dealt(sizes: Numbers, seed: int, codes: Codes | None = None, counts: Numbers | None = None) -> Codes:
    """Deal shuffled samples to parts; with `codes` so that each class is divided as all samples are.

    Parameters
    ----------
    sizes : (parts,) samples of each part, together all samples
    codes, counts : (samples,) class of each sample, 0 .. classes-1, and (classes,) samples of each class. None for one class

    Returns the part of each sample, (samples,), the smallest unsigned dtype.

    >>> found = dealt(np.array([4, 2]), 0, np.array([0, 0, 0, 1, 1, 1]), np.array([3, 3]))
    >>> [sorted(found[:3].tolist()), sorted(found[3:].tolist())]
    [[0, 0, 1], [0, 0, 1]]
    """
    total = int(sizes.sum())
    if codes is None or counts is None:
        codes, counts = np.zeros(total, np.uint8), np.array([total])
    classes = Permutation(len(counts), _key(seed, "classes"))(np.arange(len(counts)))  # the seed decides between equal ones
    ends = np.empty((len(counts), len(sizes)), np.int64)
    ends[classes] = proportional_counts(counts[classes], sizes).cumsum(axis=1)
    order = Permutation(total, _key(seed, "samples"))
    found = np.empty(total, np.min_scalar_type(len(sizes) - 1))
    seen = np.zeros(len(counts), np.int64)
    for start in range(0, total, _AT_ONCE):
        samples = order(np.arange(start, min(start + _AT_ONCE, total)))
        of = codes[samples].astype(np.int64)
        by_class, places = np.argsort(of, kind="stable"), np.arange(len(of))
        begins = np.append(True, np.diff(of[by_class]) != 0)
        rank = np.empty_like(places)
        rank[by_class] = places - np.maximum.accumulate(np.where(begins, places, 0))
        rank += seen[of]  # among all samples of its class, in shuffled order
        found[samples] = sum((rank >= ends[of, part]).astype(found.dtype) for part in range(len(sizes)))
        seen += np.bincount(of, minlength=len(seen))
    return found


def proportional_counts(counts: Numbers, sizes: Numbers) -> Numbers:
    """Divide each class among the parts in proportion to their sizes, to whole samples.

    Returns the samples of each class in each part, (classes, parts). Every part has its size, every class its count, each entry is
    its exact share rounded down or up, and the sum of squares of what they miss is least: for two parts this is the method of
    largest remainders.

    >>> proportional_counts(np.array([300, 60, 1]), np.array([289, 72])).tolist()
    [[240, 60], [48, 12], [1, 0]]
    """
    total = int(sizes.sum())
    found, rest = np.divmod(counts[:, None] * sizes, total)
    lacking = counts - found.sum(axis=1)
    best = np.argsort(-rest, axis=1, kind="stable")
    up = np.empty(rest.shape, bool)
    np.put_along_axis(up, best, np.arange(len(sizes)) < lacking[:, None], axis=1)
    # Classes are at their best, but parts miss their sizes: units go along cheapest paths from parts with too many to others.
    while (excess := found.sum(axis=0) + up.sum(axis=0) - sizes).any():
        path, rows = _cheapest_path(up, rest, excess)
        moved = min(int(excess[path[0]]), -int(excess[path[-1]]), *(len(each) for each in rows))
        for (a, b), each in zip(pairwise(path), rows, strict=True):
            up[each[:moved], a], up[each[:moved], b] = False, True
    return found + up


def _cheapest_path(up: Codes, rest: Numbers, excess: Numbers) -> tuple[list[int], list[Numbers]]:
    """Return the cheapest path of a unit from a part with too many to one with too few, and the classes that can take each step."""
    parts = len(excess)
    cost = np.full((parts, parts), np.inf)
    for a in range(parts):
        for b in range(parts):
            can = up[:, a] & ~up[:, b] & (rest[:, b] > 0)
            if can.any():
                cost[a, b] = (rest[can, a] - rest[can, b]).min()
    dearness, before = np.where(excess > 0, 0, np.inf), np.full(parts, -1)
    for _ in range(parts):
        through = dearness[:, None] + cost
        cheaper = through.min(axis=0) < dearness
        before = np.where(cheaper, through.argmin(axis=0), before)
        dearness = np.where(cheaper, through.min(axis=0), dearness)
    path = [int(np.where(excess < 0, dearness, np.inf).argmin())]
    while before[path[0]] >= 0:
        path.insert(0, int(before[path[0]]))
    rows = [
        np.flatnonzero(up[:, a] & ~up[:, b] & (rest[:, b] > 0) & (rest[:, a] - rest[:, b] == cost[a, b])) for a, b in pairwise(path)
    ]
    return path, rows


def dealt_groups(sizes: Numbers, seed: int, groups: Codes, codes: Codes | None = None) -> Codes:
    """Deal whole groups to parts, so that sizes, and each class with `codes`, come as near to their shares as a greedy rule brings.

    Groups are taken from large to small (by powers of two, shuffled among those of about one size), and each goes where the squares
    of what parts have too much or too little, relative to their sizes, grow least; later each may go over to another part.

    Parameters
    ----------
    sizes : (parts,) samples that each part should have, together all samples
    groups, codes : (samples,) group and class of each sample, 0, 1, ...

    Returns the part of each group, (groups,), the smallest unsigned dtype.

    >>> groups = np.array([0, 0, 0, 1, 2, 2, 2, 2])
    >>> np.bincount(dealt_groups(np.array([4, 4]), 0, groups)[groups])
    array([4, 4])
    """
    members = _members(groups, codes)
    held = np.bincount(members.group, members.amount).astype(np.int64)
    of_class = np.bincount(members.code, members.amount)
    order = np.lexsort(
        (Permutation(len(held), _key(seed, "groups"))(np.arange(len(held))), -np.frexp(np.square(np.square(held.astype(float))))[1])
    )
    share = sizes / sizes.sum()
    excess = -share[:, None] * of_class  # what each part has of each class, beyond its share
    weight = 1 / of_class**2
    part = np.full(len(held), -1)
    for _ in range(_TURNS if len(held) <= _ASKED_AGAIN else 1):
        before = part.copy()
        for group in order.tolist():
            own = slice(members.first[group], members.first[group + 1])
            code, count = members.code[own], members.amount[own]
            if part[group] >= 0:
                excess[part[group], code] -= count
            growth = np.cumsum((2 * excess[:, code] + count) * (count * weight[code]), axis=1)[:, -1] / share
            part[group] = growth.argmin()
            excess[part[group], code] += count
        if (part == before).all():
            break
    return part.astype(np.min_scalar_type(len(sizes) - 1))


def majorities(groups: Codes, codes: Codes) -> tuple[Numbers, Codes]:
    """Return the class that most samples of each group have (the first of equal ones), and whether all have it.

    >>> [found.tolist() for found in majorities(np.array([0, 0, 0, 1]), np.array([2, 5, 5, 4]))]
    [[5, 4], [False, True]]
    """
    members = _members(groups, codes)
    best = np.lexsort((-members.amount, members.group))[members.first[:-1]]
    return members.code[best], np.diff(members.first) == 1


class _Members(NamedTuple):
    """Count the samples of each class in each group: entries first[g] .. first[g + 1] - 1 are those of group g."""

    group: Numbers
    code: Numbers
    amount: Numbers
    first: Numbers


def _members(groups: Codes, codes: Codes | None) -> _Members:
    classes = 1 if codes is None else int(codes.max()) + 1
    keys, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    for start in range(0, len(groups), 8 * _AT_ONCE):
        at = slice(start, start + 8 * _AT_ONCE)
        fresh = groups[at].astype(np.int64) * classes + (0 if codes is None else codes[at])
        keys, place = np.unique(np.concatenate([keys, fresh]), return_inverse=True)
        counts = np.bincount(place.reshape(-1), np.concatenate([counts, np.ones(len(fresh), np.int64)])).astype(np.int64)
    group, code = np.divmod(keys, classes)
    return _Members(group, code, counts, np.searchsorted(group, np.arange(int(group[-1]) + 2)))


def _key(seed: int, purpose: str) -> bytes:
    return f"mmapstore split 1: seed {seed} {purpose}".encode()
