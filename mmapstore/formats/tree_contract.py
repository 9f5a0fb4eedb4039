"""Containers as a whole: walk the groups, arrays, links and attributes of one, and write them into another.

A container gives each array as `TreeArray`s: stored arrays of fixed-size elements, which every target holds.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..plain.chunk_grid import Box
from ..plain.errors import MmapstoreError, UnsafeFileError
from ..plain.memory_budget import format_bytes
from .contract import Array, Selection, StoredArray

MOST_UNSTORED_NBYTES, MOST_TIMES_STORED = 4 << 30, 1000
OBJECT_NBYTES = 64
"""Memory of a Python object and the pointer to it, beside the bytes that it holds."""
FILL = "_FillValue"
NON_COORDINATE = "_nc4_non_coord_"
"""In HDF5, netCDF puts this before the name of a variable that another dimension has: the scale of that has the name itself."""


class Kind:
    """Kinds of nodes: objects, and links to them."""

    GROUP, ARRAY, NAMED_TYPE, EMPTY, DIMENSION = "group", "array", "named type", "empty", "dimension"
    SOFT_LINK, ALIAS, EXTERNAL_LINK, UNKNOWN_LINK = "soft link", "alias", "external link", "unknown link"
    LINKS = (SOFT_LINK, ALIAS, EXTERNAL_LINK, UNKNOWN_LINK)


@dataclass(frozen=True)
class Node:
    """One name in a container."""

    path: str  # from the root, "/group/x"; "/" for the root itself. Each object has one path; its further names are aliases
    # of objects "group", "array", "named type" or "dimension" (of netCDF: a length with a name, and no values); of links "soft
    # link", "alias" (of an object that has another name), "external link" or "unknown link"
    kind: str
    # of a link, the path of the object; of a soft link, the text that is stored; "other.h5::/x" of an external one
    target: str = ""
    attributes: tuple[str, ...] = ()  # the names of an object's attributes
    damage: str = ""  # the reason if the object cannot be described


@dataclass(frozen=True)
class Attribute:
    """An attribute, as JSON holds it."""

    name: str
    value: Any = None  # None, bool, int, float, str, or lists and dicts of these
    changed: str = ""  # the difference from the stored value ("object references as paths"); "" if there is none
    refused: str = ""  # the reason if there is no value
    derived: bool = False  # the source notes the dimensions of arrays by this attribute; the target has a form of its own for them


@dataclass(frozen=True)
class TreeArray(StoredArray):
    """An array of a container, or one member of a compound array."""

    member: str  # of a compound array, the names that lead to this part of it, "position/x"; "" for the whole
    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # fixed-size numbers, bool or bytes, in the byte order of the source
    # returns a box, with start and stop on each axis, in a new array, through the format's own library
    read: Callable[[Box], Array]
    text: bool = False  # the bytes are UTF-8 text that was stored with variable length
    chunks: tuple[int, ...] | None = None  # shape of the pieces that are decoded as a whole; None if there are none
    together_nbytes: int = 0  # bytes that are decoded for any one element
    kept_nbytes: int = 0  # bytes of memory that this object keeps
    compressed: bool = False  # the source is compressed
    fill: Any = None  # the value of elements never stored; None if it is 0 or unknown
    dimensions: tuple[str | None, ...] = ()  # a name or None for each axis; () if no axis has a name
    changed: tuple[str, ...] = ()  # differences from the stored values, in words
    notes: tuple[tuple[str, Any], ...] = ()  # small JSON to keep beside the values, such as the names of an enumeration
    # opens the array as `mmapstore.open` does; None if that does not give these values
    stored: Callable[[], StoredArray] | None = None
    element_nbytes: int = 0  # bytes of memory that reading takes for each element, beside the result
    text_nbytes: int = 0  # bytes of all texts of variable length, without the padding to `dtype`
    refused: str = ""  # the reason if this part cannot be read; there are no values then
    name: str = ""
    storage: str = ""
    why_not: str = "only the format's library knows how to read it"

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def cache_nbytes(self) -> int:  # type: ignore[override]  # what `replace` makes has its own
        return self.kept_nbytes + self.together_nbytes

    def read_box(self, selection: Selection, out: Array) -> None:
        if math.prod(out.shape):
            out[...] = self.read(selection)

    def with_axes(self, dims: tuple[int, ...]) -> TreeArray:
        """Return the array with further axes at the end, each in one chunk."""
        return replace(
            self,
            shape=(*self.shape, *dims),
            chunks=(*self.chunks, *(max(1, length) for length in dims)) if self.chunks else None,
            dimensions=(*self.dimensions, *(None for _ in dims)) if self.dimensions else (),
        )

    def opened(self) -> StoredArray:
        """Return the array as `mmapstore.open` gives it, for our own readers; this object if only the library reads it."""
        if self.stored is not None:
            with contextlib.suppress(MmapstoreError):  # the library says better what is wrong
                found = self.stored()
                if found.shape == self.shape and found.dtype.newbyteorder("=") == self.dtype.newbyteorder("="):
                    return found
        return self


class TreeSource:
    """A container open for reading. `path` is its file or directory, `name` the part of it that is meant, for messages."""

    path: str
    name: str

    def walk(self) -> Iterator[Node]:
        """Yield the root, then all below, a group before its members. Links are not followed; each group is entered once."""
        raise NotImplementedError

    def attributes(self, path: str, as_stored: bool = False) -> list[Attribute]:
        """Return the attributes of an object. `as_stored`: to compare them with those of a copy in the same format."""
        return []

    def dimensions(self, path: str) -> tuple[str | None, ...]:
        """Return a name or None for each axis of an array; () if no axis has a name."""
        return ()

    def arrays(self, path: str) -> list[TreeArray]:
        """Return an array in its plain parts; none for an array without a shape (a null dataspace).

        Raises MmapstoreError if it cannot be read, or not safely.
        """
        raise NotImplementedError

    def stored_arrays(self, path: str) -> tuple[list[TreeArray], str]:
        """Return an array in parts that tell if a copy in the same format is equal, and in words what they do not compare."""
        return self.arrays(path), ""

    def prefer_names_referred_to(self) -> None:
        """Give each object as its path the name that most attributes and soft links use, if it has several."""

    def forget(self, path: str) -> None:
        """Let references to the object at this path lead nowhere from now on: it has no place in a copy."""

    def close(self) -> None:
        pass


class TreeTarget:
    """A container that is being written, under a temporary name until it is whole. Paths begin with "/".

    `has_hard_links`: an object can have several names. `has_scales`: axes can have dimension scales, see `attach_scales`.
    """

    path: str
    has_hard_links = False
    has_scales = False

    def refusal(self, path: str, is_group: bool) -> str:
        """Return the reason if the target cannot have an object of this name; "" if it can."""
        raise NotImplementedError

    def is_taken(self, path: str, is_group: bool) -> bool:
        """Return True if the name that this path would get is in use."""
        raise NotImplementedError

    def fitted(self, attribute: Attribute, is_group: bool) -> Attribute:
        """Return the attribute of a group or an array as the target holds it."""
        return as_json(attribute)

    def remove(self, path: str) -> None:
        """Delete an object that an interrupted run may have left."""
        raise NotImplementedError

    def add_group(self, path: str, attributes: dict[str, Any]) -> None:
        """Create a group; the root exists already, and gets the attributes."""
        raise NotImplementedError

    def add_array(self, path: str, array: TreeArray, attributes: dict[str, Any]) -> NewTreeArray:
        """Create an array. Raises InvalidTypeError if the target has no such elements."""
        raise NotImplementedError

    def add_empty(self, path: str, attributes: dict[str, Any]) -> str:
        """Create an array without a shape. Returns in words the form it has instead, "" if the target has such arrays."""
        raise NotImplementedError

    def add_link(self, path: str, kind: str, target: str) -> str:
        """Create a link. Returns in words the form it has instead, "" if the target has such links."""
        raise NotImplementedError

    def attach_scales(
        self, axes: Mapping[str, tuple[str | None, ...]], lists: Mapping[str, Any]
    ) -> tuple[list[str], dict[str, str]]:
        """Give the axes of arrays their scales: by names, or, for arrays in `lists`, by the paths given for each axis.

        Returns the paths of scales that were missing and are added, and {array: reason} of lists that cannot be followed.
        """
        return [], {}

    def note(self, path: str, kind: str, attributes: dict[str, Any], array: TreeArray | None = None, target: str = "") -> None:
        """Take note of an object that is added; `array` is None for a copy of the source's. Does nothing by default."""

    def commit(self) -> None:
        """Return when the disk has all that was added."""

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class NewTreeArray:
    """An array that is being written; by itself one in memory, without values."""

    changed: tuple[str, ...] = ()  # differences of the stored form from the array given, in words
    write: Callable[[Box, Array], Any] = lambda box, block: None
    close: Callable[[], Any] = lambda: None
    reopen: Callable[[], NewTreeArray] | None = None  # opens it in another process, whose `close` waits for the disk; picklable
    rows: int = 1  # of the first axis, that one process has to write together
    tidy: Callable[[], Any] = lambda: None  # removes files that killed processes left


@dataclass(frozen=True)
class Entry:
    """An entry of a target in memory."""

    kind: str  # "group", "array", "empty", "soft link" ...
    attributes: dict[str, Any]
    array: TreeArray | None = None  # of an array that was added as values; None of others, and of a copy of the source's
    target: str = ""  # of a link, the object that it leads to


class InMemory(TreeTarget):
    """A target that would be at `path`, without values: what a conversion would write. Each format derives its own from its writer.

    `entries` are by path; `log` has the paths in the order in which they were added."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self.log: list[str] = []
        self.add_group("/", {})

    def note(self, path: str, kind: str, attributes: dict[str, Any], array: TreeArray | None = None, target: str = "") -> None:
        self.log.append(path)
        self.entries[path] = Entry(kind, attributes, array, target)

    def is_taken(self, path: str, is_group: bool) -> bool:
        return path in self.entries

    def remove(self, path: str) -> None:
        """Forget this path and all below it."""
        if path in self.entries:
            self.entries = {each: entry for each, entry in self.entries.items() if each != path and not each.startswith(f"{path}/")}

    def add_group(self, path: str, attributes: dict[str, Any]) -> None:
        self.note(path, Kind.GROUP, attributes)

    def commit(self) -> None:
        pass

    def close(self) -> None:
        pass


def as_texts(block: Array) -> Array:
    """Return UTF-8 text of fixed width as an array of str."""
    texts = np.empty(block.size, object)
    texts[:] = [element.decode("utf-8", "surrogateescape") for element in block.reshape(-1).tolist()]
    return texts.reshape(block.shape)


@dataclass(frozen=True)
class Container:
    """The form in which a format holds a tree."""

    title: str  # the name that people use
    suffixes: tuple[str, ...]  # of new targets
    matches: Callable[[str], bool]  # True if a path holds such a container
    open: Callable[[str, str, bool], TreeSource]  # (path, group inside it, allow_links) -> the tree
    # (path, source) -> a target to write, or to go on with; None for a container that is only read
    create: Callable[[str, TreeSource], TreeTarget] | None = None
    # path -> a target that takes names and attributes as one at `path` would, and no values; None as `create`
    in_memory: Callable[[str], Any] | None = None
    is_native: bool = False  # values get the byte order of this machine
    keeps_manifest: bool = True  # the manifest beside the source can be carried over
    takes_parts: bool = True  # several processes may write its arrays


def refuse_unstored(name: str, shape: tuple[int, ...], declared: int, stored: int) -> None:
    """Raise UnsafeFileError for an array that would become far more bytes than its file has any of.

    `stored` counts the chunks that exist by their decoded bytes, in every format: an array that was accepted from one format and
    written to another is accepted again, however well it was compressed.
    """
    if declared - stored > MOST_UNSTORED_NBYTES and declared > MOST_TIMES_STORED * stored:
        raise UnsafeFileError(
            f"{name} declares {format_bytes(declared)} of {shape}, of which {format_bytes(stored)} were ever stored; expected at "
            f"least a {MOST_TIMES_STORED}th. If it is meant to be so, convert the part that holds values."
        )


def inside(path: str, member: str) -> str:
    """
    >>> inside("/", "a"), inside("/a", "b/c"), inside("/a", "")
    ('/a', '/a/b/c', '/a')
    """
    return f"{path.rstrip('/')}/{member}" if member else path


def unless_zero(fill: Any) -> Any:
    """Return the value of elements that were never stored; None if it is 0, or no plain value."""
    value = np.asarray(fill)
    is_plain = value.ndim == 0 and value.dtype.kind in "biufcS"
    return value[()] if is_plain and (value != np.zeros((), value.dtype)).any() else None


def as_json(attribute: Attribute) -> Attribute:
    """Return the attribute with numbers that JSON lacks as text: "NaN", "Infinity", "-Infinity"."""
    value, found = _finite(attribute.value)
    words = "values that are not finite as text" if found else ""
    return replace(attribute, value=value, changed="; ".join(part for part in (attribute.changed, words) if part))


def finite(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return attributes with such text."""
    found: dict[str, Any] = _finite(attributes)[0]
    return found


def _finite(value: Any) -> tuple[Any, bool]:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity", True
    if isinstance(value, list):
        pairs = [_finite(element) for element in value]
        return [element for element, _ in pairs], any(found for _, found in pairs)
    if isinstance(value, dict):
        named = {name: _finite(element) for name, element in value.items()}
        return {name: element for name, (element, _) in named.items()}, any(found for _, found in named.values())
    return value, False
