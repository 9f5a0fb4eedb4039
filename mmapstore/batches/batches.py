"""Batches: an order and readers, joined to (x, y). NumPy in, NumPy out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plain.errors import InvalidValueError, NotAnArrayError, OutOfRangeError
from ..plain.memory_budget import MemoryPlan, format_bytes, parse_bytes
from ..plain.sample_order import SampleOrder, Shuffling
from ..plain.selection import Selection
from ..plain.windows import Anchors, Episodes
from ..readers.contract import Array, Reader, within
from . import window_frames
from .arguments import checked_shard, require_windows, whole_number, window_range
from .batch_reader import BatchReader, Gather, Numbers
from .batch_source import GroupedReads
from .contents import BatchContents
from .cursor import Cursor
from .look_ahead import LookAhead
from .loop_reads import LoopReads
from .plan import Plan
from .sampling import Sampling
from .state import loaded_position, saved_position
from .transforms import BatchTransform, Transform

if TYPE_CHECKING:
    import tensorflow as tf

    from ..adapters.keras_sequence import Sequence

_POSITIONS_AT_ONCE = 1024  # working out an order costs the same for 30 positions as for 300


class Batches:
    """Batches of a dataset, in an order that is a pure function of (seed, epoch).

    Made by `Dataset.batches`; see there for the arguments. `len(b)` is the number of batches in an epoch, `b[i]`
    reads batch i of the current epoch, iterating gives one epoch and then moves on to the next.

    Loops, `to_keras` and `to_tf` share one position. When the last batch of a pass (a loop, an epoch of `fit`, an iteration of a
    dataset) was handed out, the next pass begins the next epoch; a pass that is broken off is begun again. `state_dict()` says what
    comes after the last batch handed out; the pass after `load_state_dict` goes on there, to the end of that epoch.

    A batch is (x, y), (x, y, w) with weights, or x alone without a target: NumPy arrays, or tuples, lists and dicts of
    them, as asked for or as the transform returned them. Unshuffled, unconverted batches from plain bytes are read-only
    views of a memory map; everything else is a copy in a lent buffer, which is reused after the last reference to it has
    gone. Arrays that share frames (x and y of `NextFrame`) are read-only.
    """

    def __init__(
        self,
        readers: Mapping[str, Reader],
        selection: Selection,
        episodes: Episodes,
        plan: Plan,
        batch_size: int,
        *,
        shuffle: bool | int,
        seed: int,
        drop_last: bool,
        shard: tuple[int, int],
        transform: Transform | None,
        transform_workers: int,
        max_memory: int | str | None,
        sampling: Callable[[Anchors, int], Sampling | None],
        fingerprint: Callable[[], str],
        name: str,
    ) -> None:
        self.batch_size = whole_number("batch_size", batch_size, least=1)
        self.seed = whole_number("seed", seed)
        self.drop_last = bool(drop_last)
        self.shard = checked_shard(shard)
        self._transform = None if transform is None else BatchTransform(transform, len(plan.parts), self.seed, self.shard[0])
        self.transform_name = None if self._transform is None else self._transform.name
        self.transform_workers = whole_number("transform_workers", transform_workers, least=1)
        if self.transform_workers > 1 and transform is None:
            raise InvalidValueError(f"transform_workers={transform_workers} without transform=: there is nothing for them to do.")
        window = plan.window
        self._sample_nbytes = sum(spec.sample_nbytes for spec in plan.fields.values())
        windows = plan.reach(), window.stride, *window_range(window.start_index, window.end_index, episodes)
        self._anchors = Anchors(episodes, *windows, selection)
        self._shuffling = Shuffling.of(shuffle, self._sample_nbytes)
        require_windows(self._anchors, plan, self.shard, name)
        self._sampling = sampling(Anchors(episodes, *windows, selection, numbered=True), window.offsets()[0][-1])
        draws = None if self._sampling is None else self._sampling.draws
        self._order = SampleOrder(len(self._anchors), self._shuffling, self.seed, self.shard, draws)
        if len(self) == 0:
            raise InvalidValueError(
                f"drop_last=True leaves no batch: there are {len(self._order)} samples and batch_size is {self.batch_size}. "
                "Make the batch smaller, or keep the last one."
            )
        self._plan = plan
        self._contents = BatchContents(plan, self._anchors, self.batch_size, self._transform, name)
        self._fingerprint = fingerprint
        self._fingerprinted: str | None = None
        self._name = name
        allowed = math.inf if max_memory is None else parse_bytes(max_memory)

        def fits(readers: Mapping[str, Reader], share: int) -> bool:
            anchors, size, stretch_bytes = self._anchors, self.batch_size, window_frames.STRETCH_BYTES // share
            self._assembly = BatchReader(readers, plan, anchors, self._order, size, stretch_bytes, self.transform_workers)
            return self.memory.total <= allowed

        # In sequential order less may be read ahead: slower, and in less memory. Then fewer threads may decode.
        shares = (1, 2, 4) if self._shuffling is None else (1,)
        if not any(fits(readers, share) for share in shares):
            spare = int(allowed) - self.memory.total + self.memory.parts["decoder"]
            if not fits(within(readers, spare), shares[-1]):
                self._require(int(allowed))
        self.cursor = Cursor(len(self))
        self._cached: tuple[tuple[int, int], Array] | None = None

    # --- size and shape ----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Batches in an epoch."""
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

        1 in stored order, where neighbours may all be alike; the batch size where one window holds everything.
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
        return self._assembly.memory()

    @property
    def takes_time(self) -> bool:
        """False where a batch is nothing but a view of the mapped file: then there is nothing to do ahead."""
        return self._transform is not None or self._assembly.takes_time

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self, epoch: int, batch: int, *, aligned: bool = False) -> tuple[Any, ...]:
        """Batch `batch` of epoch `epoch`, as (x,), (x, y) or (x, y, w). Pure: it changes no position, and any thread may call it.

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
        return self._finish(self._parts(epoch, batch), epoch, batch, self._assembly.aligned if aligned else None)

    def _parts(self, epoch: int, batch: int) -> tuple[Any, ...]:
        numbers = self._numbers(epoch, batch)
        arrays = self._assembly.read(epoch, batch * self.batch_size, numbers)
        self._contents.require_weights(arrays, epoch, batch, numbers)
        return self._contents.packed(arrays)

    def _finish(self, parts: tuple[Any, ...], epoch: int, batch: int, aligned: Any = None) -> Callable[[], tuple[Any, ...]]:
        return partial(self._contents.finished, parts, epoch, batch, partial(self.named, epoch, batch), aligned)

    def named(self, epoch: int, batch: int) -> str:
        """Return how messages name a batch: by its number, its epoch and its samples."""
        return self._contents.named(epoch, batch, self._numbers(epoch, batch))

    def grouped(self, casts: Callable[[np.dtype[Any], np.dtype[Any]], bool]) -> GroupedReads | None:
        """Return how small batches are read many at a time, for adapters; see `BatchSource.grouped`."""
        gathers = self._assembly.gathers() if self._transform is None else None
        if gathers is not None and all(casts(one.stored, one.dtype) for one in gathers):
            held = self._assembly.held_together
            return GroupedReads(gathers, partial(self._rows, gathers), held and max(1, held // self.batch_size), held is not None)
        if self._together == 1:
            return None
        as_read = [Gather("", one.shape, one.dtype, range(1), False, one.dtype, None) for one in self._plan.arrays]
        return GroupedReads(as_read, self._rows_as_read, self._together, False)

    @property
    def _together(self) -> int:
        """Batches to read together: more than 1 where each is so small that a call costs more than its bytes, and is only read."""
        return 1 if self._transform is not None else min(self._assembly.together, len(self))

    def _read_together(self, epoch: int, batch: int, batches: int, *, aligned: bool = False) -> list[Array]:
        """Several batches of an epoch as one, without `transform`: all arrays, x before y."""
        numbers = self._anchors_of(epoch, batch, batches)
        arrays = self._assembly.read(epoch, batch * self.batch_size, numbers)
        self._contents.require_weights(arrays, epoch, batch, numbers)
        return [self._assembly.aligned(array) for array in arrays] if aligned else arrays

    def _rows_as_read(self, epoch: int, batch: int, batches: int) -> list[tuple[Array, Array]]:
        return [(np.arange(len(array)), array) for array in self._read_together(epoch, batch, batches, aligned=True)]

    def _rows(self, gathers: list[Gather], epoch: int, batch: int, batches: int) -> list[tuple[Array, Array]]:
        numbers = self._anchors_of(epoch, batch, batches)
        found = self._assembly.rows(epoch, batch * self.batch_size, numbers)
        weights = [found[one.field][1][found[one.field][0] + one.offsets[0]] for one in self._plan.weights]
        self._contents.require_weights(weights, epoch, batch, numbers)
        # The rows of each array are an array of their own: TensorFlow may compute in them.
        return [(found[one.field][0] + one.offsets.start, found[one.field][1]) for one in gathers]

    def _anchors_of(self, epoch: int, batch: int, batches: int) -> Numbers:
        start = batch * self.batch_size
        return self._order.anchors_at(epoch, start, min(start + batches * self.batch_size, len(self._order)))

    def _numbers(self, epoch: int, batch: int) -> Numbers:
        """The anchors of a batch; a stretch of them is worked out at once and kept."""
        if self._shuffling is None:
            return self._anchors_of(epoch, batch, 1)
        stretch = max(1, _POSITIONS_AT_ONCE // self.batch_size)
        first = batch // stretch * stretch
        cached = self._cached
        if cached is None or cached[0] != (epoch, first):
            cached = self._cached = (epoch, first), self._anchors_of(epoch, first, stretch)
        start = (batch - first) * self.batch_size
        return cached[1][start : start + self.batch_size]

    def __getitem__(self, batch: int) -> Any:
        """Batch `batch` of the current epoch (`position[0]`); negative numbers count from the end."""
        number = whole_number("a batch number", batch)
        return _given(self.read(self.position[0], number + len(self) if -len(self) <= number < 0 else number))

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the epoch that comes next, from its beginning or from a loaded position on."""
        walk = self.cursor.begin()
        epoch, first = walk.first
        # Before a transform nothing is read ahead: batches are made ahead as a whole.
        is_ahead = self._transform is None and self.takes_time
        reads = LoopReads(partial(self._group, epoch), len(self), min(self._assembly.together, len(self)), is_ahead)
        made: LookAhead[int, tuple[Any, ...]] = LookAhead(
            lambda batch: self._finish(reads.take(batch), epoch, batch), self.transform_workers
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

    def _group(self, epoch: int, batch: int, batches: int) -> list[tuple[Any, ...]]:
        """Read these batches by one call, without `transform`."""
        if batches == 1:
            return [self._parts(epoch, batch)]
        arrays, step = self._read_together(epoch, batch, batches), self.batch_size
        return [self._contents.packed([array[i : i + step] for array in arrays]) for i in range(0, len(arrays[0]), step)]

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
        return saved_position(epoch, batch, self._order_json(), self._digest())

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
        """A `keras.utils.PyDataset` of these batches, for `fit`, `evaluate` and `predict` on any Keras backend.

        Pass `shuffle=False` to `fit`: Keras permutes whole batches by default, and trains in another order than theirs.

        steps : batches in a Keras epoch, instead of all; the next epoch goes on where the last one ended
        """
        from ..adapters.keras_sequence import Sequence

        return Sequence(self, steps=steps, **workers)

    def to_tf(self, method: str = "map", epochs: int | None = 1) -> tf.data.Dataset:
        """A `tf.data.Dataset` of these batches, of known cardinality.

        epochs : 1 gives the next epoch each time the dataset is iterated; n or None (endless) is one range of
            batches over epochs, whose iterator `tf.train.Checkpoint` can save and restore in the middle
        method : "map", or "generator" to go through `tf.data.Dataset.from_generator`
        """
        from ..adapters.tf_dataset import to_tf

        return to_tf(self, method=method, epochs=epochs)

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
        order = "in stored order"
        if self._shuffling is not None:
            anchors, blocks = self._order.largest_window()
            order = (
                "shuffled throughout"
                if anchors >= len(self._order)
                else f"shuffled in windows of {anchors} from {blocks} places (effective batch at least {self.effective_batch:.3g})"
            )
        if self._sampling is not None:
            order += f", {self._sampling.words}"
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
        """The samples of a shuffling window within `limit` bytes, about the most there can be; 0 if not even 2 fit."""
        samples = self._order.largest_window()[0]
        while samples >= 2:
            shuffling = Shuffling.of(samples, self._sample_nbytes)
            smaller = SampleOrder(len(self._anchors), shuffling, self.seed, self.shard, self._order.draws)
            if self._assembly.memory(smaller).total <= limit:
                return samples
            samples = samples * 7 // 8
        return 0


def _given(parts: tuple[Any, ...]) -> Any:
    """A batch as loops have it: x alone without a target."""
    return parts[0] if len(parts) == 1 else parts
