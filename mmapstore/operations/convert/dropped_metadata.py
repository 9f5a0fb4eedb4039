"""What lies beside an array in its container and does not go along with that array alone."""

from __future__ import annotations

import contextlib
import os

from ...formats.registry import split_inside
from ...plain.errors import MmapstoreError
from .tree import open_tree


def left_behind(name: str, shape: tuple[int, ...], fill_is_kept: bool) -> str:
    """In words, for an array that is called "a.h5::/x" and stored in `shape`; "" for nothing, and for what is in no container.

    The same words name the remedy: `convert --all` has a place for all of it.
    """
    path, inside = split_inside(name)
    found = []
    if os.path.exists(path) and not path.lower().endswith(".npy"):
        with contextlib.suppress(MmapstoreError, OSError):  # it could be opened as an array: that is all that was asked for
            with contextlib.closing(open_tree(path)) as tree:
                (values, *_) = tree.values(inside or "/")
            if (whole := values.shape[: len(shape)]) != shape:
                found.append(
                    f"elements never stored, up to the length of its unlimited dimension ({whole} in netCDF, {shape} stored)"
                )
            if values.dimensions:
                found.append(f"the names of its axes ({', '.join(each or 'none' for each in values.dimensions)})")
            if values.fill is not None and not fill_is_kept:
                found.append(f"its fill value {values.fill}")
    return f"Not copied from {name}: {' and '.join(found)}. `mmapstore convert --all` copies them too." if found else ""
