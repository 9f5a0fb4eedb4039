"""A conversion in regions that any process may do, in any order and more than once: planned, done, finished.

`plan_parts` creates the partial target and returns a small plan; the same call elsewhere finds that plan. `do` converts one region,
in any process that reaches the same paths, and returns a receipt. `finish` merges the receipts, and publishes the target with its
manifest. The result equals the result of `convert`, and so does its digest. `do_part` does a share of the regions with an engine,
and keeps their receipts beside the target, where `finish_parts` finds them.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...files import durable_writes
from ...files.exclusive_lock import exclusive_lock
from ...files.process_memory import PeakMemory
from ...files.system_errors import explaining_write_errors
from ...plain.content_digest import LeafDigests
from ...plain.digest_leaves import leaves_of
from ...plain.errors import DamagedFileError, InvalidValueError, MmapstoreError, NotFoundError, StateMismatchError
from ...plain.manifest import Manifest
from ..flow.casts import Changes
from ..flow.copying import Block
from ..flow.journal import Journal, begun_by_another_call, found_journal, require_same_call
from ..flow.parts import Receipt, do_all, kept, merge, without_receipt
from ..flow.publishing import discard, interrupted_write, publish
from ..flow.receipts import Part, Receipts, late
from ..flow.record import Record
from ..flow.tally import Tally
from ..flow.target import Target
from ..ingest.description import written_by
from ..progress import Progress
from . import origin
from .copying import FIELD, Slabwise, copy_slabs, read_blocks
from .plan import Plan, call_of, plan_of
from .request import Request
from .result import entry_of

REGION_NBYTES = 256 << 20  # of a region, at most: the rest of its last leaf, 32 MiB on average, is read in two regions
TOGETHER, _PLAN = "slabs in each region", "plan"  # in the call of the journal
LOCK_SECONDS = 60.0  # to wait for the process that plans or finishes


@dataclass(frozen=True)
class Parts:
    """The plan of a conversion in regions: small, picklable, and arithmetic alone.

    Attributes
    ----------
    source, key, source_layout, out, request, max_memory, verify : as `convert` takes them; `max_memory` is for each process
    call : the call in the journal of the partial target, as JSON
    slabs : (axis, step) of the slabs of the target
    number_of_slabs, together : slabs in all, and in each region
    """

    source: str
    key: str | None
    source_layout: str | None
    out: str
    request: Request
    max_memory: int
    verify: bool
    call: str
    slabs: tuple[int, int]
    number_of_slabs: int
    together: int

    def __len__(self) -> int:
        return -(-self.number_of_slabs // self.together)

    def region(self, number: int) -> range:
        """Return the numbers of the slabs in a region. Raises InvalidValueError for a region that there is not."""
        if not 0 <= number < len(self):
            raise InvalidValueError(f"Region {number} is asked for; expected one of 0 to {len(self) - 1}.")
        first = number * self.together
        return range(first, min(first + self.together, self.number_of_slabs))

    @property
    def mark(self) -> str:
        """CRC-32 of the call in the journal, as 8 hex digits: receipts with another are of another conversion."""
        return f"{zlib.crc32(self.call.encode()):08x}"

    def opened(self) -> Plan:
        """Open the source. Raises DamagedFileError if the source was changed since the conversion was planned."""
        source = origin.opened(self.source, self.key, self.source_layout)
        plan = plan_of(source, Target.of(self.out, False), self.request, self.max_memory)
        plan = plan.in_slabs(*self.slabs)
        call = json.loads(self.call)
        if _call_of(plan, origin.fingerprint(source), call) != call:
            raise DamagedFileError(
                f"{source.name} was changed since its conversion was planned. Plan it anew once nothing writes to it."
            )
        return plan

    def journal(self, is_finished: bool = True) -> Journal:
        """Return the journal of the plan. Raises StateMismatchError if there is none, or a finished one and not `is_finished`."""
        found = found_journal(Target.of(self.out, False), Record)
        if found is None or found.call != json.loads(self.call) or (found.finished is not None and not is_finished):
            raise late(self.out)
        return found


def plan_parts(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    request: Request,
    *,
    key: str | None = None,
    source_layout: str | None = None,
    max_memory: int = 256_000_000,
    verify: bool = True,
    overwrite: bool = False,
    resume: bool = True,
    count: int = 1,
    begins: bool = True,
    region_nbytes: int = REGION_NBYTES,
) -> Parts:
    """Return the plan of a conversion in regions, and create its partial target if no process did that before.

    Parameters
    ----------
    overwrite, resume : as `convert` takes them
    count : regions are as many, or some times as many
    begins : False finds the plan of an interrupted call, and makes none
    region_nbytes : of a region, about, unless a slab has more

    Raises what `convert` raises; InvalidValueError for a target that one process alone can write; NotFoundError without a plan.
    """
    target = Target.of(out, False)
    require_in_parts(source, target)
    found = origin.opened(source, key, source_layout)
    target.require_apart_from(found.paths)
    plan = plan_of(found, target, request, max_memory)
    target.require_directory()
    mark = origin.fingerprint(found)
    with exclusive_lock(target.lock, target.path, LOCK_SECONDS):
        interrupted = interrupted_write(target, Record, resume)
        if interrupted is not None and (not resume or interrupted.record is None):  # the latter was killed while it planned
            discard(target)
            interrupted = None
        if interrupted is None:
            target.require_free(overwrite)
            if not begins:
                raise NotFoundError(
                    f"There is no {target.partial}: no part of {target.path} was converted yet. Convert the parts first."
                )
            slab_nbytes = plan.slabs.most_values * plan.new.dtype.itemsize
            regions = count * -(-len(plan.slabs) * slab_nbytes // (count * region_nbytes))
            together = -(-len(plan.slabs) // regions)
            journal = Journal(target, _call_of(plan, mark, {TOGETHER: together, _PLAN: uuid.uuid4().hex[:8]}))
            _create(plan, journal)
        else:
            journal = interrupted
            axis, step, together = _cut_of(interrupted)
            plan = plan.in_slabs(axis, step)
            require_same_call(journal, Journal(target, _call_of(plan, mark, journal.call)), [FIELD])
            plan.memory().require(max_memory, f"Going on with {target.partial}", "Give the max_memory= it was planned with.")
    return Parts(
        source=os.path.join(os.getcwd(), source),  # workers may have another working directory
        key=key,
        source_layout=source_layout,
        out=os.path.join(os.getcwd(), out),
        request=request,
        max_memory=max_memory,
        verify=verify,
        call=json.dumps(journal.call, sort_keys=True),
        slabs=(plan.slabs.axis, plan.slabs.step),
        number_of_slabs=len(plan.slabs),
        together=together,
    )


def require_in_parts(source: Any, target: Target) -> None:
    """Raise InvalidValueError for a source that other processes cannot open, or a target that they cannot write."""
    if not isinstance(source, (str, os.PathLike)):
        raise InvalidValueError(
            f"The source is a {type(source).__name__}; other processes open a path. Give a path or engine='threads'."
        )
    target.require_parts("one file for each range of samples (samples=, --samples), which mmapstore.open('parts/*.h5') joins")


def _create(plan: Plan, journal: Journal) -> None:
    """Create the partial target on disk; the journal has a record once it is there."""
    target = journal.output
    journal.write()
    Receipts.begin(target)
    place = plan.target.place(FIELD)
    place.writing.create(place.path, place.key or None, plan.new).close()
    with explaining_write_errors(target.partial):
        durable_writes.sync_tree(target.partial)
    journal.record = Record(plan.slabs.most_values, {FIELD: 0})
    journal.rewrite()


def _cut_of(journal: Journal) -> tuple[int, int, int]:
    """Return (axis, step, slabs in each region) of an interrupted call."""
    match journal.call.get("slabs"), journal.call.get(TOGETHER):
        case [int(axis), int(step)], int(together) if step > 0 and axis >= 0 and together > 0:
            return axis, step, together
    raise begun_by_another_call(journal.output, ["it is not converted in parts"])


def do(parts: Parts, number: int) -> Receipt:
    """Convert a region, and have it on disk. Any number of processes may do regions, the same one too.

    Raises what reading and writing raise; WriteError if the disk gives something else back than was written.
    """
    slabs = parts.region(number)
    parts.journal(is_finished=False)
    plan = parts.opened()
    tally, record = Tally(plan.new.dtype), Record(plan.slabs.most_values, {FIELD: 0})
    tally.digest.update(np.empty(0, plan.new.dtype), plan.slabs.first_value(slabs.start))
    try:
        sink = _Shared(parts, plan)
        with PeakMemory() as memory:  # libraries are loaded by now, which no prediction counts
            copy_slabs(plan, slabs, sink, tally, Journal(plan.target, {}, record, kept=False), lambda done: None, parts.verify)
            _hash_tail(plan, slabs, tally.digest)
    except (MmapstoreError, OSError):
        parts.journal(is_finished=False)  # which says why, if the call is late
        raise
    return Receipt.of(parts.mark, number, record, {FIELD: tally}, memory.nbytes)


class _Shared(Slabwise):
    """The partial target, which other processes write too, and may publish."""

    def __init__(self, parts: Parts, plan: Plan) -> None:
        super().__init__(plan, plan.target.writing.reopen, is_shared=True)
        self._parts = parts

    def write(self, block: Block) -> None:
        self._parts.journal(is_finished=False)
        super().write(block)


def do_part(parts: Parts, part: Part, engine: Any, progress: Any = False) -> int:
    """Do the regions of a part that have no receipt yet, with an engine, and keep their receipts beside the target.

    Returns the number of regions that were done. Raises what `do` and the engine raise; the receipts of other regions are kept.
    """
    if parts.journal().finished is not None:
        return 0
    plan, regions, receipts = parts.opened(), part.regions(len(parts)), Receipts(Target.of(parts.out, False), parts.mark)
    missing, samples = without_receipt(regions, part, receipts), _samples_of(parts, plan, regions)
    bar = Progress(progress, samples, plan.nbytes // plan.samples, samples - _samples_of(parts, plan, missing))

    def report(left: Collection[int]) -> None:
        bar(samples - _samples_of(parts, plan, left))

    with contextlib.closing(bar):
        do_all(do, parts, missing, part, receipts, engine, plan.memory().total, report)
    return len(missing)


def _samples_of(parts: Parts, plan: Plan, regions: Collection[int]) -> int:
    """Return the number of samples in regions, rounded down; all but the last hold as much."""
    most = min(plan.samples, parts.together * plan.slabs.most_values // plan.sample_values)
    return min(plan.samples, len(regions) * most)


def finish_parts(parts: Parts, overwrite: bool) -> tuple[Manifest, list[Receipt]]:
    """Publish a target whose regions have receipts beside it; return its manifest and the receipts.

    Raises what `finish` raises, with the parts of the work that are missing.
    """
    target = Target.of(parts.out, False)
    with exclusive_lock(target.lock, target.path, LOCK_SECONDS):
        journal = parts.journal()
        if journal.finished is not None and journal.finished.manifest is not None:
            publish(journal, overwrite)  # killed on its last steps
            return Manifest.from_json(journal.finished.manifest, target.manifest_path), []
    receipts = list(kept(beside := Receipts(target, parts.mark)))
    if missing := sorted(set(range(len(parts))) - {receipt.region for receipt in receipts}):
        again = ", ".join(beside.parts_of(missing, len(parts)))
        raise StateMismatchError(
            f"{parts.out} is not whole: {len(missing)} of {len(parts)} regions have no receipt. Do these parts (again): {again}."
        )
    return finish(parts, receipts, overwrite), receipts


def finish(parts: Parts, receipts: Iterable[Receipt], overwrite: bool = False) -> Manifest:
    """Publish the target of regions that are all done, and return its manifest.

    Raises StateMismatchError for receipts of another plan, for regions without a receipt, and for two receipts that differ.
    """
    plan, target = parts.opened(), Target.of(parts.out, False)
    record, tally = Record(plan.slabs.most_values, {FIELD: 0}), Tally(plan.new.dtype)
    merge(receipts, parts.mark, len(parts), record, {FIELD: tally})
    with exclusive_lock(target.lock, target.path, LOCK_SECONDS):
        journal, place = parts.journal(), target.place(FIELD)
        place.writing.reopen(place.path, place.key or None, plan.new).close()  # removes files of processes that were killed
        manifest = Manifest({FIELD: entry_of(plan, tally.digest, record.checksums[FIELD], parts.verify)}, written_by())
        journal.finish(manifest)
        publish(journal, overwrite)
    return manifest


def _hash_tail(plan: Plan, slabs: range, digest: LeafDigests) -> None:
    """Hash the end of the leaf that began in these slabs and goes on behind them: so each leaf is hashed whole by one process."""
    total, run = plan.nbytes // plan.new.dtype.itemsize, leaves_of(plan.new.shape, plan.new.dtype.itemsize).run
    first, stop = (plan.slabs.first_value(number) if number < len(plan.slabs) else total for number in (slabs.start, slabs.stop))
    began = (stop - 1) // run * run
    end = min(total, began + run) if began >= first else stop
    if stop < end:
        behind = plan.slabs.holding(end - 1) + 1
        with contextlib.closing(read_blocks(plan, slabs.stop, behind, lambda box: 0, Changes())) as blocks:
            for block in blocks:
                values = block.values[FIELD].reshape(-1)[: end - stop]
                digest.update(values)
                stop += len(values)
    if end == total:
        digest.of(plan.new.shape)  # the last leaf ends where the array does


def _call_of(plan: Plan, mark: dict[str, Any], cut: Mapping[str, Any]) -> dict[str, Any]:
    """The call in the journal: another than that of `convert`, which does not resume it, nor does another plan of the same call."""
    found: dict[str, Any] = json.loads(json.dumps({**call_of(plan, mark), TOGETHER: cut[TOGETHER], _PLAN: cut.get(_PLAN)}))
    return found
