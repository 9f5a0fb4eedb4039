"""The class of each sample as a small number, read once from a field of a dataset."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plain.errors import InvalidTypeError, InvalidValueError, KeyNotFoundError, LabelWarning
from ..readers.contract import Array

if TYPE_CHECKING:
    from .parts import Parts

MOST_CLASSES = 100_000
_READ_BYTES, _READ_SAMPLES = 2 * 2**20, 2**18  # labels read at a time; numbering them takes up to 5 MB
_TABLE = 2**18  # integers that lie within such a range are looked up in a table, in a tenth of the time of sorting
_EXACT = 2**53  # whole floats beyond are not told apart
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
    """True if a field so called holds classes; `surely` leaves out names that numbers to be predicted have as well.

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
