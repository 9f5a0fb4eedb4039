"""A whole HDF5 file: walk it without leaving it, each object once, and read each dataset in plain parts."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..files.crashes import step
from ..plain.chunk_grid import Box
from ..plain.errors import InvalidTypeError, InvalidValueError, MissingPackageError
from .contract import Array
from .hdf5_attributes import attribute_as_json, attribute_names, told_by_bytes
from .hdf5_boxes import raw_elements
from .hdf5_chunk_list import chunk_bytes
from .hdf5_dimensions import Dimensions, extended, is_length_alone
from .hdf5_file import open_array
from .hdf5_filters import filters_of, missing_filters
from .hdf5_layout import check_stored_bytes
from .hdf5_library import explaining_read_errors, filter_plugins, library, open_to_read
from .hdf5_names import names_referred_to
from .hdf5_opening import refuse_foreign_storage
from .hdf5_paths import decoded, encoded, find, name_of, no_such_key
from .hdf5_runs import is_flat, refusal
from .hdf5_types import Reading, leaves_of, plain_values
from .hdf5_virtual import read_nbytes, read_nbytes_anywhere
from .tree_contract import Attribute, Kind, Node, TreeArray, TreeSource, refuse_unstored, unless_zero

_Place = tuple[Any, int]
"""(number of the file, address in it): the same for all names of one object."""
_WALK_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError)


class Hdf5Tree(TreeSource):
    """An HDF5 file, or a group of one. Paths are counted from that group."""

    def __init__(self, path: str | os.PathLike[str], inside: str = "", allow_links: bool = False) -> None:
        self.path = os.fspath(path)
        self.name = name_of(self.path, inside) if inside.strip("/") else self.path
        self._allow_links = allow_links
        self.file = open_to_read(self.path)
        filter_plugins()
        try:
            with explaining_read_errors(self.name):
                root = find(self.file, self.path, inside)
                if not isinstance(root, library().Group):
                    if root is None:
                        raise no_such_key(self.file, self.path, inside)
                    raise InvalidValueError(f"{self.name} is one array, not a group. Convert it without --all (convert(...)).")
        except BaseException:
            self.file.close()
            raise
        self.root = root
        self._chosen: dict[_Place, str] = {}
        self._forgotten: set[str] = set()
        self._named_types: set[str] = set()
        self._last: tuple[str, Any] = ("/", root)
        self._dimensions = Dimensions(self.file)
        try:
            with explaining_read_errors(self.name):
                self._paths = self._places()  # so that references lead somewhere
        except BaseException:
            self.close()
            raise

    def _places(self) -> dict[_Place, str]:
        found: dict[_Place, str] = {}
        self._dimensions.forget()
        for node, item in self._walk():
            if node.kind in (Kind.GROUP, Kind.ARRAY, Kind.NAMED_TYPE, Kind.DIMENSION) and not node.damage:
                found[_place(item.id)] = node.path
                self._dimensions.note(node, item)
        return found

    def prefer_names_referred_to(self) -> None:
        places, preferred = {path: place for place, path in self._paths.items()}, names_referred_to(self)
        if not preferred:
            return
        self._chosen = {places[path]: name for path, name in preferred.items() if path in places}
        found = self._places()
        if len(found) < len(self._paths):  # a name that leads through the object itself
            self._chosen = {}
            return
        self._paths = found

    def close(self) -> None:
        self._last = ("/", None)
        self.root = None
        self.file.close()

    # --- walking ---

    def walk(self) -> Iterator[Node]:
        for node, item in self._walk():
            self._last = node.path, item  # most callers ask for the object next
            yield node

    def _walk(self) -> Iterator[tuple[Node, Any]]:
        """Yield each node with its h5py object; None for a link."""
        seen: dict[_Place, str] = {_place(self.root.id): "/"}
        yield self._described("/", Kind.GROUP, self.root), self.root
        pending: list[tuple[str, Any, Iterator[bytes]]] = [("", self.root, self._names("/", self.root))]
        reached, early = {"/"}, []
        while pending:
            prefix, group, names = pending[-1]
            raw = next(names, None)
            if raw is None:
                pending.pop()
                continue
            path = f"{prefix}/{decoded(raw)}"
            node, item = self._met(path, group, raw, seen)
            if node.kind == Kind.ALIAS and node.target not in reached:
                early.append(node)
                continue
            reached.add(path)
            yield node, item
            if node.kind == Kind.GROUP and not node.damage:
                pending.append((path, item, self._names(path, item)))
        for node in early:  # further names follow the object
            yield node, None

    def _names(self, path: str, group: Any) -> Iterator[bytes]:
        with explaining_read_errors(name_of(self.path, path)):
            names = list(group.id)
            if self._named_types:  # before the arrays that have them
                names.sort(key=lambda raw: f"{path.rstrip('/')}/{decoded(raw)}" not in self._named_types)
            return iter(names)

    def _met(self, path: str, group: Any, raw: bytes, seen: dict[_Place, str]) -> tuple[Node, Any]:
        """Return the node under one name of a group, and its object if it is a new one."""
        h5py = library()
        try:
            kind = group.id.links.get_info(raw).type
            if kind == h5py.h5l.TYPE_SOFT:
                elsewhere = "" if group.file.id == self.file.id else "it lies in another file, and leads somewhere in that"
                return Node(path, Kind.SOFT_LINK, decoded(group.id.links.get_val(raw)), damage=elsewhere), None
            if kind == h5py.h5l.TYPE_EXTERNAL:
                if not self._allow_links:
                    return Node(path, Kind.EXTERNAL_LINK, name_of(*map(decoded, group.id.links.get_val(raw)))), None
            elif kind != h5py.h5l.TYPE_HARD:
                return Node(path, Kind.UNKNOWN_LINK, damage="it is a link of a kind that only the program that made it knows"), None
            with step(f"opening {path} of {self.path}"):
                item = group[raw]
                place = _place(item.id)
                first = seen.setdefault(place, self._chosen.get(place, path))
                if first != path:
                    return Node(path, Kind.ALIAS, first), None
                is_group, is_array = isinstance(item, h5py.Group), isinstance(item, h5py.Dataset)
                return self._described(path, Kind.GROUP if is_group else Kind.ARRAY if is_array else Kind.NAMED_TYPE, item), item
        except _WALK_ERRORS as error:
            return Node(path, Kind.UNKNOWN_LINK, damage=f"HDF5 cannot open it ({error})"), None

    def _described(self, path: str, kind: str, item: Any) -> Node:
        if kind == Kind.NAMED_TYPE:
            self._named_types.add(path)
        names = attribute_names(item)
        is_length = kind == Kind.ARRAY and {"CLASS", "NAME"} <= {*names} and is_length_alone(item)
        return Node(path, Kind.DIMENSION if is_length else kind, attributes=names)

    # --- objects ---

    def item(self, path: str) -> Any:
        """Return the h5py object at a path that `walk` gave."""
        if self._last[0] != path or self._last[1] is None:
            with explaining_read_errors(name_of(self.path, path)):
                inside = f"{self.root.name.rstrip('/')}{path}"
                found = self.file[encoded(inside)] if self._allow_links else find(self.file, self.path, inside)
                if found is None:
                    raise no_such_key(self.file, self.path, inside)
                self._last = (path, found)
        return self._last[1]

    def path_of(self, reference: Any) -> str:
        """Return the path that an h5py.Reference leads to; "" for a null reference and for an object that is gone."""
        with contextlib.suppress(*_WALK_ERRORS):
            found = library().h5r.dereference(reference, self.file.id) if reference else None
            if found is not None and (path := self.path_of_id(found)) not in self._forgotten:
                return path
        return ""

    def path_of_id(self, identifier: Any) -> str:
        """Return the path of the object of an h5py.ObjectID; "" for an object without a name."""
        return self._paths.get(_place(identifier), "")

    def forget(self, path: str) -> None:
        self._forgotten.add(path)

    def attributes(self, path: str, as_stored: bool = False) -> list[Attribute]:
        """Return the attributes. `as_stored`: those without a counterpart in JSON as text that is equal for equal attributes."""
        item = self.item(path)
        with explaining_read_errors(name_of(self.path, path)):
            is_netcdf = self._dimensions.is_netcdf
            found = [attribute_as_json(item, name, self.path_of, is_netcdf, as_stored) for name in attribute_names(item)]
            if as_stored:
                found = [told_by_bytes(item, each, self.path_of) if each.refused else each for each in found]
            if not isinstance(item, library().Dataset):
                return found
            names = self.dimensions(path)
            return [replace(each, derived=self._dimensions.is_derived(each.name, each.value, path, names)) for each in found]

    def dimensions(self, path: str) -> tuple[str | None, ...]:
        return self._dimensions.of(self.item(path), path, self.path_of)

    def arrays(self, path: str, regions: bool = False) -> list[TreeArray]:
        """Return the dataset in plain parts, one for each member of a compound; none for a null dataspace.

        `regions`: region references are text that names their selection. Raises UnsafeFileError for storage in other files and for
        bytes that were never stored; MissingPackageError for filters that are missing here; DamagedFileError.
        """
        item, name = self.item(path), name_of(self.path, path)
        with explaining_read_errors(name):
            kept_nbytes = self._refuse_unsafe(item, path)
            if missing := missing_filters(item):
                remedy = "" if filter_plugins() else "; try: pip install hdf5plugin"
                raise MissingPackageError(f"{name} is compressed with {', '.join(missing)}, which HDF5 lacks here{remedy}.")
            if item.shape is None:
                return []
            common = replace(self._common(item, path), kept_nbytes=kept_nbytes)
            shape = tuple(int(n) for n in item.shape)
            whole = self._dimensions.shape(item, path, self.item, self.path_of) if shape else ()
            kind = item.id.get_type()
            parts = [
                extended(part, whole) if part.shape == shape else part
                for leaf in leaves_of(kind, regions)
                for part in plain_values(Reading(lambda: self.item(path), leaf, shape, self.path_of, kind.get_size()), common)
            ]
        return [replace(part, read=functools.partial(self._read, path, part.read)) for part in parts]

    def _read(self, path: str, read: Callable[[Box], Array], box: Box) -> Array:
        with explaining_read_errors(name_of(self.path, path)):
            return read(box)

    def stored_arrays(self, path: str) -> tuple[list[TreeArray], str]:
        item, name = self.item(path), name_of(self.path, path)
        with explaining_read_errors(name):
            self._refuse_unsafe(item, path)
            kind = item.id.get_type()
            if why := refusal(kind):
                raise InvalidTypeError(f"{name}: {why}.")
            if missing := missing_filters(item):
                chunks = chunk_bytes(lambda: self.item(path), self._common(item, path), name)
                words = f"compared by its stored bytes: HDF5 lacks {', '.join(missing)} here"
                return [replace(chunks, read=functools.partial(self._read, path, chunks.read))], words
            if item.shape is None:
                return [], ""
            refused = [leaf.refused for leaf in leaves_of(kind, regions=True) if leaf.refused]
            if refused and is_flat(kind):
                read = functools.partial(self._read, path, lambda box: raw_elements(self.item(path), box[:-1])[..., box[-1]])
                raw = replace(self._common(item, path), shape=tuple(item.shape)).with_axes((kind.get_size(),))
                words = f"compared by the bytes of its elements: {refused[0]}"
                return [replace(raw, dtype=np.dtype(np.uint8), read=read, stored=None)], words
            words = f"not compared in full: {refused[0]}" if refused else ""
            return [part for part in self.arrays(path, regions=True) if not part.refused], words

    def _common(self, item: Any, path: str) -> TreeArray:
        chunks = tuple(int(n) for n in item.chunks) if item.shape and item.chunks else None
        nbytes = item.id.get_type().get_size()
        is_foreign = item.file.id != self.file.id or item.external is not None or item.is_virtual
        return TreeArray(
            member="",
            shape=(),
            dtype=np.dtype("V1"),
            read=lambda box: np.empty(0, "V1"),  # each part has a `read` of its own
            chunks=tuple(min(each, max(1, length)) for each, length in zip(chunks, item.shape, strict=True)) if chunks else None,
            together_nbytes=math.prod(chunks) * nbytes if chunks else 0,
            compressed=bool(chunks and filters_of(item)),
            fill=_fill_of(item),
            dimensions=self.dimensions(path),
            stored=None if is_foreign else functools.partial(open_array, self.path, f"{self.root.name.rstrip('/')}{path}"),
        )

    def _refuse_unsafe(self, item: Any, path: str) -> int:
        """Raise if the dataset may not be read; return the bytes that HDF5 may hold to read the sources of a virtual dataset."""
        name = name_of(self.path, path)
        if self._allow_links and item.is_virtual:
            return read_nbytes_anywhere(item, name)
        sources = [] if self._allow_links else refuse_foreign_storage(item, name)
        if item.shape is None or item.external is not None:
            return 0
        for each in (item, *sources):
            if each.file.id == self.file.id:
                check_stored_bytes(each, self.path, name)
        nbytes = 0  # of the values that are stored, decoded
        for each in sources or [item]:
            if each.shape is not None and not each.is_virtual and each.id.get_storage_size():
                elements = each.id.get_num_chunks() * math.prod(each.chunks) if each.chunks else each.size
                nbytes += int(elements * each.id.get_type().get_size())
        refuse_unstored(name, tuple(item.shape), item.size * item.id.get_type().get_size(), nbytes)
        return read_nbytes(sources)


def _fill_of(item: Any) -> Any:
    """Return the value that was set for elements never stored; None if it is 0 or was not set."""
    h5d = library().h5d
    with contextlib.suppress(*_WALK_ERRORS):
        if item.id.get_create_plist().fill_value_defined() == h5d.FILL_VALUE_USER_DEFINED:
            return unless_zero(item.fillvalue)
    return None


def _place(identifier: Any) -> _Place:
    info = library().h5o.get_info(identifier)
    return info.fileno, info.addr
