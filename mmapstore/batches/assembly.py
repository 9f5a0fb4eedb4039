"""From anchors to the arrays of a batch: views where the bytes allow, one read of each frame where they do not."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..files.lent_buffers import LentBuffers, is_aligned
from ..plain.memory_budget import MemoryPlan
from ..plain.sample_order import SampleOrder, Window
from ..plain.windows import Anchors
from ..readers.contract import Array, GathersWindows, NeedsScratch, OffersViews, Part, Reader, TakesAdvice
from .plan import Frames, Plan
from .resident import Resident, merged

Numbers = np.ndarray[Any, np.dtype[np.int64]]

ADVICE_BYTES = 8 * 2**20  # how far ahead of a sequential pass the kernel is told what comes
BOOKKEEPING_BYTES = 4 * 2**20  # positions worked out ahead, Python objects, and what malloc rounds up
ALIVE = 4  # batches alive at once: in use, held by the loop variable, queued by the framework, being filled


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
        self._decoding = {name: reader for name, reader in self._readers.items() if name not in self._gathering}
        self._viewing = {name: reader for name, reader in self._readers.items() if isinstance(reader, OffersViews)}
        self._advised_readers = {name: reader for name, reader in self._readers.items() if isinstance(reader, TakesAdvice)}
        self._first = first
        self._plan = plan
        self._anchors = anchors
        self._order = order
        self._batch_size = batch_size
        self._buffers = LentBuffers()
        self._lock = threading.Lock()
        self._window: tuple[tuple[int, int], dict[str, Resident]] | None = None
        self._ahead = max(1, ADVICE_BYTES // max(1, sum(spec.sample_nbytes for spec in plan.fields.values())))
        self._advised = (-1, -1)  # (epoch, position) when shuffled, the samples told of when not

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_window": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    # --- one batch -----------------------------------------------------------------------------------------------

    def read(self, epoch: int, start: int, numbers: Numbers) -> list[Array]:
        """The arrays of the plan for these anchors, which stand at positions [start, start + len) of the epoch."""
        if self._order.shuffling is None:
            first, last = int(numbers[0]), int(numbers[-1]) + 1
            self._advise_ahead(int(self._anchors.starts(numbers[-1:])[0]) + self._first)
            if self._anchors.is_run(first, last):
                return self._read_run(int(self._anchors.starts(numbers[:1])[0]) + self._first, last - first)
        else:
            self._advise_window(epoch, start)
        starts = self._anchors.starts(numbers) + self._first
        arrays: dict[int, Array] = {}
        parts = {
            name: [self._part(frames, len(numbers)) for frames in self._plan.arrays if frames.field == name]
            for name in self._readers
        }
        for name, reader in self._gathering.items():
            reader.gather(starts, parts[name])
        if self._decoding:
            self._gather_decoded(epoch, start, starts, {name: parts[name] for name in self._decoding})
        for name in self._readers:
            wanted = [frames for frames in self._plan.arrays if frames.field == name]
            for frames, part in zip(wanted, parts.pop(name), strict=True):
                samples = part.out if frames.has_time_axis else part.out[:, 0]
                arrays[id(frames)] = self._converted(samples, frames)
        return [arrays[id(frames)] for frames in self._plan.arrays]

    def _part(self, frames: Frames, count: int) -> Part:
        full = self._buffers.lend((self._batch_size, len(frames.offsets), *frames.spec.sample_shape), frames.spec.dtype)
        return Part(frames.offsets.start, len(frames.offsets), frames.offsets.step, full[:count])

    def _read_run(self, start: int, count: int) -> list[Array]:
        """Consecutive anchors of one episode: every field is one slab of count + reach frames, and all arrays are views of it."""
        slabs: dict[tuple[Any, ...], tuple[Array, int]] = {}
        arrays = []
        for frames in self._plan.arrays:
            low, high = self._plan.reach(frames.field)
            key = (frames.field, frames.dtype, frames.axes)
            if key not in slabs:
                slabs[key] = (self._converted(self._slab(frames.field, start + low, start + count + high, count), frames), low)
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

    def _slab(self, field: str, start: int, stop: int, count: int) -> Array:
        reader = self._readers[field]
        view = self._viewing[field].view(start, stop) if field in self._viewing else None
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
        low, high = self._plan.reach()
        for reader in self._advised_readers.values():
            reader.will_need(int(ends[0]) + low, int(ends[1]) + high + 1)

    # --- readers that decode: whole windows of blocks are held ------------------------------------------------------

    def _gather_decoded(self, epoch: int, start: int, starts: Numbers, parts: Mapping[str, list[Part]]) -> None:
        """Fill the parts of positions [start, start + len(starts)) from frames that are decoded once and held.

        One window is held at a time, by whoever has the lock: a batch that straddles two takes from the first, lets go of
        it, and takes from the second.
        """
        if self._order.shuffling is None:
            for name, reader in self._decoding.items():
                low, high = self._plan.reach(name)
                runs = [(sample + low, sample + high + 1) for sample in starts.tolist()]
                Resident(reader, runs, self._buffers, self.batch_rows(name)).gather(starts, parts[name])
            return
        done = 0
        while done < len(starts):
            with self._lock:
                window = self._order.window_at(epoch, start + done)
                end = min(len(starts), window.stop - start)
                if self._window is None or self._window[0] != (epoch, window.number):
                    self._window = None  # its buffers are lent again for this one
                    runs = self._sample_runs(epoch, window)
                    self._window = (epoch, window.number), {name: self._decoded(name, runs) for name in self._decoding}
                for name in self._decoding:
                    cut = [Part(part.first, part.count, part.step, part.out[done:end]) for part in parts[name]]
                    self._window[1][name].gather(starts[done:end], cut)
            done = end

    def _decoded(self, name: str, runs: list[tuple[int, int]]) -> Resident:
        low, high = self._plan.reach(name)
        return Resident(self._readers[name], [(a + low, b + high) for a, b in runs], self._buffers, self.window_rows(name))

    def _sample_runs(self, epoch: int, window: Window) -> list[tuple[int, int]]:
        """The samples of the store at which the anchors of a window lie, without their reach."""
        runs = [run for first, last in self._order.window_blocks(epoch, window) for run in self._anchors.runs(first, last)]
        return [(start + self._first, stop + self._first) for start, stop in runs]

    def window_rows(self, name: str, order: SampleOrder | None = None) -> int:
        """The most samples of one field that any shuffling window can reach."""
        order = order or self._order
        assert order.shuffling is not None
        anchors, blocks = order.largest_window()
        low, high = self._plan.reach(name)
        runs = min(anchors, blocks * (1 + self._anchors.most_cuts(order.shuffling.block)))
        return min(len(self._readers[name].spec), anchors * self._anchors.stride + runs * (high - low))

    def batch_rows(self, name: str) -> int:
        """The most samples of one field that a batch in stored order can reach."""
        low, high = self._plan.reach(name)
        runs = self._anchors.most_runs(self._batch_size)
        apart = min(self._anchors.stride, high - low + 1)
        return min(len(self._readers[name].spec), self._batch_size * apart + runs * (high - low))

    # --- advice ------------------------------------------------------------------------------------------------------

    def _advise_window(self, epoch: int, start: int) -> None:
        """On entering a shuffling window, ask the kernel for the next one: its blocks lie all over the file."""
        if self._advised[0] == epoch and start < self._advised[1]:
            return
        window = self._order.window_at(epoch, start)
        windows = [] if self._advised[0] == epoch else [window]
        self._advised = (epoch, window.stop)
        if window.stop < len(self._order):
            windows.append(self._order.window_at(epoch, window.stop))
        for coming in windows if self._advised_readers else []:
            for start, stop in merged(self._sample_runs(epoch, coming)):
                for name, reader in self._advised_readers.items():
                    low, high = self._plan.reach(name)
                    reader.will_need(start + low, stop + high)

    def _advise_ahead(self, sample: int) -> None:
        """In stored order, keep the kernel some megabytes ahead of the pass."""
        low, high = self._advised
        if low <= sample and sample + self._ahead <= high:
            return
        self._advised = (sample, sample + 2 * self._ahead)
        for reader in self._advised_readers.values():
            reader.will_need(high if low <= sample <= high else sample, sample + 2 * self._ahead)

    # --- prediction --------------------------------------------------------------------------------------------------

    def memory(self, order: SampleOrder | None = None) -> MemoryPlan:
        """Predicted peak of private memory, in bytes, of one pass with at most `ALIVE` batches alive, in this order or another."""
        order = order or self._order
        batch = self._batch_size
        delivered = sum(frames.nbytes for frames in self._plan.arrays) * batch
        read = sum(frames.read_nbytes for frames in self._plan.arrays if frames.converts) * batch
        windows, slabs, cache = 0, 0, 0
        for name, reader in self._readers.items():
            nbytes = reader.spec.sample_nbytes
            if order.shuffling is None:
                low, high = self._plan.reach(name)
                slabs += (self.batch_rows(name) if name in self._decoding else batch + high - low) * nbytes
            elif name in self._gathering:
                cache += 2 * self.window_rows(name, order) * nbytes if reader.place != "in RAM" else 0
            else:
                windows += self.window_rows(name, order) * nbytes
        scratch = sum(reader.scratch_nbytes for reader in self._readers.values() if isinstance(reader, NeedsScratch))
        return MemoryPlan(
            {
                f"{ALIVE} batches alive": ALIVE * delivered,
                "frames before conversion": read + slabs,
                "decoded shuffling window": windows,
                "decoder": scratch,
                "episodes": self._anchors.nbytes,
                "bookkeeping": BOOKKEEPING_BYTES,
            },
            page_cache=cache,
        )
