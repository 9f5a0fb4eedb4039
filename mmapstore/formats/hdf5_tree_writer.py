"""A new HDF5 file that receives a tree: out of another HDF5 file object by object as HDF5 copies them, out of others as values."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files.system_errors import is_of_this_machine
from ..plain.c_order import c_order_boxes
from ..plain.chunk_grid import Box
from ..plain.errors import DamagedFileError, InvalidTypeError, WriteError
from . import hdf5_scales
from .contract import Array
from .hdf5_attributes import attribute_names, copy_attribute, with_references
from .hdf5_boxes import memory_type, raw_elements, read_elements, write_elements
from .hdf5_dimensions import LABELS, Names
from .hdf5_library import explaining_failed_writes, library, open_to_write
from .hdf5_runs import has_references, in_stored_order, is_flat
from .hdf5_tree import Hdf5Tree
from .hdf5_writer import _reserve as reserve
from .tree_contract import ALIAS, FILL, GROUP, SOFT_LINK, Attribute, Node, Values

_MOST_ATTRIBUTE_NBYTES = 60 << 10  # what an object's header holds beside its other messages
_OWN_TYPE = "its type is no longer the named one"
_SCALE_LISTS = ("DIMENSION_LIST", "REFERENCE_LIST")
_SLACK_NBYTES = 1 << 20
_REFERENCES_AT_ONCE = 1 << 14
_COPY_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, NotImplementedError)


class Hdf5TreeWriter:
    """An HDF5 file as a `tree_contract.TreeTarget`.

    With `like`, the file gets its user block, which a MATLAB file has, and lists the names of its root in the same order.
    """

    has_hard_links = True

    def __init__(self, path: str, like: Hdf5Tree | None = None) -> None:
        self.path = path
        self._like = like
        self.file = open_to_write(path, "r+") if os.path.exists(path) else _created(path, like)

    def reserve(self, nbytes: int) -> None:
        """Set disk space aside, so that what is written next finds room."""
        reserve(self.file, nbytes)

    def refusal(self, path: str, is_group: bool) -> str:
        name = path.rsplit("/", 1)[-1]
        return f"HDF5 gives {name!r} a meaning of its own" if name in (".", "") and path != "/" else ""

    def is_taken(self, path: str, is_group: bool) -> bool:
        # Not `path in file`: h5py looks at every group on the way, for each object of a deep tree anew.
        parent, _, name = path.rpartition("/")
        try:
            group = self.file[_encoded(parent or "/")]
        except KeyError:
            return False
        return isinstance(group, library().Group) and bool(group.id.links.exists(_encoded(name)))

    def fitted(self, attribute: Attribute, is_group: bool) -> Attribute:
        value, changed = attribute.value, attribute.changed
        if attribute.name in _SCALE_LISTS and not is_group:
            if _is_lists_of_paths(value) or attribute.name == "REFERENCE_LIST":
                return Attribute(attribute.name, value, "made anew")
            return Attribute(attribute.name, refused="HDF5 keeps this name for lists of dimension scales")
        given = as_attribute(value)
        if attribute.name == LABELS and not is_group and not (isinstance(given, np.ndarray) and given.dtype == object):
            return Attribute(attribute.name, refused="HDF5 keeps this name for the names of axes, a list of text")
        words = "as JSON text" if isinstance(given, str) and not isinstance(value, str) else ""
        if not (attribute.name and _is_text(attribute.name) and (not isinstance(value, str) or _is_text(value))):
            return Attribute(
                attribute.name, refused="HDF5 has no text that is not UTF-8 or holds NUL, nor attributes without a name"
            )
        if (nbytes := len(json.dumps(value))) > _MOST_ATTRIBUTE_NBYTES:
            return Attribute(
                attribute.name, refused=f"it has some {nbytes} bytes; HDF5 holds {_MOST_ATTRIBUTE_NBYTES} in an attribute"
            )
        fitted = given if words else value
        return Attribute(attribute.name, fitted, "; ".join(part for part in (changed, words) if part), attribute.refused)

    def remove(self, path: str) -> None:
        with explaining_failed_writes(self.path):
            if path != "/" and self.is_taken(path, False):
                del self.file[_encoded(path)]

    def add_group(self, path: str, attributes: dict[str, Any]) -> None:
        with explaining_failed_writes(self.path):
            group = self.file.require_group(_encoded(path))
            _set_attributes(group, attributes)

    def add_array(self, path: str, values: Values, attributes: dict[str, Any]) -> _NewHdf5Array:
        with explaining_failed_writes(self.path):
            self.reserve((0 if values.compressed else values.nbytes) + _SLACK_NBYTES)
            return _NewHdf5Array(self, self.file, path, values, attributes)

    def add_empty(self, path: str, attributes: dict[str, Any]) -> str:
        with explaining_failed_writes(self.path):
            dataset = self.file.create_dataset(_encoded(path), data=library().Empty("f4"))
            _set_attributes(dataset, attributes)
        return ""

    def add_link(self, path: str, kind: str, target: str) -> str:
        h5py = library()
        with explaining_failed_writes(self.path):
            if kind == SOFT_LINK:
                parent, _, name = path.rpartition("/")
                group = self.file[_encoded(parent or "/")]
                group.id.links.create_soft(_encoded(name), _encoded(target))
            elif kind == ALIAS:
                created = h5py.h5p.create(h5py.h5p.LINK_CREATE)
                self.file.id.links.create_hard(_encoded(path), self.file.id, _encoded(target), created)
        return ""

    def attach_scales(self, axes: Mapping[str, Names], lists: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
        with explaining_failed_writes(self.path):
            return hdf5_scales.attach(self.file, axes, lists)

    # --- the ability to copy out of another HDF5 file ---

    def copy_object(self, source: Hdf5Tree, node: Node, elements: int | None = None) -> str:
        """A group without what is in it, a dataset or a named type, without its attributes. Returns how that differs from a copy.

        HDF5 copies it, and nothing is decoded or converted; or, of a dataset, its values are moved, `elements` at a time.
        References lead nowhere until `copy_attributes_and_references`. Raises DamagedFileError if HDF5 cannot copy it.
        """
        h5py = library()
        item, path = source.item(node.path), _encoded(node.path)
        with explaining_failed_writes(self.path):
            self.reserve((item.id.get_storage_size() if isinstance(item, h5py.Dataset) else 0) + _SLACK_NBYTES)
        try:
            if elements is not None:
                return self._copy_by_value(source, item, path, elements)
            if node.kind != GROUP:
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
        """The named type in this file that one in the source was copied to; of a type that has none, itself without a name."""
        if not kind.committed():
            return kind
        name = source.path_of_id(kind)
        return library().h5t.open(self.file.id, _encoded(name)) if name and self.is_taken(name, False) else kind.copy()

    def copy_attributes_and_references(
        self, source: Hdf5Tree, node: Node, refused: dict[str, str]
    ) -> tuple[str, list[tuple[str, str]]]:
        """All attributes but those named in `refused`, and references, in a dataset too, that lead to where they led.

        Returns what became of the references, and the names of attributes that could not be copied, with the reason.
        """
        h5py = library()
        item = source.item(node.path)
        made = _References(self, self.file, source)
        target = self.file[_encoded(node.path)]
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
    """True where the fill value of an h5py.Dataset has variable length, as that of text in NetCDF files.

    HDF5 (to 1.14.6 at least) copies the address that it has in the source, and the copy cannot be opened.
    """
    is_set = dataset.id.get_create_plist().fill_value_defined() == library().h5d.FILL_VALUE_USER_DEFINED
    return bool(is_set) and not is_flat(dataset.id.get_type())


class _References:
    """Called with a reference into one file, gives the one to the same object in the other."""

    def __init__(self, writer: Hdf5TreeWriter, file: Any, source: Hdf5Tree) -> None:
        self._writer = writer
        self.file = file
        self._source = source
        self._made = self._lost = 0

    def __call__(self, reference: Any) -> Any:
        h5py = library()
        is_region = isinstance(reference, h5py.RegionReference)
        null = h5py.RegionReference() if is_region else h5py.Reference()
        if not reference:
            return null
        path = _encoded(self._source.path_of(reference))
        if not path or not (path == b"/" or self._writer.is_taken(path.decode("utf-8", "surrogateescape"), False)):
            self._lost += 1
            return null
        self._made += 1
        if is_region:
            space = h5py.h5r.get_region(reference, self._source.file.id)
            return h5py.h5r.create(self.file.id, path, h5py.h5r.DATASET_REGION, space)
        return h5py.h5r.create(self.file.id, path, h5py.h5r.OBJECT)

    def words(self) -> str:
        made = f"{self._made} reference{'s' * (self._made != 1)} made anew for this file" if self._made else ""
        lost = f"{self._lost} that lead to nothing copied are null" if self._lost else ""
        return ", ".join(part for part in (made, lost) if part)


class _NewHdf5Array:
    changed: tuple[str, ...] = ()

    def __init__(self, writer: Hdf5TreeWriter, file: Any, path: str, values: Values, attributes: dict[str, Any]) -> None:
        h5py = library()
        self._writer = writer
        self._text = values.text
        dtype: Any = h5py.string_dtype("utf-8") if values.text else values.dtype
        options: dict[str, Any] = {}
        if values.shape and min(values.shape) > 0 and values.chunks is not None:
            options["chunks"] = values.chunks
            if values.compressed:
                options |= {"compression": "gzip", "shuffle": values.dtype.itemsize > 1 and not values.text}
        if values.fill is not None and not values.text:
            options["fillvalue"] = values.fill
        try:
            self._dataset = file.create_dataset(_encoded(path), values.shape, dtype, **options)
        except TypeError as error:
            raise InvalidTypeError(f"{writer.path}: HDF5 has no type for {values.dtype} ({error}).") from error
        _set_attributes(self._dataset, attributes)

    def write(self, box: Box, block: Array) -> None:
        with explaining_failed_writes(self._writer.path):
            if block.size == 0:
                return
            if self._text:
                texts = np.empty(block.size, object)
                texts[:] = [element.decode("utf-8", "surrogateescape") for element in block.reshape(-1).tolist()]
                block = texts.reshape(block.shape)
            self._dataset[box] = block

    def close(self) -> None:
        self._dataset = None


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
        made = h5py.h5f.create(_encoded(path), h5py.h5f.ACC_EXCL, fcpl=options)
        made.close()
        return open_to_write(path, "r+")


def _set_attributes(item: Any, attributes: dict[str, Any]) -> None:
    is_scale = attributes.get("CLASS") == "DIMENSION_SCALE" and isinstance(attributes.get("NAME", ""), str)
    if is_scale and isinstance(item, library().Dataset):
        item.make_scale(attributes.get("NAME", ""))
        attributes = {name: value for name, value in attributes.items() if name not in ("CLASS", "NAME")}
    for name, value in attributes.items():
        if isinstance(item, library().Dataset) and (name in _SCALE_LISTS or (name == LABELS and len(value) != item.ndim)):
            continue  # see `attach_scales`; HDF5 would read as many labels as there are axes, and end the process
        try:
            item.attrs[name] = _typed(name, as_attribute(value), item)
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            raise WriteError(f"{name!r} cannot be an attribute in HDF5: {error}.") from error


def _typed(name: str, value: Any, item: Any) -> Any:
    """What has a type by convention in that type: what stands for no value in netCDF in that of the values, a CLASS as fixed text.

    HDF5 itself reads any CLASS as text of fixed length, to find dimension scales: see `hdf5_scales.attach`.
    """
    if name == "CLASS" and isinstance(value, str):
        return np.bytes_(value.encode("utf-8", "surrogateescape"))
    if name in (FILL, "missing_value") and isinstance(item, library().Dataset):
        kind = item.dtype.kind
        if kind == "f" and isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
            value = np.float64(value)  # as JSON has it, see `tree_contract.as_json`
        if kind == "S" and isinstance(value, str):
            return np.bytes_(value.encode("utf-8", "surrogateescape"))
        if kind in "iuf" and isinstance(value, (np.integer, np.floating)):
            with contextlib.suppress(OverflowError), np.errstate(all="ignore"):
                fitted = np.asarray(value).astype(item.dtype.newbyteorder("="))[()]
                return fitted if fitted == value or fitted != fitted else value
    return value


def as_attribute(value: Any) -> Any:
    """What h5py makes an attribute of, equal to a value of JSON. Lists of unequal things, and objects, become JSON text."""
    if value is None:
        return library().Empty("f4")
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return np.int64(value) if -(2**63) <= value < 2**63 else np.uint64(value) if 0 <= value < 2**64 else str(value)
    if isinstance(value, float):
        return np.float64(value)
    if isinstance(value, list) and value:
        with contextlib.suppress(ValueError, OverflowError):
            kinds = {type(element) for element in _elements(value)}
            array = np.array(value)
            if kinds == {int} and array.dtype.kind not in "iu":  # NumPy makes floats of large integers beside small ones
                array = np.array(value, np.uint64)
            if kinds == {str} and array.dtype.kind == "U" and all(map(_is_text, _elements(value))):
                return array.astype(object)
            if kinds in ({bool}, {int}, {float}) and array.dtype.kind in "biuf":
                return array
    return [] if value == [] else json.dumps(value)


def _is_text(value: str) -> bool:
    """True for what HDF5 keeps as it is; in JSON there are halves of characters, and NUL, at which HDF5 ends a text."""
    try:
        return b"\0" not in value.encode("utf-8")
    except UnicodeEncodeError:
        return False


def _is_lists_of_paths(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(paths, list) and {type(path) for path in paths} <= {str} for paths in value)


def _elements(value: Any) -> Any:
    for element in value:
        if isinstance(element, list):
            yield from _elements(element)
        else:
            yield element


def _encoded(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
