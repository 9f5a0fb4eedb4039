"""The options of `mmapstore ingest` about megabatches, files without a header and videos, and the source that they describe."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ...batches.opening import open_dataset
from ...plain.errors import InvalidValueError
from .files import ARRAY_SUFFIXES, inside_directory
from .images.files import looks_like_images
from .images.options import size_of
from .megabatches.megabatches import Megabatches
from .megabatches.unpickling import PICKLE_SUFFIXES
from .video import VIDEO_SUFFIXES, Videos

# By the name that it has in `options`, where it is None or False if nobody gave it.
_RAW = {"raw_dtype": "--raw-dtype", "raw_shape": "--raw-shape", "raw_offset": "--raw-offset"}
_ORDER = {"order": "--order", "seed": "--seed", "episodes": "--episodes", "no_source": "--no-source"}  # of images alone
_MEGABATCHES = {"allow_pickle": "--allow-pickle", "fields": "--fields", "text_width": "--text-width"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options to the parser of `mmapstore ingest`, which has --size and --skip-broken from those of images."""
    batches = parser.add_argument_group("megabatches", "for .pkl, .joblib and .npz files that hold several fields")
    batches.add_argument(
        "--allow-pickle", action="store_true", help="load pickles, which runs the code in them: only for files that you trust"
    )
    batches.add_argument("--fields", metavar="NAMES", help="those to take, such as images,labels, or image=images,label=labels")
    batches.add_argument("--text-width", type=int, metavar="BYTES", help="width of texts (default: that of the longest)")
    raw = parser.add_argument_group("files without a header", "numbers as they lie in memory")
    add_raw_arguments(raw)
    videos = parser.add_argument_group("videos", "--size and --skip-broken are for videos as well")
    videos.add_argument("--stride", type=int, help="keep every STRIDE-th frame (default: 1)")


def add_raw_arguments(parser: Any) -> None:
    """Describe what a file without a header holds, to a parser or a group of one."""
    parser.add_argument("--raw-dtype", metavar="DTYPE", help="of the numbers, such as uint8, or '>f4' for big-endian")
    parser.add_argument("--raw-shape", metavar="SHAPE", help="such as 1000,3,50,50, or N,3,50,50 for as many as there are")
    parser.add_argument("--raw-offset", type=int, metavar="BYTES", help="bytes before the first number (default: 0)")


def raw_form(options: argparse.Namespace) -> dict[str, Any]:
    """What was said of a file without a header, as `mmapstore.open` takes it; empty if nothing was."""
    form = {"dtype": options.raw_dtype, "shape": options.raw_shape and _shape(options.raw_shape), "offset": options.raw_offset}
    return {name: value for name, value in form.items() if value is not None}


def source_from(options: argparse.Namespace) -> Any:
    """What the command line describes, for `ingest`; None for anything but megabatches, plain numbers, and videos with options.

    `--source-layout` is then told to what is opened, and taken out of `options`.
    """
    sources = options.source[0] if len(options.source) == 1 else list(options.source)
    form = raw_form(options)
    if form:
        _refuse(options, {**_MEGABATCHES, **_ORDER, "stride": "--stride"}, "is not for files without a header.")
        layout, options.source_layout = options.source_layout, None
        return open_dataset(sources, layout=layout, **form)
    if _are(sources, PICKLE_SUFFIXES, (".npy",)) or any(getattr(options, name) for name in _MEGABATCHES):
        _refuse(options, {**_ORDER, "size": "--size", "stride": "--stride"}, "is not for megabatches.")
        layout, options.source_layout = options.source_layout, None
        return Megabatches(
            sources,
            allow_pickle=options.allow_pickle,
            fields=options.fields and _names(options.fields),
            text_width=options.text_width,
            layout=layout,
            skip_broken=options.skip_broken,
        )
    if _are(sources, VIDEO_SUFFIXES, ARRAY_SUFFIXES) and not looks_like_images(sources):
        if options.stride is None and options.size is None and not options.skip_broken:
            return None
        _refuse(options, _ORDER, f"is for images, which {options.source[0]} is not.")
        size = None if options.size is None else size_of(options.size)
        stride = 1 if options.stride is None else options.stride
        return Videos(sources, stride=stride, size=size, skip_broken=options.skip_broken)
    _refuse(options, {"stride": "--stride"}, f"is for videos, which {options.source[0]} is not.")
    if options.annotations is None and not looks_like_images(sources):
        _refuse(options, {"size": "--size"}, f"is for images and videos, which {options.source[0]} is not.")
        _refuse(
            options, {"skip_broken": "--skip-broken"}, f"is for images, videos and megabatches, which {options.source[0]} is not."
        )
    return None


def _are(sources: str | list[str], suffixes: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether files are called so; or those of a directory, where there are none of the `others`."""
    if isinstance(sources, str) and os.path.isdir(sources):
        return bool(inside_directory(sources, suffixes)) and not inside_directory(sources, others)
    return all(path.lower().endswith(suffixes) for path in ([sources] if isinstance(sources, str) else sources))


def _refuse(options: argparse.Namespace, flags: dict[str, str], why: str) -> None:
    given = next((flag for name, flag in flags.items() if getattr(options, name) not in (None, False)), None)
    if given is not None:
        raise InvalidValueError(f"{given} {why}")


def _shape(text: str) -> tuple[int, ...]:
    """
    >>> _shape("1000,3,50,50"), _shape("N,3,50")
    ((1000, 3, 50, 50), (-1, 3, 50))
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() or part in ("N", "n", "-1") for part in parts):
        raise InvalidValueError(f"--raw-shape {text} is not understood; expected lengths with commas, such as 1000,3,50,50.")
    return tuple(int(part) if part.isdecimal() else -1 for part in parts)


def _names(text: str) -> dict[str, str]:
    """
    >>> _names("images,label=labels")
    {'images': 'images', 'label': 'labels'}
    """
    pairs = [part.strip().partition("=") for part in text.split(",")]
    if not all(name and (its_name or not equals) for name, equals, its_name in pairs):
        raise InvalidValueError(f"--fields {text} is not understood; expected names with commas, such as images,label=labels.")
    return {name: its_name or name for name, _, its_name in pairs}
