"""The files of a store on disk, and their bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..plain.inside_names import file_of


def files_of(path: str | Path) -> list[Path]:
    """Return a file, or all files below a directory, in order. A place inside a file, behind "::", is ignored."""
    return sorted(map(Path, _each(file_of(str(path)))))


def nbytes_on_disk(path: str | Path) -> int:
    """Return the length of a file, or of all files below a directory, holes included. Raises OSError if the path is missing.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = Path(folder, "a.zarr")
    ...     (store / "c").mkdir(parents=True)
    ...     _ = (store / "zarr.json").write_bytes(bytes(10)), (store / "c" / "0").write_bytes(bytes(5))
    ...     nbytes_on_disk(store), nbytes_on_disk(store / "zarr.json")
    (15, 10)
    """
    return sum(os.path.getsize(file) for file in _each(str(path)))


def lies_in(path: str | Path, folder: str | Path) -> bool:
    """Return True for a path below a folder once links are followed. Links in a circle lie where they begin."""
    root, found = os.path.realpath(folder), os.path.realpath(path)
    return found != root and os.path.commonpath([root, found]) == root


def _each(path: str) -> Iterator[str]:
    """Yield one file at a time: a Zarr store may have millions."""
    if not os.path.isdir(path):
        yield path
        return
    for folder, _, names in os.walk(path):
        yield from (file for name in names if os.path.isfile(file := os.path.join(folder, name)))
