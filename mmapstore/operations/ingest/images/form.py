"""The form in which images are wanted, checked; and decided for the files that there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....plain.errors import InvalidTypeError, InvalidValueError
from .decoding import ImageDecoder, ImageHeader
from .placement import FITS
from .values import values_for


@dataclass(frozen=True)
class ImageForm:
    """The form of pixels that a user asks for: see `Images`."""

    size: tuple[int, int] | None
    fit: str
    channels: int | None
    dtype: Any
    scale: Any

    @classmethod
    def of(cls, size: int | Sequence[int] | None, fit: str, channels: int | None, dtype: Any, scale: Any) -> ImageForm:
        if fit not in FITS:
            raise InvalidValueError(f"fit={fit!r} is not understood; expected one of {', '.join(map(repr, FITS))}.")
        if channels is not None and (isinstance(channels, bool) or channels not in (1, 2, 3, 4)):
            raise InvalidValueError(
                f"channels={channels!r} is not understood; expected 1 (grey), 2 (grey, alpha), 3 (RGB), 4 (RGB, alpha) or None."
            )
        return cls(checked_size(size), fit, channels, dtype, scale)

    def decoder(self, files: Sequence[tuple[str, ImageHeader]]) -> ImageDecoder:
        """Return the decoder of these files, at least one, into images all alike. An error names the files that do not fit."""
        self.require_one_size(files)
        stored: dict[str, str] = {}
        for path, header in files:
            stored.setdefault(header.dtype, path)
        channels = self.channels or _common_channels([header for _, header in files])
        values = values_for(self.dtype, self.scale, list(stored.items()), channels)
        deep = next((path for path, header in files if header.is_reduced), None)
        if deep is not None and self.dtype is None:
            raise InvalidValueError(
                f"{deep} has 16 bits per colour, of which Pillow reads 8. "
                "Say dtype='uint8' (--dtype uint8; or 'float32') if that will do, or convert it to an array with another program."
            )
        measured = next(((name, path) for name, path in stored.items() if name != "uint8"), None)
        if measured is not None and channels in (2, 4):
            raise InvalidValueError(
                f"{measured[1]} holds {measured[0]} values, which come without transparency: "
                f"channels={channels} cannot be had. Say channels=1, or 3 for the same values three times."
            )
        return ImageDecoder(self.size, self.fit, channels, values)

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
        """The same place for label masks beside the pictures: their numbers stay."""
        return ImageForm(self.size, self.fit, None, None, None)

    def to_json(self) -> dict[str, Any]:
        """Small JSON for the manifest: what was done to the pixels."""
        scale = self.scale if self.scale is None or isinstance(self.scale, str) else repr(self.scale)
        return {"size": list(self.size), "fit": self.fit, "scale": scale} if self.size else {"scale": scale}


def _common_channels(headers: Sequence[ImageHeader]) -> int:
    """Colour if any image has it, since grey can be shown in it; transparency if all have it."""
    colour = any(header.colour for header in headers)
    alpha = all(header.alpha and header.dtype == "uint8" for header in headers)
    return (3 if colour else 1) + alpha


def checked_size(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    both = (size, size) if isinstance(size, int) and not isinstance(size, bool) else size
    if not isinstance(both, Sequence) or isinstance(both, (str, bytes)) or len(both) != 2:
        raise InvalidTypeError(f"size={size!r} is not understood; expected (height, width) in pixels, or one number for both.")
    if any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in both):
        raise InvalidValueError(f"size={size!r} is not a size; expected (height, width), whole numbers of pixels from 1 on.")
    return int(both[0]), int(both[1])
