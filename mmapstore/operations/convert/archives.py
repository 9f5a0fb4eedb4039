"""Convert a directory of archives: each, at any depth, to the same place in another directory, also if some are broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ...batches.opening import natural
from ...files import durable_writes
from ...files.exclusive_lock import exclusive_lock
from ...files.stored_files import lies_in
from ...files.system_errors import explaining_write_errors, is_of_this_machine
from ...formats import hdf5_format, npy_format
from ...formats.containers import HDF5, NPY_FILE, NPY_TREE, ZARR
from ...formats.npy_tree import NPY_TREE_SUFFIX
from ...formats.registry import PARTIAL
from ...formats.tree_contract import Container
from ...plain.errors import InvalidValueError, MmapstoreError, NotFoundError, StateMismatchError, TargetExistsError, WriteError
from ...plain.manifest import DIRECTORY_MANIFEST, is_beside
from ...plain.memory_budget import parse_bytes
from ..flow import engines
from ..flow.journal import UNREADABLE, add_lines, cut_to, journal_lines
from .tree import ProgressCall, convert_all, fingerprint, reporting
from .tree_report import FAILED, LEFT_OUT, TreeReport, TreeRow

ARCHIVE = "archive"  # the kind of a row of an archive that cannot be converted at all
JOURNAL = "mmapstore-conversion.jsonl"
TO = (".zarr", ".h5", NPY_TREE_SUFFIX)
_VERSION = 2
_BESIDE, _UNFINISHED = "a file that mmapstore keeps beside data", "left by a run that did not finish"


@dataclass(frozen=True)
class Archive:
    """A file, or a store in a directory, found below another directory."""

    relative: str  # its place below the directory, with "/"
    path: str  # as it opens
    container: Container | None
    why_none: str = ""

    @property
    def is_of_writing(self) -> bool:
        """True for a file that mmapstore keeps beside data, and for an unfinished target."""
        return self.why_none in (_BESIDE, _UNFINISHED)


def archives_below(
    directory: str | os.PathLike[str], leave_out: str | None = None, is_whole: Callable[[str], bool] = lambda path: False
) -> Iterator[Archive]:
    """Yield every file and store below a directory, in natural order of names. Symbolic links are yielded, and not followed.

    `leave_out` is a directory to skip. `is_whole` is True for a directory to yield without looking into it, beside stores.

    >>> import tempfile, os, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     os.mkdir(f"{folder}/a")
    ...     np.save(f"{folder}/a/x.npy", [1, 2])
    ...     [(archive.relative, archive.container.title) for archive in archives_below(folder)]
    [('a/x.npy', '.npy')]
    """
    root = os.fspath(directory)
    if not os.path.isdir(root):
        raise NotFoundError(f"{root} is no directory; expected one with archives in it. Check the path.")
    avoided = os.path.realpath(leave_out) if leave_out is not None else None
    pending = [""]
    while pending:
        relative = pending.pop()
        path = os.path.join(root, *relative.split("/")) if relative else root
        if relative and (os.path.islink(path) or not os.path.isdir(path) or path.endswith(PARTIAL)):
            yield _file(relative, path)
        elif os.path.realpath(path) == avoided:
            continue
        elif (found := next((each for each in (ZARR, NPY_TREE) if each.matches(path)), None)) or (relative and is_whole(path)):
            yield Archive(relative, path, found)
        else:
            try:
                names = sorted(os.listdir(path), key=natural, reverse=True)
            except OSError as error:
                yield Archive(relative, path, None, f"it cannot be listed: {error.strerror}")
                continue
            pending += [f"{relative}/{name}" if relative else name for name in names]


def _file(relative: str, path: str) -> Archive:
    name = os.path.basename(path)
    found: Container | None = None
    if is_beside(path) or f"{PARTIAL}." in name or name == JOURNAL:
        why = _BESIDE
    elif name.endswith(PARTIAL):
        why = _UNFINISHED
    elif os.path.islink(path):
        why = "a symbolic link, which is not followed"
    elif not os.path.isfile(path):
        why = "neither a file nor a directory"
    else:
        why = "not an archive: neither HDF5 nor Zarr nor .npy by its first bytes"
        found = next((each for each in (HDF5, NPY_FILE) if each.matches(path)), None)
        if found is None and Path(path).suffix.lower() in (*hdf5_format.FORMAT.suffixes, *npy_format.FORMAT.suffixes):
            found = HDF5  # opening it says what is wrong
    return Archive(relative, path, found, "" if found else why)


def is_directory_of_archives(path: str | os.PathLike[str]) -> bool:
    """Return True for a directory that is itself no store, nor one that mmapstore wrote."""
    is_one = ZARR.matches(os.fspath(path)) or NPY_TREE.matches(os.fspath(path))
    return os.path.isdir(path) and not is_one and not os.path.exists(os.path.join(path, DIRECTORY_MANIFEST))


def convert_directory(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    to: str = ".zarr",
    report: str | os.PathLike[str] | None = None,
    max_memory: int | str = "256MB",
    overwrite: bool = False,
    resume: bool = True,
    allow_links: bool = False,
    progress: ProgressCall | bool | None = None,
    engine: Any = engines.THREADS,
) -> TreeReport:
    """Convert every archive below a directory, all of each, to the same place below another.

    "runs/a.h5" becomes "out/runs/a.zarr"; if two would get one name ("a.h5", "a.nc") both keep theirs ("a.nc.zarr"). An archive
    that fails is a row of the report, and the others are converted. Archives that have not changed since they were converted are
    skipped, so that a later call continues an interrupted run, and adds new archives.

    Parameters
    ----------
    to : ".zarr", ".h5", or ".npy-tree" for a directory of .npy files for each archive
    report : a CSV file to write, a line for each object
    overwrite : replace targets of archives that have changed, and targets that this function did not write
    resume : False converts all again
    max_memory, allow_links, progress : as in `convert_all`
    engine : as in `convert`: "threads" converts one archive after the other; others several at once, each in a process of its own

    Returns a TreeReport of all rows; `exit_code` is 1 if anything anywhere was refused or failed.

    Raises InvalidValueError, NotFoundError (no directory), TargetExistsError (`out` holds something else), WriteError (a full
    disk), LockedFileError.
    """
    began = time.monotonic()
    root, target = os.fspath(source), os.fspath(out).rstrip("/" + os.sep)
    to = to if to.startswith(".") else f".{to}"
    if to not in TO:
        raise InvalidValueError(f"to={to!r} is not understood; expected one of {', '.join(TO)}.")
    parse_bytes(max_memory)
    if not os.path.isdir(root):
        raise NotFoundError(f"{root} is no directory; expected one with archives in it. Check the path.")
    if os.path.realpath(root) == os.path.realpath(target) or lies_in(root, target):
        raise InvalidValueError(f"{target} is, or lies around, {root}, which is read. Write to another directory.")
    archives = list(archives_below(root, leave_out=target))
    _make_directory(target, overwrite)
    with exclusive_lock(os.path.join(target, f"{JOURNAL}.lock"), target):
        options = {"max_memory": max_memory, "allow_links": allow_links, "progress": progress, "resume": resume}
        conversion = _Directory(target, {"to": to, "allow_links": allow_links}, overwrite, resume, options)
        with engines.opened(engine) as workers:
            rows = conversion.rows(_named(archives, to), workers)
    result = TreeReport(root, target, tuple(rows), time.monotonic() - began)
    if report is not None:
        result.write_csv(report)
    return result


def _make_directory(target: str, overwrite: bool) -> None:
    if os.path.lexists(target) and not os.path.isdir(target):
        raise TargetExistsError(f"{target} is a file; expected a directory, or a new name.")
    with explaining_write_errors(target):
        os.makedirs(target, exist_ok=True)
        is_ours = os.path.exists(os.path.join(target, JOURNAL))
        if not is_ours and not overwrite and any(name != f"{JOURNAL}.lock" for name in os.listdir(target)):
            raise TargetExistsError(
                f"{target} holds files that are not from a conversion of archives. Choose a new directory, or pass overwrite=True "
                "(--overwrite) to write among them."
            )


def _named(archives: list[Archive], to: str) -> Iterator[tuple[Archive, str]]:
    """Yield each archive and its place below the target."""
    short = {archive.relative: os.path.splitext(archive.relative)[0] + to for archive in archives if archive.container}
    uses = Counter(name.lower() for name in short.values())  # as file systems compare that ignore case
    for archive in archives:
        name = short.get(archive.relative, "")
        yield archive, f"{archive.relative}{to}" if uses[name.lower()] > 1 else name


def converted_archives(source: str, out: str) -> list[tuple[Archive, str]] | None:
    """Return each archive below `source` and its place below `out`, "" if skipped; None if `convert_directory` did not write `out`.

    Raises StateMismatchError for a journal that cannot be read.
    """
    file = Path(out, JOURNAL)
    if not is_directory_of_archives(source) or not file.is_file():
        return None
    try:
        lines = journal_lines(file.read_bytes())[0]
        to = str(lines[-1].get("to", TO[0]))
    except (*UNREADABLE, OSError, IndexError) as error:
        raise StateMismatchError(f"{file} is not the journal of a conversion ({error}). Convert again, or delete it.") from error
    return list(_named(list(archives_below(source, leave_out=out)), to))


class _Directory:
    """Converts archives, and keeps a line for each finished one."""

    def __init__(self, target: str, asked: dict[str, Any], overwrite: bool, resume: bool, options: dict[str, Any]) -> None:
        self._target, self._asked, self._overwrite, self._resume, self._options = target, asked, overwrite, resume, options
        self._journal = os.path.join(target, JOURNAL)
        self._lines = self._found()

    def _found(self) -> dict[str, dict[str, Any]]:
        try:
            data = Path(self._journal).read_bytes()
            lines, whole = journal_lines(data)
            if lines and lines[0].get("mmapstore_conversion") != _VERSION:
                raise ValueError(f"its version is {lines[0].get('mmapstore_conversion')!r}")
            found = {line["archive"]: line for line in lines[1:]}
            for line in found.values():
                line["rows"] = [TreeRow.from_json(row) for row in line.get("rows", ())]
            cut_to(self._journal, whole)
        except FileNotFoundError:
            lines, found = [], {}
        except UNREADABLE as error:
            if self._resume:
                raise StateMismatchError(
                    f"{self._journal} is not the journal of a conversion that this mmapstore can go on with ({error}). To "
                    "convert all again, pass resume=False (--no-resume) and overwrite=True (--overwrite)."
                ) from error
            durable_writes.remove(self._journal)
            lines, found = [], {}
        if not lines:
            add_lines(self._journal, [{"mmapstore_conversion": _VERSION}])
        return found

    def rows(self, archives: Iterable[tuple[Archive, str]], engine: Any) -> list[TreeRow]:
        """Convert all archives, one after the other or as an engine does them, and return their rows in order."""
        rows, works = dict[int, list[TreeRow]](), dict[int, _Work]()
        for number, (archive, name) in enumerate(archives):
            found = self._begun(archive, name)
            if isinstance(found, list):
                rows[number] = found
            elif engine == engines.THREADS:
                rows[number] = self._finished(found, _convert(self._options, found))
            else:
                works[number] = found
        if works:
            options = {**self._options, "progress": False}
            nbytes = parse_bytes(options["max_memory"])
            with reporting(self._options["progress"]) as report:
                for number, done in engines.results(engine, _convert_in_child, options, list(works.items()), nbytes):
                    rows[number] = self._finished(works[number], done)
                    for row in rows[number]:
                        report(row)
        return [row for number in sorted(rows) for row in rows[number]]

    def _begun(self, archive: Archive, name: str) -> list[TreeRow] | _Work:
        """Return the rows of an archive that needs no conversion; else the work, which is noted in the journal."""
        if archive.container is None:
            return [TreeRow("/", "file", LEFT_OUT, archive.why_none, archive=archive.relative)]
        try:
            target = os.path.join(self._target, *name.split("/"))
            now = {**self._asked, "files": fingerprint(archive.path), "target": name}
            before = self._lines.get(archive.relative, {})
            is_same = {key: before.get(key) for key in now} == now
            if is_same and before.get("rows") and self._resume and os.path.lexists(target):
                found: list[TreeRow] = before["rows"]
                return found
            # A target that was begun here may have been finished right before a kill.
            is_ours = is_same and before.get("target") == name
            if os.path.lexists(target) and not is_ours and not self._overwrite:
                why = "its archive has changed since" if before else "it was not made by this conversion"
                raise TargetExistsError(f"{target} exists, and {why}. Pass overwrite=True (--overwrite) to replace it.")
            with explaining_write_errors(target):
                os.makedirs(os.path.dirname(target), exist_ok=True)
            add_lines(self._journal, [{"archive": archive.relative, **now}])
            return _Work(archive.relative, archive.path, target, now)
        except (MmapstoreError, OSError) as error:
            return _failed(archive.relative, error)

    def _finished(self, work: _Work, rows: list[TreeRow]) -> list[TreeRow]:
        rows = [replace(row, archive=work.relative) for row in rows]
        if not any(row.kind == ARCHIVE for row in rows):
            add_lines(self._journal, [{"archive": work.relative, **work.call, "rows": [vars(row) for row in rows]}])
        return rows


class _Work(NamedTuple):
    """An archive to convert: its place, its path, its target, and the call as the journal has it."""

    relative: str
    path: str
    target: str
    call: dict[str, Any]


def _failed(relative: str, error: Exception) -> list[TreeRow]:
    """Return the row of an archive that cannot be converted. Raises the error if the machine is to blame."""
    if is_of_this_machine(error):
        raise error
    return [TreeRow("/", ARCHIVE, FAILED, str(error), archive=relative)]


def _convert(options: Mapping[str, Any], work: _Work) -> list[TreeRow]:
    try:
        try:
            return list(convert_all(work.path, work.target, overwrite=True, **options).rows)
        except StateMismatchError:  # what an interrupted run left of another version of this archive
            return list(convert_all(work.path, work.target, overwrite=True, **{**options, "resume": False}).rows)
    except (MmapstoreError, OSError) as error:
        return _failed(work.relative, error)


def _convert_in_child(options: Mapping[str, Any], item: tuple[int, _Work]) -> tuple[int, list[TreeRow]]:
    """Convert an archive by the command, in a child of the worker: it goes on after a crash inside HDF5 or a filter."""
    number, work = item
    given = [f"--max-memory={options['max_memory']}", *["--allow-links"] * options["allow_links"]]
    command = [sys.executable, "-P", "-m", "mmapstore", "convert", work.path, work.target, "--all", "--overwrite", "--json", *given]
    for more in ([], ["--no-resume"]) if options["resume"] else (["--no-resume"],):
        done = subprocess.run([*command, *more], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        try:
            found = json.loads(done.stdout.splitlines()[-1])
        except (ValueError, IndexError):
            found = {"error": "DamagedFileError", "message": done.stderr.strip()[-1000:] or f"exit code {done.returncode}"}
        if found.get("error") == WriteError.__name__:
            raise WriteError(found["message"])
        if found.get("error") != StateMismatchError.__name__:
            break
    if "error" in found:
        return number, [TreeRow("/", ARCHIVE, FAILED, found["message"])]
    return number, [TreeRow.from_json(row) for row in found["rows"]]
