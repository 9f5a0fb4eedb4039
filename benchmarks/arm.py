"""One way of reading, measured in a process of its own: `python -m benchmarks.arm` with a job as JSON, for `run_arm`.

The framework is imported first, as it is in training, and the baseline of memory is taken after that. Every 64-bit word
of x and y is added up; the sums of samples, weighted, are the checksum: of order in stored order, of pairing when shuffled.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmapstore.bench.child import Say, baseline, reporting, start_libraries, started_model
from mmapstore.bench.contract import Task
from mmapstore.files import page_cache
from mmapstore.files.stored_files import files_of

from .measure import report_arm
from .peers import PEERS, Job, Opened
from .stored_data import FORMS, KINDS, row_sums

_MASK = 2**64 - 1
_ENOUGH = 30.0  # seconds after which an arm begins no further epoch
_TWO, _ONE, _THREE = np.uint64(2), np.uint64(1), np.uint64(3)


@dataclass
class Epoch:
    """The figures of one epoch. `neighbours`: share of samples followed by the one stored after them."""

    seconds: float = 0.0
    samples: int = 0
    nbytes: int = 0
    checksum: int = 0
    neighbours: float = 0.0


class Consumer:
    """Reads every byte of the batches of an epoch."""

    def __init__(self, ordered: bool) -> None:
        self._ordered = ordered
        self.result = Epoch()
        self._adjacent = 0
        self._last: Any = None

    def take(self, batch: tuple[Any, ...]) -> None:
        result = self.result
        sums = [row_sums(array) for array in batch]
        result.checksum = (result.checksum + weighed(sums, result.samples if self._ordered else None)) & _MASK
        if len(sums) == 2:
            if self._last is not None:
                self._adjacent += int(self._last == sums[0][0])
            self._adjacent += int((sums[0][1:] == sums[1][:-1]).sum())
            self._last = sums[1][-1]
        result.samples += len(sums[0])
        result.nbytes += sum(array.nbytes for array in batch)
        result.neighbours = self._adjacent / max(1, result.samples - 1)


def weighed(sums: list[Any], start: int | None) -> int:
    """The checksum of samples with these sums: by their places in the epoch, from `start` on, or each x by its y."""
    if start is not None:
        weights = np.arange(start, start + len(sums[0]), dtype=np.uint64) * _TWO + _ONE
        total = (sums[0] * weights).sum(dtype=np.uint64)
        if len(sums) == 2:
            total = np.add(total, (sums[1] * (weights * _THREE)).sum(dtype=np.uint64), dtype=np.uint64)
    else:
        total = (sums[0] * (sums[1] * _TWO + _ONE)).sum(dtype=np.uint64)
    return int(total)


def expected_checksum(sums: Any, access: str) -> int:
    """Return the checksum of an epoch over samples with these sums."""
    if access == "sequential":
        return weighed([sums], 0)
    with np.errstate(over="ignore"):
        return weighed([sums[:-1], sums[1:]], 0 if access == "next" else None)


def run(job: Job, opened_by: Any, epochs: int, cold: bool, say: Say) -> dict[str, Any]:
    """Open, and read that many epochs. The first one counts from before the opening."""
    stored = [each for path in (job.path, job.path.with_suffix(".ninja")) if path.exists() for each in files_of(path)]
    still_cached = 1.0
    if cold:
        still_cached = page_cache.drop(stored)
    else:
        page_cache.warm(stored)
    first_batch = 0.0
    done: list[Epoch] = []
    model = started_model(_task(job)) if job.access == "fit" else None
    baseline(say)
    begin = time.perf_counter()
    opened: Opened = opened_by(job)
    if model is not None:
        done = _fit(model, opened, epochs, begin)
    else:
        assert opened.epoch is not None
        for number in range(epochs):
            start = begin if number == 0 else time.perf_counter()
            if start - begin > _ENOUGH:
                break
            consumer = Consumer(ordered=not job.shuffled)
            for batch in opened.epoch(number):
                if not consumer.result.samples and number == 0:
                    first_batch = time.perf_counter() - begin
                consumer.take(batch)
                del batch  # lent buffers: held here, it would be one more alive while the next is read
            consumer.result.seconds = time.perf_counter() - start
            done.append(consumer.result)
    opened.close()
    return {
        "epochs": [vars(epoch) for epoch in done],
        "first_batch": first_batch,
        "predicted": opened.predicted,
        "words": opened.words,
        "still_cached": still_cached,
    }


def _task(job: Job) -> Task:
    return Task("next", job.form, str(job.path), job.kind.samples, job.kind.shape, "float32", batch=job.kind.batch)


def _fit(model: Any, opened: Opened, epochs: int, begin: float) -> list[Epoch]:
    """Run epochs of `fit`; the first one counts from `begin`."""
    assert opened.keras is not None
    done: list[Epoch] = []

    def take(event: str, **found: Any) -> None:
        if event == "epoch":
            done.append(Epoch(found["seconds"], found["samples"], found["nbytes"], found["checksum"] & _MASK))

    callbacks = [reporting(model, begin, time.time(), take)]
    model.fit(opened.keras(), epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return done


def main() -> None:
    spec = json.loads(sys.argv[1])
    kind = KINDS[spec["kind"]].of(spec["samples"])
    job = Job(kind, spec["form"], Path(spec["path"]), spec["access"], spec["seed"], spec["max_memory"])
    start_libraries((*FORMS[job.form].requires, *PEERS[spec["peer"]].requires))
    report_arm(lambda say: run(job, PEERS[spec["peer"]].open, spec["epochs"], spec["cold"], say))


if __name__ == "__main__":
    main()
