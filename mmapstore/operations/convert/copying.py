"""Slabs of an array: read ahead in one thread, converted, and written; encoded chunks are copied where they can stay."""

from __future__ import annotations

import collections
import dataclasses
import math
import queue
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from ...files.descriptors import Descriptor, read_exactly
from ...files.direct_io import PAGE, room_at
from ...files.lent_buffers import new_pages
from ...files.process_memory import give_back_freed_memory
from ...formats.contract import NewArray, Writer
from ...formats.located import ChunkPlace, Located
from ...plain.chunk_grid import Box, ChunkGrid
from ...plain.errors import DamagedFileError, NotFoundError, WriteError
from ..flow.casts import Changes, RefusedValue
from ..flow.copying import VERIFIED, Block, Sink, copy, verify_all
from ..flow.journal import Journal
from ..flow.record import Record
from ..flow.tally import Tally
from .origin import Stored, encoded_of
from .plan import BUFFERS, Plan

Array = np.ndarray[Any, np.dtype[Any]]
FIELD = "data"


def written_blocks(plan: Plan, first: int, stop: int) -> Iterator[Block]:
    """Yield the blocks of slabs [first, stop), without their values."""
    for number in range(first, stop):
        box = plan.slabs[number]
        values = plan.slabs.first_value(number) + math.prod(part.stop - part.start for part in box)
        yield Block({FIELD: box}, values // plan.sample_values)


def read_blocks(plan: Plan, first: int, stop: int, memory_offset: Callable[[Box], int], changes: Changes) -> Generator[Block]:
    """Yield slabs [first, stop), converted. `changes` are those of the slabs before.

    While a block is looked at, the next are read: BUFFERS slabs are held in all.
    """
    free: queue.SimpleQueue[Array | None] = queue.SimpleQueue()
    for _ in range(BUFFERS):
        free.put(new_pages(plan.slabs.most_values * plan.new.dtype.itemsize + PAGE))
    source = _Source(plan, free, memory_offset)
    waiting = written_blocks(plan, first, stop)
    with ThreadPoolExecutor(1, "mmapstore read") as reading:
        ahead: collections.deque[tuple[Block, Future[tuple[Array, Array, Changes]]]] = collections.deque()
        try:
            while True:
                while len(ahead) < BUFFERS and (block := next(waiting, None)) is not None:
                    ahead.append((block, reading.submit(source.take, block.boxes[FIELD])))
                if not ahead:
                    return
                block, future = ahead.popleft()
                buffer, values, found = future.result()
                changes = changes + found
                yield dataclasses.replace(block, values={FIELD: values}, counts=dataclasses.asdict(changes))
                free.put(buffer)
        finally:
            free.put(None)
            reading.shutdown(wait=True, cancel_futures=True)


class _Source:
    """Reads a slab, and makes of it what is written. In one thread."""

    def __init__(self, plan: Plan, free: queue.SimpleQueue[Array | None], memory_offset: Callable[[Box], int]) -> None:
        self._plan = plan
        self._memory_offset = memory_offset
        self._free = free
        values = plan.slabs.most_values
        self._stored = None if plan.is_as_it_comes else new_pages(values * plan.source_dtype.itemsize).view(plan.source_dtype)
        self._unpacked = np.empty(values, plan.packing.dtype) if plan.packing and not plan.cast.is_copy else None

    def take(self, box: Box) -> tuple[Array, Array, Changes]:
        """(the buffer, the slab in it, how many values were changed)."""
        plan, buffer = self._plan, self._free.get()
        if buffer is None:
            self._free.put(None)
            raise WriteError("the conversion was given up")
        shape = tuple(part.stop - part.start for part in box)
        room = room_at(buffer, self._memory_offset(box))
        block = room[: math.prod(shape) * plan.new.dtype.itemsize].view(plan.new.dtype).reshape(shape)
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


def copy_slabs(
    plan: Plan, slabs: range, sink: Slabwise, tally: Tally, journal: Journal, report: Callable[[int], None], verify: bool
) -> None:
    """Write the slabs that the record of `journal` does not have yet, close the sink, and check what is on disk.

    Raises what reading and writing raise; WriteError if the disk gives something else back than was written.
    """
    record: Record = journal.record
    with sink:
        report(record.samples)
        blocks = read_blocks(plan, slabs.start + record.blocks, slabs.stop, sink.memory_offset, counted(record))
        copy(blocks, sink, {FIELD: tally}, journal, report, verify)
        sink.flush()
    if verify and not sink.flushes_beside:
        verify_slabs(plan, (plan.slabs[each] for each in slabs), record.checksums[FIELD])


def counted(record: Record | None) -> Changes:
    """Return the numbers of values that the recorded slabs changed."""
    counts = record.counts if record is not None else {}
    return Changes(counts.get("rounded", 0), counts.get("clipped", 0))


class Slabwise(Sink):
    """The array of a target, created or reopened, and written in slabs."""

    def __init__(self, plan: Plan, open_writer: Callable[[str, str | None, NewArray], Writer], is_shared: bool = False) -> None:
        place = plan.target.place(FIELD)
        writer = open_writer(place.path, place.key or None, dataclasses.replace(plan.new, is_shared=is_shared))
        super().__init__({FIELD: writer})
        self._plan, self.flushes_beside, self.memory_offset = plan, writer.flushes_beside, writer.memory_offset

    def write(self, block: Block) -> None:
        if self._plan.copies_chunks:
            _copy_chunks(self._plan, self.writers[FIELD], block.boxes[FIELD], block.values[FIELD])
        else:
            super().write(block)


def verify_slabs(plan: Plan, slabs: Iterable[Box], checksums: Sequence[str]) -> None:
    """Compare slabs that are on disk with their checksums. Our own readers decode them, in the memory that was predicted.

    Raises DamagedFileError for a target of another form; WriteError if the disk gives something else back than was written.
    """
    place, new = plan.target.place(FIELD), plan.new
    stored = Stored(plan.target.format.open_array(place.path, place.key or None), None, None)
    if stored.shape != new.shape or stored.dtype.newbyteorder("=") != new.dtype:
        raise DamagedFileError(
            f"{place.path} reads back as {stored.shape} {stored.dtype}, expected {new.shape} {new.dtype}. Run the same again."
        )
    give_back_freed_memory()  # of the library that wrote: malloc keeps up to twice its largest chunk
    stored.fit(plan.memory().total - VERIFIED * plan.slabs.most_values * new.dtype.itemsize)
    verify_all(place.path, slabs, checksums, new.dtype, stored.read_box)


def _copy_chunks(plan: Plan, writer: Writer, box: Box, block: Array) -> None:
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


def _encoded(chunks: Located, place: ChunkPlace | None) -> bytes | bytearray | None:
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
