"""The picture at the end: frames side by side, one row for each of what went in, what came, and what was predicted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..plain.errors import MissingPackageError, WriteError

Image = np.ndarray[Any, np.dtype[np.float32]]

TILE_WIDTH = 320  # pixels; frames that come smaller are enlarged, pixel by pixel
_MARGIN, _HEADER, _GAP, _LEAST_ROW = 150, 34, 6, 84
_PAPER, _INK, _PALE = (252, 252, 250), (28, 28, 30), (120, 120, 126)


def save_strip(
    path: str | os.PathLike[str], columns: Sequence[str], rows: Sequence[tuple[str, str, Sequence[Image]]]
) -> tuple[int, int]:
    """Write a PNG: a title above each column; left of each row a title and a remark; frames in the cells.

    `rows` are (title, remark, frames); each frame is (height, width, channels) float, 0 black to 1 white. 3 channels are
    RGB, of 4 or more the first 3; of fewer the first is shown in grey. Returns (width, height) in pixels.
    Raises MissingPackageError, WriteError.
    """
    try:
        from PIL import Image as Pictures
        from PIL import ImageDraw
    except ImportError as error:
        raise MissingPackageError("the picture needs Pillow. Install it with: pip install 'mmapstore[demo]'") from error
    height, width = rows[0][2][0].shape[:2]
    tile = strip_tile(height, width)
    size = strip_size(height, width, len(columns), len(rows))
    canvas = Pictures.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    title_font, remark_font = _font(17), _font(12)
    for number, title in enumerate(columns):
        draw.text((_MARGIN + number * (tile[0] + _GAP), 8), title, fill=_INK, font=title_font)
    for number, (title, remark, frames) in enumerate(rows):
        top = _HEADER + number * _pitch(tile)
        draw.text((12, top + 4), title, fill=_INK, font=title_font)
        draw.multiline_text((12, top + 28), remark, fill=_PALE, font=remark_font, spacing=3)
        for column, frame in enumerate(frames):
            picture = Pictures.fromarray(shown(frame)).resize(tile, Pictures.Resampling.NEAREST)
            canvas.paste(picture, (_MARGIN + column * (tile[0] + _GAP), top))
    try:
        canvas.save(path, format="PNG")
    except OSError as error:
        raise WriteError(
            f"the picture {os.fspath(path)} cannot be written ({error}). Name another directory with --out."
        ) from error
    return size


def strip_tile(height: int, width: int) -> tuple[int, int]:
    """(width, height) in pixels of one cell: a whole multiple of the frame, about 320 pixels along its longer side."""
    times = max(1, round(TILE_WIDTH / max(height, width)))
    return width * times, height * times


def strip_size(height: int, width: int, columns: int, rows: int) -> tuple[int, int]:
    """(width, height) in pixels of the whole strip.

    >>> strip_size(90, 160, columns=4, rows=5)
    (1454, 964)
    """
    tile = strip_tile(height, width)
    return _MARGIN + columns * (tile[0] + _GAP), _HEADER + rows * _pitch(tile)


def _pitch(tile: tuple[int, int]) -> int:
    return max(tile[1], _LEAST_ROW) + _GAP


def shown(frame: Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(height, width, 3) uint8 of a frame of any number of channels."""
    channels = frame[..., :3] if frame.shape[-1] >= 3 else np.repeat(frame[..., :1], 3, axis=-1)
    return (np.clip(np.nan_to_num(channels), 0, 1) * 255 + 0.5).astype(np.uint8)


def _font(size: int) -> Any:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size
        return ImageFont.load_default()
