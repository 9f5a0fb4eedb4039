"""Work on an array in regions of its samples, which can be done in any order, more than once, and in many processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from .verdict import ArrayVerdict

Region = tuple[int, int]
Report = Callable[[int, int, int], None]  # samples done, of how many, bytes of one


class Check(Protocol):
    """One array or pair of arrays to check. It pickles, and so do its records, which are small."""

    def plan(self, parts: int = 1) -> list[Region]:
        """Return at most `parts` regions [start, stop) of samples. Arithmetic only."""
        ...

    def check(self, region: Region, report: Report) -> Any:
        """Read one region and return the record of it."""
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


def performed(check: Check, report: Report) -> ArrayVerdict:
    """Check all of an array in this process."""
    return check.finish([check.check(region, report) for region in check.plan()])
