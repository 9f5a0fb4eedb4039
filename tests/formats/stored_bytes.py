"""Values to store, and plain reads of the bytes at the places that a format names, for the tests of every format."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np


def sample_values(shape, dtype):
    return np.random.default_rng(0).integers(1, 100, shape).astype(dtype)


def raw_rows(located):
    """All rows, read as plain bytes where they are located; the fill value where nothing is stored."""
    assert located.has_rows
    found = np.full(located.grid.shape, located.fill, located.dtype)
    for number, each in enumerate(range(0, len(found), located.grid.chunk[0])):
        place, rows = located.place(number), found[each : each + located.grid.chunk[0]]
        if place is not None and os.path.exists(place.path):
            stored = Path(place.path).read_bytes()[place.offset :][: rows.nbytes]
            rows[...] = np.frombuffer(stored, located.dtype).reshape(rows.shape)
    return found.reshape(-1)
