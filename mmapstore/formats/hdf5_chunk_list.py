"""HDF5's list of the chunks of a dataset, with known errors of HDF5 corrected.

Each fault is looked for while the program runs, not told by the version of HDF5: distributions mend their copies.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..plain.chunk_grid import Box
from ..plain.errors import DamagedFileError
from .contract import Array
from .hdf5_library import library
from .tree_contract import TreeArray

_USER_BLOCK = 1 << 13  # of the file that shows whether HDF5 counts user blocks: longer than what lies behind it
_Places = np.ndarray[Any, np.dtype[np.uint64]]


class ChunkList:
    """The stored chunks of an open, chunked h5py.Dataset.

    Where exactly one axis is unlimited and it is not the first, HDF5's newer files number the chunks as if that axis came first
    (the index is an extensible array), and HDF5's list of them, seen up to HDF5 2.0, takes those numbers for ones in the order of
    the axes. Every chunk is then listed at 0 along the axes before the unlimited one. Reading a chunk by its place is right.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._turned = self._turned_counts(tuple(dataset.maxshape), tuple(dataset.chunks))

    def walk(self, look: Callable[[Any], Any]) -> Any:
        """Give `look` what h5py lists of each chunk, until it returns something; return that."""
        identifier = self._dataset.id
        if hasattr(identifier, "chunk_iter"):
            return identifier.chunk_iter(look)
        chunks = map(identifier.get_chunk_info, range(identifier.get_num_chunks()))  # HDF5 before 1.12.3: quadratic, but right
        return next((found for found in map(look, chunks) if found is not None), None)

    def true_places(self, places: _Places) -> _Places:
        """Places in the grid of chunks, one a row, for those listed."""
        return _turned_back(places, self._turned) if self._turned else places

    def true_offset(self, chunk: Any) -> tuple[int, ...]:
        """Return the first element of a listed chunk."""
        return self._offset(chunk, self._turned) if self._turned else tuple(chunk.chunk_offset)

    def _offset(self, chunk: Any, turned: tuple[int, ...]) -> tuple[int, ...]:
        each = np.array(self._dataset.chunks, np.uint64)
        return tuple((_turned_back(np.array([chunk.chunk_offset], np.uint64) // each, turned)[0] * each).tolist())

    def _turned_counts(self, most: tuple[int | None, ...], chunk: tuple[int, ...]) -> tuple[int, ...]:
        """Return the largest number of chunks along each axis before the unlimited one if the list is wrong, () if it is right."""
        axis = most.index(None) if most.count(None) == 1 else 0
        counts = tuple(-(-length // each) for length, each in zip(most[:axis], chunk, strict=False) if length is not None)
        if all(count == 1 for count in counts):
            return ()
        last: Any = None

        def look(listed: Any) -> bool | None:
            nonlocal last
            if last is None or listed.chunk_offset[axis] >= last.chunk_offset[axis]:
                last = listed
            return True if any(listed.chunk_offset[:axis]) else None

        if self.walk(look) or last is None or not last.chunk_offset[axis]:
            return ()
        # Turned back, all chunks lie nearer to 0 along this axis: the place listed for the last is that of none.
        if self._is_stored(last.chunk_offset) or not self._is_stored(self._offset(last, counts)):
            return ()
        return counts

    def _is_stored(self, offset: tuple[int, ...]) -> bool:
        try:
            with library()._objects.phil:  # h5py before 3.16 does not take its lock for this call
                self._dataset.id.read_direct_chunk(offset)
        except (OSError, RuntimeError, ValueError):
            return False
        return True


def _turned_back(places: _Places, counts: tuple[int, ...]) -> _Places:
    """Correct places that HDF5 lists in the order of the axes, of chunks numbered with axis `len(counts)` first.

    >>> listed = np.array([[0, 0], [0, 1], [0, 2], [0, 3]], np.uint64)
    >>> _turned_back(listed, (2,)).tolist()
    [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    turned, rest = places.copy(), places[:, len(counts)]
    for axis in reversed(range(len(counts))):
        rest, turned[:, axis] = np.divmod(rest, np.uint64(counts[axis]))
    turned[:, len(counts)] = rest
    return turned


def unlisted_base(dataset: Any) -> int:
    """Return the bytes of the user block if HDF5 leaves them out of the places that it lists; else 0."""
    nbytes = int(dataset.file.userblock_size)
    return nbytes if nbytes and _leaves_out_user_blocks() else 0


@functools.cache
def _leaves_out_user_blocks() -> bool:
    """HDF5 before 1.14.4 does (https://github.com/HDFGroup/hdf5/issues/3003)."""
    file = library().File("chunk in memory", "w", driver="core", backing_store=False, userblock_size=_USER_BLOCK)
    with file:
        dataset = file.create_dataset("x", data=np.ones(1, np.uint8), chunks=(1,))
        file.flush()
        return bool(dataset.id.get_chunk_info(0).byte_offset < _USER_BLOCK)


def chunk_bytes(dataset: Callable[[], Any], common: TreeArray, name: str) -> TreeArray:
    """Return the stored bytes of all chunks in the order of their places, to compare chunks that cannot be decoded here.

    `dataset()` returns the dataset, open; `common` has the properties of its values.
    """
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
