"""Values on their way: read ahead in one thread, digested in a second, written in a third, read back, and recorded.

Nothing is counted as done before it is on disk and, unless that was declined, was read back from there and found to be the same.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from ...codecs.crc32 import crc32
from ...files.descriptors import Descriptor, read_exactly
from ...files.direct_io import PAGE, room_at
from ...formats.contract import ChunkPlace, EncodedChunks
from ...plain.chunk_grid import Box, ChunkGrid
from ...plain.content_digest import LeafDigests
from ...plain.errors import DamagedFileError, MmapstoreError, NotFoundError, WriteError
from ..ingest.journal import Journal, Record
from .block_checksums import BlockChecksums
from .casts import Changes, RefusedValue
from .origin import encoded_of
from .plan import BUFFERS, Plan

Array = np.ndarray[Any, np.dtype[Any]]
FIELD = "data"


class Tally:
    """What is known of the values so far, in C order."""

    def __init__(self, plan: Plan) -> None:
        self.digest = LeafDigests(plan.new.dtype)
        self.blocks = BlockChecksums(plan)
        self.changes = Changes()

    def count(self, block: Array, checksum: str) -> None:
        self.digest.update(block)
        self.blocks.update(block, checksum)


def checksum_of(block: Array) -> str:
    return f"{crc32(block):08x}"


def new_record(plan: Plan) -> Record:
    return Record(plan.slabs.most_values, {FIELD: 0})


def read_back(plan: Plan, record: Record, tally: Tally, read: Callable[[Box], Array]) -> int:
    """Take what an interrupted run left into `tally`; returns how many slabs of it are right, and cuts `record` there."""
    checksums = record.checksums[FIELD]
    boxes = plan.slabs.after(0)
    right = 0
    with ThreadPoolExecutor(1, "mmapstore read back") as reading:
        ahead: Future[Array] | None = reading.submit(read, next(boxes)) if checksums else None
        for number, checksum in enumerate(checksums):
            try:
                assert ahead is not None
                block = ahead.result()
            except (MmapstoreError, OSError):
                break
            ahead = reading.submit(read, next(boxes)) if number + 1 < len(checksums) else None
            if checksum_of(block) != checksum:
                break
            tally.count(block, checksum)
            right = number + 1
    if right < len(checksums):
        del checksums[right:]
        record.samples = right
        # How many of these were changed is not known slab by slab: what follows is right, what it counts may be too much.
    tally.changes = Changes(record.counts.get("rounded", 0), record.counts.get("clipped", 0))
    return right


def carry(plan: Plan, writer: Any, journal: Journal, tally: Tally, report: Callable[[int], None], verify: bool) -> None:
    """Write every slab that the record of `journal` has not, and commit as often as it is due.

    Raises what reading and writing raise; WriteError if the disk gives something else back than was written.
    """
    assert journal.record is not None
    first = len(journal.record.checksums[FIELD])
    commits = _Commits(plan, writer, journal, verify)
    # `made` is what a slab is written from; with one more thread than slabs on the way nobody waits for a thread.
    free: queue.SimpleQueue[Array | None] = queue.SimpleQueue()
    for _ in range(BUFFERS):
        free.put(np.empty(plan.slabs.most_values * plan.new.dtype.itemsize + PAGE, np.uint8))
    source = _Source(plan, free, writer.memory_offset)
    done = sum(_values(box) for box in _before(plan, first))
    report(done // plan.sample_values)
    threads = [ThreadPoolExecutor(1, f"mmapstore {what}") for what in ("read", "digest")]
    reading, digesting = threads
    counted: Future[None] | None = None
    try:
        boxes = plan.slabs.after(first)
        ahead: collections.deque[tuple[Box, Future[tuple[Array, Array, Changes]]]] = collections.deque()
        while True:
            while len(ahead) < BUFFERS and (box := next(boxes, None)) is not None:
                ahead.append((box, reading.submit(source.take, box)))
            if not ahead:
                break
            box, future = ahead.popleft()
            buffer, block, changes = future.result()
            checksum = checksum_of(block)
            if counted is not None:
                counted.result()
            counted = digesting.submit(tally.count, block, checksum)
            _write(plan, writer, box, block)
            counted.add_done_callback(lambda _, buffer=buffer: free.put(buffer))  # type: ignore[misc]
            tally.changes = tally.changes + changes
            commits.add(box, checksum, block.nbytes, tally.changes)
            done += block.size
            report(done // plan.sample_values)
        if counted is not None:
            counted.result()
        commits.finish()
    except BaseException:
        free.put(None)
        for thread in threads:
            thread.shutdown(wait=True, cancel_futures=True)
        # The reason is what the caller should see, also where what was written cannot be recorded any more.
        with contextlib.suppress(MmapstoreError, OSError):
            commits.finish()
        raise
    finally:
        for thread in threads:
            thread.shutdown()
        commits.close()


def _before(plan: Plan, first: int) -> Iterator[Box]:
    return (plan.slabs[number] for number in range(first))


def _values(box: Box) -> int:
    found = 1
    for part in box:
        found *= part.stop - part.start
    return found


class _Source:
    """Reads a slab, and makes of it what is written. In one thread."""

    def __init__(self, plan: Plan, free: queue.SimpleQueue[Array | None], memory_offset: Callable[[Box], int]) -> None:
        self._plan = plan
        self._memory_offset = memory_offset
        self._free = free
        values = plan.slabs.most_values
        self._stored = None if plan.is_as_it_comes else np.empty(values, plan.source_dtype)
        self._unpacked = np.empty(values, plan.packing.dtype) if plan.packing and not plan.cast.is_copy else None

    def take(self, box: Box) -> tuple[Array, Array, Changes]:
        """(the buffer, the slab in it, how many values were changed)."""
        plan, buffer = self._plan, self._free.get()
        if buffer is None:
            self._free.put(None)
            raise WriteError("the conversion was given up")
        shape = tuple(part.stop - part.start for part in box)
        room = room_at(buffer, self._memory_offset(box))
        block = room[: _values(box) * plan.new.dtype.itemsize].view(plan.new.dtype).reshape(shape)
        wanted = plan.source_box(box)
        if self._stored is None:
            plan.origin.read_box(wanted, block)
            return buffer, block, Changes()
        stored_shape = tuple(part.stop - part.start for part in wanted)
        stored = self._stored[: block.size].reshape(stored_shape)
        plan.origin.read_box(wanted, stored)
        values = stored.transpose(plan.axes)
        if plan.packing is not None:
            unpacked = block if self._unpacked is None else self._unpacked[: block.size].reshape(shape)
            plan.packing.unpack(values, unpacked)
            values = unpacked
        if values is block:
            return buffer, block, Changes()
        try:
            return buffer, block, plan.cast.into(block, values)
        except RefusedValue as error:
            place = [part.start + at for part, at in zip(box, error.place, strict=True)]
            in_source = list(place)
            for at, axis in zip(place, plan.axes, strict=True):
                in_source[axis] = at + plan.first[axis]
            error.args = (error.at(tuple(in_source), plan.origin.name),)
            raise


def _write(plan: Plan, writer: Any, box: Box, block: Array) -> None:
    if not plan.copies_chunks:
        writer.write_box(box, block)
        return
    source = encoded_of(plan.origin.stored)
    assert source is not None
    target = ChunkGrid(plan.new.shape, plan.new.chunks or ())
    shift = tuple(at // each for at, each in zip(plan.first, source.grid.chunk, strict=True))
    touched = list(target.touching(box))
    numbers = [
        source.grid.number(tuple(at + more for at, more in zip(target.place(number), shift, strict=True)))
        for number, _, _ in touched
    ]
    takes_masks = plan.target.writing.takes_skipped
    for (number, inside, within), place in zip(touched, source.places(numbers), strict=True):
        encoded = _encoded(source, place)
        if encoded is None:
            continue  # never stored, and the fill value stands for it in the target too
        assert place is not None
        whole = source.grid.chunk == target.chunk
        if whole and (takes_masks or not place.skipped):
            writer.write_encoded(number, encoded, place.skipped)
        else:
            at = target.place(number)
            part = tuple(slice(p * each + i.start, p * each + i.stop) for p, each, i in zip(at, target.chunk, inside, strict=True))
            writer.write_box(part, np.ascontiguousarray(block[within]))


def _encoded(chunks: EncodedChunks, place: ChunkPlace | None) -> bytearray | None:
    """The stored bytes of a chunk; None where there are none."""
    if place is None:
        return None
    try:
        descriptor = Descriptor(place.path)
    except NotFoundError:
        if place.nbytes < 0:
            return None
        raise
    nbytes = place.nbytes if place.nbytes >= 0 else descriptor.status.st_size - place.offset
    found = bytearray(nbytes)
    read_exactly(descriptor, place.offset, [np.frombuffer(found, np.uint8)])
    return found


class _Commits:
    """Has what was written put on disk, read back and recorded: in a thread of its own where the writer allows it."""

    def __init__(self, plan: Plan, writer: Any, journal: Journal, verify: bool) -> None:
        self._plan, self._writer, self._journal = plan, writer, journal
        self._verify = verify and writer.flushes_beside
        self._waiting: list[tuple[Box, str]] = []
        self._counts = Changes()
        self._beside = ThreadPoolExecutor(1, "mmapstore commit") if writer.flushes_beside else None
        self._pending: Future[None] | None = None

    def add(self, box: Box, checksum: str, nbytes: int, changes: Changes) -> None:
        self._waiting.append((box, checksum))
        self._counts = changes
        if self._journal.is_due(nbytes):
            self._submit()

    def finish(self) -> None:
        """Returns when all is recorded."""
        if self._waiting:
            self._submit()
        self._settle()

    def close(self) -> None:
        if self._beside is not None:
            self._beside.shutdown()

    def _submit(self) -> None:
        self._settle()
        waiting, self._waiting = self._waiting, []
        counts = dataclasses.asdict(self._counts)
        if self._beside is None:
            self._commit(waiting, counts)
        else:
            self._pending = self._beside.submit(self._commit, waiting, counts)

    def _settle(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _commit(self, waiting: list[tuple[Box, str]], counts: dict[str, int]) -> None:
        self._writer.flush()
        record = self._journal.record
        assert record is not None
        for box, checksum in waiting:
            if self._verify:
                require_same(self._plan, box, checksum, self._writer.read_box(box))
            record.checksums[FIELD].append(checksum)
        record.samples, record.counts = len(record.checksums[FIELD]), counts
        self._journal.write()


def require_same(plan: Plan, box: Box, checksum: str, found: Array) -> None:
    """Raise WriteError if what was read back is not what was written."""
    other = checksum_of(np.ascontiguousarray(found))
    if found.dtype != plan.new.dtype or other != checksum:
        corner = tuple(part.start for part in box)
        raise WriteError(
            f"{plan.target.path}: what was written from {corner} on is not what the disk gives back (checksum {other}, expected "
            f"{checksum}). Nothing was put in its place. Check the disk and the memory of this machine, then run the same again."
        )


def verify_all(plan: Plan, checksums: list[str], stored: Any) -> int:
    """Compare all of a finished target, opened anew, with the checksums of what was read. Returns how many slabs are right.

    Two threads: one may read while the other computes.
    """
    if tuple(stored.shape) != plan.new.shape or stored.dtype.newbyteorder("=") != plan.new.dtype:
        raise DamagedFileError(
            f"{plan.target.path} reads back as {tuple(stored.shape)} {stored.dtype}, expected {plan.new.shape} {plan.new.dtype}."
        )

    def check(number: int) -> None:
        box = plan.slabs[number]
        found = np.empty(tuple(part.stop - part.start for part in box), plan.new.dtype)
        stored.read_box(box, found)
        require_same(plan, box, checksums[number], found)

    with ThreadPoolExecutor(2, "mmapstore verify") as threads:
        under_way: collections.deque[Future[None]] = collections.deque()
        for number in range(len(checksums)):
            under_way.append(threads.submit(check, number))
            if len(under_way) > 2:
                under_way.popleft().result()
        while under_way:
            under_way.popleft().result()
    return len(checksums)
