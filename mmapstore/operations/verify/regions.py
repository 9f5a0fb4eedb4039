"""Work on an array in regions of its samples, which can be done in any order, more than once, and in many processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ..progress import Progress
from .verdict import ArrayVerdict

Region = tuple[int, int]


class Check(Protocol):
    """One array or pair of arrays to check. It pickles, and so do its records, which are small."""

    @property
    def samples(self) -> int: ...

    @property
    def sample_nbytes(self) -> int: ...

    def plan(self, parts: int = 1) -> list[Region]:
        """Return at most `parts` regions [start, stop) of samples. Arithmetic only."""
        ...

    def check(self, region: Region, done: Callable[[int], Any]) -> Any:
        """Read one region and return its record. `done` is called with the number of the sample up to which it was read."""
        ...

    def finish(self, records: Iterable[Any]) -> ArrayVerdict:
        """Merge the records of all regions, in the order of the plan."""
        ...


def regions(samples: int, unit: int, parts: int) -> list[Region]:
    """Return at most `parts` regions of nearly equal size, each of whole units but the last.

    >>> regions(10, 2, 3)
    [(0, 4), (4, 8), (8, 10)]
    """
    each = -(-samples // (max(1, unit) * parts)) * max(1, unit)
    return [(at, min(at + each, samples)) for at in range(0, samples, max(1, each))]


def performed(check: Check, progress: Any = False) -> ArrayVerdict:
    """Check all of an array in this process. `progress` as `verify` takes it."""
    bar = Progress(progress, check.samples, check.sample_nbytes, 0)
    try:
        return check.finish([check.check(region, bar) for region in check.plan()])
    finally:
        bar.close()
