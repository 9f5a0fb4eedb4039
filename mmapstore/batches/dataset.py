"""A dataset: named fields, opened lazily, cut into episodes; nothing is read until asked."""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..files.process_memory import new_array
from ..plain.cf_packing import Packed
from ..plain.channel_statistics import ChannelStatistics
from ..plain.errors import InvalidTypeError, InvalidValueError, KeyNotFoundError, NotAnArrayError, OutOfRangeError
from ..plain.guessed_axes import Doubt
from ..plain.memory_budget import format_bytes
from ..plain.windows import Episodes
from ..readers.contract import Array, OffersViews, Reader
from .batches import Batches
from .caching import Transforms, cached_readers
from .labels import Labels, read_labels
from .notes import FieldNotes, Notes, class_names_of, mixed_samples
from .plan import Target, plan_for
from .split import split_points
from .transforms import Transform

_STREAMED_BYTES = 4 * 2**20  # read at a time when all samples are passed over


class Dataset:
    """Samples of one or several fields. Made by `mmapstore.open`; `split` gives parts, `batches` feeds training.

    Indexing reads: `ds[5]` a sample, `ds[10:20]` samples (a read-only view of the file where the bytes allow, else a
    copy), `ds["label"]` one field as a dataset of its own. With several fields samples come as a dict by name.
    `shape`, `dtype` and `layout` are those of the first field.
    """

    def __init__(
        self,
        readers: Mapping[str, Reader],
        episodes: Episodes,
        name: str,
        start: int = 0,
        stop: int | None = None,
        packed: Mapping[str, tuple[Packed, ...]] | None = None,
        doubts: Mapping[str, Doubt] | None = None,
        notes: Notes | None = None,
    ) -> None:
        self._readers = dict(readers)
        self._start = start
        self._stop = len(next(iter(self._readers.values())).spec) if stop is None else stop
        self._episodes = episodes
        self._name = name
        self._packed = dict(packed or {})
        self._doubts = dict(doubts or {})
        self._notes = dict(notes or {})
        self._labels_read: dict[str, Labels] = {}

    @property
    def _first(self) -> Reader:
        return next(iter(self._readers.values()))

    # --- what it is --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Samples."""
        return self._stop - self._start

    @property
    def name(self) -> str:
        """What it was opened from, as messages call it: "a.h5::/frames", "frames.npy[0:600]" for a part."""
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
    def fields(self) -> dict[str, Dataset]:
        """Each field as a dataset of its own, by name."""
        return {
            name: Dataset(
                {name: reader},
                self._episodes,
                self._name,
                self._start,
                self._stop,
                {name: self._packed[name]} if name in self._packed else {},
                {name: self._doubts[name]} if name in self._doubts else {},
                {name: self._notes[name]} if name in self._notes else {},
            )
            for name, reader in self._readers.items()
        }

    @property
    def packed(self) -> dict[str, tuple[Packed, ...]]:
        """By field, its files whose stored numbers stand for other values, or for none; how is in their `packing`."""
        return dict(self._packed)

    @property
    def doubts(self) -> dict[str, Doubt]:
        """By field, why its axes, which were not named where it was opened, are likely others than those of `layout`."""
        return dict(self._doubts)

    @property
    def notes(self) -> dict[str, FieldNotes]:
        """By field, the class names that the manifest has for its numbers, and whether `ingest` mixed the samples."""
        return dict(self._notes)

    @property
    def class_names(self) -> list[str]:
        """The name of each class, by the number that stands for it in the field of labels, as in Keras. The parts of a dataset have
        the names of the whole.

        Of a field "label" of text, the texts that occur in the whole dataset, sorted; the samples are read for that. Where several
        fields have different class names, ask one of them: `ds["label"].class_names`.

        Raises NoClassNamesError, an AttributeError, where labels have no names.
        """
        return class_names_of(self, self._whole)

    @property
    def mixed(self) -> bool:
        """True if `ingest` wrote the samples in an order mixed by a seed: neighbours do not follow each other in time."""
        return any(each.mixed for each in self._notes.values())

    @property
    def episodes(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Where episodes begin, and the end: int64 offsets, length E + 1."""
        return self._episodes.offsets

    @property
    def readers(self) -> dict[str, Reader]:
        """How each field is read; `reader.why` says it in words."""
        return dict(self._readers)

    def __repr__(self) -> str:
        fields = "; ".join(
            f"{name!r} {reader.spec.sample_shape} {reader.spec.dtype} {reader.spec.layout} {reader.place}"
            for name, reader in self._readers.items()
        )
        episodes = f" in {len(self._episodes)} episodes" if len(self._episodes) > 1 else ""
        mixed = " in mixed order" if self.mixed else ""
        return f"<Dataset {self._name}: {len(self)} samples{mixed}{episodes}, {format_bytes(self.nbytes)}; {fields}>"

    # --- reading -----------------------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            if index not in self._readers:
                raise KeyNotFoundError(
                    f"there is no field {index!r} in {self._name}; the fields are {', '.join(map(repr, self._readers))}."
                )
            return self.fields[index]
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
            return self._pick(reader, np.array([self._checked(n) for n in numbers.tolist()], np.int64))
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

    def _run(self, reader: Reader, start: int, stop: int) -> Array:
        view = reader.view(start + self._start, stop + self._start) if isinstance(reader, OffersViews) and stop > start else None
        if view is not None:
            return view
        out = self._new(reader, stop - start)
        if stop > start:
            reader.read(start + self._start, stop + self._start, out)
        return out

    def _new(self, reader: Reader, samples: int) -> Array:
        return new_array((samples, *reader.spec.sample_shape), reader.spec.dtype, f"{samples} samples of {self._name}")

    def _pick(self, reader: Reader, numbers: Array) -> Array:
        out = self._new(reader, len(numbers))
        for row, number in enumerate(numbers.tolist()):
            reader.read(number + self._start, number + self._start + 1, out[row : row + 1])
        return out

    def __array__(self, *_: Any, **__: Any) -> Array:
        # Called by NumPy, and by Keras for fit(ds): both would read everything without a word.
        raise NotAnArrayError(
            f"this would read all {format_bytes(self.nbytes)} of {self._name} into memory. To train, write "
            "model.fit(ds.batches(32, target=mmapstore.NextFrame()).to_keras(), shuffle=False) "
            "(target: NextFrame(), Window(...), a field name or None). To have the array all the same, write ds[:]."
        )

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

    def _labels(self, field: str, argument: str) -> Labels:
        """Return the class of each sample by that field, read once. `argument` is what errors call the argument that named it."""
        found = self._labels_read.get(field) if isinstance(field, str) else None
        if found is None:
            names = self._notes[field].classes if field in self._notes else ()
            found = self._labels_read[field] = read_labels(self, field, argument, class_names=names)
        return found

    # --- parts -------------------------------------------------------------------------------------------------------

    def split(self, *parts: float, by: str = "sample", gap: int = 0) -> tuple[Dataset, ...]:
        """Contiguous parts, in stored order, that share no sample; windows never reach from one into another.

        Parameters
        ----------
        parts : floats are fractions, ints are counts; what they leave over at the end is in no part
        by : "sample", or "episode": then fractions and counts are of episodes, and none is cut
        gap : samples (or episodes) left out between parts, where neighbouring frames are alike

        >>> import mmapstore as mm
        >>> [len(part) for part in mm.open(np.zeros((10, 3))).split(0.6, 0.2, 0.2)]
        [6, 2, 2]
        """
        if by not in ("sample", "episode"):
            raise InvalidValueError(f"by={by!r} is not understood; expected 'sample' or 'episode'.")
        total = len(self) if by == "sample" else len(self._episodes)
        points = split_points(total, parts, gap, f"{by}s")
        if by == "episode":
            points = [(int(self.episodes[start]), int(self.episodes[stop])) for start, stop in points]
        return tuple(self._part(start, stop) for start, stop in points)

    def _part(self, start: int, stop: int) -> Dataset:
        name = f"{self._name}[{self._start + start}:{self._start + stop}]".replace(f"[{self._start}:{self._stop}][", "[")
        first = self._start + start
        episodes, notes = self._episodes.between(start, stop), self._notes
        return Dataset(self._readers, episodes, name, first, self._start + stop, self._packed, notes=notes)

    # --- decoding once -----------------------------------------------------------------------------------------------

    def cache(
        self,
        directory: str | os.PathLike[str],
        max_disk: int | str | None = None,
        transform: Transforms = None,
        version: str | int | None = None,
    ) -> Dataset:
        """The same samples, decoded once: the first epoch leaves them in `directory`, later epochs map them from there.

        The first epoch is shuffled, stopped, or killed as you like, and goes on where it was; the next run, or another
        process at the same time, uses what is there. Each field gets an ordinary .npy file of all samples of the array, which
        takes disk space only for those that were read; so parts (`split`) of one array share a file, and only fill their own. A
        file belongs to its source: if that has another size, time of change or other samples, another file is begun, and old
        ones are left for you to delete. (What is written into a directory, a Zarr store, is noticed by 9 samples and its
        metadata alone: give another `version` then.) A damaged file is begun again with a warning. Fields with nothing to
        decode, such as a .npy file or an array in RAM, stay as they are, unless they have a transform.

        Parameters
        ----------
        directory : made if it is not there; best on the fastest disk at hand. To be shared by processes of one machine
        max_disk : bytes, or text such as "20GB", that the files of this dataset take at most; what does not fit is decoded in
            each epoch. None keeps all
        transform : function of an array of samples (n, *sample) that gives n samples of any one shape and dtype, its axes in the
            same order; for several fields a dict by field. Called before samples are kept, so once for each, a few at a time:
            it must be deterministic, and no sample may depend on others
        version : any text that names the data as kept. Required with a transform: change it when the function changes

        Raises
        ------
        WriteError : the directory cannot be written, or its disk has too little room; the text has the `max_disk` that fits
        InvalidValueError, InvalidTypeError : a transform without a version, one that changed under its version, or one that
            makes other shapes; a `max_disk` that holds no block

        >>> import os, tempfile, mmapstore as mm
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ds = mm.open(np.arange(24, dtype="u1").reshape(6, 4))
        ...     half = ds.cache(folder, transform=lambda samples: samples[:, ::2] / np.float32(255), version="halved, 0 to 1")
        ...     for epoch in range(2):
        ...         sums = [float(x.sum()) for x in half.batches(4)]
        ...     half.shape, half.dtype, [name.split("-")[0] for name in sorted(os.listdir(folder))]
        ((6, 2), dtype('float32'), ['data', 'data'])
        """
        readers = cached_readers(
            self._readers,
            self._start,
            self._stop,
            self._name,
            directory,
            max_disk,
            transform,
            version,
            fingerprint=lambda field: self._whole(field).fingerprint(),
        )
        packed = self._packed if transform is None else {}
        # A transform may make other numbers of labels; the order of samples stays.
        changed = self._readers if callable(transform) else transform or {}
        notes = {name: FieldNotes((), note.mixed) if name in changed else note for name, note in self._notes.items()}
        return Dataset(readers, self._episodes, self._name, self._start, self._stop, packed, notes=notes)

    def _whole(self, field: str) -> Dataset:
        """All that this field has, also where this is a part."""
        reader = self._readers[field]
        return Dataset({field: reader}, Episodes.equal(len(reader.spec), len(reader.spec)), self._name)

    # --- batches -----------------------------------------------------------------------------------------------------

    def batches(
        self,
        batch_size: int,
        target: Target = None,
        *,
        inputs: str | Sequence[str] | None = None,
        shuffle: bool | int = False,
        seed: int = 0,
        drop_last: bool = False,
        shard: tuple[int, int] = (0, 1),
        layout: str | None = None,
        dtype: Any = None,
        transform: Transform | None = None,
        max_memory: int | str | None = None,
    ) -> Batches:
        """Batches of (x, y), or of x alone.

        Parameters
        ----------
        batch_size : samples in a batch; the last one may have fewer
        target : what y is: `NextFrame()`, `Window(...)`, the name of a field (the input's own name reconstructs it),
            several names, or None for x alone
        inputs : the fields of x; several give a tuple. None is the first field
        shuffle : False is the stored order. True mixes within windows of 32 blocks of about 2 MiB taken from all over
            the data, in a new order each epoch. A number is the samples in such a window: more mix better and, for
            compressed data, take more memory. The order depends on seed, shuffle and the bytes of a sample alone.
        seed : any whole number
        drop_last : leave out a last batch that is not full
        shard : (index, count): this worker's part of each epoch. Equal lengths; up to count - 1 samples are left out
        layout : axis order of images as delivered, such as "NHWC"; costs a copy
        dtype : of the inputs, and targets taken from them, as delivered; or a dict by field. Costs a copy
        transform : function of (x, y), or of x without a target, called on each batch as it is read
        max_memory : bytes, or text such as "256MB"; refuse at once if the predicted peak (`.memory`) is over it. Of compressed
            data in stored order less is decoded ahead before that, at some cost of speed.

        >>> import mmapstore as mm
        >>> b = mm.open(np.arange(10.0).reshape(10, 1)).batches(4, target=mm.NextFrame())
        >>> [(len(x), float(y[0, 0])) for x, y in b]
        [(4, 1.0), (4, 5.0), (1, 9.0)]
        """
        plan = plan_for({name: reader.spec for name, reader in self._readers.items()}, inputs, target, dtype, layout)
        if self.mixed and plan.reach() != (0, 0):
            raise mixed_samples(self._name)
        return Batches(
            self._readers,
            self._start,
            self._episodes,
            plan,
            batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
            shard=shard,
            transform=transform,
            max_memory=max_memory,
            fingerprint=self.fingerprint,
            name=self._name,
        )

    def fingerprint(self) -> str:
        """A digest of shapes, dtypes, episodes, and the first KiB of up to 9 samples: the same for one content in any format."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(self.episodes.astype("<i8").tobytes())
        for name, reader in self._readers.items():
            digest.update(repr((name, len(self), reader.spec.sample_shape, reader.spec.dtype.str)).encode())
            for number in sorted({len(self) * k // 8 for k in range(8)} | {len(self) - 1}):
                digest.update(self._run(reader, number, number + 1).tobytes()[:1024])
        return digest.hexdigest()
