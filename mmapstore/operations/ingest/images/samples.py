"""Image files as samples: headers looked at first, pixels decoded in threads, in order, labels and boxes beside them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Self

import numpy as np

from ....files.worker_threads import usable_cpus
from ....plain.array_spec import ArraySpec
from ....plain.errors import DamagedFileError, InvalidValueError, SourceWarning, warn_user
from ....plain.windows import whole_number
from ..contract import Array, Piece, Position
from ..ordered_map import in_order
from ..sources import content_mark, stamp
from .decoding import PictureFiles, picture_decoder, skipping_broken
from .files import ListedImages, PassedOver
from .form import ImageForm
from .masks import are_masks, mask_decoder, require_alike, require_no_pairs
from .order import WantedOrder, order_words

_MOST_CATEGORIES = 1 << 16
_PIECE_NBYTES = 1 << 20
_DECODING_NBYTES = 96 << 20  # for all threads that decode: two photographs of 12 megapixels
_WAITING_NBYTES = 16 << 20
_LISTED_NBYTES = 400  # a path, its label and box, its header
_SOURCE_WIDTH = 32  # bytes, of which the width of "source" is a multiple: files with somewhat longer names can be appended
PAGES = ("all", "first")


class ImageSamples:
    """Listed image files as samples; `Images` and `AnnotatedImages` make the list.

    Items are the pictures in the files, in order: each is a sample, or broken and skipped. A file skipped as a whole is one item.
    """

    gives_from_any_sample = True
    _call: Callable[[], Any]

    def __new__(cls, *arguments: Any, **options: Any) -> Self:
        found = super().__new__(cls)
        found._call = functools.partial(cls, *arguments, **options)
        return found

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return self._call, ()  # the files are listed again

    def __init__(
        self,
        listed: ListedImages,
        name: str,
        form: ImageForm,
        labels: str | None,
        skip_broken: bool,
        workers: int | None,
        pages: str | None,
        masks: list[str] | bool | None = False,
    ) -> None:
        self.name = name
        files = listed.paths if len(listed.read_too) <= 1 else [*listed.paths, *listed.read_too]
        folders = {os.path.dirname(path) for path in files}  # in place of their files, of which there may be millions
        self.paths = [os.path.abspath(path) for path in (*sorted(folders), *(listed.read_too if len(listed.read_too) == 1 else ()))]
        self._files = listed.paths
        self._skip_broken = bool(skip_broken)
        self._workers = usable_cpus() if workers is None else whole_number("workers", workers, least=1)
        images = PictureFiles(listed.paths, listed.left_out, self._skip_broken)
        self._pictures = {"image": images}
        if isinstance(masks, list):
            self._pictures["mask"] = PictureFiles(masks, listed.left_out, self._skip_broken)
        self._headers = images.headers
        if not images.usable():
            raise DamagedFileError(f"{name}: none of {len(listed.paths)} images can be read, beginning with {listed.paths[0]}.")
        self.notes: dict[str, Mapping[str, Any]] = {"image": form.to_json()}
        if listed.others:
            self._say("not taken", f"skipped {'; '.join(listed.others)}", listed.others)
        self._choose_pages(pages, listed.labels is not None)
        if "mask" in self._pictures:
            self._pair_masks(self._pictures["mask"], form)
        if masks is None and listed.classes is not None and os.path.isdir(name):
            require_no_pairs(name, images.usable())
        self._decide_how(images, form, masks)
        usable = sum(len(header.pages) for header in self._headers if header is not None)
        self.samples: int | None = None if skip_broken else usable
        self.guess = usable
        self._fields: dict[str, Array] = {}  # fields without pixels: the value of every file
        self.specs: dict[str, ArraySpec] = {}
        for field, pictures in self._pictures.items():
            self.specs[field] = ArraySpec((self.samples or 0, *pictures.sample_shape), pictures.decoder.values.dtype, "NHWC")
        self.fingerprint: dict[str, Any] = {
            "kind": "images",
            "files": len(listed.paths),
            "stamp": stamp([*listed.paths, *listed.read_too]),
            "image": [*images.sample_shape, str(images.decoder.values.dtype), form.to_json()],
            "left out": len(listed.left_out),
            "skip_broken": self._skip_broken,
            "masks": [name for name, pictures in self._pictures.items() if pictures.decoder.is_mask],
        }
        self._one_hot = 0
        if labels is not None and listed.labels is not None:
            self._add_labels(listed.labels, listed.classes, labels)

    def _arrange(self, wanted: WantedOrder, in_folders: bool, is_labelled: bool, root: str, source_field: bool | None) -> None:
        """Put the files into the order in which they are written, once all fields but "source" are known; see `WantedOrder.note`.

        `root` is the folder to which paths in the field "source" are relative; other paths, and all paths for "", stay as given.
        """
        self._root = os.path.join(root, "") if root else ""
        if source_field or (source_field is None and len(self.specs) > 1):
            longest = max(len(self._source_of(path)) for path, _ in self._pictures["image"].usable())
            width = -(-longest // _SOURCE_WIDTH) * _SOURCE_WIDTH
            self.specs["source"] = ArraySpec((self.samples or 0,), np.dtype(f"S{width}"), "N")
            self.notes["source"] = {"encoding": "utf-8", "padding": 0}
        note = wanted.note(self.name, self._files, self._headers, in_folders, is_labelled)
        if "seed" in note:
            places = wanted.places(len(self._files)).tolist()
            for pictures in self._pictures.values():
                pictures.reorder(places)
            self._fields = {name: values[places] for name, values in self._fields.items()}
        by_folder = wanted.by_folder or "why" in note  # each folder is an episode, and so is each file of several pictures
        counts = [1 if header is None else len(header.pages) for header in self._headers]
        self._file_of = np.repeat(np.arange(len(counts)), counts)  # of each item
        self._first_item = np.cumsum([0, *counts])  # of each file
        folders: dict[str, int] = {}
        numbers = (folders.setdefault(os.path.dirname(path) if by_folder else "", len(folders)) for path in self._files)
        self._episode_of = [~file if counts[file] > 1 else number for file, number in enumerate(numbers)]
        if len(self._file_of) > len(self._files):
            self.fingerprint["pictures"] = len(self._file_of)
        for name in self._pictures if note else ():
            self.notes[name] = {**self.notes[name], "order": note}
        self.fingerprint["order"] = [note, by_folder]

    def _source_of(self, path: str) -> bytes:
        """Return a path as UTF-8 with "/" between folders; a name that is no text as its bytes."""
        return os.fsencode(path.removeprefix(self._root).replace(os.sep, "/"))

    def __repr__(self) -> str:
        fields = "; ".join(f"{name!r} {spec.sample_shape} {spec.dtype}" for name, spec in self.specs.items())
        order = order_words(self.notes["image"].get("order"))
        return f"<{type(self).__name__} {self.name}: {self.guess} samples{order and f', {order}'}; {fields}>"

    def _pair_masks(self, masks: PictureFiles, form: ImageForm) -> None:
        for number, (header, mask) in enumerate(zip(self._headers, masks.headers, strict=True)):
            with skipping_broken(self._skip_broken):
                if header is not None and mask is not None:
                    pages = mask.pages[: len(header.pages)] if self.notes["image"].get("pages") == "first" else mask.pages
                    masks.headers[number] = mask = mask._replace(pages=pages)
                    require_alike(self._files[number], header, masks.paths[number], mask, form.size is not None)
                    continue
            self._headers[number] = masks.headers[number] = None
        if not masks.usable():
            raise DamagedFileError(f"{self.name}: no image has a mask that can be read. Check the folders.")
        masks.decode_by(lambda files: mask_decoder(files, form.of_masks()))
        self.notes["mask"] = {"label masks": True, **form.of_masks().to_json()}

    def _decide_how(self, images: PictureFiles, form: ImageForm, masks: list[str] | bool | None) -> None:
        is_mask, words = (masks is True, "") if masks is not None else are_masks(images.usable(), form)
        if words:
            self._say("taken for label masks" if is_mask else "maybe label masks", words, True)
        decoder_of = mask_decoder if is_mask else picture_decoder
        images.decode_by(lambda files: decoder_of(files, form))
        if is_mask:
            self.notes["image"] = {**self.notes["image"], "label masks": True}

    def _choose_pages(self, pages: str | None, are_labelled: bool) -> None:
        """Keep the first picture alone of each file, unless `pages` is "all", and warn of skipped pages and of files with several.

        `pages` is None where the user cannot choose.
        """
        several = [number for number, header in enumerate(self._headers) if header is not None and len(header.pages) > 1]
        left_out = PassedOver()
        for number, header in enumerate(self._headers):
            if header is not None and header.left_out:
                left_out.add(self._files[number], header.left_out)
        if left_out.words():
            self._say("not taken of files", f"skipped parts of {'; '.join(left_out.words())}", left_out.words())
        if not several:
            return
        example = f"{len(several)} of {len(self._headers)} files hold several images, such as {self._files[several[0]]}"
        if pages != "all":
            for number in several:
                header = self._headers[number]
                assert header is not None
                self._headers[number] = header._replace(pages=header.pages[:1])
            self.notes["image"] = {**self.notes["image"], "pages": "first"}
            if pages is None:
                self._say("pages", f"{example}; the first of each is taken, as the one that is annotated", "first")
        elif are_labelled or len(several) < len(self._headers):
            label = " with the label of its file" if are_labelled else ""
            words = f"{example}; each image is a sample{label}, and the file an episode"
            self._say("pages", f"{words}. pages='first' (--pages first) takes the first of each", "all")

    def _say(self, what: str, words: str, note: Any, field: str = "image") -> None:
        """Warn the user, and keep a note for the manifest."""
        warn_user(f"{self.name}: {words}.", SourceWarning)
        self.notes[field] = {**self.notes.get(field, {}), what: note}

    def _add_labels(self, labels: Array, classes: tuple[str, ...] | None, kind: str) -> None:
        if kind == "one-hot":
            self._one_hot = len(classes) if classes is not None else _categories(labels, self.name)
        if classes is not None:
            self.notes["label"] = {"classes": list(classes)}
        self.fingerprint["labels"] = [kind, list(classes or ())[:100], content_mark(labels)]
        self._add_field("label", labels, ArraySpec((0, self._one_hot), np.dtype(np.uint8), "NC") if self._one_hot else None)

    def _add_field(self, name: str, values: Array, spec: ArraySpec | None = None) -> None:
        """Add a field beside "image": `values` of all files, also of skipped ones."""
        if spec is None:
            spec = ArraySpec(values.shape, values.dtype, "NC"[: values.ndim])
        self._fields[name] = values
        self.specs[name] = ArraySpec((self.samples or 0, *spec.sample_shape), spec.dtype, spec.layout)

    def pieces(self, after: Position, at_most: int) -> Iterator[Piece]:
        """Yield samples in their order: "image" (n, H, W, C), and "mask", "label", "box", "source" where there are any."""
        first = after.samples + len(after.skipped)  # every item is the one or the other
        rows = self._rows(at_most)
        left_out = set(after.skipped)
        before = next((item for item in range(first - 1, -1, -1) if self._item_name(item) not in left_out), None)
        episode = 0 if before is None else self._episode_of[self._file_of[before]]
        is_behind_broken = 0 < first < len(self._file_of) and self._item_name(first - 1) in after.skipped[-1:]
        items: list[int] = []
        held: list[dict[str, Array]] = []
        starts: list[int] = []
        skipped: list[str] = []
        with contextlib.closing(self._decoded(first, is_behind_broken)) as decoded:
            for item, pictures in enumerate(decoded, first):
                if items and (pictures is None or len(items) == rows):
                    yield self._piece(items, held, starts, skipped)
                    items, held, starts, skipped = [], [], [], []
                if pictures is None:
                    skipped.append(self._item_name(item))
                    continue
                if episode != self._episode_of[self._file_of[item]]:
                    episode = self._episode_of[self._file_of[item]]
                    starts.append(len(items))
                items.append(item)
                held.append(pictures)
                pictures = None
        if items or skipped:
            yield self._piece(items, held, starts, skipped)

    def _count(self, file: int) -> int:
        return int(self._first_item[file + 1] - self._first_item[file])

    def _item_name(self, item: int) -> str:
        file = int(self._file_of[item])
        return self._files[file] + (f", page {item - self._first_item[file] + 1}" if self._count(file) > 1 else "")

    def _rows(self, at_most: int) -> int:
        """Return the number of samples of a piece."""
        return max(1, min(at_most, _PIECE_NBYTES // max(1, self.specs["image"].sample_nbytes)))

    def _piece(self, items: list[int], held: list[dict[str, Array]], starts: list[int], skipped: list[str]) -> Piece:
        fields: dict[str, Array] = {}
        for name in self._pictures:
            fields[name] = np.empty((len(items), *self.specs[name].sample_shape), self.specs[name].dtype)
            for row, pictures in zip(fields[name], held, strict=True):
                row[...] = pictures.pop(name)
        for name, values in self._fields.items():
            found = values[self._file_of[items]]
            if name == "label" and self._one_hot:
                found = (found[:, None] == np.arange(self._one_hot)).astype(np.uint8)
            fields[name] = found
        if "source" in self.specs:
            names = [self._source_of(self._files[file]) for file in self._file_of[items].tolist()]
            fields["source"] = np.array(names, self.specs["source"].dtype)
        return Piece(fields, starts, skipped)

    def _decoded(self, first: int, is_behind_broken: bool) -> Generator[dict[str, Array] | None]:
        """Yield the pictures of each item from `first` on, by field; None for a broken one."""
        if first >= len(self._file_of):
            return
        begun = int(self._file_of[first])
        for is_one, run in itertools.groupby(range(begun, len(self._files)), lambda file: self._count(file) == 1):
            if is_one:
                decoded = in_order(
                    run,
                    self._of_file,
                    workers=self._workers,
                    ahead=self._ahead(),
                    nbytes=lambda file: sum(pictures.working_nbytes(file) for pictures in self._pictures.values()),
                    most_nbytes=self._decoding_nbytes(),
                )
                with contextlib.closing(decoded):
                    yield from decoded
                continue
            for file in run:  # one picture after the other: those of an animation build on each other
                skip = first - int(self._first_item[file]) if file == begun else 0
                if skip and is_behind_broken:
                    yield from itertools.repeat(None, self._count(file) - skip)
                else:
                    yield from self._of_pages(file, skip)

    def _of_file(self, file: int) -> dict[str, Array] | None:
        with skipping_broken(self._skip_broken):
            if self._headers[file] is not None:
                return {name: pictures.decode(file) for name, pictures in self._pictures.items()}
        return None

    def _of_pages(self, file: int, first: int) -> Generator[dict[str, Array] | None]:
        """Yield the samples of a file. A broken page skips the pages behind it too, because they may build on it."""
        given = first
        with skipping_broken(self._skip_broken), contextlib.ExitStack() as stack:
            flows = {
                name: stack.enter_context(contextlib.closing(pictures.pages(file, first)))
                for name, pictures in self._pictures.items()
            }
            while given < self._count(file):
                pictures = {name: next(flow) for name, flow in flows.items()}
                yield pictures
                given += 1
        yield from itertools.repeat(None, self._count(file) - given)

    def _ahead(self) -> int:
        """Return the number of images that are decoded ahead: two for each thread, one for each if they are large."""
        return max(self._workers, min(2 * self._workers, _WAITING_NBYTES // max(1, self.specs["image"].sample_nbytes)))

    def _decoding_nbytes(self) -> int:
        largest = sum(pictures.most_working_nbytes for pictures in self._pictures.values())
        return min(self._workers * largest, max(_DECODING_NBYTES, largest))

    def memory(self, at_most: int) -> dict[str, int]:
        """Return the most private bytes that `pieces` holds at once, in named parts."""
        sample = sum(self.specs[name].sample_nbytes for name in self._pictures)
        return {
            "images being decoded": self._decoding_nbytes(),
            "decoded images": (self._ahead() + 1 + 2 * self._rows(at_most)) * sample,
            "list of images": len(self._files) * _LISTED_NBYTES + 8 * len(self._file_of),
        }


def _categories(labels: Array, name: str) -> int:
    """Return the number of columns of one-hot rows."""
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
