"""The samples of a dataset: what they are, and reading them by number. Nothing is read until asked."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from ..files.process_memory import new_array
from ..plain.cf_packing import Packed
from ..plain.channel_statistics import ChannelStatistics
from ..plain.errors import InvalidTypeError, KeyNotFoundError, NotAnArrayError, OutOfRangeError
from ..plain.guessed_axes import Doubt
from ..plain.memory_budget import format_bytes
from ..plain.runs import runs_of
from ..plain.selection import Selection
from ..plain.windows import Episodes
from ..readers.contract import Array, Reader, within
from .labels import Labels
from .notes import FieldNotes, Notes

_STREAMED_BYTES = 4 * 2**20  # read at a time when all samples are passed over


class Samples:
    """Samples of one or several fields, cut into episodes. See `Dataset`."""

    def __init__(
        self,
        readers: Mapping[str, Reader],
        episodes: Episodes,
        name: str,
        selection: Selection | None = None,
        notes: Notes | None = None,
        dealt: bool = False,
    ) -> None:
        self._readers = dict(readers)
        self._selection = selection or Selection.between_samples(0, len(self._first.spec))
        self._episodes = episodes
        self._name = name
        self._notes = {name: (notes or {}).get(name, FieldNotes()) for name in self._readers}
        self._dealt = dealt  # its samples were taken from among others, one by one
        self._labels_read: dict[str, Labels] = {}

    def _like(self, **changes: Any) -> Self:
        """Return a dataset that differs from this one in these arguments of the constructor."""
        own: dict[str, Any] = {
            "readers": self._readers,
            "episodes": self._episodes,
            "name": self._name,
            "selection": self._selection,
            "notes": self._notes,
            "dealt": self._dealt,
        }
        return type(self)(**{**own, **changes})

    def within(self, nbytes: int) -> Self:
        """Return this dataset, or if decoders of all its threads take more than `nbytes` bytes, the same read in fewer threads."""
        return self._like(readers=within(self._readers, nbytes))

    @property
    def _first(self) -> Reader:
        return next(iter(self._readers.values()))

    # --- what it is --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._selection)

    @property
    def name(self) -> str:
        """The source of the dataset, as messages call it: "a.h5::/frames", "frames.npy[0:600]" for a part of neighbours,
        "frames.npy[600 of 1000]" for a selection."""
        return self._name

    @property
    def shape(self) -> tuple[int, ...]:
        """(samples, *sample shape) of the first field."""
        return (len(self), *self._first.spec.sample_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the first field, in native byte order."""
        return self._first.spec.dtype

    @property
    def layout(self) -> str:
        """One letter per axis of `shape`: "N", then the sample axes in stored order."""
        return self._first.spec.layout

    @property
    def nbytes(self) -> int:
        """Bytes of all samples of all fields, decoded."""
        return len(self) * sum(reader.spec.sample_nbytes for reader in self._readers.values())

    @property
    def fields(self) -> dict[str, Self]:
        """Each field as a dataset of its own, by name. `mmapstore.open({**ds.fields, "patient": array})` adds one."""
        return {name: self._field(name) for name in self._readers}

    def _field(self, name: str) -> Self:
        return self._like(readers={name: self._readers[name]})

    @property
    def packed(self) -> dict[str, tuple[Packed, ...]]:
        """By field, its files whose stored numbers stand for other values, or for none; the rule is in their `packing`."""
        return {name: note.packed for name, note in self._notes.items() if note.packed}

    @property
    def doubts(self) -> dict[str, Doubt]:
        """By field, why its axes, which were not named where it was opened, are likely others than those of `layout`."""
        return {name: note.doubt for name, note in self._notes.items() if note.doubt}

    @property
    def notes(self) -> dict[str, FieldNotes]:
        """By field, the class names that the manifest has for its numbers, and whether `ingest` mixed the samples."""
        return {name: note for name, note in self._notes.items() if note.classes or note.mixed}

    @property
    def mixed(self) -> bool:
        """True if `ingest` wrote the samples in an order mixed by a seed: neighbours do not follow each other in time."""
        return any(each.mixed for each in self._notes.values())

    @property
    def episodes(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The first sample of each episode, and the end of the last: int64 offsets, length E + 1."""
        return self._episodes.offsets

    @property
    def readers(self) -> dict[str, Reader]:
        """The reader of each field, by name; `reader.why` says in words how it reads."""
        return dict(self._readers)

    def __repr__(self) -> str:
        fields = "; ".join(
            f"{name!r} {reader.spec.sample_shape} {reader.spec.dtype} {reader.spec.layout} {reader.place}"
            for name, reader in self._readers.items()
        )
        episodes = f" in {len(self._episodes)} episodes" if len(self._episodes) > 1 else ""
        index = "" if self._selection.is_one_run else f" (index {format_bytes(self._selection.nbytes)} in memory)"
        mixed = " in mixed order" if self.mixed else ""
        return f"<Dataset {self._name}: {len(self)} samples{mixed}{episodes}, {format_bytes(self.nbytes)}{index}; {fields}>"

    # --- reading -----------------------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            if index not in self._readers:
                raise KeyNotFoundError(
                    f"there is no field {index!r} in {self._name}; the fields are {', '.join(map(repr, self._readers))}."
                )
            return self._field(index)
        found = {name: self._take(reader, index) for name, reader in self._readers.items()}
        return found if len(found) > 1 else next(iter(found.values()))

    def _take(self, reader: Reader, index: Any) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self._run(reader, start, max(start, stop))
            return self._pick(reader, np.arange(start, stop, step))
        if isinstance(index, (list, np.ndarray)):
            numbers = np.asarray(index)
            if numbers.dtype == bool and numbers.shape == (len(self),):
                numbers = np.flatnonzero(numbers)
            if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
                raise InvalidTypeError("an index must be a sample number, a slice, a list of numbers, or a field name.")
            return self._pick(reader, self._checked_numbers(numbers))
        try:
            number = self._checked(operator.index(index))
        except TypeError as error:
            raise InvalidTypeError(
                f"{index!r} is no index; expected a sample number, a slice, a list of numbers, or a field name."
            ) from error
        return self._run(reader, number, number + 1)[0]

    def _checked(self, number: int) -> int:
        if not -len(self) <= number < len(self):
            raise OutOfRangeError(f"there is no sample {number} in {self._name}: it has {len(self)}, counted from 0.")
        return number % len(self)

    def _checked_numbers(self, numbers: Array) -> Array:
        found = numbers.astype(np.int64)
        outside = np.flatnonzero((found < -len(self)) | (found >= len(self)))
        if outside.size:
            self._checked(int(found[outside[0]]))
        return np.where(found < 0, found + len(self), found)

    def run_into(self, start: int, stop: int, room: Array | None) -> Array:
        """Return samples [start, stop) of the first field: a view where the bytes allow, else the first rows of `room`."""
        return self._run(self._first, start, stop, room)

    def _run(self, reader: Reader, start: int, stop: int, room: Array | None = None) -> Array:
        if stop == start:
            return self._new(reader, 0)
        runs = self._selection.runs(start, stop)
        view = reader.view(*runs[0].tolist()) if len(runs) == 1 else None
        if view is not None:
            return view
        out = self._new(reader, stop - start) if room is None else room[: stop - start]
        reader.read_runs(runs, out)
        return out

    def _new(self, reader: Reader, samples: int) -> Array:
        return new_array((samples, *reader.spec.sample_shape), reader.spec.dtype, f"{samples} samples of {self._name}")

    def _pick(self, reader: Reader, numbers: Array) -> Array:
        """Read samples in any order, each once. Out of order or repeated they are copied once more."""
        out = self._new(reader, len(numbers))
        if not len(numbers):
            return out
        wanted = self._selection.places(numbers)
        rising = bool((np.diff(wanted) > 0).all())
        samples = wanted if rising else np.unique(wanted)
        found = out if rising else self._new(reader, len(samples))
        reader.read_runs(runs_of(samples), found)
        if not rising:
            np.take(found, np.searchsorted(samples, wanted), axis=0, out=out, mode="clip")
        return out

    def __array__(self, *_: Any, **__: Any) -> Array:
        # Called by NumPy, and by Keras for fit(ds): both would read everything without a word.
        raise NotAnArrayError(
            f"this would read all {format_bytes(self.nbytes)} of {self._name} into memory. To train, write "
            f"model.fit(ds.batches(32, target={self._likely_target()}).to_keras(), shuffle=False) "
            "(target: a field name, NextFrame(), Window(...) or None). To have the array all the same, write ds[:]."
        )

    def _likely_target(self) -> str:
        from .labels import is_label

        return next((repr(field) for field in self._readers if is_label(field)), "mmapstore.NextFrame()")

    def statistics(self) -> ChannelStatistics:
        """Count, minimum, maximum, mean and standard deviation per channel (axis C; of everything where there is none).

        Streams over the samples of this dataset alone, so of a training part alone, in a few MiB of memory. Of the
        first field; `ds["name"].statistics()` for another. `keras.layers.Normalization(axis=1, mean=s.mean,
        variance=s.std**2)` takes them for NCHW.
        """
        spec = self._first.spec
        axis = spec.layout.index("C") if "C" in spec.layout else None
        found = ChannelStatistics()
        step = max(1, _STREAMED_BYTES // max(1, spec.sample_nbytes))
        for start in range(0, len(self), step):
            found.update(self._run(self._first, start, min(start + step, len(self))), axis)
        return found
