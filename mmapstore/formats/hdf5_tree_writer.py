"""A new HDF5 file that receives a tree: object by object from another HDF5 file, as values from other formats."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files.system_errors import is_of_this_machine
from ..plain.c_order import c_order_boxes
from ..plain.chunk_grid import Box
from ..plain.errors import DamagedFileError, InvalidTypeError
from .contract import Array
from .hdf5_attributes import SCALE_LISTS, as_attribute, attribute_names, copy_attribute, is_text, set_attributes, with_references
from .hdf5_boxes import memory_type, raw_elements, read_elements, write_elements
from .hdf5_dimensions import LABELS, Names, attach_scales
from .hdf5_file import TREE_SUFFIXES, matches
from .hdf5_library import explaining_failed_writes, library, open_to_write
from .hdf5_paths import decoded, encoded
from .hdf5_runs import has_references, in_stored_order, is_flat
from .hdf5_tree import Hdf5Tree
from .hdf5_writer import _reserve as reserve
from .tree_contract import Attribute, Container, InMemory, Kind, NewTreeArray, Node, TreeArray, TreeSource, TreeTarget, as_texts

_MOST_ATTRIBUTE_NBYTES = 60 << 10  # what an object's header holds beside its other messages
_OWN_TYPE = "its type is no longer the named one"
_SLACK_NBYTES = 1 << 20
_REFERENCES_AT_ONCE = 1 << 14
_COPY_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, NotImplementedError)


class Hdf5TreeWriter(TreeTarget):
    """A new HDF5 file.

    With `like`, the file gets its user block, which a MATLAB file has, and lists the names of its root in the same order.
    """

    has_hard_links = has_scales = True

    def __init__(self, path: str, like: Hdf5Tree | None = None) -> None:
        self.path = path
        self._like = like
        self.file = open_to_write(path, "r+") if os.path.exists(path) else _created(path, like)

    def reserve(self, nbytes: int) -> None:
        """Set disk space aside for the next writes."""
        reserve(self.file, nbytes)

    def refusal(self, path: str, is_group: bool) -> str:
        name = path.rsplit("/", 1)[-1]
        return f"HDF5 gives {name!r} a meaning of its own" if name in (".", "") and path != "/" else ""

    def is_taken(self, path: str, is_group: bool) -> bool:
        # Not `path in file`: h5py looks at every group on the way, for each object of a deep tree anew.
        parent, _, name = path.rpartition("/")
        try:
            group = self.file[encoded(parent or "/")]
        except KeyError:
            return False
        return isinstance(group, library().Group) and bool(group.id.links.exists(encoded(name)))

    def fitted(self, attribute: Attribute, is_group: bool) -> Attribute:
        value = attribute.value
        if attribute.name in SCALE_LISTS and not is_group:
            if _is_lists_of_paths(value) or attribute.name == "REFERENCE_LIST":
                return Attribute(attribute.name, value, "made anew")
            return Attribute(attribute.name, refused="HDF5 keeps this name for lists of dimension scales")
        given = as_attribute(value)
        if attribute.name == LABELS and not is_group and not (isinstance(given, np.ndarray) and given.dtype == object):
            return Attribute(attribute.name, refused="HDF5 keeps this name for the names of axes, a list of text")
        words = "as JSON text" if isinstance(given, str) and not isinstance(value, str) else ""
        why = attribute.refused
        if not (attribute.name and is_text(attribute.name) and (not isinstance(value, str) or is_text(value))):
            why = "HDF5 has no text that is not UTF-8 or holds NUL, nor attributes without a name"
        elif (nbytes := len(json.dumps(value))) > _MOST_ATTRIBUTE_NBYTES:
            why = f"it has some {nbytes} bytes; HDF5 holds {_MOST_ATTRIBUTE_NBYTES} in an attribute"
        changed = "; ".join(part for part in (attribute.changed, words) if part)
        return Attribute(attribute.name, given if words else value, changed, why)

    def remove(self, path: str) -> None:
        with explaining_failed_writes(self.path):
            if path != "/" and self.is_taken(path, False):
                del self.file[encoded(path)]

    def add_group(self, path: str, attributes: dict[str, Any]) -> None:
        with explaining_failed_writes(self.path):
            set_attributes(self.file.require_group(encoded(path)), attributes)
        self.note(path, Kind.GROUP, attributes)

    def add_array(self, path: str, array: TreeArray, attributes: dict[str, Any]) -> NewTreeArray:
        dtype: Any = library().string_dtype("utf-8") if array.text else array.dtype
        options: dict[str, Any] = {}
        if array.shape and min(array.shape) > 0 and array.chunks is not None:
            options["chunks"] = array.chunks
            if array.compressed:
                options |= {"compression": "gzip", "shuffle": array.dtype.itemsize > 1 and not array.text}
        if array.fill is not None and not array.text:
            options["fillvalue"] = array.fill
        with explaining_failed_writes(self.path):
            self.reserve((0 if array.compressed else array.nbytes) + _SLACK_NBYTES)
            try:
                dataset = self.file.create_dataset(encoded(path), array.shape, dtype, **options)
            except TypeError as error:
                raise InvalidTypeError(f"{self.path}: HDF5 has no type for {array.dtype} ({error}).") from error
            set_attributes(dataset, attributes)
        self.note(path, Kind.ARRAY, attributes, array)

        def write(box: Box, block: Array) -> None:
            with explaining_failed_writes(self.path):
                if block.size:
                    dataset[box] = as_texts(block) if array.text else block

        return NewTreeArray(write=write)

    def add_empty(self, path: str, attributes: dict[str, Any]) -> str:
        with explaining_failed_writes(self.path):
            dataset = self.file.create_dataset(encoded(path), data=library().Empty("f4"))
            set_attributes(dataset, attributes)
        self.note(path, Kind.EMPTY, attributes)
        return ""

    def add_link(self, path: str, kind: str, target: str) -> str:
        h5py = library()
        with explaining_failed_writes(self.path):
            if kind == Kind.SOFT_LINK:
                parent, _, name = path.rpartition("/")
                group = self.file[encoded(parent or "/")]
                group.id.links.create_soft(encoded(name), encoded(target))
            elif kind == Kind.ALIAS:
                created = h5py.h5p.create(h5py.h5p.LINK_CREATE)
                self.file.id.links.create_hard(encoded(path), self.file.id, encoded(target), created)
        self.note(path, kind, {}, target=target)
        return ""

    def attach_scales(self, axes: Mapping[str, Names], lists: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
        with explaining_failed_writes(self.path):
            added, failed = attach_scales(self.file, axes, lists)
        for path in added:
            self.note(path, Kind.DIMENSION, {})
        return added, failed

    # --- the ability to copy out of another HDF5 file ---

    def copy_object(self, source: Hdf5Tree, node: Node, elements: int | None = None) -> str:
        """Copy a group without its members, a dataset or a named type, without attributes. Returns the differences in words.

        HDF5 copies the object, and nothing is decoded or converted; or the values of a dataset are moved, `elements` at a time.
        References lead nowhere until `copy_attributes_and_references`. Raises DamagedFileError if HDF5 cannot copy it.
        """
        h5py = library()
        item, path = source.item(node.path), encoded(node.path)
        with explaining_failed_writes(self.path):
            self.reserve((item.id.get_storage_size() if isinstance(item, h5py.Dataset) else 0) + _SLACK_NBYTES)
        try:
            if elements is not None:
                return self._copy_by_value(source, item, path, elements)
            if node.kind != Kind.GROUP:
                # Not with H5O_COPY_MERGE_COMMITTED_DTYPE_FLAG: it ends the process (HDF5 1.14.6) where a group of the target
                # tracks the order of its links.
                options = h5py.h5p.create(h5py.h5p.OBJECT_COPY)
                options.set_copy_object(h5py.h5o.COPY_WITHOUT_ATTR_FLAG)
                h5py.h5o.copy(item.id, b".", self.file.id, path, options, None)
            elif node.path != "/":
                h5py.h5g.create(self.file.id, path, None, item.id.get_create_plist())
        except (OSError, RuntimeError, ValueError) as error:
            if getattr(error, "errno", None) or "errno" in str(error):
                with explaining_failed_writes(self.path):
                    raise
            raise DamagedFileError(f"{source.name}{node.path}: HDF5 cannot copy it ({error}).") from error
        self.note(node.path, node.kind, {})
        is_named = isinstance(item, h5py.Dataset) and item.id.get_type().committed() and source.path_of_id(item.id.get_type())
        return _OWN_TYPE if is_named else ""

    def _copy_by_value(self, source: Hdf5Tree, item: Any, path: bytes, elements: int) -> str:
        h5py = library()
        kind = self.named_type(source, item.id.get_type())
        how = "" if kind.committed() or not item.id.get_type().committed() else _OWN_TYPE
        made = h5py.h5d.create(self.file.id, path, kind, item.id.get_space(), item.id.get_create_plist())
        null = {kind: kind() for kind in (h5py.Reference, h5py.RegionReference)}
        for box in c_order_boxes(tuple(item.shape), elements, item.chunks) if item.shape is not None else ():
            if is_flat(kind):
                write_elements(made, raw_elements(item, box), kind, box)
            else:
                values = in_stored_order(read_elements(item, item.dtype, box), item.dtype)
                values = with_references(values, lambda reference: null[type(reference)]) if has_references(kind) else values
                write_elements(made, values, memory_type(item.dtype, kind), box)
        return how

    def named_type(self, source: Hdf5Tree, kind: Any) -> Any:
        """Return the copy in this file of a named type of the source; of a type without one, the type itself without a name."""
        if not kind.committed():
            return kind
        name = source.path_of_id(kind)
        return library().h5t.open(self.file.id, encoded(name)) if name and self.is_taken(name, False) else kind.copy()

    def copy_attributes_and_references(
        self, source: Hdf5Tree, node: Node, refused: dict[str, str]
    ) -> tuple[str, list[tuple[str, str]]]:
        """Copy all attributes but those in `refused`, and let references, of a dataset too, lead to the same objects.

        Returns a sentence on the references, and (name, reason) of each attribute that was not copied.
        """
        h5py = library()
        item = source.item(node.path)
        made = _References(self, source)
        target = self.file[encoded(node.path)]
        without = list(refused.items())
        for name in attribute_names(item):
            try:
                with explaining_failed_writes(self.path):
                    if name not in refused:
                        copy_attribute(item, target, name, made, lambda kind: self.named_type(source, kind))
            except _COPY_ERRORS as error:
                if is_of_this_machine(error):
                    raise
                without.append((name, f"HDF5 cannot copy it ({error.__cause__ or error})"))
        if isinstance(item, h5py.Dataset) and item.shape is not None and has_references(item.id.get_type()):
            for box in c_order_boxes(tuple(item.shape), _REFERENCES_AT_ONCE, item.chunks):
                values = with_references(in_stored_order(read_elements(item, item.dtype, box), item.dtype), made)
                write_elements(target.id, values, memory_type(item.dtype, item.id.get_type()), box)
        return made.words(), without

    def commit(self) -> None:
        with explaining_failed_writes(self.path):
            self.file.flush()
            os.fsync(self.file.id.get_vfd_handle())

    def close(self) -> None:
        if not self.file:
            return
        block = self.file.userblock_size
        with explaining_failed_writes(self.path):
            self.file.flush()
            handle = self.file.id.get_vfd_handle()
            if os.fstat(handle).st_size > (used := self.file.id.get_filesize()):
                os.ftruncate(handle, used)  # gives back what was reserved and not needed
            self.file.close()
            if block and self._like is not None:
                with Path(self._like.path).open("rb") as source, Path(self.path).open("r+b") as target:
                    target.write(source.read(block))


def keeps_runs_as_fill(dataset: Any) -> bool:
    """Return True for a fill value of variable length, as text in NetCDF files has.

    HDF5 (to 1.14.6 at least) copies the address of the fill value in the source, and the copy cannot be opened.
    """
    is_set = dataset.id.get_create_plist().fill_value_defined() == library().h5d.FILL_VALUE_USER_DEFINED
    return bool(is_set) and not is_flat(dataset.id.get_type())


class Hdf5InMemory(Hdf5TreeWriter, InMemory):
    """An HDF5 file that would be at `path`."""

    def __init__(self, path: str) -> None:
        self._like = None
        self.file = library().File(path, "w", driver="core", backing_store=False)
        InMemory.__init__(self, path)

    def reserve(self, nbytes: int) -> None:
        pass

    def remove(self, path: str) -> None:
        super().remove(path)
        InMemory.remove(self, path)

    def copy_object(self, source: Hdf5Tree, node: Node, elements: int | None = None) -> str:
        if node.kind != Kind.ARRAY:
            return super().copy_object(source, node)
        self._add_like(source.item(node.path), node.path)
        self.note(node.path, node.kind, {})
        return ""

    def _add_like(self, item: Any, path: str) -> None:
        """Create a dataset of the same type and shape, without values, which can have the same attributes."""
        h5py = library()
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        if h5py.h5o.get_info(item.id).hdr.version > 1:  # attributes beyond 64 kB need such a header, which H5Ocopy keeps
            created.set_attr_creation_order(h5py.h5p.CRT_ORDER_TRACKED)
        kind = item.id.get_type()
        space = h5py.h5s.create_simple(item.shape) if item.shape else item.id.get_space()  # not one that can grow: that has chunks
        kind = kind.copy() if kind.committed() else kind
        h5py.h5d.create(self.file.id, encoded(path), kind, space, created)

    def commit(self) -> None:
        pass

    def close(self) -> None:
        self.file.close()


class _References:
    """Called with a reference into the source, return the one to the same object in the target."""

    def __init__(self, writer: Hdf5TreeWriter, source: Hdf5Tree) -> None:
        self._writer, self._source = writer, source
        self._made = self._lost = 0

    def __call__(self, reference: Any) -> Any:
        h5py = library()
        is_region = isinstance(reference, h5py.RegionReference)
        null = h5py.RegionReference() if is_region else h5py.Reference()
        if not reference:
            return null
        path = encoded(self._source.path_of(reference))
        if not path or not (path == b"/" or self._writer.is_taken(decoded(path), False)):
            self._lost += 1
            return null
        self._made += 1
        if is_region:
            space = h5py.h5r.get_region(reference, self._source.file.id)
            return h5py.h5r.create(self._writer.file.id, path, h5py.h5r.DATASET_REGION, space)
        return h5py.h5r.create(self._writer.file.id, path, h5py.h5r.OBJECT)

    def words(self) -> str:
        made = f"{self._made} reference{'s' * (self._made != 1)} made anew for this file" if self._made else ""
        lost = f"{self._lost} that lead to nothing copied are null" if self._lost else ""
        return ", ".join(part for part in (made, lost) if part)


def _created(path: str, like: Hdf5Tree | None) -> Any:
    h5py = library()
    if like is None:
        return open_to_write(path, "x")
    with explaining_failed_writes(path):
        options = h5py.h5p.create(h5py.h5p.FILE_CREATE)
        given = like.file.id.get_create_plist()
        if given.get_userblock():
            options.set_userblock(given.get_userblock())
        order = like.file["/"].id.get_create_plist().get_link_creation_order()
        if order:
            options.set_link_creation_order(order)
        made = h5py.h5f.create(encoded(path), h5py.h5f.ACC_EXCL, fcpl=options)
        made.close()
        return open_to_write(path, "r+")


def _is_lists_of_paths(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(paths, list) and {type(path) for path in paths} <= {str} for paths in value)


def _create(path: str, source: TreeSource) -> Hdf5TreeWriter:
    return Hdf5TreeWriter(path, source if isinstance(source, Hdf5Tree) else None)


CONTAINER = Container("HDF5", TREE_SUFFIXES, matches, Hdf5Tree, _create, Hdf5InMemory, takes_parts=False)
