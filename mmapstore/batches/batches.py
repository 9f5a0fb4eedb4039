"""Batches: an order and readers, joined to (x, y). NumPy in, NumPy out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plain.errors import InvalidValueError, OutOfRangeError, StateMismatchError
from ..plain.memory_budget import MemoryPlan, format_bytes, parse_bytes
from ..plain.nests import leaves, map_leaves, pack
from ..plain.resumed_order import ResumedOrder, batches_of
from ..plain.sample_order import SampleOrder, Shuffling
from ..plain.windows import Anchors, whole_number
from ..readers.contract import Array, Reader, within
from . import batch_reader, window_frames
from .arguments import checked_shard, loaded_position, require_windows, window_range
from .batch_epochs import BatchEpochs
from .batch_reader import BatchReader
from .batch_source import GroupedReads, Kind, kinds_of
from .cursor import Cursor
from .look_ahead import LookAhead
from .plan import Frames, Plan
from .sampling import Sampling
from .transforms import BatchTransform, Transform

if TYPE_CHECKING:
    from .dataset import Dataset


class Batches(BatchEpochs):
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
        self._whole = self._order = SampleOrder(len(self._anchors), self._shuffling, self.seed, self.shard, draws)
        self._require_some()
        self._plan = plan
        self._fingerprint = dataset.fingerprint
        self._fingerprinted: str | None = None
        self._name = dataset.name
        self._allowed = allowed = math.inf if max_memory is None else parse_bytes(max_memory)

        def fits(readers: Mapping[str, Reader], share: int) -> bool:
            together_bytes, workers = batch_reader.TOGETHER_BYTES // share, 0 if transform is None else self.transform_workers
            stretch_bytes = window_frames.STRETCH_BYTES // share
            self._reader = BatchReader(
                readers,
                plan,
                self._anchors,
                self._order,
                self.batch_size,
                stretch_bytes,
                together_bytes,
                share == 1,
                workers,
                self._name,
            )
            return self.memory.total <= allowed

        # Less may be read ahead: slower, and in less memory. Then fewer threads may decode.
        shares = (1, 2, 4)
        if not any(fits(dataset.readers, share) for share in shares):
            spare = int(allowed) - self.memory.total + self.memory.parts["decoder"]
            if not any(fits(within(dataset.readers, nbytes), share) for nbytes in (spare, 0) for share in shares):
                self._require(int(allowed))
        self.cursor = Cursor(len(self))

    # --- size and shape ----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the batches in an epoch."""
        return batches_of(len(self._whole), self.batch_size, self.drop_last)

    @property
    def samples(self) -> int:
        """Samples (windows) in an epoch of this shard, those of a dropped last batch included."""
        return len(self._order)

    @property
    def batch_sizes(self) -> set[int]:
        """The numbers of samples that batches may have: several where a last batch is short."""
        rests = [] if self.drop_last else [end % self.batch_size for end in self._order.ends]
        return {self.batch_size, *(rest or self.batch_size for rest in rests)}

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

    def kinds(self) -> tuple[Any, ...]:
        """Return a `Kind` for each array of a batch, in its structure. A transform is called for batch 0 to learn them."""
        if self._transform is None:
            kinds: tuple[Any, ...] = map_leaves(lambda one: Kind(one.dtype, one.shape), self._plan.parts)
            return kinds
        epoch = int(self._order.begin(0) > 0)
        return kinds_of(self._finish(pack(self._plan.parts, self._reader.read(epoch, 0)), epoch, 0)())

    @property
    def takes_time(self) -> bool:
        """False where a batch is nothing but a view of the mapped file: then there is nothing to do ahead."""
        return self._transform is not None or self._reader.takes_time

    # --- reading -----------------------------------------------------------------------------------------------------

    def begin(self, epoch: int, batch: int, *, aligned: bool = False) -> Callable[[], tuple[Any, ...]]:
        """Read what a batch is made of, and return the function that makes it, to be called once, from any thread.

        For `LookAhead`, which reads in order and transforms in several threads. Arguments and errors as for `read`.
        """
        if not 0 <= batch < len(self):
            raise OutOfRangeError(f"there is no batch {batch}: an epoch has {len(self)} batches, counted from 0.")
        return self._finish(self._parts(epoch, batch), epoch, batch, aligned)

    def _reader_of(self, epoch: int) -> BatchReader:
        """Return the reader of an epoch's batches; the same for all but `RoundBatches`.

        Raises StateMismatchError if a copy that shares the position has loaded one of other workers: this one has another order.
        """
        if self.cursor.order != self._order.number:
            raise StateMismatchError(
                f"the position of {self._name} was moved into an epoch that other workers have begun, by another copy of these "
                "batches. Load it before a DataLoader starts persistent workers, and copy batches with copy.deepcopy."
            )
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
        if found is not None:
            return replace(found, fetch=lambda epoch, batch, batches: self._reader_of(epoch).rows(epoch, batch, batches))
        if self._together == 1:
            return None

        def fetch(epoch: int, batch: int, batches: int) -> list[tuple[Array, Array]]:
            arrays = self._reader_of(epoch).read(epoch, batch, batches)
            return [(np.arange(len(array)), self._reader.aligned(array)) for array in arrays]

        specs = [replace(one.spec, shape=(0, *one.shape), dtype=one.dtype) for one in self._plan.arrays]
        as_read = [Frames("", range(1), False, spec, spec.dtype, None) for spec in specs]
        return GroupedReads(as_read, fetch, min(self._together, self._reader.together_in_frameworks), False)

    @property
    def _together(self) -> int:
        """Batches to read together: more than 1 where each is so small that a call costs more than its bytes."""
        return min(self._reader.together, len(self))

    @property
    def finishes_ahead(self) -> bool:
        return self._transform is not None

    def begun_from(self, epoch: int, first: int) -> Generator[Callable[[], tuple[Any, ...]], None, None]:
        """Yield what `begin` returns, for the batches of an epoch. Small ones are read in groups, the next one ahead."""
        step, size, end = min(self._reader_of(epoch).together_in_loops, len(self)), self.batch_size, len(self)

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
        is_ahead = self._reader.reads_ahead
        try:
            while first < end:
                group, batch = ahead.get(first, range(stop_of(first), end, step) if is_ahead else ()), first
                while group:
                    yield self._finish(group.popleft(), epoch, batch)  # its buffer is lent: nothing here keeps it alive
                    batch += 1
                first = batch
        finally:
            ahead.close()

    # --- position ----------------------------------------------------------------------------------------------------

    def state_at(self, epoch: int, batch: int) -> dict[str, Any]:
        """Return the state of having read everything before that batch, for callers who keep count themselves."""
        order, data = self._order_json(), self._digest()
        before = {}
        if isinstance(self._order, ResumedOrder) and self._order.epoch == epoch:
            before = {"before": [list(each) for each in self._order.before]}
        return {"version": 1, "epoch": int(epoch), "batch": int(batch), "order": order, **before, "fingerprint": data}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved position, of this worker or of any other. Raises StateMismatchError for other data or another order.

        The number of workers, `batch_size` and `drop_last` may be others than when the position was saved. The samples of the epoch
        that nobody has seen are then divided among the workers of now, who all load the same state: each is seen at most once, and
        fewer samples than there are workers are left out. The next epoch is a whole one again.

        >>> import mmapstore as mm
        >>> ds = mm.open(np.arange(10))
        >>> first = ds.batches(2, shard=(0, 2))
        >>> next(iter(first)), first.state_dict()["batch"]
        (array([0, 1]), 1)
        >>> alone = ds.batches(4)
        >>> alone.load_state_dict(first.state_dict())
        >>> [batch.tolist() for batch in alone]
        [[2, 3, 4, 7], [8, 9]]
        """
        epoch, batch, before = loaded_position(state, self._order_json(), self._digest, self._name)
        order = ResumedOrder(self._whole, epoch, before, self.batch_size, self.drop_last) if before else self._whole
        if order is not self._order:
            reader = self._reader.under(order)
            if (needed := reader.memory()).total > self._allowed:
                needed.require(int(self._allowed), f"the rest of epoch {epoch} of {self._name}", "Give a larger max_memory=.")
            self._order, self._reader = order, reader
        self.cursor.move_to(epoch, batch, self._order.number)

    def left_out(self, epoch: int | None = None) -> Array:
        """Return the samples that an epoch gives to no worker, the current epoch by default: numbers in the store, int64, rising.

        They are fewer than there are workers, and others in each epoch. A window is named by its first sample. Samples of a last
        batch that `drop_last` drops are not among them.
        """
        return np.sort(self._anchors.starts(self._order.left_out(self.position[0] if epoch is None else epoch)))

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
