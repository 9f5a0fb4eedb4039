"""The chunks that hold a region of an array, and the part of each: arithmetic, no I/O."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .runs import Numbers, power_of_two_within

Box = tuple[slice, ...]
USUAL_CHUNK_NBYTES = 512 << 10


def usual_chunk_samples(sample_nbytes: int) -> int:
    """Return the samples in a chunk where nobody asks for a number: a power of two, in 256 to 512 KiB.

    Blocks of shuffled samples have a power of two of them as well, so that each holds whole chunks.

    >>> usual_chunk_samples(30_000), usual_chunk_samples(10**9)
    (16, 1)
    """
    return power_of_two_within(USUAL_CHUNK_NBYTES // max(1, sample_nbytes))


@dataclass(frozen=True)
class ChunkGrid:
    """An array of `shape` cut into chunks of `chunk`, numbered in C order of their places in the grid.

    >>> grid = ChunkGrid((10, 6), (4, 6))
    >>> grid.counts, len(grid), grid.place(2)
    ((3, 1), 3, (2, 0))
    >>> [(number, inside[0], within[0]) for number, inside, within in grid.touching((slice(5, 9), slice(0, 6)))]
    [(1, slice(1, 4, None), slice(0, 3, None)), (2, slice(0, 1, None), slice(3, 4, None))]
    """

    shape: tuple[int, ...]
    chunk: tuple[int, ...]

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Chunks along each axis."""
        return tuple(-(-length // each) for length, each in zip(self.shape, self.chunk, strict=True))

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """By how much the number of a chunk rises from one to the next along each axis."""
        return tuple(math.prod(self.counts[axis + 1 :]) for axis in range(len(self.counts)))

    def __len__(self) -> int:
        return math.prod(self.counts)

    def place(self, number: int) -> tuple[int, ...]:
        """Return the place of chunk `number`, counted in chunks along each axis."""
        found = []
        for count in reversed(self.counts):
            number, at = divmod(number, count)
            found.append(at)
        return tuple(reversed(found))

    def places(self, numbers: Sequence[int]) -> Numbers:
        """Return the places of chunks, as (numbers, axes)."""
        return np.array(numbers, np.int64)[:, None] // np.array(self.strides, np.int64) % np.array(self.counts, np.int64)

    def number(self, place: tuple[int, ...]) -> int:
        """Return the inverse of `place`."""
        found = 0
        for at, count in zip(place, self.counts, strict=True):
            found = found * count + at
        return found

    def holds_whole(self, box: Box) -> bool:
        """Return True if a region cuts no chunk in two; chunks at the upper edges end with the array."""
        return all(
            part.start % each == 0 and (part.stop % each == 0 or part.stop == length)
            for part, each, length in zip(box, self.chunk, self.shape, strict=True)
        )

    def touching(self, box: Box) -> Iterator[tuple[int, Box, Box]]:
        """(number, part of the chunk, where that part lies in the box) of every chunk that shares elements with `box`.

        `box` has a slice with start and stop, of step 1, for each axis. In rising order of numbers.
        """
        along = []
        for part, each, stride in zip(box, self.chunk, self.strides, strict=True):
            start, stop = part.start, part.stop
            pieces = []
            for at in range(start // each, -(-stop // each) if stop > start else start // each):
                first = at * each
                low, high = max(start, first), min(stop, first + each)
                pieces.append((at * stride, slice(low - first, high - first), slice(low - start, high - start)))
            along.append(pieces)
        for pieces_of_chunk in itertools.product(*along):
            numbers, inside, outside = zip(*pieces_of_chunk, strict=True)
            yield sum(numbers), inside, outside
