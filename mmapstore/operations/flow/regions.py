"""Work on an array in regions of its samples: in any order, more than once, and in any process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from ...plain.errors import InvalidValueError, StateMismatchError

Region = tuple[int, int]
R = TypeVar("R")


@dataclass(frozen=True)
class Regions:
    """Samples [start, stop), cut at the multiples of `length`. Arithmetic only, however many regions there are.

    >>> regions = Regions(3, 10, 4)
    >>> len(regions), [regions[number] for number in range(3)]
    (3, [(3, 4), (4, 8), (8, 10)])
    """

    start: int
    stop: int
    length: int

    @classmethod
    def at_most(cls, most: int, samples: int, unit: int) -> Regions:
        """Cut `samples` into at most `most` regions of nearly equal length, each of whole units but the last."""
        unit = max(1, unit)
        return cls(0, samples, max(1, -(-samples // (unit * most))) * unit)

    def __len__(self) -> int:
        return max(0, -(-self.stop // self.length) - self.start // self.length)

    def __getitem__(self, number: int) -> Region:
        if not 0 <= number < len(self):
            raise InvalidValueError(f"Region {number} is asked for; expected one of 0 to {len(self) - 1}.")
        first = (self.start // self.length + number) * self.length
        return max(first, self.start), min(first + self.length, self.stop)

    def counted(self, records: Iterable[tuple[int, R]], done: Callable[[int], None]) -> Iterator[tuple[int, R]]:
        """Yield records as they come; `done` is called with the number of samples in the regions that they are of."""
        samples = 0
        for number, record in records:
            first, stop = self[number]
            samples += stop - first
            done(samples)
            yield number, record


def in_order(records: Iterable[tuple[int, R]], count: int) -> Iterator[R]:
    """Yield the record of each region in the order of the regions, once, from (number, record) in any order and more than once.

    A record that comes before its turn is held until then. Raises StateMismatchError for regions without a record.

    >>> list(in_order([(1, "b"), (1, "b"), (0, "a")], 2))
    ['a', 'b']
    """
    held: dict[int, R] = {}
    done = 0
    for number, record in records:
        if number >= done:
            held[number] = record
        while done in held:
            yield held.pop(done)
            done += 1
    if done < count:
        missing = [number for number in range(done, count) if number not in held]
        listed = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        raise StateMismatchError(f"{len(missing)} of {count} regions were not done: {listed}. Do them first.")
