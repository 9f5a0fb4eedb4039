"""One array written in blocks: converted, checked, summed up and recorded, from the first block or from where a kill left it."""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...formats.contract import NewArray, Writer
from ...plain.channel_statistics import SCRATCH_NBYTES, ChannelStatistics
from ...plain.errors import InvalidValueError, MmapstoreError, StateMismatchError
from ...plain.manifest import ArrayManifest
from ...plain.memory_budget import MemoryPlan
from .conversion import Conversion
from .journal import FieldRecord, Journal
from .sources import Array, Source
from .target import FormatModule

BLOCK_NBYTES = 8 << 20  # large enough that calls cost nothing, small enough to stay in cache between reading, checking and writing
CHUNK_NBYTES = 512 << 10
MOST_CHANNELS = 4096  # with more, what is known of each would take more room in the manifest and in memory than it is worth
# What the format's library holds while it writes a block, in blocks (copies, compressed chunks) and in bytes (caches).
_LIBRARY = {"npy_file": (0, 0), "hdf5_file": (1, 10_000_000), "zarr_store": (3, 6_000_000)}
_SMALL_THINGS = 4 * 2**20  # manifest, journal, Python objects, and what malloc rounds up


@dataclass(frozen=True)
class FieldPlan:
    """One array to write: from where, as what, where to, in blocks of how many samples. `limit` ends the source early."""

    source: Source
    conversion: Conversion
    format: str
    module: FormatModule
    path: str
    key: str
    file: str
    compression: str | None
    chunk_samples: int
    block_samples: int
    limit: int | None

    @property
    def samples(self) -> int | None:
        """How many will be written, None if that shows at the end."""
        return self.source.samples if self.limit is None or self.source.samples is None else min(self.limit, self.source.samples)

    @property
    def guess(self) -> int:
        """How many may be written, to reserve space; 0 for no idea."""
        return self.source.guess if self.limit is None else min(self.limit, self.source.guess or self.limit)

    @property
    def block_nbytes(self) -> int:
        return self.block_samples * self.conversion.target.sample_nbytes

    def sum_up(self, statistics: ChannelStatistics, block: Array) -> None:
        """Take a block as written into `statistics`, unless there are too many channels to keep any."""
        axis = self.conversion.channel_axis
        if axis is None or block.shape[axis] <= MOST_CHANNELS:
            statistics.update(block, axis)

    def new_array(self, samples: int) -> NewArray:
        target = self.conversion.target
        attributes = {"layout": target.layout}
        shape = (samples, *target.sample_shape)
        return NewArray(shape, target.dtype, self.compression, self.chunk_samples, attributes, resizable=self.samples is None)

    def memory(self) -> MemoryPlan:
        """Predicted peak of private memory while this array is written."""
        blocks, fixed = _LIBRARY[self.format]
        return MemoryPlan(
            {
                "block being written": self.block_nbytes,
                **self.source.memory(self.block_samples),
                "checks and statistics": SCRATCH_NBYTES + 1_000_000,
                "format library": blocks * max(self.block_nbytes, self.chunk_samples * self.conversion.target.sample_nbytes)
                + fixed,
                "bookkeeping": _SMALL_THINGS,
            }
        )


def chunk_samples_for(conversion: Conversion, samples: int | None) -> int:
    """Whole samples, about 512 KiB of them."""
    fitting = max(1, CHUNK_NBYTES // max(1, conversion.target.sample_nbytes))
    return fitting if samples is None else max(1, min(fitting, samples))


def block_samples_for(conversion: Conversion, chunk_samples: int, max_memory: int) -> int:
    """Whole chunks, about 8 MiB of them or a quarter of `max_memory`, the smaller; never less than one chunk."""
    sample_nbytes = max(1, conversion.target.sample_nbytes, conversion.source.sample_nbytes)
    fitting = max(1, min(BLOCK_NBYTES, max_memory // 4) // sample_nbytes)
    return max(chunk_samples, fitting // chunk_samples * chunk_samples)


def write_field(plan: FieldPlan, record: FieldRecord, journal: Journal, report: Callable[[int], None]) -> ChannelStatistics:
    """Write what is missing of one array, and leave the file closed and on disk.

    `record` tells what is complete; blocks it names are read back, and those after one that does not match are written again.
    Whatever stops this, an exception or a kill, `journal` names the last block to go on from.
    """
    statistics = ChannelStatistics()
    writer = _reopened(plan, record, statistics)
    if writer is None:
        record.checksums, record.samples, record.starts, record.done = [], 0, [], False
        statistics = ChannelStatistics()
        journal.write()
        _remove(plan.path)
        writer = plan.module.create(plan.path, plan.key or None, plan.new_array(plan.guess or plan.block_samples))
    try:
        if not record.done:
            report(record.samples)
            try:
                _write_rest(plan, record, journal, writer, statistics, report)
            except BaseException:
                # The reason is what the caller should see, also where what was written cannot be recorded any more.
                with contextlib.suppress(MmapstoreError, OSError):
                    writer.flush()
                    journal.write()
                raise
            writer.flush()
            record.done = True
            journal.write()
        writer.truncate(record.samples)
        writer.flush()
    except BaseException:
        with contextlib.suppress(MmapstoreError, OSError, RuntimeError, ValueError):
            writer.close()
        raise
    writer.close()
    return statistics


def _reopened(plan: FieldPlan, record: FieldRecord, statistics: ChannelStatistics) -> Writer | None:
    """A writer for what an interrupted call left, `record` cut down to the blocks that are right; None to start from nothing."""
    if not record.checksums or not os.path.lexists(plan.path):
        return None
    held = record.samples if record.done or plan.samples is None else plan.samples
    try:
        writer = plan.module.reopen(plan.path, plan.key or None, plan.new_array(held))
    except (MmapstoreError, OSError):
        return None  # killed while the library had its own bookkeeping half written: no block can be trusted
    right = 0
    for number, checksum in enumerate(record.checksums):
        start = number * plan.block_samples
        stop = min(start + plan.block_samples, record.samples)
        try:
            block = writer.read(start, stop)
        except (MmapstoreError, OSError):
            break
        if _checksum(block) != checksum:
            break
        plan.sum_up(statistics, block)
        right = number + 1
    if right < len(record.checksums):
        record.checksums = record.checksums[:right]
        record.samples = right * plan.block_samples
        record.done = False
    if right == 0:
        writer.close()
        return None
    return writer


def _write_rest(
    plan: FieldPlan,
    record: FieldRecord,
    journal: Journal,
    writer: Writer,
    statistics: ChannelStatistics,
    report: Callable[[int], None],
) -> None:
    complete = record.samples
    at = complete if plan.source.gives_from_any_sample else 0
    begun = [start for start in record.starts if start <= at]
    record.starts = [start for start in record.starts if start < at]
    with ThreadPoolExecutor(1, "mmapstore statistics") as beside:
        for block in _blocks(plan, at, begun, record.starts):
            if at < complete:
                # An iterable gives its first samples once more: they have to be those that were written.
                if _checksum(block) != record.checksums[at // plan.block_samples]:
                    raise _other_samples(plan, journal, at)
                at += len(block)
                continue
            summed = beside.submit(plan.sum_up, statistics, block)
            checksum = _checksum(block)
            writer.write(at, block)
            summed.result()
            record.checksums.append(checksum)
            at += len(block)
            record.samples = at
            report(at)
            if journal.is_due(block.nbytes):
                writer.flush()
                journal.write()
    if at < complete:
        raise _other_samples(plan, journal, at)
    if at == 0:
        raise InvalidValueError(f"{plan.source.name} gave no samples; there is nothing to write. Check the source.")


def _other_samples(plan: FieldPlan, journal: Journal, at: int) -> StateMismatchError:
    return StateMismatchError(
        f"{plan.source.name} gives other samples than those that were written before the interruption, from sample {at} on. "
        f"Give the same ones again, or pass resume=False (--no-resume) to start {journal.target.path} from the beginning."
    )


def _checksum(block: Array) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data):08x}"


def _blocks(plan: FieldPlan, start: int, begun: list[int], starts: list[int]) -> Iterator[Array]:
    """Whole blocks as they are written, and one shorter at the end; `starts` grows by the episodes that begin in them.

    A block is a view of the source where nothing has to be changed, else of a buffer that the next block uses again.
    """
    conversion, most = plan.conversion, plan.block_samples
    buffer: Array | None = None
    filled = 0
    at = start
    for piece in plan.source.pieces(start, begun, most):
        samples = piece.samples
        if plan.limit is not None:
            samples = samples[: max(0, plan.limit - at)]
        starts.extend(at + offset for offset in piece.starts if offset < len(samples))
        while len(samples):
            if filled == 0 and len(samples) >= most and conversion.is_written_as_it_comes(samples):
                yield samples[:most]
                count = most
            else:
                if buffer is None:
                    buffer = np.empty((most, *conversion.target.sample_shape), conversion.target.dtype)
                count = min(len(samples), most - filled)
                conversion.into(buffer[filled : filled + count], samples[:count], at)
                filled += count
                if filled == most:
                    yield buffer
                    filled = 0
            at += count
            samples = samples[count:]
        if plan.limit is not None and at >= plan.limit:
            break
    if filled and buffer is not None:
        yield buffer[:filled]


def array_manifest(plan: FieldPlan, record: FieldRecord, statistics: ChannelStatistics) -> ArrayManifest:
    target = plan.conversion.target
    return ArrayManifest(
        file=plan.file,
        key=plan.key,
        shape=(record.samples, *target.sample_shape),
        dtype=target.dtype.str,
        layout=target.layout,
        episodes=(*record.starts, record.samples),
        block_samples=plan.block_samples,
        checksums=tuple(record.checksums),
        statistics=statistics.to_json() if statistics.channels else None,
        source=plan.source.name,
    )


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def call_of(plan: FieldPlan) -> dict[str, Any]:
    """What a resumed call has to have in common with the one that was interrupted, as plain JSON."""
    target = plan.conversion.target
    return {
        "source": plan.source.fingerprint,
        "sample shape": list(target.sample_shape),
        "dtype": target.dtype.str,
        "layout": f"{plan.conversion.source.layout} to {target.layout}",
        "compression": plan.compression,
        "chunk_samples": plan.chunk_samples,
        "samples": plan.limit,
    }
