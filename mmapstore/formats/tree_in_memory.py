"""The common part of targets that are kept in memory, without values: the objects that a conversion would write.

Each format derives its target from its own writer, so that names, attributes, links and refusals come out as on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .tree_contract import Kind, TreeArray, TreeTarget


@dataclass(frozen=True)
class Entry:
    """An entry of a target in memory."""

    kind: str  # "group", "array", "empty", "soft link" ...
    attributes: dict[str, Any]
    array: TreeArray | None = None  # of an array that was added as values; None of others, and of a copy of the source's
    target: str = ""  # of a link, the object that it leads to


class InMemory(TreeTarget):
    """A target that would be at `path`. `entries` are by path; `log` has the paths in the order in which they were added."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self.log: list[str] = []
        self.add_group("/", {})

    def note(self, path: str, kind: str, attributes: dict[str, Any], array: TreeArray | None = None, target: str = "") -> None:
        self.log.append(path)
        self.entries[path] = Entry(kind, attributes, array, target)

    def is_taken(self, path: str, is_group: bool) -> bool:
        return path in self.entries

    def remove(self, path: str) -> None:
        """Forget this path and all below it."""
        if path in self.entries:
            self.entries = {each: entry for each, entry in self.entries.items() if each != path and not each.startswith(f"{path}/")}

    def add_group(self, path: str, attributes: dict[str, Any]) -> None:
        self.note(path, Kind.GROUP, attributes)

    def commit(self) -> None:
        pass

    def close(self) -> None:
        pass
