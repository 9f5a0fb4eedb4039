"""A dataset: samples that can be cut into parts, decoded once, and made into batches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plain.errors import InvalidTypeError, InvalidValueError
from ..plain.selection import Selection
from ..plain.windows import Episodes
from ..readers.contract import Array
from .batches import Batches
from .caching import Transforms, cached_readers
from .gaps import ends_at_gaps
from .labels import Labels, read_labels
from .notes import FieldNotes, class_names_of, mixed_samples
from .plan import Nested, plan_for
from .samples import Samples
from .split import split_points
from .transforms import Transform

if TYPE_CHECKING:
    from ..operations.rounds.rounds import AugmentedRounds


class Dataset(Samples):
    """Samples of one or several fields. Made by `mmapstore.open`; `split` gives parts, `batches` feeds training.

    Indexing reads: `ds[5]` a sample, `ds[10:20]` samples (a read-only view of the file where the bytes allow, else a
    copy), `ds["label"]` one field as a dataset of its own. With several fields samples come as a dict by name.
    `shape`, `dtype` and `layout` are those of the first field.
    """

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
        return self._selected(self._selection.between(start, stop), self._episodes.between(start, stop))

    def select(self, samples: Any) -> Dataset:
        """Return the dataset of these samples, in stored order: a class, all but the bad frames, an index of scikit-learn's.

        No window reaches over samples that were left out. Reading costs the bytes of the samples. Each run of neighbours takes
        16 bytes of memory, which `repr` states where there is more than one.

        Parameters
        ----------
        samples : a mask of booleans of shape (len(self),), or sample numbers in any order, each once; negative numbers count
            from the end

        Raises
        ------
        InvalidValueError : no sample is selected, or one is named twice (to repeat samples see `sampling_weight` of `batches`)

        >>> import mmapstore as mm
        >>> ds = mm.open({"x": np.arange(6.0), "label": np.array([0, 1, 0, 1, 0, 1])})
        >>> ones = ds.select(ds["label"][:] == 1)
        >>> len(ones), ones["x"][:]
        (3, array([1., 3., 5.]))
        """
        numbers = np.asarray(samples)
        if numbers.dtype == bool:
            if numbers.shape != (len(self),):
                raise InvalidValueError(f"the mask has the shape {numbers.shape}; expected ({len(self)},), one for each sample.")
            numbers = np.flatnonzero(numbers)
        if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
            raise InvalidTypeError(
                f"select() was given an array of {numbers.dtype} and shape {numbers.shape}; expected a mask, or sample numbers."
            )
        if not numbers.size:
            raise InvalidValueError(f"select() was given no sample of the {len(self)} of {self._name}; expected at least one.")
        numbers = self._checked_numbers(numbers)
        if not (np.diff(numbers) > 0).all():
            numbers = np.sort(numbers)
            twice = np.flatnonzero(np.diff(numbers) == 0)
            if twice.size:
                raise InvalidValueError(
                    f"select() was given sample {numbers[twice[0]]} more than once; expected each once. To draw samples more often "
                    "than others give batches(sampling_weight=...) or batches(balance=...)."
                )
        return self._selected(self._selection.take(numbers), self._episodes.of_selected(numbers))

    def break_at_gaps(self, field: str, step: float | None = None) -> Dataset:
        """Return the same samples with an episode's end wherever the time stamps jump, so that no window reaches over a gap.

        Parameters
        ----------
        field : time stamps, one number for each sample
        step : time from one sample to the next, in the unit of the field; None is the median of all. A gap is more than 1.5
            steps, no step at all, a step back, or a stamp that is not a number

        `repr` of `batches(...)` states how many samples begin no window.

        >>> import mmapstore as mm
        >>> ds = mm.open({"x": np.arange(6.0), "time": np.array([0, 10, 20, 50, 60, 70])})
        >>> ds.break_at_gaps("time", step=10).episodes
        array([0, 3, 6])
        """
        offsets = ends_at_gaps(self[field], f"break_at_gaps({field!r})", step)
        return self._like(episodes=self._episodes.common(Episodes(offsets)))

    def _selected(self, selection: Selection, episodes: Episodes) -> Dataset:
        opened = self._name.partition("[")[0] if self._name.endswith("]") else self._name
        samples = len(self._first.spec)
        start, stop = selection.bounds
        name = f"{opened}[{start}:{stop}]" if selection.is_one_run else f"{opened}[{len(selection)} of {samples}]"
        return self._like(selection=selection, episodes=episodes, name=name)

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
            *self._selection.bounds,
            self._name,
            directory,
            max_disk,
            transform,
            version,
            fingerprint=lambda field: self._whole(field).fingerprint(),
        )
        # A transform may make other numbers of labels; the order of samples stays.
        changed = self._readers if callable(transform) else transform or {}
        notes = {name: FieldNotes((), note.mixed) if name in changed else note for name, note in self._notes.items()}
        return self._like(readers=readers, packed=self._packed if transform is None else {}, notes=notes)

    def _whole(self, field: str) -> Dataset:
        """All that this field has, also where this is a part."""
        reader = self._readers[field]
        everything = Episodes.equal(len(reader.spec), len(reader.spec))
        return self._like(readers={field: reader}, episodes=everything, selection=None)

    # --- classes -----------------------------------------------------------------------------------------------------

    @property
    def class_names(self) -> list[str]:
        """The name of each class, by the number that stands for it in the field of labels, as in Keras. The parts of a dataset have
        the names of the whole.

        Of a field "label" of text, the texts that occur in the whole dataset, sorted; the samples are read for that. Where several
        fields have different class names, ask one of them: `ds["label"].class_names`.

        Raises NoClassNamesError, an AttributeError, where labels have no names.
        """
        return class_names_of(self, self._whole)

    def _labels(self, field: str, argument: str) -> Labels:
        """Return the class of each sample by that field, read once. `argument` is what errors call the argument that named it."""
        found = self._labels_read.get(field) if isinstance(field, str) else None
        if found is None:
            names = self._notes[field].classes if field in self._notes else ()
            found = self._labels_read[field] = read_labels(self, field, argument, class_names=names)
        return found

    # --- batches -----------------------------------------------------------------------------------------------------

    def batches(
        self,
        batch_size: int,
        target: Nested = None,
        *,
        inputs: Nested = None,
        sample_weight: Nested = None,
        shuffle: bool | int = False,
        seed: int = 0,
        drop_last: bool = False,
        shard: tuple[int, int] = (0, 1),
        layout: str | None = None,
        dtype: Any = None,
        transform: Transform | None = None,
        transform_workers: int = 1,
        max_memory: int | str | None = None,
    ) -> Batches:
        """Batches of (x, y), of (x, y, w) with weights, or of x alone.

        Parameters
        ----------
        batch_size : samples in a batch; the last one may have fewer
        target : what y is: `NextFrame()`, `Window(...)`, the name of a field (the input's own name reconstructs it), or
            None for x alone. A tuple, list or dict of them, nested as you like, gives y in that structure: a dict for a model
            with named outputs, several windows for several horizons. Windows share one x, so their history, stride,
            sampling_rate, start_index and end_index agree; beside them a field is taken at the last input frame
        inputs : the field of x; a tuple, list or dict of fields gives x in that structure. None is the first field. Fixed-width
            text comes as NumPy bytes ("S"), and through `to_tf` and `to_keras` on TensorFlow as tf.string
        sample_weight : the field of w, for batches of (x, y, w): the weight of each sample's loss, finite and 0 or more, at the
            last input frame of a window. One field for all of y, or one for each output, in the structure of y. Keras takes
            either these or `fit(class_weight=)`
        shuffle : False is the stored order. True mixes within windows of 32 blocks of about 2 MiB taken from all over
            the data, in a new order each epoch. A number is the samples in such a window: more mix better and, for
            compressed data, take more memory. The order depends on seed, shuffle and the bytes of a sample alone.
        seed : any whole number
        drop_last : leave out a last batch that is not full
        shard : (index, count): this worker's part of each epoch. Equal lengths; up to count - 1 samples are left out
        layout : axis order of images as delivered, such as "NHWC"; costs a copy
        dtype : of the inputs, and targets taken from them, as delivered; or a dict by field. Costs a copy
        transform : function of x; of x and y; or of x, y and w, as batches have them, called on each batch as it is read. Returns
            x, or (x, y), or (x, y, w), each with one entry for each sample, in any structure. With a parameter named `rng`
            it also gets, by keyword, a `numpy.random.Generator` that follows from seed, epoch, batch and shard alone: a batch
            is the same in every run, through every adapter, however often it is asked for
        transform_workers : threads that transform batches ahead, in order: 1 makes the next batch while one is in use, n the next
            n, each of which takes the memory of two more batches. Pays where the function lets go of Python's lock, as most
            of NumPy and of image libraries do
        max_memory : bytes, or text such as "256MB"; refuse at once if the predicted peak (`.memory`) is over it. Of compressed
            data in stored order less is decoded ahead before that, at some cost of speed.

        >>> import mmapstore as mm
        >>> b = mm.open(np.arange(10.0).reshape(10, 1)).batches(4, target=mm.NextFrame())
        >>> [(len(x), float(y[0, 0])) for x, y in b]
        [(4, 1.0), (4, 5.0), (1, 9.0)]
        """
        specs = {name: reader.spec for name, reader in self._readers.items()}
        plan = plan_for(specs, inputs, target, dtype, layout, sample_weight)
        if self.mixed and plan.reach() != (0, 0):
            raise mixed_samples(self._name)
        return Batches(
            self._readers,
            self._selection,
            self._episodes,
            plan,
            batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
            shard=shard,
            transform=transform,
            transform_workers=transform_workers,
            max_memory=max_memory,
            fingerprint=self.fingerprint,
            name=self._name,
        )

    def augmented(
        self,
        fn: Callable[[Array, np.random.Generator], Any],
        directory: str | os.PathLike[str],
        *,
        balance: str,
        samples_per_class: int | None = None,
        epochs_per_round: int = 10,
        seed: int = 0,
        field: str | None = None,
        validation: bool = False,
        workers: int = 1,
        max_memory: int | str | None = None,
        max_disk: int | str | None = None,
    ) -> AugmentedRounds:
        """Return rounds of augmented, balanced samples: each is written once and trained on for some epochs.

        A round is an ordinary store in `directory`, with the fields of this dataset, `original` (the sample each was made of)
        and `duplicate`. While training reads one, a process at low priority prepares the next; older ones are deleted. A round
        follows from (seed, round) alone, whatever the number of workers: killed at any moment, the same call goes on. One run
        at a time may use a directory. See `AugmentedRounds` for `batches`, `preview`, `memory` and `close`.

        Parameters
        ----------
        fn : function of (x, rng): one sample as it is stored, a copy that may be changed, and a `numpy.random.Generator`. It
            returns an array of one shape and dtype for all samples. It has to pickle, so it is defined in a module; one that is
            defined in the training script needs `if __name__ == "__main__":` there. It runs without a GPU
        directory : made if it is not there; on a disk with room for two rounds
        balance : a field of classes: integers, text or one-hot rows
        samples_per_class : in each round. A class with as many samples has each at most once in a round; of a scarcer one all are
            used equally often, give or take one, with different augmentations. None is the number of the largest class
        epochs_per_round : epoch e of the batches reads round `e // epochs_per_round`
        field : what is augmented; the first field but `balance` by default. Other fields are copied
        validation : one round for all epochs, of each sample once as it is, and scarce classes filled up by augmented ones
        workers : processes that call `fn`
        max_memory : bytes, or text such as "1GB"; raises if the processes would need more (see `memory`)
        max_disk : bytes, or text; raises if two rounds take more

        Raises
        ------
        InvalidValueError, InvalidTypeError (`fn` does not pickle, or returns no array), KeyNotFoundError, MemoryBudgetError,
        WriteError (the disk has too little room), LockedFileError (another run uses the directory), StateMismatchError (the
        directory has rounds of another dataset, function or seed), TransformError (`fn` raises)
        """
        from ..operations.rounds.rounds import AugmentedRounds

        return AugmentedRounds(
            self,
            fn,
            directory,
            balance=balance,
            samples_per_class=samples_per_class,
            epochs_per_round=epochs_per_round,
            seed=seed,
            field=field,
            validation=validation,
            workers=workers,
            max_memory=max_memory,
            max_disk=max_disk,
        )

    def fingerprint(self) -> str:
        """A digest of shapes, dtypes, episodes, and the first KiB of up to 9 samples: the same for one content in any format."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(self.episodes.astype("<i8").tobytes())
        if not self._selection.is_one_run:
            digest.update((self._selection.starts - self._selection.starts[0]).astype("<i8").tobytes())
            digest.update(self._selection.before.astype("<i8").tobytes())
        for name, reader in self._readers.items():
            digest.update(repr((name, len(self), reader.spec.sample_shape, reader.spec.dtype.str)).encode())
            for number in sorted({len(self) * k // 8 for k in range(8)} | {len(self) - 1}):
                digest.update(self._run(reader, number, number + 1).tobytes()[:1024])
        return digest.hexdigest()
