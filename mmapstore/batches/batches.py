"""Batches: an order and readers, joined to (x, y). NumPy in, NumPy out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plain.errors import InvalidValueError, NotAnArrayError, OutOfRangeError
from ..plain.memory_budget import MemoryPlan, format_bytes, parse_bytes
from ..plain.nests import leaves, pack
from ..plain.sample_order import SampleOrder, Shuffling
from ..plain.windows import Anchors, whole_number
from ..readers.contract import Array, Reader, within
from . import window_frames
from .arguments import checked_shard, loaded_position, require_windows, window_range
from .batch_reader import BatchReader
from .batch_source import GroupedReads
from .cursor import Cursor
from .look_ahead import LookAhead
from .plan import Frames, Plan
from .sampling import Sampling
from .transforms import BatchTransform, Transform

if TYPE_CHECKING:
    import tensorflow as tf

    from ..adapters.jax_arrays import JaxArrays
    from ..adapters.keras_sequence import Sequence
    from ..adapters.torch_dataset import TorchDataset
    from .dataset import Dataset


class Batches:
    """Batches of a dataset, in an order that is a pure function of (seed, epoch).

    Made by `Dataset.batches`; see there for the arguments. `len(b)` is the number of batches in an epoch, `b[i]`
    reads batch i of the current epoch, iterating gives one epoch and then moves on to the next.

    Loops and all adapters (`to_keras`, `to_tf`, `to_torch`, `to_jax`) share one position. When the last batch of a pass (a loop, an
    epoch of `fit`, an iteration of a dataset) was handed out, the next pass begins the next epoch; a pass that is broken off is
    begun again. `state_dict()` says what comes after the last batch handed out; the pass after `load_state_dict` goes on there, to
    the end of that epoch.

    A batch is (x, y), (x, y, w) with weights, or x alone without a target: NumPy arrays, or tuples, lists and dicts of
    them, as asked for or as the transform returned them. Unshuffled, unconverted batches from plain bytes are read-only
    views of a memory map; everything else is a copy in a lent buffer, which is reused after the last reference to it has
    gone. Arrays that share frames (x and y of `NextFrame`) are read-only.
    """

    def __init__(
        self,
        dataset: Dataset,
        plan: Plan,
        batch_size: int,
        *,
        shuffle: bool | int,
        seed: int,
        drop_last: bool,
        shard: tuple[int, int] | str,
        transform: Transform | None,
        transform_workers: int,
        sampling: Callable[[Anchors, int], Sampling | None],
        max_memory: int | str | None,
    ) -> None:
        self.batch_size = whole_number("batch_size", batch_size, least=1)
        self.seed = whole_number("seed", seed)
        self.drop_last = bool(drop_last)
        rank = checked_shard(shard)
        self.shard, self._shard_source = (rank.rank, rank.size), rank.source
        self._transform = None if transform is None else BatchTransform(transform, len(plan.parts), self.seed, self.shard[0])
        self.transform_name = None if self._transform is None else self._transform.name
        self.transform_workers = whole_number("transform_workers", transform_workers, least=1)
        if self.transform_workers > 1 and transform is None:
            raise InvalidValueError(f"transform_workers={transform_workers} without transform=: there is nothing for them to do.")
        window = plan.window
        self._sample_nbytes = sum(spec.sample_nbytes for spec in plan.fields.values())
        cut = dataset._episodes
        windows = plan.reach(), window.stride, *window_range(window.start_index, window.end_index, cut)
        self._anchors = Anchors(cut, *windows, dataset._selection)
        self._shuffling = Shuffling.of(shuffle, self._sample_nbytes)
        require_windows(self._anchors, plan, self.shard, dataset.name)
        self._sampling = sampling(Anchors(cut, *windows, dataset._selection, numbered=True), window.offsets()[0][-1])
        draws = None if self._sampling is None else self._sampling.draws
        self._order = SampleOrder(len(self._anchors), self._shuffling, self.seed, self.shard, draws)
        if len(self) == 0:
            raise InvalidValueError(
                f"drop_last=True leaves no batch: there are {len(self._order)} samples and batch_size is {self.batch_size}. "
                "Make the batch smaller, or keep the last one."
            )
        self._plan = plan
        self._fingerprint = dataset.fingerprint
        self._fingerprinted: str | None = None
        self._name = dataset.name
        allowed = math.inf if max_memory is None else parse_bytes(max_memory)

        def fits(readers: Mapping[str, Reader], share: int) -> bool:
            stretch_bytes, workers = window_frames.STRETCH_BYTES // share, self.transform_workers
            self._reader = BatchReader(
                readers, plan, self._anchors, self._order, self.batch_size, stretch_bytes, workers, self._name
            )
            return self.memory.total <= allowed

        # In sequential order less may be read ahead: slower, and in less memory. Then fewer threads may decode.
        shares = (1, 2, 4) if self._shuffling is None else (1,)
        if not any(fits(dataset.readers, share) for share in shares):
            spare = int(allowed) - self.memory.total + self.memory.parts["decoder"]
            if not any(fits(within(dataset.readers, nbytes), share) for nbytes in (spare, 0) for share in shares):
                self._require(int(allowed))
        self.cursor = Cursor(len(self))

    # --- size and shape ----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the batches in an epoch."""
        whole, rest = divmod(len(self._order), self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    @property
    def samples(self) -> int:
        """Samples (windows) in an epoch of this shard, those of a dropped last batch included."""
        return len(self._order)

    @property
    def all_full(self) -> bool:
        """True if every batch has exactly `batch_size` samples."""
        return self.drop_last or len(self._order) % self.batch_size == 0

    @property
    def effective_batch(self) -> float:
        """The size of a batch of independent samples that mixes as well, at worst: B / (1 + (B - 1) / K) for K blocks in a window.

        1 in sequential order, where neighbours may all be alike; the batch size where one window holds everything.
        """
        if self._shuffling is None:
            return 1.0
        anchors, blocks = self._order.largest_window()
        if anchors >= len(self._order):
            return float(self.batch_size)
        return Shuffling(self._shuffling.block, blocks).effective_batch(self.batch_size)

    @property
    def memory(self) -> MemoryPlan:
        """Predicted peak of private memory of an epoch, in named parts, in bytes; the framework's own is not in it."""
        return self._reader.memory()

    @property
    def takes_time(self) -> bool:
        """False where a batch is nothing but a view of the mapped file: then there is nothing to do ahead."""
        return self._transform is not None or self._reader.takes_time

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self, epoch: int, batch: int, *, aligned: bool = False) -> tuple[Any, ...]:
        """Read batch `batch` of epoch `epoch`, as (x,), (x, y) or (x, y, w). Changes no position; any thread may call it.

        Each is a nest: an array, or a tuple, list or dict of nests, as asked for or as `transform` returned it.

        With `aligned`, every array is C-contiguous and starts at a multiple of 64 bytes, so that TensorFlow takes it
        without a copy. Raises OutOfRangeError past the last batch.
        """
        return self.begin(epoch, batch, aligned=aligned)()

    def begin(self, epoch: int, batch: int, *, aligned: bool = False) -> Callable[[], tuple[Any, ...]]:
        """Read what a batch is made of, and return the function that makes it, to be called once, from any thread.

        For `LookAhead`, which reads in order and transforms in several threads. Arguments and errors as for `read`.
        """
        if not 0 <= batch < len(self):
            raise OutOfRangeError(f"there is no batch {batch}: an epoch has {len(self)} batches, counted from 0.")
        return self._finish(self._parts(epoch, batch), epoch, batch, aligned)

    def _reader_of(self, epoch: int) -> BatchReader:
        """Return the reader of an epoch's batches; the same for all but `RoundBatches`."""
        return self._reader

    def _parts(self, epoch: int, batch: int) -> tuple[Any, ...]:
        parts: tuple[Any, ...] = pack(self._plan.parts, self._reader_of(epoch).read(epoch, batch))
        return parts

    def _finish(self, parts: tuple[Any, ...], epoch: int, batch: int, aligned: bool = False) -> Callable[[], tuple[Any, ...]]:
        def finished() -> tuple[Any, ...]:
            made = parts
            if self._transform is not None:
                made = self._transform(parts, epoch, batch, partial(self.named, epoch, batch))
            return pack(made, map(self._reader.aligned, leaves(made))) if aligned else made

        return finished

    def named(self, epoch: int, batch: int) -> str:
        """Return how messages name a batch: by its number, its epoch and its samples."""
        return self._reader_of(epoch).named(epoch, batch)

    def grouped(self, casts: Callable[[np.dtype[Any], np.dtype[Any]], bool]) -> GroupedReads | None:
        """Return how small batches are read many at a time, for adapters; see `BatchSource.grouped`."""
        if self._transform is not None:
            return None
        found = self._reader.grouped(casts)
        if found is not None or self._together == 1:
            return found

        def fetch(epoch: int, batch: int, batches: int) -> list[tuple[Array, Array]]:
            arrays = self._reader_of(epoch).read(epoch, batch, batches)
            return [(np.arange(len(array)), self._reader.aligned(array)) for array in arrays]

        specs = [replace(one.spec, shape=(0, *one.shape), dtype=one.dtype) for one in self._plan.arrays]
        as_read = [Frames("", range(1), False, spec, spec.dtype, None) for spec in specs]
        return GroupedReads(as_read, fetch, self._together, False)

    @property
    def _together(self) -> int:
        """Batches to read together: more than 1 where each is so small that a call costs more than its bytes."""
        return min(self._reader.together, len(self))

    def __getitem__(self, batch: int) -> Any:
        """Read batch `batch` of the current epoch (`position[0]`); negative numbers count from the end."""
        number = whole_number("a batch number", batch)
        return _given(self.read(self.position[0], number + len(self) if -len(self) <= number < 0 else number))

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the epoch that comes next, from its beginning or from a loaded position on."""
        walk = self.cursor.begin()
        epoch, first = walk.first
        reads = self._parts_from(epoch, first)
        made: LookAhead[int, tuple[Any, ...]] = LookAhead(
            lambda batch: self._finish(next(reads), epoch, batch), self.transform_workers
        )
        ready = deque[tuple[Any, ...]]()
        try:
            for batch in range(first, len(self)):
                ready.append(made.get(batch, () if self._transform is None else range(batch + 1, len(self))))
                walk.hand_out(batch + 1 - first)
                if batch + 1 == len(self):
                    walk.complete()
                yield _given(ready.popleft())  # the buffer is lent: held here while the next is read, one more would be alive
        finally:
            made.close()
            reads.close()

    def _parts_from(self, epoch: int, first: int) -> Generator[tuple[Any, ...], None, None]:
        """Yield the parts of the batches of an epoch, without `transform`. Small ones are read in groups, the next one ahead."""
        step, size, end = self._together, self.batch_size, len(self)

        def read(batch: int) -> deque[tuple[Any, ...]]:
            count = stop_of(batch) - batch
            if count == 1:
                return deque([self._parts(epoch, batch)])
            arrays = self._reader_of(epoch).read(epoch, batch, count)
            return deque(pack(self._plan.parts, [array[i : i + size] for array in arrays]) for i in range(0, len(arrays[0]), size))

        def stop_of(batch: int) -> int:
            # Whole groups, also after a beginning in the middle of one: others straddle stretches of decoded frames.
            return min(batch + step - batch % step, end)

        ahead: LookAhead[int, deque[tuple[Any, ...]]] = LookAhead(lambda batch: partial(read, batch))
        # Before a transform nothing is read ahead: batches are made ahead as a whole.
        is_ahead = self._transform is None and self.takes_time
        try:
            while first < end:
                group = ahead.get(first, range(stop_of(first), end, step) if is_ahead else ())
                while group:
                    yield group.popleft()  # its buffer is lent: nothing here keeps it alive
                first = stop_of(first)
        finally:
            ahead.close()

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

    def state_at(self, epoch: int, batch: int) -> dict[str, Any]:
        """Return the state of having read everything before that batch, for callers who keep count themselves."""
        order, data = self._order_json(), self._digest()
        return {"version": 1, "epoch": int(epoch), "batch": int(batch), "order": order, "fingerprint": data}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved position. Raises StateMismatchError if it belongs to other data or another order."""
        self.cursor.move_to(*loaded_position(state, self._order_json(), self._digest, len(self), self._name))

    def _digest(self) -> str:
        if self._fingerprinted is None:
            self._fingerprinted = self._fingerprint()  # reads samples, and a position may be saved after each batch
        return self._fingerprinted

    def _order_json(self) -> dict[str, Any]:
        block = [self._shuffling.block, self._shuffling.blocks_per_window] if self._shuffling else None
        return {
            "samples": len(self._anchors),
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
            "shard": list(self.shard),
            "seed": self.seed,
            "shuffle": block,
            "arrays": self._plan.digest(),
            "sampling": None if self._sampling is None else self._sampling.digest,
        }

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

    def __repr__(self) -> str:
        lost = self._anchors.samples_without
        ends = f" ({lost} of {lost + len(self._anchors)} samples begin no window)" if lost else ""
        order = "in sequential order"
        if self._shuffling is not None:
            anchors, blocks = self._order.largest_window()
            order = (
                "shuffled throughout"
                if anchors >= len(self._order)
                else f"shuffled in windows of {anchors} from {blocks} places (effective batch at least {self.effective_batch:.3g})"
            )
        if self._sampling is not None:
            order += f", {self._sampling.words}"
        if self._shard_source != "given":
            order += f", shard {self.shard[0]} of {self.shard[1]} ({self._shard_source})"
        peak = format_bytes(self.memory.total)
        return f"<Batches of {self._name}: {len(self)} x {self.batch_size}, {self._plan.words}; {order}{ends}; peak {peak}>"

    def _require(self, limit: int) -> None:
        remedy = f"Make batch_size={self.batch_size} smaller."
        needed = self.memory
        held = needed.parts["windows of frames"]
        fits = self._shuffle_that_fits(limit) if held else 0
        if fits:
            remedy = f"shuffle={fits} fits (a smaller shuffling window: less memory, less mixing)."
        needed.require(limit, f"an epoch over {self._name}", remedy)

    def _shuffle_that_fits(self, limit: int) -> int:
        """Return about the most samples of a shuffling window within `limit` bytes; 0 if not even 2 fit."""
        samples = self._order.largest_window()[0]
        while samples >= 2:
            shuffling = Shuffling.of(samples, self._sample_nbytes)
            smaller = SampleOrder(len(self._anchors), shuffling, self.seed, self.shard, self._order.draws)
            if self._reader.memory(smaller).total <= limit:
                return samples
            samples = samples * 7 // 8
        return 0


def _given(parts: tuple[Any, ...]) -> Any:
    """Return a batch as loops have it: x alone without a target."""
    return parts[0] if len(parts) == 1 else parts
