"""The contact sheet as a PNG: pictures, captions, and facts above them. Pillow draws."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...files.durable_writes import write_atomically
from ...files.system_errors import explaining_write_errors
from ...plain.errors import MissingPackageError
from .colours import Picture

_PAPER, _INK, _PALE, _LINE = (250, 250, 247), (28, 28, 32), (112, 112, 118), (214, 214, 208)
# All lengths are in pixels.
_TITLE, _TEXT, _SMALL = 20, 14, 13  # heights of letters
_MARGIN, _GAP, _PAD = 24, 8, 8  # around the sheet; between samples; between words
_CAPTION = 21  # below a picture
_LEAST_WIDTH, _WIDEST = 560, 1440  # of a sheet, unless a single picture is wider, or columns are given


@dataclass(frozen=True)
class Sheet:
    """All that is drawn."""

    # above the pictures, as `lines`
    title: str
    lines: Sequence[str]
    row_names: Sequence[str]  # left of the rows of a band; empty for one row
    cells: Sequence[Sequence[Sequence[Picture]]]  # for each sample, for each row, its panels
    captions: Sequence[tuple[str, str]]  # below each cell: a sample number, and a label
    columns: int | None  # samples in a row; None balances the sheet


def pillow() -> tuple[Any, Any, Any]:
    """Return Pillow's modules Image, ImageDraw, ImageFont. Raises MissingPackageError."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingPackageError('a preview needs Pillow. Install it with: pip install "mmapstore[images]"') from error
    return Image, ImageDraw, ImageFont


def save(sheet: Sheet, path: str) -> tuple[int, int]:
    """Write the PNG, whole or not at all. Returns (width, height) in pixels. Raises MissingPackageError, WriteError."""
    images, draws, fonts = pillow()
    title, text, small = (fonts.load_default(size) for size in (_TITLE, _TEXT, _SMALL))
    tall, wide = _cell(sheet.cells[0]).shape[:2]
    columns = columns_for(tall + _CAPTION + _GAP, wide + _GAP, len(sheet.cells), sheet.columns)
    left = _MARGIN + max((_width(name, small) + _PAD + 4 for name in sheet.row_names), default=0)
    width = max(left + columns * (wide + _GAP) - _GAP + _MARGIN, _LEAST_WIDTH)
    room = width - 2 * _MARGIN
    heading = [(line, title, _INK, _TITLE + 8) for line in _wrapped(sheet.title, title, room)]
    heading += [(line, text, _PALE, _TEXT + 6) for each in sheet.lines for line in _wrapped(each, text, room)]
    top = _MARGIN + sum(pitch for *_, pitch in heading) + _MARGIN // 2
    bands, pitch = -(-len(sheet.cells) // columns), tall + _CAPTION + _GAP
    canvas = images.new("RGB", (width, top + bands * pitch - _GAP + _MARGIN), _PAPER)
    pen = draws.Draw(canvas)
    y = _MARGIN - 4
    for line, font, colour, height in heading:
        pen.text((_MARGIN, y), line, fill=colour, font=font)
        y += height
    for number, (rows, (name, label)) in enumerate(zip(sheet.cells, sheet.captions, strict=True)):
        band, column = divmod(number, columns)
        x, y = left + column * (wide + _GAP), top + band * pitch
        canvas.paste(images.fromarray(_cell(rows)), (x, y))
        for row, row_name in enumerate(sheet.row_names if column == 0 else ()):
            pen.text((_MARGIN, y + (2 * row + 1) * tall // (2 * len(rows)) - _SMALL // 2), row_name, fill=_PALE, font=small)
        pen.text((x, y + tall + 2), name, fill=_PALE, font=small)
        after = _width(name, small) + _PAD
        pen.text((x + after, y + tall + 2), _shortened(label, small, wide - after), fill=_INK, font=small)
    held = io.BytesIO()
    canvas.save(held, format="PNG", optimize=True)
    with explaining_write_errors(path):
        write_atomically(path, held.getvalue())
    return canvas.width, canvas.height


def columns_for(tall: int, wide: int, cells: int, wanted: int | None) -> int:
    """Return the samples in a row: `wanted`, or so many that the sheet is somewhat wider than high and not too wide.

    >>> columns_for(128, 172, 16, None), columns_for(128, 172, 16, 5), columns_for(182, 1226, 4, None)
    (4, 5, 1)
    """
    if wanted is not None:
        return min(wanted, cells)
    columns = max(1, min(round(math.sqrt(cells * 1.5 * tall / wide)), (_WIDEST - 2 * _MARGIN) // wide, cells))
    return -(-cells // -(-cells // columns))  # the same number of rows, filled evenly


def _cell(rows: Sequence[Sequence[Picture]]) -> Picture:
    """Return the panels of a sample as one picture, each with a line around it."""
    height, width = rows[0][0].shape[:2]
    found = np.full((len(rows), height + 2, len(rows[0]), width + 2, 3), _LINE, np.uint8)
    for row, panels in enumerate(rows):
        for panel, picture in enumerate(panels):
            found[row, 1:-1, panel, 1:-1] = picture
    return found.reshape(len(rows) * (height + 2), len(rows[0]) * (width + 2), 3)


def _wrapped(line: str, font: Any, room: int) -> list[str]:
    letters = room * max(1, len(line)) / max(1, font.getlength(line))
    return textwrap.wrap(line, max(10, int(0.95 * letters)), break_on_hyphens=False)


def _shortened(text: str, font: Any, room: int) -> str:
    if _width(text, font) <= room:
        return text
    while text and _width(f"{text}...", font) > room:
        text = text[:-1]
    return f"{text}..." if text else ""


def _width(text: str, font: Any) -> int:
    return int(font.getlength(text) + 0.5)
