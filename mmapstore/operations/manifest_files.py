"""A manifest and the file of leaves that belongs to it, on disk."""

from __future__ import annotations

from ..files import durable_writes
from ..files.descriptors import read_small
from ..files.stored_manifest import read_manifest
from ..plain.content_digest import HASH_NBYTES, root
from ..plain.digest_leaves import MOST_LEAVES
from ..plain.errors import MmapstoreError
from ..plain.manifest import ArrayManifest, leaves_path


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
