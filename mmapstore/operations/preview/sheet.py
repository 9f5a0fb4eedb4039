"""The contact sheet as a PNG: pictures, captions, and above them what they are and how values became colours. Pillow draws."""

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
_BAR_HEIGHT, _BAR_PAD = 10, 8
_SIDE_PAD = 12
LEAST_WIDTH = 560


@dataclass(frozen=True)
class Bar:
    """A legend: colours from the lowest to the highest value, (1, n, 3) uint8, a name before it, and what stands at its ends."""

    colours: Picture
    low: str
    high: str
    name: str = ""
    length: int = 132


@dataclass(frozen=True)
class Sheet:
    """All that is drawn.

    Attributes
    ----------
    title, lines : above the pictures
    bars : legends, below the lines
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
    """Pillow's modules Image, ImageDraw, ImageFont. Raises MissingPackageError."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingPackageError('a preview needs Pillow. Install it with: pip install "mmapstore[images]"') from error
    return Image, ImageDraw, ImageFont


def save(sheet: Sheet, path: str) -> tuple[int, int]:
    """Write the PNG, whole or not at all. Returns (width, height) in pixels. Raises MissingPackageError, WriteError."""
    drawing = _Drawing(sheet)
    canvas = drawing.canvas()
    partial = f"{path}.partial"
    held = io.BytesIO()
    canvas.save(held, format="PNG", optimize=True)
    try:
        with open(partial, "wb") as file:  # noqa: PTH123 - one call, one name
            file.write(held.getbuffer())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise WriteError(f"the picture {path} cannot be written ({error.strerror or error}). Name another place.") from error
    width, height = canvas.size
    return int(width), int(height)


class _Drawing:
    def __init__(self, sheet: Sheet) -> None:
        self._images, draws, self._fonts = pillow()
        self._sheet = sheet
        self._title, self._text, self._small = (self._font(size) for size in (_TITLE, _TEXT, _SMALL))
        self._draws = draws
        self._pen: Any = None
        picture = sheet.cells[0][0][0]
        side = max((self._width(name, self._small) for name in sheet.row_names), default=0)
        plain = Arrangement(
            (picture.shape[1], picture.shape[0]),
            len(sheet.cells[0][0]),
            len(sheet.cells),
            sheet.columns,
            len(sheet.cells[0]),
            header=0,
            side=side + _SIDE_PAD if side else 0,
        )
        self._sheet_width = max(plain.size[0], LEAST_WIDTH)
        self._lines = [part for line in sheet.lines for part in self._wrapped(line, self._text)]
        self._titles = self._wrapped(sheet.title, self._title)
        self._bar_rows = self._arranged_bars()
        header = (
            MARGIN
            + len(self._titles) * (_TITLE + 8)
            + len(self._lines) * (_TEXT + 6)
            + len(self._bar_rows) * (_TEXT + 8)
            + MARGIN // 2
        )
        self._places = Arrangement(plain.picture, plain.panels, plain.cells, plain.columns, plain.rows, header, plain.side)

    def canvas(self) -> Any:
        places, sheet = self._places, self._sheet
        canvas = self._images.new("RGB", (self._sheet_width, places.size[1]), _PAPER)
        self._pen = self._draws.Draw(canvas)
        self._header()
        for cell, (rows, (number, label)) in enumerate(zip(sheet.cells, sheet.captions, strict=True)):
            for row, panels in enumerate(rows):
                for panel, picture in enumerate(panels):
                    x, y = places.corner(cell, row, panel)
                    canvas.paste(self._images.fromarray(np.ascontiguousarray(picture)), (x, y))
                    width, height = places.picture
                    self._pen.rectangle((x - 1, y - 1, x + width, y + height), outline=_LINE)
            self._caption(cell, number, label)
            if cell % places.columns == 0:
                for row, name in enumerate(sheet.row_names):
                    y = places.corner(cell, row, 0)[1] + places.picture[1] // 2 - _SMALL // 2
                    self._pen.text((MARGIN, y), name, fill=_PALE, font=self._small)
        return canvas

    def _header(self) -> None:
        y = MARGIN - 4
        for line in self._titles:
            self._pen.text((MARGIN, y), line, fill=_INK, font=self._title)
            y += _TITLE + 8
        for line in self._lines:
            self._pen.text((MARGIN, y), line, fill=_PALE, font=self._text)
            y += _TEXT + 6
        pitch = max((self._bar_width(bar) for bars in self._bar_rows for bar in bars), default=0)
        for bars in self._bar_rows:
            x = MARGIN
            for bar in bars:
                end = self._bar(bar, x, y)
                x = end if len(self._bar_rows) == 1 else x + pitch  # several rows of bars stand in columns
            y += _TEXT + 8

    def _caption(self, cell: int, number: str, label: str) -> None:
        x, y = self._places.caption(cell)
        width = self._places.cell_width
        self._pen.text((x, y), number, fill=_PALE, font=self._small)
        if label:
            at = x + self._width(number + "  ", self._small)
            self._pen.text((at, y), self._cut(label, x + width - at), fill=_INK, font=self._small)

    def _bar(self, bar: Bar, x: int, y: int) -> int:
        for text, colour in ((bar.name, _PALE), (bar.low, _INK)):
            if text:
                self._pen.text((x, y), text, fill=colour, font=self._small)
                x += self._width(text, self._small) + _BAR_PAD
        top, steps = y + (_SMALL - _BAR_HEIGHT) // 2 + 2, bar.colours.shape[1]
        for column in range(bar.length):
            red, green, blue = bar.colours[0, column * steps // bar.length].tolist()
            self._pen.line((x + column, top, x + column, top + _BAR_HEIGHT), fill=(red, green, blue))
        self._pen.rectangle((x - 1, top - 1, x + bar.length, top + _BAR_HEIGHT + 1), outline=_LINE)
        x += bar.length + _BAR_PAD
        self._pen.text((x, y), bar.high, fill=_INK, font=self._small)
        return x + self._width(bar.high, self._small) + MARGIN

    def _bar_width(self, bar: Bar) -> int:
        texts = [text for text in (bar.name, bar.low, bar.high) if text]
        return bar.length + sum(self._width(text, self._small) + _BAR_PAD for text in texts) + MARGIN

    def _arranged_bars(self) -> list[list[Bar]]:
        bars = list(self._sheet.bars)
        if self._sheet.has_nan:
            bars.append(Bar(np.full((1, 1, 3), NAN_COLOUR, np.uint8), "", "NaN", length=_BAR_HEIGHT + 4))
        room = self._sheet_width - MARGIN  # the last bar needs no space behind it
        if sum(map(self._bar_width, bars)) <= room:
            return [bars]
        each = max(1, room // max(map(self._bar_width, bars)))
        return [bars[start : start + each] for start in range(0, len(bars), each)]

    def _wrapped(self, line: str, font: Any) -> list[str]:
        room = self._sheet_width - 2 * MARGIN
        lines = [""]
        for word in line.split(" "):
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and self._width(longer, font) > room:
                lines.append(word)
            else:
                lines[-1] = longer
        return [line for line in lines if line]

    def _cut(self, text: str, room: int) -> str:
        if self._width(text, self._small) <= room:
            return text
        while text and self._width(text + "...", self._small) > room:
            text = text[:-1]
        return f"{text}..." if text else ""

    def _width(self, text: str, font: Any) -> int:
        width: int = round(font.getlength(text))
        return width

    def _font(self, size: int) -> Any:
        try:
            return self._fonts.load_default(size)
        except TypeError:  # Pillow before 10.1 has one size
            return self._fonts.load_default()
