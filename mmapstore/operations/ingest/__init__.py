"""`ingest`: arrays, iterables, files, images and videos into `.npy`, HDF5 or Zarr, whole or not at all."""

from __future__ import annotations

import contextlib
import functools
import os
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict, Unpack, overload

from ...files.exclusive_lock import exclusive_lock
from ...files.stored_manifest import write_manifest
from ...files.system_errors import explaining_write_errors
from ...plain.errors import InvalidValueError
from ...plain.manifest import DIRECTORY_MANIFEST
from ...plain.memory_budget import MemoryPlan, parse_bytes
from ..flow import engines
from ..flow.engines import THREADS
from ..flow.journal import Journal
from ..flow.publishing import Earlier, discard, is_published, kept_if_begun, publish
from ..flow.record import Record, grown_paths, name_beside
from ..flow.tally import Tally
from ..flow.target import Target, name_fields, require_field_names
from ..progress import Progress
from .appending import Appended, append_plan, before_of, copy_to_work_on, first_record
from .contract import ONLY, LooksFirst, Source
from .description import written_manifest
from .estimate import Estimate, estimate_of, require_can_be_measured, require_epochs
from .field_write import write_fields
from .parts import IN_REGIONS, for_workers, require_any_order, write_in_regions
from .plan import Options, WritePlan, call_of, recorded_plan, write_plan
from .source_detection import fields_of, images_of, is_source, opened_source, require_source_exists
from .zipped_sources import UnequalFieldsError

__all__ = ["Estimate", "ingest"]

# For all fields, or for each by name.
_Texts = str | Mapping[str, str | None] | None
_Counts = int | Mapping[str, int | None] | None


class _Keywords(TypedDict, total=False):
    """The options of `ingest` that a dry run and a real run share, for type checkers."""

    layout: _Texts
    source_layout: _Texts
    dtype: Any
    compression: _Texts
    chunk_samples: _Counts
    samples: int | None
    max_memory: int | str
    overwrite: bool
    append: bool
    resume: bool
    order: str | None
    seed: int | None
    progress: Callable[[int, int | None], Any] | bool | None
    engine: Any


@overload
def ingest(source: Any, out: str | os.PathLike[str], *, dry_run: Literal[False] = False, **options: Unpack[_Keywords]) -> str: ...


@overload
def ingest(
    source: Any,
    out: str | os.PathLike[str],
    *,
    dry_run: Literal[True],
    epochs: int | None = None,
    train_seconds: float = 0.0,
    **options: Unpack[_Keywords],
) -> Estimate: ...


def ingest(
    source: Any,
    out: str | os.PathLike[str],
    *,
    layout: _Texts = "NCHW",
    source_layout: _Texts = None,
    dtype: Any = None,
    compression: _Texts = None,
    chunk_samples: _Counts = None,
    samples: int | None = None,
    max_memory: int | str = "256MB",
    overwrite: bool = False,
    append: bool = False,
    resume: bool = True,
    order: str | None = None,
    seed: int | None = None,
    progress: Callable[[int, int | None], Any] | bool | None = None,
    engine: Any = THREADS,
    dry_run: bool = False,
    epochs: int | None = None,
    train_seconds: float = 0.0,
) -> str | Estimate:
    """Write a source of any size as one array of samples, or as several that belong together; return what `mmapstore.open` takes.

    All fields are written in one pass over the source. The result appears, with its manifest, when all of it is on disk; until
    then there is `<out>.partial` and its journal, which do not open. After an interruption the same call goes on behind the last
    complete block; every complete block is read back and compared first. The manifest keeps episodes, checksums, a SHA-256 of the
    values, statistics of the values and of x[t+1] - x[t] within episodes, what was left out, and where all of it came from.

    Parameters
    ----------
    source : an ndarray, memory map, HDF5 dataset, Zarr array; whatever NumPy reads as one array, of exactly the values that
        `numpy.asarray` gives (masked values and sparse matrices are errors); whatever `mmapstore.open` takes or returns; an
        iterable of samples or of blocks of samples; a directory, glob or list of `.npy` / `.npz` files (each an episode) or of
        videos (each an episode of RGB frames, needs `mmapstore[video]`); an object that describes its samples itself, as those
        that mmapstore has for images, videos and archives; or a dict by field name of anything with one field, all of one length
    out : "x.npy", "x.h5" (dataset "data"), "x.h5::/name", "x.zarr" (array at the root), "x.zarr::/name". For several fields:
        "x.h5", "x.h5::/group", "x.zarr", "x.zarr::/group" (an array for each field, under its name), or a directory (.npy files)
    layout : the axes as written; the letters that the source has are put into this order. None keeps the order of the source.
        With several fields, a dict by field name is understood here and in the next four
    source_layout : the axes as they come, one letter of N T C D H W each; by default the usual ones for that many axes. With a T,
        samples run along T, and each N is an episode. For an iterable it names the axes of a block; a sample has one axis less.
        Without it, items of an iterable with 4 axes are blocks "NCHW", and others are single samples
    dtype : converts, and refuses the first value that it cannot hold (also fractions to integers); rounding of floats is no refusal
    compression : a name that the format knows: HDF5 "gzip", "lzf" ..., Zarr "zstd", "blosc", "gzip" ...; .npy has none
    chunk_samples : samples in each chunk of HDF5 and Zarr; by default a power of two, in 256 to 512 KiB
    samples : stop after that many; tells also how many an endless iterable should give
    max_memory : bound for the private memory used on the way, in bytes or text; one sample and fixed buffers have to fit. What an
        iterable itself holds is not known and not counted, beyond two of its items
    overwrite : replace what is at `out`, when the new data is whole, and never a container that holds other arrays as well
    append : add the samples, as new episodes, to what an earlier `ingest` left at `out`, in its layout, dtype, chunks and
        compression. All that is there is read once, and compared with its checksums. `.npy` files grow in place, Zarr arrays get
        new chunks, HDF5 files are copied first (an interruption would ruin them); whatever happens, the old data stays whole
    order, seed : of a folder, list or table of images, as `mmapstore.Images` has them: labelled images are written in an order
        mixed by a seed, so that contiguous parts are random parts; order="sorted" keeps that of names. What comes from anywhere
        else stays in its order
    resume : False forgets an interrupted write and starts again
    progress : None shows a bar on a terminal, False nothing; a function is called with (samples done, samples in all or None)
    engine : "threads" of this process; or "processes", "dask", the address of a Dask scheduler, any object with `map(fn, items)`,
        as in `convert`, for regions of about 256 MB into .npy or Zarr. Workers open the source again: a path, what `mmapstore.open`
        returns, `Images`, or a dict of these, but not of .npz or videos, nor in RAM. `max_memory` is for each worker
    dry_run : write nothing, and return an `Estimate` (it prints well): samples, bytes, memory, and the time, judged by what about
        2 seconds were enough to write to a temporary place beside `out`
    epochs, train_seconds : with a dry run, also tell whether ingesting pays for that many epochs, each of which trains so long

    Raises
    ------
    TargetExistsError, WriteError (the state can be resumed), LockedFileError (another run writes to `out` now), MemoryBudgetError,
    StateMismatchError (the interrupted call was another one, or what is appended does not fit), NotFoundError, DamagedFileError,
    MissingPackageError, InvalidValueError, InvalidTypeError

    >>> import os, tempfile
    >>> import numpy as np
    >>> frames = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = ingest(frames, os.path.join(folder, "frames.npy"), source_layout="NHWC")
    ...     np.load(path).shape
    (2, 3, 4, 5)
    """
    budget = parse_bytes(max_memory)
    require_epochs(epochs, train_seconds, dry_run)
    if append and overwrite:
        raise InvalidValueError("append=True adds to what is there, overwrite=True replaces it; choose one.")
    options = Options(layout, source_layout, dtype, compression, chunk_samples, samples)
    in_regions = engine != THREADS
    source = images_of(for_workers(source) if in_regions else source, source_layout, order, seed)
    if in_regions and append:
        raise InvalidValueError("append=True needs engine='threads' (no --engine): one process adds to what is there.")
    if isinstance(source, LooksFirst):
        source.look(budget)
    several = fields_of(source)
    require_source_exists(source)
    if several is not None:
        require_field_names(list(several))
    target = Target.of(out, several is not None or _names_its_fields(source, out))
    if several is not None or not is_source(source):
        options.check(several or {ONLY: source}, several is not None)
    if not target.writing.compressions:
        _refuse_chunk_options(target, options)
    target.require_directory()
    if in_regions:
        target.require_parts("by engine='threads' (no --engine)")
    if dry_run:
        require_can_be_measured(source, several)
        opened = opened_source(source, several, target, options)
        if in_regions:
            require_any_order(opened)
            with engines.opened(engine):
                pass
        target.require_apart_from(opened.paths)
        if append:
            before_of(target, opened, options)
        plan = write_plan(opened, target, options, budget, in_regions)
        target.require_free(overwrite, plan.fields, is_growing=append)
        return estimate_of(plan, target, _fitting_memory(plan, budget), epochs, train_seconds)
    with engines.opened(engine) as workers, exclusive_lock(target.lock, target.path):
        earlier = Earlier(target, Record, resume, lambda each: is_published(each) or (resume and _is_finished_append(each)))
        if hasattr(source, "__next__") and not append and not earlier.published:
            target.require_free(overwrite)  # before the iterator is touched: it gives its first sample once
        opened = opened_source(source, several, target, options)
        if in_regions:
            require_any_order(opened)
        target.require_apart_from(opened.paths)
        earlier.forget_unless_resumed(lambda: None if append else target.require_free(overwrite))
        plan = _appending(opened, target, options) if append else write_plan(opened, target, options, budget, in_regions)
        call = {"target": target.opened_as, **call_of(plan, options)}
        if in_regions:
            before = earlier.journal.call if earlier.journal is not None else {}
            call[IN_REGIONS] = before.get(IN_REGIONS) or uuid.uuid4().hex[:8]
        journal = Journal(target, call)
        if earlier.published and resume and _is_same_call(earlier.journal, journal):
            return target.opened_as
        target.require_free(overwrite, plan.fields, is_growing=append)
        journal = earlier.resumed(journal, plan.fields)
        if journal.record is not None and not append:
            plan = recorded_plan(opened, target, options, journal.record, in_regions)
        _fitting_memory(plan, budget)
        if journal.finished is None:
            write: Callable[..., dict[str, Tally]] = write_fields
            if in_regions:
                given = None if several else source, several, options
                write = functools.partial(write_in_regions, target=target, given=given, max_memory=budget, engine=workers)
            _write_all(plan, target, journal, progress, write)
        publish(journal, overwrite or append)
    return target.opened_as


def _appending(source: Source, target: Target, options: Options) -> WritePlan:
    before = before_of(target, source, options)
    whole = Appended(before, target, source)
    whole.require_whole()
    return append_plan(whole, target, options, before)


def _fitting_memory(plan: WritePlan, max_memory: int) -> MemoryPlan:
    """The prediction. Raises MemoryBudgetError if it is over `max_memory` bytes."""
    memory = plan.memory()
    what = f"Ingesting {plan.source.name}"
    memory.require(max_memory, what, "Give a larger max_memory=, fewer samples in a chunk, or smaller samples.")
    return memory


def _names_its_fields(source: Any, out: str | os.PathLike[str]) -> bool:
    """True for a source that has names for what it gives, unless it is one array for a place that has no name for it."""
    if not is_source(source):
        return False
    return len(source.specs) > 1 or (ONLY not in source.specs and not os.fspath(out).lower().endswith(".npy"))


def _write_all(plan: WritePlan, target: Target, journal: Journal, progress: Any, write: Callable[..., dict[str, Tally]]) -> None:
    complete = journal.record.samples if journal.record else plan.before.complete if plan.before else 0
    bar = Progress(progress, plan.guess or None, plan.sample_nbytes, complete)
    try:
        with contextlib.closing(bar), kept_if_begun(journal):
            if journal.record is None:
                _begin(plan, target, journal)
            record: Record = journal.record
            paths = []
            if target.is_directory_of_fields and not record.grows:
                paths = [field.place.path for field in plan.fields.values()]
            if paths:
                with explaining_write_errors(target.partial):
                    os.makedirs(target.partial, exist_ok=True)
                    name_fields(paths, finished=False)
            tallies = write(plan, journal, bar)
            manifest = written_manifest(plan, target, record, tallies)
            if paths:
                with explaining_write_errors(target.partial):
                    name_fields(paths, finished=True)
                    write_manifest(os.path.join(target.partial, DIRECTORY_MANIFEST), manifest.to_json(), manifest.leaves)
            journal.finish(manifest, grown_paths(target, record))
    except UnequalFieldsError:
        discard(target, grown_paths(target, journal.record))  # the same call would end the same way: nobody can resume
        raise


def _begin(plan: WritePlan, target: Target, journal: Journal) -> None:
    """Put the journal on disk, and a copy of what is appended to where it is worked on."""
    before = plan.before
    if before is None:
        journal.record = Record(plan.block_samples, {name: field.chunk_samples for name, field in plan.fields.items()})
        journal.write()
        return
    record = first_record(plan, before)
    record.began_with = record.blocks
    if before.in_place:
        record.grows = [name_beside(target, field.place.path) for field in plan.fields.values()]
    else:
        journal.write()
        copy_to_work_on(plan, target, record)
    journal.record = record
    journal.write()


def _is_finished_append(journal: Journal) -> bool:
    """True if nothing but the last steps is missing: going on from before them would need the manifest that they move aside."""
    return journal.finished is not None and journal.call.get("append") is not None


def _is_same_call(interrupted: Journal, journal: Journal) -> bool:
    """True if what that call wanted is done, so that nothing is left for this one. What it appended to is not there any more."""
    done, wanted = dict(interrupted.call), dict(journal.call)
    return bool(done.pop("append", None)) == bool(wanted.pop("append")) and done == wanted


def _refuse_chunk_options(target: Target, options: Options) -> None:
    for name, value in (("compression", options.compression), ("chunk_samples", options.chunk_samples)):
        if value is not None:
            raise InvalidValueError(
                f"{name}={value!r} has no place in .npy, which is plain bytes ({target.path}). Leave it out, or write .h5 or .zarr."
            )
