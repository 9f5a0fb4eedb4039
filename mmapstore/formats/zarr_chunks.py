"""Chunks that have a file each, and the names of the files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .located import ChunkPlace, Located


@dataclass(frozen=True)
class ChunkNames:
    """Names the files of an array's chunks, or of its shards, by their places in the grid.

    Names are made of whole numbers alone, so they cannot leave the directory. A link in their place is followed, as zarr does:
    stores kept with git-annex consist of links, and whoever can put one there was let write into the store already.

    Attributes
    ----------
    root : the directory of the array
    before : everything in front of the first number: that directory, and what the kind of naming adds
    separator : between the numbers

    >>> names = ChunkNames.of("a.zarr", "default", ".", rank=3)
    >>> os.path.relpath(names.path((4, 0, 1)), names.root)
    'c.4.0.1'
    """

    root: str
    before: str
    separator: str

    @classmethod
    def of(cls, directory: str, naming: str, separator: str, rank: int) -> ChunkNames:
        """`naming` is "default" or "v2", as format 3 calls them; `separator` is "." or "/"."""
        root, between = os.path.abspath(directory), os.sep if separator == "/" else separator
        if rank == 0:
            return cls(root, os.path.join(root, "c" if naming == "default" else "0"), between)
        return cls(root, os.path.join(root, "c" + between if naming == "default" else ""), between)

    def path(self, place: Iterable[int]) -> str:
        return self.before + self.separator.join(map(str, place))


@dataclass(eq=False, kw_only=True)
class ChunksInFiles(Located):
    """Chunks with a file each. Paths are computed, so the index takes no memory, and nothing is looked up."""

    names: ChunkNames
    one_file_each: bool = True

    def place(self, number: int) -> ChunkPlace | None:
        return ChunkPlace(self.names.path(self.grid.place(number)), 0, -1)

    def places(self, numbers: Sequence[int]) -> list[ChunkPlace | None]:
        """Return the whole of each chunk's file (a size of -1), whether or not it exists."""
        return [ChunkPlace(self.names.path(place), 0, -1) for place in self.grid.places(numbers).tolist()]
