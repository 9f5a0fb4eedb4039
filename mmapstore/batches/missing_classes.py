"""The silent trap of labelled data: parts of which some lack a class. Finds the field of labels, counts, and warns."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..plain.errors import LabelWarning, MmapstoreError
from ..readers.contract import Array
from .labels import Labels, is_label

if TYPE_CHECKING:
    from .parts import Parts

_MOST_SAMPLES, _MOST_BYTES = 10**6, 16 * 10**6  # labels that are read without being asked for
_MOST_CLASSES, _MOST_VALUES = 1000, 20  # of a field of labels; of one that may as well hold numbers to be predicted
_LEAST_SAMPLES = 10  # of a class on average, where nothing but the name of the field says that it holds classes
_MOST_NAMED = 20  # classes, with the number of samples of each
_FEW, _SHOWN = 4, 3  # parts or classes that are all named; missing classes named for each part where there are more


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
            labels = dataset._labels(field, "label", most=_MOST_CLASSES)
        except MmapstoreError:  # no labels; or damage, which reading batches will tell
            continue
        classes = len(labels.values)
        is_named = bool(names) or spec.dtype.kind in "bS" or is_row
        if not is_named and classes > (_MOST_CLASSES if is_label(field, surely=True) else _MOST_VALUES):
            continue
        if not names and (classes * _LEAST_SAMPLES > len(dataset) or _numbers_episodes(dataset, labels)):
            continue
        if classes > 1:
            return field, labels
    return None


def _numbers_episodes(dataset: Parts, labels: Labels) -> bool:
    """True if each episode has a value of its own."""
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
