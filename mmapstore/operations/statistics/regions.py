"""Statistics of samples of a field, read in regions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...batches.dataset import Dataset
from ...batches.opening import open_dataset
from ...plain.channel_statistics import SCRATCH_NBYTES, ChannelStatistics, DifferenceStatistics
from ...plain.errors import DamagedFileError, MmapstoreError
from ...plain.memory_budget import MemoryPlan
from ..flow.regions import Region, Regions
from ..verify.rows import BLOCK_NBYTES, BLOCKS, BOOKKEEPING, read_ahead, rows_together, scratch_nbytes

REGION_NBYTES = 256 << 20  # about; the sample before a region is read with it, and the chunks that it lies in
Statistics = tuple[ChannelStatistics, ChannelStatistics]
"""Of the values, and of x[t+1] - x[t]; the latter without channels where samples have no order."""


@dataclass(frozen=True)
class Pass:
    """One reading of samples of a field: small, picklable, and arithmetic alone."""

    path: str
    given_layout: str | None
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
    def of(
        cls, dataset: Dataset, path: str, layout: str | None, field: str, samples: Region, is_ordered: bool, max_memory: int
    ) -> Pass:
        """Plan to read samples [start, stop) of a field of the opened `path`. Raises MemoryBudgetError."""
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
        regions = Regions(*samples, max(1, REGION_NBYTES // (chunk * max(1, spec.sample_nbytes))) * chunk)
        form = spec.shape, spec.dtype.str, axis
        found = cls(path, layout, field, *form, is_ordered, regions, together, reader.scratch_nbytes)
        vars(found)["dataset"] = dataset  # which is open already
        return found

    @property
    def sample_nbytes(self) -> int:
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @functools.cached_property
    def dataset(self) -> Dataset:
        return open_dataset(self.path, layout=self.given_layout, mapped=False)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "dataset"}

    def for_workers(self) -> Pass:
        return self

    def read(self, region: Region, done: Callable[[int], Any]) -> Statistics:
        """Return the statistics of a region. `done` is called with the number of samples of the pass before the place reached.

        Raises what opening and reading raise; DamagedFileError if the field has another shape or dtype than when it was planned.
        """
        (start, stop), reader, episodes = region, self.dataset.readers.get(self.field), self.dataset.episodes
        if reader is None or (reader.spec.shape, reader.spec.dtype.str) != (self.shape, self.dtype):
            raise DamagedFileError(
                f"{self.path} was changed since its statistics were planned. Call again once nothing writes to it."
            )
        values, differences = ChannelStatistics(), DifferenceStatistics()
        steps = [(at, min(at + self.together, stop)) for at in range(start, stop, self.together)]
        if self.is_ordered and start > self.regions.start and start not in episodes:
            steps.insert(0, (start - 1, start))
        with ThreadPoolExecutor(2, "ThreadPoolExecutor-mmapstore-stats") as threads:
            for first, last, block in read_ahead(reader.within(self.decoding_nbytes), steps, self.together, threads):
                if isinstance(block, MmapstoreError):
                    raise block
                counted: Future[None] | None = threads.submit(values.update, block, self.channel_axis) if first >= start else None
                if self.is_ordered:
                    begin, end = np.searchsorted(episodes, [first, last])
                    differences.update(block, (episodes[begin:end] - first).tolist(), self.channel_axis)
                if counted is not None:
                    counted.result()
                    done(last - self.regions.start)
        return values, differences.statistics

    def merged(self, records: Iterator[Statistics]) -> Statistics:
        found = ChannelStatistics(), ChannelStatistics()
        for record in records:
            for into, more in zip(found, record, strict=True):
                into.merge(more)
        return found
