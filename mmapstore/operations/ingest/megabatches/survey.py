"""A survey of megabatches, once all were read: the number of samples, their form, and the broken files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ....plain.errors import DamagedFileError, InvalidValueError
from ..sources import stamp
from .columns import Columns
from .fields import FieldForm, Found, Tokens, form_of, found_in
from .unpickling import held_while_loading


@dataclass(frozen=True)
class SurveyedFile:
    """
    path, stamp : the file, and what changes when it does
    found : what it holds, by field
    needed : bytes of memory that loading it and arranging what it holds takes
    given : bytes of the columns that come of it
    objects : Python objects that it was loaded as
    """

    path: str
    stamp: str
    found: Mapping[str, Found]
    needed: int
    given: int
    objects: int

    @classmethod
    def of(cls, path: str, columns: Columns, tokens: Tokens | None) -> SurveyedFile:
        found = {name: found_in(array, name in columns.coded, name, path, tokens) for name, array in columns.arrays.items()}
        # Texts and classes are arranged a second time, in their final form.
        needed = columns.held + max(held_while_loading(path), 2 * columns.made)
        given = sum(array.nbytes for array in columns.arrays.values())
        return cls(path, stamp([path]), found, needed, given, columns.objects)

    @property
    def samples(self) -> int:
        return next(iter(self.found.values())).samples


@dataclass(frozen=True)
class BrokenFile:
    """`why` it cannot be loaded. `before` files that can be stand before it."""

    path: str
    why: str
    before: int


@dataclass(frozen=True)
class Survey:
    """Files that hold samples, in order; the first sample of each, and the end; broken files; the form of each field."""

    files: list[SurveyedFile]
    first_of: list[int]
    broken: list[BrokenFile]
    forms: dict[str, FieldForm]

    @classmethod
    def of(
        cls,
        seen: Iterable[SurveyedFile | tuple[str, DamagedFileError]],
        layout: str | Mapping[str, str] | None,
        text_width: int | None,
        tokens: Tokens | None,
    ) -> Survey:
        """Raises DamagedFileError if no file can be loaded, InvalidValueError if two do not go together."""
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
        return cls(files, first_of, broken, _forms(files, layout, text_width, tokens))

    @property
    def samples(self) -> int:
        return self.first_of[-1]


def _forms(
    files: list[SurveyedFile], layout: str | Mapping[str, str] | None, text_width: int | None, tokens: Tokens | None
) -> dict[str, FieldForm]:
    first = files[0].found
    if isinstance(layout, Mapping):
        unknown = sorted(set(layout) - set(first))
        letters = dict(layout)
    else:
        letters = {name: layout for name, found in first.items() if layout is not None and len(found.shape) + 1 == len(layout)}
        unknown = [layout] if layout is not None and not letters else []
    if unknown:
        held = ", ".join(f"{name} {found.words}" for name, found in first.items())
        raise InvalidValueError(f"layout={layout!r} fits no field: the files hold {held}.")
    return {
        name: form_of(name, {file.path: file.found[name] for file in files}, letters.get(name), text_width, tokens)
        for name in first
    }
