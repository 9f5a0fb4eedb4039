"""A whole Zarr store: walk it without leaving its directory, and read each array in plain parts."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..plain.chunk_grid import Box
from ..plain.errors import DamagedFileError, InvalidValueError, MmapstoreError, UnsafeFileError
from . import zarr_fill_attribute
from .contract import Array
from .numpy_types import plain_values
from .tree_contract import FILL, MOST_UNSTORED_NBYTES, Attribute, Kind, Node, TreeArray, TreeSource, refuse_unstored, unless_zero
from .zarr_library import chunks_of, explaining_damage, fill_of, named, opened
from .zarr_metadata import Node as StoredNode
from .zarr_metadata import directories_in, directory_inside, node_at, read_node_or_group
from .zarr_store import open_array

DIMENSIONS = "_ARRAY_DIMENSIONS"  # the names of axes in Zarr format 2, by xarray's convention


class ZarrTree(TreeSource):
    """A Zarr store in a directory, format 2 or 3, or a group of one."""

    def __init__(self, path: str | os.PathLike[str], inside: str = "", allow_links: bool = False) -> None:
        self.path = os.fspath(path)
        self._inside = inside.strip("/")
        self.name = named(self.path, self._inside)
        self._last: tuple[str, StoredNode | None] = ("", None)
        if node_at(self.path, self._inside).is_array and self._inside:
            raise InvalidValueError(f"{self.name} is one array, not a group. Convert it without --all (convert(...)).")

    def _key(self, path: str) -> str:
        return "/".join(part for part in (self._inside, path.strip("/")) if part)

    def directory(self, path: str) -> str:
        return directory_inside(self.path, self._key(path))

    def walk(self) -> Iterator[Node]:
        """Yield the root, then all below. Links, and directories in which there is no Zarr, are listed and not entered."""
        pending = ["/"]
        while pending:
            path = pending.pop()
            try:
                directory = self.directory(path)
                if path != "/" and os.path.islink(directory):
                    raise UnsafeFileError(f"{directory} is a symbolic link, which is not followed. Copy what it leads to.")
                stored = read_node_or_group(directory)
                if stored is None:
                    yield Node(path, Kind.UNKNOWN_LINK, damage="it is a directory without Zarr metadata, in it or below")
                    continue
                self._last = path, stored
                names = tuple(_attributes_of(stored))
                below = [] if stored.is_array else directories_in(directory)
            except MmapstoreError as error:
                yield Node(path, Kind.UNKNOWN_LINK, damage=str(error))
                continue
            yield Node(path, Kind.ARRAY if stored.is_array else Kind.GROUP, attributes=names)
            pending += [f"{path.rstrip('/')}/{name}" for name in reversed(below)]

    def _stored(self, path: str) -> StoredNode:
        if self._last[0] != path:
            self._last = path, read_node_or_group(self.directory(path))
        if self._last[1] is None:
            raise DamagedFileError(f"{named(self.path, path.strip('/'))} is gone since the store was opened.")
        return self._last[1]

    def attributes(self, path: str, as_stored: bool = False) -> list[Attribute]:
        stored = self._stored(path)
        given = _attributes_of(stored)
        is_named = stored.version == 2 and given.get(DIMENSIONS) == [*self.dimensions(path)]
        found = [Attribute(name, value, derived=is_named and name == DIMENSIONS) for name, value in given.items()]
        # Text is a number for floats of format 3: "NaN", or bits in hexadecimal. Format 2 has text for bytes only.
        is_float = stored.version == 3 and str(stored.metadata.get("data_type")).startswith(("float", "complex", "bfloat"))
        is_text = isinstance(fill := stored.metadata.get("fill_value"), str) and not is_float
        if not stored.is_array or not (FILL in given or is_named or (is_text and fill)):
            return found
        array, _ = opened(named(self.path, path.strip("/")), stored)
        if (is_named or FILL not in given) and (value := zarr_fill_attribute.of_array(array.fill_value)) is not None:
            words = "the fill value of the array, which stands for no value"  # xarray masks values that equal it
            return [*(each for each in found if each.name != FILL), Attribute(FILL, value, words)]
        dtype = np.dtype(array.dtype)
        return [
            replace(each, value=zarr_fill_attribute.decoded(each.value, dtype)) if each.name == FILL else each for each in found
        ]

    def dimensions(self, path: str) -> tuple[str | None, ...]:
        stored = self._stored(path)
        found = stored.metadata.get("dimension_names") or _attributes_of(stored).get(DIMENSIONS) or ()
        shape = stored.metadata.get("shape")
        if not isinstance(found, (list, tuple)) or not isinstance(shape, list) or len(found) != len(shape):
            return ()
        return tuple(name if isinstance(name, str) else None for name in found)

    def arrays(self, path: str) -> list[TreeArray]:
        stored, key = self._stored(path), self._key(path)
        where = named(self.path, key)
        array, _ = opened(where, stored)
        dtype, shape, chunks = np.dtype(array.dtype), tuple(int(n) for n in array.shape), chunks_of(array)
        together = math.prod(getattr(array, "shards", None) or chunks or shape) * max(1, dtype.itemsize)
        declared = math.prod(shape) * dtype.itemsize
        if declared > MOST_UNSTORED_NBYTES:
            files = sum(len(names) for _, _, names in os.walk(stored.directory)) - 1
            refuse_unstored(where, shape, declared, min(declared, files * together))
        is_plain = dtype.kind in "biufcS"
        whole = TreeArray(
            member="",
            shape=shape,
            dtype=dtype,
            read=functools.partial(_read, array, where),
            # Zarr lets chunks reach beyond the array, also where it has no length; other formats do not.
            chunks=tuple(min(each, max(1, length)) for each, length in zip(chunks, shape, strict=True)) if chunks else None,
            together_nbytes=together,
            compressed=_is_compressed(stored),
            fill=unless_zero(fill_of(array, dtype)) if is_plain else None,
            dimensions=self.dimensions(path),
            stored=functools.partial(open_array, self.path, key) if is_plain else None,
        )
        return plain_values(whole, where)


def _attributes_of(stored: StoredNode) -> dict[str, Any]:
    file, found = stored.file, stored.metadata.get("attributes", {})
    if stored.version == 2:
        file = os.path.join(stored.directory, ".zattrs")
        try:
            found = json.loads(Path(file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            found = {}
        except (OSError, ValueError, RecursionError) as error:
            raise DamagedFileError(f"{file} is not JSON: {error}. Copy or write the store again.") from error
    if not isinstance(found, dict):
        raise DamagedFileError(f"{file}: its attributes are {type(found).__name__}; expected an object. Write it again.")
    return found


def _read(array: Any, where: str, box: Box) -> Array:
    with explaining_damage(f"{where}, region {box}"):
        found = array[box]  # of a scalar zarr gives no array, and NumPy would take bytes for one of fixed width
        return found if isinstance(found, np.ndarray) else np.asarray(found, array.dtype)


def _is_compressed(stored: StoredNode) -> bool:
    if stored.version == 2:
        return stored.metadata.get("compressor") is not None
    codecs = stored.metadata.get("codecs")
    names = [codec.get("name") for codec in codecs if isinstance(codec, dict)] if isinstance(codecs, list) else []
    return any(name not in ("bytes", "transpose", "crc32c") for name in names)
