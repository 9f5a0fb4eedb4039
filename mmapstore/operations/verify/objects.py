"""List the objects to verify at a path: a file, a store, a directory that mmapstore wrote, or a directory of archives."""

from __future__ import annotations

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...files.crashes import step
from ...formats.containers import NPY_TREE, container_of, open_tree
from ...formats.contract import StoredArray
from ...formats.registry import list_stored, open_stored, split_inside
from ...formats.tree_contract import Attribute, Container, Kind, Node, TreeArray, TreeSource, inside
from ...plain.errors import DamagedFileError, InvalidTypeError, MmapstoreError, NotFoundError
from ...plain.manifest import DIRECTORY_MANIFEST
from ..convert import archives as convert
from ..convert.tree_report import TreeRow
from .manifest_check import described_arrays

FIELDS, ARRAY, TREE = "fields", "array", "tree"
_MOST_LINKS = 40  # one after the other, as Linux follows; HDF5 follows 16


def raising(why: str) -> Callable[[], StoredArray]:
    def refuse() -> StoredArray:
        raise InvalidTypeError(why)

    return refuse


_no_array = raising("it is no array")


@dataclass
class Object:
    """One name at a path: an array, a group, a named type, a link; or an object that a conversion reports on."""

    key: str  # its name relative to the path that was given
    name: str = ""  # its name in messages
    path: str = ""  # of an array, its file or store; "" of others
    open: Callable[[], StoredArray] = _no_array  # returns the array, and raises the errors of opening
    layout: str | None = None  # of its manifest; None without one
    dimensions: tuple[str | None, ...] = ()  # names of the axes; () where they have none
    is_empty: bool = False  # an array that has no shape, and so no values
    link: str | None = None  # the target of a link: a key, or a path outside
    attributes: list[Attribute] | None = None  # None where the format holds none
    rows: dict[str, TreeRow] = field(default_factory=dict)  # of a conversion's report, by attribute; "" is the object itself

    @property
    def is_array(self) -> bool:
        return bool(self.path)

    @property
    def is_there(self) -> bool:
        return self.is_array or self.is_empty or self.link is not None or self.attributes is not None


def groups_of(key: str) -> list[str]:
    """
    >>> groups_of("a/b/c")
    ['', 'a', 'a/b']
    """
    return ["", *(key[:at] for at, letter in enumerate(key) if letter == "/")]


class Objects(dict[str, Object]):
    """The objects at a path, by key.

    `others` are files that hold no array; `is_one_array` is True if the path names an array, not a container.
    """

    def __init__(self) -> None:
        super().__init__()
        self.others: list[str] = []
        self.is_one_array = False

    def add(self, key: str, **found: Any) -> Object:
        """Add to the knowledge of an object."""
        self[key] = replace(self.get(key) or Object(key), **found)
        return self[key]

    @property
    def arrays(self) -> dict[str, Object]:
        return {key: each for key, each in self.items() if each.is_array}

    @property
    def has_attributes(self) -> bool:
        return any(each.attributes is not None for each in self.values())

    def has(self, key: str) -> bool:
        return key in self and self[key].is_there

    def is_lost(self, key: str) -> bool:
        """Return True if a conversion reports that it does not copy this object, or the group around it."""
        around = (*groups_of(key)[1:], key)
        return any(path in self and "" in self[path].rows and self[path].rows[""].is_lost for path in around)

    def led_to(self, key: str) -> Object | None:
        """Return the array that a name, of an array or a link, leads to."""
        for _ in range(_MOST_LINKS):
            if key not in self or (target := self[key].link) is None:
                break
            key = target
        return self[key] if key in self and self[key].is_array else None


# --- files and stores ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Archive:
    """A file, or a directory that is one store."""

    path: str  # the file or store, and the place in it that was given
    within: str
    prefix: str  # of the keys of all objects in it
    kind: str  # FIELDS of a directory of `ingest`, ARRAY of a single array, TREE of a container; "" of a file without arrays
    container: Container | None = None  # that of a TREE, or of a file that is one array
    allow_links: bool = False  # external links are followed

    def key(self, path: str) -> str:
        return _joined(self.prefix, path)

    def name(self, path: str) -> str:
        return f"{self.path}::/{_joined(self.within, path)}" if self.within or path != "/" else self.path


def _joined(prefix: str, path: str) -> str:
    return "/".join(part for part in (prefix, path.strip("/")) if part)


def archives_at(path: str, allow_links: bool = False) -> list[Archive]:
    """List the archives at a path. Raises the errors of opening: NotFoundError, DamagedFileError and others."""
    outer, within = split_inside(path)
    if _is_fields(outer):
        return [Archive(path, "", "", FIELDS)]
    inner = (within or "").strip("/")
    if not os.path.isdir(outer) or _is_archive(outer):
        return [Archive(outer, inner, "", *_kind(outer, inner), allow_links)]
    if within is not None:
        raise NotFoundError(f"{outer} is a directory of files; it has no {within!r}. Name one of its files before the '::'.")
    found = list(_archives_in(outer, allow_links))
    if all(not archive.kind for archive in found):
        raise NotFoundError(f"{outer} holds no .npy, HDF5 or Zarr data, nor a manifest of mmapstore. Check the directory.")
    return found


def archives_converted(path: str, other: str, allow_links: bool) -> list[Archive] | None:
    """Return the archives of a directory under the names that a conversion gives; None if `other` is no conversion of it."""
    found = convert.converted_archives(path, other)
    if found is None:
        return None
    return [Archive(each.path, "", _stem(Path(name)), *_kind_of(each.container), allow_links) for each, name in found]


def _is_archive(path: str) -> bool:
    try:
        container_of(path)
    except MmapstoreError:
        return False
    return True


def _kind(path: str, within: str) -> tuple[str, Container | None]:
    container = container_of(path)
    if within and container not in (None, NPY_TREE) and any(each.key.strip("/") == within for each in list_stored(path, within)):
        return ARRAY, None
    return _kind_of(container) if container is not None else (ARRAY, None)


def _kind_of(container: Container | None) -> tuple[str, Container | None]:
    return "" if container is None else ARRAY if container.create is None else TREE, container


class Trees:
    """Opens containers, one at a time."""

    def __init__(self) -> None:
        self._archive: Archive | None = None
        self._tree: TreeSource | None = None
        self.prepare: dict[Archive, Callable[[TreeSource], None]] = {}
        """For a container, the function that is called with it each time it is opened."""

    def open(self, archive: Archive) -> TreeSource:
        if self._tree is None or archive != self._archive:
            self.close()
            self._tree, self._archive = open_tree(archive.path, archive.within, archive.allow_links), archive
            if archive in self.prepare:
                self.prepare[archive](self._tree)
        return self._tree

    def close(self) -> None:
        if self._tree is not None:
            self._tree.close()
        self._tree = None


@contextlib.contextmanager
def listing(found: Objects, archive: Archive) -> Iterator[None]:
    """List an archive in the block. An error in one of several archives is reported when its objects are compared."""
    try:
        yield
    except MmapstoreError as error:
        if not archive.prefix:
            raise
        found.add(archive.prefix, name=archive.path, path=archive.path, open=raising(str(error)))


def add_archive(found: Objects, archive: Archive, trees: Trees, as_stored: bool = False) -> None:
    """Add all that is in an archive. `as_stored`: HDF5 datasets in the form in which copies within HDF5 are compared."""
    if archive.kind == FIELDS:
        for each in described_arrays(archive.path):
            key = archive.key(each.name.partition("::/")[2])
            found.add(key, name=each.name, path=each.path, open=each.open, layout=each.entry.layout)
    elif archive.kind == ARRAY:
        opener = functools.partial(open_stored, archive.path, archive.within or None)
        found.is_one_array = not archive.prefix
        layout = _layouts(archive).get(archive.within)
        found.add(archive.prefix, name=archive.name("/"), path=archive.path, open=opener, layout=layout)
    elif archive.kind == TREE:
        listing = TreeListing(found, archive, trees, as_stored)
        for node in listing.tree.walk():
            listing.add_node(node)
    else:
        found.others.append(archive.path)


def _layouts(archive: Archive) -> dict[str, str]:
    """Return the axes that a manifest names, by place in the archive."""
    return {each.entry.key.strip("/"): each.entry.layout for each in described_arrays(archive.path)}


class TreeListing:
    """Lists the objects of one container, which may be closed and opened again before their values are compared."""

    def __init__(self, found: Objects, archive: Archive, trees: Trees, as_stored: bool) -> None:
        self.found, self.archive, self.trees, self.as_stored = found, archive, trees, as_stored
        self.tree = trees.open(archive)
        self._layouts = _layouts(archive)

    def add_node(self, node: Node) -> None:
        found, archive = self.found, self.archive
        key, name = archive.key(node.path), archive.name(node.path)
        if node.kind in Kind.LINKS and not node.damage:
            found.add(key, link=archive.key(node.target))
            return
        try:
            if node.damage:
                raise DamagedFileError(f"{name} cannot be looked into: {node.damage}")
            with step(f"listing {name}"):
                found.add(key, attributes=self.tree.attributes(node.path, self.as_stored))
                arrays = self.arrays(node.path) if node.kind == Kind.ARRAY else []
        except MmapstoreError as error:
            found.add(key, name=name, path=archive.path, open=raising(str(error)))
            return
        if node.kind == Kind.ARRAY:
            found.add(key, is_empty=not arrays)
            found.is_one_array = found.is_one_array or (node.path == "/" and not archive.prefix)
        for array in arrays:
            self.add_array(node, inside(node.path, array.member), array)

    def arrays(self, path: str) -> list[TreeArray]:
        tree = self.trees.open(self.archive)
        return tree.stored_arrays(path)[0] if self.as_stored else tree.arrays(path)

    def add_array(self, node: Node, place: str, array: TreeArray) -> None:
        """Add an array of the object `node` under the name `place`, which is its own or that of its copy in a target."""
        path = inside(node.path, array.member)
        name = self.archive.name(path)
        opened = functools.partial(self._opened, node.target if node.kind in Kind.LINKS else node.path, array, name)
        opener = raising(f"{name}: {array.refused}") if array.refused else opened
        layout = self._layouts.get(_joined(self.archive.within, path))
        key, dimensions = self.archive.key(place), array.dimensions
        self.found.add(key, name=name, path=self.archive.path, open=opener, layout=layout, dimensions=dimensions)

    def _opened(self, path: str, array: TreeArray, name: str) -> StoredArray:
        if (opened := array.opened()) is not array:
            return opened
        if self.trees.open(self.archive) is not self.tree:  # the format's own library reads it, from the container opened again
            array = next(each for each in self.arrays(path) if each.member == array.member)
        return replace(array, name=name)


# --- directories -----------------------------------------------------------------------------------------------------------


def _archives_in(folder: str, allow_links: bool) -> Iterator[Archive]:
    files = archive_files(folder)
    stems = [_stem(Path(file.relative)) for file in files]
    counts = Counter(stems)
    for file, stem in zip(files, stems, strict=True):
        # Two archives that differ in their suffix alone keep it.
        prefix = stem if counts[stem] == 1 else file.relative
        if _is_fields(file.path):
            yield Archive(file.path, "", prefix, FIELDS)
        else:
            kind = _kind(file.path, "") if _is_archive(file.path) else ("", None)
            yield Archive(file.path, "", prefix, *kind, allow_links)


def _stem(path: Path) -> str:
    return path.with_suffix("").as_posix() if path.suffix else path.as_posix()


def archive_files(folder: str) -> list[convert.Archive]:
    """Return files, stores, links, and directories that `ingest` wrote."""
    return [each for each in convert.archives_below(folder, is_whole=_is_fields) if not each.is_of_writing]


def _is_fields(path: str) -> bool:
    return os.path.isfile(os.path.join(path, DIRECTORY_MANIFEST))
