"""The places of a path's fields: the files or stores that hold each, and their arrays as they are stored."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from ..batches.opening import DEFAULT_FIELD, entries_beside, several_paths
from ..files.stored_files import nbytes_on_disk
from ..files.stored_manifest import read_manifest
from ..formats.contract import StoredArray
from ..formats.registry import identify, list_stored, open_stored, split_inside
from ..plain.errors import KeyNotFoundError
from ..plain.manifest import DIRECTORY_MANIFEST


@dataclass(frozen=True)
class Location:
    """The location of one field.

    Attributes
    ----------
    paths : paths for `mmapstore.open`, one for each file: "a.npy", "a.h5::/frames"
    layout : axes according to the manifest; None without a manifest
    """

    paths: tuple[str, ...]
    layout: str | None = None

    @property
    def outer(self) -> str:
        """The file or store of the first path."""
        return split_inside(self.paths[0])[0]

    def stored(self) -> StoredArray:
        """Open the array of the first path; joined files are alike."""
        return open_stored(*split_inside(self.paths[0]))

    @property
    def format(self) -> str:
        """ ".npy", "HDF5", "Zarr" or ".npz"."""
        return identify(self.outer).title

    def nbytes(self) -> int:
        """Return the bytes on disk; of a file that holds several arrays, all of its bytes."""
        return sum(nbytes_on_disk(outer) for outer in {split_inside(path)[0] for path in self.paths})


def locations_of(path: str, fields: list[str]) -> dict[str, Location]:
    """Return the location of each field of `mmapstore.open(path)`."""
    outer, inside = split_inside(path)
    key = (inside or "").strip("/")
    if (joined := several_paths(path)) is not None:
        return {fields[0]: Location(tuple(joined))}
    if (Path(outer) / DIRECTORY_MANIFEST).is_file():
        entries = read_manifest(Path(outer) / DIRECTORY_MANIFEST).fields
        names = {fields[0]: key} if key else {field: field for field in fields}
        files = {name: os.path.join(outer, entries[name].file) for name in names.values()}
        return {field: Location((_joined(files[name], entries[name].key),), entries[name].layout) for field, name in names.items()}
    entries = entries_beside(outer)
    if fields != [DEFAULT_FIELD]:
        return {field: Location((_joined(outer, entries[field].key),), entries[field].layout) for field in fields}
    key = key or (next(iter(entries.values())).key.strip("/") if len(entries) == 1 else "")
    layout = next((entry.layout for entry in entries.values() if entry.key.strip("/") == key), None)
    return {DEFAULT_FIELD: Location((_joined(outer, key),), layout)}


def largest_inside(path: str) -> str | None:
    """Return the array that is more than twice as large as all others in a file or store; None if there is none."""
    outer, inside = split_inside(path)
    sizes = {
        each.key: getattr(each.dtype, "itemsize", 0) * math.prod(max(0, length) for length in each.shape) * bool(each.shape)
        for each in list_stored(outer, inside)
    }
    ordered = sorted(sizes, key=lambda key: -sizes[key])
    if len(ordered) < 2 or sizes[ordered[0]] <= 2 * sizes[ordered[1]]:
        return None
    return _joined(outer, ordered[0])


def with_key(path: str, key: str | None) -> str:
    """Return `path` with the key in it. Raises KeyNotFoundError for a path that names an array already."""
    outer, inside = split_inside(path)
    if key is not None and inside is not None:
        raise KeyNotFoundError(f"{path} already names an array inside the file; leave out --key {key}.")
    return path if key is None else _joined(outer, key)


def _joined(outer: str, key: str) -> str:
    return f"{outer}::/{key.strip('/')}" if key.strip("/") else outer
