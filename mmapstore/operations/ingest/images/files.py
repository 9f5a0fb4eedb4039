"""Image files in order, and the class of each: folders, globs and lists."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....batches.opening import natural
from ....plain.errors import InvalidValueError, NotFoundError
from ..files import ARRAY_SUFFIXES, STORE_FILES
from ..video import VIDEO_SUFFIXES
from .decoding import image_suffixes
from .file_kinds import PassedOver, files_below, format_by_content, images_among, is_folder, is_hidden

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class ListedImages:
    """Image files in the order in which they are written.

    Attributes
    ----------
    paths : of each
    labels : (n,) of each, int64 numbers of classes or plain numbers; None without labels
    classes : their names by number; None if labels are numbers of their own
    left_out : numbers of those that are known to be left out, as asked
    read_too : files beside the images that tell all this
    others : what else lies in the folders, which gives no samples: a text for each kind of file
    """

    paths: list[str]
    labels: Array | None = None
    classes: tuple[str, ...] | None = None
    left_out: frozenset[int] = field(default_factory=frozenset)
    read_too: tuple[str, ...] = ()
    others: Sequence[str] = ()


# Tables of images, and the formats in which nobody keeps anything but pictures: enough to recognise a folder without Pillow.
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
_USUAL_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2", ".avif", ".tga")
_MOST_LOOKED_INTO = 1000  # files whose first bytes are read in search of an image: a folder may hold millions of something else


def looks_like_images(source: str | Sequence[str]) -> bool:
    """True if a folder, a file, a glob or a list of files is most likely images or a table of them, told by names alone.

    A folder with arrays or videos in it is not; one of folders is if there is an image in any. Where no name tells, the first bytes
    of files do.
    """
    if not isinstance(source, str):
        return bool(source) and all(path.lower().endswith(_USUAL_SUFFIXES) for path in source)
    if not os.path.isdir(source):
        if os.path.exists(source) or not glob.has_magic(source):
            return source.lower().endswith((*_USUAL_SUFFIXES, *TABLE_SUFFIXES))
        first = next(glob.iglob(source, recursive=True), "")
        return first.lower().endswith(_USUAL_SUFFIXES)
    entries = [entry for entry in os.scandir(source) if not is_hidden(entry.name)]
    names = [entry.name.lower() for entry in entries if not is_folder(entry)]
    if any(os.path.exists(os.path.join(source, name)) for name in STORE_FILES):
        return False
    if any(name.endswith(_USUAL_SUFFIXES) for name in names):
        # GIF files alone are videos; beside pictures of other formats they are pictures.
        return not any(name.endswith((*ARRAY_SUFFIXES, *VIDEO_SUFFIXES)) and not name.endswith(".gif") for name in names)
    if any(name.endswith((*ARRAY_SUFFIXES, *VIDEO_SUFFIXES)) for name in names):
        return False
    if any(name.lower().endswith(_USUAL_SUFFIXES) for name in files_below(source)):
        return True
    return any(format_by_content(os.path.join(source, name)) for name in itertools.islice(files_below(source), _MOST_LOOKED_INTO))


def is_image_name(name: str) -> bool:
    """True if the suffix is one of those that Pillow reads."""
    return os.path.splitext(name)[1].lower() in image_suffixes()


def images_in_folder(folder: str) -> ListedImages:
    """The images of a folder: class by class where they lie in sub-folders, which are the classes, sorted by name.

    A class is also what lies deeper in its folder, and a folder without any image.
    """
    entries = [entry for entry in os.scandir(folder) if not is_hidden(entry.name)]
    classes = sorted(entry.name for entry in entries if is_folder(entry))
    others = PassedOver()
    loose = sorted(images_among((entry.name for entry in entries if not is_folder(entry)), folder, others), key=natural)
    by_class = {
        name: sorted(images_among(files_below(folder, others, inside=name), folder, others), key=natural) for name in classes
    }
    found = [name for name, files in by_class.items() if files]
    if loose and found:
        raise InvalidValueError(
            f"{folder} holds images ({loose[0]} ...) beside folders of images ({found[0]} ...): of which class are they? "
            f"Move them into a folder, or name what you want: {os.path.join(folder, '*.jpg')!r}, or '**/*.jpg' without labels."
        )
    if loose:
        return ListedImages([os.path.join(folder, name) for name in loose], others=others.words())
    if not found:
        holds = "; ".join(others.words()[:5]) or ", ".join(classes[:5]) or "it is empty"
        raise NotFoundError(f"{folder} holds no image that Pillow reads, nor do the folders in it: {holds}.")
    paths = [os.path.join(folder, file) for name in classes for file in by_class[name]]
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(by_class[name]) for name in classes])
    return ListedImages(paths, labels, tuple(classes), others=others.words())


def images_of_list(paths: Sequence[str]) -> ListedImages:
    """The files given, in the order given, without labels."""
    if not paths:
        raise InvalidValueError("The list of images is empty; expected paths of image files.")
    folder = next((path for path in paths if os.path.isdir(path)), None)
    if folder is not None:
        raise InvalidValueError(f"{folder} is a folder, in a list of image files. Give the folder by itself, or the files in it.")
    return ListedImages(list(paths))


def path_inside(folder: str, name: str) -> str | None:
    """`name` in `folder`; None if it leads out of it. A path that is absolute leads out."""
    steps = name.replace("\\", "/").split("/")
    if os.path.isabs(name) or os.path.splitdrive(name)[0] or steps[0] == "" or ".." in steps or "\0" in name:
        return None
    return os.path.join(folder, *(step for step in steps if step not in ("", ".")))
