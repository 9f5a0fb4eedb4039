"""Pascal VOC annotations, one XML file for each image: the objects in it, and the largest of them."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....files.descriptors import check_is_file
from ....files.system_errors import explaining_read_errors
from ....plain.errors import DamagedFileError, InvalidValueError, MissingPackageError, UnsafeFileError
from .placement import Box

_MOST_NBYTES = 16 << 20  # thousands of times what an annotation takes
_EDGES = ("ymin", "xmin", "ymax", "xmax")
_WHOLE = re.compile(r"\d{1,18}(\.0*)?")
_ENCODING = re.compile(rb"""^\s*<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z][A-Za-z0-9._-]*)["']""")
_LARGER = {"gb2312": "gb18030", "gbk": "gb18030"}  # files that say the smaller of these sets hold characters of the larger


@dataclass(frozen=True)
class AnnotatedObject:
    """An object in an image: its category, and its box in pixels from the top left corner."""

    name: str
    box: Box

    @property
    def area(self) -> float:
        top, left, bottom, right = self.box
        return (bottom - top) * (right - left)


@dataclass(frozen=True)
class Annotation:
    """The annotation of one image."""

    filename: str  # of the image; "" where the annotation does not say
    size: tuple[int, int] | None  # (height, width), where the annotation says
    objects: tuple[AnnotatedObject, ...]
    clipped: int = 0  # number of boxes that reached out of the image, and were clipped to it

    @property
    def largest(self) -> AnnotatedObject | None:
        """The object with the largest box, the first of equals; None if there is no object.

        >>> Annotation("", None, (AnnotatedObject("cat", (0, 0, 2, 2)), AnnotatedObject("dog", (0, 0, 3, 3)))).largest.name
        'dog'
        """
        return max(self.objects, key=lambda found: found.area, default=None)


def read_annotation(path: str, first_pixel: int, clip: float = 1.0) -> Annotation:
    """Parse and check one annotation.

    `first_pixel` is the number of the first row and column: with 0, a box that is w pixels wide goes from x to x + w; with 1, as
    Pascal VOC counts, from x to x + w - 1, the last pixel in it. Boxes are returned the first way, and boxes that reach out of the
    image by at most `clip` pixels are clipped to it. An object with several boxes is several objects of one name.

    Raises DamagedFileError, naming the object, for a file that is no XML or a box that is not in the image; UnsafeFileError for XML
    that declares entities or a document type, or is larger than 16 MiB; NotFoundError, NotReadableError, MissingPackageError.
    """
    root = _parsed(path)
    size = _size(root, path)
    objects = []
    for number, found in enumerate(root.findall("object"), 1):
        name = (found.findtext("name") or "").strip()
        where = f"{path}: object {number}" + (f" ({name})" if name else "")
        if not name:
            raise DamagedFileError(f"{where} has no <name>. Every object needs a category; mend the annotation, or leave it out.")
        boxes = found.findall("bndbox")
        if not boxes:
            raise DamagedFileError(f"{where} has no <bndbox>. Mend the annotation, or leave it out.")
        objects += [AnnotatedObject(name, _box(box, where, first_pixel)) for box in boxes]
    filename = (root.findtext("filename") or "").strip()
    return inside(Annotation(filename, size, tuple(objects)), size, path, clip, first_pixel)


def inside(annotation: Annotation, size: tuple[int, int] | None, path: str, clip: float, first_pixel: int = 0) -> Annotation:
    """Return the annotation with its boxes clipped to an image of (height, width), or to one of unknown size for None.

    Raises DamagedFileError for a box that reaches out by more than `clip` pixels, or that lies outside as a whole.
    """
    height, width = size or (math.inf, math.inf)
    objects, clipped = [], 0
    for number, found in enumerate(annotation.objects, 1):
        top, left, bottom, right = found.box
        box = max(top, 0.0), max(left, 0.0), min(bottom, height), min(right, width)
        over = max(abs(now - before) for now, before in zip(box, found.box, strict=True)) if box != found.box else 0.0
        is_outside = box[2] < box[0] or box[3] < box[1] or (over >= 1 and (box[2] == box[0] or box[3] == box[1]))
        # A zero where the first pixel is 1 is no rounding: all boxes are counted another way than was said.
        counts_from_zero = bool(first_pixel) and min(top, left) == -1
        if over > clip or is_outside or counts_from_zero:
            raise _outside(f"{path}: object {number} ({found.name})", found.box, size, first_pixel, is_outside)
        clipped += over > 0
        objects.append(AnnotatedObject(found.name, box))
    return Annotation(annotation.filename, annotation.size, tuple(objects), annotation.clipped + clipped)


def _parsed(path: str) -> Any:
    try:
        import defusedxml
        from defusedxml import ElementTree
    except ImportError as error:
        raise MissingPackageError(
            "Reading annotations needs defusedxml. Install it with: pip install 'mmapstore[images]'"
        ) from error
    with explaining_read_errors(path):
        check_is_file(path, os.stat(path))  # opening a pipe waits for who writes to it
        with Path(path).open("rb") as file:
            text = file.read(_MOST_NBYTES + 1)
    if len(text) > _MOST_NBYTES:
        raise UnsafeFileError(
            f"{path} has more than {_MOST_NBYTES} bytes, which no annotation needs. Check what it is, and leave it out."
        )
    try:
        root = ElementTree.fromstring(_as_expat_reads(text), forbid_dtd=True)
    except defusedxml.DefusedXmlException as error:
        raise UnsafeFileError(
            f"{path} declares a document type or entities ({type(error).__name__}), with which XML reaches for "
            "other files and for all memory; annotations need neither. Remove the declaration, or leave the file out."
        ) from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DamagedFileError(f"{path} is not an XML annotation ({error}). Copy or write it again.") from error
    if root.tag != "annotation":
        raise DamagedFileError(f"{path} holds <{root.tag[:40]}>; expected <annotation>, as Pascal VOC and ImageNet write it.")
    return root


def _as_expat_reads(text: bytes) -> bytes | str:
    """Return XML as it is, or decoded if its encoding is one that expat does not know, such as GB2312."""
    declared = _ENCODING.match(text)
    name = declared[1].decode().lower() if declared else "utf-8"
    if name.startswith(("utf", "us-ascii", "iso-8859-1")):
        return text
    return text.decode(_LARGER.get(name, name))


def _size(root: Any, path: str) -> tuple[int, int] | None:
    found = root.find("size")
    if found is None:
        return None
    texts = [(found.findtext(side) or "").strip() for side in ("height", "width")]
    if not all(_WHOLE.fullmatch(text) for text in texts):
        raise DamagedFileError(f"{path}: its <size> is {texts[0]!r} by {texts[1]!r}; expected whole numbers of pixels.")
    height, width = (int(text.partition(".")[0]) for text in texts)
    return (height, width) if height and width else None  # tools that did not know it wrote 0


def _box(found: Any, where: str, first_pixel: int) -> Box:
    texts = {edge: (found.findtext(edge) or "").strip() for edge in _EDGES}
    shown = ", ".join(f"{edge} {text or 'missing'}" for edge, text in texts.items())
    try:
        top, left, bottom, right = map(float, texts.values())
    except ValueError:
        top = left = bottom = right = math.nan
    if not all(map(math.isfinite, (top, left, bottom, right))):
        raise DamagedFileError(f"{where} has the box {shown}; expected four numbers.")
    if bottom < top or right < left:
        raise DamagedFileError(f"{where} has the box {shown}; expected ymin up to ymax, and xmin up to xmax.")
    return top - first_pixel, left - first_pixel, bottom, right


def _outside(where: str, box: Box, size: tuple[int, int] | None, first_pixel: int, is_outside: bool) -> DamagedFileError:
    top, left, bottom, right = box[0] + first_pixel, box[1] + first_pixel, box[2], box[3]
    within = f"{size[0]} x {size[1]} pixels (height x width)" if size is not None else "unknown size"
    hint = " (first_pixel=1: Pascal VOC counts from 1)" if first_pixel and min(top, left) == 0 else ""
    clip = "" if is_outside or hint else ", or clip it with clip_boxes= (--clip-boxes)"
    return DamagedFileError(
        f"{where} has the box ymin {top:.12g}, xmin {left:.12g}, ymax {bottom:.12g}, xmax {right:.12g}, "
        f"which {'lies outside' if is_outside else 'reaches out of'} its image of {within}{hint}. "
        f"Mend the annotation, or leave it out{clip}."
    )


def category_numbers(categories: Any, annotations: dict[str, Annotation]) -> dict[str, int]:
    """Return the number of each category: in the order given, or, for None, of all names in these annotations, sorted."""
    if categories is None:
        categories = sorted({found.name for annotation in annotations.values() for found in annotation.objects})
    if isinstance(categories, str) or not all(isinstance(name, str) for name in categories):
        raise InvalidValueError(
            f"categories={categories!r} is not understood; expected the names in order, such as ['cat', 'dog']."
        )
    names = list(categories)
    numbers = {name: number for number, name in enumerate(names)}
    twice = next((name for number, name in enumerate(names) if numbers[name] != number), None)
    if twice is not None:
        raise InvalidValueError(f"categories= names {twice!r} twice; each has one number.")
    return numbers
