"""`convert_all`: convert a whole HDF5 file, Zarr store or tree of .npy files into another, and prove each object equal."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...batches.opening import entries_beside
from ...files.crashes import step
from ...files.exclusive_lock import exclusive_lock
from ...files.stored_manifest import read_leaves
from ...formats.containers import NPY_TREE, WRITTEN, container_of, open_tree
from ...formats.hdf5_file import TREE_SUFFIXES
from ...formats.npy_tree import NPY_TREE_SUFFIX
from ...formats.registry import require_exists, split_inside
from ...formats.tree_contract import Container, TreeSource
from ...plain.errors import (
    DamagedFileError,
    InvalidTypeError,
    InvalidValueError,
    MmapstoreError,
    StateMismatchError,
    TargetExistsError,
    WriteError,
)
from ...plain.inside_names import split_name
from ...plain.manifest import SUFFIX, Manifest
from ...plain.memory_budget import MemoryPlan, parse_bytes
from ..flow import engines
from ..flow.journal import Finished, Journal, begun_by_another_call
from ..flow.publishing import discard, interrupted_write, publish
from ..flow.target import Output
from ..ingest.description import written_by
from ..progress import progress_bar, shows_bar
from .copy_methods import CopyMethod, Suspects, row_of_error
from .tree_copies import copy_method
from .tree_report import Done, TreeRecord, TreeReport, TreeRow
from .tree_values import BOOKKEEPING_NBYTES, LEAST_BLOCK_NBYTES

TARGETS = {suffix: container for container in WRITTEN for suffix in container.suffixes}
_MOST_ATTEMPTS = 5  # three are enough: as HDF5 copies, by value, and without what neither does

ProgressCall = Callable[[TreeRow], Any]


def convert_all(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    max_memory: int | str = "256MB",
    overwrite: bool = False,
    resume: bool = True,
    allow_links: bool = False,
    progress: ProgressCall | bool | None = None,
    engine: Any = engines.THREADS,
) -> TreeReport:
    """Convert all of an HDF5 file (.h5, NetCDF-4, MATLAB 7.3), a Zarr store, or a group of one: groups, arrays, attributes, links.

    Parameters
    ----------
    source : "a.h5", "a.zarr", "a.h5::/group", or a directory that this function wrote
    out : ends in .zarr, or in .h5 or another name of HDF5 files (.hdf5, .nc, .h5ad, .nwb ...); without a suffix, or with .npy-tree
        or a final "/", it becomes a directory of .npy files: a directory for each group, and a file `tree.jsonl` with the rest
    max_memory : bytes of private memory, beside those of the loaded libraries. An array with a larger chunk is refused, with the
        limit that would do; the others are converted
    overwrite : replace an existing target, once the new one is whole and proven
    resume : continue an interrupted run, object by object; False starts again
    allow_links : follow external links, and read external storage and virtual datasets. They may name any file you can read:
        only for files you trust
    progress : a function called with each row; None shows a line on a terminal, False nothing
    engine : as in `convert`: others than threads move the values of large arrays, in regions of about 256 MB, into Zarr or .npy

    Returns a TreeReport: a row for each object, and for each attribute that is changed or refused; `exit_code` is 1 if anything was
    refused. Every array is read back from the target and compared by its SHA-256 before the target gets its name.

    A crash inside HDF5, a filter or a codec ends this process; the command line works in a child process, and continues without
    the object that crashed.

    Raises InvalidValueError, NotFoundError, DamagedFileError (not a container), TargetExistsError, WriteError, MemoryBudgetError,
    LockedFileError, StateMismatchError (an interrupted run of something else), MissingPackageError.

    >>> import tempfile, h5py, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with h5py.File(f"{folder}/a.h5", "w") as file:
    ...         file["runs/first"] = np.arange(6, dtype="f4").reshape(2, 3)
    ...         file["runs"].attrs["unit"] = "m"
    ...     report = convert_all(f"{folder}/a.h5", f"{folder}/a", progress=False)
    ...     np.load(f"{folder}/a/runs/first.npy").sum(), [(row.path, row.outcome) for row in report.rows], report.exit_code
    (np.float32(15.0), [('/', 'copied'), ('/runs', 'copied'), ('/runs/first', 'copied')], 0)
    """
    began = time.monotonic()
    limit = parse_bytes(max_memory)
    plan = MemoryPlan({"bookkeeping": BOOKKEEPING_NBYTES, "blocks": LEAST_BLOCK_NBYTES})
    plan.require(limit, "Converting a tree", "Raise max_memory (--max-memory).")
    path, inside = split_inside(source)
    target, container = _target_of(out)
    one, two = Path(os.path.realpath(path)), Path(os.path.realpath(target))  # resolve() raises for links in a circle
    if one == two or one in two.parents or two in one.parents:
        raise InvalidValueError(f"{target} is the target, and the same as {path}, or in it, or around it. Write to another name.")
    call = {
        "source": os.path.realpath(path),
        "inside": (inside or "").strip("/"),
        "files": fingerprint(path),
        "target": container.title,
        "allow_links": bool(allow_links),
    }
    if engine != engines.THREADS and not container.takes_parts:
        raise InvalidValueError(
            f"{target} cannot be written by an engine: {container.title} has one writer at a time. Write to .zarr, or to a "
            "directory of .npy files, or use engine='threads' (no --engine)."
        )
    output = Output(target)
    output.require_directory()
    with exclusive_lock(output.lock, target):
        if not resume:
            discard(output)
        journal = interrupted_write(output, TreeRecord, resume) or Journal(output, call)
        found, names = journal.call, {"files": "its source has changed since"}
        if differences := [name for name, asked in call.items() if found.get(name) != asked]:
            words = [f"{names.get(name, name)} ({found.get(name)!r}, now {call[name]!r})" for name in differences]
            raise begun_by_another_call(output, words)
        if journal.finished is None:
            _require_free(target, container, overwrite)
            with (
                reporting(progress) as report,
                step(f"converting {path}"),
                contextlib.closing(open_tree(path, inside or "", allow_links)) as tree,
                engines.opened(engine) as workers,
            ):
                _Conversion(tree, container, journal, limit, report, workers).run()
            manifest = _manifest(path, inside or "", target, container, journal.record.done)
            text, leaves = (None, b"") if manifest is None else (manifest.to_json(), manifest.leaves)
            journal.finished = Finished(text, leaves, os.stat(output.partial).st_ino)
            journal.rewrite()
        publish(journal, overwrite)
    rows = tuple(row for done in journal.record.done.values() for row in done.rows)
    return TreeReport(os.fspath(source), target, rows, time.monotonic() - began)


def _manifest(path: str, inside: str, target: str, container: Container, done: dict[str, Done]) -> Manifest | None:
    """Return the entries of the manifest beside the source for arrays whose values are in the target; None for no entries."""
    if not container.keeps_manifest:
        return None
    group = f"/{inside.strip('/')}".rstrip("/")
    fields = {}
    path = path if os.path.exists(f"{path.rstrip('/')}{SUFFIX}") else os.path.realpath(path)
    with contextlib.suppress(MmapstoreError):  # a damaged manifest describes nothing
        for name, entry in entries_beside(path).items():
            key = f"/{entry.key.strip('/')}"
            made = done.get(key[len(group) :] or "/") if f"{key}/".startswith(f"{group}/") else None
            is_kept = not container.is_native or np.dtype(entry.dtype).isnative  # checksums belong to a byte order
            if made is not None and is_kept and entry.sha256 in (digest for _, digest in made.checks[:1]):
                leaves = read_leaves(path.rstrip("/") + SUFFIX, entry)
                fields[name] = replace(entry, file=os.path.basename(target), key=made.checks[0][0].strip("/"), leaves=leaves)
    return Manifest(fields, written_by()) if fields else None


def fingerprint(path: str) -> list[int]:
    """Return [files, bytes, latest time of change in ns] of a file, or of all below a directory."""
    require_exists(path)
    if not os.path.isdir(path):
        found = os.stat(path)
        return [1, found.st_size, found.st_mtime_ns]
    count = size = latest = 0
    for folder, _, names in os.walk(path):
        for name in names:
            each = os.lstat(os.path.join(folder, name))
            count, size, latest = count + 1, size + each.st_size, max(latest, each.st_mtime_ns)
    return [count, size, latest]


class _Conversion:
    """One run, from nothing or from the state of an interrupted run."""

    def __init__(
        self, source: TreeSource, container: Container, journal: Journal, limit: int, report: ProgressCall, engine: Any
    ) -> None:
        self._engine = engine
        self._source, self._container, self._journal = source, container, journal
        self._limit, self._report = limit, report

    def run(self) -> None:
        """Leave a verified partial target, and all objects in the record of the journal."""
        if not self._resumed():
            self._start_again()

    def _start_again(self) -> None:
        """Write objects that read back differently by another method, from the beginning; skip objects that still differ."""
        suspects: Suspects = {}
        output = self._journal.output
        for _ in range(_MOST_ATTEMPTS):
            discard(output)
            if os.path.lexists(f"{output.path}.replaced"):
                raise TargetExistsError(
                    f"{output.path}.replaced exists, where an old target would be put meanwhile. Move it away first."
                )
            self._journal.record = TreeRecord()
            self._journal.rewrite()
            wrong = self._attempt(suspects)
            if not wrong:
                return
            for path, why in wrong.items():
                suspects.setdefault(path, []).append(why)
        path, why = next(iter(wrong.items()))
        raise DamagedFileError(
            f"{output.partial}: {path}: {why}. Each time that it was written, it was other objects that did not read back. "
            "Either the disk or the memory of this machine is at fault, or something writes to the source meanwhile; convert again "
            "with resume=False (--no-resume)."
        )

    def _resumed(self) -> bool:
        """Return False if no run was interrupted, or if its target is unusable, as an HDF5 file that was being changed is."""
        if self._journal.record is None or not self._journal.record.done:
            return False
        try:
            with step(f"going on with {self._journal.output.partial}"):
                return not self._attempt({})
        except (WriteError, DamagedFileError, StateMismatchError, InvalidValueError) as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno:
                raise  # a full disk, a permission: the partial target stays for the next run
            return False

    def _attempt(self, suspects: Suspects) -> dict[str, str]:
        """Write all objects, and return those that read back differently, with the difference."""
        method = self._write(suspects)
        wrong: dict[str, str] = {}
        with contextlib.closing(self._container.open(self._journal.output.partial, "", True)) as written:  # no links lead out of it
            for node in self._source.walk():
                done = self._journal.record.done[node.path]
                if done.rows[0].is_lost and not done.checks:
                    continue
                try:
                    with step(f"reading back {node.path} of {self._journal.output.partial}"):
                        wrong |= method.differences(node, done, written)
                except Exception as error:  # as while objects are copied
                    wrong[node.path] = f"its copy cannot be read back: {row_of_error(node, error).how}"
        return wrong

    def _write(self, suspects: Suspects) -> CopyMethod:
        journal, record = self._journal, self._journal.record
        assert self._container.create is not None, "a target is of a container that is written"
        with contextlib.closing(self._container.create(journal.output.partial, self._source)) as target:
            method = copy_method(self._source, target, self._limit, suspects=suspects, engine=self._engine)
            for node in self._source.walk():
                if node.path in record.done:
                    method.note(record.done[node.path])
                    continue
                done = method.convert(node)
                for row in done.rows:
                    self._report(row)
                record.add(done)
                if journal.is_due(sum(row.nbytes for row in done.rows)):
                    target.commit()
                    journal.write()
            target.commit()
            journal.write()
            for done in method.finish(record.done):
                record.done[done.path] = done
            target.commit()
        return method


def _target_of(out: str | os.PathLike[str]) -> tuple[str, Container]:
    if not isinstance(out, (str, os.PathLike)):
        raise InvalidTypeError(f"out is a {type(out).__name__}; expected a path such as 'a.zarr', 'a.h5' or a directory.")
    text = os.fspath(out)
    if split_name(text)[1] is not None:
        raise InvalidValueError(f"{text}: a tree is written to a file or directory of its own; leave '::' and what follows out.")
    path = text.rstrip("/" + os.sep) or text
    suffix = os.path.splitext(path)[1].lower()
    is_directory = path != text  # "v1.5/" is a directory, whatever its suffix
    if suffix not in TARGETS and not is_directory:
        raise InvalidValueError(
            f"{text!r} ends in {suffix!r}, a kind that no tree is written to; expected .zarr, one of {', '.join(TREE_SUFFIXES)} "
            f"(HDF5), or no suffix, {NPY_TREE_SUFFIX} or a final '/' (a directory of .npy files)."
        )
    return path, TARGETS.get(suffix, NPY_TREE)


def _require_free(target: str, container: Container, overwrite: bool) -> None:
    if not os.path.lexists(target) or (os.path.isdir(target) and not os.listdir(target)):
        return
    if not overwrite:
        raise TargetExistsError(f"{target} exists. Pass overwrite=True (--overwrite) to replace it, or choose another name.")
    try:
        is_replaced = container_of(target) is container
    except MmapstoreError:  # a file that no format knows
        is_replaced = os.path.isfile(target) and container is not NPY_TREE
    if not is_replaced:
        raise TargetExistsError(
            f"{target} is not a {container.title} that would be replaced by another. Choose another name, or move it away."
        )


@contextlib.contextmanager
def reporting(progress: ProgressCall | bool | None) -> Iterator[ProgressCall]:
    """Yield the function that is called with each row: the user's, one that moves a bar, or one that does nothing."""
    if not shows_bar(progress, "a row"):
        yield progress if callable(progress) else lambda row: None
        return
    with progress_bar("B") as bar:
        rows = itertools.count(1)

        def show(row: TreeRow) -> None:
            bar.set_postfix_str(f"{next(rows)} objects, {row.path[-60:]}", refresh=False)
            bar.update(row.nbytes)

        yield show
