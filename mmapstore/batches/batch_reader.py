"""From anchors to the arrays of a batch: views where the bytes allow, one read of each frame where they do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..files.lent_buffers import LentBuffers, is_aligned
from ..files.process_memory import give_back_freed_memory, memory_available
from ..plain.array_spec import ArraySpec
from ..plain.memory_budget import MemoryPlan
from ..plain.sample_order import SampleOrder
from ..plain.windows import Anchors
from ..readers.contract import Array, Checks, GathersWindows, NamesFiles, NeedsScratch, OffersViews, Part, Reader, Settles
from .advice import Advice
from .plan import Frames, Plan
from .window_buffers import WindowBuffers
from .window_frames import WindowFrames

Numbers = np.ndarray[Any, np.dtype[np.int64]]

BOOKKEEPING_BYTES = 6 * 2**20  # positions worked out ahead, Python objects, threads, and what malloc rounds up
OPENED_BYTES = 8 << 10  # that an opened file keeps: 4 kB of a .npy file, 7.6 kB of a compressed HDF5 dataset
TOGETHER_BYTES = 2 * 2**20  # small batches are read together, up to this: a call takes longer than their bytes
ALIVE = 4  # batches alive at once: in use, held by the loop variable, queued by the framework, being filled
COPIED_BYTES = 2**20  # fields up to this may be copied again and again, once for many batches: labels that are not aligned
SHORT_BYTES = 4096  # windows up to this cost more to ask the kernel for, one by one, than to copy twice


class Gather(NamedTuple):
    """An array of every batch of an epoch: of each sample the frames at `row` + each of `offsets` among those of a field, where
    both `row` and those frames are what `rows` gives. Without `has_time_axis` there is one offset, and no axis for it.

    Frames are as stored, of `shape` and `stored`; the array is in `dtype`, with its axes in the order `axes` (see `Frames`).
    """

    field: str
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    offsets: range
    has_time_axis: bool
    dtype: np.dtype[Any]
    axes: tuple[int, ...] | None


@dataclass(frozen=True)
class _Ways:
    """The readers of each field, by ability. Replaced as a whole, so that a batch that is being read sees one or the other.

    Attributes
    ----------
    gathering, viewing : those of `readers` that have the ability, by field
    decoded : windows of what cannot be gathered; None where everything can
    short : windows of what could be, but costs less so; None where there is none
    """

    readers: Mapping[str, Reader]
    gathering: Mapping[str, GathersWindows]
    viewing: Mapping[str, OffersViews]
    decoded: WindowBuffers | None
    short: WindowBuffers | None
    advice: Advice


def _settled(reader: Reader) -> Reader:
    return reader.settled() if isinstance(reader, Settles) else reader


class BatchReader:
    """Reads the arrays of a plan. One for each `Batches`; any thread may call it.

    `readers` and `anchors` number samples of the whole store. Of what has to be decoded, `stretch_bytes` are held at a time in
    stored order; as many as usual if None. Of batches, `workers` are made ahead.
    """

    def __init__(
        self,
        readers: Mapping[str, Reader],
        plan: Plan,
        anchors: Anchors,
        order: SampleOrder,
        batch_size: int,
        stretch_bytes: int | None = None,
        workers: int = 1,
    ) -> None:
        self._workers = workers
        self._plan = plan
        self._anchors = anchors
        self._order = order
        self._batch_size = batch_size
        self._stretch_bytes = stretch_bytes
        self._together = max(1, TOGETHER_BYTES // max(1, sum(frames.nbytes for frames in plan.arrays) * batch_size))
        self._buffers = LentBuffers()
        self._ways = self._ways_of({name: _settled(readers[name]) for name in plan.fields})
        self._epoch = -1

    def _ways_of(self, readers: Mapping[str, Reader]) -> _Ways:
        # Abilities are asked once: isinstance of a protocol looks up every method, too slow for each batch.
        gathering = {name: reader for name, reader in readers.items() if isinstance(reader, GathersWindows)}
        frames = self._window_frames(self._plan.fields)
        return _Ways(
            readers=readers,
            gathering=gathering,
            viewing={name: reader for name, reader in readers.items() if isinstance(reader, OffersViews)},
            decoded=self._held_windows({name: reader for name, reader in readers.items() if name not in gathering}),
            short=self._held_windows({name: reader for name, reader in gathering.items() if self._is_short(name, reader)}),
            advice=Advice(readers, self._plan, frames),
        )

    def _settle(self) -> None:
        """Go over to readers that have become better ones. Batches that others are reading meanwhile end the way they began."""
        found = {name: _settled(reader) for name, reader in self._ways.readers.items()}
        if any(found[name] is not reader for name, reader in self._ways.readers.items()):
            self._buffers = LentBuffers()  # those of windows that nobody needs any more go
            self._ways = self._ways_of(found)

    def _held_windows(self, readers: Mapping[str, Reader]) -> WindowBuffers | None:
        frames = self._window_frames({name: reader.spec for name, reader in readers.items()})
        return WindowBuffers(readers, self._plan, frames, self._batch_size, self._buffers) if readers else None

    def _window_frames(self, specs: Mapping[str, ArraySpec]) -> WindowFrames:
        return WindowFrames(specs, self._plan, self._anchors, self._order, self._batch_size, self._together, self._stretch_bytes)

    def _is_short(self, name: str, reader: Reader) -> bool:
        """Worth holding although it could be gathered: a system call for each window would cost more than its bytes."""
        low, high = self._plan.reach(name)
        nbytes = (high - low + 1) * reader.spec.sample_nbytes
        if self._order.shuffling is None or reader.place == "in RAM" or nbytes > SHORT_BYTES:
            return False
        return reader.place != "memory-mapped" or reader.spec.nbytes > memory_available()  # else it is copied from the map

    # --- one batch -----------------------------------------------------------------------------------------------

    def read(self, epoch: int, start: int, numbers: Numbers) -> list[Array]:
        """The arrays of the plan for these anchors, which stand at positions [start, start + len) of the epoch."""
        self._begin(epoch, start)
        ways = self._ways
        starts = self._anchors.starts(numbers)
        if self._order.shuffling is None:
            ways.advice.on_sample(epoch, int(starts[0]))
            first, last = int(numbers[0]), int(numbers[-1]) + 1
            if self._order.draws is None and self._anchors.is_run(first, last):
                return self._read_run(ways, epoch, start, int(starts[0]), last - first)
        else:
            ways.advice.on_window(epoch, start)
        arrays: dict[int, Array] = {}
        parts = {
            name: [self._part(frames, len(numbers)) for frames in self._plan.arrays if frames.field == name]
            for name in ways.readers
        }
        short = ways.short if ways.short is not None and ways.short.is_asked_in_order else None
        for name, reader in ways.gathering.items():
            if short is None or name not in short:
                reader.gather(starts, parts[name])
        for held in (ways.decoded, short):
            if held is not None:
                held.gather(epoch, start, starts, parts)
        for name in ways.readers:
            wanted = [frames for frames in self._plan.arrays if frames.field == name]
            for frames, part in zip(wanted, parts.pop(name), strict=True):
                samples = part.out if frames.has_time_axis else part.out[:, 0]
                arrays[id(frames)] = self._converted(samples, frames)
        return [arrays[id(frames)] for frames in self._plan.arrays]

    @property
    def takes_time(self) -> bool:
        """False where every array is a view, of a map or of frames that are read ahead anyway."""
        if self._order.shuffling is not None:
            return True
        held = self._ways.decoded if self._ways.decoded is not None else ()
        return any(
            frames.converts or not (frames.field in self._ways.viewing or frames.field in held) for frames in self._plan.arrays
        )

    def _begin(self, epoch: int, start: int) -> None:
        """Begin a pass: take readers that have become better ones. Raises DamagedFileError unless the files are the ones opened."""
        if epoch == self._epoch and start > 0:
            return
        self._settle()
        for reader in self._ways.readers.values():
            if isinstance(reader, Checks):
                reader.check()
        if epoch != self._epoch and self._ways.decoded is not None:
            give_back_freed_memory()  # 3 ms; what decoders leave behind in malloc's arenas piles up from epoch to epoch
        self._epoch = epoch

    def _part(self, frames: Frames, count: int) -> Part:
        full = self._buffers.lend((self._rounded(count), len(frames.offsets), *frames.spec.sample_shape), frames.spec.dtype)
        return Part(frames.offsets.start, len(frames.offsets), frames.offsets.step, full[:count])

    def _read_run(self, ways: _Ways, epoch: int, position: int, start: int, count: int) -> list[Array]:
        """Consecutive anchors of one episode: every field is one slab of count + reach frames, and all arrays are views of it."""
        slabs: dict[tuple[Any, ...], tuple[Array, int]] = {}
        arrays = []
        for frames in self._plan.arrays:
            low, high = self._plan.reach(frames.field)
            key = (frames.field, frames.dtype, frames.axes)
            if key not in slabs:
                slab = self._slab(ways, frames.field, epoch, position, start + low, start + count + high, count)
                slabs[key] = (self._converted(slab, frames), low)
            slab, low = slabs[key]
            if not frames.has_time_axis:
                begin = frames.offsets.start - low
                arrays.append(slab[begin : begin + count])
            else:
                every = np.lib.stride_tricks.sliding_window_view(slab, frames.offsets[-1] - frames.offsets.start + 1, axis=0)
                begin = frames.offsets.start - low
                windows = np.moveaxis(every, -1, 1)
                arrays.append(windows[begin : begin + count, :: frames.offsets.step])
        if len(slabs) < len(arrays):
            for array in arrays:
                array.flags.writeable = False  # x and y look at the same frames: writing to one would change the other
        return arrays

    def _slab(self, ways: _Ways, field: str, epoch: int, position: int, start: int, stop: int, count: int) -> Array:
        reader = ways.readers[field]
        view = ways.viewing[field].view(start, stop) if field in ways.viewing else None
        if view is None and ways.decoded is not None and field in ways.decoded:
            view = ways.decoded.run(field, epoch, position, start, stop)
            if view is not None:
                view.flags.writeable = False  # other batches are cut from the same window
        if view is not None:
            return view
        full = self._buffers.lend((self._rounded(count) + stop - start - count, *reader.spec.sample_shape), reader.spec.dtype)
        reader.read(start, stop, full[: stop - start])
        return full[: stop - start]

    def _converted(self, samples: Array, frames: Frames) -> Array:
        """In the dtype and axis order delivered; the same array where both are as read."""
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
        """Whole batches: buffers of one size can be lent again."""
        return -(-count // self._batch_size) * self._batch_size

    def aligned(self, array: Array) -> Array:
        """C-contiguous, its first byte at a multiple of 64: as it is, or copied once into a lent buffer."""
        if is_aligned(array):
            return array
        out = self._lend_like(array, array.dtype)
        np.copyto(out, array)
        return out

    def gathers(self) -> list[Gather] | None:
        """Each array of the plan as rows of what `rows` gives, for somebody else to gather; None where batches have to be read.

        Rows are of mapped files, or, in stored order, of windows of frames that are held. Where a mapped file is not gone through
        from one end to the other, all has to fit in memory: the kernel brings single rows in slowly, one after the other.
        """
        if any(one.dtype.kind == "S" for one in self._plan.arrays):
            return None  # TensorFlow would make strings of all samples, for each group
        self._settle()
        order, ways = self._order, self._ways
        in_order = order.shuffling is None and order.draws is None
        is_run = in_order and self._anchors.is_run(order.first, order.first + len(order))
        mapped = [name for name in ways.readers if self._whole(ways, name) is not None]
        if not is_run and sum(ways.readers[name].spec.nbytes for name in mapped) > memory_available():
            return None
        held = ways.decoded if order.shuffling is None and ways.decoded is not None else ()
        if any(name not in mapped and name not in held for name in ways.readers):
            return None
        return [
            Gather(one.field, one.spec.sample_shape, one.spec.dtype, one.offsets, one.has_time_axis, one.dtype, one.axes)
            for one in self._plan.arrays
        ]

    @property
    def together(self) -> int:
        """Batches to read by one call: more than 1 where they are so small that the call costs more than their bytes."""
        held = self.held_together
        return self._together if held is None else max(1, min(self._together, held // self._batch_size))

    @property
    def held_together(self) -> int | None:
        """Positions of a stored order whose frames are held together, a multiple of the batch size; None where none are held."""
        in_order = self._order.shuffling is None
        return self._ways.decoded.positions if in_order and self._ways.decoded is not None else None

    def rows(self, epoch: int, start: int, numbers: Numbers) -> dict[str, tuple[Numbers, Array]]:
        """Of each field of `gathers()`: the rows at which these anchors lie, and the frames, a view, in which they do.

        The anchors stand at positions [start, start + len) of the epoch, all in one stretch of `held_together`.
        """
        self._begin(epoch, start)
        ways = self._ways
        samples = self._anchors.starts(numbers)
        if self._order.shuffling is None:
            ways.advice.on_run(epoch, int(samples[0]), int(samples[-1]) + 1)
        else:
            ways.advice.on_window(epoch, start)
        found = {}
        for name in ways.readers:
            if ways.decoded is not None and name in ways.decoded:
                found[name] = ways.decoded.rows(name, epoch, start, samples)
            else:
                whole = self._whole(ways, name)
                assert whole is not None
                found[name] = samples, whole
        return found

    def _whole(self, ways: _Ways, name: str) -> Array | None:
        """All samples of a field as a view of its mapped file; None where there is none, or TensorFlow would copy it at a cost."""
        whole = ways.viewing[name].view(0, len(ways.readers[name].spec)) if name in ways.viewing else None
        return whole if whole is not None and (is_aligned(whole) or whole.nbytes <= COPIED_BYTES) else None

    # --- prediction --------------------------------------------------------------------------------------------------

    def memory(self, order: SampleOrder | None = None) -> MemoryPlan:
        """Predicted peak of private memory, in bytes, of one pass with at most `ALIVE` batches alive, in this order or another."""
        order, ways = order or self._order, self._ways
        batch = self._batch_size
        delivered = sum(frames.nbytes for frames in self._plan.arrays) * batch
        at_once = batch * min(self._together, -(-len(order) // batch))
        read = sum(frames.read_nbytes for frames in self._plan.arrays if frames.converts) * at_once
        held = [one for one in (ways.decoded, ways.short) if one is not None]
        windows = sum(one.nbytes(order) for one in held)
        index = self._anchors.nbytes + sum(one.index_nbytes(order) for one in held)
        slabs, cache = 0, 0
        frames = self._window_frames(self._plan.fields).under(order)
        for name in ways.gathering:
            reader = ways.readers[name]
            if order.shuffling is None:
                low, high = self._plan.reach(name)
                slabs += (at_once + high - low) * reader.spec.sample_nbytes
            elif reader.place != "in RAM":
                cache += 2 * frames.rows(name) * reader.spec.sample_nbytes
        scratch = sum(reader.scratch_nbytes for reader in ways.readers.values() if isinstance(reader, NeedsScratch))
        opened = sum(len(reader.files) for reader in ways.readers.values() if isinstance(reader, NamesFiles))
        return MemoryPlan(
            {
                f"{ALIVE} batches alive": ALIVE * delivered,
                "transforms under way": 2 * (self._workers - 1) * delivered,  # each holds what it is given and what it makes
                "small batches read together": ALIVE * TOGETHER_BYTES if self._together > 1 else 0,
                "frames before conversion": read + slabs,
                "windows of frames": windows,
                "decoder": scratch,
                "opened files": OPENED_BYTES * opened,
                "index of samples": index + (order.draws.nbytes if order.draws is not None else 0),
                "bookkeeping": BOOKKEEPING_BYTES,
            },
            page_cache=cache,
        )
