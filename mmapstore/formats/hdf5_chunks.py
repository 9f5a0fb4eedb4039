"""HDF5 chunks that anyone who knows their codecs can read, and their places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..plain.chunk_grid import ChunkGrid
from ..plain.codecs import Chain
from .contract import ChunkPlace, EncodedChunks
from .hdf5_chunk_index import ChunkIndex, chunk_index
from .hdf5_filters import chain_of
from .hdf5_layout import extents_of, fill_of, why_hdf5_alone


@dataclass(frozen=True, eq=False)
class Hdf5Chunks:
    """The chunks of one dataset, as `formats.contract.EncodedChunks`. 16 bytes a chunk; pickled with its index."""

    root: str
    grid: ChunkGrid
    chain: Chain
    dtype: np.dtype[Any]
    fill: Any
    index: ChunkIndex
    one_file_each: bool = False

    @property
    def axes(self) -> tuple[int, ...] | None:
        return None

    @property
    def nbytes(self) -> int:
        return self.index.nbytes

    def places(self, numbers: Sequence[int]) -> list[ChunkPlace | None]:
        chosen = np.asarray(numbers, np.int64)
        offsets, sizes, masks = (column[chosen].tolist() for column in self.index)
        return [
            ChunkPlace(self.root, offset, size, mask) if offset >= 0 else None
            for offset, size, mask in zip(offsets, sizes, masks, strict=True)
        ]

    def __repr__(self) -> str:
        return f"<{len(self.grid)} chunks of {self.root}, {' then '.join(map(str, self.chain)) or 'uncompressed'}>"


def encoded_chunks(dataset: Any, path: str, name: str, dtype: np.dtype[Any]) -> tuple[EncodedChunks | None, str]:
    """Return the places of the chunks of an h5py.Dataset that nobody writes; or None and the reason, for `info`.

    `dtype` is what NumPy calls its elements.

    Raises DamagedFileError, naming the chunk, for places outside the file.
    """
    why = why_hdf5_alone(dataset, dtype)
    if why:
        return None, why
    if dataset.chunks is None:
        return None, extents_of(dataset, path, name, dtype)[1] or "it is not stored in chunks"
    grid = ChunkGrid(tuple(dataset.shape), tuple(dataset.chunks))
    chain, why = chain_of(dataset)
    if chain is None:
        return None, why
    index, why = chunk_index(dataset, path, name)
    if index is None:
        return None, why
    if chain and _may_have_unfiltered_edges(grid, index, math.prod(grid.chunk) * dtype.itemsize):
        return None, "chunks at its edges are as large as if they had been stored uncompressed, which HDF5 alone can tell"
    return Hdf5Chunks(path, grid, chain, dtype, fill_of(dataset, dtype), index), ""


def _may_have_unfiltered_edges(grid: ChunkGrid, index: ChunkIndex, nbytes: int) -> bool:
    """True where chunks that reach past the shape may lie there as they are, without a bit in their masks that says so.

    HDF5's option H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS does that, and h5py does not tell whether it is set. A filtered chunk of
    just that size is rare, unless no filter changes the size (shuffle alone).
    """
    suspect = ((index.sizes == nbytes) & (index.masks == 0)).reshape(grid.counts)
    edges = (
        suspect.take(-1, axis=axis) for axis, (length, each) in enumerate(zip(grid.shape, grid.chunk, strict=True)) if length % each
    )
    return any(bool(edge.any()) for edge in edges)
