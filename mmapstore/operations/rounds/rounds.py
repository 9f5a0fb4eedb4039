"""Augmented rounds: a balanced set of augmented samples that some epochs train on, while the next one is prepared."""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
import shutil
import sys
import threading
import time
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...batches.dataset import Dataset
from ...batches.labels import Labels, counts_of, listed
from ...batches.opening import open_dataset
from ...files.system_errors import explaining_write_errors
from ...plain.errors import (
    AugmentationWarning,
    InvalidTypeError,
    InvalidValueError,
    KeyNotFoundError,
    LabelWarning,
    WriteError,
    warn_user,
)
from ...plain.memory_budget import MemoryPlan, format_bytes, parse_bytes
from ...plain.windows import whole_number
from ..flow.target import Target
from ..ingest.plan import Options, write_plan
from ..preview import Preview, preview
from . import processes
from .batches import RoundBatches
from .preparation import Preparation, RoundWork, is_ready
from .source import DUPLICATE, ORIGINAL, Augmentation, Function, RoundOrder, RoundSource

_FORMAT = 1  # of rounds: another number, other bytes
_INGEST_MEMORY = 256_000_000  # the most that writing a round takes, where samples are small enough
_BESIDE = 1 << 16  # bytes on disk of a round beside its samples: headers, manifest, journal


class AugmentedRounds:
    """Augmented rounds of a dataset. Made by `Dataset.augmented`; see there for the arguments.

    Attributes
    ----------
    counts : samples of each class in a round, by class name
    memory : predicted peak of private memory of the process that prepares a round; that of `fn` itself is not in it
    disk_nbytes : bytes on disk at most: the round that is trained on and the next
    waits : seconds that training waited for a round, by round
    """

    def __init__(
        self,
        dataset: Dataset,
        fn: Function,
        directory: str | os.PathLike[str],
        balance: str,
        samples_per_class: int | None,
        epochs_per_round: int,
        seed: int,
        field: str | None,
        validation: bool,
        max_memory: int | str | None,
        max_disk: int | str | None,
    ) -> None:
        if processes.is_child:
            raise InvalidValueError(
                "The process that prepares rounds imported the training script, because fn is defined in it. Put what the script "
                "does below `if __name__ == '__main__':`, or define fn in a module of its own."
            )
        self.epochs_per_round = whole_number("epochs_per_round", epochs_per_round, least=1)
        self.seed = whole_number("seed", seed)
        self.validation = bool(validation)
        script = processes.script_of(fn)
        self._dataset = dataset
        self._field = _augmented_field(dataset, field, balance)
        labels = dataset._labels(balance, "balance")
        _warn_of_missing(dataset, balance, labels)
        most = int(labels.counts.max())
        per_class = most if samples_per_class is None else whole_number("samples_per_class", samples_per_class, least=1)
        first, spec = np.asarray(dataset[self._field][0]), dataset.readers[self._field].spec
        augmentation = Augmentation.of(fn, self.seed, first, spec, self.validation)
        read = sum(reader.spec.sample_nbytes for reader in dataset.readers.values())
        order = RoundOrder(labels.codes, per_class, self.seed, max(read, augmentation.spec.sample_nbytes), self.validation)
        self.counts = dict(zip(labels.names, order.counts, strict=True))
        self._labels, self._order = labels, order
        described = {
            "mmapstore rounds": _FORMAT,
            "dataset": dataset.fingerprint(),
            "fn": _name_of(fn),
            "field": self._field,
            "balance": balance,
            "samples_per_class": per_class,
            "seed": self.seed,
            "validation": self.validation,
            "sample": [list(augmentation.spec.sample_shape), augmentation.spec.dtype.str],
        }
        mixed = {"order": {"order": "mixed", "seed": self.seed}}
        named = {name: {"classes": [*note.classes]} for name, note in dataset.notes.items() if note.classes}
        notes: dict[str, Any] = {self._field: mixed, **{name: {**mixed, **classes} for name, classes in named.items()}}
        source = RoundSource(dataset, self._field, augmentation, order, 0, described, notes)
        _require_pickles(source, dataset.name)
        self.sample_specs = source.specs
        self.directory = os.path.abspath(os.fspath(directory))
        with explaining_write_errors(self.directory):
            Path(self.directory).mkdir(parents=True, exist_ok=True)
        writing = write_plan(source, Target.of(os.path.join(self.directory, "round"), True), Options(layout=None), _INGEST_MEMORY)
        in_ram = sum(reader.spec.nbytes for reader in dataset.readers.values() if reader.place == "in RAM")
        self.memory = MemoryPlan({"Python": processes.HELD_NBYTES, "dataset in RAM": in_ram, **writing.memory().parts})
        if max_memory is not None:
            remedy = "Take smaller samples, or a larger max_memory=."
            self.memory.require(parse_bytes(max_memory), f"Preparing rounds of {dataset.name}", remedy)
        self.fingerprint = hashlib.blake2b(repr(sorted(described.items())).encode(), digest_size=16).hexdigest()
        work = RoundWork(source, max(_INGEST_MEMORY, writing.memory().total), script)
        self._preparation = Preparation(self.directory, work)
        self._preparation.hold()
        self._end = weakref.finalize(self, self._preparation.end)
        self._preparation.describe(described)
        self._require_disk(None if max_disk is None else parse_bytes(max_disk, "max_disk"))
        self._guard = threading.RLock()
        self._current: tuple[int, Dataset] | None = None
        self._warned_of_wait = self._warned_of_duplicates = False
        self.waits: dict[int, float] = {}

    # --- what it is --------------------------------------------------------------------------------------------------

    @property
    def source_name(self) -> str:
        """The dataset that is augmented, as messages call it."""
        return self._dataset.name

    @property
    def samples(self) -> int:
        """Samples in a round."""
        return len(self._order)

    @property
    def round_nbytes(self) -> int:
        """Bytes of one round on disk."""
        return self.samples * sum(spec.sample_nbytes for spec in self.sample_specs.values()) + _BESIDE

    @property
    def disk_nbytes(self) -> int:
        return self.round_nbytes * (1 if self.validation else 2)

    def round_of(self, epoch: int) -> int:
        """Return the round that an epoch reads; with `validation` there is one."""
        return 0 if self.validation else epoch // self.epochs_per_round

    def path(self, number: int = 0) -> str:
        """Return the directory of a round, there or not yet: `mmapstore.open` and `mmapstore preview` take it."""
        return self._preparation.path(whole_number("number", number))

    def __repr__(self) -> str:
        classes = f"{len(self.counts)} classes, {self.samples} samples a round"
        repeats = f"an original of the rarest class {self._order.most_repeats:.3g} times"
        epochs = "for validation" if self.validation else f"{self.epochs_per_round} epochs each"
        disk = f"{format_bytes(self.disk_nbytes)} on disk, {format_bytes(self.memory.total)} of memory to prepare"
        return f"<AugmentedRounds of {self._dataset.name} in {self.directory}: {classes} ({repeats}), {epochs}; {disk}>"

    def __reduce__(self) -> Any:
        raise InvalidTypeError(
            "augmented rounds belong to one process, and do not pickle; make them in each process, with a directory of its own."
        )

    # --- a round -----------------------------------------------------------------------------------------------------

    def dataset(self, number: int = 0) -> Dataset:
        """Return a round as a dataset: the fields of the source, `original` (the sample each was made of) and `duplicate`.

        Waits until the round is ready. Then the next one is prepared in the background, and others are deleted.
        Raises what `fn` raised, with the sample; WriteError for a full disk.
        """
        current = self._current  # read once: another thread may replace it
        if current is not None and current[0] == number:
            return current[1]
        with self._guard:
            if self._current is None or self._current[0] != number:
                self._current = number, self._opened(number)
            return self._current[1]

    def _opened(self, number: int) -> Dataset:
        preparation = self._preparation
        preparation.hold()
        following = {number} if self.validation else {number, number + 1}
        preparation.keep(following)
        if not is_ready(preparation.path(number)):
            self._say_waiting(number)
            began = time.monotonic()
            preparation.wait(number)
            self.waits[number] = time.monotonic() - began
        found = open_dataset(preparation.path(number))
        self._report_duplicates(number, found)
        if not self.validation:
            preparation.begin(number + 1)
        return found

    def _say_waiting(self, number: int) -> None:
        if self._current is None or self._current[0] + 1 != number:
            later = "" if self.validation else "; later ones are prepared meanwhile"
            print(
                f"mmapstore: preparing round {number} of {self.source_name}, {self.samples} samples. Training waits for it{later}.",
                file=sys.stderr,
            )
        elif self._preparation.is_preparing(number) and not self._warned_of_wait:
            self._warned_of_wait = True
            warn_user(
                f"round {number} is not ready, and training waits for it: preparing a round takes longer than "
                f"epochs_per_round={self.epochs_per_round} epochs. Give more epochs_per_round=, or fewer samples_per_class=. "
                "Rounds that are waited for later are in `rounds.waits` alone.",
                AugmentationWarning,
            )

    def _report_duplicates(self, number: int, found: Dataset) -> None:
        if self._warned_of_duplicates or {ORIGINAL, DUPLICATE} & set(self._dataset.readers):
            return
        originals = found[ORIGINAL][:][found[DUPLICATE][:]]
        if len(originals):
            self._warned_of_duplicates = True
            counts = counts_of(self._labels.codes[originals], len(self.counts))
            of = ", ".join(f"{name}: {count}" for name, count in zip(self.counts, counts.tolist(), strict=True) if count)
            warn_user(
                f"round {number} holds samples that equal another of the same original ({of}): fn has too few outcomes. Let it "
                f"vary more, or give fewer samples_per_class=. The field {DUPLICATE!r} marks them.",
                AugmentationWarning,
            )

    def batches(self, batch_size: int, **options: Any) -> RoundBatches:
        """Return batches for `fit` and loops: epoch e reads round `e // epochs_per_round`, or the one for validation.

        Takes what `Dataset.batches` takes, but for `balance` and `sampling_weight`. A saved position belongs to the dataset, `fn`
        and the arguments of these rounds, and is gone on with in a later run, in the same round.
        """
        return RoundBatches(self, batch_size, options)

    def preview(self, out: str | os.PathLike[str], number: int = 0, **options: Any) -> Preview:
        """Draw samples of a round as a contact sheet, with the options of `mmapstore preview`: `random=16`, `columns=4` ..."""
        with self._guard:
            if not is_ready(self.path(number)):
                self.dataset(number)
            return preview(self.path(number), out, **{"field": self._field, **options})

    # --- ends --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the process that prepares the next round, and let others use the directory. Reading a batch begins both again.

        The same happens when the object is dropped, at the end of the program, and on Ctrl-C.
        """
        with self._guard:
            self._current = None
            self._preparation.end()

    def __enter__(self) -> AugmentedRounds:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _require_disk(self, limit: int | None) -> None:
        least = self.disk_nbytes
        if limit is not None and least > limit:
            fits = int(limit / least * self.samples)
            raise InvalidValueError(
                f"{'a round takes' if self.validation else 'two rounds take'} {format_bytes(least)} on disk, over "
                f"max_disk={format_bytes(limit)}. Give a larger max_disk=, or fewer samples: about {fits} a round fit."
            )
        there, free = self._preparation.on_disk(), shutil.disk_usage(self.directory).free
        if least - there > free:
            raise WriteError(
                f"rounds in {self.directory} take {format_bytes(least - min(there, least))} more, and its disk has "
                f"{format_bytes(free)} free. Free space, give fewer samples_per_class=, or choose a directory on another disk."
            )


# --- the arguments -------------------------------------------------------------------------------------------------------


def _require_pickles(source: RoundSource, name: str) -> None:
    try:
        with Path(os.devnull).open("wb") as nowhere:
            pickle.dump(source, nowhere, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise InvalidTypeError(
            f"{name} cannot be opened in other processes ({type(error).__name__}: {error}). Functions that its samples pass "
            "through, as in cache(transform=...), have to be defined in a module."
        ) from error


def _augmented_field(dataset: Dataset, field: Any, balance: Any) -> str:
    others = [name for name in dataset.readers if name != balance]
    if field is None:
        if not others:
            raise InvalidValueError(
                f"{dataset.name} has the field {balance!r} alone; expected another one to augment, such as mmapstore.open("
                "{'image': ..., 'label': ...})."
            )
        return others[0]
    if not isinstance(field, str) or field not in dataset.readers:
        raise KeyNotFoundError(f"field={field!r} is not there; the fields are {', '.join(map(repr, dataset.readers))}.")
    if field == balance:
        raise InvalidValueError(f"field={field!r} is augmented and balance={balance!r} holds the classes; expected two fields.")
    return field


def _warn_of_missing(dataset: Dataset, balance: str, labels: Labels) -> None:
    named = dataset.notes[balance].classes if balance in dataset.notes else ()
    missing = [name for number, name in enumerate(named) if number not in set(labels.values.tolist())]
    if missing:
        warn_user(
            f"{dataset.name} has no sample of {listed(missing)}: augmented rounds "
            f"will not have any either. Split with stratify={balance!r}, so that each part has all classes.",
            LabelWarning,
        )


def _name_of(fn: Any) -> list[Any]:
    """Return the name of a function, a digest of its source text (of objects, of their bytes, too), and its fixed arguments."""
    if isinstance(fn, partial):
        return [*_name_of(fn.func), repr(fn.args), repr(sorted(fn.keywords.items()))]
    kind = fn if inspect.isroutine(fn) or inspect.isclass(fn) else type(fn)
    try:
        text = inspect.getsource(kind)
    except (OSError, TypeError):
        text = ""
    state = b"" if kind is fn else pickle.dumps(fn)
    name = f"{kind.__module__}.{kind.__qualname__}"
    return [name, hashlib.blake2b(text.encode() + state, digest_size=8).hexdigest()]
