"""From anchors to the arrays of a batch: views where the bytes allow, one read of each frame where they do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..files.lent_buffers import LentBuffers, is_aligned
from ..plain.memory_budget import MemoryPlan
from ..plain.sample_order import SampleOrder
from ..plain.windows import Anchors
from ..readers.contract import Array, Checks, GathersWindows, NeedsScratch, OffersViews, Part, Reader
from .advice import Advice
from .held_windows import HeldWindows
from .plan import Frames, Plan
from .window_frames import WindowFrames

Numbers = np.ndarray[Any, np.dtype[np.int64]]

BOOKKEEPING_BYTES = 4 * 2**20  # positions worked out ahead, Python objects, and what malloc rounds up
ALIVE = 4  # batches alive at once: in use, held by the loop variable, queued by the framework, being filled
SHORT_BYTES = 4096  # windows up to this cost more to ask the kernel for, one by one, than to copy twice


class Assembly:
    """Reads the arrays of a plan. One for each `Batches`; any thread may call it.

    `readers` see samples of the whole store; `first` is the sample of the store at which the dataset begins.
    """

    def __init__(
        self, readers: Mapping[str, Reader], first: int, plan: Plan, anchors: Anchors, order: SampleOrder, batch_size: int
    ) -> None:
        self._readers = {name: readers[name] for name in plan.fields}
        # Abilities are asked once: isinstance of a protocol looks up every method, too slow for each batch.
        self._gathering = {name: reader for name, reader in self._readers.items() if isinstance(reader, GathersWindows)}
        self._viewing = {name: reader for name, reader in self._readers.items() if isinstance(reader, OffersViews)}
        self._checking = [reader for reader in self._readers.values() if isinstance(reader, Checks)]
        self._first = first
        self._plan = plan
        self._anchors = anchors
        self._order = order
        self._batch_size = batch_size
        self._buffers = LentBuffers()
        decoding = {name: reader for name, reader in self._readers.items() if name not in self._gathering}
        self._decoded = self._held_windows(decoding)
        self._short = self._held_windows({name: reader for name, reader in self._gathering.items() if self._is_short(name)})
        self._advice = Advice(self._readers, plan, WindowFrames(plan.fields, plan, anchors, order, batch_size, first))
        self._epoch = -1

    def _held_windows(self, readers: Mapping[str, Reader]) -> HeldWindows | None:
        specs = {name: reader.spec for name, reader in readers.items()}
        frames = WindowFrames(specs, self._plan, self._anchors, self._order, self._batch_size, self._first)
        return HeldWindows(readers, self._plan, frames, self._batch_size, self._buffers) if readers else None

    def _is_short(self, name: str) -> bool:
        """Worth holding although it could be gathered: a system call for each window would cost more than its bytes."""
        low, high = self._plan.reach(name)
        nbytes = (high - low + 1) * self._readers[name].spec.sample_nbytes
        return self._order.shuffling is not None and self._readers[name].place != "in RAM" and nbytes <= SHORT_BYTES

    # --- one batch -----------------------------------------------------------------------------------------------

    def read(self, epoch: int, start: int, numbers: Numbers) -> list[Array]:
        """The arrays of the plan for these anchors, which stand at positions [start, start + len) of the epoch."""
        if epoch != self._epoch:
            self.check(epoch)
        starts = self._anchors.starts(numbers) + self._first
        if self._order.shuffling is None:
            self._advice.on_sample(epoch, int(starts[0]))
            first, last = int(numbers[0]), int(numbers[-1]) + 1
            if self._anchors.is_run(first, last):
                return self._read_run(epoch, start, int(starts[0]), last - first)
        else:
            self._advice.on_window(epoch, start)
        arrays: dict[int, Array] = {}
        parts = {
            name: [self._part(frames, len(numbers)) for frames in self._plan.arrays if frames.field == name]
            for name in self._readers
        }
        short = self._short if self._short is not None and self._short.is_asked_in_order else None
        for name, reader in self._gathering.items():
            if short is None or name not in short:
                reader.gather(starts, parts[name])
        for held in (self._decoded, short):
            if held is not None:
                held.gather(epoch, start, starts, parts)
        for name in self._readers:
            wanted = [frames for frames in self._plan.arrays if frames.field == name]
            for frames, part in zip(wanted, parts.pop(name), strict=True):
                samples = part.out if frames.has_time_axis else part.out[:, 0]
                arrays[id(frames)] = self._converted(samples, frames)
        return [arrays[id(frames)] for frames in self._plan.arrays]

    @property
    def takes_time(self) -> bool:
        """False where every array is a view of a map."""
        if self._order.shuffling is not None:
            return True
        return any(frames.converts or frames.field not in self._viewing for frames in self._plan.arrays)

    def check(self, epoch: int) -> None:
        """Once an epoch: the files are those that were opened. Raises DamagedFileError."""
        for reader in self._checking:
            reader.check()
        self._epoch = epoch

    def _part(self, frames: Frames, count: int) -> Part:
        full = self._buffers.lend((self._batch_size, len(frames.offsets), *frames.spec.sample_shape), frames.spec.dtype)
        return Part(frames.offsets.start, len(frames.offsets), frames.offsets.step, full[:count])

    def _read_run(self, epoch: int, position: int, start: int, count: int) -> list[Array]:
        """Consecutive anchors of one episode: every field is one slab of count + reach frames, and all arrays are views of it."""
        slabs: dict[tuple[Any, ...], tuple[Array, int]] = {}
        arrays = []
        for frames in self._plan.arrays:
            low, high = self._plan.reach(frames.field)
            key = (frames.field, frames.dtype, frames.axes)
            if key not in slabs:
                slab = self._slab(frames.field, epoch, position, start + low, start + count + high, count)
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

    def _slab(self, field: str, epoch: int, position: int, start: int, stop: int, count: int) -> Array:
        reader = self._readers[field]
        view = self._viewing[field].view(start, stop) if field in self._viewing else None
        if view is None and self._decoded is not None and field in self._decoded:
            view = self._decoded.run(field, epoch, position, start, stop)
        if view is not None:
            return view
        full = self._buffers.lend((self._batch_size + stop - start - count, *reader.spec.sample_shape), reader.spec.dtype)
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
        spare = max(0, self._batch_size - len(samples))
        return self._buffers.lend((len(samples) + spare, *samples.shape[1:]), dtype)[: len(samples)]

    def aligned(self, array: Array) -> Array:
        """C-contiguous, its first byte at a multiple of 64: as it is, or copied once into a lent buffer."""
        if is_aligned(array):
            return array
        out = self._lend_like(array, array.dtype)
        np.copyto(out, array)
        return out

    def slices(self) -> list[tuple[Array, int]] | None:
        """Where every batch is a slice of the mapped file: for each array of the plan, the whole of its field, aligned, and
        the row in it of the array's first frame. None where batches are shuffled, converted, windowed or cut by episodes.
        """
        order, found = self._order, []
        if order.shuffling is not None or not self._anchors.is_run(order.first, order.first + len(order)):
            return None
        start = int(self._anchors.starts(np.array([order.first], np.int64))[0]) + self._first
        for frames in self._plan.arrays:
            if frames.converts or frames.has_time_axis or frames.field not in self._viewing:
                return None
            whole = self._viewing[frames.field].view(0, len(frames.spec))
            if whole is None or not is_aligned(whole):
                return None
            found.append((whole, start + frames.offsets.start))
        return found

    def announce(self, batch: int, batches: int) -> None:
        """Ask the kernel for batches [batch, batch + batches) of a pass in stored order that somebody else reads."""
        first = self._order.first + batch * self._batch_size
        last = min(first + batches * self._batch_size, self._order.first + len(self._order)) - 1
        ends = self._anchors.starts(np.array([first, last], np.int64)) + self._first
        self._advice.on_run(int(ends[0]), int(ends[1]) + 1)

    # --- prediction --------------------------------------------------------------------------------------------------

    def memory(self, order: SampleOrder | None = None) -> MemoryPlan:
        """Predicted peak of private memory, in bytes, of one pass with at most `ALIVE` batches alive, in this order or another."""
        order = order or self._order
        batch = self._batch_size
        delivered = sum(frames.nbytes for frames in self._plan.arrays) * batch
        read = sum(frames.read_nbytes for frames in self._plan.arrays if frames.converts) * batch
        windows = sum(held.nbytes(order) for held in (self._decoded, self._short) if held is not None)
        slabs, cache = 0, 0
        frames = WindowFrames(self._plan.fields, self._plan, self._anchors, order, batch, self._first)
        for name, reader in self._gathering.items():
            if order.shuffling is None:
                low, high = self._plan.reach(name)
                slabs += (batch + high - low) * reader.spec.sample_nbytes
            elif reader.place != "in RAM":
                cache += 2 * frames.rows(name) * reader.spec.sample_nbytes
        scratch = sum(reader.scratch_nbytes for reader in self._readers.values() if isinstance(reader, NeedsScratch))
        return MemoryPlan(
            {
                f"{ALIVE} batches alive": ALIVE * delivered,
                "frames before conversion": read + slabs,
                "windows of frames": windows,
                "decoder": scratch,
                "episodes": self._anchors.nbytes,
                "bookkeeping": BOOKKEEPING_BYTES,
            },
            page_cache=cache,
        )
