"""All of a Zarr store: walked without leaving its directory, each array given as plain values."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..files.stored_files import nbytes_on_disk
from ..plain.c_order import c_order_boxes
from ..plain.chunk_grid import Box
from ..plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError, MmapstoreError, UnsafeFileError
from ..plain.memory_budget import format_bytes
from .contract import Array
from .tree_contract import ARRAY, GROUP, UNKNOWN_LINK, Attribute, Node, Values
from .zarr_library import chunks_of, explaining_damage, named, opened
from .zarr_metadata import Node as StoredNode
from .zarr_metadata import directory_inside, node_at, read_node
from .zarr_store import open_array

_MOST_UNSTORED_NBYTES, _MOST_TIMES_STORED = 4 << 30, 1000
_MEASURED_AT_ONCE = 1 << 14
_OBJECT_NBYTES = 64


class ZarrTree:
    """A Zarr store in a directory, format 2 or 3, or a group of one, as a `tree_contract.TreeSource`."""

    def __init__(self, path: str | os.PathLike[str], inside: str = "") -> None:
        self.path = os.fspath(path)
        self._inside = inside.strip("/")
        self.name = named(self.path, self._inside)
        if node_at(self.path, self._inside).is_array and self._inside:
            raise InvalidValueError(f"{self.name} is one array, not a group. Convert it without --all (convert(...)).")

    def close(self) -> None:
        pass

    def directory(self, path: str) -> str:
        return directory_inside(self.path, "/".join(part for part in (self._inside, path.strip("/")) if part))

    def walk(self) -> Iterator[Node]:
        """The root, then all below. Directories that are links, and those without metadata, are listed and not entered."""
        pending = ["/"]
        while pending:
            path = pending.pop()
            try:
                directory = self.directory(path)
                stored = read_node(directory)
                if stored is None:
                    yield Node(path, UNKNOWN_LINK, damage="it is a directory without Zarr metadata")
                    continue
                names = tuple(self._stored_attributes(stored))
            except MmapstoreError as error:
                yield Node(path, UNKNOWN_LINK, damage=str(error))
                continue
            yield Node(path, ARRAY if stored.is_array else GROUP, attributes=names)
            if stored.is_array:
                continue
            with os.scandir(directory) as entries:
                below = sorted(entry.name for entry in entries if entry.is_dir())
            pending += [f"{path.rstrip('/')}/{name}" for name in reversed(below)]

    def _stored_attributes(self, stored: StoredNode) -> dict[str, Any]:
        if stored.version == 3:
            found = stored.metadata.get("attributes", {})
        else:
            file = Path(stored.directory, ".zattrs")
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
            except FileNotFoundError:
                found = {}
            except (OSError, ValueError, RecursionError) as error:
                raise DamagedFileError(f"{file} is not JSON: {error}. Copy or write the store again.") from error
        if not isinstance(found, dict):
            raise DamagedFileError(f"{stored.file}: its attributes are {type(found).__name__}; expected an object. Write it again.")
        return found

    def _stored(self, path: str) -> StoredNode:
        stored = read_node(self.directory(path))
        if stored is None:
            raise DamagedFileError(f"{named(self.path, path.strip('/'))} is gone since the store was opened.")
        return stored

    def attributes(self, path: str) -> list[Attribute]:
        return [Attribute(name, value) for name, value in self._stored_attributes(self._stored(path)).items()]

    def values(self, path: str) -> list[Values]:
        stored = self._stored(path)
        key = "/".join(part for part in (self._inside, path.strip("/")) if part)
        where = named(self.path, key)
        array, _ = opened(where, stored)
        _refuse_unstored(array, where)
        chunks = chunks_of(array)
        nbytes = max(1, np.dtype(array.dtype).itemsize)
        together = math.prod(getattr(array, "shards", None) or chunks or array.shape) * nbytes
        labels = stored.metadata.get("dimension_names") or self._stored_attributes(stored).get("_ARRAY_DIMENSIONS") or ()
        if not isinstance(labels, (list, tuple)) or len(labels) != len(array.shape):
            labels = ()
        common = Values(
            member="",
            shape=tuple(int(n) for n in array.shape),
            dtype=np.dtype(array.dtype),
            read=_Reading(array, where, ()),
            chunks=chunks,
            together_nbytes=together,
            compressed=_is_compressed(stored),
            dimensions=tuple(label if isinstance(label, str) else None for label in labels),
        )
        return _parts(common, array, where, (self.path, key))


class _Reading:
    """Reads a box of a Zarr array, or of one member of its elements."""

    def __init__(self, array: Any, where: str, names: tuple[str, ...]) -> None:
        self._array = array
        self._where = where
        self.names = names

    def member(self, name: str) -> _Reading:
        return _Reading(self._array, self._where, (*self.names, name))

    def __call__(self, box: Box) -> Array:
        with explaining_damage(f"{self._where}, region {box}"):
            found = np.asarray(self._array[box])
        for name in self.names:
            found = found[name]
        return found


def _parts(common: Values, array: Any, where: str, place: tuple[str, str]) -> list[Values]:
    read = common.read
    assert isinstance(read, _Reading)
    dtype = common.dtype
    if dtype.names is not None:
        found = []
        for name in dtype.names:
            part = replace(
                common,
                member=f"{common.member}/{name}".strip("/"),
                dtype=dtype[name],
                read=read.member(name),
                changed=("split into its members",),
                element_nbytes=np.dtype(array.dtype).itemsize,
            )
            found += _parts(part, array, where, place)
        return found
    if dtype.subdtype is not None:
        base, dims = dtype.subdtype
        part = replace(common, dtype=base, shape=(*common.shape, *dims), changed=(*common.changed, "an array type as further axes"))
        width = len(common.shape)
        inner = replace(part, read=read)
        given = _parts(inner, array, where, place)
        return [replace(each, read=_cut_behind(each.read, width), chunks=None) for each in given]
    if dtype.kind in "OT" or dtype.kind == "U":
        return [_texts(common, where)]
    if dtype.kind in "mM":
        plain = np.dtype(np.int64)
        return [
            replace(
                common,
                dtype=plain,
                read=lambda box: read(box).astype(dtype.newbyteorder("=")).view(np.int64),
                changed=(*common.changed, f"{dtype} as int64"),
                notes=(("unit", str(dtype)),),
            )
        ]
    if dtype.kind == "V":
        return [
            replace(
                common,
                dtype=np.dtype(np.uint8),
                shape=(*common.shape, dtype.itemsize),
                chunks=(*common.chunks, dtype.itemsize) if common.chunks else None,
                dimensions=(*common.dimensions, None) if common.dimensions else (),
                read=lambda box: _bytes_of(read(box[:-1]), dtype.itemsize)[..., box[-1]],
                changed=(*common.changed, "raw bytes as a further axis of uint8"),
            )
        ]
    is_whole = not common.member and dtype.kind in "biufcS"
    return [
        replace(
            common,
            fill=_fill_of(array, dtype) if is_whole else None,
            stored=functools.partial(open_array, *place) if is_whole else None,
        )
    ]


def _cut_behind(read: Callable[[Box], Array], width: int) -> Callable[[Box], Array]:
    def read_part(box: Box) -> Array:
        behind: Any = (..., *box[width:])
        found: Array = read(box[:width])[behind]
        return found

    return read_part


def _bytes_of(found: Array, size: int) -> Array:
    return np.ascontiguousarray(found).reshape(-1).view(np.uint8).reshape(*found.shape, size)


def _texts(common: Values, where: str) -> Values:
    """Text of any kind as UTF-8 in fixed width, which is measured."""
    read, is_fixed = common.read, common.dtype.kind == "U"
    width, is_utf8 = 1, True
    boxes = c_order_boxes(common.shape, _MEASURED_AT_ONCE, common.chunks)
    for box in boxes:
        for element in np.asarray(read(box), object).reshape(-1):
            encoded = _encoded(element, where)
            width = max(width, len(encoded))
            is_utf8 = is_utf8 and (isinstance(element, str) or _decodes(encoded))
    dtype = np.dtype(f"S{width}")

    def read_texts(box: Box) -> Array:
        found = np.asarray(read(box), object)
        flat = np.array([_encoded(element, where) for element in found.reshape(-1)], dtype)
        return flat.reshape(found.shape)

    return replace(
        common,
        dtype=dtype,
        text=is_utf8,
        read=read_texts,
        element_nbytes=width + _OBJECT_NBYTES + 4 * is_fixed * width,
        stored=None,
        changed=(*common.changed, *(("fixed-width Unicode as UTF-8",) if is_fixed else ())),
    )


def _encoded(element: Any, where: str) -> bytes:
    if isinstance(element, str):
        return element.encode("utf-8", "surrogateescape")
    if isinstance(element, bytes):
        return element
    raise InvalidTypeError(
        f"{where} holds Python objects, such as a {type(element).__name__}; expected text. Write them as arrays of numbers or text."
    )


def _decodes(encoded: bytes) -> bool:
    try:
        encoded.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _fill_of(array: Any, dtype: np.dtype[Any]) -> Any:
    if array.fill_value is None:
        return None
    fill = np.asarray(array.fill_value).astype(dtype.newbyteorder("="))
    return fill[()] if fill.ndim == 0 and (fill != np.zeros((), fill.dtype)).any() else None


def _is_compressed(stored: StoredNode) -> bool:
    if stored.version == 2:
        return stored.metadata.get("compressor") is not None
    codecs = stored.metadata.get("codecs")
    names = [codec.get("name") for codec in codecs if isinstance(codec, dict)] if isinstance(codecs, list) else []
    return any(name not in ("bytes", "transpose", "crc32c") for name in names)


def _refuse_unstored(array: Any, where: str) -> None:
    declared = math.prod(int(n) for n in array.shape) * np.dtype(array.dtype).itemsize
    if declared <= _MOST_UNSTORED_NBYTES:
        return
    stored = nbytes_on_disk(array.store.root)
    if declared > _MOST_TIMES_STORED * stored:
        raise UnsafeFileError(
            f"{where} declares {format_bytes(declared)} of {tuple(array.shape)}, and its store has {format_bytes(stored)} on disk; "
            f"expected at least a {_MOST_TIMES_STORED}th. If it is meant to be so, convert the part that holds values."
        )
