"""One strategy in a process of its own: `python -m mmapstore.bench.child JSON` runs epochs of `fit` and prints their figures.

The JSON has `strategy` (a name, or the path of a .py file), `task` and `epochs`.
TensorFlow is started, the packages that the strategy or the stored form needs are imported, and one step is trained on a batch in
RAM; then comes the event "baseline": memory taken after it is the cost of the data. Each line on standard output is one JSON
object with an `event`.

After "baseline" a line is awaited on standard input, so that the process is at rest while its memory is read.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..files.process_memory import give_back_free_memory, private_bytes
from . import strategies
from .checksum import in_training_step
from .contract import Task

Say = Callable[..., None]
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl


def train(strategy: strategies.Strategy, task: Task, epochs: int, say: Say) -> None:
    """Start the framework, take the baseline, and run the epochs. The first epoch counts from the call of `fit_arguments`."""
    # Also the packages that are imported only when the data is opened: zarr-python takes 11 MB, which is not the data.
    start_libraries((*strategy.requires, *strategies.libraries(task)))
    model = started_model(task)
    baseline(say)
    begun, by_clock = time.perf_counter(), time.time()
    arguments = {"shuffle": False, **strategy.fit_arguments(task)}
    model.fit(**arguments, epochs=epochs, verbose=0, callbacks=[reporting(model, begun, by_clock, say)])
    say("end")


def start_libraries(names: Iterable[str]) -> None:
    """Import TensorFlow, run its input pipeline once, and import these packages, as a training script does before it trains."""
    import tensorflow as tf

    import mmapstore

    _ = mmapstore.open  # its names are lazy: this imports the modules behind them
    for name in names:
        importlib.import_module(name)
    data = tf.data.Dataset.range(4).map(lambda i: tf.numpy_function(np.float32, (i,), tf.float32), num_parallel_calls=2)
    list(data.batch(2).prefetch(2).as_numpy_iterator())


def started_model(task: Task) -> Any:
    """Return a model that has been trained for one step on a batch in RAM; its step reads every bit, and learns nothing."""
    model = _summing_model(task)
    x = np.random.default_rng(0).random((task.batch, *task.shape), np.float32)
    if np.dtype(task.dtype).kind != "f":
        x = (x * 100).astype(task.dtype)
    y = {"next": x.copy(), "input": None}.get(task.kind, np.zeros(task.batch, np.int64))
    model.fit(x, y, batch_size=task.batch, shuffle=False, verbose=0)
    return model


def _summing_model(task: Task) -> Any:
    import keras
    import tensorflow as tf

    class Summing(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.sum, self.samples, self.bytes = (self._number(name) for name in ("sum", "samples", "bytes"))
            self.began = self._number("began", "float64")  # seconds since 1970, of the first step

        def _number(self, name: str, dtype: str = "int64") -> Any:
            return self.add_weight(shape=(), dtype=dtype, initializer="zeros", trainable=False, name=name)

        def train_step(self, data: Any) -> Any:
            given = [one for one in keras.utils.unpack_x_y_sample_weight(data)[:2] if one is not None]
            with tf.control_dependencies(given):  # the data are there when the step begins
                now = tf.timestamp()
            self.began.assign(tf.where(tf.equal(self.began, 0), now, self.began))
            self.sum.assign_add(in_training_step(task, *given))
            self.samples.assign_add(tf.shape(given[0], tf.int64)[0])
            self.bytes.assign_add(sum(tf.size(each, tf.int64) * each.dtype.size for each in given))
            return {"samples": tf.identity(self.samples)}

    model = Summing()
    # Not compiled by XLA: it would compile once more for the last batch, and that would be counted as memory of the data.
    model.compile(loss=None, jit_compile=False)
    model.built = True
    return model


def reporting(model: Any, begun: float, by_clock: float, say: Say) -> Any:
    import keras

    class Reporting(keras.callbacks.Callback):  # type: ignore[misc]
        start = begun
        disk = disk_counters()

        def on_train_begin(self, logs: Any = None) -> None:
            model.began.assign(0.0)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch:
                self.start, self.disk = time.perf_counter(), disk_counters()
            for each in (model.sum, model.samples, model.bytes):
                each.assign(0)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seconds = time.perf_counter() - self.start
            total, samples, nbytes = (int(each.numpy()) for each in (model.sum, model.samples, model.bytes))
            if epoch == 0 and samples:
                say("first batch", seconds=float(model.began.numpy()) - by_clock)
            disk = {name: value - self.disk[name] for name, value in disk_counters().items()}
            say("epoch", seconds=seconds, samples=samples, nbytes=nbytes, checksum=total, private=private_bytes(), **disk)

    return Reporting()


def disk_counters() -> dict[str, int]:
    """Return the bytes that this process has had read from the disk, and its major page faults, until now, where they are told."""
    found = {}
    with contextlib.suppress(OSError, StopIteration):  # the kernel may be built without the first
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
        found["from_disk"] = next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))
    with contextlib.suppress(ImportError):  # Windows
        import resource

        found["major_faults"] = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    return found


def main() -> None:
    asked = json.loads(sys.argv[1])
    say = channel()
    _end_with_parent()
    try:
        strategy, task = strategies.load(asked["strategy"]), Task(**{**asked["task"], "shape": tuple(asked["task"]["shape"])})
        train(strategy, task, asked["epochs"], say)
    except Exception as error:
        say("failed", why=in_a_line(error))
        raise SystemExit(1) from error


def channel() -> Say:
    """Return a printer of events to standard output; everything else that prints there goes to standard error from here on."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout.flush()
    os.dup2(2, 1)

    def say(event: str, **fields: Any) -> None:
        channel.write(json.dumps({"event": event, **fields}) + "\n")
        channel.flush()

    return say


def baseline(say: Say) -> None:
    """Stay at rest while the memory of this process is read from outside."""
    give_back_free_memory()
    say("baseline")
    if not sys.stdin.readline():
        raise SystemExit("the process that started this one has ended")


def _end_with_parent() -> None:
    """Have the kernel of Linux end this process with its parent, which cannot do so itself when it is killed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def in_a_line(error: BaseException) -> str:
    """Return the kind and first line of an error and its causes: a refusal of memory stands at the bottom of the chain."""
    words: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(words) < 4:
        text = next(iter(str(seen).strip().splitlines()), "")
        words.append(f"{type(seen).__name__}: {text}" if text else type(seen).__name__)
        seen = seen.__cause__ or seen.__context__
    return "; because of ".join(words)[:600]


if __name__ == "__main__":
    main()
