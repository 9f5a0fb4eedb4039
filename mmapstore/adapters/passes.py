"""Iterators that frameworks walk over batches, the batches that they hold, and epochs that are shorter than announced."""

from __future__ import annotations

import atexit
import gc
import queue
import sys
import warnings
import weakref
from collections.abc import Callable, MutableSequence
from typing import Any, cast

from ..batches.batch_reader import ALIVE
from ..batches.batch_source import BatchSource
from ..batches.cursor import Pass
from ..batches.look_ahead import LookAhead
from ..batches.worker_rank import rank_in
from ..plain.errors import InvalidValueError

PATIENCE = 0.1  # seconds to wait for a batch to come back


@atexit.register
def _end_iterators() -> None:
    """Free the iterators that an error kept alive, while Python still runs.

    The end of a TensorFlow iterator waits for its thread, which may be fetching a batch. The traceback of an error that left `fit`,
    Ctrl-C too, keeps the iterator until Python is gone; the thread then never gets on, and the process hangs (TensorFlow 2.21).
    """
    if getattr(sys, "last_traceback", None) is not None:
        for name in ("last_traceback", "last_value", "last_exc"):
            setattr(sys, name, None)
        gc.collect()


class Room:
    """Holds up reading while too many batches are alive.

    Keras on TensorFlow puts prefetch(AUTOTUNE) behind a PyDataset, whose queue grows to hundreds of batches where training is fast.
    Callers who keep batches (steps_per_execution in predict, a train_step that collects them) would wait for ever: where no batch
    comes back in time, twice as many may be alive.
    """

    def __init__(self) -> None:
        self._alive = 0
        self._most = ALIVE - 1
        # SimpleQueue, for its `put` may be called by a finalizer in the middle of anything, itself included.
        self._returned: queue.SimpleQueue[None] = queue.SimpleQueue()

    def wait(self) -> None:
        """Return when there is room for another batch, which takes `PATIENCE` seconds at most."""
        while not self._returned.empty():
            self._returned.get()
            self._alive -= 1
        if self._alive < self._most:
            return
        try:
            self._returned.get(timeout=PATIENCE)
            self._alive -= 1
            self._most = max(self._most - 1, ALIVE - 1)
        except queue.Empty:
            self._most *= 2

    def lend(self, array: Any) -> Any:
        """Return a view of `array` that stands for its batch being alive: TensorFlow keeps the very object it was given."""
        view = array[...]
        weakref.finalize(view, self._returned.put, None).atexit = False
        self._alive += 1
        return view


class Walk:
    """A pass by one `iterator` of an `adapter` of Keras (one for each `fit`, `evaluate`, `predict`); None for other loops.

    It `counts` if the next pass is to go on behind this one: not where a model is built, or predicts. `shard` is the (index,
    number) of the parts among which Keras deals out batches; the iterator asks for those of one part.
    """

    def __init__(self, pass_: Pass, iterator: Any, adapter: Any, counts: bool, shard: tuple[int, int]) -> None:
        self.pass_ = pass_
        self.iterator = iterator
        self.counts = counts
        self.room = Room()
        self.asked = 0
        self.following, self._step = shard  # the batch that comes next in order
        self._batches = len(range(self.following, len(pass_), self._step))
        self._adapter = None if adapter is None else weakref.ref(adapter)
        self._ahead: LookAhead[int, Any] | None = None

    def is_by(self, adapter: Any) -> bool:
        return (None if self._adapter is None else self._adapter()) is adapter

    @property
    def is_abandoned(self) -> bool:
        return self._adapter is not None and self._adapter() is None

    @property
    def is_whole(self) -> bool:
        """True if all batches were asked for."""
        return self.asked >= self._batches

    def make(self, begin: Callable[[int], Callable[[], Any]], at: int, workers: int) -> Any:
        """Make batch `at`, and ahead of the iterator up to `workers` of those that follow in order."""
        if self._ahead is None:
            self._ahead = LookAhead(begin, workers)
        place, end = self.pass_.place + at, self.pass_.place + len(self.pass_)
        return self._ahead.get(place, range(place + self._step, end, self._step) if at == self.following else ())

    def close(self) -> None:
        """Drop the batches made ahead."""
        if self._ahead is not None:
            self._ahead.close()

    def serve(self, at: int, is_open: bool) -> None:
        """Note that batch `at` was made. Where an epoch `is_open`, and batches come in order, the position follows."""
        self.asked += 1
        if at == self.following:
            self.following += self._step
            if self.counts and is_open:
                self.pass_.hand_out(min((at // self._step + 1) * self._step, len(self.pass_)))


class ShortEpoch:
    """Catches one warning of Keras, that the data ran out: the epoch is meant to be short.

    A filter of `warnings`, which calls `match` as that of a regular expression. It goes when it has matched.
    """

    def __init__(self) -> None:
        self._filter: Any = ("ignore", self, UserWarning, None, 0)
        cast(MutableSequence[Any], warnings.filters).insert(0, self._filter)

    def match(self, text: str) -> bool:
        """Return True for the warning, once."""
        found = text.startswith("Your input ran out of data")
        if found:
            self.over()
        return found

    def over(self) -> None:
        """Catch it no more."""
        filters = cast(MutableSequence[Any], warnings.filters)
        if self._filter in filters:
            filters.remove(self._filter)


def shard_by_keras(batches: BatchSource) -> tuple[int, int]:
    """Return the (index, number) of the parts among which Keras deals out batches under `keras.distribution`, (0, 1) for none.

    Keras deals out tf.data datasets among processes, and from 3.16 on, whose distributions have `num_data_shards`, each
    PyDataset. Raises InvalidValueError for batches that are a part already: most of the data would be lost.
    """
    keras = sys.modules.get("keras")
    distribution = None if keras is None else keras.distribution.distribution()
    if distribution is None or not getattr(distribution, "auto_shard_dataset", False):
        return 0, 1
    parts = int(getattr(distribution, "num_data_shards", 1))
    if batches.shard[1] > 1 and (parts > 1 or getattr(distribution, "_is_multi_process", False)):
        raise InvalidValueError(
            f"batches of shard={batches.shard} under a Keras distribution that deals out batches as well: each worker would get a "
            "part of its part. Set distribution.auto_shard_dataset = False, or leave out shard=."
        )
    return (int(distribution.data_shard_id), parts) if parts > 1 else (0, 1)


def require_one_worker(batches: BatchSource, caller: Any) -> None:
    """Raise InvalidValueError for a `fit`, `evaluate` or `predict` of Keras among the workers of a `tf.distribute` strategy.

    caller : the frame that asks for a batch. The strategy need not be in scope there, so that of the calling method is looked up

    Keras 3.15 on TensorFlow cannot train on several workers (keras#20585): `_maybe_symbolic_build` reduces a tuple of PerReplica
    values, and `reduce_per_replica` reduces scalar metrics along an axis. The refusal can go when Keras can. `predict` works, and
    deals out batches among the workers.
    """
    strategy = None
    for _ in range(12):
        if caller is None or not str(caller.f_globals.get("__name__", "")).startswith("keras."):
            return
        strategy = strategy or caller.f_locals.get("distribute_strategy")
        if strategy is not None and caller.f_code.co_name in ("fit", "evaluate", "predict"):
            break
        caller = caller.f_back
    workers = None if strategy is None else rank_in(strategy)
    if workers is None or workers.size == 1:
        return
    method = caller.f_code.co_name
    if method != "predict":
        raise InvalidValueError(
            f"{method}() among {workers.size} workers of tf.distribute: Keras 3 cannot on TensorFlow (keras#20585). Write a "
            "loop over strategy.distribute_datasets_from_function(lambda _: b.to_tf()), with shard='auto'; or use Keras on JAX "
            "with keras.distribution.DataParallel."
        )
    if batches.shard[1] > 1:
        raise InvalidValueError(
            f"predict() deals out batches among {workers.size} workers of tf.distribute, and these are those of "
            f"shard={batches.shard}: each worker would get a part of its part. Leave out shard=."
        )
