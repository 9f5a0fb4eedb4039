"""One way of reading, measured in a process of its own: `python -m benchmarks.arm` with a job as JSON. Prints JSON.

The framework is imported first, as it is in training, and the baseline of memory is taken after that. Every 64-bit word
of x and y is added up; the sums of samples, weighted, are the checksum: of order in stored order, of pairing when shuffled.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmapstore.demo.footprint import PrivatePeak
from mmapstore.files.page_cache import drop
from mmapstore.files.stored_files import files_of

from .measure import warm
from .peers import PEERS, Job, Opened
from .stored_data import FORMS, KINDS, row_sums

_MASK = 2**64 - 1
_ENOUGH = 30.0  # seconds after which an arm begins no further epoch
_TWO, _ONE, _THREE = np.uint64(2), np.uint64(1), np.uint64(3)


@dataclass
class Epoch:
    """What came out of one epoch. `neighbours`: share of samples followed by the one stored after them."""

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
    """What an epoch over samples with these sums must come to."""
    if access == "sequential":
        return weighed([sums], 0)
    with np.errstate(over="ignore"):
        return weighed([sums[:-1], sums[1:]], 0 if access == "next" else None)


def run(job: Job, opened_by: Any, epochs: int, cold: bool) -> dict[str, Any]:
    """Open, and read that many epochs. The first one counts from before the opening."""
    stored = [each for path in (job.path, job.path.with_suffix(".ninja")) if path.exists() for each in files_of(path)]
    if cold:
        still_cached = drop(stored)
    else:
        still_cached = 1.0
        for each in stored:
            warm(each)
    first_batch = 0.0
    done: list[Epoch] = []
    model = _summing_model(job) if job.access == "fit" else None
    with PrivatePeak(interval=0.005) as memory:
        begin = time.perf_counter()
        opened: Opened = opened_by(job)
        if job.access == "fit":
            done = _fit(model, opened, job, epochs, begin)
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
        "growth": memory.growth,
        "predicted": opened.predicted,
        "words": opened.words,
        "still_cached": still_cached,
    }


def _summing_model(job: Job) -> Any:
    """A model whose step adds up the words and learns nothing; it has run once."""
    import keras
    import tensorflow as tf

    def sums(array: Any) -> Any:
        words = tf.bitcast(tf.reshape(array, (tf.shape(array)[0], -1, 2)), tf.int64)
        return tf.reduce_sum(words, axis=1)

    class Summing(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.sum = self.add_weight(shape=(), dtype="int64", initializer="zeros", trainable=False, name="sum")

        def train_step(self, data: Any) -> Any:
            x, y = (sums(one) for one in data)
            self.sum.assign_add(tf.reduce_sum(x * (y * 2 + 1)))
            return {"sum": tf.identity(self.sum)}

    model = Summing()
    model.compile(loss=None)
    model.built = True
    zeros = np.zeros((job.kind.batch, *job.kind.shape), np.float32)
    model.fit(zeros, zeros, batch_size=job.kind.batch, verbose=0)
    return model


def _fit(model: Any, opened: Opened, job: Job, epochs: int, begin: float) -> list[Epoch]:
    """Epochs of `fit`; the first one counts from `begin`."""
    import keras

    assert opened.keras is not None
    done: list[Epoch] = []
    nbytes = 2 * job.anchors * job.kind.sample_nbytes

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        start = begin

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch:
                self.start = time.perf_counter()
            model.sum.assign(0)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            total = int(model.sum.numpy()) & _MASK
            done.append(Epoch(time.perf_counter() - self.start, job.anchors, nbytes, total))

    model.fit(opened.keras(), epochs=epochs, shuffle=False, verbose=0, callbacks=[Clock()])
    return done


def main() -> None:
    spec = json.loads(sys.argv[1])
    kind = KINDS[spec["kind"]].of(spec["samples"])
    job = Job(kind, spec["form"], Path(spec["path"]), spec["access"], spec["seed"], spec["max_memory"])
    start_libraries((*FORMS[job.form].requires, *PEERS[spec["peer"]].requires))
    print(json.dumps(run(job, PEERS[spec["peer"]].open, spec["epochs"], spec["cold"])))


def start_libraries(names: tuple[str, ...]) -> None:
    """Import TensorFlow, run it once, and import what the way needs: a training script has done so before its first epoch."""
    if importlib.util.find_spec("tensorflow"):
        import tensorflow as tf

        data = tf.data.Dataset.range(4).map(lambda i: tf.numpy_function(np.float32, (i,), tf.float32), num_parallel_calls=2)
        list(data.batch(2).prefetch(2).as_numpy_iterator())
    for name in names:
        importlib.import_module(name)
    import mmapstore

    assert mmapstore.open  # its names are lazy: this imports what is behind them


if __name__ == "__main__":
    main()
