"""The JSON that mmapstore leaves beside the data it wrote. It is written last: its presence means the data is whole.

frames.npy                 data, an ordinary file
frames.npy.mmapstore.json  its manifest
store/image.npy, store/label.npy, store/mmapstore.json     a directory of fields, with one manifest for all
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from .errors import DamagedFileError

VERSION = 1
SUFFIX = ".mmapstore.json"
DIRECTORY_MANIFEST = "mmapstore.json"


@dataclass(frozen=True)
class ArrayManifest:
    """What is known of one array.

    Attributes
    ----------
    file : name of the data file, relative to the manifest
    key : path of the array inside that file; "" for .npy and for a Zarr array at the root
    shape, dtype, layout : as stored; dtype as NumPy spells it ("<f4")
    episodes : int offsets, length E + 1, in samples
    block_samples : samples under each checksum; the last block may hold fewer
    checksums : CRC-32 of the C-order bytes of each block, as 8 hex digits
    statistics : per channel, where they were computed
    source : where the data came from, in words
    sha256 : of all values in C order, little-endian, as 64 hex digits: the same for the same values in any format; "" if unknown
    provenance : what is known of the source: size in bytes, time of change, digest, filters, versions
    notes : what the source says of the field, such as {"classes": ["cat", "dog"]}
    """

    file: str
    key: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    episodes: tuple[int, ...]
    block_samples: int
    checksums: tuple[str, ...]
    statistics: dict[str, Any] | None = None
    source: str = ""
    sha256: str = ""
    provenance: dict[str, Any] | None = None
    notes: dict[str, Any] | None = None


@dataclass(frozen=True)
class Manifest:
    """All arrays written by one call, by field name."""

    fields: dict[str, ArrayManifest] = field(default_factory=dict)
    written_by: str = ""

    def to_json(self) -> str:
        fields = {name: vars(entry) for name, entry in self.fields.items()}
        found = {"mmapstore": VERSION, "complete": True, "fields": fields, "written_by": self.written_by}
        return json.dumps(found, indent=1) + "\n"

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
