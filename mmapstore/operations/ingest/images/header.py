"""The header of an image file, read through Pillow before a pixel is decoded, and which of its pictures are samples."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import os
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ....files.descriptors import check_is_file
from ....files.system_errors import explaining_read_errors, raised_in
from ....plain.errors import DamagedFileError, InvalidValueError, MissingPackageError, MmapstoreError, UnsafeFileError
from .placement import upright_size

# Formats that Pillow hands to other programs (EPS to Ghostscript), only identifies, or only draws.
_NOT_PICTURES = ("EPS", "WMF", "MPEG", "HDF5", "BUFR", "GRIB")
# Formats whose pictures follow each other. Others hold one picture in several sizes (ICO), in layers (PSD), with a preview (MPO).
_ANIMATIONS = ("GIF", "WEBP", "PNG", "AVIF", "FLI")
_JPEG = ("JPEG", "MPO")
_STREAMED = (*_JPEG, "PNG", "BMP", "PPM", "TIFF", "GIF")  # decoded row by row; others hold the file, or a picture of their own
_USUAL = ("JPEG", "PNG")
_GREY = ("1", "L", "LA", "La")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_ORIENTATION = 0x0112  # EXIF
_SUBFILE_TYPE, _DESCRIPTION, _BITS, _SAMPLES, _SAMPLE_FORMAT = 254, 270, 258, 277, 339  # TIFF
_REDUCED_OR_MASK = 1 | 4  # bits of the subfile type: the picture of another page once more, smaller; its transparency
_MOST_BOXES, _DEPTH_AT = 1 << 16, 38  # bytes before the codestream of JPEG 2000; where a SIZ segment has the bits of a value
_BROKEN = "Open it in a viewer, copy it again, or leave it out with skip_broken=True (--skip-broken)."


@functools.cache
def pillow() -> Any:
    """Return `PIL.Image`, with the plugins of all formats registered."""
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
    # Pillow asks one after the other: some, unlike the usual ones, read a part of the file before they say no.
    return tuple(sorted((name for name in pillow().OPEN if name not in _NOT_PICTURES), key=lambda name: name not in _USUAL))


def reads_heif() -> bool:
    """True if pillow-heif is installed, or another plugin for HEIF is registered."""
    return "HEIF" in _formats()


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of formats that Pillow reads by itself, such as ".jpg". Raises MissingPackageError without Pillow."""
    readable = set(_formats()) - {"HEIF"}
    return frozenset(suffix for suffix, name in pillow().registered_extensions().items() if name in readable)


def is_heif_start(first: bytes) -> bool:
    """True if a file that begins with these 12 bytes is HEIF, which Pillow reads with pillow-heif only."""
    return first[4:8] == b"ftyp" and first[8:12] in _HEIF_BRANDS


class ImageHeader(NamedTuple):
    """The header of an image file, read before a pixel is decoded."""

    stored: tuple[int, int]  # (height, width) in pixels, as they lie in the file
    orientation: int  # 1 to 8, as EXIF counts, where the picture is still to be turned upright
    dtype: str  # of the values: uint8, uint16, int32 or float32
    colour: bool
    alpha: bool
    is_reduced: bool  # 16 bits of colour, of which Pillow decodes the upper 8
    is_jpeg: bool  # which can be decoded smaller
    mode: str  # Pillow's name of how pixels lie in memory
    codec_nbytes: int  # bytes that the decoder holds beside the pixels
    is_unsigned: bool = False  # the int32 values are unsigned ones of 32 bits
    pages: Sequence[int] = range(1)  # numbers of the pictures in the file that are samples, all of this header
    left_out: str = ""  # in words, the parts of the file that give no samples

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright picture."""
        return upright_size(self.stored, self.orientation)


def read_header(path: str) -> ImageHeader:
    """Look at an image without decoding it.

    Raises DamagedFileError, UnsafeFileError (more pixels than Pillow's limit), NotFoundError, NotReadableError.
    """
    with opened(path) as image:
        header = _with_pages(image, path)
        _require_pixels(header.stored, path)
        return header


@contextlib.contextmanager
def opened(path: str) -> Iterator[Any]:
    """Yield the image, not yet decoded. Errors of Pillow inside are translated, and name the file."""
    with explaining_read_errors(path):
        check_is_file(path, os.stat(path))  # opening a pipe waits for who writes to it
    with explaining_read_errors(path, _damage), Path(path).open("rb") as file, pillow().open(file, formats=_formats()) as image:
        _require_pixels((image.height, image.width), path)
        yield image


def _require_pixels(size: tuple[int, int], path: str) -> None:
    limit = pillow().MAX_IMAGE_PIXELS
    if limit is not None and size[0] * size[1] > limit:
        raise _bomb(path, f"{size[1]} x {size[0]} pixels")


def _damage(error: Exception, path: str) -> MmapstoreError | None:
    """Translate the errors of Pillow for damaged input, which may be of any class."""
    pil = pillow()
    if isinstance(error, (pil.DecompressionBombError, pil.DecompressionBombWarning)):
        return _bomb(path, str(error))
    if isinstance(error, MemoryError) or getattr(error, "errno", None) or not raised_in(error, "PIL", "pillow_heif"):
        return None
    if isinstance(error, pil.UnidentifiedImageError):
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
    limit = pillow().MAX_IMAGE_PIXELS
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
    tags = image.tag_v2 if image.format == "TIFF" else {}
    return ImageHeader(
        (height, width),
        orientation_of(image),
        dtype,
        mode not in _GREY and dtype == "uint8",
        mode in _WITH_ALPHA or "transparency" in image.info,
        dtype == "uint8" and _is_deep(image),
        image.format in _JPEG,
        mode,
        codec,
        mode == "I" and 32 in tags.get(_BITS, ()) and 2 not in tags.get(_SAMPLE_FORMAT, (1,)),  # Pillow reads them as signed ones
    )


def orientation_of(image: Any) -> int:
    if image.format == "TIFF":
        return 1  # Pillow turns these itself
    try:
        # Not image.getexif(): for PNG that decodes the whole picture in search of a chunk behind it.
        found = pillow().Image.getexif(image).get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return 1  # EXIF that cannot be read says nothing of the pixels, which can
    return int(found) if isinstance(found, int) and 1 <= found <= 8 else 1


def _with_pages(image: Any, path: str) -> ImageHeader:
    """Return the header of an opened file, with the pages that are samples, and in words the parts that are not.

    Pages of a TIFF are samples if they have the size and the kind of the first one. Thumbnails, and levels of a pyramid, are marked
    in the file. Raises InvalidValueError for a stack behind its first page, where only tifffile finds it.
    """
    header = _header(image, path)
    if image.format != "TIFF":
        count = getattr(image, "n_frames", 1) if image.format in _ANIMATIONS else 1
        # Frames behind the first may have colours that the first has not; only decoding all would show it.
        return header._replace(colour=header.dtype == "uint8", pages=range(count)) if count > 1 else header
    _require_tiff_values(image, path)
    left_out = ""
    values, bands = int(image.tag_v2.get(_SAMPLES, 1)), len(image.getbands())
    if values > bands and image.mode not in ("P", "1"):
        left_out = f"of {values} values per pixel Pillow reads {bands}"
    found: dict[int, ImageHeader | None] = {}
    count = 0
    with contextlib.suppress(EOFError):  # not n_frames, which fails at a page of a kind that Pillow does not know
        for count in itertools.count():
            try:
                image.seek(count)
            except (SyntaxError, ValueError, KeyError, TypeError):
                found[count] = None
                continue
            if not int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & _REDUCED_OR_MASK:
                found[count] = _header(image, path)
    image.seek(0)
    _require_all_pages(image, path, count)
    header = next((each for each in found.values() if each is not None), header)
    pages = [page for page, each in found.items() if each == header] or [0]
    if len(pages) < len(found):
        left_out = f"{len(found) - len(pages)} of its {len(found)} pages differ from the first in size or kind"
    return header._replace(pages=range(count) if len(pages) == count else tuple(pages), left_out=left_out)


def _require_tiff_values(image: Any, path: str) -> None:
    """Raise InvalidValueError for a TIFF of which Pillow (13.0) reads other values than are stored, as tifffile shows."""
    bits = image.tag_v2.get(_BITS, (1,))
    if 8 in bits and 2 in image.tag_v2.get(_SAMPLE_FORMAT, (1,)):
        what = "signed integers of 8 bits, which Pillow takes for unsigned ones"
    elif image.tag_v2.prefix == b"MM" and image.mode in ("I", "F") and any(tile[0] == "libtiff" for tile in image.tile):
        what = "compressed big-endian numbers, whose bytes Pillow swaps twice"
    else:
        return
    raise InvalidValueError(f"{path} holds {what}. Read it with tifffile: mmapstore.ingest(tifffile.imread({path!r}), ...).")


def _is_deep(image: Any) -> bool:
    """True if a file holds more than 8 bits per value, of which Pillow reads 8."""
    if image.format == "JPEG2000":  # where Pillow's decoder does not tell
        at = image.fp.tell()
        image.fp.seek(0)
        _, marker, size = image.fp.read(_MOST_BOXES).partition(
            b"\xff\x4f\xff\x51"
        )  # where the codestream begins with its SIZ segment
        image.fp.seek(at)
        return bool(marker) and len(size) > _DEPTH_AT and (size[_DEPTH_AT] & 0x7F) >= 8  # stored less one, the first bit for a sign
    raw = [str(part) for tile in image.tile for part in (tile[3] if isinstance(tile[3], (tuple, list)) else (tile[3],))]
    if image.format == "PPM":
        return any(part.isdigit() and int(part) > 255 for part in raw)
    return any(";16" in part for part in raw) or any(tile[0] == "SGI16" for tile in image.tile)


def _require_all_pages(image: Any, path: str, count: int) -> None:
    """Raise InvalidValueError for a stack of one page with bare numbers behind it, as ImageJ (over 4 GB) and tifffile can write."""
    text = str(image.tag_v2.get(_DESCRIPTION, ""))
    told = re.search(r"^images=(\d+)", text, re.MULTILINE) if text.startswith("ImageJ=") else None
    planes = int(told[1]) if told else 1
    if text.startswith("{") and '"truncated"' in text:
        page = image.width * image.height * int(image.tag_v2.get(_SAMPLES, 1))
        planes = math.prod(json.loads(text).get("shape", [page])) // page
    if count == 1 and planes > 1:
        raise InvalidValueError(
            f"{path} says that it holds {planes} pictures, and has one page: the others are bare numbers behind it. "
            f"Read it with tifffile: mmapstore.ingest(tifffile.memmap({path!r}), ...)."
        )
