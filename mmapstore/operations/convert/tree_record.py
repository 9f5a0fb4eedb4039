"""The record in the journal of a tree's conversion: a line for each object that is on disk, as `flow.journal` keeps it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .tree_report import TreeRow


@dataclass(frozen=True)
class Done:
    """A finished object: its path in the source, its rows in the report, and (path in the target, digest) of each of its arrays."""

    path: str
    rows: tuple[TreeRow, ...]
    checks: tuple[tuple[str, str], ...] = ()


class TreeRecord:
    """The finished objects, by path."""

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
