"""`ingest`: arrays, iterables, files and videos into one `.npy`, HDF5 or Zarr array, whole or not at all."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ...files import file_io
from ...files.exclusive_lock import exclusive_lock
from ...plain.errors import InvalidTypeError, InvalidValueError, StateMismatchError
from ...plain.manifest import DIRECTORY_MANIFEST, ArrayManifest, Manifest
from ...plain.memory_budget import parse_bytes
from . import field_write
from .conversion import Conversion
from .field_write import FieldPlan
from .journal import FieldRecord, Journal, discard, found_journal, is_published, publish
from .progress import Progress
from .recognition import fields_of, source_of
from .target import Target, field_target, name_fields, require_field_names

__all__ = ["ingest"]


def ingest(
    source: Any,
    out: str | os.PathLike[str],
    *,
    layout: str | Mapping[str, str | None] | None = "NCHW",
    source_layout: str | Mapping[str, str | None] | None = None,
    dtype: Any = None,
    compression: str | None = None,
    chunk_samples: int | None = None,
    samples: int | None = None,
    max_memory: int | str = "256MB",
    overwrite: bool = False,
    resume: bool = True,
    progress: Callable[[int, int | None], Any] | bool | None = None,
) -> str:
    """Write a source of any size as one array of samples, and return what `mmapstore.open` takes.

    The result appears, with its manifest, when all of it is on disk; until then there is `<out>.partial` and its journal, which
    do not open. After an interruption the same call goes on behind the last complete block; every complete block is read back and
    compared first.

    Parameters
    ----------
    source : an ndarray, memory map, HDF5 dataset, Zarr array; whatever `mmapstore.open` takes or returns; an iterable of samples or
        of blocks of samples; a directory, glob or list of `.npy` / `.npz` files (each an episode) or of videos (each an episode of
        RGB frames, needs `mmapstore[video]`); or a dict of these by field name, written into the directory `out`, all of one length
    out : "x.npy", "x.h5" (dataset "data"), "x.h5::/name", "x.zarr" (array at the root), "x.zarr::/name"; a directory for a dict
    layout : the axes as written; the letters that the source has are put into this order. None keeps the order of the source.
        With a dict of fields, a dict by field name is understood here and in `source_layout` and `dtype`
    source_layout : the axes as they come, one letter of N T C D H W each; by default the usual ones for that many axes. With a T,
        samples run along T, and each N is an episode. For an iterable it names the axes of a block; a sample has one axis less.
        Without it, items of an iterable with 4 axes are blocks "NCHW", and others are single samples
    dtype : converts, and refuses the first value that it cannot hold (also fractions to integers); rounding of floats is no refusal
    compression : a name that the format knows: HDF5 "gzip", "lzf" ..., Zarr "zstd", "blosc", "gzip" ...; .npy has none
    chunk_samples : samples in each chunk of HDF5 and Zarr; by default about 512 KiB
    samples : stop after that many; tells also how many an endless iterable should give
    max_memory : bound for the private memory used on the way, in bytes or text; one sample and fixed buffers have to fit. What an
        iterable itself holds is not known and not counted, beyond two of its items
    overwrite : replace what is at `out`, when the new data is whole, and never a container that holds other arrays as well
    resume : False forgets an interrupted write and starts again
    progress : None shows a bar on a terminal, False nothing; a function is called with (samples done, samples in all or None)

    Raises
    ------
    TargetExistsError, WriteError (the state can be resumed), LockedFileError (another run writes to `out` now), MemoryBudgetError,
    StateMismatchError (the interrupted call was another one), NotFoundError, DamagedFileError, MissingPackageError,
    InvalidValueError, InvalidTypeError

    >>> import os, tempfile
    >>> import numpy as np
    >>> frames = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = ingest(frames, os.path.join(folder, "frames.npy"), source_layout="NHWC")
    ...     np.load(path).shape
    (2, 3, 4, 5)
    """
    budget = parse_bytes(max_memory)
    several = fields_of(source)
    target = Target.of(out, several is not None)
    _check_numbers(samples, chunk_samples)
    if target.format in ("", "npy_file"):
        _refuse_chunk_options(target, compression, chunk_samples)
    if several is not None:
        require_field_names(list(several))
    target.require_directory()
    with exclusive_lock(target.lock, target.path):
        interrupted = _interrupted(target, resume)
        published = interrupted is not None and is_published(interrupted)
        if interrupted is not None and published:
            publish(interrupted, overwrite=True)
        elif hasattr(source, "__next__"):
            target.require_free(overwrite)  # before the iterator is touched: it gives its first sample once
        plans = _plans(source, several, target, layout, source_layout, dtype, compression, chunk_samples, samples, budget)
        for plan in plans.values():
            target.require_apart_from(plan.source.paths)
        call = {"target": target.opened_as, "fields": {name: field_write.call_of(plan) for name, plan in plans.items()}}
        journal = Journal(target, call)
        if interrupted is not None and published and resume and interrupted.call == journal.call:
            return target.opened_as
        target.require_free(overwrite)
        if interrupted is not None and not published:
            if not resume:
                discard(target)
            else:
                _require_same_call(interrupted, journal)
                journal = interrupted
        plans = {name: _as_recorded(plan, journal.fields.get(name), budget) for name, plan in plans.items()}
        for plan in plans.values():
            plan.memory().require(budget, f"Ingesting {plan.source.name}", "Give a larger max_memory=, or smaller samples.")
        if journal.manifest is None:
            _write_all(plans, journal, progress)
        publish(journal, overwrite)
    return target.opened_as


def _interrupted(target: Target, resume: bool) -> Journal | None:
    try:
        return found_journal(target)
    except StateMismatchError:
        if resume:
            raise
        discard(target)
        return None


def _write_all(plans: dict[str, FieldPlan], journal: Journal, progress: Any) -> None:
    target = journal.target
    guesses = [plan.guess for plan in plans.values()]
    for name, plan in plans.items():
        journal.fields.setdefault(name, FieldRecord(plan.block_samples))
    before = 0
    entries: dict[str, ArrayManifest] = {}
    total = sum(guesses) if all(guesses) else None
    nbytes = sum(plan.conversion.target.sample_nbytes for plan in plans.values()) // len(plans)
    bar = Progress(progress, total, nbytes, sum(record.samples for record in journal.fields.values()))
    journal.write()
    try:
        if target.is_directory_of_fields:
            with file_io.explaining_write_errors(target.partial):
                os.makedirs(target.partial, exist_ok=True)
                name_fields([plan.path for plan in plans.values()], finished=False)
        for name, plan in plans.items():
            record, done = journal.fields[name], before
            statistics = field_write.write_field(plan, record, journal, lambda now, done=done: bar(done + now))  # type: ignore[misc]
            before += record.samples
            entries[name] = field_write.array_manifest(plan, record, statistics)
        _require_equal_lengths({name: entry.shape[0] for name, entry in entries.items()})
        manifest = Manifest(entries, _written_by()).to_json()
        if target.is_directory_of_fields:
            with file_io.explaining_write_errors(target.partial):
                name_fields([plan.path for plan in plans.values()], finished=True)
                file_io.write_text_atomically(os.path.join(target.partial, DIRECTORY_MANIFEST), manifest)
        journal.finish(manifest)
    except BaseException:
        if not journal.has_progress:
            discard(target)  # nothing to go on from: leave nothing behind
        raise
    finally:
        bar.close()


def _plans(
    source: Any,
    several: Mapping[str, Any] | None,
    target: Target,
    layout: Any,
    source_layout: Any,
    dtype: Any,
    compression: str | None,
    chunk_samples: int | None,
    samples: int | None,
    budget: int,
) -> dict[str, FieldPlan]:
    plans = {}
    for name, one in (several or {target.field: source}).items():
        wanted = [_of_field(option, name, several) for option in (layout, source_layout, dtype)]
        opened = source_of(one, wanted[1], wanted[0], wanted[2] is not None)
        conversion = Conversion.of(opened.spec, wanted[0], wanted[2])
        path, module = field_target(target.partial, name) if several is not None else (target.partial, target.module)
        chunk = chunk_samples or field_write.chunk_samples_for(conversion, opened.samples)
        if target.format in ("", "npy_file"):
            chunk = 1
        block = field_write.block_samples_for(conversion, chunk, budget)
        file = f"{name}.npy" if several is not None else os.path.basename(target.path)
        plans[name] = FieldPlan(
            opened, conversion, target.format or "npy_file", module, path, target.key, file, compression, chunk, block, samples
        )
    _require_equal_lengths({name: plan.samples for name, plan in plans.items() if plan.samples is not None})
    return plans


def _of_field(option: Any, name: str, several: Mapping[str, Any] | None) -> Any:
    if not isinstance(option, Mapping):
        return option
    unknown = sorted(set(option) - set(several or {}))
    if unknown:
        raise InvalidValueError(
            f"An option is given for {unknown}, but the fields are {sorted(several or {}) or 'not named: there is one array'}."
        )
    return option.get(name)


def _require_equal_lengths(lengths: dict[str, int]) -> None:
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InvalidValueError(
            f"The fields have different numbers of samples: {found}. Every sample needs all fields; cut them to one length."
        )


def _as_recorded(plan: FieldPlan, record: FieldRecord | None, budget: int) -> FieldPlan:
    """The plan in blocks that fit `budget`; or in those of an interrupted call: its checksums are of those, whatever fits now."""
    if record is not None:
        return dataclasses.replace(plan, block_samples=record.block_samples)
    while plan.memory().total > budget and plan.block_samples > plan.chunk_samples:
        plan = dataclasses.replace(plan, block_samples=max(1, plan.block_samples // 2 // plan.chunk_samples) * plan.chunk_samples)
    return plan


def _require_same_call(interrupted: Journal, journal: Journal) -> None:
    before, now = interrupted.call.get("fields", {}), journal.call["fields"]
    differences = [f"fields {sorted(before)}, now {sorted(now)}"] if sorted(before) != sorted(now) else []
    for name in now if not differences else ():
        differences += [
            f"{key} {before[name].get(key)!r}, now {value!r}" for key, value in now[name].items() if before[name].get(key) != value
        ]
    if interrupted.call.get("target") != journal.call["target"]:
        differences.append(f"target {interrupted.call.get('target')!r}, now {journal.call['target']!r}")
    if differences:
        raise StateMismatchError(
            f"{journal.target.partial} was begun by another call: {'; '.join(differences)}. "
            "Repeat that call to go on with it, or pass resume=False (--no-resume) to start again."
        )


def _check_numbers(samples: int | None, chunk_samples: int | None) -> None:
    for name, value in (("samples", samples), ("chunk_samples", chunk_samples)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidTypeError(f"{name}={value!r} is not a number of samples; expected an int.")
        if value < 1:
            raise InvalidValueError(f"{name}={value} is less than 1; expected how many samples, or None.")


def _refuse_chunk_options(target: Target, compression: str | None, chunk_samples: int | None) -> None:
    for name, value in (("compression", compression), ("chunk_samples", chunk_samples)):
        if value is not None:
            raise InvalidValueError(
                f"{name}={value!r} has no place in .npy, which is plain bytes ({target.path}). Leave it out, or write .h5 or .zarr."
            )


def _written_by() -> str:
    try:
        return f"mmapstore {version('mmapstore')}"
    except PackageNotFoundError:
        return "mmapstore"
