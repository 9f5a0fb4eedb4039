"""The copies that `convert` makes of the objects of a container in another format, which `verify` compares with a target."""

from __future__ import annotations

from typing import Any

from ...formats.registry import PARTIAL
from ...formats.tree_contract import Attribute, Kind, Node, TreeSource, inside
from ...formats.tree_in_memory import Entry
from ..convert.tree_copies import copy_method
from ..convert.tree_record import Done
from ..convert.tree_report import COPIED
from .objects import ARRAY, Archive, Objects, Trees, add_archive, array_of, layouts_of, values_of


def add_expected(found: Objects, archive: Archive, like: Archive, trees: Trees, theirs: Trees, max_memory: int) -> None:
    """All that is in `archive`, as a conversion to the format of `like` names and changes it, with the rows of its report.

    No value is moved. What a conversion finds out by that alone, such as a damaged chunk, is found when values are compared.
    """
    if archive.kind == ARRAY and next(iter(theirs.open(like).walk())).kind == Kind.ARRAY:
        add_archive(found, archive, trees)  # one array and another, neither of them in anything
        return
    tree = trees.open(archive)
    assert like.container is not None and like.container.in_memory is not None, "it is one that conversions write"
    target = like.container.in_memory(f"{like.path}{PARTIAL}")  # as long as where a conversion writes: paths can be too long
    listing = _Listing(found, archive, tree, trees, target, as_stored=archive.container is like.container)
    try:
        listing.convert(max_memory)
    finally:
        target.close()
    listing.add_all()
    trees.prepare[archive] = listing.prepare


class _Listing:
    """The result of one conversion to a target in memory, by object."""

    def __init__(self, found: Objects, archive: Archive, tree: TreeSource, trees: Trees, target: Any, as_stored: bool) -> None:
        self._found, self._archive, self._tree, self._trees, self._target = found, archive, tree, trees, target
        self._as_stored = as_stored
        self._done: dict[str, Done] = {}
        self._places: dict[str, str] = {}
        self._nodes: dict[str, Node] = {}
        self._attributes: dict[str, dict[str, Any]] = {}

    def convert(self, max_memory: int) -> None:
        planned = copy_method(self._tree, self._target, max_memory, dry=True)
        log = self._target.log
        for node in self._tree.walk():
            before = len(log)
            self._done[node.path] = planned.convert(node)
            self._places[node.path] = planned.place(node)
            self._nodes |= dict.fromkeys(log[before:], node)
        self._target.commit()
        self._nodes.setdefault("/", Node("/", ""))
        for done in list(planned.finish(self._done)):
            self._done[done.path] = done
            self._places.setdefault(done.path, done.path)  # what the target has beside
        entries = self._target.entries
        for node in self._tree.walk():  # once it is known to which objects references can lead
            place = self._places[node.path]
            if place in entries and entries[place].kind not in Kind.LINKS:
                self._attributes[place] = planned.expected_attributes(node)

    def prepare(self, tree: TreeSource) -> None:
        """The same names, and references to the same objects, in the tree opened again."""
        if not self._target.has_hard_links:
            tree.prefer_names_referred_to()
        for done in self._done.values():
            if self._as_stored and done.rows[0].is_lost:
                tree.forget(done.path)

    def add_all(self) -> None:
        layouts = layouts_of(self._archive)
        for path, entry in self._target.entries.items():
            self._add(path, entry, layouts)
        for done in self._done.values():
            for row in done.rows:
                if row.outcome == COPIED and not row.how:
                    continue
                rest, name = row.path[len(done.path) :], ""
                if row.kind == "attribute":
                    rest, name = "", rest[1:]
                key = self._archive.key(inside(self._places[done.path], rest.strip("/")))
                self._found.rows.setdefault(key, {})[name] = row

    def _add(self, path: str, entry: Entry, layouts: dict[str, str]) -> None:
        found, node, key = self._found, self._nodes.get(path, Node(path, entry.kind)), self._archive.key(path)
        if entry.kind in Kind.LINKS:
            found.links[key] = self._archive.key(entry.target)
            return
        own = self._attributes.get(path, {})
        added = {name: value for name, value in entry.attributes.items() if name not in own and name not in node.attributes}
        found.attributes[key] = [Attribute(*each) for each in (own | added).items()]
        parts = []
        if entry.kind == Kind.ARRAY:
            parts = [entry.array] if entry.array is not None else values_of(self._tree, node.path, self._as_stored)
        if entry.kind == Kind.EMPTY or (entry.kind == Kind.ARRAY and not parts):
            found.empty.add(key)
        for values in parts:
            place = path if entry.array is not None else inside(path, values.member)
            found.add(array_of(self._archive, self._tree, self._trees, node, place, values, layouts, self._as_stored))
