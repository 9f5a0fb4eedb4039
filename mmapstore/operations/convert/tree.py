"""`convert_all`: a whole HDF5 file or Zarr store into another, or a directory of .npy files; the tree kept, each object proven."""

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
from ...formats.hdf5_file import TREE_SUFFIXES
from ...formats.hdf5_tree import Hdf5Tree
from ...formats.hdf5_tree_writer import Hdf5TreeWriter
from ...formats.npy_tree import NPY_TREE_SUFFIX, NpyFileTree, NpyTree, NpyTreeWriter, is_npy_tree
from ...formats.registry import identify, require_exists, split_inside
from ...formats.zarr_tree import ZarrTree
from ...formats.zarr_tree_writer import ZarrTreeWriter
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
from ..ingest.description import written_by
from ..manifest_files import read_leaves
from ..progress import progress_bar, shows_bar
from .copy_methods import Suspects, row_of_error
from .tree_copies import way
from .tree_journal import TreeJournal
from .tree_report import TreeReport, TreeRow
from .tree_values import BOOKKEEPING_NBYTES, LEAST_BLOCK_NBYTES

HDF5, ZARR, NPY_TREE = "HDF5", "Zarr", "directory of .npy"
TARGETS = {**dict.fromkeys(TREE_SUFFIXES, HDF5), ".zarr": ZARR, NPY_TREE_SUFFIX: NPY_TREE, "": NPY_TREE}

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
) -> TreeReport:
    """Convert all of an HDF5 file (.h5, NetCDF-4, MATLAB 7.3), a Zarr store, or a group of one: groups, arrays, attributes, links.

    Parameters
    ----------
    source : "a.h5", "a.zarr", "a.h5::/group", or a directory that this function wrote
    out : ends in .zarr, or in .h5 or another name of HDF5 files (.hdf5, .nc, .h5ad, .nwb ...); without a suffix, or with .npy-tree
        or a "/" behind it, it becomes a directory of .npy files, a directory for each group, and a file `tree.jsonl` with what
        these cannot hold
    max_memory : bytes of private memory, beside what the libraries take when they are loaded. An array one chunk of which does not
        fit is refused, with the number that would do; the others are converted
    overwrite : replace a target that is there, when the new one is whole and proven
    resume : go on with an interrupted run, object by object; False begins anew
    allow_links : follow external links, and read external storage and virtual datasets. They may name any file you can read:
        only for files you trust
    progress : a function called with each row; None shows a line on a terminal, False nothing

    Returns a TreeReport: a row for each object, and for each attribute that is not in the target as it was; `exit_code` is 1 where
    something was refused. Every array is read back from the target and compared by its SHA-256 before the target gets its name.

    A crash inside HDF5, a filter or a codec ends this process; the command line works in a child process, and goes on without the
    object that crashed.

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
    target, kind = _target_of(out)
    _require_apart(path, target)
    call = {
        "source": os.path.realpath(path),
        "inside": (inside or "").strip("/"),
        "files": fingerprint(path),
        "target": kind,
        "allow_links": bool(allow_links),
    }
    journal = TreeJournal(target, call)
    parent = os.path.dirname(os.path.abspath(target))
    if not os.path.isdir(parent):
        raise WriteError(f"{target} cannot be written: there is no directory {parent}. Create it first.")
    with exclusive_lock(f"{journal.partial}.lock", target):
        if not resume:
            journal.discard()
        if not journal.found() or not journal.is_verified:
            _require_free(target, kind, overwrite)
            with _reporting(progress) as report:
                _Conversion(path, inside or "", kind, journal, limit, allow_links, report).run()
        journal.publish(overwrite, _manifest(path, inside or "", target, kind, journal))
    return _report(source, target, journal, began)


def _manifest(path: str, inside: str, target: str, kind: str, journal: TreeJournal) -> Manifest | None:
    """Carry over what the manifest beside the source says of arrays whose values are in the target; None without any of these."""
    if kind == NPY_TREE:
        return None  # the manifest of a directory would make it one of fields
    group = f"/{inside.strip('/')}".rstrip("/")
    fields = {}
    path = path if os.path.exists(f"{path.rstrip('/')}{SUFFIX}") else os.path.realpath(path)
    with contextlib.suppress(MmapstoreError):  # a damaged manifest describes nothing
        for name, entry in entries_beside(path).items():
            key = f"/{entry.key.strip('/')}"
            done = journal.done.get(key[len(group) :] or "/") if f"{key}/".startswith(f"{group}/") else None
            is_kept = kind == HDF5 or np.dtype(entry.dtype).isnative  # Zarr changes the byte order, to which the checksums belong
            if done is not None and is_kept and entry.sha256 in (digest for _, digest in done.checks[:1]):
                leaves = read_leaves(path.rstrip("/") + SUFFIX, entry)
                fields[name] = replace(entry, file=os.path.basename(target), key=done.checks[0][0].strip("/"), leaves=leaves)
    return Manifest(fields, written_by()) if fields else None


def open_tree(path: str, inside: str = "", allow_links: bool = False) -> Any:
    """A container as a `tree_contract.TreeSource`."""
    if is_npy_tree(path):
        if inside.strip("/"):
            raise InvalidValueError(
                f"{path} is converted as a whole; leave '::/{inside.strip('/')}' out, or name the .npy file in it."
            )
        return NpyTree(path)
    title = identify(path).title
    if title == HDF5:
        return Hdf5Tree(path, inside, allow_links)
    if title == ZARR:
        return ZarrTree(path, inside)
    return NpyFileTree(path)


def fingerprint(path: str) -> list[int]:
    """[files, bytes, latest time of change in ns] of a file, or of all below a directory: equal while nothing is written there."""
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
    """One run, from nothing or from what an interrupted run left."""

    def __init__(
        self, path: str, inside: str, kind: str, journal: TreeJournal, limit: int, allow_links: bool, report: ProgressCall
    ) -> None:
        self._path, self._inside, self._kind, self._allow_links = path, inside, kind, allow_links
        self._journal = journal
        self._limit = limit
        self._report = report

    def run(self) -> None:
        """Leaves a verified partial target, and a journal that says so."""
        with step(f"converting {self._path}"), contextlib.closing(open_tree(self._path, self._inside, self._allow_links)) as source:
            if not self._gone_on_with(source):
                self._begun_anew(source)
        self._journal.rewrite()

    def _begun_anew(self, source: Any) -> None:
        """Write objects that read back differently by another method, from the beginning; skip objects that still differ."""
        suspects: Suspects = {}
        for _ in range(_MOST_ATTEMPTS):
            self._journal.discard()
            self._journal.begin()
            wrong = self._attempt(source, suspects)
            if not wrong:
                return
            for path, why in wrong.items():
                suspects.setdefault(path, []).append(why)
        path, why = next(iter(wrong.items()))
        raise DamagedFileError(
            f"{self._journal.partial}: {path}: {why}. Each time that it was written, it was other objects that did not read back. "
            "Either the disk or the memory of this machine is at fault, or something writes to the source meanwhile; convert again "
            "with resume=False (--no-resume)."
        )

    def _gone_on_with(self, source: Any) -> bool:
        """False where there is nothing to go on with, or where a kill left what cannot be: an HDF5 file that was being changed."""
        if not self._journal.done:
            return False
        try:
            with step(f"going on with {self._journal.partial}"):
                return not self._attempt(source, {})
        except (WriteError, DamagedFileError, StateMismatchError, InvalidValueError) as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno:
                raise  # a full disk, a permission: what is there stays for the next run
            return False

    def _attempt(self, source: Any, suspects: Suspects) -> dict[str, str]:
        """Returns what reads back otherwise than it was read, and how."""
        self._write(source, suspects)
        written = self._written()
        try:
            return self._different(source, written)
        finally:
            written.close()

    def _written(self) -> Any:
        partial = self._journal.partial
        if self._kind == HDF5:
            return Hdf5Tree(partial, allow_links=True)  # there are none to other files in it
        return ZarrTree(partial) if self._kind == ZARR else NpyTree(partial)

    def _target(self, source: Any) -> Any:
        partial = self._journal.partial
        if self._kind == HDF5:
            return Hdf5TreeWriter(partial, source if isinstance(source, Hdf5Tree) else None)
        return ZarrTreeWriter(partial) if self._kind == ZARR else NpyTreeWriter(partial)

    def _write(self, source: Any, suspects: Suspects) -> None:
        journal = self._journal
        target = self._target(source)
        try:
            self.way = way(source, target, self._limit, suspects=suspects)
            for node in source.walk():
                if node.path in journal.done:
                    self.way.note(journal.done[node.path])
                    continue
                done = self.way.convert(node)
                for row in done.rows:
                    self._report(row)
                if journal.add(done):
                    target.commit()
                    journal.commit()
            target.commit()
            journal.commit()
            for done in self.way.finish(journal.done):
                journal.done[done.path] = done
            target.commit()
        finally:
            target.close()

    def _different(self, source: Any, written: Any) -> dict[str, str]:
        wrong: dict[str, str] = {}
        for node in source.walk():
            done = self._journal.done[node.path]
            if done.rows[0].is_lost and not done.checks:
                continue
            try:
                with step(f"reading back {node.path} of {self._journal.partial}"):
                    wrong |= self.way.differences(node, done, written)
            except Exception as error:  # as over what is converted
                wrong[node.path] = f"its copy cannot be read back: {row_of_error(node, error).how}"
        return wrong


def _target_of(out: str | os.PathLike[str]) -> tuple[str, str]:
    if not isinstance(out, (str, os.PathLike)):
        raise InvalidTypeError(f"out is a {type(out).__name__}; expected a path such as 'a.zarr', 'a.h5' or a directory.")
    text = os.fspath(out)
    if split_name(text)[1] is not None:
        raise InvalidValueError(f"{text}: a tree is written to a file or directory of its own; leave '::' and what follows out.")
    path = text.rstrip("/" + os.sep) or text
    suffix = os.path.splitext(path)[1].lower()
    is_directory = path != text  # "v1.5/" is one, whatever it ends in
    if suffix not in TARGETS and not is_directory:
        raise InvalidValueError(
            f"{text!r} ends in {suffix!r}, a kind that no tree is written to; expected .zarr, one of {', '.join(TREE_SUFFIXES)} "
            f"(HDF5), or no suffix, {NPY_TREE_SUFFIX} or a final '/' (a directory of .npy files)."
        )
    return path, TARGETS.get(suffix, NPY_TREE)


def _require_apart(source: str, target: str) -> None:
    one, other = Path(os.path.realpath(source)), Path(os.path.realpath(target))  # resolve() raises for links in a circle
    if one == other or one in other.parents or other in one.parents:
        raise InvalidValueError(f"{target} is the target, and the same as {source}, or in it, or around it. Write to another name.")


def _require_free(target: str, kind: str, overwrite: bool) -> None:
    if not os.path.lexists(target) or (os.path.isdir(target) and not os.listdir(target)):
        return
    if not overwrite:
        raise TargetExistsError(f"{target} exists. Pass overwrite=True (--overwrite) to replace it, or choose another name.")
    if kind == NPY_TREE:
        ours = is_npy_tree(target)
    else:
        try:
            ours = identify(target).title == kind
        except MmapstoreError:
            ours = os.path.isfile(target)
    if not ours:
        raise TargetExistsError(
            f"{target} is not a {kind} that would be replaced by another. Choose another name, or move it away."
        )


@contextlib.contextmanager
def _reporting(progress: ProgressCall | bool | None) -> Iterator[ProgressCall]:
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


def _report(source: str | os.PathLike[str], target: str, journal: TreeJournal, began: float) -> TreeReport:
    rows = tuple(row for done in journal.done.values() for row in done.rows)
    return TreeReport(os.fspath(source), target, rows, time.monotonic() - began)
