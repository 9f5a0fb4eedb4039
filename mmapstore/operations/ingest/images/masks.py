"""Label masks, images whose numbers are classes: decoded as they are stored, and told from pictures by their look."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
from typing import NamedTuple

import numpy as np

from ....plain.errors import DamagedFileError, InvalidValueError
from ..contract import Array
from .decoding import BROKEN, Files, ImageDecoder, read_numbers
from .form import ImageForm, Values
from .header import ImageHeader

_LOOKED_AT = 8  # files that stand for all of a folder
_MOST_FOLDERS = 4  # of pictures and of masks side by side; Pascal VOC has three
_MOST_CLASSES = 64
_FLAT = 0.75  # of all neighbours, so many are equal in a mask; in a photograph, even a dark one, far fewer
_MOST_STEPS, _SHADE = 8, 0.9  # of more numbers, neighbours that differ do so by 1 in a shade; classes lie beside any others
_CHANNELS = {"1": 1, "L": 1, "P": 1, "I": 1, "F": 1, "LA": 2, "RGB": 3, "RGBA": 4}
_HOW = "For label masks pass masks=True (--masks yes), for pictures masks=False (--masks no)"


class Look(NamedTuple):
    """The appearance of an image file."""

    numbers: tuple[int, ...] | None  # that occur in it, for palettes the indices; None for more than 64
    is_flat: bool  # most neighbours are equal, also off the background, and those that differ are no shade
    has_voc_colours: bool  # the palette has for each number the colour that Pascal VOC gives to that class
    has_grey_palette: bool  # the palette has for each number the grey of that number


def voc_colour(number: int) -> tuple[int, int, int]:
    """Return the colour of a class in Pascal VOC's masks, which many tools share: its bits are spread over red, green and blue.

    >>> [voc_colour(number) for number in (0, 1, 5, 255)]
    [(0, 0, 0), (128, 0, 0), (128, 0, 128), (224, 224, 192)]
    """
    red, green, blue = (sum((number >> 3 * bit + band & 1) << 7 - bit for bit in range(3)) for band in range(3))
    return red, green, blue


def look_at(path: str) -> Look:
    """Decode a file and look at its numbers."""
    found, palette = read_numbers(path)
    numbers = np.unique(found)
    few = tuple(int(number) for number in numbers) if len(numbers) <= _MOST_CLASSES else None
    colours = {number: tuple(palette[3 * number : 3 * number + 3]) for number in few or ()} if palette else {}
    return Look(
        few,
        few is not None and _is_flat(found, len(few)),
        bool(colours) and all(colour == voc_colour(number) for number, colour in colours.items()),
        palette is not None and bytes(palette) == bytes(each for number in range(len(palette) // 3) for each in (number,) * 3),
    )


def _is_flat(found: Array, count: int) -> bool:
    """True if areas of one number make up a picture of `count` numbers.

    >>> shade = np.arange(20).repeat(5) * np.ones((5, 1), int)
    >>> _is_flat(shade, 20), _is_flat(7 * shade % 20, 20)
    (False, True)
    """
    values, counts = np.unique(found, return_counts=True)
    background = values[counts.argmax()]
    for lines in (found, found.T):
        step = np.abs(np.diff(lines, axis=0))
        inside = step[(lines[:-1] != background) & (lines[1:] != background)]
        if any(each.size and (each == 0).mean() < _FLAT for each in (step, inside)):
            return False
        edges = step[step > 0]
        if count > _MOST_STEPS and edges.size and (edges == 1).mean() > _SHADE:
            return False
    return True


def are_masks(files: Files, form: ImageForm) -> tuple[bool, str]:
    """Return True if files look like label masks beyond doubt, and the words to say: the reason, or the doubt.

    Masks beyond doubt are palettes in the colours of Pascal VOC; and greys of a few small numbers in flat areas where they would be
    resized, for which nearly black areas without any shade are no pictures. Raises InvalidValueError for other palettes in flat
    areas whose colours would become grey: nothing tells what is meant.
    """
    modes = {header.mode for _, header in files}
    if not _hold_numbers(files):
        return False, ""
    is_resized = form.size is not None and any(header.size != form.size for _, header in files)
    if not is_resized and "P" not in modes:
        return False, ""
    looks = _looks_of(files)
    found = sorted({number for look in looks.values() for number in look.numbers or ()})
    numbers = ", ".join(map(str, found[:10])) + (" ..." if len(found) > 10 else "")
    are_flat = len(found) > 1 and all(look.is_flat for look in looks.values())
    takes_numbers = form.scale is None and form.dtype is None and form.channels in (None, 1)
    if takes_numbers and modes == {"P"} and len(found) > 1 and all(look.has_voc_colours for look in looks.values()):
        return True, f"taken for label masks, for their palette is that of Pascal VOC; their numbers ({numbers}) are kept. {_HOW}"
    is_small = max((number for number in found if number != 255), default=0) < _MOST_CLASSES and found != [0, 255]
    if takes_numbers and modes == {"L"} and are_flat and is_small:
        return True, f"taken for label masks, for they hold few numbers ({numbers}) in flat areas, which are kept. {_HOW}"
    coloured = next((path for path, look in looks.items() if look.is_flat and not look.has_grey_palette), None)
    if "P" in modes and form.channels in (1, 2) and coloured is not None and are_flat:
        raise InvalidValueError(
            f"{coloured} holds a palette and flat areas of few colours ({numbers}); channels={form.channels} may mean a label mask "
            f"or a picture in grey. {_HOW}."
        )
    if is_resized and are_flat:
        words = f"few numbers ({numbers}) in flat areas, as of label masks, and resizing makes others between them"
        return False, f"{words}. {_HOW}"
    return False, ""


def require_no_pairs(folder: str, files: Files) -> None:
    """Raise InvalidValueError where a class folder holds the label masks of the pictures in another: they are pairs, not classes.

    Such masks have few numbers in flat areas, which the pictures have not; and each has the name and the size of a picture.
    """
    folders: dict[str, dict[str, tuple[str, ImageHeader]]] = {}
    start = len(os.path.join(folder, ""))
    for path, header in files:
        name, _, rest = path[start:].partition(os.sep)
        folders.setdefault(name, {})[os.path.splitext(rest)[0]] = (path, header)
        if len(folders) > _MOST_FOLDERS:
            return
    for (first, pictures), (second, masks) in itertools.permutations(folders.items(), 2):
        if (
            _hold_numbers([*masks.values()])
            and all(name in pictures and pictures[name][1].size == header.size for name, (_, header) in masks.items())
            and _are_flat([*masks.values()])
            and not _are_flat([*pictures.values()])
        ):
            images, others = os.path.join(folder, first), os.path.join(folder, second)
            raise InvalidValueError(
                f"{others} holds label masks of the images in {images}, under the same names: they are pairs, not classes. "
                f"Write mm.Images({images!r}, masks={others!r}) or mmapstore ingest {shlex.quote(images)} "
                f"--masks {shlex.quote(others)}. If they are classes of pictures, say masks=False (--masks no)."
            )


def _hold_numbers(files: Files) -> bool:
    """True if the numbers of all files may be classes: no JPEG, and no colours except palettes."""
    return not any(
        header.is_jpeg or not (header.mode in ("1", "L", "P", "I") or header.mode.startswith("I;")) for _, header in files
    )


def _looks_of(files: Files) -> dict[str, Look]:
    """Return the looks of a few files, spread over all, by path."""
    spread = [files[len(files) * at // _LOOKED_AT][0] for at in range(_LOOKED_AT)] if len(files) > _LOOKED_AT else [*dict(files)]
    looks = {}
    for path in spread:
        with contextlib.suppress(*BROKEN):  # the error comes where all are decoded
            looks[path] = look_at(path)
    return looks


def _are_flat(files: Files) -> bool:
    """True if files look like label masks: few numbers in flat areas, or a palette in the colours of Pascal VOC."""
    looks = [*_looks_of(files).values()] if _hold_numbers(files) else []
    return len({number for look in looks for number in look.numbers or ()}) > 1 and all(
        look.is_flat or look.has_voc_colours for look in looks
    )


def mask_decoder(files: Files, form: ImageForm) -> ImageDecoder:
    """Return the decoder of label masks: numbers as they are stored, palettes as their indices."""
    for name, value in (("dtype", form.dtype), ("scale", form.scale)):
        if value is not None:
            raise InvalidValueError(f"{name}={value!r} is for pictures; label masks keep their numbers. Leave it out.")
    form.require_one_size(files)
    channels: dict[int, str] = {}
    for path, header in files:
        found = 1 if header.mode.startswith("I;") else _CHANNELS.get(header.mode)
        if found is None:
            raise InvalidValueError(
                f"{path} is {header.mode}, which no label mask is. Convert it, or say masks=False (--masks no)."
            )
        channels.setdefault(found, path)
    wanted = form.channels or next(iter(channels))
    if {wanted} != set(channels):
        told = "; ".join(f"{path} has {count}" for count, path in channels.items())
        raise InvalidValueError(f"Label masks need the same channels, and keep those they have: {told}. Convert those that differ.")
    dtype = np.result_type(*{header.dtype for _, header in files})
    return ImageDecoder(form.size, form.fit, wanted, Values(dtype), is_mask=True)


def require_alike(image: str, header: ImageHeader, mask: str, mask_header: ImageHeader, are_resized: bool) -> None:
    """Raise DamagedFileError for a mask of another picture: of another size, or with other pages."""
    (height, width), (rows, columns) = header.size, mask_header.size
    fits = height * columns == width * rows if are_resized else (height, width) == (rows, columns)
    if fits and len(header.pages) == len(mask_header.pages):
        return
    pages = f" in {len(header.pages)} pages" if len(header.pages) != len(mask_header.pages) else ""
    raise DamagedFileError(
        f"{mask} has {rows} x {columns} pixels{pages and f' in {len(mask_header.pages)} pages'}; its image {image} has "
        f"{height} x {width}{pages} (height x width, turned as EXIF says). A mask belongs to its image pixel by pixel: find the "
        "right one, or leave both out with skip_broken=True (--skip-broken)."
    )
