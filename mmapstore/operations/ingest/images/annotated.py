"""Images with annotations in another folder: the largest object of an image is its label."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....plain.errors import DamagedFileError, InvalidValueError, NotFoundError
from ..sources import content_mark
from .annotations import Annotation, category_numbers, inside, read_annotation
from .decoding import skipping_broken
from .files import ListedImages
from .form import ImageForm, require_one_of
from .header import ImageHeader
from .images import LABELS
from .order import WantedOrder
from .pairs import UNMATCHED, PairedFolders
from .placement import Box, upright_box
from .samples import ImageSamples


class AnnotatedImages(ImageSamples):
    """Images with Pascal VOC or ImageNet DET annotations for `mmapstore.ingest`: fields "image", "label", "box", "source".

    Annotations are read in their folder and those below. The image of `n01/a.xml` is `n01/a.*` in the images folder, or else the
    file that the annotation calls <filename>. The object with the largest bounding box is the label. Its box is
    (ymin, xmin, ymax, xmax) in pixels of the image as it is written, float32: cropped, resized and turned exactly as the image is.
    A box that is cropped away as a whole has no area and lies at the edge; an image without an object has NaN.

    Parameters
    ----------
    images, annotations : folders
    categories : names of the categories in the order of their numbers; None for all names in the annotations, sorted. Name them
        where train and test images lie in different folders, so that both have the same numbers
    background : a further category behind the others, for annotations without an object: its name, or True for "background".
        False makes such an annotation an error
    subset : a text file with a name per line, as in Pascal VOC's ImageSets and ImageNet's lists: only these, in this order. A name
        is that of the annotation, without suffix, and without the folder where it is unique; a number behind it is ignored
    unmatched : handling of annotations without an image, and images without an annotation: "error"; "skip" skips both kinds and
        lists them in the manifest, "skip-images" and "skip-annotations" that kind alone
    first_pixel : 0 if boxes count rows and columns from 0 and end behind the last (ImageNet); 1 if they count from 1 and end with
        the last (Pascal VOC)
    clip_boxes : number of pixels by which a box may exceed its image, to be clipped, which a `SourceWarning` and the manifest
        count. 1 is a rounding; math.inf clips all but boxes that lie outside as a whole
    order, seed, episodes, source_field : as for `Images`; images are mixed unless `order` or `episodes` says otherwise, and
        order="sorted" keeps the order of `subset`
    size, fit, channels, dtype, scale, labels, skip_broken, workers : as for `Images`; `skip_broken` skips broken annotations too.
        Boxes are of the upright picture; where the size in the annotation fits only the picture as it is stored, before EXIF turns
        it, boxes are turned with it

    Raises
    ------
    The errors of `Images`; DamagedFileError, with the object, for damaged XML and boxes outside their image; UnsafeFileError for
    XML that declares entities or a document type

    >>> import tempfile
    >>> from pathlib import Path
    >>> import mmapstore as mm
    >>> from PIL import Image
    >>> annotation = '''<annotation><size><width>60</width><height>40</height></size><object><name>cat</name><bndbox>
    ... <xmin>10</xmin><ymin>10</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object></annotation>'''
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     photos, boxes = Path(folder, "photos"), Path(folder, "boxes")
    ...     photos.mkdir(), boxes.mkdir()
    ...     Image.new("RGB", (60, 40)).save(photos / "a.png")
    ...     written = (boxes / "a.xml").write_text(annotation)
    ...     source = mm.AnnotatedImages(photos, boxes, size=(20, 20))
    (None, None)
    >>> source.notes["label"], {name: spec.shape for name, spec in source.specs.items()}
    ({'classes': ['cat', 'background']}, {'image': (1, 20, 20, 3), 'label': (1,), 'box': (1, 4), 'source': (1,)})
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        annotations: str | os.PathLike[str],
        *,
        categories: Sequence[str] | None = None,
        background: bool | str = True,
        subset: str | os.PathLike[str] | None = None,
        unmatched: str = "error",
        first_pixel: int = 0,
        clip_boxes: float = 1.0,
        size: int | Sequence[int] | None = None,
        fit: str = "crop",
        channels: int | None = None,
        dtype: Any = None,
        scale: Any = None,
        labels: str | None = "index",
        skip_broken: bool = False,
        workers: int | None = None,
        order: str | None = None,
        seed: int = 0,
        episodes: str | None = None,
        source_field: bool | None = None,
    ) -> None:
        form = ImageForm.of(size, fit, channels, dtype, scale)
        wanted = WantedOrder.of(order, seed, episodes)
        require_one_of("labels", labels, LABELS)
        require_one_of("unmatched", unmatched, UNMATCHED)
        require_one_of("first_pixel", first_pixel, (0, 1))
        if isinstance(clip_boxes, bool) or not isinstance(clip_boxes, (int, float)) or not clip_boxes >= 0:
            raise InvalidValueError(f"clip_boxes={clip_boxes!r} is not understood; expected a number of pixels from 0 on.")
        folders = PairedFolders(_folder(images, "images"), _folder(annotations, "annotations"))
        listing = [] if subset is None else [os.fspath(subset)]
        names = folders.listed_names(*listing) if listing else folders.all_names()
        # Categories that are not given are those of all annotations, so that each subset counts them the same way.
        needed = folders.annotations if categories is None else [name for name in names if name in folders.annotations]
        parsed: dict[str, Annotation] = {}
        for name in needed:
            with skipping_broken(skip_broken):
                parsed[name] = read_annotation(folders.annotations[name], first_pixel, clip_boxes)
        pairs = folders.pairs(names, lambda name: parsed[name].filename if name in parsed else "")
        numbers = category_numbers(categories, parsed)
        classes = tuple(numbers)
        if background:
            classes += ("background" if background is True else str(background),)
            if classes[-1] in numbers:
                raise InvalidValueError(
                    f"background={background!r} is to be named {classes[-1]!r}, which is also a category. Give it another name."
                )
        broken = {number for number, pair in enumerate(pairs) if pair.annotation and pair.name not in parsed}
        left_out = broken | folders.left_out(pairs, unmatched, broken)
        found = [None if number in left_out else parsed[pair.name] for number, pair in enumerate(pairs)]
        read_too = [*map(folders.annotations.__getitem__, needed), *listing]
        paths, values = [], []
        for pair, annotation in zip(pairs, found, strict=True):
            # A skipped pair is listed by the file that is to blame.
            paths.append((pair.image if annotation or not pair.annotation else pair.annotation) or "")
            values.append(_label(annotation, numbers, bool(background), pair.annotation or "") if annotation else 0)
        listed = ListedImages(paths, np.array(values, np.int64), classes, frozenset(left_out), tuple(read_too), folders.others)
        super().__init__(
            listed, f"{folders.images_folder} with {folders.annotations_folder}", form, labels, skip_broken, workers, None
        )
        self._add_boxes(found, [pair.annotation or "" for pair in pairs], clip_boxes)
        self._arrange(wanted, False, True, folders.images_folder, source_field)

    def _add_boxes(self, found: Sequence[Annotation | None], paths: Sequence[str], clip: float) -> None:
        clipped: list[str] = []
        boxes = np.full((len(self._files), 4), np.nan, np.float32)
        for number, (annotation, header) in enumerate(zip(found, self._headers, strict=True)):
            if annotation is None or header is None or annotation.largest is None:
                continue
            self._headers[number] = None  # if its box is broken
            with skipping_broken(self._skip_broken):
                box, count = _upright(annotation, header, self._files[number], paths[number], clip)
                boxes[number] = self._pictures["image"].decoder.placement(header).moved(box)
                clipped += [paths[number]] * count
                self._headers[number] = header
        self._add_field("box", boxes)
        self.fingerprint["boxes"] = content_mark(boxes)
        edges = ["ymin", "xmin", "ymax", "xmax"]
        self.notes["box"] = {"edges": edges, "unit": "pixels of the image as written", "no object": "NaN"}
        if clipped:
            count_words = f"{len(clipped)} box{'es' * (len(clipped) > 1)}"
            words = f"clipped {count_words} to the image, first in {clipped[0]} (clip_boxes={clip:g}, --clip-boxes)"
            self._say("clipped", words, len(clipped), "box")


def _folder(path: str | os.PathLike[str], name: str) -> str:
    found = os.fspath(path)
    if not os.path.isdir(found):
        what = "is not a folder" if os.path.exists(found) else "does not exist"
        raise NotFoundError(f"{found} {what}; expected the folder of {name}.")
    return found


def _label(annotation: Annotation, numbers: Mapping[str, int], background: bool, path: str) -> int:
    largest = annotation.largest
    if largest is None:
        if not background:
            raise InvalidValueError(
                f"{path} holds no object, and there is no category for that. Say background=True, or leave it out with subset=."
            )
        return len(numbers)
    if largest.name not in numbers:
        raise InvalidValueError(
            f"{path} holds a {largest.name!r}, which is none of the {len(numbers)} categories given. Add it to categories=."
        )
    return numbers[largest.name]


def _upright(annotation: Annotation, header: ImageHeader, image: str, path: str, clip: float) -> tuple[Box, int]:
    """Return the largest box of an annotation in the upright picture, and the number of boxes that were clipped."""
    if annotation.size is None:
        annotation = inside(annotation, header.size, path, clip)
    assert annotation.largest is not None
    height, width = annotation.size or header.size
    if (height, width) == header.size:
        return annotation.largest.box, annotation.clipped
    if annotation.size == header.stored:
        return upright_box(annotation.largest.box, header.stored, header.orientation), annotation.clipped
    raise DamagedFileError(
        f"{path} was made for an image of {height} x {width} pixels (height x width); {image} is "
        f"{header.size[0]} x {header.size[1]}. Its boxes would be elsewhere: find the original image, "
        "or leave it out with skip_broken=True (--skip-broken)."
    )
