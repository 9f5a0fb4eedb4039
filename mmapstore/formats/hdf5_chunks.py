"""HDF5 datasets that anyone who knows their codecs can read: the places of their chunks, or of all their bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..plain.chunk_grid import ChunkGrid
from .hdf5_chunk_index import ChunkIndex, chunk_index
from .hdf5_filters import chain_of
from .hdf5_layout import check_stored_bytes, fill_of, is_allocated, why_hdf5_alone
from .hdf5_library import library
from .located import ChunkPlace, Located, one_run


@dataclass(eq=False, kw_only=True)
class Hdf5Chunks(Located):
    """The chunks of one dataset. 16 bytes a chunk; pickled with its index."""

    index: ChunkIndex

    @property
    def nbytes(self) -> int:
        return self.index.nbytes

    def place(self, number: int) -> ChunkPlace | None:
        offsets, sizes, masks = self.index
        offset = int(offsets[number])
        return ChunkPlace(self.root, offset, int(sizes[number]), int(masks[number])) if offset >= 0 else None

    def places(self, numbers: Sequence[int]) -> list[ChunkPlace | None]:
        chosen = np.asarray(numbers, np.int64)
        offsets, sizes, masks = (column[chosen].tolist() for column in self.index)
        return [
            ChunkPlace(self.root, offset, size, mask) if offset >= 0 else None
            for offset, size, mask in zip(offsets, sizes, masks, strict=True)
        ]

    def __repr__(self) -> str:
        return f"<{len(self.grid)} chunks of {self.root}, {' then '.join(map(str, self.chain)) or 'uncompressed'}>"


def locate(dataset: Any, path: str, name: str, dtype: np.dtype[Any]) -> tuple[Located | None, str]:
    """Return the places of the elements of an h5py.Dataset that nobody writes; or None and the reason, for `info`.

    `dtype` is NumPy's for its elements. Raises DamagedFileError, naming the chunk, for places outside the file.
    """
    why = why_hdf5_alone(dataset, dtype)
    if why:
        return None, why
    if dataset.chunks is None:
        if dataset.id.get_create_plist().get_layout() == library().h5d.COMPACT:
            return None, "it is compact: a few bytes inside the header"
        if not is_allocated(dataset):
            return None, "nothing of it is stored yet"
        check_stored_bytes(dataset, path, name)
        return one_run(path, int(dataset.id.get_offset()), tuple(dataset.shape), dtype), ""
    grid = ChunkGrid(tuple(dataset.shape), tuple(dataset.chunks))
    chain, why = chain_of(dataset)
    if chain is None:
        return None, why
    index, why = chunk_index(dataset, path, name)
    if index is None:
        return None, why
    if chain and _may_have_unfiltered_edges(grid, index, math.prod(grid.chunk) * dtype.itemsize):
        return None, "chunks at its edges are as large as if they had been stored uncompressed, which HDF5 alone can tell"
    in_one_run = not chain and len(grid) == 1 and grid.chunk[1:] == grid.shape[1:] and index.offsets[0] >= 0
    offset = int(index.offsets[0]) if in_one_run else None
    fill = fill_of(dataset, dtype)
    return Hdf5Chunks(root=path, grid=grid, chain=chain, dtype=dtype, fill=fill, offset=offset, index=index), ""


def _may_have_unfiltered_edges(grid: ChunkGrid, index: ChunkIndex, nbytes: int) -> bool:
    """Return True if chunks that reach past the shape may be stored unfiltered, without a bit in their masks that says so.

    HDF5's option H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS does that, and h5py does not tell whether it is set. A filtered chunk of
    just that size is rare, unless no filter changes the size (shuffle alone).
    """
    suspect = ((index.sizes == nbytes) & (index.masks == 0)).reshape(grid.counts)
    edges = (
        suspect.take(-1, axis=axis) for axis, (length, each) in enumerate(zip(grid.shape, grid.chunk, strict=True)) if length % each
    )
    return any(bool(edge.any()) for edge in edges)
