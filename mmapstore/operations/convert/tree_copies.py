"""Copy trees between files of one format as they are stored: values are decoded only to prove that the copy is equal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ...files.crashes import step
from ...formats.hdf5_attributes import UNLISTED, attribute_identity, attribute_names
from ...formats.hdf5_filters import missing_filters
from ...formats.hdf5_runs import has_references
from ...formats.hdf5_tree import Hdf5Tree
from ...formats.hdf5_tree_writer import Hdf5TreeWriter, keeps_runs_as_fill
from ...formats.tree_contract import Kind, Node, TreeArray, TreeSource, TreeTarget
from ...formats.zarr_tree import ZarrTree
from ...formats.zarr_tree_writer import ZarrTreeWriter
from ...plain.errors import DamagedFileError
from ..flow.engines import THREADS
from .copy_methods import ByValues, CopyMethod, Suspects, row_of_error, row_of_values
from .tree_report import CHANGED, COPIED, REFUSED, Done, TreeRow, joined
from .tree_values import copy_values, plan_blocks


class Hdf5Copies(CopyMethod):
    """HDF5 into HDF5: types, filters, chunks, fill values, links and references stay."""

    source: Hdf5Tree
    target: Hdf5TreeWriter
    attempts = 2  # as HDF5 copies it, and by value

    def _converted(self, node: Node) -> Done:
        if node.kind in Kind.LINKS:
            return self._link(node)
        if node.kind != Kind.ARRAY:
            self.target.copy_object(self.source, node)
            return self._row(node, COPIED, "")
        item = self.source.item(node.path)
        parts, words = self.source.stored_arrays(node.path)
        # HDF5 copies chunk by chunk, so a copy needs no more than reading.
        blocks = [plan_blocks(part, self.max_memory, node.path)[0] for part in parts if not self.dry]
        if item.external is not None or item.is_virtual:
            row = self._gathered(node, parts)
        else:
            how = self._copied(node, item, min(blocks, default=1))
            nbytes = sum(part.nbytes for part in parts)
            row = row_of_values(node.path, node.kind, nbytes, "", how)
        # References are equal once all that they lead to is there: see `finish`.
        is_open = item.shape is not None and has_references(item.id.get_type())
        digest = "" if is_open else self._digest(parts, node.path)
        row = replace(row, sha256=digest, how=joined([row.how, words]))
        return Done(node.path, (row,), ((node.path, digest),))

    def _copied(self, node: Node, item: Any, elements: int) -> str:
        """Copy a dataset with HDF5; by value if HDF5 copies it wrongly, with another type, or not at all."""
        is_named = self.target.named_type(self.source, item.id.get_type()).committed() and not missing_filters(item)
        if node.path not in self.suspects and not keeps_runs_as_fill(item) and not is_named:
            try:
                with step(f"copying {node.path} of {self.source.name} with H5Ocopy"):
                    return self.target.copy_object(self.source, node)
            except DamagedFileError:
                self.target.remove(node.path)
        return self.target.copy_object(self.source, node, elements)

    def _gathered(self, node: Node, parts: list[TreeArray]) -> TreeRow:
        """Write a dataset whose bytes lie in other files as an ordinary one."""
        if len(parts) != 1 or parts[0].member:
            raise DamagedFileError(f"{node.path} gathers compound values from elsewhere, which is not done here. Use h5repack.")
        new = self.target.add_array(node.path, parts[0], {})
        if not self.dry:
            copy_values(parts[0], new, plan_blocks(parts[0], self.max_memory, node.path)[0])
        new.close()
        return row_of_values(node.path, node.kind, parts[0].nbytes, "", "an ordinary dataset, gathered from its sources")

    def finish(self, done: dict[str, Done]) -> Iterator[Done]:
        """Make references anew, and copy attributes."""
        for path, entry in done.items():
            if entry.rows[0].is_lost:
                self.source.forget(path)
        for node in self.source.walk():
            entry = done[node.path]
            if node.kind in Kind.LINKS or entry.rows[0].is_lost:
                continue
            prefix = f"{node.path}@"
            wrong = {path.removeprefix(prefix): tried[-1] for path, tried in self.suspects.items() if path.startswith(prefix)}
            try:
                with step(f"copying the attributes of {node.path} of {self.source.name}"):
                    words, refused = self.target.copy_attributes_and_references(self.source, node, wrong)
            except Exception as error:  # as of the object itself
                words, refused = "", [(UNLISTED, row_of_error(node, error).how)]
            rows = [entry.rows[0], *(TreeRow(f"{node.path}@{name}", "attribute", REFUSED, why) for name, why in refused)]
            checks = entry.checks
            if words:
                rows[0] = replace(rows[0], outcome=CHANGED, how=joined([rows[0].how, words]))
            if checks and not checks[0][1]:
                digest = self._digest(self.source.stored_arrays(node.path)[0], node.path)
                rows[0], checks = replace(rows[0], sha256=digest), ((node.path, digest),)
            yield Done(node.path, tuple(rows), checks)

    def expected_attributes(self, node: Node) -> dict[str, Any]:
        attributes = self.source.attributes(node.path, as_stored=True)
        return {attribute.name: attribute.value for attribute in attributes if not attribute.refused}

    def differences(self, node: Node, done: Done, written: Hdf5Tree) -> dict[str, str]:
        if node.kind in Kind.LINKS:
            return {}
        source, found = self.source.item(done.path), written.item(done.path)
        wrong = {
            f"{done.path}@{name}": "its copy reads back differently"
            for name in attribute_names(found)
            if attribute_identity(source, name, self.source.path_of) != attribute_identity(found, name, written.path_of)
        }
        return wrong | self._different_values(done, lambda place: written.stored_arrays(place)[0])


class ZarrCopies(CopyMethod):
    """Zarr into Zarr: files are copied, in the format that they have."""

    source: ZarrTree
    target: ZarrTreeWriter

    def _converted(self, node: Node) -> Done:
        parts = self.source.arrays(node.path) if node.kind == Kind.ARRAY else []
        digest = self._digest(parts, node.path)
        lost = [f"not compared in full: {part.refused}" for part in parts if part.refused]
        how = self.target.copy_node(self.source, node)
        nbytes = sum(part.nbytes for part in parts)
        row = TreeRow(node.path, node.kind, CHANGED if how else COPIED, joined([how, *lost]), nbytes, digest)
        return Done(node.path, (row,), ((node.path, digest),) if parts else ())

    def place(self, node: Node) -> str:
        return node.path

    def differences(self, node: Node, done: Done, written: ZarrTree) -> dict[str, str]:
        if node.kind in (Kind.ARRAY, Kind.GROUP) and repr(self.source.attributes(done.path)) != repr(written.attributes(done.path)):
            return {done.path: f"the attributes of {done.path} read back differently"}
        return self._different_values(done, written.arrays)


def copy_method(
    source: TreeSource,
    target: TreeTarget,
    max_memory: int,
    dry: bool = False,
    suspects: Suspects | None = None,
    engine: Any = THREADS,
) -> CopyMethod:
    """Return the method that keeps most between these two. See `CopyMethod`."""
    if isinstance(source, Hdf5Tree) and isinstance(target, Hdf5TreeWriter):
        return Hdf5Copies(source, target, max_memory, dry, suspects)
    if isinstance(source, ZarrTree) and isinstance(target, ZarrTreeWriter):
        return ZarrCopies(source, target, max_memory, dry, suspects, engine)
    if not target.has_hard_links:
        source.prefer_names_referred_to()
    return ByValues(source, target, max_memory, dry, suspects, engine)
