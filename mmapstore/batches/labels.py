"""The class of each sample as a small number, read once from a field of a dataset; and parts that lack a class."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plain.errors import InvalidTypeError, InvalidValueError, KeyNotFoundError, LabelWarning, MmapstoreError
from ..readers.contract import Array

if TYPE_CHECKING:
    from .parts import Parts

MOST_CLASSES = 100_000
_READ_BYTES, _READ_SAMPLES = 2 * 2**20, 2**18  # labels read at a time; numbering them takes up to 5 MB
_TABLE = 2**18  # integers that lie within such a range are looked up in a table, in a tenth of the time of sorting
_EXACT = 2**53  # whole floats beyond are not told apart
_MOST_SAMPLES, _MOST_BYTES = 10**6, 16 * 10**6  # labels that are read without being asked for
_MOST_NAMED_ALONE, _MOST_VALUES = 1000, 20  # of a field of labels; of one that may as well hold numbers to be predicted
_LEAST_SAMPLES = 10  # of a class on average, where nothing but the name of the field says that it holds classes
_MOST_NAMED = 20  # classes, with the number of samples of each
_FEW, _SHOWN = 4, 3  # parts or classes that are all named; missing classes named for each part where there are more
_PATTERN = r"(^|.*[^a-z])({names})(_?ids?)?\d*$"
_SURELY_LABEL = re.compile(_PATTERN.format(names="(label|class)(s|es)?|category|categories"), re.IGNORECASE)
_LABEL = re.compile(_PATTERN.format(names="(label|class)(s|es)?|category|categories|targets?|ys?"), re.IGNORECASE)


@dataclass(frozen=True)
class Labels:
    """The class of each sample of a dataset."""

    codes: Array  # (samples,), the number of each sample's class in `names`; the smallest unsigned dtype that holds all classes
    # (classes,), the classes that have samples, rising: integers, or bytes for text. The class of a one-hot row is the
    # place of its 1
    values: Array
    class_names: Sequence[str] = ()  # of the integers 0, 1, ... where the store has such names

    @cached_property
    def names(self) -> tuple[int | str, ...]:
        """The classes, as `values`: text for text fields and where there are class names, else integers."""
        if self.values.dtype.kind == "S":
            return tuple(value.decode("utf-8", "backslashreplace") for value in self.values.tolist())
        named = self.class_names
        return tuple(named[n] if 0 <= n < len(named) else n for n in self.values.tolist())

    @property
    def indices(self) -> tuple[int, ...]:
        """For each class the integer that Keras has for it: the label itself, the place of the 1 in a one-hot row, and for text
        the place in `names`."""
        return tuple(range(len(self.values)) if self.values.dtype.kind == "S" else self.values.tolist())

    def part(self, start: int, stop: int) -> Labels:
        """Return the labels of samples [start, stop), with all classes of the whole."""
        return Labels(self.codes[start:stop], self.values, self.class_names)

    @property
    def counts(self) -> Array:
        """Samples of each class, int64."""
        return counts_of(self.codes, len(self.values))


def counts_of(codes: Array, classes: int) -> Array:
    """Count how often each of 0 .. classes-1 occurs, in bounded memory (`np.bincount` makes all codes int64).

    >>> counts_of(np.array([0, 2, 2], np.uint8), 4).tolist()
    [1, 0, 2, 0]
    """
    found = np.zeros(classes, np.int64)
    for start in range(0, len(codes), _READ_SAMPLES):
        found += np.bincount(codes[start : start + _READ_SAMPLES], minlength=classes)
    return found


def is_label(field: str, surely: bool = False) -> bool:
    """Return True if a field of that name holds classes; `surely` skips names that numbers to be predicted have as well.

    >>> names = ("label", "fine_labels", "Class", "category_id", "y", "target", "texts", "subclass_text", "identity")
    >>> [name for name in names if is_label(name)], [name for name in names if is_label(name, surely=True)]
    (['label', 'fine_labels', 'Class', 'category_id', 'y', 'target'], ['label', 'fine_labels', 'Class', 'category_id'])
    """
    return (_SURELY_LABEL if surely else _LABEL).match(field) is not None


def read_labels(
    dataset: Parts, field: Any, argument: str, most: int = MOST_CLASSES, class_names: Mapping[str, Sequence[str]] | None = None
) -> Labels:
    """Read the class of each sample of `dataset` from one of its fields, in order, in a few MiB of memory beside the codes.

    A field of labels holds one integer or bool for each sample, fixed-width bytes (UTF-8 text), or a one-hot row. Whole floats are
    taken as integers, with a LabelWarning. Errors say `argument` for the argument that named the field. `class_names` has, by
    field, the names of the integers 0, 1, ...

    Raises KeyNotFoundError; InvalidTypeError for a field of something else; InvalidValueError for fractions, soft or multiple
    labels, or more than `most` classes.
    """
    if not isinstance(field, str):
        raise InvalidTypeError(
            f"{argument}={field if isinstance(field, bool) else type(field).__name__} is not understood; expected the name of a "
            "field. Add an array of labels as a field: mmapstore.open({**ds.fields, 'label': array})."
        )
    if field not in dataset.readers:
        raise KeyNotFoundError(
            f"{argument} names the field {field!r}, which is not there; the fields are {', '.join(map(repr, dataset.readers))}. "
            f"Add an array as a field: mmapstore.open({{**ds.fields, {field!r}: array}})."
        )
    spec = dataset.readers[field].spec
    is_single = spec.sample_nbytes == spec.dtype.itemsize
    if spec.dtype.kind == "c" or not (is_single or (len(spec.sample_shape) == 1 and spec.dtype.kind != "S")):
        raise InvalidTypeError(
            f"{argument}={field!r}: the field holds samples of {spec.sample_shape} {spec.dtype}; expected one integer or text for "
            "each sample, or a one-hot row."
        )
    one, where, is_float = dataset[field], f"{argument}={field!r}", is_single and spec.dtype.kind == "f"
    step = max(1, min(_READ_SAMPLES, _READ_BYTES // spec.sample_nbytes))
    codes: Array = np.empty(len(dataset), np.uint8)
    values: Array = np.empty(0)  # of all blocks, rising
    blocks = []  # the values of each
    for start in range(0, len(dataset), step):
        block = one[start : start + step]
        if not is_single:
            block = _places_of_ones(block, start, where)
        else:
            block = _whole(block.reshape(-1), start, where) if is_float else block.reshape(-1)
        found, inverse = _distinct(block)
        values = np.union1d(values, found) if len(values) else found
        if len(values) > most:
            raise InvalidValueError(
                f"{where}: the field holds more than {most} different values; expected classes. A value to be predicted "
                "(regression), or a number of its own for each sample, is no class: name another field, or make fewer of it."
            )
        codes = codes.astype(np.min_scalar_type(len(values) - 1), copy=False)
        codes[start : start + len(block)] = inverse
        blocks.append(found)
    for start, found in zip(range(0, len(dataset), step), blocks, strict=True):
        codes[start : start + step] = np.searchsorted(values, found)[codes[start : start + step]]
    codes.flags.writeable = False  # many look at them
    if is_float:
        warnings.warn(
            f"{where}: the labels are {spec.dtype} numbers that are all whole; they are taken as the integers "
            f"{listed(values.tolist())}. Store labels as integers; a value to be predicted (regression) has no classes.",
            LabelWarning,
            stacklevel=3,
        )
    return Labels(codes, values, (class_names or {}).get(field, ()))


def class_weights_of(dataset: Parts, labels: Labels, field: str) -> dict[int, float]:
    """Work out `Dataset.class_weights`."""
    spec, indices, names = dataset.readers[field].spec, labels.indices, labels.class_names
    known = len(names) or (spec.sample_shape[0] if spec.sample_shape else 0)
    if spec.dtype.kind == "S":  # numbered among the texts of the whole dataset, of which a part may lack some
        names = dataset[field].class_names
        known, place = len(names), {name: number for number, name in enumerate(names)}
        indices = tuple(place[str(name)] for name in labels.names)
    absent = [names[number] if names else number for number in range(known) if number not in set(indices)]
    if absent and known > 1:
        warnings.warn(
            f"class_weights({field!r}): no sample of {dataset.name} has the class {listed(absent)}; it gets no weight, and Keras "
            "takes 1 for it. Split with stratify= to have every class in each part.",
            LabelWarning,
            stacklevel=3,
        )
    weights = len(labels.codes) / (len(labels.values) * labels.counts)
    return dict(zip(indices, weights.tolist(), strict=True))


def _places_of_ones(rows: Array, start: int, where: str) -> Array:
    """Return the class of each one-hot row. Raises InvalidValueError for a row that is not one 1 among zeros."""
    marked = rows != 0
    places: Array = marked.argmax(axis=1)
    wrong = (marked.sum(axis=1) != 1) | (rows[np.arange(len(rows)), places] != 1)
    if wrong.any():
        row = int(wrong.argmax())
        raise InvalidValueError(
            f"{where}: sample {start + row} is {np.array2string(rows[row], threshold=8, precision=3)}; expected a single 1 and "
            "zeros (one-hot). Soft or multiple labels are no classes: give a field with one class for each sample."
        )
    return places


def _whole(values: Array, start: int, where: str) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):  # float16 has no such limit
        wrong = ~((np.abs(values) < _EXACT) & (values == np.trunc(values)))
    if wrong.any():
        at = int(wrong.argmax())
        raise InvalidValueError(
            f"{where}: sample {start + at} is {values[at]}, a {values.dtype} that is not whole; expected classes: integers, text "
            "or one-hot rows. A value to be predicted (regression) has none; make classes of it first, with np.digitize."
        )
    return values.astype(np.int64)


def _distinct(block: Array) -> tuple[Array, Array]:
    """Return the different values of a block, rising, and the place of each entry among them."""
    if block.dtype.kind == "b":
        block = block.view(np.uint8)
    wide = block.dtype if block.dtype.kind == "S" else np.dtype(np.uint64 if block.dtype == np.uint64 else np.int64)
    if block.dtype.kind != "S":
        low, high = block.min(), block.max()
        if int(high) - int(low) < _TABLE:
            places = np.subtract(block, low, dtype=wide)
            table = np.zeros(int(high) - int(low) + 1, np.int32)
            table[places] = 1
            present = np.flatnonzero(table)
            table[present] = np.arange(len(present), dtype=np.int32)
            return present.astype(wide) + low.astype(wide), table[places]
    unique, inverse = np.unique(block, return_inverse=True)
    return unique.astype(wide), inverse.reshape(-1)


def listed(values: Sequence[Any], most: int = 8) -> str:
    """Return the first of the values for a message, and the number of the others."""
    return ", ".join(map(repr, values[:most])) + (f" and {len(values) - most} more" if len(values) > most else "")


# --- parts that lack classes -----------------------------------------------------------------------------------------


def label_field(dataset: Parts) -> tuple[str, Labels] | None:
    """Find the field that holds the classes of samples, and read it; None where no field surely does, or it is too large.

    The first field with class names, or a name like "label", "class", "category", "target" or "y", that holds an integer, bool or
    text for each sample, or one-hot rows. Numbers that nothing but the name calls classes are passed over where they may be
    something else: too many values, too few samples of each, or a number of its own for each episode.
    """
    for field, reader in dataset.readers.items():
        spec, names = reader.spec, dataset.notes[field].classes if field in dataset.notes else ()
        is_row = len(spec.sample_shape) == 1 and spec.sample_shape[0] > 1
        if not (names or is_label(field)) or spec.dtype.kind not in ("biuf" if is_row else "biuS"):
            continue
        if len(dataset) > _MOST_SAMPLES or len(dataset) * spec.sample_nbytes > _MOST_BYTES:
            continue
        try:
            labels = dataset._labels(field, "label", most=_MOST_NAMED_ALONE)
        except MmapstoreError:  # no labels; or damage, which reading batches will tell
            continue
        classes = len(labels.values)
        is_named = bool(names) or spec.dtype.kind in "bS" or is_row
        if not is_named and classes > (_MOST_NAMED_ALONE if is_label(field, surely=True) else _MOST_VALUES):
            continue
        if not names and (classes * _LEAST_SAMPLES > len(dataset) or _numbers_episodes(dataset, labels)):
            continue
        if classes > 1:
            return field, labels
    return None


def _numbers_episodes(dataset: Parts, labels: Labels) -> bool:
    """Return True if each episode has a value of its own."""
    begins = dataset.episodes[:-1]
    return len(begins) == len(labels.values) > 1 and class_changes(labels).tolist() == begins[1:].tolist()


def class_changes(labels: Labels) -> Array:
    """Return the samples whose class differs from that of the sample before; one fewer than classes if they lie sorted."""
    return np.flatnonzero(labels.codes[1:] != labels.codes[:-1]) + 1


def are_sorted(labels: Labels) -> bool:
    return len(class_changes(labels)) == len(labels.values) - 1


def class_counts(labels: Labels) -> dict[str, int]:
    """Return the number of samples of each class, by its name."""
    return dict(zip(map(str, labels.names), labels.counts.tolist(), strict=True))


def class_words(field: str, labels: Labels) -> str:
    """Return one line with the number of samples of each class.

    >>> class_words("label", Labels(np.array([1, 0, 1], np.uint8), np.array([0, 1]), ("cat", "dog")))
    'label: 2 classes, cat 1, dog 2'
    """
    names = [name if isinstance(name, str) else f"class {name}" for name in labels.names]
    named = [f"{name} {count}" for name, count in zip(names, labels.counts, strict=True)]
    more = [f"and {len(named) - _MOST_NAMED} more of {labels.counts.min()} to {labels.counts.max()} samples"]
    return f"{field}: {len(named)} classes, {', '.join(named[:_MOST_NAMED] + more * (len(named) > _MOST_NAMED))}"


def sorted_classes(dataset: Parts) -> tuple[str, str] | None:
    """Return the field whose classes lie one after the other in the store, and what lies where in words; None if none do."""
    found = label_field(dataset)
    return (found[0], sorted_words(found[1])) if found is not None and are_sorted(found[1]) else None


def sorted_words(labels: Labels) -> str:
    """Say how many samples of which class lie where, for classes that lie one after the other."""
    first = labels.codes[np.append(0, class_changes(labels))].tolist()
    words = [f"{labels.counts[code]} of {_called(labels.names[code])}" for code in first[:_FEW]]
    return ", then ".join([*words, *(["others"] if len(first) > _FEW else [])])


def _called(name: int | str) -> str:
    return repr(name) if isinstance(name, str) else f"class {name}"


def warn_of_missing_classes(
    field: str, labels: Labels, parts: Iterable[tuple[str, Array]], call: str, remedy: str, asked: bool
) -> None:
    """Warn, once for all parts, if one lacks a class of which it should have samples.

    `parts` : the name and the (classes,) counts of each; `call` made them; `remedy` is a sentence that says what to write instead.
    Where classes were `asked` to be divided, each part should have all. Else the largest part should have all, and others a class
    whose share is a whole sample.
    """
    named, total, few = list(parts), int(labels.counts.sum()), len(labels.values) <= _FEW
    largest = max(int(counts.sum()) for _, counts in named)
    lacking, words = [], []
    classes = [_called(name) for name in labels.names]
    for name, counts in named:
        size = int(counts.sum())
        missing = np.flatnonzero((counts == 0) & (asked | (size == largest) | (labels.counts * size >= total)))
        lacking.append(len(missing) > 0)
        if few:
            words.append(f"{name} has " + ", ".join(f"{n} of {each}" for n, each in zip(counts.tolist(), classes, strict=True)))
        else:
            shown = ", ".join(f"{classes[each]} ({labels.counts[each]} in all)" for each in missing[:_SHOWN])
            more = f" and {len(missing) - _SHOWN} other classes" if len(missing) > _SHOWN else ""
            words.append(f"{name} ({size} samples) has no {shown}{more}")
    if not any(lacking):
        return
    told = words if few and len(words) <= _FEW else [each for each, bad in zip(words, lacking, strict=True) if bad]
    more = f"; and {len(told) - _FEW} more parts" if len(told) > _FEW else ""
    lie = " The samples lie sorted by class." if are_sorted(labels) and not asked else ""
    warnings.warn(
        f"{call} makes parts without some classes of the field {field!r}: {'; '.join(told[:_FEW])}{more}.{lie} {remedy}",
        LabelWarning,
        stacklevel=4,  # the caller of split or kfold
    )
