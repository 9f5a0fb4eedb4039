"""A dataset: samples that can be cut into parts, decoded once, and made into batches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..readers.contract import Array
from .batches import Batches
from .caching import Transforms, cached_readers
from .notes import mixed_samples
from .parts import Parts
from .plan import Nested, plan_for, require_weights_like
from .sampling import Balanced, sampling_of
from .split import windows_of_dealt
from .transforms import Transform

if TYPE_CHECKING:
    from ..operations.rounds.rounds import AugmentedRounds


class Dataset(Parts):
    """Samples of one or several fields. Made by `mmapstore.open`; `split` gives parts, `batches` feeds training.

    Indexing reads: `ds[5]` a sample, `ds[10:20]` samples (a read-only view of the file where the bytes allow, else a
    copy), `ds["label"]` one field as a dataset of its own. With several fields samples come as a dict by name.
    `shape`, `dtype` and `layout` are those of the first field.
    """

    # --- decoding once -----------------------------------------------------------------------------------------------

    def cache(
        self,
        directory: str | os.PathLike[str],
        max_disk: int | str | None = None,
        transform: Transforms = None,
        version: str | int | None = None,
    ) -> Dataset:
        """Return the same samples, decoded once: the first epoch writes them to `directory`, later epochs map them from there.

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
        readers = cached_readers(self, directory, max_disk, transform, version)
        # A transform may make other numbers of labels; the order of samples stays.
        changed = self._readers if callable(transform) else transform or {}
        notes = {name: replace(note, classes=(), packed=()) if name in changed else note for name, note in self._notes.items()}
        return self._like(readers=readers, notes=notes)

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
        shard: tuple[int, int] | str = (0, 1),
        layout: str | None = None,
        dtype: Any = None,
        transform: Transform | None = None,
        transform_workers: int = 1,
        balance: Balanced | None = None,
        sampling_weight: str | None = None,
        max_memory: int | str | None = None,
    ) -> Batches:
        """Return batches of (x, y), of (x, y, w) with weights, or of x alone.

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
        shuffle : False is the sequential order. True mixes within windows of 32 blocks of about 2 MiB taken from all over
            the data, in a new order each epoch. A number is the samples in such a window: more mix better and, for
            compressed data, take more memory. The order depends on seed, shuffle and the bytes of a sample alone.
        seed : any whole number
        drop_last : leave out a last batch that is not full
        shard : (index, count): this worker's part of each epoch. Equal lengths; up to count - 1 samples are left out, others in
            each epoch (`left_out`). "auto" takes both from the first that knows of several workers: `keras.distribution`,
            `tf.distribute`, `torch.distributed`, `jax.distributed`, TF_CONFIG, torchrun, SLURM, MPI; `repr` says from where.
            `batch_size` is that of each worker. Another count goes on from a saved position, see `Batches.load_state_dict`
        layout : axis order of images as delivered, such as "NHWC"; costs a copy
        dtype : of the inputs, and targets taken from them, as delivered; or a dict by field. Costs a copy
        transform : function of x; of x and y; or of x, y and w, as batches have them, called on each batch as it is read. Returns
            x, or (x, y), or (x, y, w), each with one entry for each sample, in any structure. With a parameter named `rng`
            it also gets, by keyword, a `numpy.random.Generator` that follows from seed, epoch, batch and shard alone: a batch
            is the same in every run, through every adapter, however often it is asked for
        transform_workers : threads that transform batches ahead, in order: 1 makes the next batch while one is in use, n the next
            n, each of which takes the memory of two more batches. Pays where the function lets go of Python's lock, as most
            of NumPy and of image libraries do
        balance : a field of classes (integers, one-hot rows or text): each class is drawn equally often, and each sample of a
            class equally often, give or take one, in an epoch and over all epochs. {"label": {"cat": 1, "dog": 3}} draws
            dogs three times as often as cats. An epoch has as many samples as without. A sample's repeats fall into one
            shuffling window, so that it is read once; a larger `shuffle` spreads them. The class of a window is that of its
            last input frame. Costs an index in memory, 4 to 5 bytes a sample (see `.memory`), and 30 ns a sample at each
            epoch's beginning
        sampling_weight : a field of numbers that samples are drawn in proportion to, instead of `balance`. Each sample is drawn
            the expected number of times, rounded down or up
        max_memory : bytes, or text such as "256MB"; raises at once if the predicted peak (`.memory`) is over it. Of compressed
            data in sequential order less is decoded ahead before that, at some cost of speed

        >>> import mmapstore as mm
        >>> b = mm.open(np.arange(10.0).reshape(10, 1)).batches(4, target=mm.NextFrame())
        >>> [(len(x), float(y[0, 0])) for x, y in b]
        [(4, 1.0), (4, 5.0), (1, 9.0)]
        """
        specs = {name: reader.spec for name, reader in self._readers.items()}
        plan = plan_for(specs, inputs, target, dtype, layout, sample_weight)
        if transform is None:  # which may make any structure of them
            require_weights_like(target, sample_weight)
        if self.mixed and plan.reach() != (0, 0):
            raise mixed_samples(self._name)
        if self._dealt and plan.reach() != (0, 0):
            raise windows_of_dealt(self._name)
        return Batches(
            self,
            plan,
            batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
            shard=shard,
            transform=transform,
            transform_workers=transform_workers,
            sampling=partial(sampling_of, self, balance, sampling_weight, seed),
            max_memory=max_memory,
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
        max_memory: int | str | None = None,
        max_disk: int | str | None = None,
    ) -> AugmentedRounds:
        """Return rounds of augmented, balanced samples: each is written once and trained on for some epochs.

        A round is an ordinary store in `directory`, with the fields of this dataset, `original` (the sample each was made of)
        and `duplicate`. While training reads one, a process at low priority prepares the next; older ones are deleted. A round
        follows from (seed, round) alone: killed at any moment, the same call resumes. One run at a time may use a directory.
        See `AugmentedRounds` for `batches`, `preview`, `memory` and `close`.

        Parameters
        ----------
        fn : function of (x, rng): one sample as it is stored, a copy that may be changed, and a `numpy.random.Generator`. It
            returns an array of one shape and dtype for all samples, and draws from `rng` alone. It has to pickle, so it is
            defined in a module; one that is defined in the training script needs `if __name__ == "__main__":` there. It runs
            without a GPU
        directory : made if it is not there; on a disk with room for two rounds
        balance : a field of classes: integers, text or one-hot rows
        samples_per_class : in each round. A class with as many samples has each at most once in a round; of a scarcer one all are
            used equally often, give or take one, with different augmentations. None is the number of the largest class
        epochs_per_round : epoch e of the batches reads round `e // epochs_per_round`
        field : what is augmented; the first field but `balance` by default. Other fields are copied
        validation : one round for all epochs, of each sample once as it is, and scarce classes filled up by augmented ones
        max_memory : bytes, or text such as "1GB"; raises if the process would need more (see `memory`)
        max_disk : bytes, or text; raises if two rounds take more

        Raises
        ------
        InvalidValueError, InvalidTypeError (`fn` does not pickle, or returns no array), KeyNotFoundError, MemoryBudgetError,
        WriteError (the disk has too little room), LockedFileError (another run uses the directory), StateMismatchError (the
        directory has rounds of another dataset, function or seed), TransformError (`fn` raises)
        """
        from ..operations.rounds.rounds import AugmentedRounds

        counts = samples_per_class, epochs_per_round, seed
        return AugmentedRounds(self, fn, directory, balance, *counts, field, validation, max_memory, max_disk)

    def fingerprint(self) -> str:
        """Return a digest of shapes, dtypes, episodes, and the first KiB of up to 9 samples: one content has one in any format."""
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
