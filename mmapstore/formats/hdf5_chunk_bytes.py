"""The chunks of an HDF5 dataset as they are stored, one after the other: to compare what cannot be decoded here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..plain.chunk_grid import Box
from ..plain.errors import DamagedFileError
from .contract import Array
from .hdf5_chunk_list import ChunkList
from .tree_contract import TreeArray


def chunk_bytes(dataset: Callable[[], Any], common: TreeArray, name: str) -> TreeArray:
    """All stored chunks in the order of their places. `dataset()` gives it, open; `common` is what is known of its values."""
    found: list[tuple[tuple[int, ...], int]] = []
    listed = ChunkList(dataset())
    listed.walk(lambda chunk: found.append((listed.true_offset(chunk), chunk.size)))
    found.sort()
    ends = np.cumsum([0, *(nbytes for _, nbytes in found)], dtype=np.int64)

    def read(box: Box) -> Array:
        start, stop = box[0].start, box[0].stop
        out: Array = np.empty(stop - start, np.uint8)
        at = int(np.searchsorted(ends, start, "right")) - 1
        while at < len(found) and ends[at] < stop:
            low = int(ends[at])
            data = np.frombuffer(dataset().id.read_direct_chunk(found[at][0])[1], np.uint8)
            if len(data) != found[at][1]:
                raise DamagedFileError(f"{name}: a chunk changed while it was read. Convert again.")
            lower, upper = max(low, start), min(low + len(data), stop)
            out[lower - start : upper - start] = data[lower - low : upper - low]
            at += 1
        return out

    return replace(
        common,
        shape=(int(ends[-1]),),
        dtype=np.dtype(np.uint8),
        read=read,
        chunks=None,
        dimensions=(),
        together_nbytes=max((nbytes for _, nbytes in found), default=0),
        kept_nbytes=200 * len(found),
        stored=None,
    )
