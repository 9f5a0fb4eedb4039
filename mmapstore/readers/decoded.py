"""Samples whose chunks are encoded, read on our own descriptors and decoded in threads.

HDF5 decodes behind one lock, and zarr-python spends more on a small chunk than its decoder does. Here every chunk that
a call needs is read with one positioned read, or with its neighbours in the file, and decoded once: straight into the
caller's array where it fills a piece of that, else beside it.
"""

from __future__ import annotations

import functools
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..codecs.chain import ChainDecoder, decoder_for
from ..codecs.codec import CorruptChunk
from ..files.process_memory import no_memory, require_memory
from ..files.worker_threads import share_out, usable_cpus
from ..formats.contract import StoredArray
from ..formats.located import ChunkPlace, Located
from ..plain.array_spec import StoredLayout
from ..plain.chunk_grid import Box
from ..plain.errors import DamagedFileError, MmapstoreError
from ..plain.runs import Numbers, Runs, samples_of
from . import chunk_groups
from .chunk_advice import ChunkAdvice
from .chunk_files import ChunkFiles
from .chunk_groups import Target, WantedChunk, groups_of
from .chunk_runs import in_stretches, sample_axis, whole_chunks
from .contract import Array, Reader
from .workspaces import Workspace, shared_workspaces

_decoders: weakref.WeakValueDictionary[str, ChainDecoder] = weakref.WeakValueDictionary()


def decoder_of(chunks: Located) -> tuple[ChainDecoder | None, str]:
    """Return the decoder for these chunks, or None and why there is none. Joined files share one, and so its memory."""
    key = repr((chunks.chain, chunks.dtype.str, chunks.grid.chunk))
    found = _decoders.get(key)
    if found is not None:
        return found, ""
    made, why = decoder_for(chunks.chain, chunks.dtype, chunks.grid.chunk)
    if made is not None:
        _decoders[key] = made
    return made, why


class Decoded(Reader):
    """Reads the samples of `stored` from `chunks`, its places, by their `decoder`."""

    place = "decoded in threads"
    joins_runs = takes_advice = True

    def __init__(self, stored: StoredArray, layout: StoredLayout, why: str, chunks: Located, decoder: ChainDecoder) -> None:
        self._stored = stored
        self._name = stored.name
        self._layout = layout
        self.why = why
        self.spec = layout.spec(chunks.dtype)
        self._chunks = chunks
        self._decoder = decoder
        self._files = ChunkFiles(self._name, chunks)
        self._chunk_nbytes = self._files.chunk_nbytes
        self._together = chunk_groups.READ_TOGETHER // self._chunk_nbytes if decoder.joins else 0  # chunks that one call decodes
        self._has_memory = False
        self._workspaces = shared_workspaces()
        self._limit(min(usable_cpus(), max(1, len(chunks.grid))))
        self._axis = sample_axis(layout)
        self._advice = ChunkAdvice(chunks, self._files, layout)
        # The axes of a run, samples first, in the order in which they are stored.
        leading = [letter for letter in "NT" if letter in layout.letters]
        ordered = [*leading, *layout.sample_letters]
        self._stored_order = [ordered.index(letter) for letter in layout.letters]
        self._has_episodes = len(leading) == 2
        # Chunks that are whole samples, one after the other: what is wanted of them are rows of the caller's array.
        across = tuple(slice(0, length) for length in chunks.grid.chunk[1:])
        is_whole = chunks.grid.chunk[1:] == chunks.grid.shape[1:]
        self._across = across if self._axis == 0 and not self._has_episodes and is_whole else None
        # A chunk as it comes out of the decoder, seen in stored axis order.
        axes = chunks.axes or tuple(range(len(chunks.grid.chunk)))
        self._as_decoded, self._decoded_shape = axes, tuple(chunks.grid.chunk[axis] for axis in axes)
        self._as_stored = tuple(axes.index(axis) for axis in range(len(axes)))
        steps = [math.prod(self._decoded_shape[place + 1 :]) * chunks.dtype.itemsize for place in range(len(axes))]
        self._strides = [steps[place] for place in self._as_stored]

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self._stored, self._layout, self.why, self._workers)

    # --- the contract ------------------------------------------------------------------------------------------------

    @property
    def scratch_nbytes(self) -> int:
        return self.scratch_of_chunks(self._workers)

    def scratch_of(self, samples: int) -> int:
        counts = self._chunks.grid.counts
        along = counts[self._axis] if self._has_episodes else -(-samples // self._chunks.grid.chunk[self._axis])
        return self.scratch_of_chunks(along * (len(self._chunks.grid) // max(1, counts[self._axis])))

    def scratch_of_chunks(self, chunks: int) -> int:
        """Return `scratch_nbytes` of calls that decode at most so many chunks each, in no more threads."""
        return self.kept_nbytes + min(self._workers, chunks) * self._worker_nbytes

    @property
    def _worker_nbytes(self) -> int:
        stored = (
            chunk_groups.READ_TOGETHER if self._files.never_encoded else max(chunk_groups.READ_TOGETHER, self._files.most_stored)
        )
        joined = self._decoder.joined_nbytes(self._together)
        return stored + max(1, self._together) * self._chunk_nbytes + self._decoder.scratch_nbytes + joined

    def within(self, nbytes: int) -> Decoded:
        workers = max(1, (nbytes - self.kept_nbytes) // self._worker_nbytes)
        if workers >= self._workers:
            return self
        found = object.__new__(type(self))  # shares files, index and decoder
        found.__dict__.update(self.__dict__)
        found._limit(workers)
        return found

    def _limit(self, workers: int) -> None:
        """Let so many threads at a time decode, whoever calls. In a forked child, threads that held a turn are no more."""
        self._workers, self._turns, self._process = workers, threading.BoundedSemaphore(workers), os.getpid()

    @property
    def left_nbytes(self) -> int:
        return self._decoder.own_nbytes

    @property
    def files(self) -> list[str]:
        return [self._chunks.root]

    @property
    def kept_nbytes(self) -> int:
        return self._chunks.nbytes

    @property
    def decoded_together(self) -> int:
        return min(self._chunks.grid.chunk[self._axis], self._layout.episode_length)

    def whole_chunks(self, start: int, stop: int) -> tuple[int, int]:
        return whole_chunks(self._layout, self._chunks.grid.chunk[self._axis], start, stop)

    def read(self, start: int, stop: int, out: Array) -> None:
        wanted: dict[int, list[Target]] = {}
        self._want(wanted, start, stop, out)
        self._fill_all(wanted)

    def read_runs(self, runs: Runs, out: Array) -> None:
        runs = runs[runs[:, 0] < runs[:, 1]]
        wanted: dict[int, list[Target]] = {}
        at = 0
        for first, last in self._in_one_chunk(runs):
            end = at + int((runs[first:last, 1] - runs[first:last, 0]).sum())
            if last - first == 1:
                self._want(wanted, int(runs[first, 0]), int(runs[first, 1]), out[at:end])
            else:
                self._want_scattered(wanted, samples_of(runs[first:last]), out[at:end])
            at = end
        self._fill_all(wanted)

    def _in_one_chunk(self, runs: Runs) -> list[tuple[int, int]]:
        """Return neighbours among runs, [first, last), that one chunk along the axis of samples holds all of; others alone."""
        each, length = self._chunks.grid.chunk[self._axis], self._layout.episode_length
        episode, within = np.divmod(runs[:, 0], length)
        chunk = episode * -(-length // each) + within // each
        alone = within % each + runs[:, 1] - runs[:, 0] > each
        begins = np.flatnonzero(np.append(True, (np.diff(chunk) != 0) | alone[1:] | alone[:-1] | (runs[1:, 0] < runs[:-1, 1])))
        return list(zip(begins.tolist(), [*begins[1:].tolist(), len(runs)], strict=True)) if len(runs) else []

    def _want(self, wanted: dict[int, list[Target]], start: int, stop: int, out: Array) -> None:
        if self._across is not None and self._stored_order == sorted(self._stored_order):
            each = self._chunks.grid.chunk[0]
            for number in range(start // each, -(-stop // each)):
                low, high = max(start, number * each), min(stop, (number + 1) * each)
                inside = slice(low - number * each, high - number * each), *self._across
                wanted.setdefault(number, []).append((out[low - start : high - start], inside))
            return
        for selection, first, last in self._layout.boxes(start, stop):
            samples = out[first:last]
            box = (samples[None] if self._has_episodes else samples).transpose(self._stored_order)
            for number, inside, within in self._chunks.grid.touching(selection):
                wanted.setdefault(number, []).append((box[within], inside))

    def _want_scattered(self, wanted: dict[int, list[Target]], samples: Numbers, out: Array) -> None:
        """Single samples that one chunk along their axis holds: taken from it by one call."""
        box = (out[None] if self._has_episodes else out).transpose(self._stored_order)
        ((selection, _, _),) = self._layout.boxes(int(samples[0]), int(samples[0]) + 1)
        for number, inside, within in self._chunks.grid.touching(selection):
            places = samples - samples[0] + inside[self._axis].start
            inside = (*inside[: self._axis], places, *inside[self._axis + 1 :])
            within = (*within[: self._axis], slice(None), *within[self._axis + 1 :])
            wanted.setdefault(number, []).append((box[within], inside))

    def read_box(self, box: Box, out: Array) -> None:
        """Fill `out` with a region of the stored array, in stored axis order; `box` has a slice for each axis."""
        self._fill_all({number: [(out[within], inside)] for number, inside, within in self._chunks.grid.touching(box)})

    def _fill_all(self, wanted: dict[int, list[Target]]) -> None:
        numbers = sorted(wanted)
        places = self._chunks.places(numbers)
        chunks = [WantedChunk(number, place, wanted[number]) for number, place in zip(numbers, places, strict=True)]
        try:
            share_out(groups_of(chunks, self._together, self._decoder.joins_neighbours), self._work, self._workers)
        except MmapstoreError:
            raise
        except MemoryError as error:
            raise no_memory(self._chunk_nbytes, self._chunk_words()) from error

    def will_need(self, start: int, stop: int) -> None:
        self._advice.will_need(start, min(stop, len(self.spec)))

    def let_go(self, start: int, stop: int) -> None:
        self._advice.let_go(start, min(stop, len(self.spec)))

    def check(self) -> None:
        self._files.check()

    # --- in threads ------------------------------------------------------------------------------------------------------

    def _work(self, groups: Iterator[list[WantedChunk]]) -> None:
        if self._process != os.getpid():
            self._limit(self._workers)
        with self._turns:
            workspace = self._workspaces.take()
            try:
                for group in groups:
                    if len(group) == 1 or not self._read_together(group, workspace):
                        for chunk in group:
                            self._read_one(chunk, workspace)
            finally:
                self._workspaces.give(workspace)

    def _read_one(self, chunk: WantedChunk, workspace: Workspace) -> None:
        place = chunk.place
        descriptor = None if place is None else self._files.open(chunk.number, place)
        if place is None or descriptor is None:
            self._fill(chunk)
            return
        nbytes = place.nbytes if place.nbytes >= 0 else descriptor.status.st_size - place.offset
        self._files.check_size(chunk.number, place, nbytes)
        if self._files.is_plain(place):

            def read_part(start: int, stop: int, out: Array) -> bool:
                self._files.read(chunk.number, place, descriptor, place.offset + start, out)
                return True

            self._deliver(chunk, functools.partial(read_part, 0, nbytes), read_part, workspace)
            return
        staging = workspace.staging(max(nbytes, self._files.most_stored))[:nbytes]  # no page is taken before it is written to
        self._files.read(chunk.number, place, descriptor, place.offset, staging)
        self._decode(chunk, place, staging, workspace)

    def _read_together(self, group: list[WantedChunk], workspace: Workspace) -> bool:
        """Read and decode chunks with few calls; False where they have to be read one by one, which tells what is wrong."""
        places = [chunk.place for chunk in group if chunk.place is not None]
        staging = workspace.staging(chunk_groups.READ_TOGETHER)
        pieces = self._files.read_together([chunk.number for chunk in group], places, staging)
        if pieces is None:
            return False
        if self._together or places[0].nbytes < 0:
            if any(place.skipped for place in places):
                return False
            in_place = self._in_place(group)
            decoded = workspace.decoded(len(group) * self._chunk_nbytes) if in_place is None else in_place
            if not self._decoder.decode_joined(staging, pieces, decoded):
                self._together = 0  # perhaps frames that do not say how long they are: the next ones are not tried
                return False
            if in_place is None:
                for chunk, whole in zip(group, decoded.reshape(len(group), -1), strict=True):
                    self._copy(chunk, whole)
            return True
        for chunk, place, (begin, end) in zip(group, places, pieces, strict=True):
            self._files.check_size(chunk.number, place, end - begin)
            if self._files.is_plain(place):
                self._deliver(chunk, functools.partial(np.copyto, src=staging[begin:end]), None, workspace)
            else:
                self._decode(chunk, place, staging[begin:end], workspace)
        return True

    def _in_place(self, group: list[WantedChunk]) -> Array | None:
        """Return the bytes of the caller's array that these chunks fill, one after the other and whole; None where they do not."""
        first = group[0].targets[0][0]
        if self._across is None or self._chunks.axes is not None or first.dtype != self._chunks.dtype:
            return None
        address = first.__array_interface__["data"][0]
        for chunk in group:
            (target, _), *others = chunk.targets
            wanted = target.__array_interface__["data"][0] == address and target.nbytes == self._chunk_nbytes
            if others or not wanted or not target.flags.c_contiguous:
                return None
            address += self._chunk_nbytes
        return np.lib.stride_tricks.as_strided(first.reshape(-1).view(np.uint8), (len(group) * self._chunk_nbytes,), (1,))

    def _decode(self, chunk: WantedChunk, place: ChunkPlace, stored: Array, workspace: Workspace) -> None:
        def decode_part(start: int, stop: int, out: Array) -> bool:
            return self._decoder.decode_part(stored, start, stop, out, place.skipped)

        try:
            self._deliver(chunk, lambda out: self._decoder.decode(stored, out, place.skipped), decode_part, workspace)
        except CorruptChunk as error:
            raise DamagedFileError(
                f"{self._files.where(chunk.number, place)} is damaged: {error}. It was changed after it was written; "
                "copy or write the data again."
            ) from error

    def _deliver(
        self,
        chunk: WantedChunk,
        fill: Callable[[Array], object],
        fill_part: Callable[[int, int, Array], bool] | None,
        workspace: Workspace,
    ) -> None:
        """Have `fill` put the chunk's decoded bytes where they belong, or beside it, and copy what is wanted of them.

        `fill_part` fills in the bytes [start, stop) of the chunk alone, or returns False where that is no cheaper.
        """
        for target, _ in chunk.targets:
            if target.shape == self._chunks.grid.chunk and self._chunks.dtype == target.dtype:
                as_decoded = target.transpose(self._as_decoded)
                if as_decoded.flags.c_contiguous:
                    fill(as_decoded.reshape(-1).view(np.uint8))
                    for other, inside in chunk.targets:
                        if other is not target:
                            other[...] = target[inside]
                    return
        decoded = workspace.decoded(self._chunk_nbytes)
        start, stop = self._wanted_bytes(chunk)
        if fill_part is None or stop - start == self._chunk_nbytes or not fill_part(start, stop, decoded[start:stop]):
            if not self._has_memory:
                require_memory(self._chunk_nbytes, self._chunk_words())
                self._has_memory = True  # its buffer is kept
            fill(decoded)
        self._copy(chunk, decoded)

    def _copy(self, chunk: WantedChunk, decoded: Array) -> None:
        """Copy what is wanted of a chunk from its decoded bytes."""
        whole = decoded.view(self._chunks.dtype).reshape(self._decoded_shape).transpose(self._as_stored)
        for target, inside in chunk.targets:
            target[...] = whole[inside]

    def _wanted_bytes(self, chunk: WantedChunk) -> tuple[int, int]:
        """Return the stretch [start, stop) of the decoded chunk that holds all that is wanted of it."""
        start, stop = self._chunk_nbytes, 0
        for _, inside in chunk.targets:
            ends = [(part.start, part.stop - 1) if isinstance(part, slice) else (part[0], part[-1]) for part in inside]
            start = min(start, sum(int(low) * stride for (low, _), stride in zip(ends, self._strides, strict=True)))
            last = sum(int(high) * stride for (_, high), stride in zip(ends, self._strides, strict=True))
            stop = max(stop, last + self._chunks.dtype.itemsize)
        return start, stop

    def _fill(self, chunk: WantedChunk) -> None:
        self.check()  # a chunk that was never written, and one that was deleted with all others, look alike
        for target, _ in chunk.targets:
            target[...] = self._chunks.fill

    # --- words --------------------------------------------------------------------------------------------------------------

    def _chunk_words(self) -> str:
        return f"{self._name}: one of its chunks of {self._chunks.grid.chunk} {self._chunks.dtype}"


def decoded_reader(stored: StoredArray, layout: StoredLayout, why: str = "") -> tuple[Decoded | None, str]:
    """Return a reader of the chunks of `stored`, and ""; or None, and the reason."""
    chunks = stored.located
    if chunks is None:
        return None, stored.why_not
    if chunks.offset is not None:
        chunks = in_stretches(chunks, chunks.offset, layout)
    decoder, why_not = decoder_of(chunks)
    return (Decoded(stored, layout, why, chunks, decoder), "") if decoder is not None else (None, why_not)


def _reopened(stored: StoredArray, layout: StoredLayout, why: str, workers: int) -> Decoded:
    reader, why_not = decoded_reader(stored, layout, why)
    if reader is None:
        raise DamagedFileError(
            f"{stored.name} cannot be decoded here, though it could where it was opened: {why_not}. Open it again."
        )
    return reader.within(reader.kept_nbytes + workers * reader._worker_nbytes)
