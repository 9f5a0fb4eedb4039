"""Trees between files of one format, copied as they are stored: nothing is decoded but to prove that the copy is equal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ...formats.hdf5_attributes import attribute_identity, attribute_names
from ...formats.hdf5_runs import has_references
from ...formats.hdf5_tree import Hdf5Tree
from ...formats.hdf5_tree_writer import Hdf5TreeWriter
from ...formats.tree_contract import ARRAY, GROUP, LINKS, ChoosesNames, Node, TreeSource, TreeTarget, Values
from ...formats.zarr_tree import ZarrTree
from ...formats.zarr_tree_writer import ZarrTreeWriter
from ...plain.errors import DamagedFileError, MmapstoreError, WriteError
from .tree_journal import Done
from .tree_report import CHANGED, COPIED, REFUSED, TreeRow, joined
from .tree_values import copy_values, plan_blocks
from .tree_ways import REFUSALS, ByValues, Common, Way, row_of_error, row_of_values


class Hdf5Copies(Common):
    """HDF5 into HDF5: types, filters, chunks, fill values, links and references stay."""

    source: Hdf5Tree
    target: Hdf5TreeWriter

    def _converted(self, node: Node) -> Done:
        if node.kind in LINKS:
            return self.link(node)
        try:
            if node.kind != ARRAY:
                self.target.copy_object(self.source, node)
                return Done(node.path, (TreeRow(node.path, node.kind, COPIED),))
            return self._array(node)
        except (*REFUSALS, DamagedFileError) as error:
            self.target.remove(node.path)
            return Done(node.path, (row_of_error(node, error),))

    def _array(self, node: Node) -> Done:
        item = self.source.item(node.path)
        parts, words = self.source.stored_values(node.path)
        for part in () if self.dry else parts:
            plan_blocks(part, self.max_memory, node.path)  # HDF5 copies chunk by chunk, so a copy needs no more than reading
        if item.external is not None or item.is_virtual:
            row = self._gathered(node, parts)
        else:
            self.target.copy_object(self.source, node)
            nbytes = sum(part.nbytes for part in parts)
            row = row_of_values(node.path, node.kind, nbytes, "", "")
        has_open_ends = item.shape is not None and has_references(item.id.get_type())
        # References are equal once all that they lead to is there: see `finish`.
        digest = "" if has_open_ends else self.digest(parts, node.path)
        row = replace(row, sha256=digest, how=joined([row.how, words]))
        return Done(node.path, (row,), ((node.path, digest),))

    def _gathered(self, node: Node, parts: list[Values]) -> TreeRow:
        """A dataset whose bytes lie in other files, as an ordinary one."""
        if len(parts) != 1 or parts[0].member:
            raise DamagedFileError(f"{node.path} keeps compound values in other files, which cannot be gathered. Use h5repack.")
        new = self.target.add_array(node.path, parts[0], {})
        if not self.dry:
            copy_values(parts[0], new, plan_blocks(parts[0], self.max_memory, node.path))
        new.close()
        self.target.copy_attributes(self.source, node.path)
        return row_of_values(node.path, node.kind, parts[0].nbytes, "", "an ordinary dataset, gathered from other files")

    def finish(self, done: dict[str, Done]) -> Iterator[Done]:
        """References made anew, attributes compared, those that could not be copied listed."""
        for path, entry in done.items():
            if entry.rows[0].is_lost:
                self.source.forget(path)
        for node in self.source.walk():
            entry = done[node.path]
            if node.kind in LINKS or entry.rows[0].is_lost:
                continue
            words = self.target.copy_references(self.source, node)
            rows = [entry.rows[0], *self._attributes(node)]
            checks = entry.checks
            if words:
                rows[0] = replace(rows[0], outcome=CHANGED, how=joined([rows[0].how, words]))
            if checks and not checks[0][1]:
                digest = self.digest(self.source.stored_values(node.path)[0], node.path)
                rows[0], checks = replace(rows[0], sha256=digest), ((node.path, digest),)
            yield Done(node.path, tuple(rows), checks)

    def _attributes(self, node: Node) -> list[TreeRow]:
        """Rows for the attributes that are not in the target."""
        item = self.source.item(node.path)
        return [
            TreeRow(f"{node.path}@{name}", "attribute", REFUSED, "HDF5 cannot copy it: its type is one that h5py cannot read")
            for name in attribute_names(item)
            if not self.target.has_attribute(node.path, name)
        ]

    def expected_attributes(self, node: Node) -> dict[str, Any]:
        return {attribute.name: attribute.value for attribute in self.source.attributes(node.path) if not attribute.refused}

    def differences(self, node: Node, done: Done, written: Hdf5Tree) -> str:
        if node.kind in LINKS:
            return ""
        source, found = self.source.item(done.path), written.item(done.path)
        for name in attribute_names(found):
            if attribute_identity(source, name, self.source.path_of) != attribute_identity(found, name, written.path_of):
                return f"the attribute {name!r} of {done.path} reads back differently"
        for place, digest in done.checks:
            read_back = self.digest(written.stored_values(place)[0], place)
            if read_back != digest:
                return f"{place} reads back as {read_back}, expected {digest}"
        return ""


class ZarrCopies(Common):
    """Zarr into Zarr: files are copied, in the format that they have."""

    source: ZarrTree
    target: ZarrTreeWriter

    def _converted(self, node: Node) -> Done:
        try:
            parts = self.source.values(node.path) if node.kind == ARRAY else []
            digest = self.digest(parts, node.path)
            lost = [f"not compared in full: {part.refused}" for part in parts if part.refused]
            how = self.target.copy_node(self.source, node)
        except WriteError:
            raise
        except MmapstoreError as error:
            self.target.remove(node.path)
            return Done(node.path, (row_of_error(node, error),))
        nbytes = sum(part.nbytes for part in parts)
        row = TreeRow(node.path, node.kind, CHANGED if how else COPIED, joined([how, *lost]), nbytes, digest)
        return Done(node.path, (row,), ((node.path, digest),) if parts else ())

    def place(self, node: Node) -> str:
        return node.path

    def finish(self, done: dict[str, Done]) -> Iterator[Done]:
        return iter(())

    def expected_attributes(self, node: Node) -> dict[str, Any]:
        return {attribute.name: attribute.value for attribute in self.source.attributes(node.path)}

    def differences(self, node: Node, done: Done, written: ZarrTree) -> str:
        if node.kind in (ARRAY, GROUP) and repr(self.source.attributes(done.path)) != repr(written.attributes(done.path)):
            return f"the attributes of {done.path} read back differently"
        for place, digest in done.checks:
            found = self.digest(written.values(place), place)
            if found != digest:
                return f"{place} reads back as {found}, expected {digest}"
        return ""


def way(source: TreeSource, target: TreeTarget, max_memory: int, dry: bool = False) -> Way:
    """The way between these two that keeps most."""
    if isinstance(source, Hdf5Tree) and isinstance(target, Hdf5TreeWriter):
        return Hdf5Copies(source, target, max_memory, dry)
    if isinstance(source, ZarrTree) and isinstance(target, ZarrTreeWriter):
        return ZarrCopies(source, target, max_memory, dry)
    if isinstance(source, ChoosesNames) and not target.has_hard_links:
        source.prefer_names_referred_to()
    return ByValues(source, target, max_memory, dry)
