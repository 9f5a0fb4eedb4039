"""Pickled, joblib and `.npz` megabatches: files of thousands of samples of several fields, joined field by field."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from ....files.process_memory import give_back_freed_memory
from ....files.worker_threads import usable_cpus
from ....plain.array_spec import ArraySpec
from ....plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError
from ....plain.guessed_axes import Doubt
from ....plain.memory_budget import MemoryPlan, format_bytes
from ....plain.windows import whole_number
from ..contract import Array, Piece, Position
from ..files import files_of
from ..ordered_map import in_order
from ..sources import stamp
from .columns import read_columns
from .survey import Survey, SurveyedFile, Tokenize, Tokens, Wanted
from .unpickling import SUFFIXES, held_while_loading, is_pickle, least_held, refuse_pickle

_KEPT_NBYTES = 8 << 20  # by malloc for each thread, of what was freed
T = TypeVar("T")
R = TypeVar("R")


class Megabatches:
    """Files that hold megabatches, for `mmapstore.ingest`: joined field by field, in lockstep, each file an episode.

    A file holds a dict of arrays or lists by field, with an entry for each sample (`images`, `labels`, `texts` ...), or a list of
    dicts of one sample each. Files are loaded whole, several at a time, by threads, which wait for each other while they unpickle
    small Python objects. All files are read twice: to know their fields, and to write them.

    Numbers keep their dtype. Texts become UTF-8 in (width,) uint8, padded with zeros, as wide as the longest; in the fields that
    `classes` names, numbers of classes; a `SourceWarning` names other texts in fields called like labels. Lists of numbers become
    arrays as by `numpy.asarray`.

    Parameters
    ----------
    source : a file, a list of files, a glob, or a directory, in natural order: .pkl, .pickle (also .gz), .joblib (needs
        `mmapstore[pickles]`), .npz
    allow_pickle : loading a pickle runs the code that its author put into it. False raises for pickles, and for pickles in .npz
        archives
    text_width : bytes (with `tokenize`, tokens) of each text; a longer text is an error. None: the width of the longest
    tokenize : a function from a text to a sequence of ints, called in this process for every text, twice. Texts become rows of
        int32 (int64 where a token needs it), padded with zeros
    fields : names of the fields to read; or a dict of the names to write and those in the files. None: all
    classes : names of the fields, as written, whose texts are names of classes. Each text becomes the number of its class, int64;
        the names, sorted, are in the manifest
    layout : the axes of a field's arrays, one letter each, beginning with N; or a dict by field, as written. By default the usual
        ones for that many axes: NCHW for four. Text alone is for the fields that have as many axes as it has letters
    workers : number of files loaded at once; None: the number of processors, or as many as memory allows
    skip_broken : skip files that cannot be loaded; the manifest lists them

    Raises
    ------
    UnsafeFileError : a pickle without `allow_pickle`
    NotFoundError, InvalidValueError, InvalidTypeError
    When the files are read: DamagedFileError, MissingPackageError, MemoryBudgetError, and InvalidValueError where a field differs
    between files in name, shape or dtype

    >>> import os, tempfile
    >>> import mmapstore
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for number, labels in enumerate([["cat", "dog"], ["dog"]]):
    ...         images = np.zeros((len(labels), 3, 8, 8), np.uint8)
    ...         np.savez(os.path.join(folder, f"{number}.npz"), images=images, labels=labels)
    ...     ds = mmapstore.open(mmapstore.ingest(Megabatches(folder, classes=["labels"]), os.path.join(folder, "store")))
    ...     ds["images"].shape, ds["labels"][:].tolist(), ds.episodes.tolist()
    ((3, 3, 8, 8), [0, 1, 1], [0, 2, 3])
    """

    gives_from_any_sample = True

    def __init__(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        allow_pickle: bool = False,
        text_width: int | None = None,
        tokenize: Tokenize | None = None,
        fields: Sequence[str] | Mapping[str, str] | None = None,
        classes: Sequence[str] = (),
        layout: str | Mapping[str, str] | None = None,
        workers: int | None = None,
        skip_broken: bool = False,
    ) -> None:
        paths = files_of(source, SUFFIXES, "Megabatches")
        self.name = paths[0] if len(paths) == 1 else f"{len(paths)} files, {paths[0]} to {paths[-1]}"
        for path in paths:
            if not path.lower().endswith(SUFFIXES):
                raise InvalidValueError(f"{path} is no megabatch by its name; expected one that ends with {', '.join(SUFFIXES)}.")
            if is_pickle(path) and not allow_pickle:
                raise refuse_pickle(path)
        for name, number in (("text_width", text_width), ("workers", workers)):
            if number is not None:
                whole_number(name, number, least=1)
        self.paths = [os.path.abspath(path) for path in paths]
        self._allow_pickle = bool(allow_pickle)
        if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
            raise InvalidTypeError(f"classes={classes!r} is not understood; expected a list of names of fields, such as ['label'].")
        self._tokens = Tokens(tokenize) if tokenize is not None else None
        self._wanted = Wanted(layout, text_width, self._tokens, tuple(classes))
        self._names = _names_of(fields)
        self._skip_broken = bool(skip_broken)
        self._workers = min(len(paths), workers or usable_cpus())
        self._may_use_fewer = workers is None
        self._found: Survey | None = None

    def __repr__(self) -> str:
        return f"<Megabatches {self.name}>"

    # --- what it holds -----------------------------------------------------------------------------------------------

    def look(self, max_memory: int) -> None:
        """Read all files once, to know their fields, within `max_memory` bytes; fewer workers take less.

        Raises MemoryBudgetError before any file is read, if one is too large.
        """
        self._use_fewer_workers(max_memory)
        MemoryPlan(self.memory(1)).require(
            max_memory,
            f"Reading {self.name}",
            f"Each file is loaded whole: give a larger max_memory=, {'fewer workers=, ' * (self._workers > 1)}or smaller files.",
        )
        self._survey()
        self._use_fewer_workers(max_memory)

    def _use_fewer_workers(self, max_memory: int) -> None:
        # A quarter is left to those who write.
        while self._may_use_fewer and self._workers > 1 and sum(self.memory(1).values()) > max_memory * 3 // 4:
            self._workers -= 1

    def _survey(self) -> Survey:
        if self._found is None:
            with self._loaded(self.paths, self._surveyed_file) as seen:
                self._found = Survey.of(seen, self._wanted)
        return self._found

    def _surveyed_file(self, path: str) -> SurveyedFile | tuple[str, DamagedFileError]:
        try:
            return SurveyedFile.of(path, read_columns(path, self._names, self._allow_pickle), self._wanted)
        except DamagedFileError as error:
            if not self._skip_broken:
                raise
            return path, error
        finally:
            give_back_freed_memory()

    def _loaded(self, items: Sequence[T], load: Callable[[T], R]) -> contextlib.closing[Generator[R]]:
        """Return what `load` makes of each item, in order, loaded ahead by `workers` threads."""
        return contextlib.closing(in_order(items, load, workers=self._workers, ahead=self._workers))

    @property
    def specs(self) -> Mapping[str, ArraySpec]:
        """Shape, dtype and layout of each field, over all files, which are read first if they were not."""
        survey = self._survey()
        return {name: replace(form.spec, shape=(survey.samples, *form.spec.sample_shape)) for name, form in survey.forms.items()}

    @property
    def samples(self) -> int | None:
        """Samples of all files."""
        return self._survey().samples

    @property
    def guess(self) -> int:
        """Samples of all files."""
        return self._survey().samples

    @property
    def notes(self) -> Mapping[str, Mapping[str, Any]]:
        """By field: names of classes, encoding and width of texts."""
        return {name: form.notes for name, form in self._survey().forms.items() if form.notes}

    @property
    def doubts(self) -> list[Doubt]:
        """Fields whose axes nobody named and are likely not the usual ones."""
        return [form.doubt for form in self._survey().forms.values() if form.doubt]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """JSON that changes when a file does, or the samples that are made of it."""
        survey = self._survey()
        return {
            "kind": "megabatches",
            "files": len(self.paths),
            "stamp": stamp(self.paths),
            "samples": survey.samples,
            "left out": [file.path for file in survey.broken],
            "tokens": None if self._tokens is None else self._tokens.mark,
            "notes": f"{zlib.crc32(repr(sorted(self.notes.items())).encode()):08x}",
        }

    # --- its samples -------------------------------------------------------------------------------------------------

    def pieces(self, after: Position, at_most: int) -> Iterator[Piece]:
        """Yield samples of all fields, file after file, at most `at_most` at a time, as views of the loaded arrays."""
        survey = self._survey()
        number = int(np.searchsorted(survey.first_of, after.samples, "right")) - 1
        told = len(after.skipped)
        with self._loaded(survey.files[number:], self._samples_of) as loaded:
            for fields in loaded:
                broken = [file.path for file in survey.broken if file.before <= number]
                start = max(0, after.samples - survey.first_of[number])
                for at in range(start, survey.files[number].samples, at_most):
                    cut = {name: array[at : at + at_most] for name, array in fields.items()}
                    yield Piece(cut, (0,) if at == 0 else (), broken[told:])
                    told = len(broken)
                number += 1
                del fields, cut
                give_back_freed_memory()
        if survey.broken[told:]:
            nothing = {name: np.empty((0, *spec.sample_shape), spec.dtype) for name, spec in self.specs.items()}
            yield Piece(nothing, (), [file.path for file in survey.broken[told:]])

    def _samples_of(self, file: SurveyedFile) -> dict[str, Array]:
        columns = read_columns(file.path, self._names, self._allow_pickle)
        if stamp([file.path]) != file.stamp:
            raise DamagedFileError(
                f"{file.path} was written to while it was read. Run the same ingest again once nothing writes to it."
            )
        fields = {}
        for name, form in self._survey().forms.items():
            fields[name] = form.samples(columns.arrays.pop(name), f"{file.path}: the field {name!r}")
        give_back_freed_memory()
        return fields

    def memory(self, at_most: int) -> dict[str, int]:
        """Return the most private bytes; before `look` an estimate from the sizes of files, which pickles may exceed."""
        if self._found is not None:
            sizes = [(file.path, file.needed, file.given) for file in self._found.files]
        else:
            sizes = [(path, least + held_while_loading(path), least) for path in self.paths for least in [least_held(path)]]
        largest, needed, _ = max(sizes, key=lambda size: size[1])
        given = max(size[2] for size in sizes)
        workers = min(self._workers, len(sizes))
        size = format_bytes(os.path.getsize(largest))
        what = f"{workers} file{'s' * (workers > 1)} being loaded whole, the largest {largest} of {size}"
        kept = (workers + 1) * _KEPT_NBYTES
        return {what: workers * needed, "samples of a file": given, "freed, and kept by malloc": kept}


def _names_of(fields: Any) -> dict[str, str] | None:
    """Return the name in the files of each name that is written; None for all names."""
    if fields is None:
        return None
    names = {name: name for name in fields} if isinstance(fields, (list, tuple)) else fields
    if not isinstance(names, Mapping) or not all(isinstance(name, str) for pair in names.items() for name in pair):
        raise InvalidTypeError(
            f"fields={fields!r} is not understood; expected a list of names, or a dict of new names and those in the files."
        )
    if not names:
        raise InvalidValueError("fields= names no field; expected at least one, or None for all.")
    return dict(names)
