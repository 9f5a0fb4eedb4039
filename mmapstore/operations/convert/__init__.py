"""`convert`: one array from any format that opens into `.npy`, HDF5 or Zarr, with proof that nothing was lost."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

from ...files import durable_writes
from ...files.exclusive_lock import exclusive_lock
from ...files.stored_files import nbytes_on_disk
from ...formats.contract import NewArray
from ...plain.errors import DamagedFileError, InvalidValueError, MmapstoreError, PackedValuesWarning
from ...plain.guessed_axes import warn_of_doubts
from ...plain.manifest import ArrayManifest, Manifest
from ...plain.memory_budget import parse_bytes
from ..flow import engines
from ..flow.casts import Changes, checked_casting
from ..flow.copying import read_back
from ..flow.engines import THREADS
from ..flow.journal import Journal, begun_by_another_call
from ..flow.publishing import Earlier, discard, kept_if_begun, publish
from ..flow.receipts import WHOLE, Part, part_of
from ..flow.record import Record
from ..flow.tally import Tally
from ..flow.target import Target
from ..ingest.description import written_by
from ..progress import Progress
from . import origin
from .copying import FIELD, Slabwise, copy_slabs, counted, written_blocks
from .dropped_metadata import left_behind, lost_in
from .dry_run import estimated
from .origin import Origin
from .parts import LOCK_SECONDS, TOGETHER, do_part, finish_parts, plan_parts, require_in_parts
from .plan import Plan, call_of, plan_of
from .request import Request
from .result import Converted, entry_of, published

__all__ = ["Converted", "convert"]

_SLABS = "slabs"  # of a call: a resumed call takes those of the earlier one


def convert(
    source: Any,
    out: str | os.PathLike[str],
    *,
    key: str | None = None,
    layout: str | None = None,
    source_layout: str | None = None,
    dtype: Any = None,
    casting: str = "exact",
    samples: tuple[int | None, int | None] | slice | None = None,
    compression: str | None = None,
    chunks: tuple[int, ...] | None = None,
    chunk_samples: int | None = None,
    max_memory: int | str = "256MB",
    overwrite: bool = False,
    resume: bool = True,
    dry_run: bool = False,
    unpack: bool = False,
    verify: bool = True,
    progress: Callable[[int, int | None], Any] | bool | None = None,
    engine: Any = THREADS,
    part: str | None = None,
) -> Converted:
    """Copy one array into another format, as it is unless something else is asked for, and check what was written.

    Values are read in threads, digested (SHA-256 of all values, the same in any format), written, put on disk, read back and
    compared; then the result appears under its name with a manifest beside it. Until then there is `<out>.partial` and its
    journal, which do not open. After a kill at any moment the same call goes on behind what was recorded.

    Parameters
    ----------
    source : whatever `mmapstore.open` takes and holds one array: "a.h5::/frames", "a.nc", "a.mat" (v7.3), a Zarr store (2 or 3), a
        .npy file, a list or glob of files (joined), a live array
    out : "x.npy", "x.h5" (dataset "data"), "x.h5::/name", "x.zarr" (array at the root), "x.zarr::/name"
    key : the array inside the source, instead of "::"
    layout : the order of the axes of the target, one letter each, such as "NCHW"; None keeps the stored order
    source_layout : what the stored axes are; by default the usual letters for that many, or what a manifest says
    dtype, casting : the dtype of the target. "exact" refuses the first value that is not the same number in it; "round" takes the
        nearest (halves to even) and refuses what is out of range; "clip" takes the end of the range for that. Both are counted
    samples : (start, stop) or a slice: convert these alone
    compression : "gzip", "zstd", "blosc" ... as the format knows it; "none". None keeps that of the source where the target has it
    chunks, chunk_samples : the shape of a chunk of the target, or how many whole samples it holds. None keeps the chunks of the
        source; where neither has any, HDF5 is written contiguous, which maps, and Zarr in chunks of 256 to 512 KiB.
        Where chunks, dtype and codecs stay as they are, encoded chunks are copied without being encoded again
    max_memory : bound for the private memory used on the way, in bytes or text. Where the chunks of the source are cut across the
        order of the target, more of it means fewer decodes: `dry_run` tells
    overwrite : replace what is at `out`, when the new data is whole, and never a container that holds other arrays as well
    resume : False forgets an interrupted conversion and starts again
    dry_run : write nothing; sizes, chunks, decodes, memory, and an estimate of the time from a timed sample
    unpack : numbers that are packed as the CF conventions of NetCDF say (`scale_factor`, `add_offset`, `_Unsigned`) become what
        they stand for, in the float dtype that holds them and these attributes; "no value" (`_FillValue`, `missing_value`,
        `valid_min`, `valid_max`, `valid_range`, NetCDF's own fill) becomes NaN, all as netCDF4-python reads them. An integer
        `dtype` refuses the first NaN. Without `unpack` stored numbers are kept, with a warning
    verify : False trusts the disk: saves reading the target once, some 10 % of the time for .npy and up to half for what has to
        be decoded
    progress : None shows a bar on a terminal, False nothing; a function is called with (samples done, samples in all)
    engine : "threads" of this process; "processes", as many as there are CPUs; "dask", the current client of a cluster, a
        `distributed.Client`, or the address of a scheduler ("tcp://host:8786"); any object with `map(fn, items)`. Others than
        threads convert regions of about 256 MB into .npy or Zarr; `max_memory` is for each worker, and workers reach the same paths
    part : "i/n" converts part i of n (from 0) of the regions and leaves the rest to other processes, on any machine, in any order;
        "finish" publishes the target once all parts are done; both do nothing for a target that they published before

    Raises
    ------
    The errors of `mmapstore.open` for the source; TargetExistsError, WriteError (the state can be resumed), LockedFileError,
    MemoryBudgetError, StateMismatchError (the interrupted call was another one), DamagedFileError (also if the source changes
    while it is read), MissingPackageError, InvalidValueError (also the first value that a dtype does not hold), InvalidTypeError

    >>> import os, tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(os.path.join(folder, "a.npy"), np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    ...     done = convert(os.path.join(folder, "a.npy"), os.path.join(folder, "b.npy"), dtype="uint8", samples=(1, 2))
    ...     np.load(done.path)[0, 0], done.nbytes, done.verified
    (array([12, 13, 14, 15], dtype=uint8), 12, True)
    """
    budget = parse_bytes(max_memory)
    request = Request(layout, dtype, checked_casting(casting), samples, compression, chunks, chunk_samples, unpack)
    target = Target.of(out, False)
    found = origin.opened(source, key, source_layout)
    _warn_of_guesses(found, unpack)
    target.require_apart_from(found.paths)
    plan = plan_of(found, target, request, budget)
    target.require_directory()
    share = part_of(part) if part not in (None, "finish") else WHOLE
    if dry_run and part == "finish":
        raise InvalidValueError(
            "There is nothing to try for part='finish': it publishes once all parts are done, and names those that are not."
        )
    if dry_run and (part is not None or engine != THREADS):
        require_in_parts(source, target)
        with engines.opened(engine):
            pass
    elif part is not None or engine != THREADS:
        options = {"key": key, "source_layout": source_layout, "max_memory": budget, "verify": verify, "overwrite": overwrite}
        return _in_parts(plan, (source, out, request), {**options, "resume": resume}, engine, part, share, progress)
    if dry_run:
        seconds, stored = estimated(plan, verify)
        return _result(plan, stored, seconds, Changes(), dry_run=True)
    began = time.monotonic()
    with exclusive_lock(target.lock, target.path):
        journal, plan = _write_whole(plan, budget, overwrite, resume, verify, progress)
    assert journal.finished is not None and journal.finished.manifest is not None
    entry = Manifest.from_json(journal.finished.manifest, target.manifest_path).fields[FIELD]
    done = _result(plan, nbytes_on_disk(target.path), time.monotonic() - began, counted(journal.record))
    return dataclasses.replace(done, sha256=entry.sha256, verified=verify)


def _in_parts(
    plan: Plan, call: tuple[Any, ...], options: dict[str, Any], engine: Any, part: str | None, share: Part, progress: Any
) -> Converted:
    """Convert all regions, or those of a part, or publish what parts have done."""
    if part is not None and not options["resume"]:
        raise InvalidValueError(
            "resume=False with part= would delete the other parts. To start again, delete the .partial files first."
        )
    began = time.monotonic()
    with exclusive_lock(plan.target.lock, plan.target.path, LOCK_SECONDS):
        entry = published(plan) if part == "finish" or (part is not None and not options["overwrite"]) else None
    if entry is not None:
        result = _result(plan, nbytes_on_disk(plan.target.path), 0, Changes())
        is_verified = bool((entry.provenance or {}).get("verified"))
        return dataclasses.replace(result, sha256=entry.sha256, verified=is_verified, was_published=True)
    with engines.opened(engine) as workers:
        parts = plan_parts(*call, **options, count=share.count, begins=part != "finish")
        plan = plan.in_slabs(*parts.slabs)
        try:
            done = do_part(parts, share, workers, progress) if part != "finish" else 0
        except BaseException:
            if part is None and not plan.target.has_receipts and os.path.isdir(plan.target.receipts):
                discard(plan.target)  # nothing to go on from: leave nothing behind
            raise
    if part not in (None, "finish"):
        return dataclasses.replace(
            _result(plan, 0, time.monotonic() - began, Changes()), part=str(share), regions=(done, len(parts))
        )
    manifest, receipts = finish_parts(parts, options["overwrite"])
    changes = sum((Changes(**each.counts) for each in {each.region: each for each in receipts}.values()), Changes())
    result = _result(plan, nbytes_on_disk(plan.target.path), time.monotonic() - began, changes)
    peak = max((receipt.peak_nbytes for receipt in receipts), default=0)
    return dataclasses.replace(result, sha256=manifest.fields[FIELD].sha256, verified=options["verify"], peak_nbytes=peak)


def _write_whole(plan: Plan, budget: int, overwrite: bool, resume: bool, verify: bool, progress: Any) -> tuple[Journal, Plan]:
    """Resume or begin, write, check and publish. Return the finished journal, and the plan that was written."""
    target, source = plan.target, plan.origin
    mark = origin.fingerprint(source)
    journal = Journal(target, call_of(plan, mark))
    earlier = Earlier(target, Record, resume)
    if earlier.published and resume and {**earlier.journal.call, _SLABS: None} == {**journal.call, _SLABS: None}:
        return earlier.journal, plan
    target.require_free(overwrite)
    earlier.forget_unless_resumed(lambda: None)
    if earlier.journal is not None and TOGETHER in earlier.journal.call:
        raise begun_by_another_call(target, ["it is converted in parts (part=, --part, or an engine)"])
    journal = earlier.resumed(journal, [FIELD], [_SLABS])
    if journal is earlier.journal:
        plan = _as_recorded(plan, journal, budget)
    if journal.finished is None:
        with kept_if_begun(journal):
            entry = _write(plan, journal, verify, progress)
            if origin.fingerprint(source) != mark:
                raise DamagedFileError(
                    f"{source.name} was changed while it was read. Nothing was put in place; convert it once nothing writes to it."
                )
        journal.finish(Manifest({FIELD: entry}, written_by()))
    publish(journal, overwrite)
    return journal, plan


def _write(plan: Plan, journal: Journal, verify: bool, progress: Any) -> ArrayManifest:
    """Put all slabs on disk; return the entry of the manifest."""
    place = plan.target.place(FIELD)
    with contextlib.closing(Progress(progress, plan.samples, plan.nbytes // plan.samples, 0)) as bar:
        tally = Tally(plan.new.dtype)
        sink = _reopened(plan, journal.record, tally) if journal.record is not None else None
        if sink is None:
            tally = Tally(plan.new.dtype)
            journal.record = Record(plan.slabs.most_values, {FIELD: 0})
            durable_writes.remove(place.path)
        journal.rewrite()
        sink = sink or Slabwise(plan, place.writing.create)
        copy_slabs(plan, range(len(plan.slabs)), sink, tally, journal, bar, verify)
    return entry_of(plan, tally.digest, journal.record.checksums[FIELD], verify)


def _reopened(plan: Plan, record: Record, tally: Tally) -> Slabwise | None:
    """Open the target that an interrupted call left, and cut `record` down to what is right; None to begin again."""
    place = plan.target.place(FIELD)
    if not record.blocks or not os.path.lexists(place.path):
        return None
    try:
        sink = Slabwise(plan, place.writing.reopen)
    except (MmapstoreError, OSError):
        return None  # killed while the library had its own bookkeeping half written: nothing can be trusted
    written = list(written_blocks(plan, 0, record.blocks))
    right = read_back(written, record, sink.read, {FIELD: tally})
    if right == 0 or (right < len(written) and any(record.counts.values())):  # what was counted is not known slab by slab
        sink.close()
        return None
    record.keep(right, written[right - 1].samples)
    return sink


def _as_recorded(plan: Plan, journal: Journal, budget: int) -> Plan:
    """In the slabs of the interrupted call: its checksums are of those, whatever fits now."""
    shape, slabs = plan.slabs.shape, journal.call.get("slabs")
    match slabs:
        case [int(axis), int(step)] if step > 0 and (0 <= axis < len(shape) or not shape):
            plan = plan.in_slabs(axis, step)
        case _:
            raise begun_by_another_call(plan.target, [f"slabs {slabs!r}, now {plan.slabs.axis, plan.slabs.step}"])
    if journal.record is not None and len(journal.record.checksums[FIELD]) > len(plan.slabs):
        raise begun_by_another_call(plan.target, [f"more than the {len(plan.slabs)} slabs there are"])
    plan.memory().require(
        budget, f"Going on with {plan.target.partial}", "Give the max_memory= it was begun with, or resume=False."
    )
    return plan


def _result(plan: Plan, stored_nbytes: int, seconds: float, changed: Changes, dry_run: bool = False) -> Converted:
    decodings, source_chunks = plan.decodes
    return Converted(
        path=plan.target.opened_as,
        source=plan.origin.name,
        shape=plan.new.shape,
        dtype=str(plan.new.dtype),
        layout=plan.layout,
        nbytes=plan.nbytes,
        stored_nbytes=stored_nbytes,
        memory=plan.memory(),
        seconds=round(seconds, 3),
        rounded=changed.rounded,
        clipped=changed.clipped,
        chunks=plan.target_chunks,
        chunks_copied=plan.copies_chunks,
        decodes=decodings,
        source_chunks=source_chunks,
        dry_run=dry_run,
        changes=tuple(_changes(plan, changed)),
        notes=tuple(_remarks(plan)),
    )


def _changes(plan: Plan, changed: Changes) -> list[str]:
    """Return in words the differences of the target from the source."""
    found = []
    if plan.layout != plan.origin.layout:
        found.append(f"axes {plan.origin.layout} to {plan.layout}")
    if plan.shape != plan.origin.shape:
        axis = next(axis for axis, n in enumerate(plan.shape) if n != plan.origin.shape[axis])
        found.append(f"samples [{plan.first[axis]}, {plan.first[axis] + plan.shape[axis]}) of {plan.origin.shape[axis]}")
    if plan.packing is not None:
        found.append(f"unpacked to {plan.packing.dtype}: {plan.packing}")
    if not plan.cast.is_copy:
        found.append(f"{plan.cast.source} to {plan.cast.target}: {changed.rounded} values rounded, {changed.clipped} clipped")
    elif plan.packing is None and not plan.origin.dtype.isnative:
        found.append("byte order to that of this machine")
    chunks = tuple(plan.origin.chunks[axis] for axis in plan.axes) if plan.origin.chunks else None
    if plan.new.chunks is not None and chunks is not None and not _is_same_cut(plan.new, chunks):
        found.append(f"chunks of {chunks} to {plan.new.chunks}")
    lost = lost_in(plan.target.writing, plan.origin.attributes, plan.packing is not None)
    if lost:
        found.append(f"attributes that {plan.target.path} has no place for, kept in its manifest: {', '.join(lost[:20])}")
    return found


def _is_same_cut(new: NewArray, chunks: tuple[int, ...]) -> bool:
    """Chunks longer than the array are the same as those that end with it."""
    return new.chunks == tuple(min(each, length) for each, length in zip(chunks, new.shape, strict=True))


def _remarks(plan: Plan) -> list[str]:
    found = []
    if isinstance(plan.origin, origin.Stored) and plan.origin.is_plain and not _changes_values(plan):
        found.append(f"{plan.origin.name} needs no conversion: its bytes lie in one piece, and mmapstore maps them where they are.")
    if plan.packing is None and (words := _packed_words(plan.origin)):
        found.append(words)
    if plan.origin.stored is not None and (
        left := left_behind(plan.origin.name, plan.origin.shape, plan.new.like is not None or plan.packing is not None)
    ):
        found.append(left)
    return found


def _changes_values(plan: Plan) -> bool:
    return not plan.is_as_it_comes or plan.shape != plan.origin.shape or plan.new.chunks is not None


def _warn_of_guesses(found: Origin, unpack: bool) -> None:
    warn_of_doubts(found.doubts, "source_layout", stacklevel=3)
    if not unpack and (words := _packed_words(found)):
        warnings.warn(words, PackedValuesWarning, stacklevel=3)
    if unpack and not found.packed:
        raise InvalidValueError(
            f"unpack=True, but {found.name} is not packed: it holds {found.dtype} without scale_factor, add_offset, _FillValue or "
            "another attribute of the CF conventions that changes a value. Leave it out."
        )


def _packed_words(found: Origin) -> str:
    packing = next((each.packing for each in found.packed if each.packing.misleads), None)
    if packing is None:
        return ""
    return (
        f"{found.name} holds packed values ({packing}), and is copied as stored. "
        f"Pass unpack=True (--unpack) to write the values themselves as {packing.dtype}."
    )
