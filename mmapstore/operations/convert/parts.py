"""A conversion in regions that any process may do, in any order and more than once: planned, done, finished.

`plan_parts` creates the partial target and returns a small plan. `do` converts one region, in any process that reaches the same
paths, and returns a receipt. `finish` merges the receipts, hashes the leaves of the digest that no region holds whole, and
publishes the target with its manifest. The result equals the result of `convert`, and so does its digest. Nothing resumes by
itself: a region without a receipt is done again.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ...files import durable_writes
from ...files.exclusive_lock import exclusive_lock
from ...files.system_errors import explaining_write_errors
from ...formats.contract import StoredArray
from ...plain.c_order import Slabs
from ...plain.content_digest import LeafDigests
from ...plain.digest_leaves import leaves_of
from ...plain.errors import DamagedFileError, InvalidValueError, MmapstoreError, StateMismatchError
from ...plain.manifest import Manifest
from ..flow.casts import Changes
from ..flow.copying import copy, verify_all
from ..flow.journal import Journal
from ..flow.publishing import discard, interrupted_write, publish
from ..flow.record import Record
from ..flow.tally import Tally
from ..flow.target import Target
from ..ingest.description import written_by
from . import origin
from .block_checksums import BlockChecksums
from .copying import FIELD, Slabwise, read_blocks
from .entry import counted, entry_of
from .plan import Plan, call_of, plan_of
from .request import Request

REGION_NBYTES = 256 << 20  # of a region, about: its ends cut two leaves of 64 MiB, which are hashed again at the end


@dataclass(frozen=True)
class Parts:
    """The plan of a conversion in regions: small, picklable, and arithmetic alone.

    Attributes
    ----------
    source, key, source_layout, out, request, max_memory, verify : as `convert` takes them; `max_memory` is for each process
    call : the interrupted call in the journal of the partial target, as JSON
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
        """CRC-32 of the plan, as 8 hex digits: receipts with another are of another conversion."""
        known = {each.name: getattr(self, each.name) for each in fields(self)}
        return f"{zlib.crc32(repr(known).encode()):08x}"

    def opened(self) -> Plan:
        """Open the source. Raises DamagedFileError if the source was changed since the conversion was planned."""
        source = origin.opened(self.source, self.key, self.source_layout)
        plan = plan_of(source, Target.of(self.out, False), self.request, self.max_memory)
        plan = plan.in_slabs(*self.slabs)
        if _call_of(plan, origin.fingerprint(source)) != json.loads(self.call):
            raise DamagedFileError(
                f"{source.name} was changed since its conversion was planned. Plan it anew once nothing writes to it."
            )
        return plan


@dataclass(frozen=True)
class Receipt:
    """The proof that a region is on disk.

    Attributes
    ----------
    mark : `Parts.mark`
    region : its number
    checksums : CRC-32 of each of its slabs, 8 hex digits
    leaves : by number, SHA-256 of each leaf of the digest that the region holds whole
    rounded, clipped : numbers of values that were changed
    """

    mark: str
    region: int
    checksums: tuple[str, ...]
    leaves: Mapping[int, bytes]
    rounded: int = 0
    clipped: int = 0


def plan_parts(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    request: Request,
    *,
    key: str | None = None,
    source_layout: str | None = None,
    max_memory: int = 256_000_000,
    verify: bool = True,
    region_nbytes: int = REGION_NBYTES,
) -> Parts:
    """Create the partial target of a conversion, in place of one that was interrupted, and plan regions of about `region_nbytes`.

    Raises what `convert` raises; InvalidValueError for a target that one process alone can write.
    """
    target = Target.of(out, False)
    found = origin.opened(source, key, source_layout)
    target.require_apart_from(found.paths)
    if not target.writing.takes_parts:
        raise InvalidValueError(
            f"{target.path} cannot be written in parts: {target.format.title} has one writer at a time. Write to .npy or .zarr."
        )
    plan = plan_of(found, target, request, max_memory)
    target.require_directory()
    call = _call_of(plan, origin.fingerprint(found))
    with exclusive_lock(target.lock, target.path):
        target.require_free(False)
        if interrupted_write(target, Record, False) is not None:
            discard(target)
        Journal(target, call, Record(plan.slabs.most_values, {FIELD: 0})).write()
        place = target.place(FIELD)
        place.writing.create(place.path, place.key or None, plan.new).close()
        with explaining_write_errors(target.partial):
            durable_writes.sync_tree(target.partial)
    slab_nbytes = plan.slabs.most_values * plan.new.dtype.itemsize
    return Parts(
        source=os.fspath(source),
        key=key,
        source_layout=source_layout,
        out=os.fspath(out),
        request=request,
        max_memory=max_memory,
        verify=verify,
        call=json.dumps(call),
        slabs=(plan.slabs.axis, plan.slabs.step),
        number_of_slabs=len(plan.slabs),
        together=max(1, region_nbytes // slab_nbytes),
    )


def do(parts: Parts, number: int) -> Receipt:
    """Convert a region, and have it on disk. Any number of processes may do regions, the same one too.

    Raises what reading and writing raise; WriteError if the disk gives something else back than was written.
    """
    slabs, plan = parts.region(number), parts.opened()
    place = plan.target.place(FIELD)
    writer = place.writing.reopen(place.path, place.key or None, replace(plan.new, is_shared=True))
    tally, record = Tally(plan.new.dtype), Record(plan.slabs.most_values, {FIELD: 0})
    tally.digest.update(np.empty(0, plan.new.dtype), plan.slabs.first_value(slabs.start))
    try:
        blocks = read_blocks(plan, slabs.start, slabs.stop, writer.memory_offset, Changes())
        copy(blocks, Slabwise(plan, writer), {FIELD: tally}, Journal(plan.target, {}, record, kept=False), _nothing, parts.verify)
        beside = writer.flushes_beside
    except BaseException:
        with contextlib.suppress(MmapstoreError, OSError, RuntimeError, ValueError):
            writer.close()
        raise
    writer.close()
    checksums = record.checksums[FIELD]
    if parts.verify and not beside:
        stored = plan.target.format.open_array(place.path, place.key or None)
        verify_all(plan.target.path, plan.new, (plan.slabs[each] for each in slabs), checksums, stored)
    if slabs.stop == len(plan.slabs):
        tally.digest.of(plan.new.shape)  # the last leaf ends where the array does
    changes = counted(record)
    return Receipt(parts.mark, number, tuple(checksums), dict(tally.digest.done), changes.rounded, changes.clipped)


def finish(parts: Parts, receipts: Iterable[Receipt]) -> Manifest:
    """Publish the target of regions that are all done, and return its manifest.

    Raises StateMismatchError for receipts of another plan, for regions without a receipt, and for two receipts that differ.
    """
    plan, target = parts.opened(), Target.of(parts.out, False)
    digest, known = LeafDigests(plan.new.dtype), dict[int, Receipt]()
    for receipt in receipts:
        if receipt.mark != parts.mark:
            raise StateMismatchError(f"A receipt is of another conversion ({receipt.mark}); expected those of {parts.mark}.")
        if known.setdefault(receipt.region, receipt).checksums != receipt.checksums:
            raise StateMismatchError(
                f"Region {receipt.region} was done twice with different values: the source was changed meanwhile. Plan it anew."
            )
        digest.done.update(receipt.leaves)
    missing = [str(number) for number in range(len(parts)) if number not in known]
    if missing:
        listed = ", ".join(missing[:10]) + (" ..." if len(missing) > 10 else "")
        raise StateMismatchError(f"{len(missing)} of {len(parts)} regions have no receipt: {listed}. Do them first.")
    with exclusive_lock(target.lock, target.path):
        journal = interrupted_write(target, Record, True)
        if journal is None or journal.call != json.loads(parts.call):
            raise StateMismatchError(f"{target.partial} is not the partial target of these parts. Plan the conversion anew.")
        place = target.place(FIELD)
        _hash_rest(plan.slabs, digest, plan.new.shape, target.format.open_array(place.path, place.key or None))
        checksums = [checksum for number in range(len(parts)) for checksum in known[number].checksums]
        blocks = BlockChecksums(plan)
        kept = tuple(checksums) if blocks.is_kept and blocks.are_pieces else ()
        entry = entry_of(plan, digest, blocks.samples if kept else plan.samples, kept, parts.verify)
        manifest = Manifest({FIELD: entry}, written_by())
        journal.finish(manifest)
        publish(journal, False)
    return manifest


def _hash_rest(slabs: Slabs, digest: LeafDigests, shape: tuple[int, ...], stored: StoredArray) -> None:
    """Hash the leaves that no region held whole, from the slabs of the target that have their values."""
    runs = leaves_of(shape, digest.dtype.itemsize)
    span = runs.run
    for leaf in range(-(-runs.values // span)):
        if leaf in digest.done:
            continue
        start, stop = leaf * span, min(runs.values, (leaf + 1) * span)
        number = slabs.holding(start)
        while number < len(slabs) and slabs.first_value(number) < stop:
            first = slabs.first_value(number)
            box = slabs[number]
            values = np.empty(tuple(part.stop - part.start for part in box), digest.dtype)
            stored.read_box(box, values)
            flat = values.reshape(-1)[max(0, start - first) : stop - first]
            digest.update(flat, max(start, first))
            number += 1
    digest.of(shape)


def _call_of(plan: Plan, mark: dict[str, Any]) -> dict[str, Any]:
    """The call in the journal: another than that of `convert`, which does not resume it."""
    found: dict[str, Any] = json.loads(json.dumps({**call_of(plan, mark), "parts": True}))
    return found


def _nothing(done: int) -> None:
    pass
