"""Statistics of a dataset in regions of its samples: planned, done in any process, any order and more than once, finished."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...batches.dataset import Dataset
from ...batches.opening import open_dataset
from ...plain.channel_statistics import SCRATCH_NBYTES, ChannelStatistics, DifferenceStatistics
from ...plain.errors import DamagedFileError, InvalidValueError, MmapstoreError
from ...plain.memory_budget import MemoryPlan
from ..flow.regions import Region, Regions, in_order
from ..verify.rows import BLOCK_NBYTES, BLOCKS, BOOKKEEPING, read_ahead, rows_together, scratch_nbytes

REGION_NBYTES = 256 << 20  # about; the sample before a region is read with it, and the chunks that it lies in
Statistics = tuple[ChannelStatistics, ChannelStatistics]
"""Of the values, and of x[t+1] - x[t]; the latter without channels where samples have no order."""


@dataclass(frozen=True)
class Pass:
    """One reading of samples of a field."""

    field: str
    shape: tuple[int, ...]  # of all its samples, as they are read
    dtype: str
    channel_axis: int | None  # in `shape`; None makes it one channel
    is_ordered: bool  # the change from each sample to the next has statistics
    # of the samples to read; their length does not depend on the memory, so that sums are merged in one order always
    regions: Regions
    together: int  # samples read at a time
    decoding_nbytes: int  # of memory that decoding may take

    @classmethod
    def of(cls, dataset: Dataset, path: str, field: str, samples: Region, is_ordered: bool, max_memory: int) -> Pass:
        """Plan to read samples [start, stop) of a field. Raises MemoryBudgetError."""
        reader = dataset.readers[field]
        spec = reader.spec
        together = rows_together(reader, min(BLOCK_NBYTES, max_memory // 8), max_memory // 4)
        parts = {
            "blocks read": min(BLOCKS * together, samples[1] - samples[0] + 1) * spec.sample_nbytes,
            "statistics": 2 * SCRATCH_NBYTES + 2 * spec.sample_nbytes,
            "bookkeeping": BOOKKEEPING,
        }
        reader = reader.within(max_memory - sum(parts.values()))
        parts["decoding"] = scratch_nbytes(reader, together, samples[0])
        MemoryPlan(parts).require(max_memory, f"Statistics of {path}", "Give a larger max_memory= (--max-memory).")
        axis = spec.layout.index("C") if "C" in spec.layout else None
        chunk = max(1, reader.decoded_together)
        length = max(1, REGION_NBYTES // (chunk * max(1, spec.sample_nbytes))) * chunk
        return cls(field, spec.shape, spec.dtype.str, axis, is_ordered, Regions(*samples, length), together, reader.scratch_nbytes)


@dataclass(frozen=True)
class Plan:
    """Statistics to compute: small, picklable, and arithmetic alone. Its regions are those of all passes, in their order."""

    path: str
    layout: str | None
    passes: tuple[Pass, ...]

    def __len__(self) -> int:
        return sum(len(each.regions) for each in self.passes)

    def region(self, number: int) -> tuple[Pass, Region]:
        """Return the pass that a region belongs to, and its samples. Raises InvalidValueError for a region that there is not."""
        left = number
        for each in self.passes:
            if 0 <= left < len(each.regions):
                return each, each.regions[left]
            left -= len(each.regions)
        raise InvalidValueError(f"Region {number} is asked for; expected one of 0 to {len(self) - 1}.")

    @functools.cached_property
    def dataset(self) -> Dataset:
        return open_dataset(self.path, layout=self.layout, mapped=False)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "dataset"}


def do(plan: Plan, number: int, done: Callable[[int], Any] = lambda samples: None) -> tuple[int, Statistics]:
    """Read a region, and return its number and its statistics. `done` is called with the number of samples of the pass that
    lie before the place up to which it was read.

    Raises what opening and reading raise; DamagedFileError if the field has another shape or dtype than when it was planned.
    """
    each, (start, stop) = plan.region(number)
    reader, episodes = plan.dataset.readers.get(each.field), plan.dataset.episodes
    if reader is None or (reader.spec.shape, reader.spec.dtype.str) != (each.shape, each.dtype):
        raise DamagedFileError(f"{plan.path} was changed since its statistics were planned. Call again once nothing writes to it.")
    values, differences = ChannelStatistics(), DifferenceStatistics()
    steps = [(at, min(at + each.together, stop)) for at in range(start, stop, each.together)]
    if each.is_ordered and start > each.regions.start and start not in episodes:
        steps.insert(0, (start - 1, start))
    with ThreadPoolExecutor(2, "ThreadPoolExecutor-mmapstore-stats") as threads:
        for first, last, block in read_ahead(reader.within(each.decoding_nbytes), steps, each.together, threads):
            if isinstance(block, MmapstoreError):
                raise block
            counted: Future[None] | None = threads.submit(values.update, block, each.channel_axis) if first >= start else None
            if each.is_ordered:
                begin, end = np.searchsorted(episodes, [first, last])
                differences.update(block, (episodes[begin:end] - first).tolist(), each.channel_axis)
            if counted is not None:
                counted.result()
                done(last - each.regions.start)
    return number, (values, differences.statistics)


def finish(plan: Plan, records: Iterable[tuple[int, Statistics]]) -> list[Statistics]:
    """Merge the records of all regions into the statistics of each pass. Raises StateMismatchError for regions without a record."""
    found = [(ChannelStatistics(), ChannelStatistics()) for _ in plan.passes]
    merged = (into for into, each in zip(found, plan.passes, strict=True) for _ in range(len(each.regions)))
    for more, into in zip(in_order(records, len(plan)), merged, strict=True):
        into[0].merge(more[0])
        into[1].merge(more[1])
    return found
