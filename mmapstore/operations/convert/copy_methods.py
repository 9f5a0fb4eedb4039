"""Copy the objects of a tree into a target: by their values, or, between files of one format, as they are stored."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ...files.crashes import step
from ...files.system_errors import is_of_this_machine
from ...formats.tree_contract import NON_COORDINATE, Kind, NewTreeArray, Node, TreeArray, TreeSource, TreeTarget, finite, inside
from ...plain.errors import (
    InvalidTypeError,
    InvalidValueError,
    MemoryBudgetError,
    MissingPackageError,
    MmapstoreError,
    StateMismatchError,
    UnsafeFileError,
)
from ..flow.engines import THREADS
from .tree_regions import copy_with
from .tree_report import CHANGED, COPIED, FAILED, REFUSED, Done, TreeRow, joined
from .tree_values import joint_digest, plan_blocks

REFUSALS = (UnsafeFileError, MissingPackageError, InvalidTypeError, InvalidValueError, MemoryBudgetError)
Suspects = dict[str, list[str]]
Checks = tuple[tuple[str, str], ...]
_MOST_COPIED_NBYTES = 1 << 20  # of a further name of an array
_ROOT_ARRAY = "/data"  # name of the array at the root of a Zarr store where a root cannot be an array


def row_of_error(node: Node, error: Exception, path: str = "") -> TreeRow:
    """Return the row of an object that cannot be copied. Raises `error` if the machine is at fault, not the object."""
    if is_of_this_machine(error) or isinstance(error, StateMismatchError):  # or a worker has another version
        raise error
    outcome = REFUSED if isinstance(error, REFUSALS) else FAILED
    words = str(error) if isinstance(error, MmapstoreError) else f"it cannot be copied ({type(error).__name__}: {error})"
    return TreeRow(path or node.path, node.kind, outcome, words)


def row_of_values(path: str, kind: str, nbytes: int, digest: str, changed: str) -> TreeRow:
    return TreeRow(path, kind, CHANGED if changed else COPIED, changed, nbytes, digest)


class CopyMethod:
    """Copies trees by one method; this class holds the parts that all share: links, refused names, failures.

    `dry`: report on each object without moving values; `verify` compares the result with a target.
    `engine`: what `engines.opened` yields, to move the values of large arrays.
    `suspects`: objects and attributes that read back differently, "/x" or "/x@unit", with the words of each attempt.
    """

    attempts = 1
    """Attempts that each copy an object differently."""

    def __init__(
        self,
        source: TreeSource,
        target: TreeTarget,
        max_memory: int,
        dry: bool = False,
        suspects: Suspects | None = None,
        engine: Any = THREADS,
    ) -> None:
        self.source, self.target, self.max_memory, self.dry = source, target, max_memory, dry
        self.suspects, self.engine = suspects or {}, engine
        self._lost: set[str] = set()
        self._array_nbytes: dict[str, int] = {}

    def convert(self, node: Node) -> Done:
        """Copy one object or link. Raises WriteError; a fault of the source is a row."""
        done = self._refused(node) or self._attempted(node)
        self.note(done)
        return done

    def finish(self, done: dict[str, Done]) -> Iterator[Done]:
        """Do the rest once all objects are there; yield those whose rows change."""
        return iter(())

    def expected_attributes(self, node: Node) -> dict[str, Any]:
        """Return the attributes that the target is to read back for an object, as JSON."""
        return {attribute.name: attribute.value for attribute in self.source.attributes(node.path)}

    def differences(self, node: Node, done: Done, written: Any) -> dict[str, str]:
        """Return the differences between target and source, in words, by object ("/x") or attribute ("/x@unit")."""
        raise NotImplementedError

    def place(self, node: Node) -> str:
        """Return the path of an object in the target."""
        return _ROOT_ARRAY if node.path == "/" and node.kind == Kind.ARRAY else node.path

    def note(self, done: Done) -> None:
        """Take the outcome of an object into account, also one of an interrupted run."""
        if done.rows[0].is_lost:  # its members and its other names cannot be written either
            self._lost.add(done.path)
        elif done.rows[0].kind == Kind.ARRAY:
            self._array_nbytes[done.path] = sum(row.nbytes for row in done.rows)

    def _attempted(self, node: Node) -> Done:
        tried = self.suspects.get(node.path, [])
        if len(tried) >= self.attempts:
            return self._row(node, FAILED, tried[-1])
        try:
            with step(f"copying {node.path} of {self.source.name}"):
                return self._converted(node)
        except Exception as error:  # foreign files make libraries raise anything
            row = row_of_error(node, error)
            self.target.remove(self.place(node))
            return Done(node.path, (row,))

    def _converted(self, node: Node) -> Done:
        raise NotImplementedError

    def _refused(self, node: Node) -> Done | None:
        parent, place, is_group = node.path.rsplit("/", 1)[0], self.place(node), node.kind == Kind.GROUP
        if parent in self._lost:
            return self._row(node, REFUSED, f"its group {parent} was not written")
        if node.damage:
            return self._row(node, REFUSED if node.kind in Kind.LINKS else FAILED, node.damage)
        if node.kind == Kind.EXTERNAL_LINK:
            why = (
                f"it leads to another file, {node.target}; a file from elsewhere could name any file of yours. If you trust it, "
                "pass allow_links=True (--allow-links)"
            )
            return self._row(node, REFUSED, why)
        if node.kind == Kind.ALIAS and any(f"{node.target}/".startswith(f"{each}/") for each in self._lost):
            return self._row(node, REFUSED, f"{node.target}, which it is another name of, was not written")
        why = self.target.refusal(place, is_group)
        if not why:
            self.target.remove(place)  # an interrupted run may have left it
            if place != "/" and self.target.is_taken(place, is_group):
                why = "something of another kind has its name there already"
        return self._row(node, REFUSED, why) if why else None

    def _row(self, node: Node, outcome: str, how: str) -> Done:
        return Done(node.path, (TreeRow(node.path, node.kind, outcome, how),))

    def _link(self, node: Node) -> Done:
        how = self.target.add_link(node.path, node.kind, node.target)
        return self._row(node, CHANGED if how else COPIED, how)

    def _digest(self, parts: list[TreeArray], name: str) -> str:
        """Return one digest of all parts that can be read."""
        if self.dry:
            return ""
        readable = [part for part in parts if not part.refused]
        plans = [plan_blocks(part, self.max_memory, name)[0] for part in readable]
        return joint_digest([(part.member, self._copy(part, None, plan)) for part, plan in zip(readable, plans, strict=True)])

    def _copy(self, array: TreeArray, new: NewTreeArray | None, elements: int) -> str:
        return copy_with(self.engine, array, new, elements, self.max_memory)

    def _different_values(self, done: Done, arrays: Callable[[str], list[TreeArray]]) -> dict[str, str]:
        for place, digest in done.checks:
            found = self._digest(arrays(place), place)
            if found != digest:
                return {done.path: f"{place} reads back as {found}, expected {digest} (SHA-256 of the values)"}
        return {}


class ByValues(CopyMethod):
    """Copies any tree into any target: attributes as JSON, arrays as plain values."""

    def convert(self, node: Node) -> Done:
        if node.kind != Kind.DIMENSION:
            return super().convert(node)
        how = "the arrays that have it name it" if "REFERENCE_LIST" in node.attributes else "no array has it"
        return self._row(node, CHANGED, f"a dimension without coordinates: {how}")

    def place(self, node: Node) -> str:
        group, _, name = node.path.rpartition("/")
        if node.path == "/" or node.kind != Kind.ARRAY:
            return super().place(node)
        if not self.target.has_scales:
            return f"{group}/{name.removeprefix(NON_COORDINATE)}"
        return f"{group}/{NON_COORDINATE}{name}" if node.path in self._named_as_dimensions else node.path

    @functools.cached_property
    def _named_as_dimensions(self) -> set[str]:
        """Arrays that are named as a dimension in their group but are not its coordinates: HDF5 needs the name for a scale."""
        names = {node.path: self.source.dimensions(node.path) for node in self.source.walk() if node.kind == Kind.ARRAY}
        scales = {f"{path.rpartition('/')[0]}/{name}" for path, axes in names.items() for name in axes if name}
        return {path for path in scales & names.keys() if names[path][:1] != (path.rpartition("/")[-1],)}

    def _converted(self, node: Node) -> Done:
        # A further name of a small array is a copy, so that readers find the values there, if the target has one name for each.
        is_small = self._array_nbytes.get(node.target, _MOST_COPIED_NBYTES + 1) <= _MOST_COPIED_NBYTES
        if node.kind in Kind.LINKS and not (node.kind == Kind.ALIAS and is_small and not self.target.has_hard_links):
            return self._link(node)
        carried, rows = self._attributes(node)
        if node.kind == Kind.NAMED_TYPE:
            row = TreeRow(node.path, node.kind, CHANGED, "no object there: each array has its own type")
            lost = [TreeRow(f"{node.path}@{name}", "attribute", REFUSED, "no object is left to have it") for name in carried]
            return Done(node.path, (row, *lost, *(each for each in rows if each.is_lost)))
        if node.kind == Kind.GROUP:
            self.target.add_group(node.path, carried)
            return Done(node.path, (TreeRow(node.path, node.kind, COPIED), *rows))
        return self._array(node, carried, rows)

    def _attributes(self, node: Node) -> tuple[dict[str, Any], list[TreeRow]]:
        carried, rows = {}, []
        for attribute in self.source.attributes(_origin(node)):
            path = f"{node.path}@{attribute.name}"
            if attribute.derived:
                rows.append(TreeRow(path, "attribute", CHANGED, "kept as the names of axes"))
                continue
            given = attribute if attribute.refused else self.target.fitted(attribute, node.kind == Kind.GROUP)
            if why := self.suspects[path][-1] if path in self.suspects else given.refused:
                rows.append(TreeRow(path, "attribute", REFUSED, why))
                continue
            carried[given.name] = given.value
            if given.changed:
                rows.append(TreeRow(path, "attribute", CHANGED, given.changed))
        return carried, rows

    def _array(self, node: Node, carried: dict[str, Any], rows: list[TreeRow]) -> Done:
        place, parts = self.place(node), self.source.arrays(_origin(node))
        renamed = f"named {place}" if place != node.path else ""
        if node.kind == Kind.ALIAS:
            renamed = f"a copy of {node.target}: in the source both are one array, in the target an array has one name"
        if not parts:
            how = joined([renamed, self.target.add_empty(place, carried)])
            return Done(node.path, (TreeRow(node.path, node.kind, CHANGED if how else COPIED, how), *rows))
        if len(parts) == 1 and not parts[0].member:
            row, checks = self._part(node, parts[0], place, carried, renamed)
            return Done(node.path, (row, *(rows if checks else ())), checks)
        if why := self.target.refusal(place, True):
            return self._row(node, REFUSED, why)
        self.target.add_group(place, carried)
        groups = {place}
        made = [TreeRow(node.path, node.kind, CHANGED, joined([renamed, "a compound as a group of its members"]))]
        checks = ()
        for part in parts:
            if not part.refused:
                for path in _steps(place, inside(place, part.member))[:-1]:
                    if path not in groups and not self.target.refusal(path, True) and not self.target.is_taken(path, True):
                        self.target.add_group(path, {})
                        groups.add(path)
            try:
                row, check = self._part(node, part, inside(place, part.member), {}, "")
            except Exception as error:  # as of a whole object
                row, check = row_of_error(node, error, inside(node.path, part.member)), ()
                self.target.remove(inside(place, part.member))
            made.append(row)
            checks += check
        return Done(node.path, (*made, *rows), checks)

    def _part(self, node: Node, array: TreeArray, place: str, carried: dict[str, Any], renamed: str) -> tuple[TreeRow, Checks]:
        path, why = inside(node.path, array.member), array.refused
        if not why:
            why = next((why for at in _steps(self.place(node), place) if (why := self.target.refusal(at, at != place))), "")
        if not why and array.member and self.target.is_taken(place, False):
            why = "another member has its name there already"
        if why:
            return TreeRow(path, node.kind, REFUSED, why), ()
        elements, decoded = (0, 0) if self.dry else plan_blocks(array, self.max_memory, path)
        notes = {name: note for name, note in array.notes if name not in carried}
        new = self.target.add_array(place, array, {**carried, **notes})
        try:
            digest = "" if self.dry else self._copy(array, new, elements)
        finally:
            new.close()
        row = row_of_values(path, node.kind, array.nbytes, digest, joined([renamed, *array.changed, *new.changed]))
        if decoded > 1:
            again = f"each chunk decoded {decoded} times, because they fight the order of writing: more max_memory reads them once"
            row = replace(row, how=joined([row.how, again]))
        return row, ((place, digest),)

    def finish(self, done: dict[str, Done]) -> Iterator[Done]:
        """Attach the dimension scales."""
        if not self.target.has_scales:
            return
        axes: dict[str, tuple[str | None, ...]] = {}
        lists: dict[str, Any] = {}
        owners: dict[str, str] = {}
        for node in self.source.walk():
            if node.kind == Kind.ARRAY and not done[node.path].rows[0].is_lost:
                names, place = self.source.dimensions(node.path), self.place(node)
                axes |= {part: names for part, _ in done[node.path].checks}
                if "DIMENSION_LIST" in node.attributes and (given := self._attributes(node)[0].get("DIMENSION_LIST")):
                    lists[place], owners[place] = given, node.path
        added, failed = self.target.attach_scales(axes, lists)
        for path in added:
            yield Done(path, (TreeRow(path, Kind.DIMENSION, CHANGED, "a dimension without coordinates: a scale has its name"),))
        for place, why in failed.items():
            entry = done[owners[place]]
            row = TreeRow(f"{entry.path}@DIMENSION_LIST", "attribute", REFUSED, why)
            yield replace(entry, rows=(*entry.rows, row))

    def expected_attributes(self, node: Node) -> dict[str, Any]:
        carried = self._attributes(node)[0]
        if self.target.has_scales and node.kind != Kind.GROUP:
            for name in ("DIMENSION_LIST", "REFERENCE_LIST"):
                carried.pop(name, None)  # made anew, see `finish`
        return carried

    def differences(self, node: Node, done: Done, written: Any) -> dict[str, str]:
        found: dict[str, str] = {}
        if (node.kind in (Kind.GROUP, Kind.ARRAY) or done.checks) and not done.rows[0].is_lost:
            found_there = {attribute.name: attribute.value for attribute in written.attributes(self.place(node))}
            for name, value in self.expected_attributes(node).items():
                if name not in found_there or json.dumps(finite({name: found_there[name]})) != json.dumps(finite({name: value})):
                    found[f"{done.path}@{name}"] = f"it reads back as {found_there.get(name)!r}, expected {value!r}"
        return found | self._different_values(done, written.arrays)


def _origin(node: Node) -> str:
    """Return the path of the values and attributes in the source."""
    return node.target if node.kind == Kind.ALIAS else node.path


def _steps(first: str, last: str) -> list[str]:
    """Return the paths below `first` on the way to `last`, with `last`.

    >>> _steps("/a", "/a/b/c"), _steps("/a", "/a")
    (['/a/b', '/a/b/c'], [])
    """
    rest = last[len(first) :].strip("/").split("/") if last != first else []
    return [inside(first, "/".join(rest[:depth])) for depth in range(1, len(rest) + 1)]
