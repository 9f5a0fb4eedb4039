"""Plain bytes in one piece, seen as chunks: how an array in any axis order is read where nothing may be mapped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..formats.contract import Array, ChunkPlace, Selection, StoredArray
from ..plain.array_spec import StoredLayout
from ..plain.chunk_grid import ChunkGrid
from ..plain.codecs import Chain
from ..plain.extents import Extents

_CHUNK_BYTES = 64 * 2**10


class PlainChunks(StoredArray):
    """A StoredArray that is its own `EncodedChunks`, without codecs. `extents` are one run of the bytes of an array of `layout`.

    A chunk is a stretch of the file: some positions along the last axis of samples or episodes, one along those before it,
    all along those behind it. Its length divides that of the axis, so that no chunk reaches past the end.
    """

    axes: tuple[int, ...] | None = None
    fill: Any = 0
    nbytes: int = 0
    one_file_each: bool = False
    chain: Chain = ()

    def __init__(self, name: str, extents: Extents, layout: StoredLayout) -> None:
        self.name, self.shape, self.dtype = name, layout.shape, extents.dtype
        self.root, self._offset = extents.path, extents.offset_of(0)
        letters, shape = layout.letters, layout.shape
        axis = max(letters.index(letter) for letter in "NT" if letter in letters)
        most = max(1, _CHUNK_BYTES // (math.prod(shape[axis + 1 :]) * self.dtype.itemsize))
        along = next(length for length in range(min(most, shape[axis]), 0, -1) if shape[axis] % length == 0)
        self.grid = ChunkGrid(shape, (*[1] * axis, along, *shape[axis + 1 :]))

    @property
    def encoded(self) -> PlainChunks:
        return self

    def read_box(self, selection: Selection, out: Array) -> None:
        raise NotImplementedError

    def places(self, numbers: Sequence[int]) -> list[ChunkPlace | None]:
        nbytes = math.prod(self.grid.chunk) * self.dtype.itemsize
        return [ChunkPlace(self.root, self._offset + number * nbytes, nbytes) for number in numbers]
