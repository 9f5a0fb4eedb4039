"""The contact sheet as a PNG: pictures, captions, and above them facts and legends of colours. Pillow draws."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...plain.errors import MissingPackageError, WriteError
from .arrangement import MARGIN, Arrangement
from .colours import NAN_COLOUR, Picture

_PAPER, _INK, _PALE, _LINE = (250, 250, 247), (28, 28, 32), (112, 112, 118), (214, 214, 208)
_TITLE, _TEXT, _SMALL = 20, 14, 13  # pixels
_BAR_HEIGHT, _BAR_LENGTH, _PAD = 10, 132, 8
_LEAST_WIDTH = 560


@dataclass(frozen=True)
class Bar:
    """A legend: a name, colours from the lowest to the highest value as (1, n, 3) uint8, and the values at both ends."""

    colours: Picture
    low: str
    high: str
    name: str = ""
    length: int = _BAR_LENGTH


@dataclass(frozen=True)
class Sheet:
    """All that is drawn.

    Attributes
    ----------
    title, lines, bars : above the pictures
    row_names : left of the rows of a band; empty for one row
    cells : for each sample, for each row, its panels
    captions : below each cell: a sample number, and a label
    has_nan : the colour of NaN is explained
    """

    title: str
    lines: Sequence[str]
    bars: Sequence[Bar]
    row_names: Sequence[str]
    cells: Sequence[Sequence[Sequence[Picture]]]
    captions: Sequence[tuple[str, str]]
    columns: int
    has_nan: bool = False


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
    partial = f"{path}.partial"
    try:
        with open(partial, "wb") as file:  # noqa: PTH123 - one call, one name
            file.write(held.getbuffer())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise WriteError(f"the picture {path} cannot be written ({error.strerror or error}). Name another place.") from error
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
        self._bars = self._placed_bars()
        header = MARGIN + sum(pitch for *_, pitch in self._heading) + MARGIN // 2
        header += (self._bars[-1][2] + 1) * (_TEXT + 8) if self._bars else 0
        self._places = Arrangement(*sizes, header, side)
        self._canvas = self._images.new("RGB", (self._sheet_width, self._places.size[1]), _PAPER)
        self._pen = draws.Draw(self._canvas)

    def canvas(self) -> Any:
        places, sheet, y = self._places, self._sheet, MARGIN - 4
        for line, font, colour, pitch in self._heading:
            self._pen.text((MARGIN, y), line, fill=colour, font=font)
            y += pitch
        for bar, x, row in self._bars:
            self._bar(bar, x, y + row * (_TEXT + 8))
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

    def _bar(self, bar: Bar, x: int, y: int) -> None:
        x = self._write(self._write(x, y, bar.name, _PALE), y, bar.low, _INK)
        top = y + (_SMALL - _BAR_HEIGHT) // 2 + 2
        for column in range(bar.length):
            red, green, blue = bar.colours[0, column * bar.colours.shape[1] // bar.length].tolist()
            self._pen.line((x + column, top, x + column, top + _BAR_HEIGHT), fill=(red, green, blue))
        self._pen.rectangle((x - 1, top - 1, x + bar.length, top + _BAR_HEIGHT + 1), outline=_LINE)
        self._write(x + bar.length + _PAD, y, bar.high, _INK)

    def _placed_bars(self) -> list[tuple[Bar, int, int]]:
        """Return each bar with its x and its row; several rows of bars stand in columns."""
        bars = list(self._sheet.bars)
        if self._sheet.has_nan:
            bars.append(Bar(np.full((1, 1, 3), NAN_COLOUR, np.uint8), "", "NaN", length=_BAR_HEIGHT + 4))
        widths = [
            bar.length + MARGIN + sum(self._width(text) + _PAD for text in (bar.name, bar.low, bar.high) if text) for bar in bars
        ]
        room = self._sheet_width - MARGIN  # the last bar needs no space behind it
        if sum(widths) <= room:
            return [(bar, MARGIN + sum(widths[:number]), 0) for number, bar in enumerate(bars)]
        columns = max(1, room // max(widths))
        return [(bar, MARGIN + number % columns * max(widths), number // columns) for number, bar in enumerate(bars)]

    def _wrapped(self, line: str, font: Any) -> list[str]:
        lines = [""]
        for word in line.split(" "):
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and font.getlength(longer) > self._sheet_width - 2 * MARGIN:
                lines.append(word)
            else:
                lines[-1] = longer
        return [line for line in lines if line]

    def _cut(self, text: str, room: int) -> str:
        if self._width(text) <= room:
            return text
        while text and self._width(f"{text}...") > room:
            text = text[:-1]
        return f"{text}..." if text else ""

    def _width(self, text: str) -> int:
        return int(self._small.getlength(text) + 0.5)
