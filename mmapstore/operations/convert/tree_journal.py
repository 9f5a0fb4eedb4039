"""The journal of a tree's conversion: one line for each object that is on disk, so that a kill costs only the work after it.

    out.partial         the target so far
    out.partial.json    the journal: the call, then a line for each finished object, at the end that all is verified
    out.partial.lock    held by the process that writes
    out.mmapstore.json  the manifest, written last, if the source has one

The journal is written before the partial target, and deleted last. Lines are added, never changed, each behind the CRC-32 of its
JSON; a line that a kill cut short does not count.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files import durable_writes
from ...files.system_errors import explaining_write_errors
from ...formats.registry import PARTIAL
from ...plain.errors import StateMismatchError, TargetExistsError
from ...plain.manifest import SUFFIX, Manifest, leaves_path
from ..flow.journal import UNREADABLE, add_lines, cut_to, journal_line, journal_lines
from ..manifest_files import write_manifest
from .tree_report import TreeRow

_VERSION = 2
_COMMIT_NBYTES = 64 << 20
_COMMIT_SECONDS = 1.0


@dataclass(frozen=True)
class Done:
    """A finished object: its path in the source, its rows in the report, and (path in the target, digest) of each of its arrays."""

    path: str
    rows: tuple[TreeRow, ...]
    checks: tuple[tuple[str, str], ...] = ()


class TreeJournal:
    """The journal beside a target that is being written. `call` is plain JSON."""

    def __init__(self, out: str, call: dict[str, Any]) -> None:
        self.out = out
        self.partial = f"{out}{PARTIAL}"
        self.path = f"{self.partial}.json"
        self.call = json.loads(json.dumps(call))
        self.done: dict[str, Done] = {}
        self.is_verified = False
        self._pending: list[Done] = []
        self._nbytes, self._committed = 0, time.monotonic()

    def found(self) -> bool:
        """Read the journal of an interrupted run. False if there is none.

        Raises TargetExistsError for a partial target without a journal; StateMismatchError for the journal of another call.
        """
        remedy = f"Pass resume=False (--no-resume) if nothing is to be kept of it, or delete it and {self.partial}."
        head = read_lines(self.path, ("mmapstore_tree_journal", _VERSION), self._take, remedy)
        if head is None and os.path.lexists(self.partial):
            raise TargetExistsError(
                f"{self.partial} exists, and no journal says what it is. mmapstore would write there: move it away, or delete it."
            )
        if head is not None and head.get("call") != self.call:
            raise StateMismatchError(
                f"{self.partial} was left by another conversion, or its source has changed since: found {head.get('call')}, "
                f"expected {self.call}. Pass resume=False (--no-resume) to begin anew, or delete {self.path} and {self.partial}."
            )
        return head is not None

    def _take(self, line: dict[str, Any]) -> None:
        if line.get("verified"):
            self.is_verified = True
            return
        rows = tuple(TreeRow.from_json(row) for row in line["rows"])
        done = Done(line["path"], rows, tuple((path, digest) for path, digest in line["checks"]))
        if not rows or not all(isinstance(text, str) for text in (done.path, *(text for check in done.checks for text in check))):
            raise ValueError("the line of an object has another form")
        self.done[done.path] = done

    def begin(self) -> None:
        """Write a journal without objects. Raises TargetExistsError if a temporary name is in use."""
        if os.path.lexists(f"{self.out}.replaced"):
            raise TargetExistsError(f"{self.out}.replaced exists, where an old target would be put meanwhile. Move it away first.")
        self.done, self._pending, self.is_verified = {}, [], False
        with explaining_write_errors(self.path):
            durable_writes.write_text_atomically(self.path, journal_line(self._head()))

    def add(self, done: Done) -> bool:
        """Take a finished object that is not yet on disk. Returns True once a commit is due."""
        self.done[done.path] = done
        self._pending.append(done)
        self._nbytes += sum(row.nbytes for row in done.rows)
        return self._nbytes >= _COMMIT_NBYTES or time.monotonic() - self._committed >= _COMMIT_SECONDS

    def commit(self) -> None:
        """Record the objects that were added, once the target has them on disk."""
        add_lines(self.path, map(_told, self._pending))
        self._pending.clear()
        self._nbytes, self._committed = 0, time.monotonic()

    def rewrite(self) -> None:
        """Write all of the journal again, with the objects as they are now, and that the target is verified."""
        self._pending = []
        lines = [self._head(), *map(_told, self.done.values()), {"verified": True}]
        with explaining_write_errors(self.path):
            durable_writes.write_text_atomically(self.path, "".join(map(journal_line, lines)))
        self.is_verified = True

    def _head(self) -> dict[str, Any]:
        return {"mmapstore_tree_journal": _VERSION, "call": self.call}

    def discard(self) -> None:
        """Delete the partial target, and give a target that was moved aside its name again."""
        with explaining_write_errors(self.out):
            old = f"{self.out}.replaced"
            if os.path.isdir(old) and not os.path.lexists(self.out) and os.path.exists(self.path):
                os.replace(old, self.out)
            durable_writes.remove(self.partial)
            durable_writes.remove(self.path)

    def publish(self, overwrite: bool, manifest: Manifest | None) -> None:
        """Give the verified target its name, then its manifest. After a kill the next call continues from here."""
        old = f"{self.out}.replaced"
        with explaining_write_errors(self.out):
            if os.path.lexists(self.partial):
                is_empty = os.path.isdir(self.out) and not os.listdir(self.out)
                if os.path.lexists(self.out) and not overwrite and not is_empty:
                    raise TargetExistsError(
                        f"{self.out} appeared while it was being written. Pass overwrite=True (--overwrite) to replace it; the "
                        f"finished data waits in {self.partial}."
                    )
                for beside in (f"{self.out}{SUFFIX}", leaves_path(f"{self.out}{SUFFIX}")):
                    durable_writes.remove(beside)  # it describes the data that is replaced
                durable_writes.replace(self.partial, self.out)
            if os.path.isdir(old):
                shutil.rmtree(old)
            if manifest is not None:
                write_manifest(f"{self.out}{SUFFIX}", manifest.to_json(), manifest.leaves)
            durable_writes.remove(self.path)
            durable_writes.sync_directory(os.path.dirname(os.path.abspath(self.out)))


def _told(done: Done) -> dict[str, Any]:
    return {"path": done.path, "rows": [vars(row) for row in done.rows], "checks": [list(check) for check in done.checks]}


def read_lines(path: str, version: tuple[str, int], take: Callable[[dict[str, Any]], Any], remedy: str) -> dict[str, Any] | None:
    """Give each line of a journal to `take`, and return the first, which holds the version; None if there is no journal.

    Cuts off a line that a kill cut short. Raises StateMismatchError with the `remedy` for a file that is no such journal.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return None
    try:
        lines, whole = journal_lines(data)
        head = lines[0] if lines else {}
        if head.get(version[0]) != version[1]:
            raise ValueError(f"its version is {head.get(version[0])!r}")
        for line in lines[1:]:
            take(line)
    except UNREADABLE as error:
        raise StateMismatchError(
            f"{path} is not the journal of a conversion that this mmapstore can go on with ({error}). {remedy}"
        ) from error
    cut_to(path, whole)
    return head
