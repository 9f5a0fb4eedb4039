"""All fields written block by block, together: converted, checked, summed up and recorded, from where a kill left them."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Generator, Mapping

import numpy as np

from ...files import durable_writes
from ...formats.contract import Writer
from ...plain.errors import DamagedFileError, InvalidValueError, MmapstoreError, StateMismatchError
from ...plain.manifest import ArrayManifest
from .contract import Array, Position
from .journal import Journal, Record
from .plan import Before, FieldPlan, WritePlan
from .running_statistics import Beside, Blocks, Summary
from .sources import starts_between

_MOST_CHUNKS = 1 << 15  # written before the files are opened anew


def write_fields(plan: WritePlan, record: Record, journal: Journal, report: Callable[[int], None]) -> dict[str, Summary]:
    """Write what is missing of all fields, and leave the files closed and on disk.

    `record` tells what is complete; blocks it names are read back, and those after one that does not match are written again.
    Whatever stops this, an exception or a kill, `journal` names the last block to go on from.
    """
    summaries = summaries_of(plan)
    writers = _reopened(plan, record, summaries)
    if writers is None:
        record.keep(0)
        record.starts, record.skipped = [], []
        summaries = summaries_of(plan)
        journal.write()
        for field in plan.fields.values():
            if plan.before is None or not plan.before.in_place:
                durable_writes.remove(field.place.path)
        writers = _created(plan)
    try:
        if not record.done:
            report(record.samples)
            try:
                _write_rest(plan, record, journal, writers, summaries, report)
            except BaseException:
                # The reason is what the caller should see, also where what was written cannot be recorded any more.
                with contextlib.suppress(MmapstoreError, OSError):
                    _flush(writers)
                    journal.write()
                raise
            _flush(writers)
            record.done = True
            journal.write()
    except BaseException:
        _close(writers, quietly=True)
        raise
    _close(writers)
    _cut_to_length(plan, record)
    return summaries


def summaries_of(plan: WritePlan) -> dict[str, Summary]:
    """Of each field, before the first block."""
    known = plan.before.leaves if plan.before is not None else {}
    return {
        name: Summary(field.conversion.target.dtype, field.conversion.channel_axis, field.is_counted, known.get(name))
        for name, field in plan.fields.items()
    }


# --- files ---------------------------------------------------------------------------------------------------------------


def _created(plan: WritePlan) -> dict[str, Writer]:
    samples = plan.samples if plan.samples is not None else plan.guess or plan.block_samples
    writers: dict[str, Writer] = {}
    try:
        for name, field in plan.fields.items():
            new = field.new_array(samples, resizable=plan.samples is None)
            writers[name] = field.place.writing.create(field.place.path, field.place.key or None, new)
    except BaseException:
        _close(writers, quietly=True)
        raise
    return writers


def _reopened(plan: WritePlan, record: Record, summaries: dict[str, Summary]) -> dict[str, Writer] | None:
    """Writers for what an interrupted call left, `record` cut down to the blocks that are right; None to start from nothing."""
    if not record.blocks:
        return None
    writers: dict[str, Writer] = {}
    try:
        for name, field in plan.fields.items():
            if not os.path.lexists(field.place.path):
                raise FileNotFoundError(field.place.path)
            writers[name] = _reopen(field, plan, record)
    except (MmapstoreError, OSError):
        _close(writers, quietly=True)
        if plan.before is not None and plan.before.in_place:
            raise
        return None  # never made, or killed while the library had its own bookkeeping half written: no block can be trusted
    try:
        right = _blocks_that_are_right(record, writers, summaries)
        if plan.before is not None and plan.before.in_place:
            _require_old(plan.before, right * record.block_samples)
    except BaseException:
        _close(writers, quietly=True)
        raise
    record.keep(right)
    if right == 0:
        _close(writers, quietly=True)
        return None
    return writers


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


def _require_old(before: Before, right: int) -> None:
    """Raise DamagedFileError if fewer samples are as they were written than whole blocks of the old ones hold."""
    if right < before.samples // before.block_samples * before.block_samples:
        raise damaged(next(iter(before.entries.values())), right)


def _reopen_all(writers: dict[str, Writer], plan: WritePlan, record: Record) -> None:
    """HDF5 keeps the index of a file in memory as long as any dataset of it is open."""
    _close(writers)
    for name, field in plan.fields.items():
        writers[name] = _reopen(field, plan, record)


def _blocks_that_are_right(record: Record, writers: Mapping[str, Writer], summaries: Mapping[str, Summary]) -> int:
    with Beside(summaries) as beside:
        for number in range(record.blocks):
            start = number * record.block_samples
            stop = min(start + record.block_samples, record.samples)
            try:
                blocks = {name: writer.read(start, stop) for name, writer in writers.items()}
            except (MmapstoreError, OSError):
                return number
            if any(checksum_of(block) != record.checksums[name][number] for name, block in blocks.items()):
                return number
            beside.sum_up(blocks, starts_between(record.starts, start, stop))()
    return record.blocks


def _cut_to_length(plan: WritePlan, record: Record) -> None:
    """Shorten what was announced, or guessed, to be longer than it turned out. One file at a time is open: HDF5 may rewrite it."""
    if plan.samples == record.samples:
        return
    for field in plan.fields.values():
        writer = _reopen(field, plan, record)
        try:
            writer.truncate(record.samples)
            writer.flush()
        except BaseException:
            _close({"": writer}, quietly=True)
            raise
        writer.close()


def _flush(writers: Mapping[str, Writer]) -> None:
    for writer in writers.values():
        writer.flush()


def _close(writers: Mapping[str, Writer], quietly: bool = False) -> None:
    for writer in writers.values():
        with contextlib.suppress(MmapstoreError, OSError, RuntimeError, ValueError) if quietly else contextlib.nullcontext():
            writer.close()


# --- blocks --------------------------------------------------------------------------------------------------------------


def _write_rest(
    plan: WritePlan,
    record: Record,
    journal: Journal,
    writers: dict[str, Writer],
    summaries: Mapping[str, Summary],
    report: Callable[[int], None],
) -> None:
    complete = record.samples
    after = record.position(None if plan.source.gives_from_any_sample else _given_again_from(plan, record))
    at = after.samples
    record.forget_beyond(after)
    chunks = 0
    with Beside(summaries) as beside, contextlib.closing(blocks_of(plan, after, record)) as arriving:
        for blocks in arriving:
            count = len(next(iter(blocks.values())))
            if at < complete:
                # An iterable gives its first samples once more: they have to be those that were written.
                number = at // plan.block_samples
                if any(checksum_of(block) != record.checksums[name][number] for name, block in blocks.items()):
                    raise _other_samples(plan, journal, at)
                at += count
                continue
            wait = beside.sum_up(blocks, starts_between(record.starts, at, at + count))
            try:
                checksums = {name: checksum_of(block) for name, block in blocks.items()}
                _require_unchanged(plan, at, checksums)
                for name, block in blocks.items():
                    writers[name].write(at, block)
            finally:
                wait()  # the next block may lie in the same buffer
            for name, checksum in checksums.items():
                record.checksums[name].append(checksum)
            at += count
            record.samples = at
            report(at)
            chunks += sum(-(-count // field.chunk_samples) for field in plan.fields.values())
            if journal.is_due(sum(block.nbytes for block in blocks.values())):
                _flush(writers)
                journal.write()
                if chunks > _MOST_CHUNKS and len(writers) > 1:
                    _reopen_all(writers, plan, record)
                    chunks = 0
    if at < complete:
        raise _other_samples(plan, journal, at)
    if at == 0:
        raise InvalidValueError(f"{plan.source.name} gave no samples; there is nothing to write. Check the source.")


def _given_again_from(plan: WritePlan, record: Record) -> int:
    """Where a source begins that gives its samples once: at its first sample; behind old ones, at the block where these end."""
    if plan.before is None:
        return 0
    return min(record.samples, plan.before.complete)


def _require_unchanged(plan: WritePlan, at: int, checksums: Mapping[str, str]) -> None:
    """Raise DamagedFileError for a block of old samples, read from the store that is appended to, with another checksum."""
    before = plan.before
    if before is not None and at + before.block_samples <= before.samples:
        for name, entry in before.entries.items():
            if entry.checksums[at // before.block_samples] != checksums[name]:
                raise damaged(entry, at)


def damaged(entry: ArrayManifest, sample: int) -> DamagedFileError:
    """What to raise for a store to be appended to that is not what was written."""
    return DamagedFileError(
        f"{entry.file}{f'::/{entry.key}' if entry.key else ''} is not what was written: its samples from {sample} on do not match "
        "their checksum. Nothing was appended; restore it, or ingest it again."
    )


def _other_samples(plan: WritePlan, journal: Journal, at: int) -> StateMismatchError:
    return StateMismatchError(
        f"{plan.source.name} gives other samples than those that were written before the interruption, from sample {at} on. "
        f"Give the same ones again, or pass resume=False (--no-resume) to start {journal.target.path} from the beginning."
    )


def checksum_of(block: Array) -> str:
    """CRC-32 of the values in C order, as 8 hex digits."""
    return f"{zlib.crc32(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data):08x}"


def blocks_of(plan: WritePlan, after: Position, record: Record) -> Generator[Blocks]:
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
