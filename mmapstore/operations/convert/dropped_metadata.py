"""Name the metadata of an array in its container that a copy of that array alone lacks."""

from __future__ import annotations

import contextlib
import os

from ...formats.containers import open_tree
from ...formats.registry import split_inside
from ...plain.errors import MmapstoreError


def left_behind(name: str, shape: tuple[int, ...], fill_is_kept: bool) -> str:
    """Return a sentence on an array that is called "a.h5::/x" and stored in `shape`; "" if nothing is dropped.

    The sentence names the remedy, `convert --all`.
    """
    path, inside = split_inside(name)
    found = []
    if os.path.exists(path) and not path.lower().endswith(".npy"):
        with contextlib.suppress(MmapstoreError, OSError):  # the array itself could be opened, which is enough
            with contextlib.closing(open_tree(path)) as tree:
                (values, *_) = tree.arrays(inside or "/")
            if (whole := values.shape[: len(shape)]) != shape:
                found.append(
                    f"elements never stored, up to the length of its unlimited dimension ({whole} in netCDF, {shape} stored)"
                )
            if values.dimensions:
                found.append(f"the names of its axes ({', '.join(each or 'none' for each in values.dimensions)})")
            if values.fill is not None and not fill_is_kept:
                found.append(f"its fill value {values.fill}")
    return f"Not copied from {name}: {' and '.join(found)}. `mmapstore convert --all` copies them too." if found else ""
