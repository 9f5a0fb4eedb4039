"""The image files of a folder, recognised by their suffix, or by their content if the suffix is not that of an image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ....plain.errors import DamagedFileError, NotReadableError, UnsafeFileError
from .decoding import image_suffixes, is_heif_start, read_header, reads_heif

# What systems leave in folders beside a user's files; "@eaDir" and "__MACOSX" hold thumbnails and forks under the images' names.
_OF_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin"}
_FIRST_NBYTES = 32
_NO_IMAGE = "not an image that Pillow reads"


def is_hidden(name: str) -> bool:
    """True for the name of a hidden file, and of a file that an operating system keeps for itself.

    >>> [is_hidden(name) for name in (".DS_Store", "._a.jpg", "Thumbs.db", "__MACOSX", "a.jpg")]
    [True, True, True, True, False]
    """
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def format_by_content(path: str) -> str:
    """The image format that the first bytes of a file tell, "" for none. A device or a pipe is not read."""
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
    """Why a file is no sample; "" for an image.

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
    """Files that give no samples: how many there are of each kind, and one of them by name."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[int, str]] = {}

    def add(self, file: str, why: str) -> None:
        key = os.path.splitext(file)[1].lower(), why
        count, example = self._found.get(key, (0, file))
        self._found[key] = count + 1, example

    def words(self) -> list[str]:
        """A text for each kind.

        >>> found = PassedOver()
        >>> found.add("cat/1.txt", "not an image"), found.add("cat/2.txt", "not an image"), found.words()
        (None, None, ['2 .txt files such as cat/1.txt (not an image)'])
        """
        return [
            f"{count}{suffix and f' {suffix}'} file{'s such as' if count > 1 else ','} {example} ({why})"
            for (suffix, why), (count, example) in self._found.items()
        ]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """`entry.is_dir()`, which raises for a link that leads to itself."""
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))


def files_below(folder: str, passed_over: PassedOver | None = None, inside: str = "") -> Iterator[str]:
    """Visible files in a folder and those below it, relative to it, in no order. Links to folders are passed over."""
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
