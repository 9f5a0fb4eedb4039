"""Windows of frames that are read once and held for all batches that draw on them, the next one read ahead."""

from __future__ import annotations

import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..files.lent_buffers import LentBuffers
from ..plain.errors import SlowAccessWarning
from ..plain.runs import Numbers, Runs, merged
from ..plain.sample_order import SampleOrder, Window
from ..readers.contract import Array, Part, Reader
from .look_ahead import Promise
from .plan import Plan
from .window_frames import WindowFrames

_JUMPS = 3  # out of order so many times in an epoch, it is a habit: validation, a resumed state, a look at b[0] jump once


class _HeldFrames:
    """The samples of some runs, in one buffer for `capacity` samples: buffers of one size can be lent again.

    The first `shared` samples are copied from the frames that `before` returns, which is called last, for it may have to wait;
    where it returns None they are read.
    """

    def __init__(
        self,
        reader: Reader,
        runs: Runs,
        buffers: LentBuffers,
        capacity: int,
        shared: int,
        before: Callable[[], _HeldFrames | None] | None,
    ) -> None:
        kept = merged(runs)
        self._starts = kept[:, 0]
        self._rows = np.concatenate([[0], np.cumsum(kept[:, 1] - kept[:, 0])])
        samples = int(self._rows[-1])
        self.samples = buffers.lend((max(samples, capacity), *reader.spec.sample_shape), reader.spec.dtype)[:samples]
        head, tail = _cut(kept, self._rows, shared)
        if len(tail):
            reader.read_runs(tail, self.samples[shared:])
        there = before() if before is not None and len(head) else None
        if there is None:
            if len(head):
                reader.read_runs(head, self.samples[:shared])
            return
        at = 0
        for (start, stop), first in zip(head.tolist(), there.rows(head[:, 0]).tolist(), strict=True):
            np.copyto(self.samples[at : at + stop - start], there.samples[first : first + stop - start])
            at += stop - start

    def rows(self, wanted: Numbers) -> Numbers:
        """Return the row of each of these samples, all of which are here."""
        run = np.searchsorted(self._starts, wanted, side="right") - 1
        return self._rows[run] + wanted - self._starts[run]

    def run(self, start: int, stop: int) -> Array | None:
        """Return a view of samples [start, stop); None if they are not all here."""
        number = int(np.searchsorted(self._starts, start, side="right")) - 1
        if number < 0:
            return None
        first = int(self._rows[number]) + start - int(self._starts[number])
        return self.samples[first : first + stop - start] if first + stop - start <= int(self._rows[number + 1]) else None

    def gather(self, starts: Numbers, parts: Sequence[Part]) -> None:
        """Fill parts as `Reader.gather` does, for windows each inside of one run."""
        lowest = min(part.first for part in parts)
        rows = self.rows(starts + lowest) - lowest
        for part in parts:
            part.take(self.samples, part.frames(rows))


@dataclass
class _Held:
    """A window of an epoch and its frames."""

    epoch: int
    window: Window
    frames: dict[str, _HeldFrames] | None = None  # by field; None until they are read
    promise: Promise[None] | None = None  # to read them

    @property
    def key(self) -> tuple[int, int]:
        return self.epoch, self.window.number

    def has(self, epoch: int, position: int) -> bool:
        return self.epoch == epoch and self.window.start <= position < self.window.stop

    def frames_of(self, name: str) -> _HeldFrames | None:
        """Wait until the frames of a field are read, and return them; None if reading failed."""
        if (promise := self.promise) is not None:
            promise.wait()
        return self.frames.get(name) if self.frames is not None else None


@dataclass(eq=False)
class WindowBuffers:
    """The frames of one window of positions, and those of the next ones, which threads read meanwhile.

    In sequential order two small windows are read ahead: while the last chunks of one are decoded, processors that have nothing
    left to do in it go on with the other.
    """

    readers: Mapping[str, Reader]  # of the fields whose frames are worth holding
    plan: Plan
    frames: WindowFrames
    batch_size: int
    buffers: LentBuffers

    def __post_init__(self) -> None:
        self._warned = False
        self._is_sequential = self.frames.order.shuffling is None
        self._ahead = self._windows_ahead(self.frames)
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._now: _Held | None = None
        self._coming: deque[_Held] = deque()
        self._jumps = (-1, 0)  # epoch, how often in it a window was asked for that does not follow the last one

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_now", "_coming")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __len__(self) -> int:
        return len(self.readers)

    def __contains__(self, name: object) -> bool:
        return name in self.readers

    # --- serving -----------------------------------------------------------------------------------------------------

    def gather(self, epoch: int, start: int, starts: Numbers, parts: Mapping[str, list[Part]]) -> None:
        """Fill the parts, by field, of positions [start, start + len(starts)), whose anchors lie at the samples `starts`."""
        # A batch that straddles two windows takes from the first, lets go of it, and takes from the second.
        done = 0
        while done < len(starts):
            with self._locked():
                window, held = self._hold(epoch, start + done)
                end = min(len(starts), window.stop - start)
                for name, resident in held.items():
                    cut = [Part(part.first, part.count, part.step, part.out[done:end]) for part in parts[name]]
                    resident.gather(starts[done:end], cut)
                if done == 0 and end == len(starts):
                    self._look_ahead(epoch)
            done = end

    def run(self, name: str, epoch: int, start: int, first: int, last: int) -> Array | None:
        """Return a view of samples [first, last) of a field, for the batch at position `start`; None if not in one piece."""
        with self._locked():
            _, held = self._hold(epoch, start)
            found = held[name].run(first, last)
            self._look_ahead(epoch)
        return found

    def rows(self, name: str, epoch: int, start: int, samples: Numbers) -> tuple[Numbers, Array]:
        """Return the rows of these anchors, which begin at position `start` of one window, and a view of all frames held."""
        with self._locked():
            _, held = self._hold(epoch, start)
            self._look_ahead(epoch)
        low, _ = self.plan.reach(name)
        return held[name].rows(samples + low) - low, held[name].samples

    @property
    def positions(self) -> int:
        """The most positions of a window; in sequential order all but the last have so many."""
        return self.frames.samples

    @property
    def is_asked_in_order(self) -> bool:
        """False once batches of an epoch were asked for out of order again and again."""
        return self._jumps[1] < _JUMPS

    def _locked(self) -> threading.Lock:
        if self._process != os.getpid():
            self._reset()  # in a forked child: a thread that is not there may hold the lock
        return self._lock

    def _hold(self, epoch: int, position: int) -> tuple[Window, dict[str, _HeldFrames]]:
        if self._now is None or not self._now.has(epoch, position):
            self._turn_to(_Held(epoch, self.frames.at(epoch, position)))
        assert self._now is not None and self._now.frames is not None
        return self._now.window, self._now.frames

    def _turn_to(self, wanted: _Held) -> None:
        self._count_jump(wanted.key)
        before, self._now = self._now, None  # its buffers are lent again once nobody looks into them
        if self._coming and self._coming[0].key == wanted.key:
            del before
            wanted = self._coming.popleft()
            assert wanted.promise is not None
            wanted.promise.result()
            wanted.promise = None
        else:
            while self._coming:
                dropped = self._coming.popleft()
                assert dropped.promise is not None
                dropped.promise.drop()
            follows = before is not None and before.key == (wanted.epoch, wanted.window.number - 1)
            if not (follows and self._is_sequential):
                before = None  # of its frames none are taken over: their buffer can be lent again
            self._read(wanted, before)
        self._now = wanted

    def _look_ahead(self, epoch: int) -> None:
        """Begin to read the windows after this one, now that no batch in order needs the one before any more."""
        if not self.is_asked_in_order:
            return
        while len(self._coming) < self._ahead:
            last = self._coming[-1] if self._coming else self._now
            assert last is not None
            following = self.frames.after(epoch, last.window)
            if following is None:
                return
            self._coming.append(_Held(epoch, following))
            self._coming[-1].promise = Promise(partial(self._read, self._coming[-1], last if self._is_sequential else None))

    def _read(self, wanted: _Held, before: _Held | None) -> None:
        """Read the frames of a window; in sequential order, copy those that the window `before` has as well."""
        found = {}
        for name, reader in self.readers.items():
            runs, shared = self._runs(name, wanted), 0
            there: Callable[[], _HeldFrames | None] | None = None
            if before is not None:
                shared, there = _shared(self._runs(name, before), runs), partial(before.frames_of, name)
            found[name] = _HeldFrames(reader, runs, self.buffers, self._rows(name, self.frames), shared, there)
        wanted.frames = found

    def _runs(self, name: str, held: _Held) -> Runs:
        runs = self.frames.runs(held.epoch, held.window, name)
        if self._is_sequential:
            # The rest of the last chunk is kept: the next stretch begins with it, or with samples of it.
            runs[-1, 1] = self.readers[name].whole_chunks(*runs[-1].tolist())[1]
        return runs

    def _windows_ahead(self, frames: WindowFrames) -> int:
        nbytes = sum(self._rows(name, frames) * reader.spec.sample_nbytes for name, reader in self.readers.items())
        return 2 if frames.order.shuffling is None and nbytes <= 2 * frames.stretch_bytes else 1

    def _count_jump(self, key: tuple[int, int]) -> None:
        epoch, number = key
        if self._jumps[0] != epoch:
            self._jumps = (epoch, 0)
        elif self._now is not None and number != self._now.window.number + 1:
            self._jumps = (epoch, self._jumps[1] + 1)
            decodes = any(reader.decoded_together for reader in self.readers.values())
            if self._jumps[1] == _JUMPS and decodes and not self._warned:
                self._warned = True
                warnings.warn(self._jumping_costs(), SlowAccessWarning, stacklevel=2)

    def _jumping_costs(self) -> str:
        samples = self.frames.samples
        return (
            f"batches are asked for out of order, and {samples} samples are decoded at a time: an epoch decodes everything up to "
            f"{max(2, samples // self.batch_size)} times. Keras's default, fit(shuffle=True), does that to a Sequence. Write "
            "fit(..., shuffle=False), which leaves the order to these batches; or use to_tf(); or decode once with "
            "ds.cache(directory)."
        )

    # --- prediction --------------------------------------------------------------------------------------------------

    def _rows(self, name: str, frames: WindowFrames) -> int:
        return frames.rows(name, max(0, self.readers[name].decoded_together - 1))

    def nbytes(self, order: SampleOrder) -> int:
        """Return the most bytes of private memory that frames take in this order."""
        frames = self.frames.under(order)
        rows = sum(self._rows(name, frames) * reader.spec.sample_nbytes for name, reader in self.readers.items())
        return self._alive(frames) * rows

    def index_nbytes(self, order: SampleOrder) -> int:
        """Return the bytes of private memory of the index of the frames."""
        frames = self.frames.under(order)
        return self._alive(frames) * len(self.readers) * frames.index_nbytes

    def _alive(self, frames: WindowFrames) -> int:
        """Count the windows held: in use and ahead; in sequential order, views of batches keep the one before alive as well."""
        return min(1 + self._windows_ahead(frames) + (frames.order.shuffling is None), frames.count)


def _shared(before: Runs, runs: Runs) -> int:
    """Count the samples at the beginning of `runs` that are in the last run of `before`, both merged.

    >>> _shared(np.array([[0, 8], [20, 30]]), np.array([[26, 28], [29, 40]])), _shared(np.array([[0, 8]]), np.array([[8, 16]]))
    (3, 0)
    """
    first, end = before[-1]
    return int(np.maximum(0, np.minimum(runs[:, 1], end) - runs[:, 0]).sum()) if first <= runs[0, 0] else 0


def _cut(runs: Runs, rows: Numbers, samples: int) -> tuple[Runs, Runs]:
    """Divide runs into those of the first `samples` samples, and the rest. `rows` counts the samples before each run.

    >>> [part.tolist() for part in _cut(np.array([[0, 3], [5, 9]]), np.array([0, 3, 7]), 4)]
    [[[0, 3], [5, 6]], [[6, 9]]]
    """
    begun = int(np.searchsorted(rows, samples))  # runs that begin before
    head, tail = runs[:begun].copy(), runs[begun:]
    if begun and rows[begun] > samples:
        middle = head[-1, 1] - (rows[begun] - samples)
        tail = np.concatenate([[[middle, head[-1, 1]]], tail])
        head[-1, 1] = middle
    return head, tail
