"""An ingest in regions of samples that any process may write, in any order and more than once.

Each process opens the source again. A region reads its samples, and writes and checks whole blocks of all fields. Leaves of digests
that the end of a region cuts are a second set of regions: they are read back from the target once all samples are there.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...batches.dataset import Dataset
from ...files.process_memory import PeakMemory, give_back_freed_memory
from ...plain.array_likes import is_fields
from ...plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError, MmapstoreError
from ..flow.journal import Journal, found_journal
from ..flow.parts import Receipt, do_all, kept, merge, without_receipt
from ..flow.receipts import WHOLE, Receipts, late
from ..flow.record import Record
from ..flow.regions import Regions
from ..flow.tally import Tally
from ..flow.target import Target
from .contract import FitsMemory, Source
from .description import PEAK
from .field_write import close_fields, create_fields, hash_cut_leaves, tallies_of, write_region
from .images.samples import ImageSamples
from .plan import Options, WritePlan, call_of, recorded_plan
from .source_detection import opened_source
from .sources import DatasetSource
from .zipped_sources import ZippedSources

IN_REGIONS = "in regions"  # in the call of the journal, with the name of the plan
REGION_NBYTES = 256 << 20  # of a region, about, unless a block has more
_opening = threading.Lock()


@dataclass(frozen=True)
class Parts:
    """The plan of an ingest in regions: small, picklable, and arithmetic alone.

    Attributes
    ----------
    given : arguments of `opened_source` but the target, pickled
    out, named : those of the target
    max_memory : bytes, of each process
    name : of this plan, in the journal
    call : the part of the call that all processes have to share, as JSON
    block_samples, chunk_samples : those of the record; the latter by field
    samples : regions of samples; behind them, a region for each place between two
    """

    given: bytes
    out: str
    named: bool
    max_memory: int
    name: str
    call: str
    block_samples: int
    chunk_samples: tuple[tuple[str, int], ...]
    samples: Regions

    def __len__(self) -> int:
        return 2 * len(self.samples) - 1

    @property
    def mark(self) -> str:
        """That of the receipts: another one for another plan, and for regions of another length."""
        return f"{self.name}-{self.samples.length}"

    @property
    def target(self) -> Target:
        return Target.of(self.out, self.named)

    @property
    def empty_record(self) -> Record:
        return Record(self.block_samples, dict(self.chunk_samples))

    def require_under_way(self) -> None:
        """Raise StateMismatchError unless the partial target is still that of the plan."""
        found = found_journal(self.target, Record)
        if found is None or found.finished is not None or found.call.get(IN_REGIONS) != self.name:
            raise late(self.out)


@functools.lru_cache(maxsize=1)  # a folder of a million images is listed once in each process
def _opened(parts: Parts) -> WritePlan:
    """Open the source. Raises DamagedFileError if the source was changed since the ingest was planned."""
    source, several, options = pickle.loads(parts.given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the caller has seen them
        opened = opened_source(source, several, parts.target, options)
    if isinstance(opened, FitsMemory):
        opened.fit(parts.max_memory)
    plan = recorded_plan(opened, parts.target, options, parts.empty_record, is_shared=True)
    if json.dumps(call_of(plan, options)) != parts.call:
        raise DamagedFileError(f"{opened.name} was changed since its ingest was planned. Ingest it once nothing writes to it.")
    return plan


def do(parts: Parts, number: int) -> Receipt:
    """Write a region, and have it on disk, or hash the leaves that its end cuts. Any process may do it, and do it again.

    Raises what reading and writing raise; WriteError if the disk gives something else back than was written; StateMismatchError
    once another process has published the target or begun it anew.
    """
    parts.require_under_way()
    with _opening:
        plan = _opened(parts)
    record, tallies = parts.empty_record, tallies_of(plan)
    journal = Journal(parts.target, {}, record, kept=False)
    try:
        with PeakMemory() as memory:
            if number < len(parts.samples):
                write_region(plan, journal, parts.samples[number], tallies, lambda block, checksums: parts.require_under_way())
            else:
                hash_cut_leaves(plan, parts.samples, number - len(parts.samples), tallies)
    except (MmapstoreError, OSError):
        parts.require_under_way()  # which says why, if the call is late
        raise
    give_back_freed_memory()
    return Receipt.of(parts.mark, number, record, tallies, memory.nbytes)


def write_in_regions(
    plan: WritePlan,
    journal: Journal,
    report: Callable[[int], None],
    *,
    target: Target,
    given: tuple[Any, Mapping[str, Any] | None, Options],
    max_memory: int,
    engine: Any,
) -> dict[str, Tally]:
    """Have an engine write all fields of the source that was `given`, and complete the record of `journal`; return the tallies.

    Receipts beside the target tell what an interrupted call has done.
    """
    samples, block_nbytes = plan.samples or 0, plan.block_samples * max(1, plan.sample_nbytes)
    record: Record = journal.record
    parts = Parts(
        given=pickle.dumps(given),
        out=os.path.join(os.getcwd(), target.opened_as),
        named=target.named,
        max_memory=max_memory,
        name=journal.call[IN_REGIONS],
        call=json.dumps(call_of(plan, given[-1])),
        block_samples=plan.block_samples,
        chunk_samples=tuple(record.chunk_samples.items()),
        samples=Regions(0, samples, max(1, REGION_NBYTES // block_nbytes) * plan.block_samples),
    )
    receipts, count = Receipts(target, parts.mark), len(parts.samples)
    if not os.path.isdir(target.receipts):
        create_fields(plan, target)
        Receipts.begin(target)

    def done(left: Collection[int]) -> None:
        report(max(0, samples - parts.samples.length * sum(number < count for number in left)))

    try:
        for regions in (range(count), range(count, len(parts))):
            missing = without_receipt(regions, WHOLE, receipts)
            do_all(do, parts, missing, WHOLE, receipts, engine, plan.memory().total, done)
        _opened.__wrapped__(parts)  # was the source changed meanwhile?
    finally:
        _opened.cache_clear()  # of an engine that works in this process
    close_fields(plan, record)
    tallies = tallies_of(plan)

    def noted() -> Iterator[Receipt]:
        for receipt in kept(receipts):
            record.counts[PEAK] = max(receipt.peak_nbytes, record.counts.get(PEAK, 0))
            yield receipt

    merge(noted(), parts.mark, len(parts), record, tallies)
    record.samples, record.done = samples, True
    return tallies


def for_workers(source: Any, field: str = "") -> Any:
    """Return a source as processes in another directory open it. Raises InvalidTypeError for one that they cannot open."""
    if is_fields(source):
        return {name: for_workers(part, name) for name, part in source.items()}
    of = f" of {field!r}" if field else ""
    if isinstance(source, (Dataset, ImageSamples)):
        try:
            pickle.dumps(source)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise InvalidTypeError(
                f"The source{of} cannot be sent to other processes ({error}). Give a path, or engine='threads'."
            ) from error
        return source
    paths = source if isinstance(source, (list, tuple)) else [source]
    if not paths or not all(isinstance(path, (str, os.PathLike)) for path in paths):
        raise InvalidTypeError(
            f"The source{of} is a {type(source).__name__}; other processes open files. Give a path, mmapstore.open(path) or "
            "mmapstore.Images(...), or engine='threads'."
        )
    found = [os.path.join(os.getcwd(), path) if os.fspath(path) else "" for path in paths]
    return found[0] if paths[0] is source else found


def require_any_order(source: Source) -> None:
    """Raise InvalidValueError unless any range of samples can be read by itself."""
    if isinstance(source, ZippedSources):
        for part in source.parts.values():
            require_any_order(part)
        return
    why = "gives its samples from the first on"
    if isinstance(source, DatasetSource):
        why = "" if source.paths else "is in the memory of this process"
    elif isinstance(source, ImageSamples):
        skips = source.samples is None or source.fingerprint["left out"]
        why = "skips files, so that the number of a sample shows once those before it are decoded" if skips else ""
    if why:
        raise InvalidValueError(
            f"{source.name} {why}, and workers read any samples by themselves. Ingest it with engine='threads' (no --engine)."
        )
