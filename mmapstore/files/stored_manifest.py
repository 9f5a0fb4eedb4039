"""Manifests on disk, and the files of leaves that belong to them: one reader, and one writer."""

from __future__ import annotations

import os

from ..plain.content_digest import HASH_NBYTES, root
from ..plain.digest_leaves import MOST_LEAVES
from ..plain.errors import MmapstoreError
from ..plain.manifest import ArrayManifest, Manifest, leaves_path
from . import durable_writes
from .descriptors import read_small, read_small_text

_MOST_NBYTES = 4 << 30  # 100 million episodes, a line each: more than any manifest that mmapstore writes


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read the manifest at `path`. Raises NotFoundError, NotReadableError, DamagedFileError, which name it."""
    name = os.fspath(path)
    return Manifest.from_json(read_small_text(name, _MOST_NBYTES), name)


def write_manifest(path: str, manifest: str, leaves: bytes) -> None:
    """Write a manifest, after the file of leaves that belongs to it; one that belonged to the manifest before goes."""
    beside = leaves_path(path)
    if leaves:
        durable_writes.write_atomically(beside, leaves)
    else:
        durable_writes.remove(beside)
    durable_writes.write_text_atomically(path, manifest)


def read_leaves(path: str, entry: ArrayManifest) -> list[bytes]:
    """Return the leaves of an array of the manifest at `path`, as they were written.

    Empty where the array has one leaf, and where the file of leaves is missing or belongs to another manifest.
    """
    try:
        manifest = read_manifest(path)
        content = read_small(leaves_path(path), len(manifest.fields) * MOST_LEAVES * HASH_NBYTES)
        (found,) = (leaves for name, leaves in manifest.leaves_in(content).items() if manifest.fields[name] == entry)
    except (MmapstoreError, OSError, ValueError, TypeError, OverflowError):
        return []
    return found if root(entry.dtype, entry.shape, found) == entry.sha256 else []
