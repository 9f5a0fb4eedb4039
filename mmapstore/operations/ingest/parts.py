"""An ingest in regions of samples that any process may write, in any order and more than once.

Each process opens the source again. A region reads its samples, and writes and checks whole blocks of all fields. Leaves of digests
that the end of a region cuts are a second set of regions: they are read back from the target once all samples are there.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pickle
import threading
import warnings
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ...batches.dataset import Dataset
from ...files.process_memory import PeakMemory
from ...plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError
from ..flow.journal import Journal
from ..flow.parts import Receipt, do_all, kept, merge, without_receipt
from ..flow.receipts import WHOLE, Receipts
from ..flow.record import Record
from ..flow.regions import Regions
from ..flow.tally import Tally
from ..flow.target import Target
from .contract import FitsMemory, Source
from .field_write import create_fields, hash_cut_leaves, tallies_of, write_region
from .images.samples import ImageSamples
from .plan import Options, WritePlan, call_of, recorded_plan
from .source_detection import opened_source
from .sources import DatasetSource
from .zipped_sources import ZippedSources

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
    call : the part of the call that all processes have to share, as JSON
    block_samples, chunk_samples : those of the record; the latter by field
    samples : regions of samples; behind them, a region for each place between two
    """

    given: bytes
    out: str
    named: bool
    max_memory: int
    call: str
    block_samples: int
    chunk_samples: tuple[tuple[str, int], ...]
    samples: Regions

    def __len__(self) -> int:
        return 2 * len(self.samples) - 1

    @property
    def mark(self) -> str:
        """CRC-32 of all that decides on the regions, as 8 hex digits."""
        return f"{zlib.crc32(repr((self.call, self.block_samples, self.chunk_samples, self.samples)).encode()):08x}"

    @property
    def target(self) -> Target:
        return Target.of(self.out, self.named)

    @property
    def empty_record(self) -> Record:
        return Record(self.block_samples, dict(self.chunk_samples))


@functools.lru_cache(maxsize=1)  # a folder of a million images is listed once in each process
def _opened(parts: Parts) -> WritePlan:
    """Open the source. Raises DamagedFileError if the source was changed since the ingest was planned."""
    source, several, options = pickle.loads(parts.given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the caller has seen them
        opened = opened_source(source, several, parts.target, options)
    if isinstance(opened, FitsMemory):
        opened.fit(parts.max_memory)
    plan = recorded_plan(opened, parts.target, options, parts.empty_record)
    if json.dumps(call_of(plan, options)) != parts.call:
        raise DamagedFileError(f"{opened.name} was changed since its ingest was planned. Ingest it once nothing writes to it.")
    return dataclasses.replace(
        plan, fields={name: dataclasses.replace(field, is_shared=True) for name, field in plan.fields.items()}
    )


def do(parts: Parts, number: int) -> Receipt:
    """Write a region, and have it on disk, or hash the leaves that its end cuts. Any process may do it, and do it again.

    Raises what reading and writing raise; WriteError if the disk gives something else back than was written.
    """
    with _opening:
        plan = _opened(parts)
    record, tallies = parts.empty_record, tallies_of(plan)
    with PeakMemory() as memory:  # libraries are loaded by now, which no prediction counts
        if number < len(parts.samples):
            write_region(plan, Journal(parts.target, {}, record, kept=False), parts.samples[number], tallies)
        else:
            hash_cut_leaves(plan, parts.samples, number - len(parts.samples), tallies)
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
        out=target.opened_as,
        named=target.named,
        max_memory=max_memory,
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
    finally:
        _opened.cache_clear()  # of an engine that works in this process
    tallies = tallies_of(plan)
    merge(kept(receipts), parts.mark, len(parts), record, tallies)
    record.samples, record.done = samples, True
    return tallies


def require_files(parts: Mapping[str, Any]) -> None:
    """Raise InvalidTypeError unless other processes can open the sources, given by field ("" for one without a name)."""
    for name, part in parts.items():
        paths = part if isinstance(part, (list, tuple)) else [part]
        if isinstance(part, (Dataset, ImageSamples)) or (paths and all(isinstance(path, (str, os.PathLike)) for path in paths)):
            continue
        raise InvalidTypeError(
            f"The source{f' of {name!r}' if name else ''} is a {type(part).__name__}; other processes open files. Give a path, "
            "mmapstore.open(path) or mmapstore.Images(...), or engine='threads'."
        )


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
