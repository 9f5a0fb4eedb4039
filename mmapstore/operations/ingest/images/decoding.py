"""Image files as arrays of one shape through Pillow: decoded, upright, in the size and with the channels asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....plain.errors import DamagedFileError, InvalidValueError, NotFoundError, NotReadableError, UnsafeFileError
from ..contract import Array
from ..ordered_map import in_order
from .form import ImageForm, Values, values_for
from .header import ImageHeader, opened, orientation_of, pillow, read_header
from .placement import Placement, draft_scale

BROKEN = (DamagedFileError, UnsafeFileError, NotFoundError, NotReadableError)  # errors of files that skip_broken skips
_HEADERS_AT_ONCE = 4  # threads, which wait for the disk, or else for each other
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_MOST_ROWS = 512

Files = Sequence[tuple[str, ImageHeader]]


def skipping_broken(skip: bool) -> contextlib.suppress:
    """Return a context that suppresses the errors of broken files, if `skip`."""
    return contextlib.suppress(*(BROKEN if skip else ()))


def read_numbers(path: str) -> tuple[Array, list[int] | None]:
    """Return the numbers of a picture without colours, (rows, width), for a palette its indices; and the palette, red, green, blue.

    Rows are spread over the height of a large picture.
    """
    with opened(path) as image:
        image.load()
        found: Array = np.asarray(image)
        return found[:: max(1, len(found) // _MOST_ROWS)].astype(np.int64), image.getpalette() if image.mode == "P" else None


@dataclass(frozen=True)
class ImageDecoder:
    """A decoder of image files into arrays of one shape. Threads may share it."""

    size: tuple[int, int] | None  # (height, width) of the images, None for that of each file
    fit: str  # "crop", "pad" or "stretch", as `Placement.of` explains
    channels: int  # 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha
    values: Values  # the numbers that are written
    is_mask: bool = False  # numbers of classes, also of palettes, are kept, and resized by taking the nearest pixel

    def placement(self, header: ImageHeader) -> Placement:
        """Return the place of the upright picture."""
        return Placement.of(header.size, self.size, self.fit)

    def decode(self, path: str, header: ImageHeader) -> Array:
        """Return the first sample of a file as written, (height, width, channels): a new array, or a view of one, in native order.

        Images are resized with a bilinear filter as wide as the reduction needs. Raises DamagedFileError also for a file that is
        cut off.
        """
        with contextlib.closing(self.pages(path, header, header.pages[:1])) as pages:
            return next(pages)

    def pages(self, path: str, header: ImageHeader, numbers: Sequence[int]) -> Generator[Array]:
        """Yield these pages of a file, rising. The file is opened once: pages of an animation build on each other."""
        with opened(path) as image:
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
        if orientation_of(image) != header.orientation:
            raise _changed(path, header, image)
        if header.is_unsigned and image.getextrema()[0] < 0:
            raise InvalidValueError(
                f"{path} holds unsigned integers of 32 bits over {2**31 - 1}, which Pillow takes for negative ones. "
                f"Read it with tifffile: mmapstore.ingest(tifffile.imread({path!r}), ...)."
            )
        return self._finished(self._pixels(image, header, placement, factor), header, placement)

    def _pixels(self, image: Any, header: ImageHeader, placement: Placement, factor: tuple[float, float]) -> Array:
        """Return the part of the picture that is wanted, resized and not yet turned: (height, width, channels)."""
        if self.is_mask:
            if header.dtype == "uint16":
                image = image.convert("I")  # Pillow resizes 16 bits in one order of bytes alone
            found: Array = np.asarray(_resized(image, header, placement, factor, pillow().Resampling.NEAREST))
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
        """Return the most bytes held while a file is decoded, its result among them."""
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
    """Cut and resize a picture that is not yet turned, and whose sides are `factor` of those in its header."""
    box, size = placement.box, placement.size
    if header.orientation >= 5:
        box, size = (box[1], box[0], box[3], box[2]), (size[1], size[0])
    top, bottom = (min(edge * factor[0], image.height) for edge in (box[0], box[2]))
    left, right = (min(edge * factor[1], image.width) for edge in (box[1], box[3]))
    is_whole = (top, left) == (0, 0) and bottom == image.height and right == image.width
    if is_whole and image.height == size[0] and image.width == size[1]:
        return image
    filter = pillow().Resampling.BILINEAR if filter is None else filter
    return image.resize((size[1], size[0]), filter, box=(left, top, right, bottom))


def _changed(path: str, header: ImageHeader, image: Any) -> InvalidValueError:
    return InvalidValueError(
        f"{path} is {image.width} x {image.height} pixels with orientation {orientation_of(image)} once decoded; its header "
        f"promised {header.stored[1]} x {header.stored[0]} with {header.orientation}. It was changed meanwhile, "
        "or tells its orientation behind the pixels: open it and save it again."
    )


def picture_decoder(files: Files, form: ImageForm) -> ImageDecoder:
    """Return the decoder of these files, at least one, into images all alike. An error names the files that do not fit."""
    form.require_one_size(files)
    stored: dict[str, str] = {}
    for path, header in files:
        stored.setdefault(header.dtype, path)
    colour = any(header.colour for _, header in files)  # grey can be shown in colour
    alpha = all(header.alpha and header.dtype == "uint8" for _, header in files)
    channels = form.channels or (3 if colour else 1) + alpha
    values = values_for(form.dtype, form.scale, list(stored.items()), channels)
    deep = next((path for path, header in files if header.is_reduced), None)
    if deep is not None and form.dtype is None:
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
    return ImageDecoder(form.size, form.fit, channels, values)


class PictureFiles:
    """The files of one field of pictures, their headers (None for a skipped file), and their decoder."""

    decoder: ImageDecoder  # this and what follows: once `decode_by` has chosen it
    sample_shape: tuple[int, int, int]  # (height, width, channels)
    most_working_nbytes: int  # that decoding one file takes

    def __init__(self, paths: list[str], left_out: Container[int], skip_broken: bool) -> None:
        self.paths = paths
        self.headers = _headers(paths, left_out, skip_broken)

    def reorder(self, places: Sequence[int]) -> None:
        """Put file `places[i]` at place i, in these lists themselves."""
        self.paths[:] = [self.paths[number] for number in places]
        self.headers[:] = [self.headers[number] for number in places]

    def usable(self) -> list[tuple[str, ImageHeader]]:
        return [(path, header) for path, header in zip(self.paths, self.headers, strict=True) if header is not None]

    def decode_by(self, decoder_of: Callable[[Files], ImageDecoder]) -> None:
        """Choose the decoder for the usable files, of which there is at least one."""
        usable = self.usable()
        self.decoder = decoder_of(usable)
        height, width = self.decoder.size or usable[0][1].size
        self.sample_shape = (height, width, self.decoder.channels)
        self.most_working_nbytes = max(map(self.decoder.working_nbytes, {header for _, header in usable}))

    def decode(self, number: int) -> Array:
        """Return the first picture of a file."""
        header = self.headers[number]
        assert header is not None
        return self.decoder.decode(self.paths[number], header)

    def pages(self, number: int, first: int) -> Generator[Array]:
        """Yield the pictures of a file that are samples, without the `first` of them."""
        header = self.headers[number]
        assert header is not None
        return self.decoder.pages(self.paths[number], header, header.pages[first:])

    def working_nbytes(self, number: int) -> int:
        """Return the bytes that decoding a file takes."""
        header = self.headers[number]
        return 0 if header is None else self.decoder.working_nbytes(header)


def _headers(paths: Sequence[str], left_out: Container[int], skip_broken: bool) -> list[ImageHeader | None]:
    """Return the header of each file, None for those that are left out. Equal headers are one object: there may be millions."""
    once: dict[ImageHeader, ImageHeader] = {}

    def look(number: int) -> ImageHeader | None:
        with skipping_broken(skip_broken):
            return None if number in left_out else read_header(paths[number])
        return None

    looked = in_order(range(len(paths)), look, workers=_HEADERS_AT_ONCE, ahead=64)
    with contextlib.closing(looked):
        return [header and once.setdefault(header, header) for header in looked]
