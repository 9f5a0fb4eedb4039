"""Cutting an array into boxes that follow each other in C order: arithmetic, no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from .chunk_grid import Box


@dataclass(frozen=True)
class Slabs:
    """An array of `shape` in slabs: `step` places along `axis`, single places before it.

    >>> slabs = Slabs((2, 5, 3), 1, 2)
    >>> [tuple((part.start, part.stop) for part in box[:2]) for box in slabs]
    [((0, 1), (0, 2)), ((0, 1), (2, 4)), ((0, 1), (4, 5)), ((1, 2), (0, 2)), ((1, 2), (2, 4)), ((1, 2), (4, 5))]
    """

    shape: tuple[int, ...]
    axis: int
    step: int

    def __len__(self) -> int:
        if 0 in self.shape:
            return 0
        return math.prod(self.shape[: self.axis]) * -(-self.shape[self.axis] // self.step) if self.shape else 1

    def __iter__(self) -> Iterator[Box]:
        return self.after(0)

    def after(self, number: int) -> Iterator[Box]:
        """From slab `number` on."""
        for at in range(number, len(self)):
            yield self[at]

    def __getitem__(self, number: int) -> Box:
        if not self.shape:
            return ()
        *outer, length = self.shape[: self.axis + 1]
        number, along = divmod(number, -(-length // self.step))
        places = []
        for count in reversed(outer):
            number, at = divmod(number, count)
            places.append(slice(at, at + 1))
        start = along * self.step
        stretch = slice(start, min(length, start + self.step))
        return (*reversed(places), stretch, *(slice(0, each) for each in self.shape[self.axis + 1 :]))

    def first_value(self, number: int) -> int:
        """Return the place of the first value of a slab in the C order of the array; of number `len(self)`, that of the end.

        >>> [Slabs((2, 5, 3), 1, 2).first_value(number) for number in range(7)]
        [0, 6, 12, 15, 21, 27, 30]
        """
        if not self.shape:
            return number
        length = self.shape[self.axis]
        outer, along = divmod(number, -(-length // self.step))
        return (outer * length + along * self.step) * math.prod(self.shape[self.axis + 1 :])

    def holding(self, value: int) -> int:
        """Return the number of the slab that holds a value, by its place in the C order of the array.

        >>> [Slabs((2, 5, 3), 1, 2).holding(value) for value in (0, 5, 6, 14, 15, 29)]
        [0, 0, 1, 2, 3, 5]
        """
        if not self.shape:
            return 0
        row = math.prod(self.shape[self.axis + 1 :])
        outer, along = divmod(value // row, self.shape[self.axis])
        return outer * -(-self.shape[self.axis] // self.step) + along // self.step

    @property
    def most_values(self) -> int:
        """In the largest slab."""
        return min(self.step, self.shape[self.axis]) * math.prod(self.shape[self.axis + 1 :]) if self.shape else 1

    @property
    def is_uniform(self) -> bool:
        """True if all slabs but the last are of one size."""
        return math.prod(self.shape[: self.axis]) <= 1 or self.shape[self.axis] % self.step == 0


def c_order_boxes(shape: tuple[int, ...], most: int, chunk: tuple[int, ...] | None = None) -> Slabs:
    """Cut an array into slabs of at most `most` elements, and at least one.

    If possible, slabs end at the borders of chunks, so that none is decoded twice.

    >>> list(c_order_boxes((5, 3), 7))
    [(slice(0, 2, None), slice(0, 3, None)), (slice(2, 4, None), slice(0, 3, None)), (slice(4, 5, None), slice(0, 3, None))]
    >>> [box[0] for box in c_order_boxes((9, 2), 11, (4, 2))]
    [slice(0, 4, None), slice(4, 8, None), slice(8, 9, None)]
    >>> list(c_order_boxes((), 7)), list(c_order_boxes((0, 3), 7))
    ([()], [])
    """
    if not shape or 0 in shape:
        return Slabs(shape, 0, 1)
    axis, rows = cut(shape, most)
    if chunk is not None and rows > chunk[axis]:
        rows -= rows % chunk[axis]
    return Slabs(shape, axis, rows)


def cut(shape: tuple[int, ...], most: int) -> tuple[int, int]:
    """Return (axis along which boxes of at most `most` elements are cut, entries of that axis in each)."""
    axis = next((axis for axis in range(len(shape)) if math.prod(shape[axis + 1 :]) <= most), len(shape) - 1)
    return axis, min(shape[axis], max(1, most // math.prod(shape[axis + 1 :])))


def times_decoded(shape: tuple[int, ...], most: int, chunk: tuple[int, ...] | None) -> int:
    """Return how often one chunk is decoded while all boxes are read, each chunk anew for each box.

    >>> times_decoded((64, 8, 8), 10**6, (32, 4, 4)), times_decoded((64, 8, 8), 128, (32, 4, 4)), times_decoded((8,), 2, None)
    (1, 16, 1)
    """
    if chunk is None or not shape or math.prod(shape) == 0:
        return 1
    axis, rows = cut(shape, most)
    inside = math.prod(min(each, length) for each, length in zip(chunk[:axis], shape[:axis], strict=True))
    along = min(chunk[axis], shape[axis])
    return inside * (1 if rows >= along else -(-along // rows))
