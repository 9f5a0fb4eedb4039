"""Images in folders, and in tables of path and label."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from typing import Any

from ....plain.errors import InvalidTypeError, InvalidValueError, NotFoundError
from ..files import matching
from .files import TABLE_SUFFIXES, ListedImages, images_in_folder, images_of_list
from .form import ImageForm, require_one_of
from .order import WantedOrder
from .pairs import UNMATCHED, with_masks
from .samples import PAGES, ImageSamples
from .tables import images_of_table

LABELS = ("index", "one-hot", None)


class Images(ImageSamples):
    """Image files as a source of `mmapstore.ingest`: fields "image" and, where there are classes, "label" and "source".

    Pillow reads the files, in any of its formats but EPS and WMF, which other programs would have to draw; pillow-heif reads HEIF
    (.heic). Images are turned upright as EXIF says. All headers are read before anything is written, so a file that does not fit is
    an error at once; a truncated file is an error when it is decoded. Threads decode images, which come in the order of the list.

    Of a folder every file is read that has the suffix or the content of an image. A `SourceWarning` and the manifest count other
    files by suffix, without hidden files and those of operating systems (Thumbs.db).

    Parameters
    ----------
    source : a folder whose sub-folders are the classes, sorted by name, or one that holds the images themselves, without labels; a
        glob or a list of files, without labels; or a table (.csv or .tsv with a header line, .jsonl) of path and label, with paths
        relative to the table. Labels that are all whole numbers keep their values; all numbers with fractions among them become
        float32; others are names of classes, sorted
    size : (height, width) of every image in pixels, or one number for both; None keeps the size of the files, all of one size
    fit : with `size`: "crop" fills the image and crops both sides alike, "pad" adds a black or transparent margin, "stretch"
        changes proportions. The filter is bilinear, over as many pixels as the reduction needs
    channels : 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha. None: RGB if any image has colour, alpha if all have it
    dtype : None for the dtype of the files, uint8 or (16-bit grey) uint16, of one kind; uint8 and uint16 convert to each other,
        with black and white kept; float16 and float32 hold the same values unless scaled
    scale : None; "unit" for 0 to 1; (mean, deviation), of values from 0 to 1, each one number or one per channel, as they are
        published for ImageNet; "each" for each image by its own mean and deviation over all channels. Implies dtype float32
    labels : "index" for int64; "one-hot" for uint8 rows; None for no labels
    skip_broken : skip files that cannot be decoded, exceed Pillow's limit of pixels, or do not exist; the manifest lists them
    workers : number of images decoded at once; None for the number of processors
    pages : of files that hold several pictures (TIFF stacks, animations) read "all", each a sample, with the label of its file, and
        the file an episode; or the "first". Thumbnails, and levels of a pyramid, are no samples. Pages that differ from the first
        in size or kind are skipped, as a `SourceWarning` and the manifest say
    masks : a folder of label masks, one for each image under the same name, with any suffix: they become a field "mask". Or True if
        the images of `source` are label masks themselves, False if they are pictures; None detects masks by their look, with a
        `SourceWarning` and a note in the manifest, and raises where the look is ambiguous. Masks keep their numbers, palettes their
        indices, and are resized by taking the nearest pixel
    unmatched : with a folder of masks, handling of images and masks without each other: "error"; "skip", or "skip-images" or
        "skip-masks" alone, skips them and lists them in the manifest
    path_column, label_column : names of columns in a table. None is "label", without which there are no labels; a `SourceWarning`
        names the columns that are not read
    order : "mixed" writes the files in a random order by `seed`, so that contiguous parts (`split(0.8, 0.2)`) are random parts, and
        training still reads contiguously; "sorted" keeps the order of names, and that of a table or a list. None mixes images with
        labels or masks, except folders of numbered frames: if the names of all files are numbers, padded with zeros and without a
        gap in each folder (`walk/0001.png`; or "frame" and a number), and the images of a folder have one size, files stay in order
        and each folder is an episode, with a `SourceWarning`. Pages of a file stay together. The manifest notes the order;
        `mmapstore.NextFrame` and `Window` of several samples are errors on mixed samples
    seed : a whole number, which with the list of files alone decides the mixed order, the same on every machine
    episodes : "folder" makes the files of each folder a sequence, in the order of names, and an episode; they are never mixed
    source_field : True for a field "source", the path of each sample's file below the folder or table, as text of a fixed width
        (UTF-8; 32 bytes a sample, or the multiple of 32 that the longest path needs). None: if there are fields beside "image"

    Raises
    ------
    NotFoundError, NotReadableError, DamagedFileError, UnsafeFileError (a path out of the table's directory; more pixels than
    PIL.Image.MAX_IMAGE_PIXELS), InvalidValueError, InvalidTypeError, KeyNotFoundError, MissingPackageError

    >>> import os, tempfile
    >>> import mmapstore as mm
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, colour in (("cat", "orange"), ("dog", "brown")):
    ...         os.mkdir(os.path.join(folder, name))
    ...         Image.new("RGB", (60, 40), colour).save(os.path.join(folder, name, "1.png"))
    ...     images = mm.Images(folder, size=(32, 32))
    ...     images.specs["image"].shape, images.notes["label"]
    ((2, 32, 32, 3), {'classes': ['cat', 'dog']})
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        size: int | Sequence[int] | None = None,
        fit: str = "crop",
        channels: int | None = None,
        dtype: Any = None,
        scale: Any = None,
        labels: str | None = "index",
        skip_broken: bool = False,
        workers: int | None = None,
        pages: str = "all",
        masks: bool | str | os.PathLike[str] | None = None,
        unmatched: str = "error",
        path_column: str = "path",
        label_column: str | None = None,
        order: str | None = None,
        seed: int = 0,
        episodes: str | None = None,
        source_field: bool | None = None,
    ) -> None:
        form = ImageForm.of(size, fit, channels, dtype, scale)
        wanted = WantedOrder.of(order, seed, episodes)
        require_one_of("labels", labels, LABELS)
        require_one_of("pages", pages, PAGES)
        require_one_of("unmatched", unmatched, [each.replace("annotations", "masks") for each in UNMATCHED])
        listed, name = _listed(source, path_column, label_column)
        if labels == "one-hot" and listed.labels is None:
            raise InvalidValueError(
                f"{name} tells no classes, so there are no labels='one-hot'. "
                "Put each class into a sub-folder of its own, or give a table of path and label."
            )
        if isinstance(masks, (str, os.PathLike)):
            if not isinstance(source, (str, os.PathLike)) or not (os.path.isdir(source) and os.path.isdir(masks)):
                raise InvalidValueError(f"masks={os.fspath(masks)!r} is to be a folder, beside a folder of images.")
            listed, paths = with_masks(listed, name, os.fspath(masks), unmatched)
            super().__init__(listed, f"{name} with {os.fspath(masks)}", form, labels, skip_broken, workers, pages, paths)
        else:
            super().__init__(listed, name, form, labels, skip_broken, workers, pages, masks)
        is_folder = os.path.isdir(name)
        root = name if is_folder else os.path.dirname(name) if listed.read_too else ""
        self._arrange(wanted, is_folder, len(self.specs) > 1, root, source_field)


def _listed(source: Any, path_column: str, label_column: str | None) -> tuple[ListedImages, str]:
    if isinstance(source, (list, tuple)) and all(isinstance(path, (str, os.PathLike)) for path in source):
        paths = [os.fspath(path) for path in source]
        return images_of_list(paths), f"{len(paths)} images" if len(paths) != 1 else paths[0]
    if not isinstance(source, (str, os.PathLike)):
        raise InvalidTypeError(
            f"Images of a {type(source).__name__}; expected a folder, a glob, a table of paths (.csv, .jsonl), or a list of files."
        )
    path = os.fspath(source)
    if os.path.isdir(path):
        return images_in_folder(path), path
    if path.lower().endswith(TABLE_SUFFIXES):
        return images_of_table(path, path_column, label_column), path
    if os.path.exists(path):
        return images_of_list([path]), path
    if glob.has_magic(path):
        return images_of_list(matching(path)), path
    raise NotFoundError(f"{path} does not exist. Expected a folder of images, a table, a glob or a list of files.")
