"""Options of `mmapstore ingest` for megabatches, files without a header and videos, and the source that they describe."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ...batches.opening import open_dataset
from ...plain.errors import InvalidValueError
from ..command_options import add_raw_options, raw_form, refuse_options
from .files import ARRAY_SUFFIXES, inside_directory
from .images.files import looks_like_images
from .images.options import size_of
from .megabatches.megabatches import Megabatches
from .megabatches.unpickling import PICKLE_SUFFIXES
from .video import VIDEO_SUFFIXES, Videos

# Options by their name in the parsed arguments, where they are None or False if nobody gave them.
_ORDER = ("order", "seed", "episodes", "no_source")  # of images alone
_MEGABATCHES = ("allow_pickle", "fields", "classes", "text_width")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of `mmapstore ingest`, which has --size and --skip-broken from those of images."""
    batches = parser.add_argument_group("megabatches", "for .pkl, .joblib and .npz files that hold several fields")
    batches.add_argument(
        "--allow-pickle", action="store_true", help="load pickles, which runs code in them; only for trusted files"
    )
    batches.add_argument("--fields", metavar="NAMES", help="fields to read: images,labels, or renamed: image=images,label=labels")
    batches.add_argument("--classes", metavar="NAMES", help="fields whose texts are names of classes, such as label,category")
    batches.add_argument("--text-width", type=int, metavar="BYTES", help="width of texts (default: that of the longest)")
    add_raw_options(parser)
    videos = parser.add_argument_group("videos", "--size and --skip-broken are for videos as well")
    videos.add_argument("--stride", type=int, metavar="N", help="keep every N-th frame (default: 1)")


def source_from(options: argparse.Namespace) -> Any:
    """Return what the command line describes, for `ingest`; None except for megabatches, plain numbers, and videos with options.

    `--source-layout` is part of the description of the first two. Raises InvalidValueError for options of another kind of source.
    """
    sources = options.source[0] if len(options.source) == 1 else list(options.source)
    form = raw_form(options)
    if form:
        refuse_options(options, (*_MEGABATCHES, *_ORDER, "stride"), "is not for files without a header.")
        return open_dataset(sources, layout=options.source_layout, **form)
    if _are(sources, PICKLE_SUFFIXES, (".npy",)) or any(getattr(options, name) for name in _MEGABATCHES):
        refuse_options(options, (*_ORDER, "size", "stride"), "is not for megabatches.")
        return Megabatches(
            sources,
            allow_pickle=options.allow_pickle,
            fields=options.fields and _names(options.fields),
            classes=options.classes.split(",") if options.classes else (),
            text_width=options.text_width,
            layout=options.source_layout,
            skip_broken=options.skip_broken,
        )
    is_not = f"which {options.source[0]} is not."
    if _are(sources, VIDEO_SUFFIXES, ARRAY_SUFFIXES) and not looks_like_images(sources):
        if options.stride is None and options.size is None and not options.skip_broken:
            return None
        refuse_options(options, _ORDER, f"is for images, {is_not}")
        size = None if options.size is None else size_of(options.size)
        stride = 1 if options.stride is None else options.stride
        return Videos(sources, stride=stride, size=size, skip_broken=options.skip_broken)
    refuse_options(options, ("stride",), f"is for videos, {is_not}")
    if options.annotations is None and not looks_like_images(sources):
        refuse_options(options, ("size",), f"is for images and videos, {is_not}")
        refuse_options(options, ("skip_broken",), f"is for images, videos and megabatches, {is_not}")
    return None


def _are(sources: str | list[str], suffixes: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """True if all files have one of the suffixes, or some of those in a directory that has none of the `others`."""
    if isinstance(sources, str) and os.path.isdir(sources):
        return bool(inside_directory(sources, suffixes)) and not inside_directory(sources, others)
    return all(path.lower().endswith(suffixes) for path in ([sources] if isinstance(sources, str) else sources))


def _names(text: str) -> dict[str, str]:
    """
    >>> _names("images,label=labels")
    {'images': 'images', 'label': 'labels'}
    """
    pairs = [part.strip().partition("=") for part in text.split(",")]
    if not all(name and (its_name or not equals) for name, equals, its_name in pairs):
        raise InvalidValueError(f"--fields {text} is not understood; expected names with commas, such as images,label=labels.")
    return {name: its_name or name for name, _, its_name in pairs}
