"""The leaves of a content digest: fixed ranges of the values of an array in C order. Arithmetic on integers, no I/O.

An array of any format, byte order and chunk shape has the same leaves, so that many workers can hash different leaves, in any
order. Leaves are runs of LEAF_NBYTES of values. Where an array has more than MOST_LEAVES of these runs, neighbours are merged in
pairs until at most MOST_LEAVES are left: an array may grow, or turn out longer than expected, without any value being hashed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

LEAF_NBYTES = 64 << 20
MOST_LEAVES = 1 << 16


@dataclass(frozen=True)
class Leaves:
    """The leaves of an array of `values` values, each of `itemsize` bytes.

    >>> leaves = Leaves(40_000_000, 4)                         # 160 MB
    >>> len(leaves), leaves.each, leaves.span(2)
    (3, 16777216, (33554432, 40000000))
    >>> leaves.rows(2, 10_000)                                  # of samples of 10,000 values
    (3355, 4000)
    """

    values: int
    itemsize: int

    @property
    def run(self) -> int:
        """Values in each run that is hashed at once."""
        return max(1, LEAF_NBYTES // max(1, self.itemsize))

    @property
    def merged(self) -> int:
        """Number of times that neighbouring runs are merged in pairs."""
        runs, merged = -(-self.values // self.run), 0
        while runs > MOST_LEAVES:
            runs, merged = -(-runs // 2), merged + 1
        return merged

    @property
    def each(self) -> int:
        """Values in each leaf but the last."""
        return self.run << self.merged

    def __len__(self) -> int:
        return -(-self.values // self.each)

    def span(self, leaf: int) -> tuple[int, int]:
        """Return [start, stop) of the values of a leaf, in C order."""
        return leaf * self.each, min(self.values, (leaf + 1) * self.each)

    def rows(self, leaf: int, row_values: int) -> tuple[int, int]:
        """Return [start, stop) of the rows of `row_values` values, such as samples, that have a value in a leaf."""
        start, stop = self.span(leaf)
        return start // row_values, -(-stop // row_values)

    def inside(self, start: int, stop: int) -> range:
        """Return the leaves of which every value is in [start, stop)."""
        first = -(-start // self.each)
        last = len(self) if stop >= self.values else stop // self.each
        return range(first, max(first, last))

    def outside(self, spans: Iterable[tuple[int, int]]) -> list[int]:
        """Return the leaves that none of the spans of values holds whole: the leaves to be read back once all spans are written.

        >>> Leaves(40_000_000, 4).outside([(0, 20_000_000), (20_000_000, 40_000_000)])
        [1]
        """
        held = {leaf for start, stop in spans for leaf in self.inside(start, stop)}
        return [leaf for leaf in range(len(self)) if leaf not in held]


def leaves_of(shape: tuple[int, ...], itemsize: int) -> Leaves:
    """Return the leaves of an array.

    >>> len(leaves_of((1000, 3, 64, 64), 4)), len(leaves_of((), 8)), len(leaves_of((0, 5), 8))
    (1, 1, 0)
    """
    return Leaves(math.prod(shape), itemsize)
