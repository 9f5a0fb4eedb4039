"""Pairs of images and annotations: names compared, nothing opened but a list of names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ....batches.opening import natural
from ....plain.errors import DamagedFileError, InvalidValueError, NotFoundError, NotReadableError
from .file_kinds import PassedOver, files_below, images_among
from .files import is_image_name

UNMATCHED = ("error", "skip", "skip-images", "skip-annotations")
_NUMBER_BEHIND = re.compile(r"(.+?)\s+[+-]?[0-9]+")


class Pair(NamedTuple):
    """An image and its annotation by their names without suffix, below their folders; None for the one that is missing."""

    name: str
    image: str | None
    annotation: str | None


class PairedFolders:
    """A folder of images and one of annotations, and what belongs together in them.

    Attributes
    ----------
    images, annotations : file, below its folder, by its name without suffix, with "/" between folders; in natural order
    others : what else lies in the folder of images: a text for each kind of file
    """

    def __init__(self, images_folder: str, annotations_folder: str) -> None:
        self.images_folder = images_folder
        self.annotations_folder = annotations_folder
        others = PassedOver()
        beside = (name for name in files_below(images_folder, others) if not _is_xml(name))
        self.images = by_name(images_folder, images_among(beside, images_folder, others))
        self.others = others.words()
        self.annotations = by_name(annotations_folder, (name for name in files_below(annotations_folder) if _is_xml(name)))
        if not self.annotations:
            raise NotFoundError(f"{annotations_folder} holds no annotation (.xml), nor do the folders in it. Check the path.")

    def image_path(self, name: str) -> str:
        return os.path.join(self.images_folder, self.images[name])

    def annotation_path(self, name: str) -> str:
        return os.path.join(self.annotations_folder, self.annotations[name])

    def all_names(self) -> list[str]:
        """Of annotations, and of images that have none of the same name."""
        return sorted({*self.annotations, *self.images}, key=natural)

    def listed_names(self, subset: str) -> list[str]:
        """Return the annotations that a text file lists, in its order. Raises for a name of neither an annotation nor an image."""
        shorter: dict[str, list[str]] = {}
        for name in {*self.annotations, *self.images}:
            shorter.setdefault(name.rpartition("/")[2], []).append(name)
        return [self._listed_name(line, f"{subset}, line {number}", shorter) for number, line in _lines(subset)]

    def _listed_name(self, line: str, where: str, shorter: dict[str, list[str]]) -> str:
        numbered = _NUMBER_BEHIND.fullmatch(line)
        for written in (line, numbered[1]) if numbered else (line,):
            for name in (written, _without_suffix(written)):
                if name in self.annotations or name in self.images:
                    return name
                if len(shorter.get(name, ())) == 1:
                    return shorter[name][0]
                if name in shorter:
                    first, second = sorted(shorter[name])[:2]
                    raise InvalidValueError(f"{where}: {name} may be {first} or {second}. Write the folder too.")
        raise NotFoundError(
            f"{where}: there is no annotation {line[:200]!r} in {self.annotations_folder}, "
            f"nor such an image in {self.images_folder}. Check that the list belongs to these folders."
        )

    def pairs(self, names: Iterable[str], filename_of: Callable[[str], str]) -> list[Pair]:
        """Each name with its image and its annotation. An image that an annotation of another name calls its own comes with that.

        `filename_of` an annotation is what it says its image is called, "" for nothing; asked only if no image has its name.
        """
        names = list(names)
        images = {
            name: name if name in self.images else self._called(name, filename_of(name))
            for name in names
            if name in self.annotations
        }
        taken: dict[str, str] = {}
        for name, image in images.items():
            if image is not None and taken.setdefault(image, name) != name:
                raise InvalidValueError(
                    f"{self.annotation_path(taken[image])} and {self.annotation_path(name)} both belong to "
                    f"{self.image_path(image)}. Every image has one annotation: rename or remove one."
                )
        return [
            Pair(name, images[name], name) if name in images else Pair(name, name, None)
            for name in names
            if name in images or name not in taken
        ]

    def _called(self, annotation: str, filename: str) -> str | None:
        """The image of this file name, beside where the annotation is or in the folder itself. Only what was found there counts."""
        written = filename.replace("\\", "/")
        folder = annotation.rpartition("/")[0]
        last = written.rpartition("/")[2]
        for place in (f"{folder}/{written}", written, f"{folder}/{last}", last):
            for name in (place.lstrip("/"), _without_suffix(place.lstrip("/"))):
                if name in self.images:
                    return name
        return None

    def left_out(self, pairs: Sequence[Pair], unmatched: str, broken: Container[int]) -> set[int]:
        """Numbers of the pairs that are not whole, if that is allowed; else an error that names the first and counts them.

        Of pairs that are `broken` it is not known what they lack.
        """
        without_image = {number for number, pair in enumerate(pairs) if pair.image is None and number not in broken}
        without_annotation = {number for number, pair in enumerate(pairs) if pair.annotation is None}
        if without_image and unmatched not in ("skip", "skip-annotations"):
            path = self.annotation_path(pairs[min(without_image)].name)
            raise NotFoundError(
                f"{len(without_image)} of {len(self.annotations)} annotations have no image in {self.images_folder}; "
                f"the first is {path}. Check the folders, or leave them out with unmatched='skip-annotations' (--unmatched)."
            )
        if without_annotation and unmatched not in ("skip", "skip-images"):
            path = self.image_path(pairs[min(without_annotation)].name)
            raise NotFoundError(
                f"{len(without_annotation)} of {len(self.images)} images have no annotation in {self.annotations_folder}; "
                f"the first is {path}. Check the folders, or leave them out with unmatched='skip-images' (--unmatched)."
            )
        return without_image | without_annotation


def by_name(folder: str, files: Iterable[str]) -> dict[str, str]:
    """Files below a folder by their names without suffix, with "/" between folders, in natural order."""
    found: dict[str, str] = {}
    for file in sorted(files, key=natural):
        name = os.path.splitext(file)[0].replace(os.sep, "/")
        if name in found:
            raise InvalidValueError(f"{folder} holds {found[name]} and {file}: which of them is {name}? Rename or remove one.")
        found[name] = file
    return found


def _is_xml(name: str) -> bool:
    return name.lower().endswith(".xml")


def _without_suffix(name: str) -> str:
    return os.path.splitext(name)[0] if is_image_name(name) or _is_xml(name) else name


def _lines(path: str) -> list[tuple[int, str]]:
    """The lines of a text that are not empty, and their numbers from 1 on."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist. Check the path of subset= (--subset).") from error
    except PermissionError as error:
        raise NotReadableError(f"{path} may not be read ({error.strerror}). Check its permissions.") from error
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise DamagedFileError(f"{path} is not a list of names ({error}). Expected a text file with a name per line.") from error
    found = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not found:
        raise InvalidValueError(f"{path} lists no names. Expected a name per line.")
    return found
