"""The options of `mmapstore ingest` that are about images, and the source that they describe."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ....plain.errors import DamagedFileError, InvalidValueError, NotFoundError
from ..contract import Source
from .files import looks_like_images
from .order import ORDERS
from .pairs import UNMATCHED
from .placement import FITS
from .samples import PAGES

# By the name that it has in `options`, where it is None if nobody gave it.
_ONLY_IMAGES = {
    "fit": "--fit",
    "channels": "--channels",
    "scale": "--scale",
    "labels": "--labels",
    "path_column": "--path-column",
    "label_column": "--label-column",
    "max_pixels": "--max-pixels",
    "pages": "--pages",
    "masks": "--masks",
    "order": "--order",
    "seed": "--seed",
    "episodes": "--episodes",
    "no_source": "--no-source",
}
_ONLY_ANNOTATED = {
    "subset": "--subset",
    "categories": "--categories",
    "background": "--background",
    "first_pixel": "--first-pixel",
    "clip_boxes": "--clip-boxes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options to the parser of `mmapstore ingest`."""
    images = parser.add_argument_group("images", "for a folder (a class per sub-folder), files, or a table of path and label")
    images.add_argument("--size", help="of every image: HEIGHTxWIDTH in pixels, such as 64x64, or one number for both")
    images.add_argument("--fit", choices=FITS, help="crop (default), pad with black, or stretch to SIZE")
    images.add_argument("--channels", type=int, choices=(1, 2, 3, 4), help="1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha")
    images.add_argument(
        "--scale", metavar="SCALE", help="unit (0 to 1), each (by its own mean and deviation), or MEAN/DEVIATION, such as 0.5/0.25"
    )
    images.add_argument("--labels", choices=("index", "one-hot", "none"), help="how classes are written (default: index)")
    images.add_argument(
        "--skip-broken", action="store_true", help="skip files that cannot be decoded, and list them in the manifest"
    )
    images.add_argument(
        "--pages", choices=PAGES, help="of TIFF stacks and animations: all, each page a sample (default), or the first"
    )
    images.add_argument(
        "--masks",
        metavar="DIR",
        help="the folder of label masks, each with the name of its image, for a field mask; or yes where SOURCE itself holds "
        "label masks, no where it holds pictures (default: by their look)",
    )
    images.add_argument(
        "--order",
        choices=ORDERS,
        help="mixed by a seed, so that contiguous parts are random parts (default for images with labels or masks, except numbered "
        "frames), or sorted, in the order of names",
    )
    images.add_argument("--seed", type=int, help="of the mixed order (default: 0)")
    images.add_argument("--episodes", choices=("folder",), help="each folder is a sequence of frames, in the order of names")
    images.add_argument("--no-source", action="store_true", default=None, help="write no field of the samples' file names")
    images.add_argument("--path-column", help="name of the column of paths in a table (default: path)")
    images.add_argument("--label-column", help="name of the column of labels in a table (default: label)")
    images.add_argument("--max-pixels", type=int, help="decode images of more pixels than Pillow's limit, up to this many")
    annotated = parser.add_argument_group("annotated images", "Pascal VOC and ImageNet DET: the largest object is the label")
    annotated.add_argument("--annotations", metavar="DIR", help="the folder of XML annotations; SOURCE is that of the images")
    annotated.add_argument("--subset", metavar="FILE", help="a text file with the names of the images to take, one per line")
    annotated.add_argument("--categories", metavar="FILE", help="a text file with the names of the categories, in order")
    annotated.add_argument("--background", metavar="NAME", help="category of images without an object (default: background)")
    annotated.add_argument(
        "--unmatched",
        choices=(*UNMATCHED, "skip-masks"),
        help="an image without annotation or mask, or the reverse, is an error (default) or skipped",
    )
    annotated.add_argument(
        "--first-pixel", type=int, choices=(0, 1), help="the coordinate of the first pixel in boxes (default: 0)"
    )
    annotated.add_argument(
        "--clip-boxes",
        type=float,
        metavar="PIXELS",
        help="clip boxes that reach out of their image by up to PIXELS; a larger excess is an error (default: 1)",
    )


def source_from(options: argparse.Namespace) -> Source | None:
    """The images that the command line describes; None if its source is no images, and no option says that it were.

    `--dtype` is then told to the images, and taken out of `options`: their labels and boxes have dtypes of their own.
    """
    sources = options.source
    if options.annotations is None:
        if options.masks in (None, "yes", "no"):
            _refuse(options, {"unmatched": "--unmatched"}, "is for --annotations and --masks.")
        _refuse(options, _ONLY_ANNOTATED, "is for annotated images. Name the folder of their annotations with --annotations.")
        if not looks_like_images(sources[0] if len(sources) == 1 else sources):
            _refuse(options, _ONLY_IMAGES, f"is for images, which {sources[0]} is not.")
            return None
    if options.max_pixels is not None:
        _allow_pixels(options.max_pixels)
    shared: dict[str, Any] = {
        "size": None if options.size is None else size_of(options.size),
        "fit": options.fit or "crop",
        "channels": options.channels,
        "dtype": options.dtype,
        "scale": None if options.scale is None else _scale(options.scale),
        "labels": None if options.labels == "none" else options.labels or "index",
        "skip_broken": options.skip_broken,
        "order": options.order,
        "seed": options.seed or 0,
        "episodes": options.episodes,
        "source_field": False if options.no_source else None,
    }
    options.dtype = None
    if options.annotations is None:
        from .images import Images

        return Images(
            sources[0] if len(sources) == 1 else sources,
            pages=options.pages or "all",
            masks={"yes": True, "no": False}.get(options.masks, options.masks),
            unmatched=options.unmatched or "error",
            path_column=options.path_column or "path",
            label_column=options.label_column,
            **shared,
        )
    if len(sources) > 1:
        raise InvalidValueError(f"--annotations belongs to one folder of images; {len(sources)} sources were given.")
    from .annotated import AnnotatedImages

    return AnnotatedImages(
        sources[0],
        options.annotations,
        subset=options.subset,
        categories=None if options.categories is None else _names(options.categories),
        background=options.background or True,
        unmatched=options.unmatched or "error",
        first_pixel=options.first_pixel or 0,
        clip_boxes=1.0 if options.clip_boxes is None else options.clip_boxes,
        **shared,
    )


def size_of(text: str) -> tuple[int, int]:
    """(height, width) in pixels.

    >>> size_of("48x64"), size_of("32")
    ((48, 64), (32, 32))
    """
    sides = text.lower().split("x")
    if len(sides) not in (1, 2) or not all(side.strip().isdecimal() for side in sides):
        raise InvalidValueError(f"--size {text} is not understood; expected HEIGHTxWIDTH in pixels, such as 64x64.")
    return int(sides[0]), int(sides[-1])


def _refuse(options: argparse.Namespace, flags: dict[str, str], why: str) -> None:
    given = next((flag for name, flag in flags.items() if getattr(options, name) is not None), None)
    if given is not None:
        raise InvalidValueError(f"{given} {why}")


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


def _names(path: str) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist. Check the path of --categories.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedFileError(f"{path} cannot be read as a list of names ({error}). Expected a text file.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _allow_pixels(most: int) -> None:
    from .decoding import allow_pixels

    if most < 1:
        raise InvalidValueError(f"--max-pixels {most}; expected a number of pixels from 1 on.")
    allow_pixels(most)
