"""Plain bytes in one piece, seen as chunks: how an array in any axis order is read where nothing may be mapped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..formats.contract import ChunkPlace
from ..plain.array_spec import StoredLayout
from ..plain.chunk_grid import ChunkGrid
from ..plain.codecs import Chain
from ..plain.extents import Extents

_CHUNK_BYTES = 64 * 2**10


@dataclass(frozen=True)
class PlainChunks:
    """An `EncodedChunks` without codecs, and what gives it. `extents` are one run of the bytes of an array of `layout`.

    A chunk is a stretch of the file: some positions along the last axis of samples or episodes, one along those before it,
    all along those behind it. Its length divides that of the axis, so that no chunk reaches past the end.
    """

    name: str
    extents: Extents
    layout: StoredLayout
    axes: tuple[int, ...] | None = None
    fill: Any = 0
    why_not_encoded: str = ""
    nbytes: int = 0
    one_file_each: bool = False
    chain: Chain = ()

    @property
    def encoded(self) -> PlainChunks:
        return self

    @property
    def root(self) -> str:
        return self.extents.path

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.extents.dtype

    @property
    def grid(self) -> ChunkGrid:
        letters, shape = self.layout.letters, self.layout.shape
        axis = max(letters.index(letter) for letter in "NT" if letter in letters)
        most = max(1, _CHUNK_BYTES // (math.prod(shape[axis + 1 :]) * self.dtype.itemsize))
        along = next(length for length in range(min(most, shape[axis]), 0, -1) if shape[axis] % length == 0)
        return ChunkGrid(shape, (*[1] * axis, along, *shape[axis + 1 :]))

    def places(self, numbers: Sequence[int]) -> list[ChunkPlace | None]:
        nbytes = math.prod(self.grid.chunk) * self.dtype.itemsize
        return [ChunkPlace(self.extents.path, self.extents.offset_of(0) + number * nbytes, nbytes) for number in numbers]
