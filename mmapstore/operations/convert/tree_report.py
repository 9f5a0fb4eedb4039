"""The report on each object of a tree: copied, changed, refused or failed, with the reason; and the exit code."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from ...files.system_errors import explaining_write_errors
from ...formats.registry import PARTIAL
from ...plain.memory_budget import format_bytes

COPIED, CHANGED, REFUSED, FAILED, LEFT_OUT = "copied", "changed", "refused", "failed", "left out"
_COLUMNS = ("archive", "path", "kind", "outcome", "how", "bytes", "sha256")


@dataclass(frozen=True)
class TreeRow:
    """The outcome of one object, or of an attribute that is changed or refused."""

    path: str  # in the source; "/group/x@units" is the attribute units of /group/x, "/table/time" also the member time of /table
    kind: str  # "array", "group", "attribute", "soft link" ...
    # "copied", "changed" (equal values in another form), "refused" or "failed"; "left out" for a file that is no archive
    outcome: str
    how: str = ""  # the changes, or the reason
    nbytes: int = 0  # of the values
    # the content digest of an array's values, the same for the same values in any format; of a compound array that is kept in one
    # piece, the digest of the lines "member digest" of all its members
    sha256: str = ""
    archive: str = ""  # the file in a directory of archives

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> TreeRow:
        """Return the row that `dataclasses.asdict` gave, from a journal. Raises TypeError, ValueError for anything else."""
        row = cls(**found)
        if not all(isinstance(value, int if name == "nbytes" else str) for name, value in vars(row).items()):
            raise ValueError("a row is not made of text and a number")
        return row

    @property
    def is_lost(self) -> bool:
        return self.outcome in (REFUSED, FAILED)


@dataclass(frozen=True)
class TreeReport:
    """The result of converting a tree, or a directory of archives."""

    source: str
    target: str
    rows: tuple[TreeRow, ...]
    seconds: float = field(default=0.0, compare=False)

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows with each outcome."""
        found = Counter(row.outcome for row in self.rows)
        return {outcome: found[outcome] for outcome in (COPIED, CHANGED, REFUSED, FAILED, LEFT_OUT)}

    @property
    def exit_code(self) -> int:
        """0 if all was copied or changed, 1 if anything was refused or failed."""
        return int(any(row.is_lost for row in self.rows))

    @property
    def nbytes(self) -> int:
        return sum(row.nbytes for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "target": self.target,
            "counts": self.counts,
            "bytes": self.nbytes,
            "seconds": round(self.seconds, 3),
            "exit_code": self.exit_code,
            "rows": [vars(row) for row in self.rows],
        }

    def to_text(self) -> str:
        """Return a line for each row that is not "copied", attributes of one object and reason together, and the counts."""
        lines = []
        told = (row for row in self.rows if row.outcome != COPIED)
        for (archive, path, kind, outcome, how), rows in groupby(told, key=_told_together):
            names = ", ".join(row.path[len(path) :] for row in rows)
            lines.append(f"{outcome:<8} {f'{archive}::' * bool(archive)}{path}{names}  ({kind}): {how}")
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items() if count) or "nothing found"
        lines.append(f"{self.target}: {counts}; {format_bytes(self.nbytes)} of values in {self.seconds:.1f} s")
        return "\n".join(lines)

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Write all rows as CSV, in UTF-8, with a header line. The file appears when it is whole."""
        temporary = f"{os.fspath(path)}{PARTIAL}"
        with explaining_write_errors(path):
            with Path(temporary).open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
                writer = csv.writer(file)
                writer.writerow(_COLUMNS)
                writer.writerows(
                    (row.archive, row.path, row.kind, row.outcome, row.how, row.nbytes, row.sha256) for row in self.rows
                )
            os.replace(temporary, path)


def _told_together(row: TreeRow) -> tuple[str, ...]:
    path = row.path[: row.path.rindex("@") + 1] if row.kind == "attribute" and "@" in row.path else row.path
    return row.archive, path, row.kind, row.outcome, row.how


def joined(rows: Iterable[str]) -> str:
    """Join notes to one, each once."""
    return "; ".join(dict.fromkeys(part for part in rows if part))


@dataclass(frozen=True)
class Done:
    """A finished object: its path in the source, its rows in the report, and (path in the target, digest) of each of its arrays."""

    path: str
    rows: tuple[TreeRow, ...]
    checks: tuple[tuple[str, str], ...] = ()


class TreeRecord:
    """The record in the journal: the finished objects by path, each a line that is added once it is on disk."""

    def __init__(self) -> None:
        self.done: dict[str, Done] = {}
        self._new: list[Done] = []

    def add(self, done: Done) -> None:
        self.done[done.path] = done
        self._new.append(done)

    def take(self, line: dict[str, Any]) -> None:
        rows = tuple(TreeRow.from_json(row) for row in line["rows"])
        done = Done(line["path"], rows, tuple((path, digest) for path, digest in line["checks"]))
        if not rows or not all(isinstance(text, str) for text in (done.path, *(text for check in done.checks for text in check))):
            raise ValueError("the line of an object has another form")
        self.done[done.path] = done

    def all_lines(self) -> Iterable[dict[str, Any]]:
        self._new = list(self.done.values())
        return self.new_lines()

    def new_lines(self) -> Iterable[dict[str, Any]]:
        new, self._new = self._new, []
        return [
            {"path": done.path, "rows": [vars(row) for row in done.rows], "checks": [list(check) for check in done.checks]}
            for done in new
        ]
