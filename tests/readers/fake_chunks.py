"""Encoded chunks made by hand: what a reader sees of a format, without the format."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmapstore.formats.contract import StoredArray
from mmapstore.formats.located import ChunkPlace, Located
from mmapstore.plain.chunk_grid import ChunkGrid
from mmapstore.plain.codecs import Chain, Codec

GZIP = (Codec("zlib", words="gzip 1"),)


@dataclass(eq=False, kw_only=True)
class FakeChunks(Located):
    index: dict[int, ChunkPlace]
    nbytes: int = 1000
    has_rows: bool = False

    def places(self, numbers: Sequence[int]) -> list[ChunkPlace | None]:
        return [self.index.get(number) for number in numbers]


@dataclass
class FakeStored(StoredArray):
    """A StoredArray that has chunks."""

    name: str
    located: FakeChunks | None = None
    why_not: str = ""
    storage: str = "chunks"
    decoded: list[int] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        assert self.located is not None
        return self.located.grid.shape

    @property
    def dtype(self) -> np.dtype:
        assert self.located is not None
        return self.located.dtype

    @property
    def chunks(self) -> tuple[int, ...]:
        assert self.located is not None
        return self.located.grid.chunk

    def read_box(self, selection: Any, out: Any) -> None:
        raise NotImplementedError


def stored_chunks(
    folder: Path,
    array: np.ndarray,
    chunk: tuple[int, ...],
    *,
    chain: Chain = GZIP,
    encode: Callable[[bytes], bytes] = lambda data: zlib.compress(data, 1),
    axes: tuple[int, ...] | None = None,
    missing: Collection[int] = (),
    plain: Collection[int] = (),
    fill: Any = 0,
    gap: int = 0,
    own_files: bool = False,
) -> FakeStored:
    """`array` as stored, in chunks of one file or of a file each. The chunks `plain` are not encoded.

    Those `missing` are not stored: `array` is changed to the fill value there.
    """
    grid = ChunkGrid(array.shape, chunk)
    index, blob = {}, bytearray(b"header")
    (folder / "chunks").mkdir(exist_ok=True)
    counts = [range(count) for count in grid.counts]
    for number, place in enumerate(itertools.product(*counts)):
        region = tuple(slice(at * each, (at + 1) * each) for at, each in zip(place, chunk, strict=True))
        if number in missing:
            array[region] = fill
            if own_files:
                index[number] = ChunkPlace(str(folder / "chunks" / str(number)), 0, -1)
            continue
        whole = np.zeros(chunk, array.dtype)
        whole[tuple(slice(0, n) for n in array[region].shape)] = array[region]
        data = (whole if axes is None else whole.transpose(axes)).tobytes()
        skipped = (1 << len(chain)) - 1 if number in plain else 0
        data = data if number in plain or not chain else encode(data)
        if own_files:
            path = folder / "chunks" / str(number)
            path.write_bytes(data)
            index[number] = ChunkPlace(str(path), 0, -1, skipped)
        else:
            blob += bytes(gap)
            index[number] = ChunkPlace(str(folder / "chunks.bin"), len(blob), len(data), skipped)
            blob += data
    root = folder / "chunks"
    if not own_files:
        root = folder / "chunks.bin"
        root.write_bytes(blob)
    located = FakeChunks(
        root=str(root), grid=grid, chain=chain, dtype=array.dtype, axes=axes, fill=fill, index=index, one_file_each=own_files
    )
    return FakeStored("fake::/x", located)
