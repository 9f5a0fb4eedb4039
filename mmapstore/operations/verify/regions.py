"""Read an array in regions of its samples: `do` each of them, in any process, any order and more than once; then `finish`."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, TypeVar

from ..flow.engines import THREADS, results
from ..flow.regions import Region, Regions, in_order
from ..progress import Progress
from .verdict import ArrayVerdict

REGION_NBYTES = 256 << 20
R_co = TypeVar("R_co", covariant=True)


class Reading(Protocol[R_co]):
    """The plan of one reading. It pickles, and so do the records of its regions, each to less than 10 kB of a sound array."""

    @property
    def regions(self) -> Regions: ...

    @property
    def sample_nbytes(self) -> int: ...

    def for_workers(self) -> Self:
        """Return the same reading in regions that are large enough for a task of their own."""

    def read(self, region: Region, done: Callable[[int], Any]) -> Any:
        """Read a region and return its record. `done` is called with the number of samples before the place reached."""

    def merged(self, records: Iterator[Any]) -> R_co:
        """Return the result of the records of all regions, in their order."""


@dataclass(frozen=True)
class Check(abc.ABC):
    """The plan of checking one array, or a pair of arrays."""

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

    def for_workers(self) -> Self:
        return replace(self, most=max(1, self.samples * self.sample_nbytes // REGION_NBYTES))

    @property
    def regions(self) -> Regions:
        return Regions.at_most(self.most, self.samples, self.unit)


Perform = Callable[[Reading[ArrayVerdict]], ArrayVerdict]


def do(reading: Reading[Any], number: int, done: Callable[[int], Any] = lambda done: None) -> tuple[int, Any]:
    """Read a region, and return its number and its record."""
    return number, reading.read(reading.regions[number], done)


def finish(reading: Reading[R_co], records: Iterable[tuple[int, Any]]) -> R_co:
    """Merge the records of all regions. Raises StateMismatchError for regions without a record."""
    return reading.merged(in_order(records, len(reading.regions)))


def performed(reading: Reading[R_co], progress: Any = False, engine: Any = THREADS, memory_nbytes: int = 0) -> R_co:
    """Read all regions, in this process unless an engine is given. `progress` as `verify` takes it.

    `memory_nbytes` : of a region, for engines that reserve memory
    """
    reading = reading if engine == THREADS else reading.for_workers()
    regions = reading.regions
    with contextlib.closing(Progress(progress, regions.stop - regions.start, reading.sample_nbytes, 0)) as bar:
        if engine == THREADS or len(regions) == 1:
            return finish(reading, (do(reading, number, bar) for number in range(len(regions))))
        return finish(reading, regions.counted(results(engine, do, reading, range(len(regions)), memory_nbytes), bar))
