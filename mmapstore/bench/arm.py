"""One strategy in a process of its own: `python -m mmapstore.bench.arm JSON` runs epochs of `fit` and prints what each one was.

The JSON has `strategy` (a name, or the path of a .py file), `task`, and may have `epochs`, `knobs`, `wait` and `prepare`.
TensorFlow is started, the packages that the strategy or the stored form needs are imported, and one step is trained on a batch in
RAM; then comes the event "baseline". What follows is what the data costs. Each line on standard output is one JSON object with an
`event`.

With `wait` true a line is awaited on standard input after "baseline": whoever watches the memory needs the process at rest. With
`prepare` true nothing is trained: the strategy makes what it makes beforehand.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..files.process_memory import give_back_free_memory
from . import strategies
from .contract import Task

Say = Callable[..., None]
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl


def strategy_module(name: str) -> ModuleType:
    """A strategy by its name, or of the reader's own by the path of its file. Imports no framework."""
    if not name.endswith(".py"):
        return strategies.load(name)  # type: ignore[no-any-return]
    path = Path(name).resolve()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def task_of(found: dict[str, Any]) -> Task:
    """From what JSON makes of a task."""
    return Task(**{**found, "shape": tuple(found["shape"])})


def train(module: ModuleType, task: Task, epochs: int, knobs: dict[str, int], say: Say, baseline: Callable[[], None]) -> None:
    """Start the framework, call `baseline`, and run the epochs. The first epoch counts from the call of `fit_arguments`."""
    model = _started(module, task)
    from .instruments import gpu_memory

    give_back_free_memory()
    gpu_memory.reset_peak()
    baseline()
    begun, by_clock = time.perf_counter(), time.time()
    arguments = {"shuffle": False, **module.fit_arguments(task, **knobs)}
    model.fit(**arguments, epochs=epochs, verbose=0, callbacks=[_reporting(model, begun, by_clock, say)])
    say("end", gpu=gpu_memory.peak())


def _started(module: ModuleType, task: Task) -> Any:
    """A model that has been trained for one step, TensorFlow's input pipeline and the libraries of the strategy started too."""
    import tensorflow as tf

    import mmapstore

    _ = mmapstore.open  # its names are lazy: this imports what is behind them
    # Also what a way imports only when it opens the data: zarr-python takes 11 MB, and not the data.
    for name in (*module.REQUIRES, *strategies.libraries(task)):
        importlib.import_module(name)
    data = tf.data.Dataset.range(4).map(lambda i: tf.numpy_function(np.float32, (i,), tf.float32), num_parallel_calls=2)
    list(data.batch(2).prefetch(2).as_numpy_iterator())
    model = _summing_model(task)
    x = np.random.default_rng(0).random((task.batch, *task.shape), np.float32)
    if np.dtype(task.dtype).kind != "f":
        x = (x * 100).astype(task.dtype)
    model.fit(
        x, x.copy() if task.kind == "next" else np.zeros(task.batch, np.int64), batch_size=task.batch, shuffle=False, verbose=0
    )
    return model


def _summing_model(task: Task) -> Any:
    """A model whose step reads every bit of x and y, and learns nothing."""
    import keras
    import tensorflow as tf

    from .checksum import in_training_step

    class Summing(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.sum, self.samples, self.bytes = (self._number(name) for name in ("sum", "samples", "bytes"))
            self.began = self._number("began", "float64")  # seconds since 1970, of the first step

        def _number(self, name: str, dtype: str = "int64") -> Any:
            return self.add_weight(shape=(), dtype=dtype, initializer="zeros", trainable=False, name=name)

        def train_step(self, data: Any) -> Any:
            x, y, *_ = data
            with tf.control_dependencies([x, y]):  # the data are there when the step begins
                now = tf.timestamp()
            self.began.assign(tf.where(tf.equal(self.began, 0), now, self.began))
            self.sum.assign_add(in_training_step(task, x, y))
            self.samples.assign_add(tf.shape(x, tf.int64)[0])
            self.bytes.assign_add(sum(tf.size(each, tf.int64) * each.dtype.size for each in (x, y)))
            return {"samples": tf.identity(self.samples)}

    model = Summing()
    # Not compiled by XLA: it would compile once more for the last batch, and that would be counted as memory of the data.
    model.compile(loss=None, jit_compile=False)
    model.built = True
    return model


def _reporting(model: Any, begun: float, by_clock: float, say: Say) -> Any:
    import keras

    class Reporting(keras.callbacks.Callback):  # type: ignore[misc]
        start = begun

        def on_train_begin(self, logs: Any = None) -> None:
            model.began.assign(0.0)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch:
                self.start = time.perf_counter()
            for each in (model.sum, model.samples, model.bytes):
                each.assign(0)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seconds = time.perf_counter() - self.start
            total, samples, nbytes = (int(each.numpy()) for each in (model.sum, model.samples, model.bytes))
            if epoch == 0 and samples:
                say("first batch", seconds=float(model.began.numpy()) - by_clock)
            say("epoch", seconds=seconds, samples=samples, nbytes=nbytes, checksum=total)

    return Reporting()


# --- the process --------------------------------------------------------------------------------------------------------


def main() -> None:
    asked = json.loads(sys.argv[1])
    say = _channel()
    if asked.get("wait"):
        _end_with_parent()

    def baseline() -> None:
        say("baseline")
        if asked.get("wait") and not sys.stdin.readline():
            raise SystemExit("whoever started this process has gone")

    try:
        module, task = strategy_module(asked["strategy"]), task_of(asked["task"])
        if asked.get("prepare"):
            module.prepare(task)
        else:
            train(module, task, asked.get("epochs", 1), asked.get("knobs") or {}, say, baseline)
    except Exception as error:
        say("failed", why=_in_a_line(error))
        raise SystemExit(1) from error


def _channel() -> Say:
    """What prints events to standard output as it is now; all else that prints there goes to standard error from here on."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout.flush()
    os.dup2(2, 1)

    def say(event: str, **fields: Any) -> None:
        channel.write(json.dumps({"event": event, **fields}) + "\n")
        channel.flush()

    return say


def _end_with_parent() -> None:
    """A parent that is killed cannot end its children; the kernel of Linux can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def _in_a_line(error: BaseException) -> str:
    """The kind of error and its first line; of the whole chain of causes, where memory was refused at the bottom of it."""
    words: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(words) < 4:
        text = next(iter(str(seen).strip().splitlines()), "")
        words.append(f"{type(seen).__name__}: {text}" if text else type(seen).__name__)
        seen = seen.__cause__ or seen.__context__
    return "; because of ".join(words)[:600]


if __name__ == "__main__":
    main()
