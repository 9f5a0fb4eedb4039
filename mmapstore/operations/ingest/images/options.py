"""Options of `mmapstore ingest` for images, and the source that they describe."""

from __future__ import annotations

import argparse
from typing import Any

from ....plain.errors import InvalidValueError
from ...command_options import keywords, refuse_options
from ..contract import Source
from .files import looks_like_images
from .header import pillow
from .order import ORDERS
from .pairs import UNMATCHED, listed_lines
from .placement import FITS
from .samples import PAGES

# Options by their name in the parsed arguments, where they are None if nobody gave them.
_ONLY_IMAGES = (
    "fit", "channels", "scale", "labels", "path_column", "label_column", "max_pixels", "pages", "masks", "order", "seed",
    "episodes", "no_source",
)  # fmt: skip
_ONLY_ANNOTATED = ("subset", "categories", "background", "first_pixel", "clip_boxes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for images to the parser of `mmapstore ingest`."""
    images = parser.add_argument_group("images", "for a folder (one sub-folder per class), files, or a table of path and label")
    images.add_argument("--size", help="size of every image: HEIGHTxWIDTH in pixels, such as 64x64, or one number for both")
    images.add_argument("--fit", choices=FITS, help="crop (default), pad with black, or stretch to SIZE")
    images.add_argument(
        "--channels", type=int, choices=(1, 2, 3, 4), help="number of channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha"
    )
    images.add_argument(
        "--scale",
        help="scaling of values: unit (0 to 1), each (by the image's mean and deviation), or MEAN/DEVIATION, as in 0.5/0.25",
    )
    images.add_argument("--labels", choices=("index", "one-hot", "none"), help="encoding of classes (default: index)")
    images.add_argument("--skip-broken", action="store_true", help="skip files that cannot be decoded; the manifest lists them")
    images.add_argument(
        "--pages", choices=PAGES, help="pages of TIFF stacks and animations to read: all, one sample each (default), or the first"
    )
    images.add_argument(
        "--masks",
        metavar="DIR",
        help="folder of label masks, each with the name of its image, for a field mask; or yes if SOURCE itself holds label masks, "
        "no if it holds pictures (default: detected)",
    )
    images.add_argument(
        "--order",
        choices=ORDERS,
        help="order of samples: mixed (random, so that contiguous parts are random parts; default for images with labels or "
        "masks, except numbered frames) or sorted (by name)",
    )
    images.add_argument("--seed", type=int, metavar="N", help="random seed of the mixed order (default: 0)")
    images.add_argument("--episodes", choices=("folder",), help="each folder is one sequence of frames, sorted by name")
    images.add_argument("--no-source", action="store_true", default=None, help="write no field of file names")
    images.add_argument("--path-column", metavar="NAME", help="column of paths in a table (default: path)")
    images.add_argument("--label-column", metavar="NAME", help="column of labels in a table (default: label)")
    images.add_argument(
        "--max-pixels", type=int, metavar="N", help="decode images above Pillow's limit, up to this number of pixels"
    )
    annotated = parser.add_argument_group("annotated images", "Pascal VOC and ImageNet DET: the largest object is the label")
    annotated.add_argument("--annotations", metavar="DIR", help="folder of XML annotations; SOURCE is the folder of images")
    annotated.add_argument("--subset", metavar="FILE", help="text file of image names to read, one per line")
    annotated.add_argument("--categories", metavar="FILE", help="text file of category names, in order")
    annotated.add_argument("--background", metavar="NAME", help="category of images without an object (default: background)")
    annotated.add_argument(
        "--unmatched",
        choices=(*UNMATCHED, "skip-masks"),
        help="images without annotation or mask, and the reverse: an error (default) or skipped",
    )
    annotated.add_argument("--first-pixel", type=int, choices=(0, 1), help="coordinate of the first pixel in boxes (default: 0)")
    annotated.add_argument(
        "--clip-boxes", type=float, metavar="PIXELS", help="clip boxes that exceed their image by up to PIXELS (default: 1)"
    )


def source_from(options: argparse.Namespace) -> Source | None:
    """Return the images that the command line describes; None if its source holds no images.

    `--dtype` is part of that description, as labels and boxes have dtypes of their own. Raises InvalidValueError for options of
    images where there are none.
    """
    sources = options.source
    if options.annotations is None:
        if options.masks in (None, "yes", "no"):
            refuse_options(options, ("unmatched",), "is for --annotations and --masks.")
        refuse_options(
            options, _ONLY_ANNOTATED, "is for annotated images. Name the folder of their annotations with --annotations."
        )
        if not looks_like_images(sources[0] if len(sources) == 1 else sources):
            refuse_options(options, _ONLY_IMAGES, f"is for images, which {sources[0]} is not.")
            return None
    if options.max_pixels is not None:
        if options.max_pixels < 1:
            raise InvalidValueError(f"--max-pixels {options.max_pixels}; expected a number of pixels from 1 on.")
        pillow().MAX_IMAGE_PIXELS = options.max_pixels  # of this whole process
    changed = {
        "size": options.size and size_of(options.size),
        "scale": options.scale and _scale(options.scale),
        "source_field": False if options.no_source else None,
    }
    kind: Any
    if options.annotations is None:
        from .images import Images as kind

        changed["source"] = sources[0] if len(sources) == 1 else sources
        changed["masks"] = {"yes": True, "no": False}.get(options.masks, options.masks)
    else:
        from .annotated import AnnotatedImages as kind

        if len(sources) > 1:
            raise InvalidValueError(f"--annotations belongs to one folder of images; {len(sources)} sources were given.")
        changed["images"] = sources[0]
        changed["categories"] = options.categories and [name for _, name in listed_lines(options.categories)]
    given = {name: value for name, value in keywords(kind, options, **changed).items() if value is not None}
    found: Source = kind(**given | ({"labels": None} if options.labels == "none" else {}))
    return found


def size_of(text: str) -> tuple[int, int]:
    """Return (height, width) in pixels.

    >>> size_of("48x64"), size_of("32")
    ((48, 64), (32, 32))
    """
    sides = text.lower().split("x")
    if len(sides) not in (1, 2) or not all(side.strip().isdecimal() for side in sides):
        raise InvalidValueError(f"--size {text} is not understood; expected HEIGHTxWIDTH in pixels, such as 64x64.")
    return int(sides[0]), int(sides[-1])


def _scale(text: str) -> Any:
    if text in ("unit", "each"):
        return text
    try:
        mean, deviation = ([float(value) for value in part.split(",")] for part in text.split("/"))
    except ValueError as error:
        raise InvalidValueError(
            f"--scale {text} is not understood; expected unit, each, or MEAN/DEVIATION of values from 0 to 1, "
            "each one number or one per channel, such as 0.485,0.456,0.406/0.229,0.224,0.225."
        ) from error
    return mean, deviation
