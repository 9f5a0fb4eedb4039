"""`Batches` as a keras.utils.PyDataset, for `fit`, `evaluate` and `predict` on every Keras backend.

Keras 3 asks for batches in ways its documentation does not tell (read in 3.15 and 3.16, py_dataset_adapter.py and
epoch_iterator.py): batches 0 and 1 before the first epoch, to learn shapes; `on_epoch_end` once before the first
`on_epoch_begin` of `fit` and `evaluate`; before that, on JAX and torch, one batch in an epoch of its own, to build a model; batches
ahead of the hooks, from another thread; with `fit(steps_per_epoch=k)` one iterator runs on through several epochs; an iterator
is dropped without notice when training stops in mid-epoch; the same object may be walked by two iterators at once.

The hooks and the numbers alone do not tell these apart. All batches asked for and then `on_epoch_end` is what an epoch is that
ended; one that was stopped before its last batches, which TensorFlow had asked for ahead, with the next `fit` behind it; and, where
an epoch has one batch, the building of a model. So the caller is looked at: Keras has one adapter for each `fit`, `evaluate` and
`predict`, and each of its iterators a list of its own. An epoch is over when the adapter whose iterator has asked for all of it
ends an epoch, or begins the next iterator.
"""

from __future__ import annotations

import inspect
import operator
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plain.errors import InvalidTypeError, InvalidValueError, MissingPackageError, OutOfRangeError
from ..plain.nests import leaves, pack
from .batch_shapes import BatchShapes, with_tuples
from .passes import ShortEpoch, Walk, require_one_worker, shard_by_keras

try:
    import keras
except ImportError as error:
    raise MissingPackageError(
        f"to_keras() needs Keras and one of its backends, and importing keras failed: {error}. "
        'Install both with: pip install "mmapstore[tensorflow]"; '
        "for JAX or torch install keras and that package, and set KERAS_BACKEND."
    ) from error

if TYPE_CHECKING:
    from ..batches.batch_source import BatchSource

# Iterators that may walk one Sequence at a time: training, validation, and some that were dropped half way.
_MOST_WALKS = 8
_UNDER_WAY = ("_lock", "_walks", "_adapters", "_short")  # what belongs to iterators, and to this process


class Sequence(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches as a keras.utils.PyDataset, for `fit`, `evaluate`, `predict` and `validation_data=`, on any Keras backend.

    Made by `Batches.to_keras()`. Pass `shuffle=False` to `fit`: the samples are in the order of the batches already, and Keras's
    default `shuffle=True` permutes the batches once more. Each is still seen once an epoch, but compressed data is decoded many
    times over, and a run cannot be resumed in mid-epoch.

    `seq[i]` and iteration return (x,), (x, y) or (x, y, w); each is an ndarray of shape (batch, *sample), or a tuple, list or
    dict of them, in the dtype of the batches. On the TensorFlow and JAX backends arrays are aligned to 64 bytes, so that they are
    taken without a copy, and may be read-only; on torch they are writable, copied if need be. On TensorFlow lists are tuples and
    text is tf.string; on the other backends, which have no tensors of text, a batch of it is an error.

    Each pass (an epoch of `fit`, an `evaluate`, a `for` loop) follows and moves the position of the batches, whatever else takes
    them meanwhile: a pass begins where the position stands, and after a whole epoch the next pass has the next order; a pass broken
    off is begun again. `predict` and `seq[i]` leave the position where it is. After `batches.load_state_dict(state)` in mid-epoch
    the first Keras epoch ends with that of the data: it has fewer than `len(seq)` batches, and later ones are whole (not with
    `steps`, whose epochs all have as many). In callbacks `batches.state_dict(batch + 1)` is exact in `on_train_batch_end(batch,
    logs)`, with `fit(shuffle=False)`. With several replicas of a `tf.distribute` strategy Keras takes one more step, without
    samples, at the end of the short epoch: save at the ends of epochs there.

    Several processes train with `shard="auto"` under `keras.distribution` on JAX. On TensorFlow `fit` and `evaluate` raise under a
    `tf.distribute` strategy over several workers, where Keras 3 cannot train: write a loop over `to_tf()`.

    At most four batches are alive, the one in training and the one being read included: where TensorFlow would queue more, reading
    waits for one to be let go. A caller that keeps n batches waits a tenth of a second each time that their number doubles.

    On TensorFlow Keras leaves tf.data's autotuning on behind every Sequence, and the end of an epoch may wait for its thread, at
    worst for as long as the epoch took. `to_tf()` turns it off. TensorFlow also keeps each Sequence that it was given, with open
    files and buffers, after `fit` has ended; many in one process (one for each fold, say) are let go by
    `keras.utils.clear_session()`.

    Keras's progress bar and `tqdm.keras.TqdmCallback` count to `len(seq)`, also in the short epoch after `load_state_dict`: from
    where they were if `mmapstore.BackupAndRestore` loads the state, and from 1 otherwise. With `steps_per_execution` tqdm counts
    executions.

    Parameters
    ----------
    steps : batches in a Keras epoch; None for all. With `steps=k`, batch i of Keras epoch e is number e * k + i of the batches of
        all epochs, one after the other: validation and checkpoints come more often (or, with k larger than len(batches), less
        often) and no sample is lost. Prefer it to `fit(steps_per_epoch=)`, which is served right too, but for which Keras cuts
        the last part short, with a warning, where it does not divide the epoch
    workers, use_multiprocessing : 0 or 1, which is the same, and False; anything else raises
    max_queue_size : kept for Keras; without workers there is no queue

    Raises
    ------
    InvalidValueError : workers > 1 or use_multiprocessing, here or when set later; steps < 1; no batches; a strategy over workers
    MissingPackageError : Keras, or the backend it is set to, is not installed
    While training: InvalidTypeError for text on JAX and torch, InvalidValueError for a batch whose structure, dtypes or shapes
    are not those that Keras told TensorFlow of after the first two

    >>> import numpy as np, mmapstore as mm
    >>> ds = mm.open(np.arange(40, dtype=np.float32).reshape(10, 1, 2, 2))
    >>> seq = ds.batches(4, target=mm.NextFrame()).to_keras()
    >>> len(seq), [x.shape for x, y in seq]
    (3, [(4, 1, 2, 2), (4, 1, 2, 2), (1, 1, 2, 2)])
    """

    def __init__(
        self,
        batches: BatchSource,
        steps: int | None = None,
        *,
        workers: int = 1,
        use_multiprocessing: bool = False,
        max_queue_size: int = 10,
    ) -> None:
        super().__init__()
        self.workers, self.use_multiprocessing, self.max_queue_size = workers, use_multiprocessing, max_queue_size
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, (int, np.integer))):
            raise InvalidTypeError(f"steps={steps!r} is not a number of batches; expected an int, or None for all {len(batches)}.")
        if steps is not None and steps < 1:
            raise InvalidValueError(
                f"steps={steps}; expected at least 1 batch in each Keras epoch, or None for all {len(batches)}."
            )
        if len(batches) == 0:
            raise InvalidValueError(
                "There is no batch to train on: 0 batches an epoch. Use a smaller batch_size, or drop_last=False."
            )
        self.batches = batches
        self._steps = None if steps is None else int(steps)
        self._forget()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "use_multiprocessing" and value:
            raise _workers_error("use_multiprocessing=True")
        if name == "workers" and (isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value <= 1):
            raise _workers_error(f"workers={value!r}")
        super().__setattr__(name, value)

    def _forget(self) -> None:
        """Begin without iterators that are under way."""
        self._lock = threading.Lock()
        self._walks: list[Walk] = []  # those that may go on, the newest last
        self._adapters: weakref.WeakSet[Any] = weakref.WeakSet()  # those of Keras that train or test, and do not predict or build
        self._is_open = False  # an epoch: between the hooks
        self._announced: int | None = None  # batches of an epoch that is short, from its beginning to its first batch
        self._short: ShortEpoch | None = None
        self._shapes: BatchShapes | None = None

    # -- what Keras asks -----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the batches in one Keras epoch; the first after `load_state_dict` in mid-epoch has fewer."""
        return len(self.batches) if self._steps is None else self._steps

    @property
    def num_batches(self) -> int:
        """The batches of an epoch that has just begun, for the iterator to come; otherwise `len(seq)`, to which `fit` counts."""
        return len(self) if self._announced is None else self._announced

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Return batch `index` of the caller's pass: (x,), (x, y) or (x, y, w), as Keras unpacks it."""
        try:
            at = range(len(self))[operator.index(index)]
        except TypeError as error:
            raise InvalidTypeError(f"seq[{index!r}]: a Sequence gives one batch at a time; expected its number, an int.") from error
        except IndexError as error:
            raise OutOfRangeError(
                f"Batch {index} was asked for, but a Keras epoch of this Sequence has {len(self)} (0 to {len(self) - 1})."
            ) from error
        adapter, iterator = _keras_caller(sys._getframe(1), "indices")
        walk = self._walk_of(adapter, iterator, at)
        if walk is None:
            require_one_worker(self.batches, sys._getframe(1))
            return self._looked_at(at)
        return self._serve(walk, at, is_queued=iterator is not None and keras.backend.backend() == "tensorflow")

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Iterate over one pass, in order, as a loop over the batches does."""
        walk = Walk(self.batches.cursor.begin(self._steps), None, None, counts=False, shard=(0, 1))
        for at in range(len(walk.pass_)):
            made = [self._serve(walk, at)]
            walk.pass_.hand_out(at + 1)
            if walk.is_whole:
                walk.pass_.complete()
            yield made.pop()

    def on_epoch_begin(self) -> None:
        """Begin an epoch. Called by Keras, or by a training loop of your own."""
        adapter, _ = _keras_caller(sys._getframe(1))
        cursor = self.batches.cursor
        with self._lock:
            self._end_epoch()
            self._is_open = True
            first = cursor.next[1]
            if first and self._steps is None:
                self._announced, self._short = len(self) - first, ShortEpoch()
            if adapter is None and not any(walk.is_by(None) for walk in self._walks):
                self._walks.append(Walk(cursor.begin(self._steps), None, None, counts=True, shard=(0, 1)))

    def on_epoch_end(self) -> None:
        """End an epoch. Called by Keras, also once before the first begins; or by a training loop of your own.

        A loop over `seq[i]` that calls both hooks and asks for every batch in between goes on to the next order.
        """
        adapter, _ = _keras_caller(sys._getframe(1))
        with self._lock:
            self._end_epoch()
            if adapter is not None:
                self._adapters.add(adapter)
            self._complete(adapter)
            dropped = [walk for walk in self._walks if walk.is_by(adapter) and not walk.counts]
            self._walks = [walk for walk in self._walks if walk not in dropped]
        for walk in dropped:
            walk.close()

    # -- passes --------------------------------------------------------------------------------------------------

    def _end_epoch(self) -> None:
        self._is_open, self._announced = False, None
        if self._short is not None:
            self._short.over()
            self._short = None

    def _complete(self, adapter: Any) -> None:
        """Go on behind the passes of an adapter of which all was asked for."""
        for walk in self._walks:
            if walk.is_by(adapter) and walk.is_whole and walk.counts:
                walk.pass_.complete()
        self._walks = [walk for walk in self._walks if not (walk.is_by(adapter) and walk.is_whole)]

    def _walk_of(self, adapter: Any, iterator: Any, at: int) -> Walk | None:
        """Return the pass of the caller who asks for batch `at`; None for a look outside of passes."""
        with self._lock:
            if iterator is None:
                walk = next((walk for walk in self._walks if walk.is_by(None)), None) if self._is_open else None
                if walk is None or at >= walk.asked:
                    return walk
                self._walks.remove(walk)  # begun again
                adapter = None
            else:
                for walk in self._walks:
                    if walk.iterator is iterator:
                        return walk
                self._complete(adapter)
                self._announced = None
            self._walks = [walk for walk in self._walks if not walk.is_abandoned][1 - _MOST_WALKS :]
            counts = adapter is None or adapter in self._adapters
            shard = shard_by_keras(self.batches)
            walk = Walk(self.batches.cursor.begin(self._steps), iterator, adapter, counts, shard)
            self._walks.append(walk)
            return walk

    def _serve(self, walk: Walk, at: int, is_queued: bool = False) -> tuple[Any, ...]:
        """Return batch `at` of a pass. `is_queued`: asked for by a thread of TensorFlow's, as many as it likes."""
        workers, place = self.batches.transform_workers, walk.pass_.place + at
        if is_queued:
            walk.room.wait()
        if (is_queued and workers == 1) or not self.batches.takes_time:
            made = self._begin(place)()  # TensorFlow asks ahead by itself
        else:
            made = walk.make(self._begin, at, workers)
        if is_queued and self._shapes is not None:
            self._shapes.require(made, *walk.pass_.at(at))
        if keras.backend.backend() == "tensorflow":
            made = _for_tensorflow(made, walk if is_queued else None)
        # Noted after the read: a batch that could not be read was not served.
        with self._lock:
            walk.serve(at, self._is_open)
        return made

    def _looked_at(self, at: int) -> tuple[Any, ...]:
        """Return batch `at` of the pass to come. With 0 and 1 Keras learns the shapes, and tells TensorFlow of them."""
        shard_by_keras(self.batches)
        epoch, batch = self.batches.cursor.next
        place = epoch * len(self.batches) + batch + at
        made = self._begin(place)()
        if keras.backend.backend() != "tensorflow":
            return made
        if at == 0:
            self._shapes = BatchShapes(self.batches, made)
        elif at == 1 and self._shapes is not None:
            self._shapes.widen(made, *divmod(place, len(self.batches)))
        return _for_tensorflow(made, None)

    def _begin(self, place: int) -> Callable[[], tuple[Any, ...]]:
        epoch, batch = divmod(place, len(self.batches))
        backend = keras.backend.backend()
        finish = self.batches.begin(epoch, batch, aligned=backend in ("tensorflow", "jax"))
        if backend == "tensorflow":
            return finish

        def finished() -> tuple[Any, ...]:
            made = finish()
            if any(array.dtype.kind == "S" for array in leaves(made)):
                raise InvalidTypeError(
                    f"{self.batches.named(epoch, batch)} holds text, and {backend} has no tensors of text. Make numbers of it in "
                    "transform=, with a tokeniser; or leave the field out of inputs= and target=."
                )
            # torch warns of read-only arrays, and writing to a tensor over a read-only map would crash.
            return pack(made, map(_writable, leaves(made))) if backend == "torch" else made

        return finished

    # -- position ------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _UNDER_WAY}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __repr__(self) -> str:
        epoch, batch = self.batches.cursor.next
        return f"Sequence({len(self)} batches a Keras epoch, next from epoch {epoch}, batch {batch}, of {self.batches!r})"


def _workers_error(found: str) -> InvalidValueError:
    return InvalidValueError(
        f"{found}; expected workers=1 and use_multiprocessing=False (the defaults). Keras's workers lose batches with "
        "steps_per_epoch, leave threads and full queues behind when training stops in mid-epoch, and hold up to "
        "max_queue_size more batches. Leave the argument out. If transform= is what takes the time, try to_tf()."
    )


def _keras_caller(caller: Any, name: str = "") -> tuple[Any, Any]:
    """Return the adapter of Keras that calls, and a local variable of its calling method; None for other callers.

    An adapter is the only thing that is one for each `fit`, and the list (or range) of batch numbers that a generator walks the
    only thing that is one for each iterator; keeping hold of the list, unlike of the frame, keeps nothing else alive. Should a
    later Keras name them differently, the hooks alone tell the passes, which is right wherever they do not overlap.
    """
    for _ in range(3):  # a subclass may stand in between
        if caller is None:
            break
        if str(caller.f_globals.get("__name__", "")).startswith("keras."):
            found, adapter = caller.f_locals, caller.f_locals.get("self")
            if name and not (caller.f_code.co_flags & inspect.CO_GENERATOR and found.get(name) is not None):
                break
            return adapter, found.get(name)
        caller = caller.f_back
    return None, None


def _for_tensorflow(made: tuple[Any, ...], walk: Walk | None) -> tuple[Any, ...]:
    """Return a batch as Keras on TensorFlow takes it. `walk`: the pass of a batch that is put into a queue."""
    arrays = leaves(made)
    if walk is not None:
        # Text is copied at once, so another array has to stand for the batch.
        number = next((number for number, array in enumerate(arrays) if array.dtype.kind != "S"), None)
        if number is not None:
            arrays[number] = walk.room.lend(arrays[number])
    tensors = [keras.ops.convert_to_tensor(array) if array.dtype.kind == "S" else array for array in arrays]
    return tuple(pack(with_tuples(made), tensors))


def _writable(array: Any) -> Any:
    return array if array.flags.writeable else array.copy()
