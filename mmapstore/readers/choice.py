"""Which reader serves an array: decided once, when it is opened, with the reason in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..files.file_io import Descriptors
from ..formats.contract import SeenAsArray, StoredArray
from ..plain.array_spec import StoredLayout
from .array_view import ArrayView
from .by_library import ByLibrary
from .contract import Array, Reader
from .stored_raw import StoredRaw, mapped_array


def reader_for(stored: StoredArray, layout: StoredLayout) -> Reader:
    """The fastest reader that is right for this array and layout."""
    extents = stored.extents
    if extents is not None and layout.has_rows:
        if extents.is_one_run:
            ways = [
                "memory-mapped where the bytes lie",
                "contiguous batches are views of the file, shuffled ones are read with preadv",
            ]
        else:
            ways = ["read with preadv where the bytes lie, no library in between"]
        if not layout.is_consecutive:
            ways.append(
                f"stored as {layout.letters}, consecutive samples lie {layout.samples // layout.episode_length} samples apart: "
                "each costs a read of its own"
            )
        if not extents.dtype.isnative:
            ways.append("its byte order is not this machine's: every batch is copied and swapped")
        return StoredRaw(extents, layout, "; ".join(ways))
    source: SeenAsArray | None = None
    if isinstance(stored, SeenAsArray):
        source = stored
    elif extents is not None and extents.is_one_run and extents.offset_of(0) >= 0:
        source = _MappedFile(extents.path, extents.offset_of(0), stored.shape, stored.dtype)
    if source is not None:
        in_ram = stored.storage.startswith("in RAM")
        ways = ["an array in RAM, nothing is read from disk" if in_ram else "memory-mapped where the bytes lie"]
        if not layout.has_rows or (stored.why_not_raw and not in_ram):
            ways.append(
                f"{stored.why_not_raw or f'stored as {layout.letters}'}: the values of a sample are scattered, "
                "and collected with strides"
            )
        return ArrayView(source, layout, "; ".join(ways), "in RAM" if in_ram else "memory-mapped")
    reason = stored.why_not_raw or f"stored as {layout.letters}, in chunks that split each sample"
    return ByLibrary(stored, layout, f"through the format's own library, because {reason}")


class _MappedFile:
    """Plain bytes in one piece, seen as an array in stored axis order."""

    def __init__(self, path: str, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._given = (path, offset, shape, dtype)
        self._files = Descriptors(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return _MappedFile, self._given

    def as_array(self) -> Array:
        return mapped_array(self._files, *self._given)
