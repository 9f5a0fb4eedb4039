"""Check an array in regions of its samples: `do` each of them, in any process, any order and more than once; then `finish`."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

from ..flow.engines import THREADS, results
from ..flow.regions import Region, Regions, in_order
from ..progress import Progress
from .verdict import ArrayVerdict

REGION_NBYTES = 256 << 20


@dataclass(frozen=True)
class Check(abc.ABC):
    """The plan of checking one array, or a pair of arrays. It pickles, and so do the records of its regions, which are small."""

    # number of regions at most; a region of less than some leaves of the digest (64 MiB) reads much of the next one too
    most: int = field(default=1, kw_only=True)

    @property
    @abc.abstractmethod
    def samples(self) -> int: ...

    @property
    @abc.abstractmethod
    def sample_nbytes(self) -> int: ...

    @property
    @abc.abstractmethod
    def unit(self) -> int:
        """Samples that no region cuts."""

    @abc.abstractmethod
    def read(self, region: Region, done: Callable[[int], Any]) -> Any:
        """Read a region and return its record. `done` is called with the number of the sample up to which it was read."""

    @abc.abstractmethod
    def verdict(self, records: Iterator[Any]) -> ArrayVerdict:
        """Merge the records of all regions, in their order."""

    def in_regions(self, nbytes: int = 0) -> Self:
        """Return the same check in regions of at least `nbytes`; by default REGION_NBYTES."""
        nbytes = nbytes or REGION_NBYTES
        return replace(self, most=max(1, self.samples * self.sample_nbytes // nbytes))

    @property
    def regions(self) -> Regions:
        return Regions.at_most(self.most, self.samples, self.unit)

    def __len__(self) -> int:
        return len(self.regions)


Perform = Callable[[Check], ArrayVerdict]


def do(check: Check, number: int, done: Callable[[int], Any] = lambda done: None) -> tuple[int, Any]:
    """Check a region, and return its number and its record, which pickles to less than 10 kB of a sound array."""
    return number, check.read(check.regions[number], done)


def finish(check: Check, records: Iterable[tuple[int, Any]]) -> ArrayVerdict:
    """Merge the records of all regions. Raises StateMismatchError for regions without a record."""
    return check.verdict(in_order(records, len(check)))


def performed(check: Check, progress: Any = False, engine: Any = THREADS, memory_nbytes: int = 0) -> ArrayVerdict:
    """Check all of an array, in this process unless an engine is given. `progress` as `verify` takes it.

    `memory_nbytes` : of a region, for engines that reserve memory
    """
    in_parts = check.in_regions() if engine != THREADS else check
    bar = Progress(progress, check.samples, check.sample_nbytes, 0)
    with contextlib.closing(bar):
        if len(in_parts) == 1 or engine == THREADS:
            return finish(check, (do(check, number, bar) for number in range(len(check))))
        records = results(engine, do, in_parts, range(len(in_parts)), memory_nbytes)
        return finish(in_parts, in_parts.regions.counted(records, bar))
