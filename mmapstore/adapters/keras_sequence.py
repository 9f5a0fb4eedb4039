"""`Batches` as a keras.utils.PyDataset, for `fit`, `evaluate` and `predict` on every Keras backend.

Keras 3 asks for batches in ways its documentation does not tell (read in 3.15, py_dataset_adapter.py and
epoch_iterator.py): batches 0 and 1 before the first epoch, to learn shapes; `on_epoch_end` once before the first
`on_epoch_begin`; one batch inside an epoch of its own, to build a model, on JAX and torch; batches ahead of the
hooks, from another thread; with `fit(steps_per_epoch=k)` one iterator runs on through several epochs; an iterator
is dropped without notice when training stops in mid-epoch; the same object may be walked by two iterators at
once, for training and for validation. So a pass belongs to the iterator that asks, not to the hooks: each
iterator keeps the order it began with until it has asked for every batch, and only then comes the next order.
"""

from __future__ import annotations

import inspect
import operator
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plain.errors import InvalidTypeError, InvalidValueError, MissingPackageError, OutOfRangeError
from ..plain.nests import leaves, pack
from .batch_shapes import BatchShapes, with_tuples
from .passes import Pass

try:
    import keras
except ImportError as error:
    raise MissingPackageError(
        f"to_keras() needs Keras and one of its backends, and importing keras failed: {error}. "
        'Install both with: pip install "mmapstore[tensorflow]"; '
        "for JAX or torch install keras and that package, and set KERAS_BACKEND."
    ) from error

if TYPE_CHECKING:
    from ..batches.batches import Batches

# Iterators that may walk one Sequence at a time: training, validation, and some that were dropped half way.
_OPEN_PASSES = 8


class Sequence(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches for Keras. Made by `Batches.to_keras()`; see `to_keras` for the promises it keeps."""

    def __init__(
        self,
        batches: Batches,
        steps: int | None = None,
        *,
        workers: int = 1,
        use_multiprocessing: bool = False,
        max_queue_size: int = 10,
    ) -> None:
        _check_workers(workers, use_multiprocessing)
        super().__init__(workers=workers, use_multiprocessing=use_multiprocessing, max_queue_size=max_queue_size)
        if steps is not None:
            if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)):
                raise InvalidTypeError(
                    f"steps={steps!r} is not a number of batches; expected an int, or None for all {len(batches)}."
                )
            if steps < 1:
                raise InvalidValueError(
                    f"steps={steps}; expected at least 1 batch in each Keras epoch, or None for all {len(batches)}."
                )
        if len(batches) == 0:
            raise InvalidValueError(
                "There is no batch to train on: 0 batches an epoch. Use a smaller batch_size, or drop_last=False."
            )
        self.batches = batches
        self._steps = len(batches) if steps is None else int(steps)
        self._lock = threading.Lock()
        self._start_at(*batches.position)

    def _start_at(self, epoch: int, batch: int) -> None:
        self._first = epoch * len(self.batches) + batch
        self._next_pass = 0
        self._latest: Pass | None = None
        self._open: list[tuple[Any, Pass]] = []  # (what identifies the iterator, its pass), the latest used last
        self._loose: Pass | None = None  # batches asked for by no iterator of Keras: spec inference, seq[i], loops
        self._began_at: int | None = None  # the pass that was next when the epoch began; None between epochs
        self._new_adapter = False
        self._building = False
        self._shapes: BatchShapes | None = None

    # -- what Keras asks -----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Batches in one Keras epoch."""
        return self._steps

    @property
    def num_batches(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Batch `index` of the pass its asker is in: (x,), (x, y) or (x, y, w), as Keras unpacks it."""
        try:
            at = operator.index(index)
        except TypeError as error:
            raise InvalidTypeError(f"seq[{index!r}]: a Sequence gives one batch at a time; expected its number, an int.") from error
        if at < 0:
            at += self._steps
        if not 0 <= at < self._steps:
            raise OutOfRangeError(
                f"Batch {index} was asked for, but a Keras epoch of this Sequence has {self._steps} (0 to {self._steps - 1})."
            )
        return self._serve(at, _iterator_of_keras(sys._getframe(1)))

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """One pass, in order. A loop that runs to its end is followed by the next order, as an epoch of `fit` is."""
        me = object()
        for at in range(self._steps):
            yield self._serve(at, me, mine=True)

    def on_epoch_begin(self) -> None:
        """Called by Keras, or by a training loop of your own, when an epoch begins."""
        with self._lock:
            self._began_at = self._next_pass
            # Keras ends an epoch before it begins the first one of `fit` and `evaluate`. Where it does not, it either
            # builds a model from one batch, which may be all there are, or predicts.
            self._building = self._new_adapter
            if self._building:
                self._loose = None

    def on_epoch_end(self) -> None:
        """Called by Keras when an epoch ends, and once before the first begins; or by a training loop of your own.

        A loop over `seq[i]` that calls both hooks and asks for every batch in between goes on to the next order.
        """
        with self._lock:
            loose = self._loose
            if loose is not None and (loose.complete or self._began_at is None):
                # An iterator that went on to the next order meanwhile has the say, and this was a look at batches beside it.
                if loose.number == self._began_at:
                    self._finish(loose)
                self._loose = None
            self._began_at = None
            self._new_adapter = self._building = False

    # -- passes --------------------------------------------------------------------------------------------------

    def _serve(self, at: int, asker: Any, mine: bool = False) -> tuple[Any, ...]:
        with self._lock:
            walk = self._pass_of(asker, at, counts=mine or not self._building)
            place = self._first + walk.number * self._steps + at
        workers = self.batches.transform_workers
        # Only there are batches asked for by a thread of its own, as many as it likes.
        is_queued = asker is not None and not mine and keras.backend.backend() == "tensorflow"
        if is_queued:
            walk.wait_for_room()
        if asker is None or (is_queued and workers == 1) or not self.batches.takes_time:
            made = self._begin(place)()  # TensorFlow asks ahead by itself
        else:
            following = range(place + 1, place - at + self._steps) if walk.in_order == at else ()
            made = walk.ahead(self._begin, workers).get(place, following)
        if keras.backend.backend() == "tensorflow":
            made = self._for_tensorflow(made, place, at if asker is None else None, walk if is_queued else None)
        # Marked after the read: a batch that could not be read was not served.
        with self._lock:
            walk.serve(at)
            if asker is not None:
                if walk.counts:
                    self._latest = walk
                if walk.complete:
                    self._open = [(key, one) for key, one in self._open if one is not walk]
                    if walk.counts:
                        self._finish(walk)
        return made

    def _pass_of(self, asker: Any, at: int, counts: bool) -> Pass:
        if asker is None:
            if self._loose is None or self._loose.served(at) or self._loose.number != self._next_pass:
                self._loose = Pass(self._next_pass, self._steps)
            return self._loose
        for place, (key, walk) in enumerate(self._open):
            if key is asker:
                self._open.append(self._open.pop(place))
                return walk
        walk = Pass(self._next_pass, self._steps, counts)
        self._open = [*self._open[1 - _OPEN_PASSES :], (asker, walk)]
        return walk

    def _finish(self, walk: Pass) -> None:
        self._next_pass = max(self._next_pass, walk.number + 1)

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

    def _for_tensorflow(self, made: tuple[Any, ...], place: int, looked_at: int | None, walk: Pass | None) -> tuple[Any, ...]:
        """Return a batch as Keras on TensorFlow takes it, checked against what Keras has told TensorFlow of.

        `looked_at` is the number in its pass of a batch that no iterator asks for: with 0 and 1 Keras learns the shapes. `walk` is
        the pass of a batch that is put into a queue.
        """
        where = divmod(place, len(self.batches))
        if looked_at == 0:
            self._shapes = BatchShapes(self.batches, made)
        elif looked_at == 1 and self._shapes is not None:
            self._shapes.widen(made, *where)
        elif walk is not None and self._shapes is not None:
            self._shapes.require(made, *where)
        arrays = leaves(made)
        if walk is not None:
            # Text is copied at once, so another array has to stand for the batch.
            number = next((number for number, array in enumerate(arrays) if array.dtype.kind != "S"), None)
            if number is not None:
                arrays[number] = walk.lend(arrays[number])
        tensors = [keras.ops.convert_to_tensor(array) if array.dtype.kind == "S" else array for array in arrays]
        return tuple(pack(with_tuples(made), tensors))

    # -- state ---------------------------------------------------------------------------------------------------

    def state_dict(self, batch: int | None = None) -> dict[str, Any]:
        """Where a later run goes on: the next batch nobody has had, as small JSON.

        Exact after a whole epoch (in `on_epoch_end` of a callback, after `fit`). In mid-epoch Keras has asked for
        batches ahead of those trained on; pass `batch`, how many batches of this Keras epoch were trained on
        (`batch + 1` in `on_train_batch_end(batch, logs)`), and it is exact too. Both want `fit(shuffle=False)`:
        otherwise Keras permutes the batches of an epoch, and only the ends of epochs are exact. With
        `fit(steps_per_epoch=)` Keras's epochs are not those of this Sequence; use `to_keras(steps=)`.
        """
        with self._lock:
            walk = self._latest
            if batch is None:
                passes, batch = self._next_pass, 0
                if walk is not None and walk.number >= passes:
                    batch = walk.in_order
            else:
                passes = self._next_pass if walk is None else walk.number
                if not 0 <= batch <= self._steps:
                    raise OutOfRangeError(
                        f"batch={batch} is not in a Keras epoch of this Sequence; expected 0 to {self._steps} batches trained on."
                    )
            place = self._first + passes * self._steps + int(batch)
        return self.batches.state_at(*divmod(place, len(self.batches)))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken: batch 0 of the next Keras epoch is the first batch not had before.

        Taken in mid-epoch, later Keras epochs begin at that place in the order too, so that each still has `len(self)`
        batches; no batch is lost or repeated. Raises StateMismatchError if `state` belongs to other data or another order.
        """
        self.batches.load_state_dict(state)
        with self._lock:
            self._start_at(*self.batches.position)

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {**self.__dict__, "_lock": None, "_open": [], "_loose": None, "_latest": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __repr__(self) -> str:
        epoch, batch = divmod(self._first + self._next_pass * self._steps, len(self.batches))
        return f"Sequence({self._steps} batches a Keras epoch, next from epoch {epoch}, batch {batch}, of {self.batches!r})"

    # -- worker arguments ----------------------------------------------------------------------------------------

    @property
    def workers(self) -> int:
        """0 or 1: which is the same, Keras asks for batches itself, one at a time."""
        return int(self._workers)

    @workers.setter
    def workers(self, value: int) -> None:
        _check_workers(value, False)
        self._workers = value

    @property
    def use_multiprocessing(self) -> bool:
        """Always False."""
        # Keras looks here once for each fit, evaluate or predict that begins, before it asks for anything else;
        # what the last one left half done has then nothing to do with the hooks that follow.
        with self._lock:
            self._new_adapter = True
            self._began_at = None
            self._loose = None
        return bool(self._use_multiprocessing)

    @use_multiprocessing.setter
    def use_multiprocessing(self, value: bool) -> None:
        _check_workers(0, value)
        self._use_multiprocessing = value


def to_keras(
    batches: Batches,
    steps: int | None = None,
    *,
    workers: int = 1,
    use_multiprocessing: bool = False,
    max_queue_size: int = 10,
) -> Sequence:
    """`batches` as a keras.utils.PyDataset, for `fit`, `evaluate`, `predict` and `validation_data=`, on any Keras backend.

    Pass `shuffle=False` to `fit`. The samples are in the order of `batches` already; Keras's default `shuffle=True`
    permutes the batches once more. Each is still seen once an epoch, but compressed data is decoded many times over,
    and a run cannot be resumed in mid-epoch.

    Parameters
    ----------
    batches : what to serve. The first Keras epoch starts at `batches.position`.
    steps : batches in a Keras epoch; None for all. With `steps=k`, batch i of Keras epoch e is number e * k + i of the
        batches of all epochs, one after the other: validation and checkpoints come more often (or, with k larger than
        len(batches), less often) and no sample is lost. Prefer it to `fit(steps_per_epoch=)`, which is served right too, but
        for which Keras cuts the last part short, with a warning, where it does not divide the epoch.
    workers : 0 or 1, which is the same. More is refused.
    use_multiprocessing : False. True is refused.
    max_queue_size : kept for Keras; without workers there is no queue and nothing is held in it.

    Returns
    -------
    A `Sequence`: `seq[i]` and iteration give (x, y), or (x,) without a target; x and y are ndarrays of shape
    (batch, *sample) or tuples of them, in the dtype of `batches`. On the TensorFlow and JAX backends they are aligned to
    64 bytes, so that they are taken without a copy, and may be read-only; on torch they are writable, copied if need be.

    Each pass over the batches (an epoch of `fit`, an `evaluate`, a `predict`, a `for` loop) has one order and sees each
    batch once, whatever else walks the same Sequence meanwhile. When its last batch has been asked for, the next pass
    to begin has the next order; a pass broken off before is repeated from its start. `predict` and `seq[i]` use the
    order that comes next, and leave it to come next.

    At most four batches are alive, the one in training and the one being read included: where TensorFlow would queue
    more, reading waits for one to be let go. A caller that keeps batches is served after a second, and in the end without waiting.

    On TensorFlow Keras leaves tf.data's autotuning on behind every Sequence, and the end of an epoch was seen to wait for its
    thread, at worst for as long as the epoch had taken: 44 s became 82. `to_tf()` turns it off.

    TensorFlow keeps what it was once given, a Sequence with its open files and buffers included, after `fit` has ended; many
    in one process (one for each fold, say) are let go by `keras.utils.clear_session()`.

    Raises
    ------
    InvalidValueError : workers > 1 or use_multiprocessing, here or when set later; steps < 1; no batches.
    MissingPackageError : Keras, or the backend it is set to, is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import mmapstore as mm
    >>> ds = mm.open(np.arange(40, dtype=np.float32).reshape(10, 1, 2, 2))
    >>> seq = ds.batches(4, target=mm.NextFrame()).to_keras()
    >>> len(seq), [x.shape for x, y in seq]
    (3, [(4, 1, 2, 2), (4, 1, 2, 2), (1, 1, 2, 2)])
    """
    return Sequence(batches, steps, workers=workers, use_multiprocessing=use_multiprocessing, max_queue_size=max_queue_size)


def _check_workers(workers: int, use_multiprocessing: bool) -> None:
    found = "use_multiprocessing=True" if use_multiprocessing else f"workers={workers!r}"
    if isinstance(workers, bool) or not isinstance(workers, (int, np.integer)) or workers < 0:
        raise InvalidValueError(f"{found}; expected workers=1 (the default) or 0.")
    if use_multiprocessing or workers > 1:
        raise InvalidValueError(
            f"{found}; expected workers=1 and use_multiprocessing=False (the defaults). Keras's workers lose batches with "
            "steps_per_epoch, leave threads and full queues behind when training stops in mid-epoch, and hold up to "
            "max_queue_size more batches. Leave the argument out. "
            "If transform= is what takes the time, try to_tf()."
        )


def _iterator_of_keras(caller: Any) -> Any:
    """What tells the generator of Keras that asks from every other one; None for any other asker.

    Keras makes one generator for each pass and says so nowhere else. The list (or range) of batch numbers that it walks
    is its own, and keeping hold of it, unlike of the frame, keeps nothing else alive. Should a later Keras name it
    differently, its requests count by the hooks alone (`on_epoch_end`), which is right wherever passes do not overlap.
    """
    for _ in range(3):  # a subclass may stand in between
        if caller is None:
            break
        if caller.f_code.co_flags & inspect.CO_GENERATOR and str(caller.f_globals.get("__name__", "")).startswith("keras."):
            return caller.f_locals.get("indices")
        caller = caller.f_back
    return None


def _writable(array: Any) -> Any:
    return array if array.flags.writeable else array.copy()
