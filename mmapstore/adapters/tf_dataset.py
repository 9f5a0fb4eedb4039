"""`Batches` as a tf.data.Dataset: of batches, never of samples."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..batches.look_ahead import LookAhead
from ..plain.errors import InvalidTypeError, InvalidValueError, MissingPackageError
from ..plain.nests import leaves, pack
from .batch_shapes import BatchShapes

try:
    import tensorflow as tf
except ImportError as error:
    raise MissingPackageError(
        f"to_tf() needs TensorFlow, and importing it failed: {error}. Install it with: "
        'pip install "mmapstore[tensorflow]"; on the JAX and torch backends of Keras use to_keras(), which needs no TensorFlow.'
    ) from error

from .tf_groups import NO_END, in_groups

if TYPE_CHECKING:
    from ..batches.batches import Batches

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = tuple[np.ndarray[Any, np.dtype[Any]], ...]


def to_tf(batches: Batches, method: str = "map", *, epochs: int | None = 1) -> Any:
    """`batches` as a tf.data.Dataset, for Keras on TensorFlow and for training loops in TensorFlow.

    Elements are (x, y), or (x,) without a target; x and y are tensors of shape (batch, *sample) or tuples of them, in the
    dtype of `batches`. The first dimension is static when every batch is full (`drop_last=True`, or an exact fit), else None.
    A tensor looks at the array that was read, without a copy; batches of up to 128 KiB are fetched many at a time, and TensorFlow
    makes a copy of each. At most two batches are made ahead of the one in use.
    One batch is read when the dataset is made, to learn shapes.

    Parameters
    ----------
    batches : what to serve, from `batches.position` on.
    method : "map", a range of batch numbers mapped to batches; or "generator", the same elements in the same order
        through tf.data.Dataset.from_generator, which TensorFlow cannot save in a checkpoint. Prefer "map".
    epochs : 1, n or None.

        1: one epoch each time the dataset is iterated; when its last batch was made, the next iteration gets the next order, so
        `fit(batches.to_tf(), epochs=5)` sees five orders. An iteration broken off is repeated from its start.
        Iterators cannot be saved: TensorFlow would restore the place but not the order.

        n (2 or more): n epochs one after the other in each iteration, the one that `batches.position` lies in counted as the
        first. Iterating again repeats the same n. For training loops with their own checkpoints: tf.train.Checkpoint saves an
        iterator in a few hundred bytes (the place alone, no data), and a restored one goes on with the very next batch.

        None: the same without an end, for `fit(..., epochs=n, steps_per_epoch=k)`: Keras epochs of k batches, no batch lost.

    Returns
    -------
    A tf.data.Dataset of known cardinality (len(batches) for 1, tf.data.INFINITE_CARDINALITY for None).

    Under MultiWorkerMirroredStrategy give each worker its own part with `shard=(index, count)`; tf.data is then told to leave
    elements alone (auto-sharding OFF). Without `shard=` it deals out whole batches among workers (DATA): right, but each reads all.

    TensorFlow keeps the functions behind a dataset, and with them open files and buffers, after the dataset has gone; many in
    one process (one for each fold, say) are let go by `keras.utils.clear_session()`.

    Raises
    ------
    InvalidValueError : an unknown method; epochs < 1; no batches.
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
    source = Source(batches, epochs)
    made_by = _generated if method == "generator" else in_groups(source) or _mapped
    dataset = made_by(source, None if epochs is None else int(epochs))
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_optimization.map_parallelization = False  # where it is asked for, it is said
    # The thread of autotuning sleeps for ever longer times, up to seconds, and the end of an iterator was seen to wait for it: an
    # epoch of 0.7 s took 1.3. There is nothing to tune here. AUTOTUNE behind this means as many calls as there are processors.
    options.autotune.enabled = False
    # Sharding of tf.data stands behind the reading: on top of shard= it would drop data of this worker's own part.
    policy = tf.data.experimental.AutoShardPolicy
    options.experimental_distribute.auto_shard_policy = policy.OFF if source.is_sharded else policy.DATA
    # A checkpoint then holds the place, from which batches made ahead are made again, and not the batches.
    options.experimental_symbolic_checkpoint = method == "map" and epochs != 1
    return dataset.with_options(options)


def _mapped(source: Source, epochs: int | None) -> Any:
    # There is nothing to convert in these functions, and converting them warns on Python 3.13.
    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def batch_at(*place: Any) -> Any:
        read = source.read_place if len(place) == 1 else source.read_of_pass
        # stateful=False: the batch depends on its place alone. Without it an iterator over it cannot be saved.
        arrays = tf.numpy_function(read, place, [spec.dtype for spec in source.specs], stateful=False)
        for array, spec in zip(arrays, source.specs, strict=True):
            array.set_shape(spec.shape)
        return source.packed(arrays)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def one_epoch(_: Any) -> Any:
        claimed = tf.numpy_function(source.next_pass, [], tf.int64)
        claimed.set_shape([])
        numbers = tf.data.Dataset.from_tensors(claimed).repeat()
        return tf.data.Dataset.zip(numbers, tf.data.Dataset.range(source.count))

    if epochs == 1:
        # flat_map runs its function when an iterator asks for the first batch, once for each iterator.
        places = tf.data.Dataset.range(1).flat_map(one_epoch).apply(tf.data.experimental.assert_cardinality(source.count))
    elif epochs is None:
        places = tf.data.Dataset.counter(start=source.first, step=1, dtype=tf.int64)
    else:
        places = tf.data.Dataset.range(source.first, source.end_of(epochs))
    # One call at a time: a parallel map would make as many batches as there are processors, and hold them. Reading goes on
    # in the thread of the prefetch while a batch is in use; another one between them would only cost its waking up.
    return places.map(batch_at).prefetch(1)


def _generated(source: Source, epochs: int | None) -> Any:
    def places() -> Iterator[tuple[Callable[..., Arrays], tuple[int, ...]]]:
        if epochs == 1:
            number = int(source.next_pass())
            for at in range(source.count):
                yield source.read_of_pass, (number, at)
            return
        place = source.first
        while epochs is None or place < source.end_of(epochs):
            yield source.read_place, (place,)
            place += 1

    def elements() -> Iterator[Any]:
        for read, place in places():
            yield source.packed(read(*place))

    last = source.first + source.count if epochs == 1 else source.end_of(epochs or 1)
    cardinality = tf.data.INFINITE_CARDINALITY if epochs is None else last - source.first
    # Nothing goes through args=: it would be copied into a tensor, and again into the graph.
    dataset = tf.data.Dataset.from_generator(elements, output_signature=source.packed(source.specs))
    return dataset.apply(tf.data.experimental.assert_cardinality(cardinality)).prefetch(1)


class Source:
    """Reads batches by their place in the row of all epochs, as flat tuples of arrays; knows which pass comes next."""

    def __init__(self, batches: Batches, epochs: int | None) -> None:
        self.batches = batches
        self.count = len(batches)
        epoch, batch = batches.position
        self.first = epoch * self.count + batch
        self.end = None if epochs is None else self.end_of(int(epochs))
        self._passes = 0
        self._lock = threading.Lock()
        made = batches.read(epoch, batch)
        first = leaves(made)
        length = batches.batch_size if batches.all_full else None
        self._shapes = BatchShapes(batches, made, length)
        self.specs = tuple(tf.TensorSpec((length, *array.shape[1:]), tf.as_dtype(array.dtype)) for array in first)
        self._ahead: LookAhead[int, tuple[Any, ...]] = LookAhead(self._begin, batches.transform_workers)
        self._one_by_one = threading.Lock()

        self.batch_size, self.samples = batches.batch_size, batches.samples
        self.batch_nbytes = sum(array.nbytes for array in first)

    @property
    def is_sharded(self) -> bool:
        return self.batches.shard[1] > 1

    def end_of(self, epochs: int) -> int:
        return (self.first // self.count + epochs) * self.count

    def next_pass(self) -> np.int64:
        with self._lock:
            return np.int64(self._passes)

    def read_of_pass(self, number: int, at: int) -> Arrays:
        first = self.first + int(number) * self.count
        arrays = self._made(first + int(at), first + self.count)
        if at == self.count - 1:
            self.finish_pass(int(number))
        return arrays

    def finish_pass(self, number: int) -> None:
        with self._lock:
            self._passes = max(self._passes, number + 1)

    def samples_of(self, batch: int, stop: int) -> tuple[np.ndarray[Any, np.dtype[np.int64]], int]:
        """Where in an epoch each of the batches [batch, stop) begins, and the last of them ends."""
        places = np.arange(batch, stop, dtype=np.int64) * self.batch_size
        return places, min(stop * self.batch_size, self.samples)

    def read_place(self, place: int) -> Arrays:
        return self._made(int(place), NO_END if self.end is None else self.end)

    def _made(self, place: int, end: int) -> Arrays:
        """The arrays of the batch at a place; with several workers, those behind it are begun with, up to `end`."""
        if self.batches.transform_workers == 1:
            made = self._begin(place)()  # the prefetch behind this asks ahead
        else:
            with self._one_by_one:  # iterators that take turns drop what was made ahead for one another, no more
                made = self._ahead.get(place, range(place + 1, end))
        self._shapes.require(made, *divmod(place, self.count))
        return tuple(leaves(made))

    def _begin(self, place: int) -> Callable[[], tuple[Any, ...]]:
        epoch, batch = divmod(place, self.count)
        return self.batches.begin(epoch, batch, aligned=True)

    def packed(self, flat: Any) -> tuple[Any, ...]:
        """The flat arrays, tensors or specs in the structure that Keras unpacks: (x,), (x, y) or (x, y, w)."""
        parts: tuple[Any, ...] = pack(self._shapes.structure, flat)
        return parts
