"""`Batches` as a tf.data.Dataset: of batches, never of samples."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..batches.cursor import Pass
from ..batches.look_ahead import LookAhead
from ..plain.errors import InvalidTypeError, InvalidValueError, MissingPackageError, StateMismatchError
from ..plain.nests import leaves, pack
from .batch_shapes import BatchShapes
from .passes import ShortEpoch, shard_by_keras

try:
    import tensorflow as tf
except ImportError as error:
    raise MissingPackageError(
        f"to_tf() needs TensorFlow, and importing it failed: {error}. Install it with: "
        'pip install "mmapstore[tensorflow]"; on the JAX and torch backends of Keras use to_keras(), which needs no TensorFlow.'
    ) from error

from .tf_groups import NO_END, in_groups

if TYPE_CHECKING:
    from ..batches.batch_source import BatchSource

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = tuple[np.ndarray[Any, np.dtype[Any]], ...]
BLOCK = 32  # batches from one call into Python that notes what is taken to the next


def to_tf(batches: BatchSource, method: str = "map", *, epochs: int | None = 1) -> Any:
    """Return `batches` as a tf.data.Dataset, for Keras on TensorFlow and for training loops in TensorFlow.

    Elements are (x,), (x, y) or (x, y, w); each is a tensor of shape (batch, *sample), or a tuple or dict of them (a tuple
    where `batches` have a list), in the dtype of `batches`, text as tf.string. The first dimension is static when every batch
    is full (`drop_last=True`, or an exact fit), else None.
    A tensor looks at the array that was read, without a copy; batches of up to 128 KiB are fetched many at a time, and TensorFlow
    makes a copy of each. At most two batches are made ahead of the one in use.
    One batch is read when the dataset is made, to learn shapes.

    Parameters
    ----------
    batches : what to serve.
    method : "map", a range of batch numbers mapped to batches; or "generator", the same elements in the same order
        through tf.data.Dataset.from_generator, which TensorFlow cannot save in a checkpoint. Prefer "map".
    epochs : 1, n or None.

        1: one epoch each time the dataset is iterated, as in a loop over `batches`, whose position it follows and moves: when the
        last batch was taken, the next iteration gets the next order, so `fit(batches.to_tf(), epochs=5)` sees five orders. An
        iteration broken off is begun again by the next one. The first iteration after `load_state_dict` ends with the epoch, and
        has fewer batches than the cardinality says. In mid-epoch `batches.state_dict()` counts 32 batches at a time, and never too
        many; `batches.state_dict(trained)` is exact. What others ask for ahead (a prefetch of your own, tf.distribute) counts as
        taken; under tf.distribute begin with whole epochs. Iterators cannot be saved: TensorFlow would restore the place but not
        the order.

        n (2 or more): n epochs one after the other in each iteration, the one that `batches.position` lies in, when the dataset is
        made, counted as the first. Iterating again repeats the same n. For training loops with their own checkpoints:
        tf.train.Checkpoint saves an iterator in a few hundred bytes (the place alone, no data), and a restored one goes on with
        the very next batch. The position of `batches` stays where it is.

        None: the same without an end, for `fit(..., epochs=n, steps_per_epoch=k)`: Keras epochs of k batches, no batch lost.

    Returns
    -------
    A tf.data.Dataset of known cardinality (len(batches) for 1, tf.data.INFINITE_CARDINALITY for None).

    Under MultiWorkerMirroredStrategy give each worker its own part with `shard="auto"`, and write a training loop over
    `strategy.distribute_datasets_from_function(lambda _: b.to_tf())`, which leaves batches whole; `b.state_dict(step + 1)` is exact
    there. `fit` and `evaluate` fail on such a strategy, whatever the data: Keras 3 cannot reduce their PerReplica values
    (keras#20585). `experimental_distribute_dataset` cuts each batch into as many as there are workers. With `shard=` tf.data is
    told to leave elements alone (auto-sharding OFF). Without it whole batches are dealt out among workers (DATA): right, but each
    reads all. Under `keras.distribution` with several processes `shard="auto"` turns the sharding of Keras off; with another
    `shard=` set `distribution.auto_shard_dataset = False`.

    TensorFlow keeps the functions behind a dataset, and with them open files and buffers, after the dataset has gone; many in
    one process (one for each fold, say) are let go by `keras.utils.clear_session()`.

    Raises
    ------
    InvalidValueError : an unknown method; epochs < 1; no batches; `shard=` where Keras deals out datasets, too.
    MissingPackageError : TensorFlow is not installed.
    While iterating, TensorFlow turns errors into its own (tf.errors.InvalidArgumentError, UnknownError ...); the text stays.

    Examples
    --------
    >>> import numpy as np
    >>> import mmapstore as mm
    >>> ds = mm.open(np.arange(40, dtype=np.float32).reshape(10, 1, 2, 2))
    >>> data = ds.batches(3, target=mm.NextFrame()).to_tf()
    >>> int(data.cardinality()), [tuple(x.shape) for x, y in data]
    (3, [(3, 1, 2, 2), (3, 1, 2, 2), (3, 1, 2, 2)])
    """
    if method not in ("map", "generator"):
        raise InvalidValueError(f"method={method!r}; expected 'map' (the default) or 'generator'.")
    if epochs is not None:
        if isinstance(epochs, bool) or not isinstance(epochs, (int, np.integer)):
            raise InvalidTypeError(f"epochs={epochs!r}; expected 1, a number of epochs, or None for no end.")
        if epochs < 1:
            raise InvalidValueError(f"epochs={epochs}; expected 1, a larger number of epochs, or None for no end.")
    if len(batches) == 0:
        raise InvalidValueError("There is no batch to train on: 0 batches an epoch. Use a smaller batch_size, or drop_last=False.")
    shard_by_keras(batches)
    source = Source(batches, epochs)
    made = (_generated if method == "generator" else in_groups(source) or _mapped)(source)
    dataset = (
        _taken_pass_by_pass(source, made)
        if epochs == 1
        else made.apply(tf.data.experimental.assert_cardinality(source.cardinality))
    )
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_optimization.map_parallelization = False  # where it is asked for, it is said
    # The thread of autotuning sleeps for ever longer times, up to seconds, and the end of an iterator was seen to wait for it: an
    # epoch of 0.7 s took 1.3. There is nothing to tune here. AUTOTUNE behind this means as many calls as there are processors.
    options.autotune.enabled = False
    # Sharding of tf.data stands behind the reading: on top of shard= it would drop data of this worker's own part.
    policy = tf.data.experimental.AutoShardPolicy
    options.experimental_distribute.auto_shard_policy = policy.OFF if batches.shard[1] > 1 else policy.DATA
    # A checkpoint then holds the place, from which batches made ahead are made again, and not the batches.
    options.experimental_symbolic_checkpoint = method == "map" and epochs != 1
    return dataset.with_options(options)


def _taken_pass_by_pass(source: Source, made: Any) -> Any:
    """Return the batches of the next pass, and note how many of them are taken.

    Behind all that is made ahead stands a selector, always of the first dataset of two: Python is called for the first element of
    each block of its zeros, that is when the batch at that place is taken. The last batch is a block of its own. A call for each
    batch would take a third of the time that making large ones takes, and more than small ones take.
    """
    zeros = tf.data.Dataset.from_tensors(tf.constant(0, tf.int64))

    # There is nothing to convert in these functions, and converting them warns on Python 3.13.
    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def one_pass(_: Any) -> Any:
        numbers = tf.ensure_shape(tf.numpy_function(source.begin_pass, [], tf.int64), [3])

        @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
        def taken(block: Any) -> Any:
            return zeros.repeat(tf.ensure_shape(tf.numpy_function(source.hand_out, [numbers, block], tf.int64), []))

        return tf.data.Dataset.range((numbers[1] + BLOCK - 2) // BLOCK + 1).flat_map(taken)

    # `flat_map` runs its function when an iterator asks for the first batch, once for each iterator.
    selector = tf.data.Dataset.range(1).flat_map(one_pass)
    # `assert_cardinality` raises where an iteration has fewer batches. So does not `take`, of a choice where one has no end.
    return tf.data.Dataset.choose_from_datasets([made, made.repeat()], selector, stop_on_empty_dataset=True).take(source.count)


def _mapped(source: Source) -> Any:
    """Return the batches, each made by a call."""

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def places(span: Any) -> Any:
        return tf.data.Dataset.range(span[0], span[1])

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def batch_at(place: Any) -> Any:
        # stateful=False: the batch depends on its place alone. Without it an iterator over it cannot be saved.
        arrays = tf.numpy_function(source.made, [place], [spec.dtype for spec in source.specs], stateful=False)
        for array, spec in zip(arrays, source.specs, strict=True):
            array.set_shape(spec.shape)
        return source.packed(arrays)

    # One call at a time: a parallel map would make as many batches as there are processors, and hold them. Reading goes on
    # in the thread of the prefetch while a batch is in use; another one between them would only cost its waking up.
    return source.spans().flat_map(places).map(batch_at).prefetch(1)


def _generated(source: Source) -> Any:
    """Return the same as `_mapped`, through a generator."""

    def elements() -> Iterator[Any]:
        for place in range(*map(int, source.span())):
            yield source.packed(source.made(place))

    # Nothing goes through args=: it would be copied into a tensor, and again into the graph.
    return tf.data.Dataset.from_generator(elements, output_signature=source.packed(source.specs)).prefetch(1)


class Source:
    """Reads batches by their place in the row of all epochs, as flat tuples of arrays."""

    def __init__(self, batches: BatchSource, epochs: int | None) -> None:
        self.batches = batches
        self.count = len(batches)
        epoch, batch = batches.cursor.next
        first = epoch * self.count + batch
        stop = NO_END if epochs is None else (epoch + int(epochs)) * self.count
        self.cardinality = tf.data.INFINITE_CARDINALITY if epochs is None else stop - first
        self._all = None if epochs == 1 else np.array([first, stop], np.int64)
        self._begun: deque[Pass] = deque(maxlen=8)
        self._short: ShortEpoch | None = None
        made = batches.begin(epoch, batch)()
        arrays = leaves(made)
        self._is_full = batches.all_full
        length = batches.batch_size if self._is_full else None
        self._shapes = BatchShapes(batches, made, length)
        self.specs = tuple(tf.TensorSpec((length, *array.shape[1:]), tf.as_dtype(array.dtype)) for array in arrays)
        self._ahead: LookAhead[int, tuple[Any, ...]] = LookAhead(self._begin, batches.transform_workers)
        self._one_by_one = threading.Lock()
        self.batch_nbytes = sum(array.nbytes for array in arrays)

    def begin_pass(self) -> Array:
        """Begin a pass for an iterator; its batches are asked for next."""
        shard_by_keras(self.batches)
        if self._is_full and not self.batches.all_full:
            raise StateMismatchError(
                "the resumed epoch ends with a batch that is not full, and to_tf() promised full ones to TensorFlow. Load the "
                "position before to_tf(), or make the batches with drop_last=True."
            )
        walk = self.batches.cursor.begin()
        if self._short is not None:
            self._short.over()
        self._short = ShortEpoch() if len(walk) < self.count else None
        self._begun.append(walk)
        return np.array(walk.numbers, np.int64)

    def hand_out(self, numbers: Array, block: Any) -> np.int64:
        """Note that the first batch of a block is taken, and all before it; return how many the block has."""
        walk = Pass(self.batches.cursor, *map(int, numbers))
        last = len(walk) - 1
        number = min(int(block) * BLOCK, last)
        walk.hand_out(number + 1)
        if number == last:
            walk.complete()
        return np.int64(max(1, min(BLOCK, last - number)))

    def span(self) -> Array:
        """Return the first place and the one behind the last: of the pass begun last, or of all epochs, which move no position."""
        if self._all is not None:
            return self._all
        walk = self._begun.pop()
        return np.array([walk.place, walk.place + len(walk)], np.int64)

    def spans(self) -> Any:
        """Return a dataset of the span alone. A call into Python for it could not be saved in a checkpoint."""
        if self._all is not None:
            return tf.data.Dataset.from_tensors(tf.constant(self._all))

        @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
        def span(_: Any) -> Any:
            return tf.ensure_shape(tf.numpy_function(self.span, [], tf.int64), [2])

        return tf.data.Dataset.range(1).map(span)

    def made(self, place: Any) -> Arrays:
        """Return the arrays of the batch at a place; several workers begin with the next ones."""
        place = int(place)
        if self.batches.transform_workers == 1:
            made = self._begin(place)()  # the prefetch behind this asks ahead
        else:
            stop = (place // self.count + 1) * self.count if self._all is None else int(self._all[1])
            with self._one_by_one:  # iterators that take turns drop what was made ahead for one another, no more
                made = self._ahead.get(place, range(place + 1, stop))
        self._shapes.require(made, *divmod(place, self.count))
        return tuple(leaves(made))

    def _begin(self, place: int) -> Callable[[], tuple[Any, ...]]:
        epoch, batch = divmod(place, self.count)
        return self.batches.begin(epoch, batch, aligned=True)

    def packed(self, flat: Any) -> tuple[Any, ...]:
        """Return flat arrays, tensors or specs in the structure that Keras unpacks: (x,), (x, y) or (x, y, w)."""
        parts: tuple[Any, ...] = pack(self._shapes.structure, flat)
        return parts
