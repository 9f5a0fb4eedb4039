"""One image file through Pillow: what its header tells, and its pixels, upright, in the size and the channels asked for."""

from __future__ import annotations

import contextlib
import functools
import os
import struct
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ....files.descriptors import check_is_file
from ....files.system_errors import explaining_read_errors, raised_in
from ....plain.errors import DamagedFileError, InvalidValueError, MissingPackageError, MmapstoreError, UnsafeFileError
from .pages import is_deep, is_unsigned_of_32_bits, pages_of
from .placement import Placement, draft_scale, upright_size
from .values import Values

Array = np.ndarray[Any, np.dtype[Any]]

# Formats that Pillow hands to other programs (EPS to Ghostscript), only identifies, or only draws.
_NOT_PICTURES = ("EPS", "WMF", "MPEG", "HDF5", "BUFR", "GRIB")
_ORIENTATION = 0x0112  # EXIF
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_GREY = ("1", "L", "LA", "La")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_JPEG = ("JPEG", "MPO")
_MOST_ROWS = 512
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_STREAMED = (
    "JPEG",
    "MPO",
    "PNG",
    "BMP",
    "PPM",
    "TIFF",
    "GIF",
)  # decoded row by row; others hold the file, or a picture of their own
_BROKEN = "Open it in a viewer, copy it again, or leave it out with skip_broken=True (--skip-broken)."


@functools.cache
def _pillow() -> Any:
    try:
        import PIL.Image
    except ImportError as error:
        raise MissingPackageError("Reading images needs Pillow. Install it with: pip install 'mmapstore[images]'") from error
    PIL.Image.init()  # here, once: plugins are registered for the whole process, which is no work for threads
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return PIL.Image


@functools.cache
def _formats() -> tuple[str, ...]:
    return tuple(name for name in _pillow().OPEN if name not in _NOT_PICTURES)


def reads_heif() -> bool:
    """True if pillow-heif is installed, or another plugin for HEIF is registered."""
    return "HEIF" in _formats()


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the formats that Pillow reads here by itself, such as ".jpg". Raises MissingPackageError without Pillow."""
    readable = set(_formats()) - {"HEIF"}
    return frozenset(suffix for suffix, name in _pillow().registered_extensions().items() if name in readable)


def is_heif_start(first: bytes) -> bool:
    """True if a file that begins with these 12 bytes is HEIF, which Pillow reads with pillow-heif only."""
    return first[4:8] == b"ftyp" and first[8:12] in _HEIF_BRANDS


def allow_pixels(most: int) -> None:
    """Set Pillow's limit against decompression bombs, for this whole process."""
    _pillow().MAX_IMAGE_PIXELS = most


class ImageHeader(NamedTuple):
    """The header of an image file, read before a pixel is decoded.

    Attributes
    ----------
    stored : (height, width) in pixels, as they lie in the file
    orientation : 1 to 8, as EXIF counts, of what is still to be done to make it upright
    dtype : of its values: uint8, uint16, int32 or float32
    colour, alpha : whether it has them
    is_reduced : 16 bits of colour, of which Pillow decodes the upper 8
    is_jpeg : it can be decoded smaller
    mode : Pillow's name of how pixels lie in memory
    codec_nbytes : bytes that its decoder holds beside the pixels
    is_unsigned : its int32 values are unsigned ones of 32 bits
    pages : numbers of the pictures in the file that are samples, all of this header
    left_out : in words, what of the file gives no samples; "" for nothing
    """

    stored: tuple[int, int]
    orientation: int
    dtype: str
    colour: bool
    alpha: bool
    is_reduced: bool
    is_jpeg: bool
    mode: str
    codec_nbytes: int
    is_unsigned: bool = False
    pages: Sequence[int] = range(1)
    left_out: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as one looks at it."""
        return upright_size(self.stored, self.orientation)


def read_header(path: str) -> ImageHeader:
    """Look at an image without decoding it.

    Raises DamagedFileError, UnsafeFileError (more pixels than Pillow's limit), NotFoundError, NotReadableError.
    """
    with _opened(path) as image:
        header, pages, left_out = pages_of(image, path, lambda: _header(image, path))
        _require_pixels(header.stored, path)
        found: ImageHeader = header._replace(pages=pages, left_out=left_out)
        return found


def read_numbers(path: str) -> tuple[Array, list[int] | None]:
    """The numbers of a picture without colours, (height, width), of a palette its indices; and its palette, red, green, blue.

    Of a large picture every so many-th row alone.
    """
    with _opened(path) as image:
        image.load()
        found: Array = np.asarray(image)
        return found[:: max(1, len(found) // _MOST_ROWS)].astype(np.int64), image.getpalette() if image.mode == "P" else None


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    """The image, not yet decoded. What goes wrong with it inside is translated, and names it."""
    pillow = _pillow()
    with explaining_read_errors(path):
        check_is_file(path, os.stat(path))  # opening a pipe waits for who writes to it
    with (
        explaining_read_errors(path, _damage),
        Path(path).open("rb") as file,
        pillow.open(file, formats=_formats()) as image,
    ):
        _require_pixels((image.height, image.width), path)
        yield image


def _require_pixels(size: tuple[int, int], path: str) -> None:
    limit = _pillow().MAX_IMAGE_PIXELS
    if limit is not None and size[0] * size[1] > limit:
        raise _bomb(path, f"{size[1]} x {size[0]} pixels")


def _damage(error: Exception, path: str) -> MmapstoreError | None:
    """Translate what Pillow raises for damaged input, which is not bounded by any list."""
    pillow = _pillow()
    if isinstance(error, (pillow.DecompressionBombError, pillow.DecompressionBombWarning)):
        return _bomb(path, str(error))
    if isinstance(error, MemoryError) or getattr(error, "errno", None) or not raised_in(error, "PIL", "pillow_heif"):
        return None
    if isinstance(error, pillow.UnidentifiedImageError):
        size = os.path.getsize(path)
        found = "is empty" if size == 0 else f"is no image that Pillow can read ({size} bytes)"
        return DamagedFileError(f"{path} {found}{_other_reader(path)}. {_BROKEN}")
    return DamagedFileError(f"{path} cannot be decoded ({type(error).__name__}: {error}). {_BROKEN}")


def _other_reader(path: str) -> str:
    """Return the reader of a file whose format phones write as .jpg too, or of a kind that Pillow does not know."""
    with Path(path).open("rb") as file:
        first = file.read(12)
    if is_heif_start(first) and not reads_heif():
        return "; it is HEIF: pip install pillow-heif"
    is_tiff = first[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    return f"; it is TIFF, which tifffile may read: mmapstore.ingest(tifffile.imread({path!r}), ...)" if is_tiff else ""


def _bomb(path: str, found: str) -> UnsafeFileError:
    limit = _pillow().MAX_IMAGE_PIXELS
    return UnsafeFileError(
        f"{path} declares {found}, over Pillow's limit of {limit} pixels against decompression bombs. "
        "If you trust it, raise the limit first: PIL.Image.MAX_IMAGE_PIXELS = ... (--max-pixels)."
    )


def _header(image: Any, path: str) -> ImageHeader:
    mode, width, height = image.mode, image.width, image.height
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        dtype = "uint16"
    else:
        dtype = {"I": "int32", "F": "float32"}.get(mode, "uint8")
    bands = len(image.getbands())
    codec = 1 << 20
    if image.format in _JPEG:
        codec += 2 * bands * height * width if image.info.get("progressive") else 0  # all coefficients, before the first pixel
    elif image.format not in _STREAMED:
        codec += 4 * bands * height * width + 2 * os.path.getsize(path)
    if image.format != "TIFF" and getattr(image, "n_frames", 1) > 1:
        codec += 12 * height * width  # the picture before, the one that it changes, and what is below both
    raw_modes = [str(part) for tile in image.tile for part in (tile[3] if isinstance(tile[3], (tuple, list)) else (tile[3],))]
    return ImageHeader(
        (height, width),
        _orientation(image),
        dtype,
        mode not in _GREY and dtype == "uint8",
        mode in _WITH_ALPHA or "transparency" in image.info,
        dtype == "uint8" and (_holds_16_bits(image.format, raw_modes) or is_deep(image)),
        image.format in _JPEG,
        mode,
        codec,
        is_unsigned_of_32_bits(image),
    )


def _holds_16_bits(format: str | None, raw_modes: list[str]) -> bool:
    if format == "PPM":
        return any(part.isdigit() and int(part) > 255 for part in raw_modes)
    return any(";16" in part for part in raw_modes)


def _orientation(image: Any) -> int:
    if image.format == "TIFF":
        return 1  # Pillow turns these itself
    try:
        # Not image.getexif(): for PNG that decodes the whole picture in search of a chunk behind it.
        found = _pillow().Image.getexif(image).get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return 1  # EXIF that cannot be read says nothing of the pixels, which can
    return int(found) if isinstance(found, int) and 1 <= found <= 8 else 1


@dataclass(frozen=True)
class ImageDecoder:
    """Files to arrays of one shape. Threads may share it.

    Attributes
    ----------
    size : (height, width) of the images, None for that of each file
    fit : "crop", "pad" or "stretch", as `Placement.of` explains
    channels : 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha
    values : as which numbers they are written
    is_mask : numbers of classes, also of palettes, are kept, and resized by taking the nearest pixel
    """

    size: tuple[int, int] | None
    fit: str
    channels: int
    values: Values
    is_mask: bool = False

    def placement(self, header: ImageHeader) -> Placement:
        """The place of the upright picture."""
        return Placement.of(header.size, self.size, self.fit)

    def decode(self, path: str, header: ImageHeader) -> Array:
        """The image as written, (height, width, channels): a new array, or a view of one, in native byte order.

        The first that is a sample of a file with several. Resized with a bilinear filter as wide as the reduction needs. Raises
        DamagedFileError also for a file that is cut off.
        """
        with contextlib.closing(self.pages(path, header, header.pages[:1])) as pages:
            return next(pages)

    def pages(self, path: str, header: ImageHeader, numbers: Sequence[int]) -> Generator[Array]:
        """The same for these pages of a file, rising, which is opened once: those of an animation build on each other."""
        with _opened(path) as image:
            for number in numbers:
                if number or len(header.pages) > 1:
                    image.seek(number)
                yield self._decoded(image, path, header)

    def _decoded(self, image: Any, path: str, header: ImageHeader) -> Array:
        placement = self.placement(header)
        factor = (1.0, 1.0)
        if image.size != header.stored[::-1]:
            raise _changed(path, header, image)
        scale = 1 if self.is_mask else draft_scale(placement)
        if scale > 1 and header.is_jpeg:
            height, width = header.stored
            reduced = image.draft(None, (width // scale, height // scale))
            if reduced is not None:
                factor = (reduced[1][3] / height, reduced[1][2] / width)
        image.load()
        if _orientation(image) != header.orientation:
            raise _changed(path, header, image)
        if header.is_unsigned and image.getextrema()[0] < 0:
            raise InvalidValueError(
                f"{path} holds unsigned integers of 32 bits over {2**31 - 1}, which Pillow takes for negative ones. "
                f"Read it with tifffile: mmapstore.ingest(tifffile.imread({path!r}), ...)."
            )
        return self._finished(self._pixels(image, header, placement, factor), header, placement)

    def _pixels(self, image: Any, header: ImageHeader, placement: Placement, factor: tuple[float, float]) -> Array:
        """The part that is wanted, resized, still as it lies in the file: (height, width, channels)."""
        if self.is_mask:
            if header.dtype == "uint16":
                image = image.convert("I")  # Pillow resizes 16 bits in one order of bytes alone
            found: Array = np.asarray(_resized(image, header, placement, factor, _pillow().Resampling.NEAREST))
            return found.reshape(*found.shape[:2], self.channels).astype(self.values.dtype)
        if header.dtype == "uint8":
            wanted = _MODES[self.channels]
            if image.mode not in ("L", "LA", "RGB", "RGBA") or ("transparency" in image.info and "A" not in image.mode):
                # Palettes and bits cannot be resized; transparency that stands in the header becomes alpha only here.
                image = image.convert(
                    "RGBA" if header.alpha and header.colour else "LA" if header.alpha else _MODES[3 if header.colour else 1]
                )
            image = _resized(image, header, placement, factor)
            if image.mode != wanted:
                image = image.convert(wanted)
            found = np.asarray(image)
            return found.reshape(*found.shape[:2], self.channels)
        if header.dtype == "uint16" and placement != Placement.of(header.size, None, ""):
            image = image.convert("I")
        found = np.asarray(_resized(image, header, placement, factor))
        if found.dtype != np.dtype(header.dtype):  # also where bytes lie the other way round
            found = (np.clip(found, 0, 65535) if header.dtype == "uint16" else found).astype(header.dtype)
        return np.repeat(found[:, :, None], self.channels, axis=2)

    def _finished(self, pixels: Array, header: ImageHeader, placement: Placement) -> Array:
        # Turned when it is small: the part that is cut out is in the middle, so it is the same one.
        if header.orientation in (2, 3, 7, 8):
            pixels = pixels[:, ::-1]
        if header.orientation in (3, 4, 6, 7):
            pixels = pixels[::-1]
        if header.orientation >= 5:
            pixels = pixels.transpose(1, 0, 2)
        height, width = self.size or header.size
        if pixels.shape[:2] != (height, width):
            top, left = placement.at
            padded = np.zeros((height, width, self.channels), pixels.dtype)
            padded[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
            pixels = padded
        return self.values.of(pixels)

    def working_nbytes(self, header: ImageHeader) -> int:
        """Most bytes held while this file is decoded, its result among them."""
        placement = self.placement(header)
        scale = draft_scale(placement) if header.is_jpeg else 1
        decoded = -(-header.stored[0] // scale) * -(-header.stored[1] // scale)
        in_memory = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}.get(header.mode, 4)
        copies = 0 if header.mode in ("L", "RGB") and not header.alpha else 8  # converted, and with alpha multiplied for resizing
        height, width = self.size or header.size
        written = height * width
        rows = int(placement.box[2] - placement.box[0]) + 1
        between = (rows * placement.size[1] + 2 * written) * 4  # after the first of two passes of resizing; resized, and converted
        # As bytes in parts, joined, and padded; or, beyond 8 bits, also cut to their range and repeated for each channel.
        taken = written * (3 * self.channels if header.dtype == "uint8" else 14 + 4 * self.channels)
        values = self.values
        is_kept = values.scale is None and values.dtype.name == header.dtype
        scaled = 0 if is_kept else written * self.channels * (max(4, values.dtype.itemsize) + values.dtype.itemsize)
        return header.codec_nbytes + decoded * (in_memory + copies) + between + taken + scaled


def _resized(image: Any, header: ImageHeader, placement: Placement, factor: tuple[float, float], filter: Any = None) -> Any:
    """Cut and resize a picture as it lies in the file, each side of which is `factor` of what its header says."""
    box, size = placement.box, placement.size
    if header.orientation >= 5:
        box, size = (box[1], box[0], box[3], box[2]), (size[1], size[0])
    top, bottom = (min(edge * factor[0], image.height) for edge in (box[0], box[2]))
    left, right = (min(edge * factor[1], image.width) for edge in (box[1], box[3]))
    is_whole = (top, left) == (0, 0) and bottom == image.height and right == image.width
    if is_whole and image.height == size[0] and image.width == size[1]:
        return image
    filter = _pillow().Resampling.BILINEAR if filter is None else filter
    return image.resize((size[1], size[0]), filter, box=(left, top, right, bottom))


def _changed(path: str, header: ImageHeader, image: Any) -> InvalidValueError:
    return InvalidValueError(
        f"{path} is {image.width} x {image.height} pixels with orientation {_orientation(image)} once decoded; its header promised "
        f"{header.stored[1]} x {header.stored[0]} with {header.orientation}. It was changed meanwhile, "
        "or tells its orientation behind the pixels: open it and save it again."
    )
