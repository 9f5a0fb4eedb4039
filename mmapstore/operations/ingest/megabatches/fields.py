"""The form of a field that lies in many megabatches: numbers as they are, texts as fixed-width bytes, classes or tokens."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ....batches.labels import is_label
from ....plain.array_spec import ArraySpec, StoredLayout
from ....plain.errors import InvalidTypeError, InvalidValueError
from ....plain.guessed_axes import doubt_about
from ....plain.text_padding import refuse_padding
from ..contract import Array

Tokenize = Callable[[str], Sequence[int]]
MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Found:
    """One field of one file.

    Attributes
    ----------
    samples, shape, dtype : entries; shape and dtype of each as it lies in the file; "text" for texts, of any length
    longest : bytes of the longest text, or how many tokens it has
    total : bytes or tokens of all texts together
    largest : absolute value of the largest token
    classes : the different texts, where they are labels
    coded : texts came as bytes in an encoding that nobody knows
    """

    samples: int
    shape: tuple[int, ...]
    dtype: str
    longest: int = 0
    largest: int = 0
    classes: frozenset[bytes] = frozenset()
    coded: bool = False
    total: int = 0

    @property
    def words(self) -> str:
        return "texts" if self.dtype == "text" else f"samples of shape {self.shape} {self.dtype}"


def found_in(column: Array, coded: bool, field: str, path: str, tokens: Tokens | None) -> Found:
    if column.dtype.kind != "S":
        return Found(len(column), column.shape[1:], column.dtype.name)
    if is_label(field):
        classes = frozenset(np.unique(column).tolist())
        if len(classes) > MOST_CLASSES:
            raise InvalidValueError(
                f"{path}: the field {field!r} holds {len(classes)} different texts, too many to be names of classes. "
                "Give it a name that is not that of labels: fields={'text': " + repr(field) + "}."
            )
        return Found(len(column), (), "text", column.dtype.itemsize, 0, classes, coded)
    if tokens is None:
        total = int(np.char.str_len(column).sum())
        return Found(len(column), (), "text", column.dtype.itemsize, 0, frozenset(), coded, total)
    longest, largest, total = tokens.measure(column, f"{path}: the field {field!r}")
    return Found(len(column), (), "text", longest, largest, frozenset(), coded, total)


class FieldForm(Protocol):
    """The conversion of one field's columns to samples, alike in all files."""

    def spec(self, samples: int) -> ArraySpec: ...

    @property
    def notes(self) -> dict[str, Any]:
        """Small JSON for the manifest."""
        ...

    def samples(self, column: Array, where: str) -> Array:
        """(n, *sample shape), maybe a view of `column`."""
        ...


def form_of(field: str, found: Mapping[str, Found], layout: str | None, text_width: int | None, tokens: Tokens | None) -> FieldForm:
    """The form for what all files hold, `found` by path. Raises InvalidValueError where they differ, or a text is too long."""
    first_path, first = next(iter(found.items()))
    for path, other in found.items():
        if (other.shape, other.dtype) != (first.shape, first.dtype):
            raise InvalidValueError(
                f"{path}: the field {field!r} holds {other.words}, in {first_path} {first.words}. Files that are joined have to be "
                "alike: leave one out, or convert it."
            )
    if first.dtype != "text":
        return Numbers(field, first.shape, np.dtype(first.dtype), layout)
    if is_label(field):
        return _Labels(tuple(sorted(frozenset().union(*(one.classes for one in found.values())))))
    longest_path = max(found, key=lambda path: found[path].longest)
    longest = found[longest_path].longest
    if text_width is not None and longest > text_width:
        unit = "bytes" if tokens is None else "tokens"
        raise InvalidValueError(
            f"{longest_path}: the field {field!r} holds a text of {longest} {unit}, the longest of all; text_width={text_width}. "
            f"Give text_width={longest} (--text-width), or shorten the texts first."
        )
    largest = max(one.largest for one in found.values())
    token = np.dtype(np.uint8 if tokens is None else np.int32 if largest <= np.iinfo(np.int32).max else np.int64)
    if text_width is None:
        refuse_padding(
            f"The field {field!r}",
            sum(one.samples for one in found.values()),
            longest * token.itemsize,
            sum(one.total for one in found.values()) * token.itemsize,
            f"The longest is in {longest_path}: shorten that text, leave the file out, or give text_width={longest} "
            "(--text-width) to have it so.",
        )
    width = text_width if text_width is not None else max(1, longest)
    if tokens is not None:
        return _TokenRows(width, token, tokens)
    return _Texts(width, any(one.coded for one in found.values()))


class Numbers:
    """Numbers as they are; `doubt` where their axes, which were not named, are likely others than the usual ones."""

    def __init__(self, field: str, shape: tuple[int, ...], dtype: np.dtype[Any], layout: str | None) -> None:
        stored = StoredLayout.of(layout, (1, *shape), f"The field {field!r}")
        if not stored.letters.startswith("N") or "T" in stored.letters:
            raise InvalidValueError(
                f"layout={layout!r} for the field {field!r} is not understood; expected N, the samples, first, and no T: "
                "each file is an episode."
            )
        self._spec = stored.spec(dtype)
        self.doubt = doubt_about(f"The field {field!r}", (1, *shape), layout)
        self.notes: dict[str, Any] = {}

    def spec(self, samples: int) -> ArraySpec:
        return ArraySpec((samples, *self._spec.sample_shape), self._spec.dtype, self._spec.layout)

    def samples(self, column: Array, where: str) -> Array:
        return column


class _Texts:
    """UTF-8, or whatever bytes came, padded with zero bytes: (n, width) uint8."""

    def __init__(self, width: int, coded: bool) -> None:
        self._width = width
        self.notes: dict[str, Any] = {"encoding": None if coded else "utf-8", "width": width, "padding": 0}

    def spec(self, samples: int) -> ArraySpec:
        return ArraySpec((samples, self._width), np.dtype(np.uint8), "NC")

    def samples(self, column: Array, where: str) -> Array:
        return column.astype(f"S{self._width}").view(np.uint8).reshape(len(column), self._width)


class _Labels:
    """Positions in the sorted list of all classes: (n,) int64."""

    def __init__(self, classes: Sequence[bytes]) -> None:
        self._classes = np.array(classes)
        self.notes: dict[str, Any] = {"classes": [name.decode("utf-8", "backslashreplace") for name in classes]}

    def spec(self, samples: int) -> ArraySpec:
        return ArraySpec((samples,), np.dtype(np.int64), "N")

    def samples(self, column: Array, where: str) -> Array:
        return np.searchsorted(self._classes, column).astype(np.int64)


class _TokenRows:
    """Return the tokens of `tokenize`, padded with zeros: (n, width) int32, or int64 where a token needs it."""

    def __init__(self, width: int, dtype: np.dtype[Any], tokens: Tokens) -> None:
        self._width, self._dtype, self._tokens = width, dtype, tokens
        self.notes: dict[str, Any] = {"tokens": width, "padding": 0}

    def spec(self, samples: int) -> ArraySpec:
        return ArraySpec((samples, self._width), self._dtype, "NC")

    def samples(self, column: Array, where: str) -> Array:
        rows = np.zeros((len(column), self._width), self._dtype)
        for row, tokens in zip(rows, self._tokens.of(column, where), strict=True):
            if len(tokens) > self._width:
                raise InvalidValueError(
                    f"{where}: tokenize= gave {len(tokens)} tokens for a text, {self._width} at most when it was called for all "
                    "before. It has to give the same tokens for the same text."
                )
            row[: len(tokens)] = tokens
        return rows


class Tokens:
    """The user's function, called from one thread at a time. `mark` tells all tokens that were measured, in whatever order."""

    def __init__(self, tokenize: Tokenize) -> None:
        if not callable(tokenize):
            raise InvalidTypeError(f"tokenize={tokenize!r} is not a function; expected one from a text to a sequence of ints.")
        self._tokenize = tokenize
        self._lock = threading.Lock()
        self.mark = 0

    def of(self, column: Array, where: str) -> list[Array]:
        with self._lock:
            return [self._checked(text, number, where) for number, text in enumerate(column.tolist())]

    def _checked(self, text: bytes, number: int, where: str) -> Array:
        try:
            decoded = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidValueError(
                f"{where}: the text of sample {number} is not UTF-8, so it cannot be tokenized ({error})."
            ) from error
        found = np.asarray(self._tokenize(decoded))
        if found.size == 0:
            return np.zeros(0, np.int64)
        if found.ndim != 1 or found.dtype.kind not in "iu" or int(found.max()) > np.iinfo(np.int64).max:
            raise InvalidTypeError(
                f"{where}: tokenize= gave {str(found)[:60]} for the text of sample {number}; expected a sequence of ints."
            )
        return found

    def measure(self, column: Array, where: str) -> tuple[int, int, int]:
        """Return the most tokens of a text, the largest absolute value of a token, and the number of all tokens."""
        longest = largest = total = crc = 0
        for tokens in self.of(column, where):
            crc = zlib.crc32(b"%d:" % len(tokens) + tokens.astype("<i8").tobytes(), crc)
            longest, total = max(longest, len(tokens)), total + len(tokens)
            largest = max(largest, *(abs(int(end(tokens))) for end in (np.min, np.max))) if len(tokens) else largest
        with self._lock:
            self.mark = (self.mark + crc) % (1 << 32)
        return longest, largest, total
