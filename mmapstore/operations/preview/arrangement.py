"""Sizes and positions on a contact sheet, in pixels: arithmetic on integers, nothing is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

MARGIN = 24  # around the sheet, and between its parts
GAP, CHANNEL_GAP = 10, 2  # between samples, and between the panels of one
CAPTION = 22  # below a picture
_WIDEST = 1440  # of a sheet, unless a single picture is wider, or columns are given
_LEAST_SIDE = 12  # of a picture, so that a line of values is still seen


@dataclass(frozen=True)
class Scale:
    """A frame of values as a picture: reduced to (height, width) values, each then enlarged to `up` whole pixels.

    >>> Scale.of(28, 28, 192), Scale.of(1080, 1920, 192)
    (Scale(height=28, width=28, down=1, up=(6, 6)), Scale(height=108, width=192, down=10, up=(1, 1)))
    """

    height: int
    width: int
    down: int
    up: tuple[int, int]

    @classmethod
    def of(cls, height: int, width: int, longest: int) -> Scale:
        """Return a scale to about `longest` pixels along the longer side: never more if reduced, at least one per value."""
        down = -(-max(height, width) // longest)
        height, width = max(1, -(-height // down)), max(1, -(-width // down))
        up = max(1, longest // max(height, width))
        tall, wide = (max(up, -(-_LEAST_SIDE // side)) for side in (height, width))
        return cls(height, width, down, (tall, wide))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the picture in pixels."""
        return self.width * self.up[1], self.height * self.up[0]

    def words(self) -> str:
        if self.down > 1:
            return f"reduced {self.down} times"
        if self.up[0] != self.up[1]:
            return f"enlarged {self.up[1]} times across, {self.up[0]} times down"
        return f"enlarged {self.up[0]} times" if self.up[0] > 1 else ""


def longest_side(pictures: int, panels: int) -> int:
    """Return pixels along the longer side of a panel, for so many pictures of so many panels side by side.

    >>> longest_side(16, 1), longest_side(100, 1), longest_side(4, 8)
    (192, 96, 150)
    """
    wanted = 256 if pictures <= 9 else 192 if pictures <= 24 else 128 if pictures <= 64 else 96
    return max(48, min(wanted, 1200 // panels))


@dataclass(frozen=True)
class Arrangement:
    """Positions of pictures: a cell holds the panels of a picture side by side, a band is `rows` rows of cells.

    Attributes
    ----------
    picture : (width, height) of one panel
    panels : panels in each cell
    cells, columns : samples in all, and in a row
    rows : pictures of each sample, one below the other: 1, or 3 for frame, next frame and change
    header : height above the pictures, margins included
    side : width left of the pictures, for the names of rows
    """

    picture: tuple[int, int]
    panels: int
    cells: int
    columns: int
    rows: int
    header: int
    side: int

    @property
    def cell_width(self) -> int:
        return self.panels * (self.picture[0] + CHANNEL_GAP) - CHANNEL_GAP

    @property
    def _pitch(self) -> int:
        """From one band to the next."""
        return self.rows * (self.picture[1] + CHANNEL_GAP) - CHANNEL_GAP + CAPTION + GAP

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the sheet."""
        width = 2 * MARGIN + self.side + min(self.columns, self.cells) * (self.cell_width + GAP) - GAP
        return width, self.header + -(-self.cells // self.columns) * self._pitch - GAP + MARGIN

    def corner(self, cell: int, row: int, panel: int) -> tuple[int, int]:
        """Return the upper left corner of a picture."""
        band, column = divmod(cell, self.columns)
        x = MARGIN + self.side + column * (self.cell_width + GAP) + panel * (self.picture[0] + CHANNEL_GAP)
        return x, self.header + band * self._pitch + row * (self.picture[1] + CHANNEL_GAP)

    def caption(self, cell: int) -> tuple[int, int]:
        """Return the upper left corner of the caption of a cell."""
        x, y = self.corner(cell, self.rows - 1, 0)
        return x, y + self.picture[1] + 3


def columns_for(picture: tuple[int, int], panels: int, cells: int, rows: int, wanted: int | None) -> int:
    """Return the samples in a row: `wanted`, or so that the sheet is somewhat wider than high and not too wide.

    >>> columns_for((160, 96), 1, 16, 1, None), columns_for((160, 96), 1, 16, 1, 4), columns_for((150, 150), 8, 4, 1, None)
    (4, 4, 1)
    """
    if wanted is not None:
        return min(wanted, cells)
    width = panels * (picture[0] + CHANNEL_GAP) + GAP
    height = rows * (picture[1] + CHANNEL_GAP) + CAPTION + GAP
    balanced = round(math.sqrt(cells * 1.5 * height / width))
    columns = max(1, min(balanced, (_WIDEST - 2 * MARGIN) // width, cells))
    return -(-cells // -(-cells // columns))  # the same number of rows, filled evenly
