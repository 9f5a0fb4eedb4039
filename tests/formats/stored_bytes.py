"""Values to store, and plain reads of what the extents point at, for the tests of every format."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np


def sample_values(shape, dtype):
    return np.random.default_rng(0).integers(1, 100, shape).astype(dtype)


def raw_rows(extents):
    """All rows, located by the extents and read as plain bytes; the fill value where there is no file."""
    found = []
    for extent, offset, first, last in extents.runs(0, extents.rows):
        count = (last - first) * extents.row_nbytes // extents.dtype.itemsize
        if not os.path.exists(extents.file_of(extent)):
            found.append(np.full(count, extents.fill, extents.dtype))
            continue
        with Path(extents.file_of(extent)).open("rb") as file:
            file.seek(offset)
            found.append(np.frombuffer(file.read(count * extents.dtype.itemsize), extents.dtype))
    return np.concatenate(found) if found else np.empty(0, extents.dtype)
