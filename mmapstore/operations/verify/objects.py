"""What there is to verify at a path: arrays by name, in a file, a store, a directory that mmapstore wrote, or one of archives."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...batches.opening import natural
from ...formats.contract import Selection, StoredArray
from ...formats.hdf5_tree import Hdf5Tree
from ...formats.npy_tree import NpyTree, is_npy_tree
from ...formats.registry import PARTIAL, identify, list_stored, open_stored, split_inside
from ...formats.tree_contract import ARRAY, LINKS, Attribute, Node, TreeSource, Values, inside
from ...formats.zarr_tree import ZarrTree
from ...plain.errors import InvalidTypeError, MmapstoreError, NotFoundError
from ...plain.manifest import DIRECTORY_MANIFEST, SUFFIX
from .manifest_check import described_arrays
from .rows import Array


@dataclass(frozen=True)
class Object:
    """One array.

    Attributes
    ----------
    key : what it is called within what was asked for
    name : what messages call it
    path : its file or store
    open : the array; raises what opening raises. What is opened has a `close` where it holds something open
    layout : known from a manifest; or None
    dimensions : names of the axes; () where they have none
    """

    key: str
    name: str
    path: str
    open: Callable[[], StoredArray]
    layout: str | None = None
    dimensions: tuple[str | None, ...] = ()


@dataclass
class Objects:
    """All that is at a path, by key.

    Attributes
    ----------
    by_key : arrays
    empty : arrays that have no shape, and so no values
    links : names that lead to other objects: the key of that, or where else they lead
    attributes : of arrays and groups; a key is missing where the format holds none
    others : files that hold no array
    is_one_array : an array was asked for, and no container
    """

    by_key: dict[str, Object] = field(default_factory=dict)
    empty: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, list[Attribute]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    is_one_array: bool = False

    def add(self, found: Object) -> None:
        self.by_key[found.key] = found

    def led_to(self, key: str) -> Object | None:
        """The array that a name, of an array or a link, leads to."""
        for _ in range(len(self.links) + 1):
            if key not in self.links:
                break
            key = self.links[key]
        return self.by_key.get(key)


def objects_at(path: str) -> Objects:
    """Raises what opening raises: NotFoundError, DamagedFileError ... of a file; a directory is looked through file by file."""
    outer, within = split_inside(path)
    found = Objects()
    if os.path.isfile(os.path.join(outer, DIRECTORY_MANIFEST)):
        _add_fields(found, path, "")
    elif os.path.isdir(outer) and not _is_container(outer) and not is_npy_tree(outer):
        if within is not None:
            raise NotFoundError(f"{outer} is a directory of files; it has no {within!r}. Name one of its files before the '::'.")
        _add_files(found, outer)
        if not found.by_key:
            raise NotFoundError(f"{outer} holds no .npy, HDF5 or Zarr data, nor a manifest of mmapstore. Check the directory.")
    else:
        _add_container(found, outer, (within or "").strip("/"), "")
    return found


def _is_container(path: str) -> bool:
    try:
        identify(path)
    except MmapstoreError:
        return False
    return True


def _add_fields(found: Objects, path: str, prefix: str) -> None:
    for each in described_arrays(path):
        key = each.name.partition("::/")[2]
        opener = functools.partial(open_stored, each.path, each.entry.key or None)
        found.add(Object(prefix + key, each.name, each.path, opener, each.entry.layout))


# --- files and stores ------------------------------------------------------------------------------------------------------


def _add_container(found: Objects, path: str, within: str, prefix: str) -> None:
    layouts = {each.entry.key.strip("/"): each.entry.layout for each in described_arrays(path)}
    tree = _opened_tree(path, within)
    if tree is None:
        name = f"{path}::/{within}" if within else path
        found.is_one_array = not prefix
        found.add(Object(prefix, name, path, functools.partial(open_stored, path, within or None), layouts.get(within)))
        return
    with closing(tree):
        for node in tree.walk():
            _add_node(found, tree, node, path, within, prefix, layouts)


def _opened_tree(path: str, within: str) -> TreeSource | None:
    """The container, or a group of it; None where there is one array and nothing else."""
    if is_npy_tree(path):
        return NpyTree(path)
    title, _ = identify(path)
    if title not in ("HDF5", "Zarr"):
        return None
    if title == "HDF5":
        is_array = within and any(listing.key.strip("/") == within for listing in list_stored(path, within))
        return None if is_array else Hdf5Tree(path, within)
    is_array = any(listing.key.strip("/") == within for listing in list_stored(path, within or None))
    return None if is_array else ZarrTree(path, within)


def _key(prefix: str, path: str) -> str:
    return "/".join(part for part in (prefix, path.strip("/")) if part)


def _add_node(found: Objects, tree: TreeSource, node: Node, path: str, within: str, prefix: str, layouts: dict[str, str]) -> None:
    key = _key(prefix, node.path)
    name = f"{path}::/{_key(within, node.path)}" if within or node.path != "/" else path
    if node.damage:
        found.add(Object(key, name, path, _raising(f"{name} cannot be looked into: {node.damage}")))
        return
    if node.kind in LINKS:
        found.links[key] = _key(prefix, node.target)
        return
    try:
        found.attributes[key] = tree.attributes(node.path)
        parts = tree.values(node.path) if node.kind == ARRAY else []
    except MmapstoreError as error:
        found.add(Object(key, name, path, _raising(str(error))))
        return
    if node.kind == ARRAY and not parts:
        found.empty.add(key)
    for values in parts:
        own = inside(node.path, values.member)
        member = f"{name}/{values.member}" if values.member else name
        found.add(
            Object(
                _key(prefix, own),
                member,
                path,
                _opener(values, path, within, node.path, member),
                layouts.get(_key(within, own)),
                values.dimensions,
            )
        )


def _raising(why: str) -> Callable[[], StoredArray]:
    def refuse() -> StoredArray:
        raise InvalidTypeError(why)

    return refuse


def _opener(values: Values, path: str, within: str, node: str, name: str) -> Callable[[], StoredArray]:
    if values.refused:
        return _raising(f"{name}: {values.refused}")
    if values.stored is not None:
        return values.stored
    return functools.partial(TreeArray.opened, path, within, node, values.member, name)


class TreeArray:
    """An array of a tree that only its format's library can give (text, members of a compound ...), as a StoredArray."""

    extents = None
    why_not_raw = "only the format's library knows how to read it"
    storage = ""

    def __init__(self, tree: TreeSource, values: Values, name: str) -> None:
        if values.dtype.kind not in "biufcS":
            raise InvalidTypeError(f"{name} has the dtype {values.dtype}, which is not compared; expected numbers, bool or bytes.")
        self._tree = tree
        self._values = values
        self.name = name
        self.shape, self.dtype, self.chunks = values.shape, values.dtype, values.chunks
        self.element_nbytes = values.element_nbytes
        self.cache_nbytes = values.kept_nbytes + values.together_nbytes

    @classmethod
    def opened(cls, path: str, within: str, node: str, member: str, name: str) -> TreeArray:
        tree = _opened_tree(path, within)
        assert tree is not None, "a node was found in it"
        try:
            return cls(tree, next(values for values in tree.values(node) if values.member == member), name)
        except BaseException:
            tree.close()
            raise

    def read_box(self, selection: Selection, out: Array) -> None:
        if math.prod(out.shape):
            out[...] = self._values.read(selection)

    def close(self) -> None:
        self._tree.close()


# --- directories -----------------------------------------------------------------------------------------------------------


def _add_files(found: Objects, folder: str) -> None:
    files = list(archive_files(Path(folder)))
    stems = [_stem(file.relative_to(folder)) for file in files]
    for file, stem in zip(files, stems, strict=True):
        # Two archives that differ in their suffix alone keep it.
        prefix = stem if stems.count(stem) == 1 else file.relative_to(folder).as_posix()
        if (file / DIRECTORY_MANIFEST).is_file():
            _add_fields(found, str(file), f"{prefix}/")
        elif not _is_container(str(file)) and not is_npy_tree(file):
            found.others.append(str(file))
        else:
            try:
                _add_container(found, str(file), "", prefix)
            except MmapstoreError as error:
                found.add(Object(prefix, str(file), str(file), _raising(str(error))))


def _stem(path: Path) -> str:
    return path.with_suffix("").as_posix() if path.suffix else path.as_posix()


def archive_files(folder: Path) -> Iterator[Path]:
    """Files, and directories that are one thing, in order. No link is followed to a directory."""
    for entry in sorted(folder.iterdir(), key=lambda entry: natural(entry.name)):
        if entry.name.endswith((SUFFIX, PARTIAL)) or f"{PARTIAL}." in entry.name or entry.name == DIRECTORY_MANIFEST:
            continue
        is_one = (entry / DIRECTORY_MANIFEST).is_file() or is_npy_tree(entry) or _is_container(str(entry))
        if not entry.is_dir() or is_one:
            yield entry
        elif not entry.is_symlink():
            yield from archive_files(entry)


# --- two of them -----------------------------------------------------------------------------------------------------------


def matched(a: Objects, b: Objects) -> tuple[list[tuple[Object, Object]], list[str], list[str]]:
    """Pairs that belong together, and names of what only the first, and only the second, has.

    "x" in one, for an archive with one array, belongs to the only "x/..." of the other. What is a link in one and an array in the
    other is compared with what the link leads to.
    """
    if len(a.by_key) == len(b.by_key) == 1 and (a.is_one_array or b.is_one_array or not a.by_key.keys() & b.by_key.keys()):
        return [(next(iter(a.by_key.values())), next(iter(b.by_key.values())))], [], []
    pairs = [(found, b.by_key[key]) for key, found in a.by_key.items() if key in b.by_key]
    left = [key for key in a.by_key if key not in b.by_key]
    right = [key for key in b.by_key if key not in a.by_key]
    for mine, theirs, turned in ((left, right, False), (right, left, True)):
        for key in list(mine):
            inner = [other for other in theirs if other.startswith(key + "/")]
            if len(inner) == 1:
                mine.remove(key)
                theirs.remove(inner[0])
                first, second = (inner[0], key) if turned else (key, inner[0])
                pairs.append((a.by_key[first], b.by_key[second]))
    for own, other, names, turned in ((a, b, right, False), (b, a, left, True)):
        for key in own.links:
            target = own.led_to(key)
            if key in names and target is not None:
                names.remove(key)
                pairs.append((other.by_key[key], target) if turned else (target, other.by_key[key]))
    missing = left + [key for key in (*a.empty, *a.links) if not _has(b, key)]
    extra = right + [key for key in (*b.empty, *b.links) if not _has(a, key)]
    return pairs, _named(a, missing), _named(b, extra)


def _has(objects: Objects, key: str) -> bool:
    return key in objects.by_key or key in objects.empty or key in objects.links


def _named(objects: Objects, keys: list[str]) -> list[str]:
    return [key or objects.by_key[key].name for key in sorted(keys)]


def attribute_words(first: list[Attribute], second: list[Attribute]) -> tuple[list[str], list[str]]:
    """(what is lost or differs, what the second has beside) of the attributes of one object."""
    others = {attribute.name: attribute for attribute in second}
    wrong, notes = [], []
    for attribute in first:
        if attribute.name in _OF_FORMATS:
            continue
        other = others.pop(attribute.name, None)
        if attribute.refused:
            notes.append(f"attribute {attribute.name!r} is not compared: {attribute.refused}")
        elif other is None:
            wrong.append(f"attribute {attribute.name!r} is missing")
        elif not _same(attribute.value, other.value):
            wrong.append(f"attribute {attribute.name!r}: {_short(attribute.value)} against {_short(other.value)}")
    beside = [name for name in others if name not in _OF_FORMATS]
    return wrong, [*notes, *([f"the second has further attributes: {', '.join(beside)}"] if beside else [])]


_OF_FORMATS = {"_ARRAY_DIMENSIONS", "layout"}  # how Zarr 2 names axes, and what `ingest` leaves


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(*pair) for pair in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    names = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}  # as targets that have no such numbers spell them
    if isinstance(a, float) and isinstance(b, str) and b in names:
        return _same(a, names[b])
    if isinstance(b, float) and isinstance(a, str) and a in names:
        return _same(names[a], b)
    return bool(a == b)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
