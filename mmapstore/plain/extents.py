"""Places of uncompressed rows: files, byte offsets, and the arithmetic from a row number to both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Extents:
    """Rows of equal size, stored in runs ("extents") of `rows_per_extent` rows.

    Attributes
    ----------
    path : the file; or, with `one_file_each`, a template whose "{}" takes the number of the extent
    rows : how many rows there are
    row_nbytes : bytes of one row
    rows_per_extent : rows stored together; the last extent may hold fewer
    offsets : byte offset of each extent in its file, int64; -1 where the format stored nothing (its fill value
        stands for it). With `one_file_each` a single offset that holds for every file.
    fill : the fill value of rows that were never stored, one element; None if a missing extent is an error
    dtype : of the elements as stored, byte order included
    """

    path: str
    rows: int
    row_nbytes: int
    rows_per_extent: int
    offsets: np.ndarray[Any, np.dtype[np.int64]]
    dtype: np.dtype[Any]
    fill: Any = None
    one_file_each: bool = False

    @classmethod
    def one_run(cls, path: str, offset: int, rows: int, row_nbytes: int, dtype: np.dtype[Any]) -> Extents:
        """All rows in one piece of one file: a .npy payload, a contiguous HDF5 dataset."""
        return cls(path, rows, row_nbytes, rows, np.array([offset], np.int64), dtype)

    @property
    def is_one_run(self) -> bool:
        return len(self.offsets) == 1 and not self.one_file_each

    def file_of(self, extent: int) -> str:
        if not self.one_file_each:
            return self.path
        before, _, after = self.path.rpartition("{}")  # the last: a directory may be called so too
        return f"{before}{extent}{after}"

    def offset_of(self, extent: int) -> int:
        return int(self.offsets[0] if self.one_file_each else self.offsets[extent])

    def cut(self, pieces: int) -> Extents:
        """The same bytes with each row cut into that many rows: the frames of a stored sequence.

        >>> Extents.one_run("a.npy", 128, rows=10, row_nbytes=400, dtype=np.dtype("u1")).cut(20).rows
        200
        """
        return replace(
            self, rows=self.rows * pieces, row_nbytes=self.row_nbytes // pieces, rows_per_extent=self.rows_per_extent * pieces
        )

    def runs(self, start: int, stop: int) -> list[tuple[int, int, int, int]]:
        """Rows [start, stop) as (extent, byte offset in its file, first, last + 1 relative to `start`), in order.

        An offset of -1 means that nothing is stored there and the fill value stands for it.
        """
        found = []
        at = start
        while at < stop:
            extent, within = divmod(at, self.rows_per_extent)
            count = min(self.rows_per_extent - within, stop - at)
            offset = self.offset_of(extent)
            found.append((extent, offset + within * self.row_nbytes if offset >= 0 else -1, at - start, at - start + count))
            at += count
        return found
