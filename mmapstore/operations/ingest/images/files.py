"""The image files of folders, globs and lists, in order, recognised by suffix or content, and the class of each."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....batches.opening import natural
from ....plain.errors import DamagedFileError, InvalidValueError, NotFoundError, NotReadableError, UnsafeFileError
from ..contract import Array
from ..files import ARRAY_SUFFIXES, STORE_FILES
from ..video import VIDEO_SUFFIXES
from .header import image_suffixes, is_heif_start, read_header, reads_heif

# Tables of images, and the formats in which nobody keeps anything but pictures: enough to recognise a folder without Pillow.
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
_USUAL_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2", ".avif", ".tga")
_MOST_LOOKED_INTO = 1000  # files whose first bytes are read in search of an image: a folder may hold millions of something else
# Names that systems leave beside a user's files; "@eaDir" and "__MACOSX" hold thumbnails and forks under the images' names.
_OF_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin"}
_FIRST_NBYTES = 32
_NO_IMAGE = "not an image that Pillow reads"


@dataclass(frozen=True)
class ListedImages:
    """Image files in the order in which they are written."""

    paths: list[str]
    labels: Array | None = None  # (n,) int64 numbers of classes, or plain numbers
    classes: tuple[str, ...] | None = None  # names by number; None if labels are numbers of their own
    left_out: frozenset[int] = frozenset()  # numbers of the images that are skipped, as the user asked
    read_too: tuple[str, ...] = ()  # annotations, masks or the table beside the images
    others: Sequence[str] = ()  # a text for each kind of other file in the folders


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
    is_usual = any(name.endswith(_USUAL_SUFFIXES) for name in names)
    # GIF files alone are videos; beside pictures of other formats they are pictures.
    if any(name.endswith((*ARRAY_SUFFIXES, *VIDEO_SUFFIXES)) and not (is_usual and name.endswith(".gif")) for name in names):
        return False
    if is_usual or any(name.lower().endswith(_USUAL_SUFFIXES) for name in files_below(source)):
        return True
    return any(format_by_content(os.path.join(source, name)) for name in itertools.islice(files_below(source), _MOST_LOOKED_INTO))


def images_in_folder(folder: str) -> ListedImages:
    """List the images of a folder: class by class where they lie in sub-folders, which are the classes, sorted by name.

    A class has the images of all folders below its own; a folder without an image is a class too.
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
    """List the files given, in the order given, without labels."""
    if not paths:
        raise InvalidValueError("The list of images is empty; expected paths of image files.")
    folder = next((path for path in paths if os.path.isdir(path)), None)
    if folder is not None:
        raise InvalidValueError(f"{folder} is a folder, in a list of image files. Give the folder by itself, or the files in it.")
    return ListedImages(list(paths))


def is_hidden(name: str) -> bool:
    """True for the name of a hidden file, and of a file that an operating system keeps for itself.

    >>> [is_hidden(name) for name in (".DS_Store", "._a.jpg", "Thumbs.db", "__MACOSX", "a.jpg")]
    [True, True, True, True, False]
    """
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def format_by_content(path: str) -> str:
    """Return the image format that the first bytes of a file show, "" for none. Devices and pipes are not read."""
    if not os.path.isfile(path):
        return ""
    try:
        with Path(path).open("rb") as file:
            first = file.read(_FIRST_NBYTES)
    except OSError:
        return ""
    known = {
        "HEIF": is_heif_start(first),
        "AVIF": first[4:8] == b"ftyp" and first[8:12] in (b"avif", b"avis"),
        "JPEG": first.startswith(b"\xff\xd8\xff"),
        "PNG": first.startswith(b"\x89PNG\r\n\x1a\n"),
        "GIF": first.startswith((b"GIF87a", b"GIF89a")),
        "WEBP": first.startswith(b"RIFF") and first[8:12] == b"WEBP",
        "TIFF": first.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
        "JPEG 2000": first.startswith((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
        "BMP": first.startswith(b"BM") and first[6:10] == bytes(4),
    }
    return next((name for name, found in known.items() if found), "")


def why_no_image(path: str) -> str:
    """Return why a file is no sample; "" for an image.

    The suffix of a format that Pillow reads by itself is a promise: a file that breaks it is an image, and damaged. Any other file
    is an image if Pillow says so.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix in image_suffixes():
        return ""
    found = format_by_content(path)
    if found == "TIFF" and suffix:
        return "TIFF by another name, as cameras write RAW; Pillow would read its thumbnail"
    if found == "HEIF" and not reads_heif():
        return "HEIF; to read it: pip install pillow-heif"
    if not found:
        return _NO_IMAGE
    try:
        read_header(path)
    except UnsafeFileError:
        return ""  # an image, and too large a one: the error comes where it is read
    except (DamagedFileError, NotReadableError):
        return f"{found} that Pillow cannot read"
    return ""


class PassedOver:
    """Skipped files: their number of each kind, and one of them by name."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[int, str]] = {}

    def add(self, file: str, why: str) -> None:
        key = os.path.splitext(file)[1].lower(), why
        count, example = self._found.get(key, (0, file))
        self._found[key] = count + 1, example

    def words(self) -> list[str]:
        """Return a text for each kind.

        >>> found = PassedOver()
        >>> found.add("cat/1.txt", "not an image"), found.add("cat/2.txt", "not an image"), found.words()
        (None, None, ['2 .txt files such as cat/1.txt (not an image)'])
        """
        return [
            f"{count}{suffix and f' {suffix}'} file{'s such as' if count > 1 else ','} {example} ({why})"
            for (suffix, why), (count, example) in self._found.items()
        ]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return `entry.is_dir()`, which by itself raises for a link that leads to itself."""
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))


def files_below(folder: str, passed_over: PassedOver | None = None, inside: str = "") -> Iterator[str]:
    """Yield the visible files below a folder, relative to it, in no order. Links to folders are skipped."""
    with os.scandir(os.path.join(folder, inside)) as found:
        entries = list(found)  # whoever takes the first file alone would leave the folder open
    for entry in entries:
        name = os.path.join(inside, entry.name)
        if is_hidden(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(folder, passed_over, name)
        elif not is_folder(entry):
            yield name
        elif passed_over is not None:
            passed_over.add(name, "a link to a folder, which is not followed")


def images_among(files: Iterable[str], folder: str, passed_over: PassedOver) -> Iterator[str]:
    """Yield the files, relative to a folder, that are images; `passed_over` is told of the other files."""
    for name in files:
        why = why_no_image(os.path.join(folder, name))
        if why:
            passed_over.add(name, why)
        else:
            yield name
