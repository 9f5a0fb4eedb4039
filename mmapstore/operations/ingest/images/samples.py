"""Image files as samples: headers looked at first, pixels decoded in threads, in order, labels and boxes beside them."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ....files.worker_threads import usable_cpus
from ....plain.array_spec import ArraySpec
from ....plain.errors import (
    DamagedFileError,
    InvalidValueError,
    MmapstoreError,
    NotFoundError,
    NotReadableError,
    SourceWarning,
    UnsafeFileError,
)
from ..contract import Array, Piece, Position
from ..ordered_work import in_order
from ..sources import content_mark, stamp
from .decoding import ImageHeader, read_header
from .files import ListedImages
from .form import ImageForm

BROKEN = (DamagedFileError, UnsafeFileError, NotFoundError, NotReadableError)  # what skip_broken leaves out
_MOST_CATEGORIES = 1 << 16
_PIECE_NBYTES = 1 << 20
_DECODING_NBYTES = 96 << 20  # for all threads that decode: two photographs of 12 megapixels
_WAITING_NBYTES = 16 << 20
_HEADERS_AT_ONCE = 4  # they wait for the disk, or else for each other
_LISTED_NBYTES = 400  # a path, its label and box, what is known of the file


class ImageSamples:
    """Listed image files, each a sample; `Images` and `AnnotatedImages` make the list."""

    gives_from_any_sample = True

    def __init__(
        self, listed: ListedImages, name: str, form: ImageForm, labels: str | None, skip_broken: bool, workers: int | None
    ) -> None:
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
            raise InvalidValueError(f"workers={workers!r}; expected how many images to decode at once, at least 1, or None.")
        self.name = name
        files = listed.paths if len(listed.read_too) <= 1 else [*listed.paths, *listed.read_too]
        folders = {os.path.dirname(path) for path in files}  # in place of their files, of which there may be millions
        self.paths = [os.path.abspath(path) for path in (*sorted(folders), *(listed.read_too if len(listed.read_too) == 1 else ()))]
        self._files, self._left_out, self._skip_broken = listed.paths, listed.left_out, bool(skip_broken)
        self._workers = workers or usable_cpus()
        self._headers = self._read_headers()
        usable = [(path, header) for path, header in zip(listed.paths, self._headers, strict=True) if header is not None]
        if not usable:
            raise DamagedFileError(f"{name}: none of {len(listed.paths)} images can be read, beginning with {listed.paths[0]}.")
        self._decoder = form.decoder(usable)
        self._working = {header: self._decoder.working_nbytes(header) for header in {header for _, header in usable}}
        self.samples: int | None = None if skip_broken else len(usable)
        self.guess = len(usable)
        self._fields: dict[str, Array] = {}  # those beside "image", for every file
        self.specs: dict[str, ArraySpec] = {}
        height, width = self._decoder.size or usable[0][1].size
        self._sample_shape = (height, width, self._decoder.channels)
        self.specs["image"] = ArraySpec((self.samples or 0, *self._sample_shape), self._decoder.values.dtype, "NHWC")
        self.notes: dict[str, Mapping[str, Any]] = {"image": form.to_json()}
        if listed.others:
            self._say("not taken", f"these files are not taken: {'; '.join(listed.others)}", listed.others)
        self.fingerprint: dict[str, Any] = {
            "kind": "images",
            "files": len(listed.paths),
            "stamp": stamp([*listed.paths, *listed.read_too]),
            "image": [*self._sample_shape, str(self._decoder.values.dtype), form.to_json()],
            "left out": len(listed.left_out),
            "skip_broken": self._skip_broken,
        }
        self._one_hot = 0
        if labels is not None and listed.labels is not None:
            self._add_labels(listed.labels, listed.classes, labels)

    def _say(self, what: str, words: str, note: Any, field: str = "image") -> None:
        """Warn whoever makes this source, and keep a note for the manifest."""
        warnings.warn(f"{self.name}: {words}.", SourceWarning, stacklevel=4)
        self.notes[field] = {**self.notes.get(field, {}), what: note}

    def _add_labels(self, labels: Array, classes: tuple[str, ...] | None, kind: str) -> None:
        if kind == "one-hot":
            self._one_hot = len(classes) if classes is not None else _categories(labels, self.name)
        if classes is not None:
            self.notes["label"] = {"classes": list(classes)}
        self.fingerprint["labels"] = [kind, list(classes or ())[:100], content_mark(labels)]
        self._add_field("label", labels, ArraySpec((0, self._one_hot), np.dtype(np.uint8), "NC") if self._one_hot else None)

    def _add_field(self, name: str, values: Array, spec: ArraySpec | None = None) -> None:
        """A field beside "image": `values` of all files, those that are left out among them."""
        if spec is None:
            spec = ArraySpec(values.shape, values.dtype, "NC"[: values.ndim])
        self._fields[name] = values
        self.specs[name] = ArraySpec((self.samples or 0, *spec.sample_shape), spec.dtype, spec.layout)

    def _read_headers(self) -> list[ImageHeader | None]:
        """What each file tells of itself, None for those that are left out. Equal headers are one object: there may be millions."""
        once: dict[ImageHeader, ImageHeader] = {}

        def look(number: int) -> ImageHeader | None:
            if number in self._left_out:
                return None
            try:
                return read_header(self._files[number])
            except BROKEN:
                if self._skip_broken:
                    return None
                raise

        looked = in_order(range(len(self._files)), look, workers=_HEADERS_AT_ONCE, ahead=64)
        with contextlib.closing(looked):
            return [once.setdefault(header, header) if header is not None else None for header in looked]

    def pieces(self, after: Position, at_most: int) -> Iterator[Piece]:
        """Samples in the order of the list: "image" (n, H, W, C), and "label", "box" where there are any. All arrays are new."""
        first = after.samples + len(after.skipped)  # every file is the one or the other
        rows = max(1, min(at_most, _PIECE_NBYTES // max(1, self.specs["image"].sample_nbytes)))
        skipped: list[str] = []
        numbers: list[int] = []
        images = self._room(0)
        decoded = in_order(
            range(first, len(self._files)),
            self._decoded,
            workers=self._workers,
            ahead=self._ahead(),
            nbytes=self._nbytes,
            most_nbytes=self._decoding_nbytes(),
        )
        with contextlib.closing(decoded):
            for number, image in enumerate(decoded, first):
                if numbers and (image is None or len(numbers) == len(images)):
                    yield self._piece(images, numbers, skipped)
                    numbers, skipped = [], []
                if image is None:
                    skipped.append(self._files[number])
                    continue
                if not numbers:
                    images = self._room(rows)
                images[len(numbers)] = image
                numbers.append(number)
        if numbers or skipped:
            yield self._piece(images, numbers, skipped)

    def _room(self, rows: int) -> Array:
        return np.empty((rows, *self._sample_shape), self._decoder.values.dtype)

    def _piece(self, images: Array, numbers: list[int], skipped: list[str]) -> Piece:
        fields = {"image": images[: len(numbers)]}
        for name, values in self._fields.items():
            found = values[numbers]
            if name == "label" and self._one_hot:
                found = (found[:, None] == np.arange(self._one_hot)).astype(np.uint8)
            fields[name] = found
        return Piece(fields, (), skipped)

    def _decoded(self, number: int) -> Array | None:
        header = self._headers[number]
        if header is None:
            return None
        try:
            image = self._decoder.decode(self._files[number], header)
        except BROKEN:
            if self._skip_broken:
                return None
            raise
        if image.shape != self._sample_shape:
            raise MmapstoreError(f"{self._files[number]} gave {image.shape}, where {self._sample_shape} was planned.")
        return image

    def _nbytes(self, number: int) -> int:
        header = self._headers[number]
        return 0 if header is None else self._working[header]

    def _ahead(self) -> int:
        """Images under way or decoded and not yet taken: two for each thread, of large ones just one."""
        return max(self._workers, min(2 * self._workers, _WAITING_NBYTES // max(1, self.specs["image"].sample_nbytes)))

    def _decoding_nbytes(self) -> int:
        largest = max(self._working.values())
        return min(self._workers * largest, max(_DECODING_NBYTES, largest))

    def memory(self, at_most: int) -> dict[str, int]:
        """Most private bytes that `pieces` holds at once, in named parts."""
        image = self.specs["image"].sample_nbytes
        piece = max(image, min(at_most * image, _PIECE_NBYTES))
        return {
            "images being decoded": self._decoding_nbytes(),
            "decoded images": (self._ahead() + 1) * image + 2 * piece,
            "list of images": len(self._files) * _LISTED_NBYTES,
        }


def _categories(labels: Array, name: str) -> int:
    """How many columns numbers need as one-hot rows."""
    if labels.dtype.kind != "i":
        raise InvalidValueError(
            f"{name}: labels are fractions, such as {labels[0]:g}, which have no one-hot form. Say labels='index'."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= _MOST_CATEGORIES:
        raise InvalidValueError(
            f"{name}: labels go from {low} to {high}; one-hot rows need numbers from 0 to {_MOST_CATEGORIES - 1}. "
            "Say labels='index'."
        )
    return high + 1
