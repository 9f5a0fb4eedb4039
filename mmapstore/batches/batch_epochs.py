"""Epochs of batches as loops and frameworks have them, whatever the batches are made of."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from ..plain.errors import InvalidValueError, NotAnArrayError
from ..plain.memory_budget import MemoryPlan
from ..plain.windows import whole_number
from .batch_source import Array, BatchSource
from .look_ahead import LookAhead

if TYPE_CHECKING:
    import tensorflow as tf

    from ..adapters.jax_arrays import JaxArrays
    from ..adapters.keras_sequence import Sequence
    from ..adapters.torch_dataset import TorchDataset


class BatchEpochs(BatchSource):
    """A source of batches that is iterated over, that saves its position, and that feeds frameworks.

    `len(b)` is the number of batches in an epoch, `b[i]` reads batch i of the current epoch, iterating gives one epoch and then
    moves on to the next.
    """

    # --- size and shape ----------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def samples(self) -> int:
        """Samples in an epoch of this shard, those of a dropped last batch included."""

    @property
    @abstractmethod
    def batch_sizes(self) -> set[int]:
        """The numbers of samples that batches may have."""

    @property
    def all_full(self) -> bool:
        """True if every batch has exactly `batch_size` samples."""
        return self.batch_sizes == {self.batch_size}

    @property
    @abstractmethod
    def memory(self) -> MemoryPlan:
        """Predicted peak of private memory of an epoch, in named parts, in bytes; the framework's own is not in it."""

    @abstractmethod
    def kinds(self) -> tuple[Any, ...]:
        """Return a `Kind` for each array of a batch, in its structure."""

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self, epoch: int, batch: int, *, aligned: bool = False) -> tuple[Any, ...]:
        """Read batch `batch` of epoch `epoch`, as (x,), (x, y) or (x, y, w). Changes no position; any thread may call it.

        Each is a nest: an array, or a tuple, list or dict of nests, as asked for or as `transform` returned it.

        With `aligned`, every array is C-contiguous and starts at a multiple of 64 bytes, so that TensorFlow takes it
        without a copy. Raises OutOfRangeError past the last batch.
        """
        return self.begin(epoch, batch, aligned=aligned)()

    def __getitem__(self, batch: int) -> Any:
        """Read batch `batch` of the current epoch (`position[0]`); negative numbers count from the end."""
        number = whole_number("a batch number", batch)
        return _given(self.read(self.position[0], number + len(self) if -len(self) <= number < 0 else number))

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the epoch that comes next, from its beginning or from a loaded position on."""
        walk = self.cursor.begin()
        epoch, first = walk.first
        begun = self.begun_from(epoch, first)
        made: LookAhead[int, tuple[Any, ...]] = LookAhead(lambda _: next(begun), self.transform_workers)
        ready = deque[tuple[Any, ...]]()
        try:
            for batch in range(first, len(self)):
                ready.append(made.get(batch, range(batch + 1, len(self)) if self.finishes_ahead else ()))
                walk.hand_out(batch + 1 - first)
                if batch + 1 == len(self):
                    walk.complete()
                yield _given(ready.popleft())  # the buffer is lent: held here while the next is read, one more would be alive
        finally:
            made.close()
            begun.close()

    def begun_from(self, epoch: int, first: int) -> Generator[Callable[[], tuple[Any, ...]], None, None]:
        """Yield, for the batches of an epoch in order, what `begin` returns. For one caller at a time."""
        for batch in range(first, len(self)):
            yield self.begin(epoch, batch)

    @property
    def finishes_ahead(self) -> bool:
        """True if a loop asks `begun_from` for batches ahead of the one in use, and finishes them in threads."""
        return self.takes_time

    def _require_some(self) -> None:
        if len(self) == 0:
            raise InvalidValueError(
                f"drop_last=True leaves no batch: there are {self.samples} samples and batch_size is {self.batch_size}. "
                "Make the batch smaller, or keep the last one."
            )

    # --- position ----------------------------------------------------------------------------------------------------

    @property
    def position(self) -> tuple[int, int]:
        """The (epoch, batch) after the last batch handed out."""
        return self.cursor.position

    def state_dict(self, trained: int | None = None) -> dict[str, Any]:
        """Return the position as a small JSON-able dict, bound to the data and to the order.

        trained : for callbacks of `fit`, how many batches of the running Keras epoch were trained on (`batch + 1` in
            `on_train_batch_end(batch, logs)`): Keras asks for batches ahead of training, and would have these skipped
        """
        return self.state_at(*(self.position if trained is None else self.cursor.after(trained)))

    # --- frameworks --------------------------------------------------------------------------------------------------

    def to_keras(self, steps: int | None = None, **workers: Any) -> Sequence:
        """Return a `keras.utils.PyDataset` of these batches, for `fit`, `evaluate` and `predict` on any Keras backend.

        Pass `shuffle=False` to `fit`: Keras permutes whole batches by default, and trains in another order than theirs.

        steps : batches in a Keras epoch, instead of all; the next epoch goes on where the last one ended
        """
        from ..adapters.keras_sequence import Sequence

        return Sequence(self, steps=steps, **workers)

    def to_tf(self, method: str = "map", epochs: int | None = 1) -> tf.data.Dataset:
        """Return a `tf.data.Dataset` of these batches, of known cardinality.

        epochs : 1 gives the next epoch each time the dataset is iterated; n or None (endless) is one range of
            batches over epochs, whose iterator `tf.train.Checkpoint` can save and restore in the middle
        method : "map", or "generator" to go through `tf.data.Dataset.from_generator`
        """
        from ..adapters.tf_dataset import to_tf

        return to_tf(self, method=method, epochs=epochs)

    def to_torch(self) -> TorchDataset:
        """Return a torch `IterableDataset` of these batches, for `DataLoader(..., batch_size=None)` with any number of workers."""
        from ..adapters.torch_dataset import TorchDataset

        return TorchDataset(self)

    def to_jax(self, sharding: Any = None) -> JaxArrays:
        """Return these batches as JAX arrays, to iterate over.

        sharding : a `jax.sharding.Mesh`, over whose first axis batches are divided; a `jax.sharding.Sharding`; None for one device
        """
        from ..adapters.jax_arrays import JaxArrays

        return JaxArrays(self, sharding)

    def __array__(self, *_: Any, **__: Any) -> Array:
        raise self._not_an_array()

    @property
    def shape(self) -> tuple[int, ...]:
        """Batches have none. Keras asks for it in fit(batches): the place to say what to write instead."""
        raise self._not_an_array()

    def _not_an_array(self) -> NotAnArrayError:
        return NotAnArrayError(
            "these are batches, not an array; write model.fit(batches.to_keras(), shuffle=False), or model.fit(batches.to_tf())."
        )


def _given(parts: tuple[Any, ...]) -> Any:
    """Return a batch as loops have it: x alone without a target."""
    return parts[0] if len(parts) == 1 else parts
