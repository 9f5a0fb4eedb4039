"""How far the conversion of a tree has come: a line for each object that is on disk, so that a kill costs what came after.

    out.partial         what is written so far
    out.partial.json    the journal: what was asked for, then a line for each finished object, at the end that all is verified
    out.partial.lock    held by the process that writes
    out.mmapstore.json  the manifest, written last, where the source has one

The journal is there before the partial target, and goes last. Lines are added, never changed; one that a kill cut short counts as
not written. Each begins with the CRC-32 of its JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...files import durable_writes
from ...files.system_errors import explaining_write_errors
from ...formats.registry import PARTIAL
from ...plain.errors import StateMismatchError, TargetExistsError
from ...plain.manifest import SUFFIX, Manifest, leaves_path
from ..manifest_files import write_manifest
from .journal_lines import UNREADABLE, add_lines, cut_to, journal_line, journal_lines
from .tree_report import TreeRow

_VERSION = 2
_COMMIT_NBYTES = 64 << 20
_COMMIT_SECONDS = 1.0


@dataclass(frozen=True)
class Done:
    """A finished object.

    Attributes
    ----------
    path : in the source
    rows : of the report
    checks : (path in the target, content digest) of each array that was made of it
    """

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
        """Read what an interrupted run left. False if there is nothing.

        Raises TargetExistsError for a partial target that no journal tells of; StateMismatchError if something else was asked for.
        """
        try:
            data = Path(self.path).read_bytes()
        except FileNotFoundError:
            if os.path.lexists(self.partial):
                raise TargetExistsError(
                    f"{self.partial} exists, and no journal says what it is. mmapstore would write there: move it away, "
                    "or delete it."
                ) from None
            return False
        try:
            lines, whole = journal_lines(data)
            first = lines[0] if lines else {}
            if first.get("mmapstore_tree_journal") != _VERSION:
                raise ValueError(f"its version is {first.get('mmapstore_tree_journal')!r}")
            call = first["call"]
            for line in lines[1:]:
                self._take(line)
        except UNREADABLE as error:
            raise StateMismatchError(
                f"{self.path} is not the journal of an interrupted conversion that this mmapstore can go on with ({error}). "
                f"Pass resume=False (--no-resume) if nothing is to be kept of it, or delete it and {self.partial}."
            ) from error
        if call != self.call:
            raise StateMismatchError(
                f"{self.partial} was left by another conversion, or its source has changed since: found {call}, expected "
                f"{self.call}. Pass resume=False (--no-resume) to begin anew, or delete {self.path} and {self.partial}."
            )
        cut_to(self.path, whole)
        return True

    def _take(self, line: dict[str, Any]) -> None:
        if line.get("verified"):
            self.is_verified = True
            return
        rows = tuple(TreeRow.from_json(row) for row in line["rows"])
        done = Done(line["path"], rows, tuple((path, digest) for path, digest in line["checks"]))
        if not rows or not all(isinstance(text, str) for text in (done.path, *(text for check in done.checks for text in check))):
            raise ValueError("an object is told of in another way")
        self.done[done.path] = done

    def begin(self) -> None:
        """A journal without objects. Raises TargetExistsError if a name is taken that will be needed."""
        if os.path.lexists(f"{self.out}.replaced"):
            raise TargetExistsError(f"{self.out}.replaced exists, where an old target would be put meanwhile. Move it away first.")
        self.done, self._pending, self.is_verified = {}, [], False
        with explaining_write_errors(self.path):
            durable_writes.write_text_atomically(self.path, journal_line(self._head()))

    def add(self, done: Done) -> bool:
        """Note what is finished but not yet on disk. True once enough has gathered for a commit."""
        self.done[done.path] = done
        self._pending.append(done)
        self._nbytes += sum(row.nbytes for row in done.rows)
        return self._nbytes >= _COMMIT_NBYTES or time.monotonic() - self._committed >= _COMMIT_SECONDS

    def commit(self) -> None:
        """Record what was added, once the target has it on disk."""
        add_lines(self.path, map(_told, self._pending))
        self._pending.clear()
        self._nbytes, self._committed = 0, time.monotonic()

    def rewrite(self) -> None:
        """All of it anew, objects as they are now, and that the target is verified: what is left is to give it its name."""
        self._pending = []
        lines = [self._head(), *map(_told, self.done.values()), {"verified": True}]
        with explaining_write_errors(self.path):
            durable_writes.write_text_atomically(self.path, "".join(map(journal_line, lines)))
        self.is_verified = True

    def _head(self) -> dict[str, Any]:
        return {"mmapstore_tree_journal": _VERSION, "call": self.call}

    def discard(self) -> None:
        """Forget what was written. A target that was moved aside is back under its name."""
        with explaining_write_errors(self.out):
            old = f"{self.out}.replaced"
            if os.path.isdir(old) and not os.path.lexists(self.out) and os.path.exists(self.path):
                os.replace(old, self.out)
            durable_writes.remove(self.partial)
            durable_writes.remove(self.path)

    def publish(self, overwrite: bool, manifest: Manifest | None) -> None:
        """Give the verified target its name, then its manifest. After a kill the old or the new is there, or goes on from here."""
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
    return {"path": done.path, "rows": [asdict(row) for row in done.rows], "checks": [list(check) for check in done.checks]}
