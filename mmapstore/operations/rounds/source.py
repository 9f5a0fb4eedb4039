"""A round as a source that `ingest` writes: drawn originals with one field augmented, the others copied."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ...batches.dataset import Dataset
from ...plain.array_spec import ArraySpec
from ...plain.round_order import RoundOrder
from ..ingest.contract import Piece, Position
from ..ingest.sources import stamp
from .augmentation import Array, Augmentation, Job, Made

ORIGINAL, DUPLICATE = "original", "duplicate"
_TASK_SAMPLES = 32  # made by a process at a time, unless one original has more repeats
_DIGEST_NBYTES = 200  # of one digest in a list of Python's

Task = tuple[int, list[Job]]


@dataclass
class RoundSource:
    """The samples of one round. Keeps the contract of ingest's sources.

    Beside the fields of the dataset a round has `original`, the number of the sample that each was made of, and `duplicate`, true
    for a sample that equals an earlier one of the same original.
    """

    dataset: Dataset
    augmented: str  # name of the field that is augmented
    augmentation: Augmentation
    order: RoundOrder
    number: int
    description: Mapping[str, Any]  # small JSON that all rounds of one directory have in common
    notes: Mapping[str, Mapping[str, Any]]
    made: Callable[[Iterable[Task]], Iterable[list[Made]]] | None = None  # computes tasks, in order; None: here, one by one
    tasks_ahead: int = 0  # that `made` has under way
    gives_from_any_sample: bool = field(default=True, init=False)

    @property
    def name(self) -> str:
        return f"round {self.number} of {self.dataset.name}"

    @property
    def specs(self) -> dict[str, ArraySpec]:
        found = {name: reader.spec for name, reader in self.dataset.readers.items()}
        found[self.augmented] = self.augmentation.spec
        found.setdefault(ORIGINAL, ArraySpec((0,), np.dtype(np.int64), "N"))
        found.setdefault(DUPLICATE, ArraySpec((0,), np.dtype(np.bool_), "N"))
        return {name: replace(spec, shape=(self.guess, *spec.sample_shape)) for name, spec in found.items()}

    @property
    def samples(self) -> int:
        return len(self.order)

    @property
    def guess(self) -> int:
        return len(self.order)

    @property
    def paths(self) -> list[str]:
        readers = list(self.dataset.readers.values())
        return [path for reader in readers for path in reader.files]

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {"kind": "round", "round": self.number, **self.description, "files": stamp(self.paths)}

    def memory(self, at_most: int) -> dict[str, int]:
        window = self.order.window
        readers = self.dataset.readers
        made = self.augmentation.spec.sample_nbytes
        read = sum(reader.spec.sample_nbytes for reader in readers.values())
        copied = read - readers[self.augmented].spec.sample_nbytes
        task = min(window, max(_TASK_SAMPLES, math.ceil(self.order.most_repeats)))
        return {
            "originals of a window": window * read,
            "augmented samples of a window": window * (made + copied),
            "samples under way": 2 * (1 + self.tasks_ahead) * task * (made + read),
            "decoder": sum(reader.scratch_nbytes for reader in self.dataset.readers.values()),
            "order of the round": self.order.nbytes + _DIGEST_NBYTES * len(self.order),
        }

    def pieces(self, after: Position, at_most: int) -> Iterator[Piece]:
        drawn = self.order.draw(self.number)
        repeated = np.bincount(drawn.samples, minlength=len(self.dataset)) > 1
        known: dict[int, list[bytes]] = {}  # digests of the repeats of originals that the round holds more than once
        at = after.samples
        for end in drawn.ends:
            if end <= at:
                continue
            samples, repeats = drawn.samples[at:end], drawn.repeats[at:end]
            originals, place = np.unique(samples, return_inverse=True)
            fields: dict[str, Array] = self.dataset[originals]
            jobs, positions = [], np.split(np.argsort(place, kind="stable"), np.cumsum(np.bincount(place))[:-1])
            for original, array, where in zip(originals.tolist(), fields[self.augmented], positions, strict=True):
                first, stop = int(repeats[where[0]]), int(repeats[where[-1]]) + 1
                jobs.append(Job(original, array, first, stop, bool(repeated[original]), known.get(original, ())))
            window = np.empty((end - at, *self.augmentation.spec.sample_shape), self.augmentation.spec.dtype)
            duplicates = np.zeros(end - at, np.bool_)
            for job, where, one in zip(jobs, positions, self._made(jobs), strict=True):
                window[where], duplicates[where] = one.samples, one.duplicates
                if job.is_repeated:
                    known[job.sample] = one.digests
            copied = {name: array[place] for name, array in fields.items() if name != self.augmented}
            made: dict[str, Array] = {ORIGINAL: samples, DUPLICATE: duplicates, **copied, self.augmented: window}
            for start in range(0, end - at, at_most):
                part = {name: made[name][start : start + at_most] for name in self.specs}
                yield Piece(part, (0,) if at + start == 0 else ())
            at = end

    def _made(self, jobs: list[Job]) -> Iterator[Made]:
        """Yield the results of jobs, which are done in tasks of about `_TASK_SAMPLES` samples."""
        tasks: list[Task] = []
        held = _TASK_SAMPLES
        for job in jobs:
            if held + job.stop - job.first > _TASK_SAMPLES:
                tasks.append((self.number, []))
                held = 0
            tasks[-1][1].append(job)
            held += job.stop - job.first
        for found in map(partial(make_task, self.augmentation), tasks) if self.made is None else self.made(tasks):
            yield from found


def make_task(augmentation: Augmentation, task: Task) -> list[Made]:
    number, jobs = task
    return [augmentation.make(number, job) for job in jobs]
