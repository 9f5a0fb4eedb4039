"""Where the fields of a path lie: the files or stores that hold each, and their arrays as they are stored."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path

from ..batches.opening import DEFAULT_FIELD, natural
from ..files.descriptors import read_small_text
from ..files.stored_files import nbytes_on_disk
from ..formats.contract import StoredArray
from ..formats.registry import PARTIAL, identify, list_stored, open_stored, split_inside
from ..plain.errors import KeyNotFoundError
from ..plain.manifest import DIRECTORY_MANIFEST, SUFFIX, ArrayManifest, Manifest


@dataclass(frozen=True)
class Place:
    """Of one field.

    Attributes
    ----------
    paths : what `mmapstore.open` takes for each piece: "a.npy", "a.h5::/frames", or many files
    layout : as its manifest says; None where there is none
    """

    paths: tuple[str, ...]
    layout: str | None = None

    @property
    def outer(self) -> str:
        """The file or store of the first piece."""
        return split_inside(self.paths[0])[0]

    def stored(self) -> StoredArray:
        """The first piece as it is stored; the others are alike, or could not be joined."""
        return open_stored(*split_inside(self.paths[0]))

    @property
    def format(self) -> str:
        """ ".npy", "HDF5", "Zarr" or ".npz"."""
        return identify(self.outer).title

    def nbytes(self) -> int:
        """On disk; of a file that holds several arrays, all of it."""
        return sum(nbytes_on_disk(outer) for outer in {split_inside(path)[0] for path in self.paths})


def places_of(path: str, fields: list[str]) -> dict[str, Place]:
    """The place of each of these fields, which `mmapstore.open(path)` gave."""
    outer, inside = split_inside(path)
    if (Path(outer) / DIRECTORY_MANIFEST).is_file():
        entries = _entries(Path(outer) / DIRECTORY_MANIFEST)
        places = {
            name: Place((_joined(os.path.join(outer, entry.file), entry.key),), entry.layout) for name, entry in entries.items()
        }
        if inside:
            return {fields[0]: places[inside.strip("/")]}
        return {field: places[field] for field in fields}
    if not Path(outer).exists() and glob.has_magic(outer):
        found = [each for each in glob.glob(outer, recursive=True) if not each.endswith((SUFFIX, PARTIAL))]
        return {fields[0]: Place(tuple(_joined(each, inside or "") for each in sorted(found, key=natural)))}
    beside = Path(outer.rstrip("/") + SUFFIX)
    entries = _entries(beside) if beside.is_file() else {}
    if fields != [DEFAULT_FIELD]:
        return {field: Place((_joined(outer, entries[field].key),), entries[field].layout) for field in fields}
    key = (inside or "").strip("/") or (next(iter(entries.values())).key.strip("/") if len(entries) == 1 else "")
    layout = next((entry.layout for entry in entries.values() if entry.key.strip("/") == key), None)
    return {DEFAULT_FIELD: Place((_joined(outer, key),), layout)}


def largest_inside(path: str) -> str | None:
    """Of a file or store that holds several arrays, the one of most bytes by far, as `open` takes it; None where none is."""
    outer, inside = split_inside(path)
    sizes = {}
    for listing in list_stored(outer, inside):
        itemsize = getattr(listing.dtype, "itemsize", 0)
        size = itemsize if listing.shape else 0
        for length in listing.shape:
            size *= max(0, length)
        sizes[listing.key] = size
    ordered = sorted(sizes, key=lambda key: -sizes[key])
    if len(ordered) < 2 or sizes[ordered[0]] <= 2 * sizes[ordered[1]]:
        return None
    return _joined(outer, ordered[0])


def _joined(outer: str, key: str) -> str:
    return f"{outer}::/{key.strip('/')}" if key.strip("/") else outer


def _entries(manifest: Path) -> dict[str, ArrayManifest]:
    return dict(Manifest.from_json(read_small_text(str(manifest)), str(manifest)).fields)


def require_inside(path: str, key: str | None) -> str:
    """`path` with the key in it. Raises KeyNotFoundError for a path that has one already."""
    if key is None:
        return path
    outer, inside = split_inside(path)
    if inside is not None:
        raise KeyNotFoundError(f"{path} already names an array inside the file; leave out --key {key}.")
    return _joined(outer, key)
