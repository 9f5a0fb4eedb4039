"""From values to colours. NumPy in, (height, width, 3) uint8 out; knows nothing of sheets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Picture = np.ndarray[Any, np.dtype[np.uint8]]

NAN_COLOUR = (224, 64, 160)
_ZERO = np.array([138.0, 138.0, 138.0])  # what a change of nothing looks like
_MORE, _MORE_STILL = np.array([230.0, 120.0, 40.0]), np.array([255.0, 236.0, 170.0])
_LESS, _LESS_STILL = np.array([50.0, 110.0, 200.0]), np.array([170.0, 226.0, 255.0])
_PERCENTILES = (1, 99)
_OPAQUE_PAPER = 255.0


@dataclass(frozen=True)
class Range:
    """The values shown as black and as white, and in words why these."""

    low: float
    high: float
    why: str

    def scaled(self, values: Array) -> Array:
        """0 for `low` and below, 1 for `high` and above; NaN stays. Where there is but one value, it is the middle."""
        if self.high <= self.low:
            return np.where(np.isnan(values), np.nan, 0.5)
        with np.errstate(invalid="ignore", over="ignore"):
            return np.clip((values - self.low) / (self.high - self.low), 0, 1)


def range_of(values: Array, dtype: np.dtype[Any]) -> Range:
    """What is black and white for values of an array of `dtype`: all that uint8 and bool can be, else percentiles 1 to 99.

    >>> range_of(np.array([3.0, 7.0]), np.dtype("u1")), range_of(np.array([np.nan]), np.dtype("f4")).why
    (Range(low=0.0, high=255.0, why='as they are'), 'no finite value')
    """
    if dtype.kind == "b":
        return Range(0.0, 1.0, "as they are")
    if dtype == np.uint8:
        return Range(0.0, 255.0, "as they are")
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Range(0.0, 0.0, "no finite value")
    low, high = (float(value) for value in np.percentile(finite, _PERCENTILES))
    if low == high:
        low, high = float(finite.min()), float(finite.max())
        return Range(low, high, "one value" if low == high else "lowest to highest shown")
    return Range(low, high, "percentiles 1 to 99 of what is shown")


def grey(values: Array, shown: Range) -> Picture:
    """(height, width) values, black to white."""
    return _painted(np.repeat(shown.scaled(values)[..., None] * 255, 3, axis=-1))


def rgb(values: Array, shown: Range) -> Picture:
    """(3 or 4, height, width) values; a fourth channel is opacity, over white paper."""
    channels = np.moveaxis(shown.scaled(values) * 255, 0, -1)
    if channels.shape[-1] == 4:
        opacity = channels[..., 3:] / 255
        channels = channels[..., :3] * opacity + _OPAQUE_PAPER * (1 - opacity)
    return _painted(channels)


def change(values: Array, most: float) -> Picture:
    """(height, width) signed values: mid-grey for 0, over orange to yellow for +`most`, over blue to pale blue for -`most`.

    >>> change(np.array([[0.0, 2.0, -2.0]]), 2.0).tolist()
    [[[138, 138, 138], [255, 236, 170], [170, 226, 255]]]
    """
    with np.errstate(invalid="ignore"):
        share = np.clip(values / most, -1, 1) if most > 0 else np.where(np.isnan(values), np.nan, 0.0)
    size = np.abs(share)[..., None]
    middle, end = (np.where(share[..., None] < 0, *pair) for pair in ((_LESS, _MORE), (_LESS_STILL, _MORE_STILL)))
    near, far = np.minimum(size * 2, 1), np.maximum(size * 2 - 1, 0)
    return _painted(_ZERO + (middle - _ZERO) * near + (end - middle) * far)


def most_change(values: Array) -> float:
    """The distance from 0 that gets the strongest colour: percentile 99 of all distances, or the largest where that is 0."""
    finite = np.abs(values[np.isfinite(values)])
    if not finite.size:
        return 0.0
    most = float(np.percentile(finite, _PERCENTILES[1]))
    return most if most > 0 else float(finite.max())


def _painted(channels: Array) -> Picture:
    """0 to 255 as uint8; where any channel is NaN, the colour for that."""
    missing = np.isnan(channels).any(axis=-1)
    found = np.where(np.isnan(channels), 0, channels + 0.5).astype(np.uint8)
    found[missing] = NAN_COLOUR
    return found


def reduced(frame: Array, height: int, width: int) -> Array:
    """(channels, height, width) means of the (channels, more, more) values of a frame; a NaN leaves no mean.

    >>> reduced(np.arange(6.0).reshape(1, 2, 3), 1, 3).tolist(), reduced(np.arange(5.0).reshape(1, 1, 5), 1, 2).tolist()
    ([[[1.5, 2.5, 3.5]]], [[[0.5, 3.0]]])
    """
    for axis, length in ((1, height), (2, width)):
        if frame.shape[axis] != length:
            edges = np.arange(length + 1) * frame.shape[axis] // length
            counts = np.diff(edges).reshape([-1 if place == axis else 1 for place in range(3)])
            frame = np.add.reduceat(frame, edges[:-1], axis=axis) / counts
    return frame


def enlarged(picture: Picture, up: tuple[int, int]) -> Picture:
    """Each pixel as a rectangle of (down, across) pixels."""
    return np.repeat(np.repeat(picture, up[0], axis=0), up[1], axis=1)
