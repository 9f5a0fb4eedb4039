"""The places of a stored array's elements: the chunks of a grid, each a range of bytes in a file, plain or encoded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..plain.chunk_grid import ChunkGrid
from ..plain.codecs import Chain


class ChunkPlace(NamedTuple):
    """The stored bytes of one chunk.

    `nbytes` of -1: all of the file from `offset` on. `skipped` has bit i set where codec i of the chain was not applied to
    this chunk (the filter mask of HDF5).
    """

    path: str
    offset: int
    nbytes: int
    skipped: int = 0


@dataclass(eq=False, kw_only=True)
class Located:
    """The places and codecs of an array's chunks, enough to read the array without the format's library.

    Pickles, and any thread may call it.
    """

    root: str  # the file that all chunks lie in, or the directory of their files: without it, a missing chunk is damage
    grid: ChunkGrid  # in stored axis order; chunks at the upper edges are stored full-size
    dtype: np.dtype[Any]  # of the decoded elements, byte order included
    chain: Chain = ()  # the codecs; () for plain bytes
    # the order in which a decoded chunk holds its axes, slowest first, where it is not that of `grid`; else None
    axes: tuple[int, ...] | None = None
    fill: Any = 0  # one element, which stands for every element of a chunk that was never stored
    # the byte of `root` at which the elements begin that lie in C order in one run; None for any other array
    offset: int | None = None
    one_file_each: bool = False  # each chunk has a file of its own

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the index takes at most: part of every prediction."""
        return 0

    @property
    def has_rows(self) -> bool:
        """True if rows along the first axis lie whole, as plain bytes, with those of a chunk behind each other."""
        across = self.grid.chunk[1:] == self.grid.shape[1:] or self.offset is not None
        return bool(self.grid.shape) and not self.chain and self.axes is None and across

    def place(self, number: int) -> ChunkPlace | None:
        """Return the place of one chunk, as `places` does."""
        return self.places([number])[0]

    def places(self, numbers: Sequence[int]) -> list[ChunkPlace | None]:
        """Return the places of chunks by their numbers in the grid, None where nothing was stored. May read an index on disk.

        A chunk with a file of its own is given a place without looking; a file that is missing then means the same as None.
        Raises DamagedFileError for places outside the file.
        """
        raise NotImplementedError


class OneRun(Located):
    """Plain elements in one run of one file: a .npy payload, a contiguous HDF5 dataset. Chunks are stretches of the run."""

    def places(self, numbers: Sequence[int]) -> list[ChunkPlace | None]:
        nbytes = math.prod(self.grid.chunk) * self.dtype.itemsize
        return [ChunkPlace(self.root, (self.offset or 0) + number * nbytes, nbytes) for number in numbers]


def one_run(path: str, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> OneRun:
    """Locate an array that lies in C order from byte `offset` on, as one chunk.

    >>> one_run("a.npy", 128, (10, 3), np.dtype("f4")).places([0])
    [ChunkPlace(path='a.npy', offset=128, nbytes=120, skipped=0)]
    """
    return OneRun(root=path, offset=offset, grid=ChunkGrid(shape, tuple(max(1, length) for length in shape)), dtype=dtype)
