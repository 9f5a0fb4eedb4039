"""Read manifests from disk: one reader with one limit, which no manifest that mmapstore writes reaches."""

from __future__ import annotations

import os

from ..plain.manifest import Manifest
from .descriptors import read_small_text

_MOST_NBYTES = 4 << 30  # 100 million episodes, a line each


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read the manifest at `path`. Raises NotFoundError, NotReadableError, DamagedFileError, which name it."""
    name = os.fspath(path)
    return Manifest.from_json(read_small_text(name, _MOST_NBYTES), name)
