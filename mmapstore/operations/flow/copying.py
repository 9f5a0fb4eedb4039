"""Blocks of values on their way into a target: digested beside, written, put on disk, read back, and recorded.

Nothing is recorded before it is on disk and, unless that was declined, was read back from there and found to be the same.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np

from ...codecs.crc32 import crc32
from ...files.lent_buffers import LentBuffers
from ...formats.contract import Writer
from ...plain.chunk_grid import Box
from ...plain.errors import MmapstoreError, WriteError
from .journal import Journal
from .record import Record
from .tally import Beside, Tally

Array = np.ndarray[Any, np.dtype[Any]]
VERIFIED = 2  # regions held while they are read back
Note = Callable[["Block", Mapping[str, str]], None]


@dataclass(frozen=True)
class Block:
    """A region of each field; regions in order hold the values of a field in C order."""

    boxes: Mapping[str, Box]  # the region, by field
    samples: int  # number of samples that are complete with this block
    # of the regions, by field, valid until the next block is asked for; empty for a block that is on disk
    values: Mapping[str, Array] = field(default_factory=dict)
    starts: Sequence[int] = ()  # samples at which an episode begins, counted from the first sample of the block
    counts: Mapping[str, int] = field(default_factory=dict)  # other counts of all blocks up to this one


class Sink:
    """The arrays of a target, open for writing. A `with` closes them; an error inside it is raised, not one of closing.

    `flushes_beside` : one thread may `flush` and `read` blocks that are written while another writes.
    """

    flushes_beside = False

    def __init__(self, writers: Mapping[str, Writer]) -> None:
        self.writers = dict(writers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(quietly=kind is not None)

    def write(self, block: Block) -> None:
        for name, values in block.values.items():
            self.writers[name].write_box(block.boxes[name], values)

    def read(self, block: Block) -> Mapping[str, Array]:
        """Return the values that are in the regions of the block now."""
        return {name: writer.read_box(block.boxes[name]) for name, writer in self.writers.items()}

    def flush(self) -> None:
        """Return when the disk has all that was written."""
        for writer in self.writers.values():
            writer.flush()

    def close(self, quietly: bool = False) -> None:
        for writer in self.writers.values():
            with contextlib.suppress(MmapstoreError, OSError, RuntimeError, ValueError) if quietly else contextlib.nullcontext():
                writer.close()


def checksum_of(values: Array) -> str:
    """Return the CRC-32 of the values in C order, as 8 hex digits."""
    return f"{crc32(np.ascontiguousarray(values)):08x}"


def copy(
    blocks: Generator[Block],
    sink: Sink,
    tallies: Mapping[str, Tally],
    journal: Journal,
    report: Callable[[int], None],
    verify: bool = False,
    note: Note = lambda block, checksums: None,
) -> None:
    """Write all blocks, and commit as often as it is due: `journal` names the last block to resume from whatever stops this.

    `report` is called with the number of samples that are written, `note` with each block and its checksums before it is written.
    `verify` reads each block back before it is recorded, where the sink flushes beside.

    Raises what reading and writing raise; WriteError if the disk gives something else back than was written.
    """
    commits = _Commits(sink, journal, {name: tally.digest.dtype for name, tally in tallies.items()}, verify)
    try:
        with Beside(tallies) as beside, contextlib.closing(blocks):
            for block in blocks:
                wait = beside.take(block.values, block.starts)
                try:
                    checksums = {name: checksum_of(values) for name, values in block.values.items()}
                    note(block, checksums)
                    sink.write(block)
                finally:
                    wait()  # the next block may lie in the same buffer
                commits.add(block, checksums)
                report(block.samples)
        commits.finish()
    except BaseException:
        # The reason is what the caller should see, also where what was written cannot be recorded any more.
        with contextlib.suppress(MmapstoreError, OSError):
            commits.finish()
        raise
    finally:
        commits.close()


def read_back(
    blocks: Iterable[Block], record: Record, read: Callable[[Block], Mapping[str, Array]], tallies: Mapping[str, Tally]
) -> int:
    """Take recorded blocks into the tallies, up to the first that is not as it was written; return the number of right ones."""
    right = 0
    with Beside(tallies) as beside:
        for block in blocks:
            try:
                values = read(block)
            except (MmapstoreError, OSError):
                break
            checksums = {name: checksum_of(found) for name, found in values.items()}
            if any(record.checksums[name][right] != checksum for name, checksum in checksums.items()):
                break
            wait = beside.take(values, block.starts)
            wait()
            right += 1
    return right


class _Commits:
    """Has written blocks put on disk, read back and recorded: in a thread of its own where the sink allows it."""

    def __init__(self, sink: Sink, journal: Journal, dtypes: Mapping[str, np.dtype[Any]], verify: bool) -> None:
        self._sink, self._journal, self._dtypes = sink, journal, dtypes
        self._verify = verify and sink.flushes_beside
        self._waiting: list[tuple[Block, Mapping[str, str]]] = []
        self._beside = ThreadPoolExecutor(1, "mmapstore commit") if sink.flushes_beside else None
        self._pending: Future[None] | None = None

    def add(self, block: Block, checksums: Mapping[str, str]) -> None:
        nbytes = sum(values.nbytes for values in block.values.values())
        self._waiting.append((Block(block.boxes, block.samples, counts=block.counts), checksums))
        if self._journal.is_due(nbytes):
            self._submit()

    def finish(self) -> None:
        """Return when all is recorded."""
        if self._waiting:
            self._submit()
        self._settle()

    def close(self) -> None:
        if self._beside is not None:
            self._beside.shutdown()

    def _submit(self) -> None:
        self._settle()
        waiting, self._waiting = self._waiting, []
        if self._beside is None:
            self._commit(waiting)
        else:
            self._pending = self._beside.submit(self._commit, waiting)

    def _settle(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _commit(self, waiting: list[tuple[Block, Mapping[str, str]]]) -> None:
        self._sink.flush()
        record: Record = self._journal.record
        for block, checksums in waiting:
            if self._verify:
                self._require_same(block, checksums)
            for name, checksum in checksums.items():
                record.checksums[name].append(checksum)
            record.samples, record.counts = block.samples, dict(block.counts)
        self._journal.write()

    def _require_same(self, block: Block, checksums: Mapping[str, str]) -> None:
        """Read a block back. It is let go of here, before the next one is read."""
        for name, found in self._sink.read(block).items():
            require_same(self._journal.output.path, block.boxes[name], checksums[name], found, self._dtypes[name])


def require_same(path: str, box: Box, checksum: str, found: Array, dtype: np.dtype[Any]) -> None:
    """Raise WriteError if what was read back is not what was written."""
    other = checksum_of(found)
    if found.dtype != dtype or other != checksum:
        corner = tuple(part.start for part in box)
        raise WriteError(
            f"{path}: what was written from {corner} on is not what the disk gives back (checksum {other}, expected "
            f"{checksum}). Nothing was put in its place. Check the disk and the memory of this machine, then run the same again."
        )


def verify_all(
    path: str, boxes: Iterable[Box], checksums: Sequence[str], dtype: np.dtype[Any], read: Callable[[Box, Array], None]
) -> None:
    """Compare regions of a target that is on disk, opened anew, with their checksums. A thread reads one ahead."""
    buffers = LentBuffers()

    def values_of(box: Box) -> Array:
        found = buffers.lend(tuple(part.stop - part.start for part in box), dtype)
        read(box, found)
        return found

    ahead: collections.deque[tuple[Box, str, Future[Array]]] = collections.deque()

    def check() -> None:
        box, checksum, found = ahead.popleft()
        require_same(path, box, checksum, found.result(), dtype)

    with ThreadPoolExecutor(1, "mmapstore verify") as reading:  # always the same: malloc keeps memory for each thread that decodes
        for box, checksum in zip(boxes, checksums, strict=True):
            ahead.append((box, checksum, reading.submit(values_of, box)))
            if len(ahead) == VERIFIED:
                check()
        while ahead:
            check()
