"""NumPy's data types broken down into plain elements: a structure into its members, text measured, dates as integers.

The counterpart of `hdf5_types` for formats whose library gives NumPy arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..plain.c_order import c_order_boxes
from ..plain.chunk_grid import Box
from ..plain.errors import InvalidTypeError
from .contract import Array
from .hdf5_types import LastBox, cut_behind, runs, texts
from .tree_contract import TreeArray

_MEASURED_AT_ONCE, _MEASURED_NBYTES = 1 << 14, 16 << 20


def plain_values(whole: TreeArray, name: str) -> list[TreeArray]:
    """Return the plain arrays that an array of any data type becomes, one for each member of a structure.

    `whole.read` gives elements of `whole.dtype` as they are stored. Text is read once, to measure it.

    >>> pairs = np.array([(1, "ä"), (2, "b")], [("x", "i4"), ("y", "U3")])
    >>> whole = TreeArray("", pairs.shape, pairs.dtype, lambda box: pairs[box])
    >>> [(part.member, part.dtype.str, part.read((slice(0, 1),)).tolist()) for part in plain_values(whole, "pairs")]
    [('x', '<i4', [1]), ('y', '|S2', [b'\\xc3\\xa4'])]
    """
    return _parts(whole, _Member(LastBox(whole.read), len(whole.shape)), name)


@dataclass(frozen=True)
class _Member:
    """Reads a box of one member of a structure; the axes of array types follow those of the array."""

    read: LastBox
    width: int
    names: tuple[str, ...] = ()

    def __call__(self, box: Box) -> Array:
        found = self.read(box[: self.width], keep=len(box) > self.width)
        for name in self.names:
            found = found[name]
        return cut_behind(found, box[self.width :])


def _parts(common: TreeArray, read: _Member, name: str) -> list[TreeArray]:
    dtype = common.dtype
    if dtype.names is not None:
        return [
            part
            for member in dtype.names
            for part in _parts(
                replace(
                    common,
                    member=f"{common.member}/{member}".strip("/"),
                    dtype=dtype[member],
                    changed=_with(common, "one member of a compound"),
                    element_nbytes=common.element_nbytes or dtype.itemsize,
                    refused=f"its member {member!r} has a name that no array can have" if "/" in member else common.refused,
                ),
                replace(read, names=(*read.names, member)),
                name,
            )
        ]
    if dtype.subdtype is not None:
        base, dims = dtype.subdtype
        inner = replace(
            common.with_axes(dims),
            dtype=base,
            changed=_with(common, "an array type as further axes"),
            kept_nbytes=common.kept_nbytes or common.element_nbytes or dtype.itemsize,
            element_nbytes=-(-common.element_nbytes // max(1, math.prod(dims))),
        )
        return _parts(inner, read, name)
    if common.refused:
        return [common]
    if not dtype.itemsize:
        return [replace(common, refused=f"its elements, of {dtype}, have no bytes")]
    if dtype.kind in "OTU":
        return _texts(common, read, name)
    plain = replace(common, fill=None, stored=None)
    if dtype.kind in "mM":
        changed, notes = _with(common, f"{dtype} as int64"), (("unit", str(dtype)),)
        return [replace(plain, dtype=np.dtype(np.int64), read=lambda box: _integers(read(box)), changed=changed, notes=notes)]
    if dtype.kind == "V":
        changed = _with(common, "raw bytes as a further axis of uint8")
        raw = replace(plain.with_axes((dtype.itemsize,)), dtype=np.dtype(np.uint8), changed=changed)
        return [replace(raw, read=lambda box: _bytes_of(read(box[:-1]), dtype.itemsize)[..., box[-1]])]
    return [replace(plain, read=read) if common.member or read.width < len(common.shape) else common]


def _with(values: TreeArray, words: str) -> tuple[str, ...]:
    return values.changed if words in values.changed else (*values.changed, words)


def _integers(dates: Array) -> Array:
    return dates.astype(dates.dtype.newbyteorder("=")).view(np.int64)


def _bytes_of(found: Array, size: int) -> Array:
    return np.ascontiguousarray(found).reshape(-1).view(np.uint8).reshape(*found.shape, size)


def _texts(common: TreeArray, read: Callable[[Box], Array], name: str) -> list[TreeArray]:
    """Return text of any kind as UTF-8 in fixed width; as values and offsets if one ends in NUL, as the padding does."""
    encoded, plain = _Encoded(common, read, name), replace(common, fill=None, stored=None)
    found = texts(encoded, plain)
    if found is None:
        changed = _with(common, "text that ends in NUL as bytes and offsets")
        return runs(encoded, replace(plain, dtype=np.dtype(np.uint8), changed=changed))
    is_fixed = common.dtype.kind == "U"
    if is_fixed or encoded.holds_bytes or not found.text:
        words = "fixed-width Unicode" if is_fixed else "bytes of variable length" if encoded.holds_bytes else "text"
        changed = _with(common, f"{words} as {'UTF-8 text' if found.text else 'bytes of fixed width'}")
        found = replace(found, changed=changed)
    return [replace(found, element_nbytes=found.element_nbytes + 4 * is_fixed * found.dtype.itemsize)]


@dataclass
class _Encoded:
    """Texts as bytes. `holds_bytes`: at least one of those that were read is stored as bytes."""

    common: TreeArray
    read: Callable[[Box], Array]
    name: str
    holds_bytes: bool = False

    def blocks(self) -> Iterator[Array]:
        at_once = max(1, min(_MEASURED_AT_ONCE, _MEASURED_NBYTES // self.common.dtype.itemsize))
        for box in c_order_boxes(self.common.shape, at_once, self.common.chunks):
            yield self.texts(box).reshape(-1)

    def texts(self, box: Box) -> Array:
        found = np.asarray(self.read(box), object)
        out = np.empty(found.size, object)
        for at, element in enumerate(found.reshape(-1)):
            self.holds_bytes = self.holds_bytes or isinstance(element, bytes)
            out[at] = _encoded(element, self.name)
        return out.reshape(found.shape)

    def stored(self, box: Box) -> Array:
        found = self.texts(box)
        for at, element in enumerate(found.reshape(-1)):
            found.reshape(-1)[at] = np.frombuffer(element, np.uint8)
        return found


def _encoded(element: Any, name: str) -> bytes:
    if isinstance(element, bytes):
        return element
    if isinstance(element, str):
        try:
            return element.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise InvalidTypeError(f"{name} holds text that UTF-8 cannot ({error.reason}). Write it as bytes.") from error
    raise InvalidTypeError(
        f"{name} holds Python objects, such as a {type(element).__name__}; expected text. Write them as arrays of numbers or text."
    )
