"""HDF5 chunks that anyone who knows their codecs can read: where they lie, and what HDF5's filters are called elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..plain.chunk_grid import ChunkGrid
from ..plain.codecs import Chain, Codec
from .contract import ChunkPlace, EncodedChunks
from .hdf5_chunk_index import ChunkIndex, chunk_index
from .hdf5_layout import extents_of, fill_of, filters_of, why_hdf5_alone

_Values = tuple[int, ...]
_BITSHUFFLE_COMPRESSIONS = {0: "none", 2: "lz4", 3: "zstd"}


def _shuffle(values: _Values, nbytes: int) -> dict[str, Any]:
    if values[0] < 1:
        raise LookupError("elements without a byte")
    return {"itemsize": values[0]}


def _bitshuffle(values: _Values, nbytes: int) -> dict[str, Any]:
    """(major, minor, itemsize, block size or 0, compression, level); the first files end before the compression."""
    padded = (*values, 0, 0)
    return _shuffle(values[2:], nbytes) | {"block_size": padded[3], "compression": _BITSHUFFLE_COMPRESSIONS[padded[4]]}


def _szip(values: _Values, nbytes: int) -> dict[str, Any]:
    """(options, elements of a block, bits of an element, elements of a line)"""
    if len(values) != 4:
        raise LookupError("other values than HDF5 sets")
    return dict(zip(("options", "block", "bits", "scanline"), values, strict=True))


_CODECS: dict[int, tuple[str, Callable[[_Values, int], dict[str, Any]]]] = {
    1: ("zlib", lambda values, nbytes: {}),
    2: ("shuffle", _shuffle),
    3: ("fletcher32", lambda values, nbytes: {}),
    4: ("szip", _szip),
    307: ("bzip2", lambda values, nbytes: {}),
    # (revision, version of lzf, bytes of a chunk); the first files have no third
    32000: ("lzf", lambda values, nbytes: {"size": (*values, 0, 0, 0)[2] or nbytes}),
    32001: ("blosc", lambda values, nbytes: {}),
    32004: ("hdf5-lz4", lambda values, nbytes: {}),
    32008: ("hdf5-bitshuffle", _bitshuffle),
    32015: ("zstd", lambda values, nbytes: {}),
}
"""By HDF5's number of the filter: the codec's name, and its settings from (values of the filter, bytes of a decoded chunk)."""


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
    """Where the chunks of an h5py.Dataset lie, which nobody writes meanwhile; or None and the reason, for `info`.

    `dtype` is what NumPy calls its elements.

    Raises DamagedFileError, naming the chunk, for places outside the file.
    """
    why = why_hdf5_alone(dataset, dtype)
    if why:
        return None, why
    if dataset.chunks is None:
        return None, extents_of(dataset, path, name, dtype)[1] or "it is not stored in chunks"
    grid = ChunkGrid(tuple(dataset.shape), tuple(dataset.chunks))
    chain, why = _chain_of(dataset, math.prod(grid.chunk) * dtype.itemsize)
    if chain is None:
        return None, why
    index, why = chunk_index(dataset, path, name)
    if index is None:
        return None, why
    if chain and _may_have_unfiltered_edges(grid, index, math.prod(grid.chunk) * dtype.itemsize):
        return None, "chunks at its edges are as large as if they had been stored uncompressed, which HDF5 alone can tell"
    return Hdf5Chunks(path, grid, chain, dtype, fill_of(dataset, dtype), index), ""


def _chain_of(dataset: Any, nbytes: int) -> tuple[Chain | None, str]:
    plist = dataset.id.get_create_plist()
    chain = []
    for at, (code, words) in enumerate(filters_of(dataset)):
        if code not in _CODECS:
            return None, f"only HDF5 decodes {words}"
        name, settings_of = _CODECS[code]
        values = tuple(plist.get_filter(at)[2])
        try:
            chain.append(Codec(name, settings_of(values, nbytes), words))
        except LookupError:
            return None, f"{words} has settings of another kind than are known: {values}"
    return tuple(chain), ""


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
