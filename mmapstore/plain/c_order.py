"""Cutting an array into boxes that follow each other in C order: arithmetic, no I/O."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from .chunk_grid import Box


def c_order_boxes(shape: tuple[int, ...], most: int, chunk: tuple[int, ...] | None = None) -> Iterator[Box]:
    """Yield boxes of at most `most` elements, and at least one; put one after the other they are the array in C order.

    Each has a start and stop on every axis. Where they can, boxes end at the borders of chunks, so that none is decoded twice.

    >>> list(c_order_boxes((5, 3), 7))
    [(slice(0, 2, None), slice(0, 3, None)), (slice(2, 4, None), slice(0, 3, None)), (slice(4, 5, None), slice(0, 3, None))]
    >>> [box[0] for box in c_order_boxes((9, 2), 11, (4, 2))]
    [slice(0, 4, None), slice(4, 8, None), slice(8, 9, None)]
    >>> list(c_order_boxes((), 7)), list(c_order_boxes((0, 3), 7))
    ([()], [])
    """
    if not shape:
        yield ()
        return
    if math.prod(shape) == 0:
        return
    axis, rows = cut(shape, most)
    if chunk is not None and rows > chunk[axis]:
        rows -= rows % chunk[axis]
    rest = tuple(slice(0, length) for length in shape[axis + 1 :])
    for before in itertools.product(*(range(length) for length in shape[:axis])):
        fixed = tuple(slice(at, at + 1) for at in before)
        for start in range(0, shape[axis], rows):
            yield (*fixed, slice(start, min(shape[axis], start + rows)), *rest)


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
