"""Chunks that have a file each: how the files are called, and where that puts the bytes of a chunk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..plain.chunk_grid import ChunkGrid
from ..plain.codecs import Chain
from .contract import ChunkPlace


@dataclass(frozen=True)
class ChunkFiles:
    """Names the files of an array's chunks, or of its shards, by their places in the grid.

    Names are made of whole numbers alone, so they cannot leave the directory. A link in their place is followed, as zarr does:
    stores kept with git-annex consist of links, and whoever can put one there was let write into the store already.

    Attributes
    ----------
    root : the directory of the array
    before : everything in front of the first number: that directory, and what the kind of naming adds
    separator : between the numbers

    >>> files = ChunkFiles.of("a.zarr", "default", ".", rank=3)
    >>> os.path.relpath(files.path((4, 0, 1)), files.root)
    'c.4.0.1'
    """

    root: str
    before: str
    separator: str

    @classmethod
    def of(cls, directory: str, naming: str, separator: str, rank: int) -> ChunkFiles:
        """`naming` is "default" or "v2", as format 3 calls them; `separator` is "." or "/"."""
        root, between = os.path.abspath(directory), os.sep if separator == "/" else separator
        if rank == 0:
            return cls(root, os.path.join(root, "c" if naming == "default" else "0"), between)
        return cls(root, os.path.join(root, "c" + between if naming == "default" else ""), between)

    def path(self, place: Iterable[int | str]) -> str:
        return self.before + self.separator.join(map(str, place))


@dataclass(frozen=True, eq=False)
class ChunksInFiles:
    """EncodedChunks with a file each. Paths are computed, so the index takes no memory, and nothing is looked up."""

    files: ChunkFiles
    grid: ChunkGrid
    chain: Chain
    dtype: np.dtype[Any]
    axes: tuple[int, ...] | None
    fill: Any
    one_file_each: bool = True

    @property
    def root(self) -> str:
        return self.files.root

    @property
    def nbytes(self) -> int:
        return 0

    def places(self, numbers: Sequence[int]) -> list[ChunkPlace | None]:
        """The whole of each chunk's file (a size of -1), whether or not it exists: a missing one stands for the fill value."""
        return [ChunkPlace(self.files.path(place), 0, -1) for place in self.grid.places(numbers).tolist()]
