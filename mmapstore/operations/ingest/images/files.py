"""Which image files there are, in order, and of which class each is: folders, globs and lists."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....batches.opening import natural
from ....plain.errors import InvalidValueError, NotFoundError
from ..files import ARRAY_SUFFIXES, STORE_FILES
from ..video import VIDEO_SUFFIXES
from .decoding import image_suffixes

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
    """

    paths: list[str]
    labels: Array | None = None
    classes: tuple[str, ...] | None = None
    left_out: frozenset[int] = field(default_factory=frozenset)
    read_too: tuple[str, ...] = ()


# Tables of images, and the formats in which nobody keeps anything but pictures: enough to recognise a folder without Pillow.
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
_USUAL_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2", ".avif", ".tga")


def looks_like_images(source: str | Sequence[str]) -> bool:
    """Whether a folder, a file, a glob or a list of files is most likely images or a table of them, told by names alone.

    A folder with arrays or videos in it is not; one of folders is if there is an image in any.
    """
    if not isinstance(source, str):
        return bool(source) and all(path.lower().endswith(_USUAL_SUFFIXES) for path in source)
    if not os.path.isdir(source):
        if os.path.exists(source) or not glob.has_magic(source):
            return source.lower().endswith((*_USUAL_SUFFIXES, *TABLE_SUFFIXES))
        first = next(glob.iglob(source, recursive=True), "")
        return first.lower().endswith(_USUAL_SUFFIXES)
    entries = [entry for entry in os.scandir(source) if not entry.name.startswith(".")]
    names = [entry.name.lower() for entry in entries if entry.is_file()]
    if any(os.path.exists(os.path.join(source, name)) for name in STORE_FILES):
        return False
    if any(name.endswith((*ARRAY_SUFFIXES, *VIDEO_SUFFIXES)) for name in names):
        return False
    if any(name.endswith(_USUAL_SUFFIXES) for name in names):
        return True
    below = (files_below(entry.path, lambda name: name.lower().endswith(_USUAL_SUFFIXES)) for entry in entries if entry.is_dir())
    return any(True for files in below for _ in files)


def files_below(folder: str, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Files in a folder and those below it, relative to it, in no order. Hidden ones and links to folders are passed over."""
    for around, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = os.path.relpath(around, folder)
        for name in names:
            if wanted(name) and not name.startswith("."):
                yield name if prefix == "." else os.path.join(prefix, name)


def is_image_name(name: str) -> bool:
    """Whether the suffix is one of those that Pillow reads."""
    return os.path.splitext(name)[1].lower() in image_suffixes()


def images_in_folder(folder: str) -> ListedImages:
    """The images of a folder: class by class where they lie in sub-folders, which are the classes, sorted by name.

    A class is also what lies deeper in its folder, and a folder without any image.
    """
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    loose = sorted((entry.name for entry in entries if entry.is_file() and is_image_name(entry.name)), key=natural)
    classes = sorted(entry.name for entry in entries if entry.is_dir())
    by_class = {name: sorted(files_below(os.path.join(folder, name), is_image_name), key=natural) for name in classes}
    found = [name for name, files in by_class.items() if files]
    if loose and found:
        raise InvalidValueError(
            f"{folder} holds images ({loose[0]} ...) beside folders of images ({found[0]} ...): of which class are they? "
            f"Move them into a folder, or name what you want: {os.path.join(folder, '*.jpg')!r}, or '**/*.jpg' without labels."
        )
    if loose:
        return ListedImages([os.path.join(folder, name) for name in loose])
    if not found:
        names = sorted(entry.name for entry in entries)[:5]
        raise NotFoundError(
            f"{folder} holds no image that Pillow reads, nor do the folders in it: {', '.join(names) or 'it is empty'}."
        )
    paths = [os.path.join(folder, name, file) for name in classes for file in by_class[name]]
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(by_class[name]) for name in classes])
    return ListedImages(paths, labels, tuple(classes))


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
