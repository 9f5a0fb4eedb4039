"""The contact sheet as a PNG: pictures, captions, and facts above them. Pillow draws."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...files.durable_writes import write_atomically
from ...files.system_errors import explaining_write_errors
from ...plain.errors import MissingPackageError
from .arrangement import MARGIN, Arrangement
from .colours import Picture

_PAPER, _INK, _PALE, _LINE = (250, 250, 247), (28, 28, 32), (112, 112, 118), (214, 214, 208)
_TITLE, _TEXT, _SMALL = 20, 14, 13  # pixels
_PAD = 8
_LEAST_WIDTH = 560


@dataclass(frozen=True)
class Sheet:
    """All that is drawn.

    Attributes
    ----------
    title, lines : above the pictures
    row_names : left of the rows of a band; empty for one row
    cells : for each sample, for each row, its panels
    captions : below each cell: a sample number, and a label
    """

    title: str
    lines: Sequence[str]
    row_names: Sequence[str]
    cells: Sequence[Sequence[Sequence[Picture]]]
    captions: Sequence[tuple[str, str]]
    columns: int


def pillow() -> tuple[Any, Any, Any]:
    """Return Pillow's modules Image, ImageDraw, ImageFont. Raises MissingPackageError."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingPackageError('a preview needs Pillow. Install it with: pip install "mmapstore[images]"') from error
    return Image, ImageDraw, ImageFont


def save(sheet: Sheet, path: str) -> tuple[int, int]:
    """Write the PNG, whole or not at all. Returns (width, height) in pixels. Raises MissingPackageError, WriteError."""
    canvas, held = _Drawing(sheet).canvas(), io.BytesIO()
    canvas.save(held, format="PNG", optimize=True)
    with explaining_write_errors(path):
        write_atomically(path, held.getvalue())
    return int(canvas.size[0]), int(canvas.size[1])


class _Drawing:
    def __init__(self, sheet: Sheet) -> None:
        self._images, draws, fonts = pillow()
        self._title, self._text, self._small = (fonts.load_default(size) for size in (_TITLE, _TEXT, _SMALL))
        self._sheet, cells = sheet, sheet.cells
        side = max((self._width(name) + _PAD + 4 for name in sheet.row_names), default=0)
        height, width = cells[0][0][0].shape[:2]
        sizes = (width, height), len(cells[0][0]), len(cells), sheet.columns, len(cells[0])
        self._sheet_width = max(Arrangement(*sizes, 0, side).size[0], _LEAST_WIDTH)
        self._heading = [(line, self._title, _INK, _TITLE + 8) for line in self._wrapped(sheet.title, self._title)]
        for text in sheet.lines:
            self._heading += [(line, self._text, _PALE, _TEXT + 6) for line in self._wrapped(text, self._text)]
        header = MARGIN + sum(pitch for *_, pitch in self._heading) + MARGIN // 2
        self._places = Arrangement(*sizes, header, side)
        self._canvas = self._images.new("RGB", (self._sheet_width, self._places.size[1]), _PAPER)
        self._pen = draws.Draw(self._canvas)

    def canvas(self) -> Any:
        places, sheet, y = self._places, self._sheet, MARGIN - 4
        for line, font, colour, pitch in self._heading:
            self._pen.text((MARGIN, y), line, fill=colour, font=font)
            y += pitch
        width, height = places.picture
        for cell, (rows, (number, label)) in enumerate(zip(sheet.cells, sheet.captions, strict=True)):
            for row, panels in enumerate(rows):
                for panel, picture in enumerate(panels):
                    x, y = places.corner(cell, row, panel)
                    self._canvas.paste(self._images.fromarray(np.ascontiguousarray(picture)), (x, y))
                    self._pen.rectangle((x - 1, y - 1, x + width, y + height), outline=_LINE)
            if cell % places.columns == 0:
                for row, name in enumerate(sheet.row_names):
                    self._write(MARGIN, places.corner(cell, row, 0)[1] + height // 2 - _SMALL // 2, name, _PALE)
            x, y = places.caption(cell)
            after = self._write(x, y, number, _PALE)
            self._write(after, y, self._cut(label, x + places.cell_width - after), _INK)
        return self._canvas

    def _write(self, x: int, y: int, text: str, colour: tuple[int, int, int]) -> int:
        """Write small text. Returns the x of what follows."""
        self._pen.text((x, y), text, fill=colour, font=self._small)
        return x + self._width(text) + _PAD * bool(text)

    def _wrapped(self, line: str, font: Any) -> list[str]:
        letters = (self._sheet_width - 2 * MARGIN) * max(1, len(line)) / max(1, font.getlength(line))
        return textwrap.wrap(line, max(10, int(0.95 * letters)), break_on_hyphens=False)

    def _cut(self, text: str, room: int) -> str:
        if self._width(text) <= room:
            return text
        while text and self._width(f"{text}...") > room:
            text = text[:-1]
        return f"{text}..." if text else ""

    def _width(self, text: str) -> int:
        return int(self._small.getlength(text) + 0.5)
