"""A survey of megabatches: the fields that each file holds, and the form in which each field is written."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ....batches.labels import MOST_CLASSES, is_label
from ....plain.array_spec import ArraySpec, StoredLayout
from ....plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError, SourceWarning, warn_user
from ....plain.guessed_axes import Doubt, doubt_about
from ....plain.memory_budget import refuse_padding
from ..contract import Array
from ..sources import stamp
from .columns import Columns
from .unpickling import held_while_loading

Tokenize = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class FieldForm:
    """The form in which a field is written, alike in all files."""

    spec: ArraySpec  # of any number of samples
    samples: Callable[[Array, str], Array]  # (n, *sample shape) from a column of a file, and words for messages; maybe a view
    notes: dict[str, Any] = field(default_factory=dict)  # for the manifest
    doubt: Doubt | None = None


@dataclass(frozen=True)
class Wanted:
    """The arguments of `Megabatches` that decide on the form of fields."""

    layout: str | Mapping[str, str] | None
    text_width: int | None
    tokens: Tokens | None
    classes: Collection[str]


class _Found(NamedTuple):
    """One field of one file."""

    samples: int
    shape: tuple[int, ...]  # of each
    dtype: str  # of each; "text" for texts of any length
    longest: int = 0  # bytes, or tokens, of a text
    largest: int = 0  # absolute value of a token
    total: int = 0  # bytes, or tokens, of all texts
    classes: frozenset[bytes] = frozenset()  # the different texts, where they are names of classes
    coded: bool = False  # texts came as bytes in an unknown encoding

    @property
    def words(self) -> str:
        return "texts" if self.dtype == "text" else f"samples of shape {self.shape} {self.dtype}"


@dataclass(frozen=True)
class SurveyedFile:
    """A file that can be loaded."""

    path: str
    stamp: str  # changes when the file does
    found: Mapping[str, _Found]  # the file's fields
    needed: int  # bytes of memory that loading the file and arranging its fields takes
    given: int  # bytes of the columns that come of it

    @classmethod
    def of(cls, path: str, columns: Columns, wanted: Wanted) -> SurveyedFile:
        found = {name: _found_in(array, name in columns.coded, name, path, wanted) for name, array in columns.arrays.items()}
        # Texts and classes are arranged a second time, in their final form.
        needed = columns.held + max(held_while_loading(path), 2 * columns.made)
        given = sum(array.nbytes for array in columns.arrays.values())
        return cls(path, stamp([path]), found, needed, given)

    @property
    def samples(self) -> int:
        return next(iter(self.found.values())).samples


class BrokenFile(NamedTuple):
    """A file that cannot be loaded, and `why`; `before` files that can be stand before it."""

    path: str
    why: str
    before: int


@dataclass(frozen=True)
class Survey:
    """All files once they were read."""

    files: list[SurveyedFile]  # in order
    first_of: list[int]  # the first sample of each file, and the number of all samples
    broken: list[BrokenFile]
    forms: dict[str, FieldForm]  # of each field

    @classmethod
    def of(cls, seen: Iterable[SurveyedFile | tuple[str, DamagedFileError]], wanted: Wanted) -> Survey:
        """Join what each file holds. Raises DamagedFileError if none can be loaded, InvalidValueError if two do not fit."""
        files: list[SurveyedFile] = []
        broken: list[BrokenFile] = []
        first_of = [0]
        for file in seen:
            if isinstance(file, SurveyedFile):
                files.append(file)
                first_of.append(first_of[-1] + file.samples)
            else:
                broken.append(BrokenFile(file[0], str(file[1]), len(files)))
        if not files:
            raise DamagedFileError(f"None of the {len(broken)} files can be loaded. The first: {broken[0].why}")
        first = files[0]
        for file in files:
            if file.found.keys() != first.found.keys():
                raise InvalidValueError(
                    f"{file.path} has the fields {', '.join(sorted(file.found))}; {first.path} {', '.join(sorted(first.found))}. "
                    "Name those that all files have with fields= (--fields)."
                )
        letters = _letters(first.found, wanted)
        forms = {name: _form(name, {file.path: file.found[name] for file in files}, letters, wanted) for name in first.found}
        return cls(files, first_of, broken, forms)

    @property
    def samples(self) -> int:
        return self.first_of[-1]


def _found_in(column: Array, coded: bool, name: str, path: str, wanted: Wanted) -> _Found:
    where = f"{path}: the field {name!r}"
    is_text = column.dtype.kind == "S"
    if name in wanted.classes:
        classes = frozenset(np.unique(column).tolist()) if is_text else frozenset()
        if not 0 < len(classes) <= MOST_CLASSES:
            held = f"{len(classes)} different texts, too many to be" if is_text else f"{column.dtype} numbers, not"
            raise InvalidValueError(f"{where} holds {held} names of classes. Take it out of classes= (--classes).")
        return _Found(len(column), (), "text", column.dtype.itemsize, classes=classes, coded=coded)
    if not is_text:
        return _Found(len(column), column.shape[1:], column.dtype.name)
    if wanted.tokens is None:
        return _Found(len(column), (), "text", column.dtype.itemsize, 0, int(np.char.str_len(column).sum()), coded=coded)
    return _Found(len(column), (), "text", *wanted.tokens.measure(column, where), coded=coded)


def _letters(found: Mapping[str, _Found], wanted: Wanted) -> dict[str, str]:
    """Return the layout of each field for which one was given."""
    layout = wanted.layout
    if isinstance(layout, Mapping):
        letters, fits = dict(layout), layout.keys() <= found.keys()
    else:
        letters = {name: layout for name, each in found.items() if layout is not None and len(each.shape) + 1 == len(layout)}
        fits = layout is None or bool(letters)
    held = ", ".join(f"{name} {each.words}" for name, each in found.items())
    if not fits:
        raise InvalidValueError(f"layout={layout!r} fits no field: the files hold {held}.")
    unknown = sorted(set(wanted.classes) - found.keys())
    if unknown:
        raise InvalidValueError(f"classes= (--classes) names {unknown[0]!r}, which is no field: the files hold {held}.")
    return letters


def _form(name: str, found: Mapping[str, _Found], letters: Mapping[str, str], wanted: Wanted) -> FieldForm:
    """Return the form for what all files hold, `found` by path. Raises InvalidValueError where files differ, or a text is long."""
    first_path, first = next(iter(found.items()))
    for path, other in found.items():
        if (other.shape, other.dtype) != (first.shape, first.dtype):
            raise InvalidValueError(
                f"{path}: the field {name!r} holds {other.words}, in {first_path} {first.words}. Files that are joined have to be "
                "alike: leave one out, or convert it."
            )
    if first.dtype != "text":
        return _numbers(f"The field {name!r}", first, letters.get(name))
    if name in wanted.classes:
        return _class_numbers(sorted(frozenset().union(*(one.classes for one in found.values()))))
    return _texts(name, found, wanted)


def _numbers(where: str, found: _Found, layout: str | None) -> FieldForm:
    """Return the form of numbers, which stay as they are."""
    stored = StoredLayout.of(layout, (1, *found.shape), where)
    if not stored.letters.startswith("N") or "T" in stored.letters:
        raise InvalidValueError(
            f"layout={layout!r} for {where[0].lower()}{where[1:]} is not understood; expected N, the samples, first, and no T: "
            "each file is an episode."
        )
    doubt = doubt_about(where, (1, *found.shape), layout)
    return FieldForm(stored.spec(np.dtype(found.dtype)), lambda column, where: column, doubt=doubt)


def _class_numbers(names: list[bytes]) -> FieldForm:
    """Return the form of names of classes: numbers in the sorted list of all, (n,) int64."""
    classes = np.array(names)
    notes = {"classes": [name.decode("utf-8", "backslashreplace") for name in names]}
    spec = ArraySpec((0,), np.dtype(np.int64), "N")
    return FieldForm(spec, lambda column, where: np.searchsorted(classes, column).astype(np.int64), notes)


def _texts(name: str, found: Mapping[str, _Found], wanted: Wanted) -> FieldForm:
    """Return the form of texts, or of their tokens, padded with zeros: (n, width)."""
    tokens = wanted.tokens
    if is_label(name):
        warn_user(
            f"The texts of the field {name!r} are written as text. To have them as numbers of classes, name the field in "
            f"classes=[{name!r}] (--classes {name}).",
            SourceWarning,
        )
    longest_path = max(found, key=lambda path: found[path].longest)
    longest, largest = found[longest_path].longest, max(one.largest for one in found.values())
    dtype = np.dtype(np.uint8 if tokens is None else np.int32 if largest <= np.iinfo(np.int32).max else np.int64)
    width = max(1, longest) if wanted.text_width is None else wanted.text_width
    if longest > width:
        unit = "bytes" if tokens is None else "tokens"
        raise InvalidValueError(
            f"{longest_path}: the field {name!r} holds a text of {longest} {unit}, the longest of all; text_width={width}. "
            f"Give text_width={longest} (--text-width), or shorten the texts first."
        )
    if wanted.text_width is None:
        refuse_padding(
            f"The field {name!r}",
            sum(one.samples for one in found.values()),
            longest * dtype.itemsize,
            sum(one.total for one in found.values()) * dtype.itemsize,
            f"The longest is in {longest_path}: shorten that text, leave the file out, or give text_width={longest} "
            "(--text-width) to have it so.",
        )
    spec = ArraySpec((0, width), dtype, "NC")
    if tokens is not None:
        return FieldForm(spec, lambda column, where: tokens.rows(column, where, width, dtype), {"tokens": width, "padding": 0})
    encoding = None if any(one.coded for one in found.values()) else "utf-8"
    return FieldForm(
        spec,
        lambda column, where: column.astype(f"S{width}").view(np.uint8).reshape(len(column), width),
        {"encoding": encoding, "width": width, "padding": 0},
    )


class Tokens:
    """The user's function, called from one thread at a time. `mark` changes with the tokens that were measured, in any order."""

    def __init__(self, tokenize: Tokenize) -> None:
        if not callable(tokenize):
            raise InvalidTypeError(f"tokenize={tokenize!r} is not a function; expected one from a text to a sequence of ints.")
        self._tokenize = tokenize
        self._lock = threading.Lock()
        self.mark = 0

    def _of(self, column: Array, where: str) -> list[Array]:
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
        for tokens in self._of(column, where):
            crc = zlib.crc32(b"%d:" % len(tokens) + tokens.astype("<i8").tobytes(), crc)
            longest, total = max(longest, len(tokens)), total + len(tokens)
            largest = max(largest, *(abs(int(end(tokens))) for end in (np.min, np.max))) if len(tokens) else largest
        with self._lock:
            self.mark = (self.mark + crc) % (1 << 32)
        return longest, largest, total

    def rows(self, column: Array, where: str, width: int, dtype: np.dtype[Any]) -> Array:
        """Return the tokens of each text, (n, width). Raises InvalidValueError if there are more than were measured."""
        rows = np.zeros((len(column), width), dtype)
        for row, tokens in zip(rows, self._of(column, where), strict=True):
            if len(tokens) > width:
                raise InvalidValueError(
                    f"{where}: tokenize= gave {len(tokens)} tokens for a text, {width} at most when it was called for all "
                    "before. It has to give the same tokens for the same text."
                )
            row[: len(tokens)] = tokens
        return rows
