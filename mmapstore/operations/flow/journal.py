"""The journal of a write that may be killed at any moment: a line for each commit, only ever added.

    x.npy.partial                   the values written so far
    x.npy.partial.json              the journal: the call, then a line for each commit, at the end the finished manifest
    x.npy.partial.lock              held by the process that writes; after a kill it is there, and held by nobody

Each line is JSON behind its CRC-32. The last line may have been cut short by a kill and counts as not written. The journal is there
before the partial file and goes after everything else, so that a partial file without one is never ours. A journal is read as
something that anybody may have put there: it names no file but its target's. `publishing` has the steps after the last line.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...files import durable_writes
from ...files.system_errors import explaining_write_errors
from ...plain.errors import StateMismatchError, TargetExistsError
from ...plain.manifest import Manifest
from .record import grown_paths, is_count
from .target import Output

_VERSION = 5
# At most twice so much is written again after a kill: while a commit waits for the disk, the next one fills.
COMMIT_NBYTES = 64 << 20
COMMIT_SECONDS = 1.0
_FINGERPRINTS = ("source", "convert")  # of sources: values that nobody can read
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # what comes of a journal that others wrote


class Recorded(Protocol):
    """The progress of a write, as lines of JSON."""

    def take(self, line: dict[str, Any]) -> None:
        """Add a line. Raises one of UNREADABLE for a line that mmapstore did not write."""
        ...

    def all_lines(self) -> Iterable[dict[str, Any]]:
        """Return lines from which `take` builds all of it."""
        ...

    def new_lines(self) -> Iterable[dict[str, Any]]:
        """Return the lines that are new since the last call of this or of `all_lines`."""
        ...


@dataclass(frozen=True)
class Finished:
    """The end of a journal: everything written is on disk."""

    # manifest, leaves: to be written beside the data; None and b"" where there is no manifest
    manifest: str | None
    leaves: bytes
    identity: int | None  # inode of the finished partial file, which a rename keeps: it tells the new data from the old


class Journal:
    """The call that began a write, and how far the write got.

    Attributes
    ----------
    call : plain JSON; a call with the same resumes the write
    record : None before anything is written
    finished : None until all values are on disk

    Without `kept`, nothing is put on disk: the caller keeps the record.
    """

    def __init__(self, output: Output, call: Mapping[str, Any], record: Any = None, kept: bool = True) -> None:
        self.output = output
        self.call: dict[str, Any] = json.loads(json.dumps(call))
        self.record = record
        self.finished: Finished | None = None
        self._is_kept = kept
        self._is_whole = False  # the file holds all that was recorded, so that lines can be added
        self._begun, self._nbytes = time.monotonic(), 0

    def write(self) -> None:
        """Put what is new on disk: in one step all of it, later a line. Raises WriteError; a kill leaves the lines before."""
        if self._is_kept:
            self._write()

    def _write(self) -> None:
        record: Recorded | None = self.record
        if self._is_whole:
            lines = list(record.new_lines()) if record is not None else []
            self._is_whole = False  # unless all of it gets there
            add_lines(self.output.journal, lines)
        else:
            lines = [{"mmapstore_journal": _VERSION, "call": self.call}, *(record.all_lines() if record is not None else ())]
            if self.finished is not None:
                lines.append({"finished": {**vars(self.finished), "leaves": self.finished.leaves.hex()}})
            with explaining_write_errors(self.output.journal):
                try:
                    durable_writes.write_text_atomically(self.output.journal, "".join(map(journal_line, lines)))
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.unlink(f"{self.output.journal}.tmp")
                    raise
        self._is_whole = record is not None

    def rewrite(self) -> None:
        """Put all of it on disk in one step, also what was forgotten since the last line."""
        self._is_whole = False
        self.write()

    def is_due(self, nbytes: int) -> bool:
        """Return True, and count anew, once enough bytes, or enough time, have passed; `nbytes` were written since asked."""
        self._nbytes += nbytes
        is_due = self._nbytes >= COMMIT_NBYTES or time.monotonic() - self._begun >= COMMIT_SECONDS
        if is_due:
            self._begun, self._nbytes = time.monotonic(), 0
        return is_due

    def finish(self, manifest: Manifest | None, grown: Iterable[str] = ()) -> None:
        """Put everything written on disk, and then record that it is whole. `grown`: files that grew, instead of a partial file."""
        grown, identity = list(grown), None
        with explaining_write_errors(self.output.partial):
            for path in grown or [self.output.partial]:
                durable_writes.sync_tree(path)
            if not grown:
                identity = os.stat(self.output.partial).st_ino
        text, leaves = (None, b"") if manifest is None else (manifest.to_json(), manifest.leaves)
        self.finished = Finished(text, leaves, identity)
        self.rewrite()


def found_journal(output: Output, new_record: Callable[[], Any]) -> Journal | None:
    """Read the journal of an interrupted write; None if there is none.

    Raises StateMismatchError for one that cannot be read, TargetExistsError for a partial file without one.
    """
    try:
        content = Path(output.journal).read_bytes()
    except FileNotFoundError:
        if os.path.lexists(output.partial):
            raise TargetExistsError(
                f"{output.partial} exists, and no journal says what it is. mmapstore would write there: move it away, or delete it."
            ) from None
        return None
    try:
        head, *rest = journal_lines(content)[0] or [{}]
        if head.get("mmapstore_journal") != _VERSION:
            raise ValueError(f"its version is {head.get('mmapstore_journal')!r}")
        journal = Journal(output, head["call"])
        if not isinstance(journal.call, dict):
            raise ValueError("its call is not one")
        for line in rest:
            if "finished" in line:
                journal.finished = _finished(line["finished"])
            else:
                journal.record = new_record() if journal.record is None else journal.record
                journal.record.take(line)
        if journal.finished is not None and journal.record is None:
            raise ValueError("it is finished without a record")
        grown_paths(output, journal.record)
        return journal
    except UNREADABLE as error:
        raise StateMismatchError(
            f"{output.journal} is not the journal of an interrupted write that this mmapstore can go on with ({error}). "
            f"Pass resume=False (--no-resume) if nothing is to be kept of it, or delete it and {output.partial}."
        ) from error


def _finished(found: dict[str, Any]) -> Finished:
    manifest, identity = found["manifest"], found["identity"]
    if not (manifest is None or isinstance(manifest, str)) or not (identity is None or is_count(identity)):
        raise ValueError("its end tells of something else")
    return Finished(manifest, bytes.fromhex(found["leaves"]), identity)


def require_same_call(interrupted: Journal, journal: Journal, fields: Collection[str], ignored: Collection[str] = ()) -> None:
    """Raise StateMismatchError unless `journal` is of the call that was interrupted, which wrote these fields."""
    differences = list(_differences(interrupted.call, journal.call, ignored))
    if interrupted.record is not None and set(interrupted.record.checksums) != set(fields):
        differences = [f"fields {sorted(interrupted.record.checksums)}, now {sorted(fields)}"]
    if differences:
        raise begun_by_another_call(journal.output, differences)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str] = (), of: str = "") -> Iterator[str]:
    for name in sorted({**now, **before}):
        was, wanted = before.get(name), now.get(name)
        if was == wanted or name in ignored:
            continue
        if name in _FINGERPRINTS:
            yield "the source has changed"
        elif name == "fields" and isinstance(was, dict) and isinstance(wanted, dict) and was.keys() == wanted.keys():
            for field, each in was.items():
                if isinstance(each, dict):
                    yield from _differences(each, wanted[field], of=f" of {field}" if len(was) > 1 else "")
                else:
                    yield f"{field} {each!r}"
        elif name == "fields" and isinstance(wanted, dict):
            yield f"fields {sorted(was) if isinstance(was, dict) else was!r}, now {sorted(wanted)}"
        else:
            yield f"{name}{of} {was!r}, now {wanted!r}"


def begun_by_another_call(output: Output, differences: Iterable[str]) -> StateMismatchError:
    """Return the error for a call that wants something else than the interrupted one, whose `differences` are told in words."""
    return StateMismatchError(
        f"{output.partial} was begun by another call: {'; '.join(differences)}. "
        f"Repeat that call to go on with it. To start again, pass resume=False (--no-resume), or delete {output.partial}*."
    )


def journal_line(found: dict[str, Any]) -> str:
    """Return JSON behind its CRC-32, in one line."""
    text = json.dumps(found)
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


def journal_lines(data: bytes) -> tuple[list[dict[str, Any]], int]:
    """Return the JSON of the lines that are whole, and how many bytes these have. Raises ValueError for a line that was changed.

    >>> written = journal_line({"a": 1}) + journal_line({"b": [2]})[:-3]
    >>> journal_lines(written.encode())
    ([{'a': 1}], 18)
    """
    whole = data.rfind(b"\n") + 1
    return [_checked(line) for line in data[:whole].split(b"\n")[:-1]], whole


def _checked(line: bytes) -> dict[str, Any]:
    crc, _, text = line.partition(b" ")
    if crc != f"{zlib.crc32(text):08x}".encode():
        raise ValueError("the CRC-32 of a line is another")
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"a line holds a {type(found).__name__}")
    return found


def add_lines(path: str, lines: Iterable[dict[str, Any]]) -> None:
    """Add lines to a journal; they are on disk when this returns. Raises WriteError."""
    with explaining_write_errors(path), Path(path).open("ab") as file:
        file.write("".join(map(journal_line, lines)).encode())
        file.flush()
        os.fsync(file.fileno())


def cut_to(path: str, nbytes: int) -> None:
    """Remove a line that was cut short, so that the next begins on its own."""
    with explaining_write_errors(path):
        os.truncate(path, nbytes)
