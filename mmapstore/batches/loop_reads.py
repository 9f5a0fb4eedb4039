"""Small batches of a loop, many of which are read by one call, handed out one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from .look_ahead import LookAhead

T = TypeVar("T")


class LoopReads(Generic[T]):
    """Reads groups of up to `together` batches of a loop over `batches`, with `read(first batch, how many)`.

    Where `is_ahead`, the next group is read while one is in use.

    >>> reads = LoopReads(lambda batch, count: [f"{batch + n} of {count}" for n in range(count)], 5, 2, is_ahead=False)
    >>> [reads.take(batch) for batch in (1, 2, 3, 4)]
    ['1 of 1', '2 of 2', '3 of 2', '4 of 1']
    """

    def __init__(self, read: Callable[[int, int], list[T]], batches: int, together: int, is_ahead: bool) -> None:
        self._read = read
        self._batches = batches
        self._together = together
        self._is_ahead = is_ahead
        self._ahead: LookAhead[int, list[T]] = LookAhead(lambda batch: partial(read, batch, self._end(batch) - batch))
        self._group: deque[T] = deque()

    def _end(self, batch: int) -> int:
        # Whole groups, also after a beginning in the middle of one: others straddle stretches of decoded frames.
        return min(batch + self._together - batch % self._together, self._batches)

    def take(self, batch: int) -> T:
        """The next batch, which is the one after the last that was taken; the first may be any."""
        if not self._group:
            following = range(self._end(batch), self._batches, self._together) if self._is_ahead else ()
            self._group.extend(self._ahead.get(batch, following))
        return self._group.popleft()  # its buffer is lent: nothing here keeps it alive

    def close(self) -> None:
        """Nothing more will be taken."""
        self._ahead.close()
