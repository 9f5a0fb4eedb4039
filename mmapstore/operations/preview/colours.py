"""Values as colours: NumPy in, (height, width, 3) uint8 out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Picture = np.ndarray[Any, np.dtype[np.uint8]]

NAN_COLOUR = (224, 64, 160)
_PERCENTILES = (1, 99)
# Colours of a change from -1 to 1: pale blue, blue, mid-grey, orange, yellow.
_CHANGES = np.array([[170, 226, 255], [50, 110, 200], [138, 138, 138], [230, 120, 40], [255, 236, 170]], np.float64)


@dataclass(frozen=True)
class Range:
    """The values shown as black and as white, and the reason in words."""

    low: float
    high: float
    why: str

    def scaled(self, values: Array) -> Array:
        """Return 0 for `low` and below, 1 for `high` and above; NaN stays, and a single value is 0.5."""
        if self.high <= self.low:
            return np.where(np.isnan(values), np.nan, 0.5)
        with np.errstate(invalid="ignore", over="ignore"):
            return np.clip((values - self.low) / (self.high - self.low), 0, 1)


def range_of(values: Array, dtype: np.dtype[Any]) -> Range:
    """Return the range for values of an array of `dtype`: the whole range of uint8 and bool, else percentiles 1 to 99.

    >>> range_of(np.array([3.0, 7.0]), np.dtype("u1")), range_of(np.array([np.nan]), np.dtype("f4")).why
    (Range(low=0.0, high=255.0, why='as they are'), 'no finite value')
    """
    if dtype.kind == "b" or dtype == np.uint8:
        return Range(0.0, 1.0 if dtype.kind == "b" else 255.0, "as they are")
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Range(0.0, 0.0, "no finite value")
    low, high = (float(value) for value in np.percentile(finite, _PERCENTILES))
    if low == high:
        low, high = float(finite.min()), float(finite.max())
        return Range(low, high, "one value" if low == high else "lowest to highest shown")
    return Range(low, high, "percentiles 1 to 99 of what is shown")


def painted(values: Array, shown: Range) -> Picture:
    """Return (channels, height, width) values in grey, in colour for 3 channels, in colour over white for 4."""
    channels = np.moveaxis(shown.scaled(values) * 255, 0, -1)
    if channels.shape[-1] == 4:
        opacity = channels[..., 3:] / 255
        channels = channels[..., :3] * opacity + 255 * (1 - opacity)
    return _rounded(np.broadcast_to(channels, (*channels.shape[:-1], 3)))


def change(values: Array, most: float) -> Picture:
    """Return (height, width) signed values: mid-grey for 0, over orange to yellow for +`most`, over blue to pale blue for -`most`.

    >>> change(np.array([[0.0, 2.0, -2.0]]), 2.0).tolist()
    [[[138, 138, 138], [255, 236, 170], [170, 226, 255]]]
    """
    with np.errstate(invalid="ignore"):
        share = np.clip(values / most, -1, 1) if most > 0 else np.where(np.isnan(values), np.nan, 0.0)
    stops = np.linspace(-1, 1, len(_CHANGES))
    return _rounded(np.stack([np.interp(share, stops, channel) for channel in _CHANGES.T], axis=-1))


def most_change(values: Array) -> float:
    """Return the distance from 0 with the strongest colour: percentile 99 of all distances, or the largest if that is 0."""
    finite = np.abs(values[np.isfinite(values)])
    if not finite.size:
        return 0.0
    return float(np.percentile(finite, _PERCENTILES[1])) or float(finite.max())


def _rounded(channels: Array) -> Picture:
    """Return 0 to 255 as uint8, with NAN_COLOUR where any channel is NaN."""
    missing = np.isnan(channels)
    found = np.where(missing, 0, channels + 0.5).astype(np.uint8)
    found[missing.any(axis=-1)] = NAN_COLOUR
    return found


def reduced(frame: Array, height: int, width: int) -> Array:
    """Return (channels, height, width) means of the (channels, more, more) values of a frame; a NaN leaves no mean.

    >>> reduced(np.arange(6.0).reshape(1, 2, 3), 1, 3).tolist(), reduced(np.arange(5.0).reshape(1, 1, 5), 1, 2).tolist()
    ([[[1.5, 2.5, 3.5]]], [[[0.5, 3.0]]])
    """
    for axis, length in ((1, height), (2, width)):
        if frame.shape[axis] != length:
            edges = np.arange(length + 1) * frame.shape[axis] // length
            counts = np.diff(edges).reshape([-1 if place == axis else 1 for place in range(3)])
            frame = np.add.reduceat(frame, edges[:-1], axis=axis) / counts
    return frame
