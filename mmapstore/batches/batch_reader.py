"""The arrays of batches: views where the bytes allow, one read of each frame elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, replace
from typing import Any

import numpy as np

from ..files.lent_buffers import LentBuffers, is_aligned
from ..files.process_memory import give_back_freed_memory, memory_available
from ..plain.array_spec import ArraySpec
from ..plain.errors import InvalidValueError, OutOfRangeError
from ..plain.memory_budget import MemoryPlan
from ..plain.runs import Numbers
from ..plain.sample_order import SampleOrder
from ..plain.windows import Anchors
from ..readers.contract import Array, Part, Reader
from .advice import AHEAD_BYTES, Advice
from .batch_source import GroupedReads
from .look_ahead import THREADS
from .plan import Frames, Plan
from .window_buffers import WindowBuffers
from .window_frames import WindowFrames

BOOKKEEPING_BYTES = 6 * 2**20  # positions worked out ahead, Python objects, threads, and what malloc rounds up
OPENED_BYTES = 9_000  # that an opened file keeps: 4 kB of a .npy file, 8.3 kB of a compressed HDF5 dataset
TOGETHER_BYTES = 8 * 2**20  # batches are read together, up to this: handing one over takes as long as gathering 2 MiB
TOGETHER_SAMPLES = 2**17  # at most: their places in the order take some 50 bytes each
ROWS_BYTES = 8 * 2**20  # at least, of batches read together: `to_tf` holds their rows in groups of its own
ALIVE = 4  # batches alive at once: in use, held by the loop variable, queued by the framework, being filled
COPIED_BYTES = 2**20  # fields up to this may be copied again and again, once for many batches: labels that are not aligned
SHORT_BYTES = 4096  # windows up to this cost more to ask the kernel for, one by one, than to copy twice
_SAMPLES_SAID = 8  # of a batch, in messages


@dataclass(frozen=True)
class _Fields:
    """The readers of all fields, by ability. Replaced as a whole: a batch being read keeps the readers that it began with."""

    readers: Mapping[str, Reader]
    decoded: WindowBuffers  # of fields that cannot be gathered
    held: WindowBuffers  # of fields whose windows cost less to hold than to gather
    advice: Advice


@dataclass(eq=False)
class BatchReader:
    """Reads the arrays of a plan. One for each `Batches`; any thread may call it."""

    readers: InitVar[Mapping[str, Reader]]
    plan: Plan
    anchors: Anchors  # numbered, as the samples of `readers`, in the whole store
    order: SampleOrder
    batch_size: int
    stretch_bytes: int  # decoded at a time in sequential order
    together_bytes: int  # of batches that are read together
    holds_windows: bool  # of data that exceeds memory
    workers: int  # threads that transform batches; 0 where nothing does
    name: str  # of the dataset, for errors

    def __post_init__(self, readers: Mapping[str, Reader]) -> None:
        self._batch_nbytes = nbytes = sum(frames.nbytes for frames in self.plan.arrays) * self.batch_size
        # Of frames that are decoded first, handing a batch over is the smaller part.
        together_bytes = self.together_bytes // (1 if all(readers[name].gathers for name in self.plan.fields) else 4)
        self._together = max(1, min(together_bytes // max(1, nbytes), TOGETHER_SAMPLES // self.batch_size))
        self._buffers = LentBuffers()
        self._fields = self._by_ability({name: readers[name].settled() for name in self.plan.fields})
        self._epoch = -1

    def under(self, order: SampleOrder) -> BatchReader:
        """Return a reader in another order of the same anchors."""
        return replace(self, readers=self._fields.readers, order=order)

    def _by_ability(self, readers: Mapping[str, Reader]) -> _Fields:
        held = self._window_buffers({name: reader for name, reader in readers.items() if self._is_held(name, reader)})
        return _Fields(
            readers=readers,
            decoded=self._window_buffers({name: reader for name, reader in readers.items() if not reader.gathers}),
            held=held,
            advice=Advice(readers, self.plan, self._window_frames(self.plan.fields), held),
        )

    def _settle(self) -> None:
        """Replace readers that offer a better one."""
        found = {name: reader.settled() for name, reader in self._fields.readers.items()}
        if any(found[name] is not reader for name, reader in self._fields.readers.items()):
            self._buffers = LentBuffers()  # the buffers of windows that nobody needs any more go
            self._fields = self._by_ability(found)

    def _window_buffers(self, readers: Mapping[str, Reader]) -> WindowBuffers:
        frames = self._window_frames({name: reader.spec for name, reader in readers.items()})
        return WindowBuffers(readers, self.plan, frames, self.batch_size, self._buffers)

    def _window_frames(self, specs: Mapping[str, ArraySpec]) -> WindowFrames:
        return WindowFrames(specs, self.plan, self.anchors, self.order, self.batch_size, self._together, self.stretch_bytes)

    def _is_held(self, name: str, reader: Reader) -> bool:
        """Return True if holding windows costs less than gathering.

        A system call for each short window would cost more than its bytes. Where data exceeds memory, pages that were read ahead
        may be gone before they are gathered; blocks are then read whole, into windows, if the limit has room for them.
        """
        if not reader.gathers or self.order.shuffling is None or reader.place == "in RAM":
            return False
        low, high = self.plan.reach(name)
        is_short = (high - low + 1) * reader.spec.sample_nbytes <= SHORT_BYTES
        exceeds = reader.spec.nbytes > memory_available()
        return (is_short and (exceeds or reader.place != "memory-mapped")) or (exceeds and self.holds_windows)

    # --- positions ---------------------------------------------------------------------------------------------------

    def named(self, epoch: int, batch: int) -> str:
        """Return how messages name a batch: by its number, its epoch and its samples."""
        samples = self.anchors.starts(self._numbers(epoch, batch)).tolist()
        said = ", ".join(map(str, samples[:_SAMPLES_SAID])) + (", ..." if len(samples) > _SAMPLES_SAID else "")
        return f"batch {batch} of epoch {epoch} ({len(samples)} samples, those at {said} in the store)"

    def _numbers(self, epoch: int, batch: int, batches: int = 1) -> Numbers:
        """Return the anchors of batches. Raises OutOfRangeError for those that other workers had before the epoch was resumed."""
        start = batch * self.batch_size
        if start < (begin := self.order.begin(epoch)):
            raise OutOfRangeError(
                f"there is no batch {batch} in epoch {epoch}: other workers have seen the samples before batch "
                f"{begin // self.batch_size}. A dataset of several epochs (to_tf(epochs=n)) is made after load_state_dict."
            )
        return self.order.anchors_at(epoch, start, min(start + batches * self.batch_size, self.order.end(epoch)))

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self, epoch: int, batch: int, batches: int = 1) -> list[Array]:
        """Read the arrays of the plan, x before y before w, for one batch, or for several as one."""
        numbers = self._numbers(epoch, batch, batches)
        arrays = self._arrays(epoch, batch * self.batch_size, numbers)
        self._require_weights(arrays[len(arrays) - len(self.plan.weights) :], epoch, batch, numbers)
        return arrays

    def _arrays(self, epoch: int, start: int, numbers: Numbers) -> list[Array]:
        """Read for these anchors, which stand at positions [start, start + len) of the epoch."""
        self._begin(epoch, start)
        fields = self._fields
        starts = self.anchors.starts(numbers)
        if self.order.shuffling is None:
            fields.advice.on_sample(epoch, int(starts[0]))
            first, last = int(numbers[0]), int(numbers[-1]) + 1
            if self.order.draws is None and last - first == len(numbers) and self.anchors.is_run(first, last):
                return self._run(fields, epoch, start, int(starts[0]), last - first)
        else:
            fields.advice.on_window(epoch, start)
        made = [self._part(frames, len(numbers)) for frames in self.plan.arrays]
        parts: dict[str, list[Part]] = {name: [] for name in fields.readers}
        for frames, part in zip(self.plan.arrays, made, strict=True):
            parts[frames.field].append(part)
        held_too = fields.held if fields.held.is_asked_in_order else None
        for name, reader in fields.readers.items():
            if reader.gathers and (held_too is None or name not in held_too):
                reader.gather(starts, parts[name])
        for held in (fields.decoded, held_too):
            if held:
                held.gather(epoch, start, starts, parts)
        del parts, part  # of what is converted, the buffer is lent again at once
        return [self._delivered(made.pop(0), frames) for frames in self.plan.arrays]

    def _require_weights(self, weights: list[Array], epoch: int, batch: int, numbers: Numbers) -> None:
        """Raise InvalidValueError if a weight is NaN, infinite or below 0. A check of the whole field would read it twice."""
        for frames, values in zip(self.plan.weights, weights, strict=True):
            if values.size == 0 or (values.min() >= 0 and values.max() < np.inf):  # NaN is neither
                continue
            rows = values.reshape(len(values), -1)
            wrong = ~((rows >= 0) & (rows < np.inf))
            row = int(np.flatnonzero(wrong.any(axis=1))[0])
            sample = int(self.anchors.starts(numbers[row : row + 1])[0]) + frames.offsets[0]
            raise InvalidValueError(
                f"sample_weight: the field {frames.field!r} of {self.name} is {rows[row][wrong[row]][0]} at sample {sample} of "
                f"the store, in batch {batch + row // self.batch_size} of epoch {epoch}; expected finite weights, 0 or more. "
                "Correct the field, or leave such samples out with ds.select."
            )

    @property
    def takes_time(self) -> bool:
        """False where every array is a view, of a map or of frames that are read ahead anyway."""
        if self.order.shuffling is not None:
            return True
        readers, held = self._fields.readers, self._fields.decoded
        return any(
            frames.converts or not (readers[frames.field].offers_views or frames.field in held) for frames in self.plan.arrays
        )

    @property
    def reads_ahead(self) -> bool:
        """True where a loop may read batches ahead; not views of windows, the next of which are read ahead anyway."""
        return self.takes_time or not self._fields.decoded

    def _begin(self, epoch: int, start: int) -> None:
        """Begin a pass: take readers that have become better ones. Raises DamagedFileError unless the files are the ones opened."""
        if epoch == self._epoch and start > 0:
            return
        self._settle()
        for reader in self._fields.readers.values():
            reader.check()
        if epoch != self._epoch and self._fields.decoded:
            give_back_freed_memory()  # 3 ms; memory that decoders leave in malloc's arenas piles up from epoch to epoch
        self._epoch = epoch

    def _part(self, frames: Frames, count: int) -> Part:
        full = self._buffers.lend((self._rounded(count), len(frames.offsets), *frames.spec.sample_shape), frames.spec.dtype)
        return Part(frames.offsets.start, len(frames.offsets), frames.offsets.step, full[:count])

    def _delivered(self, part: Part, frames: Frames) -> Array:
        return self._converted(part.out if frames.has_time_axis else part.out[:, 0], frames)

    def _run(self, fields: _Fields, epoch: int, position: int, start: int, count: int) -> list[Array]:
        """Read consecutive anchors of one episode: each field is one slab of count + reach frames, all arrays are views of it."""
        slabs: dict[tuple[Any, ...], Array] = {}
        arrays = []
        for frames in self.plan.arrays:
            low, high = self.plan.reach(frames.field)
            key = (frames.field, frames.dtype, frames.axes)
            if key not in slabs:
                slab = self._slab(fields, frames.field, epoch, position, start + low, start + count + high, count)
                slabs[key] = self._converted(slab, frames)
            begin = frames.offsets.start - low
            if not frames.has_time_axis:
                arrays.append(slabs[key][begin : begin + count])
            else:
                every = np.lib.stride_tricks.sliding_window_view(slabs[key], frames.offsets[-1] - frames.offsets.start + 1, axis=0)
                arrays.append(np.moveaxis(every, -1, 1)[begin : begin + count, :: frames.offsets.step])
        if len(slabs) < len(arrays):
            for array in arrays:
                array.flags.writeable = False  # x and y look at the same frames: writing to one would change the other
        return arrays

    def _slab(self, fields: _Fields, field: str, epoch: int, position: int, start: int, stop: int, count: int) -> Array:
        reader = fields.readers[field]
        view = fields.readers[field].view(start, stop)
        if view is None and field in fields.decoded:
            view = fields.decoded.run(field, epoch, position, start, stop)
            if view is not None:
                view.flags.writeable = False  # other batches are cut from the same window
        if view is not None:
            return view
        full = self._buffers.lend((self._rounded(count) + stop - start - count, *reader.spec.sample_shape), reader.spec.dtype)
        reader.read(start, stop, full[: stop - start])
        return full[: stop - start]

    def _converted(self, samples: Array, frames: Frames) -> Array:
        """Return samples in the dtype and axis order delivered; the same array where both are as read."""
        if not frames.converts:
            return samples
        leading = samples.ndim - len(frames.spec.sample_shape)
        if frames.axes is not None:
            kept = [leading + axis for axis in frames.axes if axis >= 0]
            samples = samples.transpose([*range(leading), *kept])
            for place, axis in enumerate(frames.axes):
                if axis < 0:
                    samples = np.expand_dims(samples, leading + place)
        out = self._lend_like(samples, frames.dtype)
        np.copyto(out, samples, casting="unsafe")
        return out

    def _lend_like(self, samples: Array, dtype: np.dtype[Any]) -> Array:
        return self._buffers.lend((self._rounded(len(samples)), *samples.shape[1:]), dtype)[: len(samples)]

    def _rounded(self, count: int) -> int:
        """Round up to whole batches: buffers of one size can be lent again."""
        return -(-count // self.batch_size) * self.batch_size

    def aligned(self, array: Array) -> Array:
        """Return an array that is C-contiguous and begins at a multiple of 64 bytes: the same, or a copy in a lent buffer."""
        if is_aligned(array):
            return array
        out = self._lend_like(array, array.dtype)
        np.copyto(out, array)
        return out

    # --- many batches at a time --------------------------------------------------------------------------------------

    @property
    def together(self) -> int:
        """Batches to read by one call: more than 1 where they are so small that the call costs more than their bytes."""
        held = self._held_together
        return self._together if held is None else max(1, min(self._together, held // self.batch_size))

    @property
    def together_in_frameworks(self) -> int:
        """Batches to read by one call of a framework that holds four groups: in use, the next, being read, and one that waits."""
        return max(1, self.together_bytes // 4 // max(1, self._batch_nbytes))

    @property
    def together_in_loops(self) -> int:
        """Batches that a loop reads by one call: more where all are views of one run, which take no memory."""
        is_one_run = self.order.shuffling is None and self.order.draws is None and self.order.pieces == 1
        if not is_one_run or self.takes_time or not self.anchors.is_run(0, len(self.anchors)):
            return self.together
        if (held := self._held_together) is not None:
            return max(1, held // self.batch_size)
        if any(reader.view(0, len(reader.spec)) is None for reader in self._fields.readers.values()):
            return self.together
        return max(self.together, AHEAD_BYTES // (self.batch_size * sum(spec.sample_nbytes for spec in self.plan.fields.values())))

    @property
    def _held_together(self) -> int | None:
        """Positions whose frames are held together in sequential order, a multiple of the batch size; None where none are held."""
        return self._fields.decoded.positions if self.order.shuffling is None and self._fields.decoded else None

    def grouped(self, casts: Callable[[np.dtype[Any], np.dtype[Any]], bool]) -> GroupedReads | None:
        """Return the batches as rows for the caller to gather; None where batches have to be read. See `BatchSource.grouped`.

        Rows are of mapped files, or, in sequential order, of windows of frames that are held. Where a mapped file is not gone
        through from one end to the other, all has to fit in memory: the kernel brings single rows in slowly, one after the other.
        """
        if any(one.dtype.kind == "S" or not casts(one.spec.dtype, one.dtype) for one in self.plan.arrays):
            return None  # of text, TensorFlow would make strings of all samples, for each group
        self._settle()
        order, fields = self.order, self._fields
        is_run = order.shuffling is None and order.draws is None and self.anchors.is_run(0, len(self.anchors))
        mapped = [name for name in fields.readers if self._whole(fields, name) is not None]
        if not is_run and sum(fields.readers[name].spec.nbytes for name in mapped) > memory_available():
            return None
        if any(name not in mapped and not (order.shuffling is None and name in fields.decoded) for name in fields.readers):
            return None
        held = self._held_together
        return GroupedReads(self.plan.arrays, self.rows, held and max(1, held // self.batch_size), held is not None)

    def rows(self, epoch: int, batch: int, batches: int) -> list[tuple[Numbers, Array]]:
        """Return the rows of each array, all in one stretch of `_held_together`, and a view of the frames that they are of."""
        start = batch * self.batch_size
        numbers = self._numbers(epoch, batch, batches)
        self._begin(epoch, start)
        fields = self._fields
        samples = self.anchors.starts(numbers)
        if self.order.shuffling is None and int(numbers[-1] - numbers[0]) < len(numbers):
            fields.advice.on_run(epoch, int(samples[0]), int(samples[-1]) + 1)
        elif self.order.shuffling is None:
            fields.advice.on_sample(epoch, int(samples[0]))
        else:
            fields.advice.on_window(epoch, start)
        found: dict[str, tuple[Numbers, Array]] = {}
        for name in fields.readers:
            if name in fields.decoded:
                found[name] = fields.decoded.rows(name, epoch, start, samples)
            else:
                whole = self._whole(fields, name)
                assert whole is not None
                found[name] = samples, whole
        weights = [found[one.field][1][found[one.field][0] + one.offsets[0]] for one in self.plan.weights]
        self._require_weights(weights, epoch, batch, numbers)
        # The rows of each array are an array of their own: TensorFlow may compute in them.
        return [(found[one.field][0] + one.offsets.start, found[one.field][1]) for one in self.plan.arrays]

    def _whole(self, fields: _Fields, name: str) -> Array | None:
        """Return all samples of a field as a view of its mapped file; None without one, or if TensorFlow would copy it."""
        whole = fields.readers[name].view(0, len(fields.readers[name].spec))
        return whole if whole is not None and (is_aligned(whole) or whole.nbytes <= COPIED_BYTES) else None

    # --- prediction --------------------------------------------------------------------------------------------------

    def memory(self, order: SampleOrder | None = None) -> MemoryPlan:
        """Predict the peak of private memory, in bytes, of a pass with at most `ALIVE` batches alive, in this order or another."""
        order, fields = order or self.order, self._fields
        batch = min(self.batch_size, len(order))
        delivered = sum(frames.nbytes for frames in self.plan.arrays) * batch
        at_once = min(batch * self._together, len(order))
        is_run = order.shuffling is None and order.draws is None and order.pieces == 1 and self.anchors.is_run(0, len(self.anchors))
        viewed = [name for name, reader in fields.readers.items() if is_run and reader.view(0, len(reader.spec)) is not None]
        read = sum(frames.read_nbytes for frames in self.plan.arrays if frames.converts and frames.field not in viewed) * at_once
        held = [one for one in (fields.decoded, fields.held) if one]
        index = self.anchors.nbytes + sum(one.index_nbytes(order) for one in held)
        slabs, cache = 0, 0
        frames = self._window_frames(self.plan.fields).under(order)
        for name, reader in fields.readers.items():
            if reader.gathers and order.shuffling is None and name not in viewed:
                low, high = self.plan.reach(name)
                slabs += (at_once + high - low) * reader.spec.sample_nbytes
            elif reader.gathers and order.shuffling is not None and reader.place != "in RAM":
                cache += 2 * frames.rows(name) * reader.spec.sample_nbytes
        # In use, the one before it by a last view, and the next. Batches are views of them, unless they are transformed.
        apart = 0 if self.workers else ALIVE
        groups = max(0, 3 * min(self._together, len(order) // max(1, batch) + 1) - apart) * delivered
        readers = fields.readers.values()
        return MemoryPlan(
            {
                f"{ALIVE} batches alive": ALIVE * delivered,
                "transforms under way": 2 * max(0, self.workers - 1) * delivered,  # each holds what it is given and what it makes
                "batches read together": max(groups, ROWS_BYTES if self._together > 1 else 0),
                "frames before conversion": read + slabs,
                "windows of frames": sum(one.nbytes(order) for one in held),
                # Beside the helpers, the caller and the threads of the look-ahead decode in their turn.
                "decoder": sum(reader.scratch_nbytes + THREADS * reader.left_nbytes for reader in readers),
                "opened files": OPENED_BYTES * sum(len(reader.files) for reader in readers),
                "index of samples": index + (order.draws.nbytes if order.draws is not None else 0),
                "bookkeeping": BOOKKEEPING_BYTES,
            },
            page_cache=cache,
        )
