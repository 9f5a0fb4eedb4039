"""The types of HDF5 broken down into plain elements: a compound into its members, text and runs of variable length measured."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..plain.chunk_grid import Box
from ..plain.errors import DamagedFileError
from .contract import Array
from .hdf5_boxes import read_elements
from .hdf5_library import library
from .hdf5_runs import in_stored_order, region_words
from .tree_contract import OBJECT_NBYTES, TreeArray

ENUMERATION = "enumeration"  # the note that keeps the names of an enumeration
DATE = "unit"
_PLAIN, _TEXT, _RUNS, _OBJECT_REFERENCES, _OPAQUE, _DATE, _REGION_REFERENCES = range(7)
_FIRST, _MOST_AT_ONCE, _MEASURED_NBYTES = 64, 1 << 16, 2 << 20
_ROWS_AT_ONCE = 1 << 12
_NO_WORDS = "NumPy has no type for it"
PathOf = Callable[[Any], str]
"""The path of the object that an h5py.Reference leads to."""


@dataclass(frozen=True)
class Leaf:
    """One plain part of a type."""

    names: tuple[str, ...]  # the members that lead to it
    memory: np.dtype[Any]  # what HDF5 is asked to convert to: this part alone, wrapped in its compounds
    dims: tuple[int, ...]  # axes beside those of the dataset, from array types
    base: np.dtype[Any]  # of one element in `memory`
    kind: int = _PLAIN
    changed: tuple[str, ...] = ()
    notes: tuple[tuple[str, Any], ...] = ()
    refused: str = ""

    @property
    def needs_conversion(self) -> bool:
        return bool(self.names or self.dims or self.kind != _PLAIN)


def leaves_of(kind: Any, regions: bool = False) -> Iterator[Leaf]:
    """Yield every plain part of an h5py type, in order; those that have no counterpart say why in `refused`.

    `regions`: region references are text that says what they select, which is enough to compare them.
    """
    h5t = library().h5t
    if isinstance(kind, h5t.TypeArrayID):
        dims = tuple(kind.get_array_dims())
        for leaf in leaves_of(kind.get_super(), regions):
            if leaf.kind == _RUNS:
                leaf = replace(leaf, refused="an array type of runs of variable length has no counterpart")
            memory = np.dtype((leaf.memory, dims)) if not leaf.refused else leaf.memory
            yield replace(leaf, memory=memory, dims=dims + leaf.dims, changed=_with(leaf, "an array type as further axes"))
        return
    if isinstance(kind, h5t.TypeCompoundID) and not _is_complex(kind):
        for index in range(kind.get_nmembers()):
            raw = kind.get_member_name(index)
            name = raw.decode("utf-8", "surrogateescape")
            for leaf in leaves_of(kind.get_member_type(index), regions):
                if not name or "/" in name:
                    leaf = replace(leaf, refused=f"its member {name!r} has a name that no array can have")
                memory = leaf.memory if leaf.refused else np.dtype([(name, leaf.memory)])
                yield replace(leaf, names=(name, *leaf.names), memory=memory, changed=_with(leaf, "one member of a compound"))
        return
    yield _simple(kind, regions)


def _with(leaf: Leaf, words: str) -> tuple[str, ...]:
    return leaf.changed if words in leaf.changed else (words, *leaf.changed)


def _is_complex(kind: Any) -> bool:
    try:
        return bool(kind.dtype.kind == "c")
    except (TypeError, ValueError):
        return False


def _simple(kind: Any, regions: bool) -> Leaf:
    h5py = library()
    nothing = np.dtype("V1")
    try:
        dtype = kind.dtype
    except (TypeError, ValueError, NotImplementedError) as error:
        return Leaf((), nothing, (), nothing, refused=f"{_NO_WORDS}: {_type_words(kind)} ({error})")
    if h5py.check_string_dtype(dtype) is not None and dtype.kind == "O":
        return Leaf((), dtype, (), dtype, _TEXT)
    element = h5py.check_vlen_dtype(dtype)
    if element is not None:
        element = np.dtype(element)
        if element.kind in "biufcS" and element.itemsize:
            return Leaf((), dtype, (), np.dtype(element.str), _RUNS, ("runs of variable length as values and offsets",))
        return Leaf((), nothing, (), nothing, refused=f"runs of variable length of {element} have no counterpart")
    if h5py.check_ref_dtype(dtype) is h5py.Reference:
        return Leaf((), dtype, (), dtype, _OBJECT_REFERENCES, ("object references as the paths they lead to",))
    if h5py.check_ref_dtype(dtype) is not None and regions:
        return Leaf((), dtype, (), dtype, _REGION_REFERENCES)
    if h5py.check_ref_dtype(dtype) is not None:
        return Leaf((), nothing, (), nothing, refused="region references have no counterpart outside HDF5")
    names = h5py.check_enum_dtype(dtype)
    if names is not None:
        plain = np.dtype(dtype.str)
        notes = ((ENUMERATION, {name: int(value) for name, value in names.items()}),)
        return Leaf((), dtype, (), plain, _PLAIN, ("an enumeration as its numbers",), notes)
    if dtype.kind in "mM":
        return Leaf((), dtype, (), dtype, _DATE, (f"{dtype} as int64",), ((DATE, str(dtype)),))
    if dtype.kind == "V" and dtype.names is None:
        return Leaf((), dtype, (), dtype, _OPAQUE, ("opaque bytes as a further axis of uint8",))
    if dtype.kind not in "biufcS" or dtype.itemsize == 0:
        return Leaf((), nothing, (), nothing, refused=f"{_NO_WORDS}: {_type_words(kind)}")
    plain = np.dtype(dtype.str)
    changed = (f"a bit field as {plain}",) if isinstance(kind, h5py.h5t.TypeBitfieldID) else ()
    return Leaf((), dtype, (), plain, _PLAIN, changed)


def _type_words(kind: Any) -> str:
    h5t = library().h5t
    words = {
        h5t.TIME: "HDF5's type for times",
        h5t.VLEN: "runs of variable length",
        h5t.INTEGER: "integers",
        h5t.FLOAT: "floating point",
    }.get(kind.get_class(), "its type")
    return f"{words}, {8 * kind.get_size()} bits each"


class LastBox:
    """Reads boxes of whole elements, and keeps the last one that was read in parts: libraries read no part of an array type."""

    def __init__(self, read: Callable[[Box], Array]) -> None:
        self._read = read
        self._last: tuple[Box, Array] | None = None

    def __call__(self, box: Box, keep: bool) -> Array:
        if self._last is not None and self._last[0] == box:
            return self._last[1]
        self._last = None
        found = self._read(box)
        if keep:
            self._last = box, found
        return found


@dataclass(frozen=True)
class Reading:
    """Reads one leaf of a dataset as plain values. `dataset()` returns it, open, with elements of `stored_nbytes`."""

    dataset: Callable[[], Any]
    leaf: Leaf
    shape: tuple[int, ...]
    path_of: PathOf
    stored_nbytes: int

    def stored(self, box: Box) -> Array:
        """Return the box along the axes of the dataset, as h5py gives it; axes of array types follow."""
        found = in_stored_order(read_elements(self.dataset(), self.leaf.memory, box), self.leaf.memory)
        for name in self.leaf.names:
            found = found[name]
        return found

    def cut(self, box: Box) -> Array:
        """Return the box along all axes. HDF5 reads an array type whole, so what a part was cut from is kept for the next part."""
        outer, inner = box[: len(self.shape)], box[len(self.shape) :]
        is_whole = all(part.stop - part.start == length for part, length in zip(inner, self.leaf.dims, strict=True))
        return cut_behind(self._last(outer, keep=not is_whole), inner)

    @functools.cached_property
    def _last(self) -> LastBox:
        return LastBox(self.stored)

    def plain(self, box: Box) -> Array:
        found = self.cut(box)
        return np.ascontiguousarray(found, self.leaf.base).reshape(found.shape)

    def dates(self, box: Box) -> Array:
        return self.plain(box).view(np.dtype(np.int64).newbyteorder(self.leaf.base.byteorder))

    def opaque(self, box: Box) -> Array:
        within = box[:-1]
        found = np.ascontiguousarray(self.plain(within))
        return found.reshape(-1).view(np.uint8).reshape(*found.shape, self.leaf.base.itemsize)[..., box[-1]]

    def texts(self, box: Box) -> Array:
        """Of text and references: an object array of bytes."""
        found = np.asarray(self.cut(box), object)
        flat = np.empty(found.size, object)
        flat[:] = [self._bytes(element) for element in found.reshape(-1)]
        return flat.reshape(found.shape)

    def _bytes(self, element: Any) -> bytes:
        if self.leaf.kind == _OBJECT_REFERENCES:
            return self.path_of(element).encode("utf-8", "surrogateescape")
        if self.leaf.kind == _REGION_REFERENCES:
            return region_words(self.dataset(), element, self.path_of).encode("utf-8", "surrogateescape")
        return element.encode("utf-8", "surrogateescape") if isinstance(element, str) else bytes(element or b"")

    def blocks(self) -> Iterator[Array]:
        """Yield all that is stored, flat, in C order: few elements at a time where they are large."""
        each, total = math.prod(self.leaf.dims), math.prod(self.shape)
        inner = max(1, each)
        at, most, largest = 0, _FIRST, 1
        while at < total and each:
            stop = min(total, at + max(1, most // inner))
            for box in run_boxes(self.shape, at, stop):
                found = self.texts((*box, *(slice(0, n) for n in self.leaf.dims))) if self.is_text else self.stored(box)
                flat = np.asarray(found, object).reshape(-1)
                largest = max(largest, max((self._nbytes_of(element) for element in flat), default=1))
                yield flat
            at = stop
            most = max(1, min(4 * most, _MOST_AT_ONCE, _MEASURED_NBYTES // (2 * largest + 3 * OBJECT_NBYTES)))

    @property
    def is_text(self) -> bool:
        return self.leaf.kind in (_TEXT, _OBJECT_REFERENCES, _REGION_REFERENCES)

    def _nbytes_of(self, element: Any) -> int:
        return len(element) * (1 if self.is_text else self.leaf.base.itemsize)


def cut_behind(found: Array, box: Box) -> Array:
    """Return a view of a part along the last axes."""
    selection: Any = (..., *box)
    return found[selection] if box else found


def run_boxes(shape: tuple[int, ...], start: int, stop: int) -> Iterator[Box]:
    """Yield boxes that together are elements [start, stop) in C order."""
    if not shape:
        yield ()
        return
    inner = math.prod(shape[1:])
    while start < stop:
        row, within = divmod(start, inner)
        if within == 0 and stop - start >= inner:
            rows = (stop - start) // inner
            yield (slice(row, row + rows), *(slice(0, n) for n in shape[1:]))
            start += rows * inner
            continue
        end = min(stop - row * inner, inner)
        for box in run_boxes(shape[1:], within, end):
            yield (slice(row, row + 1), *box)
        start = row * inner + end


def plain_values(reading: Reading, common: TreeArray) -> list[TreeArray]:
    """Return the plain arrays that one leaf becomes: one, or of runs of variable length two. `common` has what they share."""
    leaf = reading.leaf
    values = replace(
        common,
        member="/".join(leaf.names),
        shape=reading.shape,
        dtype=leaf.base,
        changed=(*common.changed, *leaf.changed),
        notes=(*common.notes, *leaf.notes),
        fill=None if leaf.needs_conversion else common.fill,
        stored=None if leaf.needs_conversion else common.stored,
        refused=leaf.refused,
    ).with_axes(leaf.dims)
    if leaf.refused:
        return [values]
    if leaf.dims:  # one element is kept; HDF5 converts it in two buffers that hold an element with all of its members
        values = replace(values, kept_nbytes=values.kept_nbytes + leaf.memory.itemsize + 2 * reading.stored_nbytes)
    if leaf.kind == _PLAIN:
        each = -(-leaf.memory.itemsize // max(1, math.prod(leaf.dims)))
        return [replace(values, read=reading.plain, element_nbytes=each)]
    if leaf.kind == _DATE:
        return [replace(values, read=reading.dates, dtype=np.dtype(np.int64).newbyteorder(leaf.base.byteorder))]
    if leaf.kind == _OPAQUE:
        return [replace(values.with_axes((leaf.base.itemsize,)), dtype=np.dtype(np.uint8), read=reading.opaque)]
    if not reading.is_text:
        return runs(reading, values)
    # In memory, HDF5 holds each text in C, and h5py in Python.
    found = texts(reading, replace(values, element_nbytes=2 * OBJECT_NBYTES))
    assert found is not None, "HDF5 ends text of variable length at NUL"
    return [found]


class Runs(Protocol):
    """Elements of variable length, each a flat array, or text as bytes."""

    def blocks(self) -> Iterator[Array]:
        """Yield all elements, flat, in C order; text as bytes."""
        ...

    def stored(self, box: Box) -> Array:
        """Return an object array of arrays."""
        ...

    def texts(self, box: Box) -> Array:
        """Return an object array of bytes."""
        ...


def texts(reading: Runs, values: TreeArray) -> TreeArray | None:
    """Return text as bytes of fixed width, which is measured; None if one ends in NUL, as the padding does."""
    width, nbytes, is_text = 1, 0, True
    for block in reading.blocks():
        if any(element.endswith(b"\0") for element in block):
            return None
        nbytes += sum(map(len, block))
        width = max(width, max(map(len, block), default=1))
        is_text = is_text and all(b"\0" not in element and _is_utf8(element) for element in block)
    dtype = np.dtype(f"S{width}")
    return replace(
        values,
        dtype=dtype,
        text=is_text,
        element_nbytes=values.element_nbytes + width + OBJECT_NBYTES,
        text_nbytes=nbytes,
        read=lambda box: reading.texts(box).astype(dtype),
    )


def _is_utf8(element: bytes) -> bool:
    try:
        element.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def runs(reading: Runs, values: TreeArray) -> list[TreeArray]:
    """Return all runs one behind the other, and the offset of each."""
    count = math.prod(values.shape)
    offsets = np.zeros(count + 1, np.int64)
    at, largest = 0, 0
    for block in reading.blocks():
        lengths = [len(element) for element in block]
        offsets[at + 1 : at + 1 + len(lengths)] = lengths
        at, largest = at + len(lengths), max([largest, *lengths])
    np.cumsum(offsets, out=offsets)
    prefix = f"{values.member}/" if values.member else ""

    def read_values(box: Box) -> Array:
        start, stop = box[0].start, box[0].stop
        first = int(np.searchsorted(offsets, start, "right")) - 1
        last = int(np.searchsorted(offsets, stop, "left"))
        out: Array = np.empty(stop - start, values.dtype)
        for row in range(first, last, _ROWS_AT_ONCE):
            for part in run_boxes(values.shape, row, min(last, row + _ROWS_AT_ONCE)):
                for element in np.asarray(reading.stored(part), object).reshape(-1):
                    low, high = int(offsets[row]), int(offsets[row + 1])
                    if len(element) != high - low:
                        raise DamagedFileError("A run of variable length changed since it was measured. Convert again.")
                    lower, upper = max(low, start), min(high, stop)
                    out[lower - start : upper - start] = element[lower - low : upper - low]
                    row += 1
        return out

    shared = replace(values, chunks=None, dimensions=(), fill=None, kept_nbytes=values.kept_nbytes + offsets.nbytes)
    return [
        replace(
            shared,
            member=f"{prefix}values",
            shape=(int(offsets[-1]),),
            read=read_values,
            # Runs are read whole, and rows without a value along with them.
            together_nbytes=values.together_nbytes + largest * values.dtype.itemsize + _ROWS_AT_ONCE * 2 * OBJECT_NBYTES,
            element_nbytes=values.dtype.itemsize + OBJECT_NBYTES,
        ),
        replace(
            shared,
            member=f"{prefix}offsets",
            shape=(count + 1,),
            dtype=np.dtype(np.int64),
            read=lambda box: offsets[box],
            changed=(),
        ),
    ]
