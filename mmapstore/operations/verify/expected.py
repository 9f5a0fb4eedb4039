"""The copies that `convert` makes of the objects of a container in another format, which `verify` compares with a target."""

from __future__ import annotations

from typing import Any

from ...formats.registry import PARTIAL
from ...formats.tree_contract import Attribute, Entry, Kind, Node, TreeSource, inside
from ..convert.tree_copies import copy_method
from ..convert.tree_report import COPIED, Done
from .objects import ARRAY, Archive, Objects, TreeListing, Trees, add_archive


def add_expected(found: Objects, archive: Archive, like: Archive, trees: Trees, theirs: Trees, max_memory: int) -> None:
    """Add all that is in `archive`, named and changed by a conversion to the format of `like`, with the rows of its report.

    No value is read. An error that a conversion meets in values, such as a damaged chunk, is found when they are compared.
    """
    if archive.kind == ARRAY and next(iter(theirs.open(like).walk())).kind == Kind.ARRAY:
        add_archive(found, archive, trees)  # one array and another, neither of them in anything
        return
    assert like.container is not None and like.container.in_memory is not None, "it is one that conversions write"
    target = like.container.in_memory(f"{like.path}{PARTIAL}")  # as long as where a conversion writes: paths can be too long
    expected = _Expected(TreeListing(found, archive, trees, archive.container is like.container), target)
    try:
        expected.convert(max_memory)
    finally:
        target.close()
    expected.add_all()
    trees.prepare[archive] = expected.prepare


class _Expected:
    """A conversion to a target in memory, and the listing of its results by object."""

    def __init__(self, listing: TreeListing, target: Any) -> None:
        self._listing, self._target = listing, target
        self._done: dict[str, Done] = {}
        self._places: dict[str, str] = {}
        self._nodes: dict[str, Node] = {}
        self._attributes: dict[str, dict[str, Any]] = {}

    def convert(self, max_memory: int) -> None:
        tree = self._listing.tree
        planned = copy_method(tree, self._target, max_memory, dry=True)
        log = self._target.log
        for node in tree.walk():
            before = len(log)
            self._done[node.path] = planned.convert(node)
            self._places[node.path] = planned.place(node)
            self._nodes |= dict.fromkeys(log[before:], node)
        self._target.commit()
        self._nodes.setdefault("/", Node("/", ""))
        for done in list(planned.finish(self._done)):
            self._done[done.path] = done
            self._places.setdefault(done.path, done.path)  # objects that the target has beside
        entries = self._target.entries
        for node in tree.walk():  # once it is known to which objects references can lead
            place = self._places[node.path]
            if place in entries and entries[place].kind not in Kind.LINKS:
                self._attributes[place] = planned.expected_attributes(node)

    def prepare(self, tree: TreeSource) -> None:
        """Give the objects of the tree, opened again, the same names, and references to the same objects."""
        if not self._target.has_hard_links:
            tree.prefer_names_referred_to()
        for done in self._done.values():
            if self._listing.as_stored and done.rows[0].is_lost:
                tree.forget(done.path)

    def add_all(self) -> None:
        for path, entry in self._target.entries.items():
            self._add(path, entry)
        for done in self._done.values():
            for row in done.rows:
                if row.outcome == COPIED and not row.how:
                    continue
                rest, name = row.path[len(done.path) :], ""
                if row.kind == "attribute":
                    rest, name = "", rest[1:]
                key = self._listing.archive.key(inside(self._places[done.path], rest.strip("/")))
                self._listing.found.add(key).rows[name] = row

    def _add(self, path: str, entry: Entry) -> None:
        listing, node = self._listing, self._nodes.get(path, Node(path, entry.kind))
        found, key = listing.found, listing.archive.key(path)
        if entry.kind in Kind.LINKS:
            found.add(key, link=listing.archive.key(entry.target))
            return
        own = self._attributes.get(path, {})
        added = {name: value for name, value in entry.attributes.items() if name not in own and name not in node.attributes}
        arrays = []
        if entry.kind == Kind.ARRAY:
            arrays = [entry.array] if entry.array is not None else listing.arrays(node.path)
        is_empty = entry.kind == Kind.EMPTY or (entry.kind == Kind.ARRAY and not arrays)
        found.add(key, attributes=[Attribute(*each) for each in (own | added).items()], is_empty=is_empty)
        for array in arrays:
            listing.add_array(node, path if entry.array is not None else inside(path, array.member), array)
