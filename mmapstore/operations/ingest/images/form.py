"""The form in which images are asked for, checked: size, fit, channels, and the numbers that are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....plain.errors import InvalidTypeError, InvalidValueError
from ..contract import Array
from .header import ImageHeader
from .placement import FITS

# The number of white. Images of 32-bit integers and of floats hold measurements: nothing in the file says what is white.
FULL_SCALE = {"uint8": 255, "uint16": 65535}
_WHOLE = ("uint8", "uint16")
_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Values:
    """The conversion of stored numbers to written ones."""

    dtype: np.dtype[Any]  # as written
    scale: str | None = None  # "unit", "each" or "mean", which has `mean` and `deviation`
    mean: tuple[float, ...] = ()  # one number, or one per channel
    deviation: tuple[float, ...] = ()

    def of(self, pixels: Array) -> Array:
        """Return `pixels`, (height, width, channels), as written: the same array where nothing changes, else a new one.

        >>> Values(np.dtype("float32"), "unit").of(np.array([[[0], [51], [255]]], np.uint8)).ravel().tolist()
        [0.0, 0.20000000298023224, 1.0]
        """
        full = FULL_SCALE.get(pixels.dtype.name)
        if pixels.dtype == self.dtype and self.scale is None:
            return pixels
        if self.dtype.kind == "u" and full is not None:
            if full == 255:
                return np.multiply(pixels, 257, dtype=self.dtype)  # 0xAB becomes 0xABAB: black and white stay what they are
            return ((pixels.astype(np.uint32) + 128) // 257).astype(self.dtype)
        working = np.promote_types(self.dtype, np.float32)
        found = pixels.astype(working)
        if self.scale == "each":
            found -= working.type(found.mean(dtype=np.float64))
            # Row by row: `std` would hold the image twice as float64. And never 0, as tf.image.per_image_standardization has it.
            squares = sum(float(np.vdot(row, row)) for row in found)
            found /= working.type(max(squares / found.size, 1 / found.size) ** 0.5)
        elif self.scale is not None:
            if full is not None:
                found /= working.type(full)
            if self.scale == "mean":
                found -= np.asarray(self.mean, working)
                found /= np.asarray(self.deviation, working)
        return found.astype(self.dtype, copy=False)


def values_for(dtype: Any, scale: Any, stored: Sequence[tuple[str, str]], channels: int) -> Values:
    """Check the form asked for against the files: `stored` names each dtype found in them, and a file that has it.

    Raises InvalidTypeError or InvalidValueError, naming the files, if numbers would be mixed that mean different things.
    """
    wanted = _checked_dtype(dtype, scale)
    kind, mean, deviation = _checked_scale(scale, channels)
    measured = next(((name, path) for name, path in stored if name not in FULL_SCALE), None)
    if measured is not None and (kind == "unit" or (wanted is not None and wanted.kind != "f" and wanted.name != measured[0])):
        asked = "scale='unit'" if kind == "unit" else f"dtype={wanted.name!r}" if wanted is not None else ""
        raise InvalidValueError(
            f"{measured[1]} holds {measured[0]} values, of which nothing says what is white: {asked} cannot be meant. "
            "Keep them (leave dtype and scale out), or take dtype='float32' with scale='each' or scale=(mean, deviation)."
        )
    mixed_is_fine = kind in ("unit", "each", "mean") or (wanted is not None and wanted.kind == "u")
    if len(stored) > 1 and (not mixed_is_fine or measured is not None):
        (first, one), (second, other) = stored[:2]
        raise InvalidValueError(
            f"{one} holds {first} values and {other} {second}: in one array they would mean different things. "
            + (
                "Say dtype='uint8' (--dtype uint8) or 'uint16', or dtype='float32' with scale='unit', to bring them to one scale."
                if measured is None
                else "Ingest them apart."
            )
        )
    if wanted is None:
        wanted = np.dtype(stored[0][0])
    if wanted.name == "float16" and kind is None and stored[0][0] != "uint8":
        raise InvalidValueError(
            f"{stored[0][1]} holds {stored[0][0]} values, which float16 cannot hold (at most 65504). "
            "Say scale='unit', or dtype='float32'."
        )
    if wanted.name not in (*_WHOLE, *_FLOATS, stored[0][0]):
        raise InvalidValueError(
            f"dtype={wanted.name!r} is not what images are written as; expected uint8, uint16, float16 or float32."
        )
    return Values(wanted, kind, mean, deviation)


def _checked_dtype(dtype: Any, scale: Any) -> np.dtype[Any] | None:
    if dtype is None:
        return np.dtype(np.float32) if scale is not None else None
    try:
        wanted: np.dtype[Any] = np.dtype(dtype).newbyteorder("=")
    except TypeError as error:
        raise InvalidTypeError(
            f"dtype={dtype!r} is not a dtype; expected uint8, uint16, float16 or float32, or None for what the files hold."
        ) from error
    if scale is not None and wanted.kind != "f":
        raise InvalidValueError(
            f"scale={scale!r} makes fractions, which {wanted.name} cannot hold. "
            "Say dtype='float32' or 'float16', or leave scale out."
        )
    return wanted


def _checked_scale(scale: Any, channels: int) -> tuple[str | None, tuple[float, ...], tuple[float, ...]]:
    if scale is None or scale in ("unit", "each"):
        return scale, (), ()
    expected = "expected 'unit', 'each' or (mean, deviation), each one number or one per channel, of values from 0 to 1"
    if isinstance(scale, str) or not isinstance(scale, Sequence) or len(scale) != 2:
        raise InvalidValueError(f"scale={scale!r} is not understood; {expected}.")
    try:
        mean, deviation = (tuple(float(value) for value in np.atleast_1d(np.asarray(part, np.float64))) for part in scale)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(f"scale={scale!r} is not understood; {expected}.") from error
    if any(len(part) not in (1, channels) for part in (mean, deviation)) or not np.isfinite((*mean, *deviation)).all():
        raise InvalidValueError(f"scale={scale!r} does not fit images of {channels} channels; {expected}.")
    if min(deviation) <= 0:
        raise InvalidValueError(f"scale={scale!r} divides by {min(deviation):g}; every deviation has to be more than 0.")
    return "mean", mean, deviation


@dataclass(frozen=True)
class ImageForm:
    """The form of pixels that a user asks for, as `Images` explains."""

    size: tuple[int, int] | None
    fit: str
    channels: int | None
    dtype: Any
    scale: Any

    @classmethod
    def of(cls, size: int | Sequence[int] | None, fit: str, channels: int | None, dtype: Any, scale: Any) -> ImageForm:
        require_one_of("fit", fit, FITS)
        require_one_of("channels", channels, (1, 2, 3, 4, None))
        return cls(checked_size(size), fit, channels, dtype, scale)

    def require_one_size(self, files: Sequence[tuple[str, ImageHeader]]) -> None:
        """Raise InvalidValueError for files of different sizes, if they are to be taken as they are."""
        if self.size is not None:
            return
        first, expected = files[0][0], files[0][1].size
        for path, header in files:
            if header.size != expected:
                raise InvalidValueError(
                    f"{first} is {expected[0]} x {expected[1]} pixels (height x width), "
                    f"{path} {header.size[0]} x {header.size[1]}. "
                    f"Say size=, such as size={expected} (--size {expected[0]}x{expected[1]}), to bring all to one size."
                )

    def of_masks(self) -> ImageForm:
        """Return the form of label masks beside the pictures: the same size and fit, their own numbers."""
        return ImageForm(self.size, self.fit, None, None, None)

    def to_json(self) -> dict[str, Any]:
        """Return small JSON for the manifest: size, fit and scale."""
        scale = self.scale if self.scale is None or isinstance(self.scale, str) else repr(self.scale)
        return {"size": list(self.size), "fit": self.fit, "scale": scale} if self.size else {"scale": scale}


def require_one_of(name: str, value: Any, understood: Sequence[Any]) -> None:
    """Raise InvalidValueError for a value of the argument `name` that is none of those understood."""
    if isinstance(value, bool) or value not in understood:
        raise InvalidValueError(f"{name}={value!r} is not understood; expected one of {', '.join(map(repr, understood))}.")


def checked_size(size: Any) -> tuple[int, int] | None:
    """Return (height, width) of a `size` argument, which may be one number for both; None for None."""
    if size is None:
        return None
    both = (size, size) if isinstance(size, int) and not isinstance(size, bool) else size
    if not isinstance(both, Sequence) or isinstance(both, (str, bytes)) or len(both) != 2:
        raise InvalidTypeError(f"size={size!r} is not understood; expected (height, width) in pixels, or one number for both.")
    if any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in both):
        raise InvalidValueError(f"size={size!r} is not a size; expected (height, width), whole numbers of pixels from 1 on.")
    return int(both[0]), int(both[1])
