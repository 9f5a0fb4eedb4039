"""Targets of a tree that are kept in memory, without the values: what each object of a source would be in HDF5, Zarr or .npy files.

They are the writers themselves, given nothing to write to, so that names, attributes, links and refusals come out as on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .contract import Array
from .hdf5_dimensions import Names
from .hdf5_library import library as hdf5_library
from .hdf5_tree import Hdf5Tree
from .hdf5_tree_writer import Hdf5TreeWriter
from .npy_tree import ENDING, NpyTreeWriter, changes_in_npy
from .tree_contract import ARRAY, DIMENSION, EMPTY, GROUP, NewTreeArray, Node, Values
from .zarr_library import library as zarr_library
from .zarr_tree import ZarrTree
from .zarr_tree_writer import NewZarrArray, ZarrTreeWriter, left_out_of_copy


@dataclass(frozen=True)
class Entry:
    """An entry of a target in memory.

    Attributes
    ----------
    kind : "group", "array", "empty", "soft link" ...
    values : of an array that was added as values; None of others, and of one that is a copy of the source's
    target : where a link leads
    """

    kind: str
    attributes: dict[str, Any]
    values: Values | None = None
    target: str = ""


class Entries:
    """The entries that were added to a target in memory.

    Attributes
    ----------
    entries : by path
    log : paths in the order in which they were added
    """

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.log: list[str] = []
        self._names: set[str] = set()

    def add(self, path: str, entry: Entry, name: str = "") -> None:
        self.log.append(path)
        self.entries[path] = entry
        self._names.add(name or path)

    def has(self, name: str) -> bool:
        return name in self._names

    def remove(self, path: str) -> None:
        """This path and all below it."""
        if path in self.entries:
            for each in [each for each in self.entries if each == path or each.startswith(f"{path}/")]:
                del self.entries[each]
                self._names -= {each, each + ENDING}


class _NoValues:
    def __init__(self, changed: tuple[str, ...]) -> None:
        self.changed = changed

    def write(self, box: Any, block: Array) -> None:
        raise AssertionError("values are not moved to a target in memory")

    def close(self) -> None:
        pass


class ZarrInMemory(ZarrTreeWriter):
    """A Zarr store that would be at `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.found = Entries()
        self._links = {}
        self.add_group("/", {})

    def is_taken(self, path: str, is_group: bool) -> bool:
        return self.found.has(path)

    def remove(self, path: str) -> None:
        self.found.remove(path)

    def add_group(self, path: str, attributes: dict[str, Any]) -> None:
        self.found.add(path, Entry(GROUP, attributes))

    def group_attributes(self, path: str) -> dict[str, Any]:
        return dict(self.found.entries[path].attributes)

    def add_array(self, path: str, values: Values, attributes: dict[str, Any]) -> NewZarrArray:
        made = NewZarrArray(zarr_library().storage.MemoryStore(), path, values, attributes)
        self.found.add(path, Entry(ARRAY, attributes, values))
        return made

    def copy_node(self, source: ZarrTree, node: Node) -> str:
        words = left_out_of_copy(source, node)
        attributes = {attribute.name: attribute.value for attribute in source.attributes(node.path)}
        self.found.add(node.path, Entry(node.kind, attributes))
        return words

    def commit(self) -> None:
        self.note_links()


class NpyInMemory(NpyTreeWriter):
    """A directory of .npy files that would be at `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.found = Entries()
        self.add_group("/", {})

    def is_taken(self, path: str, is_group: bool) -> bool:
        return self.found.has(path + ("" if is_group else ENDING))

    def remove(self, path: str) -> None:
        self.found.remove(path)

    def add_group(self, path: str, attributes: dict[str, Any]) -> None:
        self.found.add(path, Entry(GROUP, attributes))

    def add_array(self, path: str, values: Values, attributes: dict[str, Any]) -> NewTreeArray:
        self.found.add(path, Entry(ARRAY, attributes, values), path + ENDING)
        return _NoValues(changes_in_npy(values))

    def note(self, path: str, **line: Any) -> None:
        self.found.add(path, Entry(line["kind"], line.get("attributes", {}), target=line.get("target", "")), f"{path} has no file")

    def commit(self) -> None:
        pass

    def close(self) -> None:
        pass


class Hdf5InMemory(Hdf5TreeWriter):
    """An HDF5 file that would be at `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._like = None
        self.found = Entries()
        self.file = hdf5_library().File(path, "w", driver="core", backing_store=False)
        self.found.add("/", Entry(GROUP, {}))

    def reserve(self, nbytes: int) -> None:
        pass

    def remove(self, path: str) -> None:
        super().remove(path)
        self.found.remove(path)

    def add_group(self, path: str, attributes: dict[str, Any]) -> None:
        super().add_group(path, attributes)
        self.found.add(path, Entry(GROUP, attributes))

    def add_array(self, path: str, values: Values, attributes: dict[str, Any]) -> Any:
        made = super().add_array(path, values, attributes)
        self.found.add(path, Entry(ARRAY, attributes, values))
        return made

    def add_empty(self, path: str, attributes: dict[str, Any]) -> str:
        words = super().add_empty(path, attributes)
        self.found.add(path, Entry(EMPTY, attributes))
        return words

    def add_link(self, path: str, kind: str, target: str) -> str:
        words = super().add_link(path, kind, target)
        self.found.add(path, Entry(kind, {}, target=target))
        return words

    def copy_object(self, source: Hdf5Tree, node: Node, elements: int | None = None) -> str:
        if node.kind == ARRAY:
            self._add_like(source.item(node.path), node.path)
        else:
            super().copy_object(source, node)
        self.found.add(node.path, Entry(node.kind, {}))
        return ""

    def attach_scales(self, axes: Mapping[str, Names], lists: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
        added, failed = super().attach_scales(axes, lists)
        for path in added:
            self.found.add(path, Entry(DIMENSION, {}))
        return added, failed

    def _add_like(self, item: Any, path: str) -> None:
        """A dataset of the same type and shape, without values, which can have the same attributes."""
        h5py = hdf5_library()
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        if h5py.h5o.get_info(item.id).hdr.version > 1:  # attributes beyond 64 kB need such a header, which H5Ocopy keeps
            created.set_attr_creation_order(h5py.h5p.CRT_ORDER_TRACKED)
        kind = item.id.get_type()
        space = h5py.h5s.create_simple(item.shape) if item.shape else item.id.get_space()  # not one that can grow: that has chunks
        kind = kind.copy() if kind.committed() else kind
        h5py.h5d.create(self.file.id, path.encode("utf-8", "surrogateescape"), kind, space, created)

    def commit(self) -> None:
        pass

    def close(self) -> None:
        self.file.close()
