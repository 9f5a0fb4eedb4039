"""The JSON that mmapstore leaves beside the data it wrote. It is written last: its presence means the data is whole.

frames.npy                 data, an ordinary file
frames.npy.mmapstore.json  its manifest
store/image.npy, store/label.npy, store/mmapstore.json     a directory of fields, with one manifest for all
frames.npy.mmapstore.leaves, store/mmapstore.leaves        SHA-256 of each leaf, where an array has more than one

The file of leaves has 32 bytes for each leaf of the arrays with more than one, in the order of the manifest. It names the damaged
range of an array whose digest is another, and its own damage shows: the digest in the manifest is one of the leaves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from .content_digest import HASH_NBYTES
from .digest_leaves import leaves_of
from .errors import DamagedFileError

VERSION = 1
SUFFIX = ".mmapstore.json"
DIRECTORY_MANIFEST = "mmapstore.json"
_LEAVES = "mmapstore.leaves"


@dataclass(frozen=True)
class ArrayManifest:
    """The manifest's entry of one array."""

    file: str  # name of the data file, relative to the manifest
    key: str  # path of the array inside that file; "" for .npy and for a Zarr array at the root
    shape: tuple[int, ...]  # as stored, like dtype and layout
    dtype: str  # as NumPy spells it ("<f4")
    layout: str
    episodes: tuple[int, ...]  # int offsets, length E + 1, in samples
    block_samples: int  # samples under each checksum; the last block may hold fewer
    checksums: tuple[str, ...]  # CRC-32 of the C-order bytes of each block, as 8 hex digits
    statistics: dict[str, Any] | None = None  # per channel, where they were computed
    source: str = ""  # where the data came from, in words
    sha256: str = ""  # content digest of dtype, shape and values, as 64 hex digits, the same in any format; "" if unknown
    provenance: dict[str, Any] | None = None  # of the source: size in bytes, time of change, digest, filters, versions
    notes: dict[str, Any] | None = None  # of the source on the field, such as {"classes": ["cat", "dog"]}
    # SHA-256 of each leaf of the digest, as it was written; not in the JSON, see `Manifest.leaves`.
    leaves: Sequence[bytes] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True)
class Manifest:
    """All arrays written by one call, by field name."""

    fields: dict[str, ArrayManifest] = field(default_factory=dict)
    written_by: str = ""

    def to_json(self) -> str:
        fields = {name: {**vars(entry)} for name, entry in self.fields.items()}
        for entry in fields.values():
            del entry["leaves"]
        found = {"mmapstore": VERSION, "complete": True, "fields": fields, "written_by": self.written_by}
        return json.dumps(found, indent=1) + "\n"

    @property
    def leaves(self) -> bytes:
        """The file of leaves; nothing where no array has more than one."""
        return b"".join(b"".join(entry.leaves) for entry in self.fields.values() if len(entry.leaves) > 1)

    def leaves_in(self, content: bytes) -> dict[str, list[bytes]]:
        """Return the leaves of each array with more than one, by name, out of the file of leaves."""
        found, start = {}, 0
        for name, entry in self.fields.items():
            count = len(leaves_of(entry.shape, np.dtype(entry.dtype).itemsize))
            if count > 1:
                stop = start + count * HASH_NBYTES
                found[name] = [content[at : at + HASH_NBYTES] for at in range(start, stop, HASH_NBYTES)]
                start = stop
        return found

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Raises DamagedFileError, naming `where`, for anything but a complete manifest of a version we know."""
        try:
            found = json.loads(text)
            version = found["mmapstore"]
            if version != VERSION:
                raise DamagedFileError(
                    f"{where} is a manifest of version {version!r}; this mmapstore reads version {VERSION}. Update mmapstore."
                )
            if found["complete"] is not True:
                raise DamagedFileError(f"{where} says that its data is not complete. Run the same ingest again: it resumes.")
            fields = {str(name): _array_manifest(entry) for name, entry in found["fields"].items()}
            return cls(fields, str(found.get("written_by", "")))
        except DamagedFileError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedFileError(
                f"{where} is not a manifest of mmapstore ({type(error).__name__}: {error}). "
                "Delete it to open the data without episodes and checksums, or ingest again."
            ) from error


def _array_manifest(entry: dict[str, Any]) -> ArrayManifest:
    episodes = tuple(int(n) for n in entry["episodes"])
    if len(episodes) < 2 or episodes[0] != 0 or any(a >= b for a, b in pairwise(episodes)):
        raise ValueError("episodes do not start at 0 and rise")
    return ArrayManifest(
        file=str(entry["file"]),
        key=str(entry["key"]),
        shape=tuple(int(n) for n in entry["shape"]),
        dtype=str(entry["dtype"]),
        layout=str(entry["layout"]),
        episodes=episodes,
        block_samples=int(entry["block_samples"]),
        checksums=tuple(str(c) for c in entry["checksums"]),
        statistics=entry.get("statistics"),
        source=str(entry.get("source", "")),
        sha256=str(entry.get("sha256", "")),
        provenance=entry.get("provenance"),
        notes=entry.get("notes"),
    )


def leaves_path(manifest: str) -> str:
    """Return the path of the file of leaves that belongs to a manifest.

    >>> leaves_path("frames.npy.mmapstore.json"), leaves_path("store/mmapstore.json")
    ('frames.npy.mmapstore.leaves', 'store/mmapstore.leaves')
    """
    return f"{manifest.removesuffix(DIRECTORY_MANIFEST)}{_LEAVES}"


def is_beside(name: str) -> bool:
    """True for the name of a file that mmapstore keeps beside data: a manifest, or a file of leaves."""
    return name.endswith((SUFFIX, f".{_LEAVES}")) or name.replace("\\", "/").rpartition("/")[2] in (DIRECTORY_MANIFEST, _LEAVES)
