"""Write all fields of a source together, from where an interruption left them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Generator, Iterator, Mapping

import numpy as np

from ...files import durable_writes
from ...files.process_memory import give_back_freed_memory
from ...files.system_errors import explaining_write_errors
from ...formats.contract import Writer
from ...plain.digest_leaves import leaves_of
from ...plain.errors import DamagedFileError, InvalidValueError, MmapstoreError, StateMismatchError
from ...plain.manifest import ArrayManifest
from ..flow.copying import Block, Note, Sink, checksum_of, copy, read_back, require_same
from ..flow.journal import Journal
from ..flow.record import Record
from ..flow.regions import Region, Regions
from ..flow.tally import Tally
from ..flow.target import Target
from .contract import Array, Position
from .plan import FieldPlan, WritePlan
from .sources import starts_between

_MOST_CHUNKS = 1 << 15  # written before the files are opened anew


def write_fields(plan: WritePlan, journal: Journal, report: Callable[[int], None]) -> dict[str, Tally]:
    """Write what is missing of all fields, and leave the files closed and on disk.

    The record of `journal` tells what is complete; blocks it names are read back, and those after one that does not match are
    written again. Whatever stops this, an exception or a kill, the journal names the last block to resume from.
    """
    record: Record = journal.record
    tallies = tallies_of(plan)
    recorded, fields = record.blocks, _reopened(plan, record, tallies)
    if fields is None:
        record.keep(0, 0)
        record.starts, record.skipped = [], []
        tallies = tallies_of(plan)
        if recorded:
            journal.rewrite()
        for field in plan.fields.values():
            if plan.before is None or not plan.before.in_place:
                durable_writes.remove(field.place.path)
        fields = _created(plan, record)
    with fields:
        if not record.done:
            report(record.samples)
            after = _position(plan, record)
            record.starts = [start for start in record.starts if start < after.samples]
            record.skipped = record.skipped[: len(after.skipped)]
            if record.blocks:
                journal.rewrite()
            copy(_missing(plan, after, journal), fields, tallies, journal, report, note=functools.partial(_require_unchanged, plan))
            record.done = True
            journal.write()
    _cut_to_length(plan, record)
    return tallies


def create_fields(plan: WritePlan, target: Target) -> None:
    """Have the arrays of all fields on disk, of whatever values."""
    for field in plan.fields.values():
        durable_writes.remove(field.place.path)
    _created(plan, Record()).close()
    with explaining_write_errors(target.partial):
        durable_writes.sync_tree(target.partial)


def close_fields(plan: WritePlan, record: Record) -> None:
    """Remove files that killed processes left between those of the fields."""
    for field in plan.fields.values():
        _reopen(dataclasses.replace(field, is_shared=False), plan, record).close()


def write_region(plan: WritePlan, journal: Journal, region: Region, tallies: Mapping[str, Tally], note: Note) -> None:
    """Write samples [start, stop) of all fields to arrays that exist, and read them back. `journal` and `tallies` are new.

    `note` is called before each block is written, as `copy` does.

    Raises WriteError if the disk gives something else back than was written, DamagedFileError for a source that ends early.
    """
    record, (start, stop) = journal.record, region
    if start:
        record.starts.append(0)  # of an episode that may go on
        before = dataclasses.replace(plan, block_samples=1, limit=start)
        with contextlib.closing(blocks_of(before, Position(start - 1), Record())) as last:
            for values in last:
                for name, tally in tallies.items():
                    tally.digest.update(values[name][:0], start * values[name].size)
                    if tally.is_counted:
                        tally.count_differences(values[name], ())
    with _Fields(plan, record) as fields:
        for name, field in plan.fields.items():
            fields.writers[name] = _reopen(field, plan, record)
        blocks = _missing(dataclasses.replace(plan, limit=stop), Position(start), journal)
        copy(blocks, fields, tallies, journal, lambda done: None, note=note)
        if record.samples != stop:
            raise DamagedFileError(
                f"{plan.source.name} ended at sample {record.samples} of {plan.samples}: it was changed meanwhile."
            )
        give_back_freed_memory()  # of the threads that wrote: malloc keeps some for each
        for number, at in enumerate(range(start, stop, plan.block_samples)):
            boxes = _boxes(plan, at, min(at + plan.block_samples, stop))
            for name, found in fields.read(Block(boxes, stop)).items():
                checksum = record.checksums[name][number]
                require_same(journal.output.path, boxes[name], checksum, found, tallies[name].digest.dtype)
    del record.starts[: start > 0]
    _end_digests(plan, tallies)


def hash_cut_leaves(plan: WritePlan, regions: Regions, number: int, tallies: Mapping[str, Tally]) -> None:
    """Hash the leaves that the end of a region cuts, and the end of none before it, as the target has them."""
    cut, cut_before = regions[number][1], regions[number - 1][1] if number else 0
    for name, field in plan.fields.items():
        values, digest = math.prod(field.conversion.target.sample_shape), tallies[name].digest
        run = leaves_of((), digest.dtype.itemsize).run
        first = cut * values // run * run
        if first == cut * values or first < cut_before * values:
            continue
        with Sink({name: _reopen(field, plan, Record())}) as sink:
            at = first // values // plan.block_samples * plan.block_samples
            while at < regions.stop and at * values < first + run:
                digest.update(found := sink.writers[name].read(at, min(at + plan.block_samples, regions.stop)), at * values)
                at += len(found)
    _end_digests(plan, tallies)


def _end_digests(plan: WritePlan, tallies: Mapping[str, Tally]) -> None:
    """Take the last leaf of a digest, which ends where the array does, for whole."""
    for name, field in plan.fields.items():
        tallies[name].digest.of((plan.samples or 0, *field.conversion.target.sample_shape))


def tallies_of(plan: WritePlan) -> dict[str, Tally]:
    """Return the tally of each field, before the first block."""
    known = plan.before.leaves if plan.before is not None else {}
    return {
        name: Tally(field.conversion.target.dtype, field.conversion.channel_axis, field.is_counted, known.get(name))
        for name, field in plan.fields.items()
    }


# --- files ---------------------------------------------------------------------------------------------------------------


class _Fields(Sink):
    """The arrays of all fields, open for writing."""

    def __init__(self, plan: WritePlan, record: Record) -> None:
        super().__init__({})
        self._plan, self._record, self._chunks = plan, record, 0

    def write(self, block: Block) -> None:
        for name, values in block.values.items():
            self.writers[name].write(block.boxes[name][0].start, values)
            self._chunks += -(-len(values) // self._plan.fields[name].chunk_samples)

    def read(self, block: Block) -> Mapping[str, Array]:
        return {name: writer.read(block.boxes[name][0].start, block.boxes[name][0].stop) for name, writer in self.writers.items()}

    def flush(self) -> None:
        super().flush()
        if self._chunks > _MOST_CHUNKS and len(self.writers) > 1:
            self.close()  # HDF5 keeps the index of a file in memory as long as any dataset of it is open
            for name, field in self._plan.fields.items():
                self.writers[name] = _reopen(field, self._plan, self._record)
            self._chunks = 0


def _created(plan: WritePlan, record: Record) -> _Fields:
    samples = plan.samples if plan.samples is not None else plan.guess or plan.block_samples
    fields = _Fields(plan, record)
    try:
        for name, field in plan.fields.items():
            new = field.new_array(samples, resizable=plan.samples is None)
            fields.writers[name] = field.place.writing.create(field.place.path, field.place.key or None, new)
    except BaseException:
        fields.close(quietly=True)
        raise
    return fields


def _reopened(plan: WritePlan, record: Record, tallies: Mapping[str, Tally]) -> _Fields | None:
    """Open the arrays of an interrupted call, and cut `record` down to the blocks that are right; None to start from nothing."""
    if not record.blocks:
        return None
    in_place = plan.before is not None and plan.before.in_place
    fields = _Fields(plan, record)
    try:
        for name, field in plan.fields.items():
            if not os.path.lexists(field.place.path):
                raise FileNotFoundError(field.place.path)
            fields.writers[name] = _reopen(field, plan, record)
    except (MmapstoreError, OSError):
        fields.close(quietly=True)
        if in_place:
            raise
        return None  # never made, or killed while the library had its own bookkeeping half written: no block can be trusted
    try:
        right = read_back(_recorded(plan, record), record, fields.read, tallies)
        if plan.before is not None and in_place and right < plan.before.samples // plan.before.block_samples:
            raise damaged(next(iter(plan.before.entries.values())), right * record.block_samples)
    except BaseException:
        fields.close(quietly=True)
        raise
    record.keep(right, right * record.block_samples)
    if right == 0:
        fields.close(quietly=True)
        return None
    return fields


def _recorded(plan: WritePlan, record: Record) -> Iterator[Block]:
    for number in range(record.blocks):
        start = number * record.block_samples
        stop = min(start + record.block_samples, record.samples)
        yield Block(_boxes(plan, start, stop), stop, starts=starts_between(record.starts, start, stop))


def _boxes(plan: WritePlan, start: int, stop: int) -> dict[str, tuple[slice, ...]]:
    """The samples [start, stop) of each field."""
    shapes = {name: field.conversion.target.sample_shape for name, field in plan.fields.items()}
    return {name: (slice(start, stop), *(slice(0, length) for length in shape)) for name, shape in shapes.items()}


def _reopen(field: FieldPlan, plan: WritePlan, record: Record) -> Writer:
    announced = plan.samples if plan.samples is not None else record.samples
    forms = [(announced, plan.samples is None)]
    if record.done and record.samples != announced:
        forms.append((record.samples, False))  # it may have been cut already
    if plan.before is not None and not plan.before.in_place:
        forms.insert(0, (announced, True))  # what was copied is as long as it was
    for samples, resizable in forms[:-1]:
        with contextlib.suppress(StateMismatchError):
            return _reopen_as(field, samples, resizable)
    return _reopen_as(field, *forms[-1])


def _reopen_as(field: FieldPlan, samples: int, resizable: bool) -> Writer:
    return field.place.writing.reopen(field.place.path, field.place.key or None, field.new_array(samples, resizable))


def _cut_to_length(plan: WritePlan, record: Record) -> None:
    """Shorten what was announced, or guessed, to be longer than it turned out. One file at a time is open: HDF5 may rewrite it."""
    if plan.samples == record.samples:
        return
    for name, field in plan.fields.items():
        with Sink({name: _reopen(field, plan, record)}) as cut:
            cut.writers[name].truncate(record.samples)
            cut.flush()


# --- blocks --------------------------------------------------------------------------------------------------------------


def _position(plan: WritePlan, record: Record) -> Position:
    """Return the position that the source resumes from: behind the complete samples, or where it begins if it gives them once."""
    at, again = record.samples, not plan.source.gives_from_any_sample
    if again:  # at its first sample; behind old ones, at the block where these end
        at = 0 if plan.before is None else min(record.samples, plan.before.complete)
    # The source names an item again that was skipped right before a sample that it gives again.
    known = [name for before, name in record.skipped if (before < at if again else before <= at)]
    return Position(at, [start for start in record.starts if start <= at], known)


def _missing(plan: WritePlan, after: Position, journal: Journal) -> Generator[Block]:
    """The blocks that are not complete. An iterable gives its first samples once more: they have to be those that were written."""
    record: Record = journal.record
    complete, at = record.samples, after.samples
    with contextlib.closing(blocks_of(plan, after, record)) as arriving:
        for values in arriving:
            first, at = at, at + len(next(iter(values.values())))
            if first >= complete:
                yield Block(_boxes(plan, first, at), at, values, starts_between(record.starts, first, at))
                continue
            number = first // plan.block_samples
            if any(checksum_of(block) != record.checksums[name][number] for name, block in values.items()):
                raise _other_samples(plan, journal, first)
    if at < complete:
        raise _other_samples(plan, journal, at)
    if at == 0:
        raise InvalidValueError(f"{plan.source.name} gave no samples; there is nothing to write. Check the source.")


def _require_unchanged(plan: WritePlan, block: Block, checksums: Mapping[str, str]) -> None:
    """Raise DamagedFileError for a block of old samples, read from the store that is appended to, with another checksum."""
    before = plan.before
    if before is not None and block.samples <= before.samples // before.block_samples * before.block_samples:
        for name, entry in before.entries.items():
            at = block.boxes[name][0].start
            if entry.checksums[at // before.block_samples] != checksums[name]:
                raise damaged(entry, at)


def damaged(entry: ArrayManifest, sample: int) -> DamagedFileError:
    """Return the error for a store to be appended to that is not what was written."""
    return DamagedFileError(
        f"{entry.file}{f'::/{entry.key}' if entry.key else ''} is not what was written: its samples from {sample} on do not match "
        "their checksum. Nothing was appended; restore it, or ingest it again."
    )


def _other_samples(plan: WritePlan, journal: Journal, at: int) -> StateMismatchError:
    return StateMismatchError(
        f"{plan.source.name} gives other samples than those that were written before the interruption, from sample {at} on. "
        f"Give the same ones again, or pass resume=False (--no-resume) to start {journal.output.path} from the beginning."
    )


def blocks_of(plan: WritePlan, after: Position, record: Record) -> Generator[Mapping[str, Array]]:
    """Whole blocks of all fields as they are written, and one shorter at the end.

    `record` grows by the episodes that begin in them and the items left out before them. An array is a view of the source where
    nothing has to be changed, else of a buffer that the next block uses again.
    """
    most = plan.block_samples
    buffers: dict[str, Array] = {}
    filled = 0
    at = after.samples
    pieces = plan.source.pieces(after, most)
    try:
        for piece in pieces:
            left = len(next(iter(piece.fields.values())))
            if plan.limit is not None:
                left = min(left, max(0, plan.limit - at))
            if left and not record.starts and 0 not in piece.starts:
                record.starts.append(at)  # also where the item that would have begun the first episode was left out
            record.starts.extend(at + offset for offset in piece.starts if offset < left)
            record.skipped.extend((at, name) for name in piece.skipped)
            taken = 0
            while left:
                count = min(left, most - filled)
                blocks = {}
                for name, field in plan.fields.items():
                    samples = piece.fields[name][taken : taken + count]
                    if count == most and field.conversion.is_written_as_it_comes(samples):
                        blocks[name] = samples
                        continue
                    if name not in buffers:
                        target = field.conversion.target
                        buffers[name] = np.empty((most, *target.sample_shape), target.dtype)
                    field.conversion.into(buffers[name][filled : filled + count], samples, at)
                    blocks[name] = buffers[name]
                filled += count
                at, taken, left = at + count, taken + count, left - count
                if filled == most:
                    filled = 0
                    yield blocks
            if plan.limit is not None and at >= plan.limit:
                break
        if filled:
            yield {name: buffer[:filled] for name, buffer in buffers.items()}
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
