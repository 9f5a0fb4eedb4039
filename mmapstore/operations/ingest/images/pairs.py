"""Pairs of images and annotations, or of images and label masks, by the names of their files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ....batches.opening import natural
from ....files.system_errors import explaining_read_errors
from ....plain.errors import DamagedFileError, InvalidValueError, NotFoundError
from .files import ListedImages, PassedOver, files_below, images_among
from .header import image_suffixes

UNMATCHED = ("error", "skip", "skip-images", "skip-annotations")
_NUMBER_BEHIND = re.compile(r"(.+?)\s+[+-]?[0-9]+")


class Pair(NamedTuple):
    """The paths of an image and its annotation, None for one that is missing, and their name."""

    name: str
    image: str | None
    annotation: str | None


class PairedFolders:
    """A folder of images and one of annotations.

    Attributes
    ----------
    images, annotations : paths by name, as `by_name` returns them
    others : a text for each kind of other file in the folder of images
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

    def all_names(self) -> list[str]:
        """Return the names of annotations, and of images without an annotation of their name."""
        return sorted({*self.annotations, *self.images}, key=natural)

    def listed_names(self, subset: str) -> list[str]:
        """Return the annotations that a text file lists, in its order. Raises for a name of neither an annotation nor an image."""
        shorter: dict[str, list[str]] = {}
        for name in {*self.annotations, *self.images}:
            shorter.setdefault(name.rpartition("/")[2], []).append(name)
        return [self._listed_name(line, f"{subset}, line {number}", shorter) for number, line in listed_lines(subset)]

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
        """Pair each name's image and annotation. An annotation without an image of its name has the one that it calls <filename>.

        `filename_of` returns that name, "" for none.
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
                    f"{self.annotations[taken[image]]} and {self.annotations[name]} both belong to {self.images[image]}. "
                    "Every image has one annotation: rename or remove one."
                )
        return [
            Pair(name, self.images.get(images.get(name, name) or ""), self.annotations.get(name))
            for name in names
            if name in images or name not in taken
        ]

    def _called(self, annotation: str, filename: str) -> str | None:
        """Return the image of this file name, in the folder of the annotation or in the folder of images itself."""
        written = filename.replace("\\", "/")
        folder = annotation.rpartition("/")[0]
        last = written.rpartition("/")[2]
        for place in (f"{folder}/{written}", written, f"{folder}/{last}", last):
            for name in (place.lstrip("/"), _without_suffix(place.lstrip("/"))):
                if name in self.images:
                    return name
        return None

    def left_out(self, pairs: Sequence[Pair], unmatched: str, broken: Container[int]) -> set[int]:
        """Return the numbers of incomplete pairs, if `unmatched` skips them. The image of a `broken` annotation is unknown."""
        annotations = {number: each.annotation for number, each in enumerate(pairs) if each.image is None and number not in broken}
        images = {number: each.image for number, each in enumerate(pairs) if each.annotation is None}
        _require_pairs(annotations.values(), len(self.annotations), "annotations", f"image in {self.images_folder}", unmatched)
        _require_pairs(images.values(), len(self.images), "images", f"annotation in {self.annotations_folder}", unmatched)
        return {*annotations, *images}


def with_masks(listed: ListedImages, folder: str, masks_folder: str, unmatched: str) -> tuple[ListedImages, list[str]]:
    """Return the images of a folder and the path of each one's mask, which has the same name in its folder, with any suffix.

    Raises NotFoundError for images without a mask and masks without an image, unless `unmatched` leaves them out.
    """
    others = PassedOver()
    masks = by_name(masks_folder, images_among(files_below(masks_folder, others), masks_folder, others))
    names = [os.path.splitext(os.path.relpath(path, folder))[0].replace(os.sep, "/") for path in listed.paths]
    left_out = [number for number, name in enumerate(names) if name not in masks]
    alone = [masks[name] for name in sorted(set(masks) - set(names))]
    images = [listed.paths[number] for number in left_out]
    _require_pairs(images, len(names), "images", f"mask of their name in {masks_folder}", unmatched)
    _require_pairs(alone, len(masks), "masks", f"image of their name in {folder}", unmatched)
    for path in alone:
        others.add(path, "no image has its name")
    paths = [masks.get(name, "") for name in names]
    read_too, words = tuple(filter(None, paths)), [*listed.others, *others.words()]
    return replace(listed, left_out=frozenset(left_out), read_too=read_too, others=words), paths


def _require_pairs(lacking: Collection[str | None], count: int, kind: str, other: str, unmatched: str) -> None:
    """Raise NotFoundError if some of `count` files of a kind lack the other, unless `unmatched` skips them."""
    if lacking and unmatched not in ("skip", f"skip-{kind}"):
        raise NotFoundError(
            f"{len(lacking)} of {count} {kind} have no {other}; the first is {next(iter(lacking))}. "
            f"Check the folders, or skip them with unmatched='skip-{kind}' (--unmatched)."
        )


def by_name(folder: str, files: Iterable[str]) -> dict[str, str]:
    """Return the paths of files below a folder by name there, without suffix and with "/" between folders, in natural order."""
    found: dict[str, str] = {}
    for file in sorted(files, key=natural):
        name = os.path.splitext(file)[0].replace(os.sep, "/")
        if name in found:
            raise InvalidValueError(
                f"{folder} holds {os.path.relpath(found[name], folder)} and {file}: which of them is {name}? Rename or remove one."
            )
        found[name] = os.path.join(folder, file)
    return found


def _is_xml(name: str) -> bool:
    return name.lower().endswith(".xml")


def _without_suffix(name: str) -> str:
    bare, suffix = os.path.splitext(name)
    return bare if suffix.lower() in image_suffixes() or _is_xml(name) else name


def listed_lines(path: str) -> list[tuple[int, str]]:
    """Return the lines of a text file that are not empty, and their numbers from 1 on."""
    try:
        with explaining_read_errors(path):
            text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"{path} is not a list of names ({error}). Expected a text file with a name per line.") from error
    found = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not found:
        raise InvalidValueError(f"{path} lists no names. Expected a name per line.")
    return found
