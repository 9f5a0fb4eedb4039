"""The facts of a field that its values do not show: names of classes, an order that was mixed, packing, doubtful axes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..formats.contract import StoredArray
from ..plain.cf_packing import ATTRIBUTES, Packed, Packing, packed_words
from ..plain.errors import InvalidValueError, NoClassNamesError, PackedValuesWarning
from ..plain.guessed_axes import Doubt
from .labels import listed, read_labels

if TYPE_CHECKING:
    from .parts import Parts


@dataclass(frozen=True)
class FieldNotes:
    """Facts of one field."""

    classes: tuple[str, ...] = ()  # names of the classes that its numbers 0, 1, ... stand for; empty if there are none
    mixed: bool = False  # True if its samples were written in an order mixed by a seed
    packed: tuple[Packed, ...] = ()  # its files whose stored numbers stand for other values
    doubt: Doubt | None = None  # the reason why its axes, which nobody named, are likely others

    @classmethod
    def of(cls, notes: Mapping[str, Any] | None) -> FieldNotes:
        """Read the notes of a manifest, which anybody may have written: everything of another form is passed over.

        >>> FieldNotes.of({"classes": ["cat", "dog"], "order": [{"samples": 9, "order": "mixed", "seed": 0}]}).classes
        ('cat', 'dog')
        """
        classes, order = (notes or {}).get("classes"), (notes or {}).get("order")
        is_named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        mixed = isinstance(order, list) and any(isinstance(each, dict) and each.get("order") == "mixed" for each in order)
        return cls(tuple(classes) if is_named else (), mixed)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """Return them in the form of a manifest, for a copy of the same samples.

        >>> FieldNotes(("cat", "dog"), True).to_json()
        {'classes': ['cat', 'dog'], 'order': [{'order': 'mixed'}]}
        """
        classes = {"classes": list(self.classes)} if self.classes else {}
        return {**classes, **({"order": [{"order": "mixed"}]} if self.mixed else {})}


Notes = Mapping[str, FieldNotes]  # by field


def joined_notes(notes: Sequence[FieldNotes], paths: Sequence[str]) -> FieldNotes:
    """Return the notes of files joined to one field, whose axes are those of the first. Raises InvalidValueError if they number
    their classes differently."""
    for path, each in zip(paths, notes, strict=True):
        if each.classes != notes[0].classes:
            here, there = (listed(one.classes) or "of numbers without names" for one in (each, notes[0]))
            raise InvalidValueError(
                f"{path} has the classes {here}, but {paths[0]} {there}: one number would stand for "
                "different classes. Ingest these files anew with one list of classes, or open each by itself."
            )
    packed = tuple(one for each in notes for one in each.packed)
    return FieldNotes(notes[0].classes, any(each.mixed for each in notes), packed, notes[0].doubt)


def class_names_of(dataset: Parts, whole: Callable[[str], Parts]) -> list[str]:
    """Return the names of the classes by number; see `Dataset.class_names`. `whole` makes a dataset of all samples of a field."""
    found = {field: note.classes for field, note in dataset.notes.items() if note.classes}
    if len(set(found.values())) == 1:
        return list(next(iter(found.values())))
    fields = ", ".join(map(repr, found or dataset.readers))
    if found:
        raise NoClassNamesError(
            f"the fields {fields} of {dataset.name} have different class names. "
            f"Ask one of them: ds[{next(iter(found))!r}].class_names."
        )
    label = next(iter(dataset.readers)) if len(dataset.readers) == 1 else "label"
    if label in dataset.readers and dataset.readers[label].spec.dtype.kind == "S":
        return [str(name) for name in read_labels(whole(label), label, "class_names").names]
    raise NoClassNamesError(
        f"{dataset.name} has no class names; its fields are {fields}. The manifest of a store has them if mmapstore.ingest wrote "
        "it from a folder with a sub-folder for each class, a table of path and class name, or annotated images."
    )


def mixed_samples(name: str) -> InvalidValueError:
    """Return the error for windows of several samples where neighbours do not follow each other."""
    return InvalidValueError(
        f"{name} holds samples in an order that ingest mixed, so neighbours do not follow each other in time; NextFrame() and "
        "Window() of several samples need some that do. Ingest the images once more, in the order of their names: "
        "mmapstore.Images(..., order='sorted') (--order sorted), or episodes='folder' (--episodes folder) if each folder is a "
        "sequence of its own."
    )


def packed_of(stored: StoredArray) -> tuple[Packed, ...]:
    """Return the packing that the attributes of an array declare, as a tuple of one; an empty tuple where they declare none."""
    attributes = stored.attributes(ATTRIBUTES)
    if not attributes:
        return ()
    packing = Packing.of(attributes, stored.dtype, stored.unwritten())
    return () if packing is None else (Packed(stored.name, packing),)


def warn_of_packed(packed: Iterable[Packed], stacklevel: int = 2) -> None:
    """Warn, with one PackedValuesWarning, if some of the arrays mislead. `stacklevel` as `warnings.warn` takes it."""
    words = packed_words(packed)
    if words:
        warnings.warn(words, PackedValuesWarning, stacklevel=stacklevel + 1)
