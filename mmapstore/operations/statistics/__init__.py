"""Statistics of the values of each channel, and of their change from one sample to the next."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...batches.dataset import Dataset
from ...batches.labels import class_words, is_label, label_field
from ...batches.opening import open_dataset
from ...batches.split import split_points
from ...plain.channel_statistics import ChannelStatistics, DifferenceStatistics, difference_nbytes
from ...plain.channel_statistics import scratch_nbytes as statistics_nbytes
from ...plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError, MmapstoreError
from ...plain.memory_budget import MemoryPlan, parse_bytes
from ..flow import engines
from ..flow.regions import Region, Regions
from ..verify.manifest_check import Described, described_arrays
from ..verify.regions import performed
from ..verify.rows import BLOCK_NBYTES, BLOCKS, BOOKKEEPING, read_ahead, rows_together, scratch_nbytes

REGION_NBYTES = 256 << 20  # about; the sample before a region is read with it, and the chunks that it lies in
Statistics = tuple[ChannelStatistics, ChannelStatistics]
"""Of the values, and of x[t+1] - x[t]; the latter without channels where samples have no order."""
_PART_NAMES = {2: ("train", "val"), 3: ("train", "val", "test")}


@dataclass(frozen=True)
class FieldStatistics:
    """Statistics of one field, or of a part of its samples."""

    field: str  # its name; "data" where there is one field without a name
    part: str  # "train", "val" ... of a split; "" for all samples
    samples: tuple[int, int]  # [first, last + 1)
    # sample_shape, dtype, layout: of the field; `layout` begins with "N"
    sample_shape: tuple[int, ...]
    dtype: str
    layout: str
    values: ChannelStatistics  # statistics of each channel; without channels for labels that are text
    # statistics of x[t+1] - x[t] within episodes; without channels for labels, and for samples in mixed order
    differences: ChannelStatistics
    origin: str  # source of these figures, in words
    classes: str = ""  # the number of samples of each class, in words; "" for fields that hold no labels

    @property
    def change(self) -> float | None:
        """Mean squared x[t+1] - x[t]: the error of a model that predicts no change. None where it is not finite."""
        found, count = self.differences, self.differences.count
        if not found.channels or not count.sum():
            return None
        mean = float((np.where(count > 0, found.mean**2 + found.std**2, 0) * count).sum() / count.sum())
        return mean if np.isfinite(mean) else None

    def keras_line(self) -> str:
        """The layer that brings these values to mean 0 and variance 1; "" where they have no finite mean."""
        mean, variance = self.values.mean, self.values.std**2
        if self.classes or not len(mean) or not np.isfinite(mean).all() or not np.isfinite(variance).all():
            return ""
        if "C" not in self.layout:
            return f"keras.layers.Normalization(axis=None, mean={mean[0]:.6g}, variance={variance[0]:.6g})"
        listed = [", ".join(f"{x:.6g}" for x in values.tolist()) for values in (mean, variance)]
        return f"keras.layers.Normalization(axis={self.layout.index('C')}, mean=[{listed[0]}], variance=[{listed[1]}])"

    def to_json(self) -> dict[str, Any]:
        return {
            "field": self.field,
            "part": self.part,
            "samples": list(self.samples),
            "sample_shape": list(self.sample_shape),
            "dtype": self.dtype,
            "layout": self.layout,
            "values": self.values.to_json(),
            "difference": self.differences.to_json() if self.differences.channels else None,
            "origin": self.origin,
            "keras": self.keras_line(),
            **({"classes": self.classes} if self.classes else {}),
        }


def statistics_at(
    path: str | os.PathLike[str],
    *,
    split: Sequence[float] = (),
    layout: str | None = None,
    recompute: bool = False,
    max_memory: int | str = "256MB",
    progress: Callable[[int, int | None], Any] | bool | None = None,
    engine: Any = engines.THREADS,
) -> list[FieldStatistics]:
    """Return count, NaNs, minimum, maximum, mean and standard deviation of each channel, and of the change to the next sample.

    The figures come from the manifest where it has them for all samples and the data was not changed since, else from one pass
    over the data. A field of labels has the number of samples of each class, and no change to the next sample; nor has any field
    of samples that ingest mixed. Fields of bytes are skipped, unless they hold labels.

    Parameters
    ----------
    path : what `mmapstore.open` takes
    split : fractions or counts as `Dataset.split` takes them, for statistics of each part by itself
    layout : axes of the stored array, where neither its manifest nor the number of axes says so
    recompute : read the data, even if the manifest has its statistics
    max_memory : upper bound of private memory
    progress : None shows a bar on a terminal, False nothing; a function is called with (samples done, samples)
    engine : "threads" of this process; "processes", "dask", the address of a Dask scheduler, or any object with `map(fn, items)`,
        as in `convert`: arrays of more than 256 MB are read in regions, and `max_memory` is for each worker

    Raises what `mmapstore.open` raises; InvalidTypeError if no field holds numbers; MemoryBudgetError.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(os.path.join(folder, "x.npy"), np.arange(12.0).reshape(6, 2))
    ...     (found,) = statistics_at(os.path.join(folder, "x.npy"))
    >>> found.values.mean.tolist(), found.differences.mean.tolist(), found.change
    ([5.0, 6.0], [2.0, 2.0], 4.0)
    >>> print(found.keras_line())
    keras.layers.Normalization(axis=1, mean=[5, 6], variance=[11.6667, 11.6667])
    """
    budget, source = parse_bytes(max_memory), os.fspath(path)
    dataset = open_dataset(source, layout=layout, mapped=False)
    points = split_points(len(dataset), tuple(split), 0, "samples") if split else [(0, len(dataset))]
    names = _PART_NAMES.get(len(points)) or tuple(f"part {number + 1}" for number in range(len(points)))
    described = {} if split or layout or recompute else _described(source)
    label, labels = label_field(dataset) or ("", None)
    found, passes = list[FieldStatistics](), dict[int, Pass]()
    for field, reader in dataset.readers.items():
        spec = reader.spec
        if spec.dtype.kind not in "biuf" and field != label:
            continue
        is_ordered = not dataset.mixed and not _holds_labels(dataset, field, label)
        kept, why_not = _from_manifest(described.get(field) or described.get(""), len(spec), is_ordered)
        for (start, stop), name in zip(points, names, strict=True):
            classes = class_words(field, labels.part(start, stop)) if labels is not None and field == label else ""
            figures = kept or (ChannelStatistics(), ChannelStatistics(), "counted in the data")
            if kept is None and spec.dtype.kind != "S":
                passes[len(found)] = Pass.of(dataset, source, layout, field, (start, stop), is_ordered, budget)
                figures = *figures[:2], f"computed from the data{why_not}"
            part = name if split else ""
            found.append(
                FieldStatistics(field, part, (start, stop), spec.sample_shape, str(spec.dtype), spec.layout, *figures, classes)
            )
    if not found:
        raise InvalidTypeError(f"{source} holds no numbers, so it has no statistics; expected bool, integers or floats.")
    with engines.opened(engine) as workers:
        for number, each in passes.items():
            values, differences = performed(each, progress, workers, budget)
            found[number] = replace(found[number], values=values, differences=differences)
    return found


def _holds_labels(dataset: Dataset, field: str, label: str) -> bool:
    """True for the field `label`, fields with class names, and fields of whole numbers that are surely called like labels."""
    is_named = field in dataset.notes and bool(dataset.notes[field].classes)
    is_whole = dataset.readers[field].spec.dtype.kind in "biu" and not dataset.readers[field].spec.sample_shape
    return field == label or is_named or (is_whole and is_label(field, surely=True))


def _described(path: str) -> dict[str, Described]:
    try:
        found = described_arrays(path)
    except MmapstoreError:
        return {}  # opening has said what is wrong where it matters
    if len(found) == 1:
        return {"": found[0]}
    return {each.name.partition("::/")[2]: each for each in found}


def _from_manifest(
    each: Described | None, samples: int, is_ordered: bool
) -> tuple[tuple[ChannelStatistics, ChannelStatistics, str] | None, str]:
    """Return values, differences (of ordered samples) and their origin; or None, and the reason why the manifest has none."""
    if each is None or each.entry.statistics is None or each.entry.shape[0] != samples:
        return None, ""
    if _changed_at(each.path) > Path(each.where).stat().st_mtime_ns:
        return None, ", which was changed after its manifest was written"
    try:
        kept = dict(each.entry.statistics)
        change = kept.pop("difference", None)
        if change is None and samples > 1 and is_ordered:
            return None, ": its manifest says nothing of how samples change"
        differences = ChannelStatistics.from_json(change) if change is not None and is_ordered else ChannelStatistics()
        return (ChannelStatistics.from_json(kept), differences, f"from {each.where}, written with the data"), ""
    except (InvalidValueError, TypeError, ValueError):
        return None, ": what its manifest has is damaged"


def _changed_at(path: str) -> int:
    """Return when the file, or a file of the store, was last changed, in nanoseconds."""
    found = Path(path)
    files = [file for file in found.rglob("*") if file.is_file()] if found.is_dir() else [found]
    return max((file.stat().st_mtime_ns for file in files), default=0)


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
        axis = spec.layout.index("C") if "C" in spec.layout else None
        channels = 1 if axis is None else spec.shape[axis]
        changes = difference_nbytes(spec.dtype, channels) + 2 * spec.sample_nbytes if is_ordered else 0
        parts = {
            "blocks read": min(BLOCKS * together, samples[1] - samples[0] + 1) * spec.sample_nbytes,
            "statistics": statistics_nbytes(spec.dtype, channels) + changes,
            "bookkeeping": BOOKKEEPING,
        }
        reader = reader.within(max_memory - sum(parts.values()))
        parts["decoding"] = scratch_nbytes(reader, together, samples[0])
        MemoryPlan(parts).require(max_memory, f"Statistics of {path}", "Give a larger max_memory= (--max-memory).")
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
