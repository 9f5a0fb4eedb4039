"""The index of an HDF5 dataset's chunks, read once into flat arrays and checked against the file.

It is not saved for the next process. Listing a chunk takes 2 microseconds, most of them HDF5's own, and reading one in order takes
28 even if it has 64 bytes (1,000,000 chunks on a busy machine: 2 s and 28 s). So a saved index would spare a tenth of one epoch at
most, and be one more file that may be stale or hostile. Workers are sent the index along with the dataset.
"""

from __future__ import annotations

import itertools
import math
import os
from typing import Any, NamedTuple

import numpy as np

from ..plain.chunk_grid import ChunkGrid
from ..plain.errors import DamagedFileError
from .hdf5_chunk_list import ChunkList, unlisted_base

_MOST_CHUNKS = 1 << 26  # 1 GiB of index
_ALWAYS_INDEXED = 1 << 20
_MOST_GAPS = 64  # chunks declared for each one stored: a few bytes of header can declare any number of chunks
_BATCH = 1024  # few enough objects at a time that the garbage collector does not go through them again and again
_NOWHERE = 2**64 - 1


class ChunkIndex(NamedTuple):
    """The place of each chunk, by its number in the grid."""

    offsets: np.ndarray[Any, np.dtype[np.int64]]  # int64, of bytes in the file; -1 where nothing was stored
    sizes: np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]  # stored bytes; uint32, or uint64 where one needs it
    masks: np.ndarray[Any, np.dtype[np.uint32]]  # uint32, bit i set where filter i was not applied

    @property
    def nbytes(self) -> int:
        return self.offsets.nbytes + self.sizes.nbytes + self.masks.nbytes


def chunk_index(dataset: Any, path: str, name: str) -> tuple[ChunkIndex | None, str]:
    """Return the index of a chunked h5py.Dataset that holds values; or None and the reason, where it would be too large.

    Some 0.1 s for 100,000 chunks: HDF5 calls back for each.

    Raises DamagedFileError, naming the chunk, for places outside the file or the grid.
    """
    grid = ChunkGrid(tuple(dataset.shape), tuple(dataset.chunks))
    count, stored = len(grid), int(dataset.id.get_num_chunks())
    if count > min(_MOST_CHUNKS, max(_ALWAYS_INDEXED, _MOST_GAPS * stored)):
        return None, f"it has {count} chunks, of which {stored} are stored: more than an index is built for"
    filling = _Filling(dataset, grid, path, name)
    batch: list[Any] = []
    append = batch.append

    def note(chunk: Any) -> None:  # called for each chunk, so it does as little as can be
        append(chunk)
        if len(batch) == _BATCH:
            filling.take(batch)
            batch.clear()

    filling.listed.walk(note)
    if batch:
        filling.take(batch)
    if filling.outside:
        return None, f"its index lists {filling.outside} chunks outside its shape, which HDF5 leaves out when it reads"
    return filling.finished(), ""


class _Filling:
    """Checks the chunks that HDF5 lists, a batch at a time, and puts them into the arrays."""

    def __init__(self, dataset: Any, grid: ChunkGrid, path: str, name: str) -> None:
        self._name = name
        self.listed = ChunkList(dataset)
        self._base = unlisted_base(dataset)
        self._nbytes_behind = max(0, os.path.getsize(path) - self._base)
        self._chunk_nbytes = math.prod(grid.chunk) * dataset.id.get_type().get_size()
        self._all_skipped = (1 << dataset.id.get_create_plist().get_nfilters()) - 1
        # Positions are unsigned, and with signed numbers beside them NumPy would turn to floating point.
        self._chunk, self._counts = np.array(grid.chunk, np.uint64), np.array(grid.counts, np.uint64)
        self._strides = np.array([math.prod(grid.counts[axis + 1 :]) for axis in range(len(grid.counts))], np.uint64)
        self._offsets = np.full(len(grid), -1, np.int64)
        self._sizes: np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]] = np.zeros(len(grid), np.uint32)
        self._masks = np.zeros(len(grid), np.uint32)
        self._most = np.array(
            [-(-length // each) if length else _NOWHERE for length, each in zip(dataset.maxshape, grid.chunk, strict=True)],
            np.uint64,
        )
        self._noted = 0
        self.outside = 0
        """Chunks beyond the shape, but within what the dataset may grow to: pre-releases of HDF5 1.10 numbered chunks otherwise."""

    def take(self, batch: list[Any]) -> None:
        count = len(batch)
        positions, masks, offsets, sizes = zip(*batch, strict=True)
        rank = len(self._chunk)
        position = np.fromiter(itertools.chain.from_iterable(positions), np.uint64, count * rank).reshape(count, rank)
        mask = np.fromiter(masks, np.uint32, count) & np.uint32(self._all_skipped)
        offset = np.fromiter((_NOWHERE if at is None else at for at in offsets), np.uint64, count)
        size = np.fromiter(sizes, np.uint64, count)
        place, rest = np.divmod(position, self._chunk)
        place = self.listed.true_places(place)
        file_nbytes = np.uint64(self._nbytes_behind)
        misplaced = rest.any(axis=1) | (place >= self._most).any(axis=1)
        outside = (size == 0) | (offset > file_nbytes) | (size > file_nbytes - np.minimum(offset, file_nbytes))
        wrong_size = (mask == self._all_skipped) & (size != self._chunk_nbytes)
        bad = np.flatnonzero(misplaced | outside | wrong_size)
        if len(bad):
            at = tuple((place[bad[0]] * self._chunk + rest[bad[0]]).tolist())
            raise self._damaged(at, batch[bad[0]], wrong_size[bad[0]])
        self.outside += int((place >= self._counts).any(axis=1).sum())
        if self.outside:
            return  # there will be no index
        if size.max() > np.iinfo(self._sizes.dtype).max:
            self._sizes = self._sizes.astype(np.uint64)
        numbers = (place * self._strides).sum(axis=1, dtype=np.uint64).astype(np.int64)
        self._offsets[numbers], self._sizes[numbers], self._masks[numbers] = offset + np.uint64(self._base), size, mask
        self._noted += count

    def finished(self) -> ChunkIndex:
        found = np.count_nonzero(self._offsets >= 0)
        if found != self._noted:
            raise DamagedFileError(
                f"{self._name}: its index lists {self._noted} chunks, only {found} of them different; expected each once. The "
                "file is damaged; copy or write it again."
            )
        return ChunkIndex(self._offsets, self._sizes, self._masks)

    def _damaged(self, at: tuple[int, ...], chunk: Any, is_plain: bool) -> DamagedFileError:
        expected = f"{self._chunk_nbytes} bytes, the last chunk included," if is_plain else "a chunk of the dataset"
        return DamagedFileError(
            f"{self._name}: the chunk at {at} is said to be {chunk.size} bytes at offset {chunk.byte_offset}; expected "
            f"{expected} within a file of {self._base + self._nbytes_behind} bytes. The file is truncated or damaged; copy or "
            "write it again."
        )
