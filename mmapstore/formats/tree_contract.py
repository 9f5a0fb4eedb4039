"""What a container gives when all of it is converted: its groups, arrays, links and attributes, in a form any other can take.

A tree is walked, and each of its arrays broken down into `Values`: plain arrays of fixed-size elements, which every target holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..plain.chunk_grid import Box
from ..plain.errors import UnsafeFileError
from ..plain.memory_budget import format_bytes
from .contract import Array, StoredArray

GROUP, ARRAY, NAMED_TYPE, EMPTY, DIMENSION = "group", "array", "named type", "empty", "dimension"
SOFT_LINK, ALIAS, EXTERNAL_LINK, UNKNOWN_LINK = "soft link", "alias", "external link", "unknown link"
LINKS = (SOFT_LINK, ALIAS, EXTERNAL_LINK, UNKNOWN_LINK)
MOST_UNSTORED_NBYTES, MOST_TIMES_STORED = 4 << 30, 1000
OBJECT_NBYTES = 64
"""Of a Python object and the pointer to it, beside the bytes that it holds."""


@dataclass(frozen=True)
class Node:
    """One name in a container.

    Attributes
    ----------
    path : from the root, "/group/x"; "/" for the root itself. Each object has one path; its further names are aliases
    kind : "group", "array", "named type" or "dimension" (of netCDF: a length with a name, and no values), which are objects;
        "soft link", "alias" (of an object that has another name), "external link" or "unknown link", which are names alone
    target : where a link leads: the path of the object or, of a soft link, what is written there; "other.h5::/x" of an external one
    attributes : names of those of an object
    damage : why nothing can be told of it, where that is so
    """

    path: str
    kind: str
    target: str = ""
    attributes: tuple[str, ...] = ()
    damage: str = ""


@dataclass(frozen=True)
class Attribute:
    """An attribute, as JSON holds it.

    Attributes
    ----------
    value : None, bool, int, float, str, or lists and dicts of these
    changed : how that differs from what is stored ("object references as paths"); "" where it is equal
    refused : why there is no value
    derived : the source's way to note the dimensions of arrays, which the target has in a way of its own
    """

    name: str
    value: Any = None
    changed: str = ""
    refused: str = ""
    derived: bool = False


@dataclass(frozen=True)
class Values:
    """One plain array out of a tree.

    Attributes
    ----------
    member : of a compound array, the names that lead to this part of it, "position/x"; "" for the whole
    dtype : fixed-size numbers, bool or bytes, in the byte order of the source
    text : the bytes are UTF-8 text, which was stored with variable length
    chunks : pieces that are decoded as a whole; None where there are none
    together_nbytes : bytes that are decoded to get at any one element
    kept_nbytes : bytes of memory that this object keeps
    compressed : the source is
    fill : of elements never stored; None where it is 0, or where there is none
    dimensions : a name or None for each axis; () where none has one
    changed : how these values differ from what is stored; nothing where they are equal
    notes : small JSON to keep beside them, such as the names of an enumeration
    read : a box, with start and stop on each axis, in a new array
    stored : opens the array for our own readers, where that gives these very values
    element_nbytes : bytes of memory that reading takes for each element, beside the result
    text_nbytes : bytes that texts of variable length have together, without the padding to `dtype`
    refused : why this part cannot be had; there are no values then
    """

    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[Box], Array]
    text: bool = False
    chunks: tuple[int, ...] | None = None
    together_nbytes: int = 0
    kept_nbytes: int = 0
    compressed: bool = False
    fill: Any = None
    dimensions: tuple[str | None, ...] = ()
    changed: tuple[str, ...] = ()
    notes: tuple[tuple[str, Any], ...] = ()
    stored: Callable[[], StoredArray] | None = None
    element_nbytes: int = 0
    text_nbytes: int = 0
    refused: str = ""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class TreeSource(Protocol):
    """A container open for reading, all of it.

    `path` is its file or directory, `name` what messages call the part that is converted.
    """

    path: str
    name: str

    def walk(self) -> Iterator[Node]:
        """The root, then all below, a group before what is in it. Follows no link, enters each group once."""
        ...

    def attributes(self, path: str) -> list[Attribute]: ...

    def dimensions(self, path: str) -> tuple[str | None, ...]:
        """A name or None for each axis of an array; () where none has one."""
        ...

    def values(self, path: str) -> list[Values]:
        """An array in its plain parts; none for an array without a shape (a null dataspace).

        Raises MmapstoreError where it cannot be read, or not safely.
        """
        ...

    def close(self) -> None: ...


class TreeTarget(Protocol):
    """A container that is being written, under a name of its own until it is whole. Paths begin with "/".

    `has_hard_links`: an object can have several names there.
    """

    has_hard_links: bool

    def refusal(self, path: str, is_group: bool) -> str:
        """Why nothing can be written under this path: its last name cannot be had there. "" if it can."""
        ...

    def is_taken(self, path: str, is_group: bool) -> bool:
        """Whether something has the name that this path would have there."""
        ...

    def fitted(self, attribute: Attribute, is_group: bool) -> Attribute:
        """The attribute as it will be there, of a group or of an array."""
        ...

    def remove(self, path: str) -> None:
        """What an interrupted run may have left there."""
        ...

    def add_group(self, path: str, attributes: dict[str, Any]) -> None:
        """The root is there already, and gets the attributes."""
        ...

    def add_array(self, path: str, values: Values, attributes: dict[str, Any]) -> NewTreeArray:
        """Raises InvalidTypeError if the target has no such elements."""
        ...

    def add_empty(self, path: str, attributes: dict[str, Any]) -> str:
        """An array without a shape. Returns how that was done, "" if it is one in the target too."""
        ...

    def add_link(self, path: str, kind: str, target: str) -> str:
        """Returns how, "" if it is a link in the target too."""
        ...

    def commit(self) -> None:
        """Returns when the disk has all that was added."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class ChoosesNames(Protocol):
    """An ability: of an object with several names, the source can give any as its path, and the others as aliases."""

    def prefer_names_referred_to(self) -> None:
        """From now on each object has the path that most attributes and soft links of the source name."""
        ...


@runtime_checkable
class AttachesScales(Protocol):
    """An ability: the target has dimension scales."""

    def attach_scales(
        self, axes: Mapping[str, tuple[str | None, ...]], lists: Mapping[str, Any]
    ) -> tuple[list[str], dict[str, str]]:
        """Give the axes of arrays that were added their scales: by names, or, where there is a list, by paths for each axis.

        Returns the paths of scales that were missing and are added, and {array: why} where a list could not be followed.
        """
        ...


class NewTreeArray(Protocol):
    changed: tuple[str, ...]
    """How what is stored differs from the values given."""

    def write(self, box: Box, block: Array) -> None: ...

    def close(self) -> None: ...


def refuse_unstored(name: str, shape: tuple[int, ...], declared: int, stored: int) -> None:
    """Raise UnsafeFileError for an array that would become far more bytes than its file has any of.

    `stored` counts chunks that are there by their decoded bytes, in every format: what was accepted from one format and written
    to another is accepted again, however well it was compressed.
    """
    if declared - stored > MOST_UNSTORED_NBYTES and declared > MOST_TIMES_STORED * stored:
        raise UnsafeFileError(
            f"{name} declares {format_bytes(declared)} of {shape}, of which {format_bytes(stored)} were ever stored; expected at "
            f"least a {MOST_TIMES_STORED}th. If it is meant to be so, convert the part that holds values."
        )


def has_parts(values: list[Values]) -> bool:
    """True where an array becomes a group of several, one for each member."""
    return len(values) > 1 or bool(values and values[0].member)


def inside(path: str, member: str) -> str:
    """
    >>> inside("/", "a"), inside("/a", "b/c"), inside("/a", "")
    ('/a', '/a/b/c', '/a')
    """
    return f"{path.rstrip('/')}/{member}" if member else path


FILL = "_FillValue"
NON_COORDINATE = "_nc4_non_coord_"
"""In HDF5, netCDF puts this before the name of a variable that another dimension has: the scale of that has the name itself."""


def as_json(attribute: Attribute) -> Attribute:
    """The attribute with what JSON has no numbers for as text: "NaN", "Infinity", "-Infinity"."""
    value, found = _finite(attribute.value)
    words = "values that are not finite as text" if found else ""
    return replace(attribute, value=value, changed="; ".join(part for part in (attribute.changed, words) if part))


def finite(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes with such text."""
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
