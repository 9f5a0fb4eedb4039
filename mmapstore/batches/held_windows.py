"""Windows of frames that are read once and held for all batches that draw on them, the next one read ahead."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..files.lent_buffers import LentBuffers
from ..plain.errors import SlowAccessWarning
from ..plain.sample_order import SampleOrder, Window
from ..readers.contract import Array, Decodes, Part, Reader
from .look_ahead import Promise
from .plan import Plan
from .resident import Resident
from .window_frames import WindowFrames

Numbers = np.ndarray[Any, np.dtype[np.int64]]
_JUMPS = 3  # out of order so many times in an epoch, it is a habit: validation, a resumed state, a look at b[0] jump once


class HeldWindows:
    """The frames of one window of positions, and those of the next, which a thread reads meanwhile.

    `readers` are those whose frames are worth holding, by field.
    """

    def __init__(
        self, readers: Mapping[str, Reader], plan: Plan, frames: WindowFrames, batch_size: int, buffers: LentBuffers
    ) -> None:
        self._readers = dict(readers)
        self._plan = plan
        self._frames = frames
        self._batch_size = batch_size
        self._buffers = buffers
        self._decodes = {name: reader for name, reader in readers.items() if isinstance(reader, Decodes)}
        self._warned = False
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._now: tuple[tuple[int, int], Window, dict[str, Resident]] | None = None
        self._next: tuple[tuple[int, int], Promise[dict[str, Resident]]] | None = None
        self._jumps = (-1, 0)  # epoch, how often in it a window was asked for that does not follow the last one

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_now", "_next")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __contains__(self, name: str) -> bool:
        return name in self._readers

    # --- serving -----------------------------------------------------------------------------------------------------

    def gather(self, epoch: int, start: int, starts: Numbers, parts: Mapping[str, list[Part]]) -> None:
        """Fill the parts, by field, of positions [start, start + len(starts)), whose anchors lie at the samples `starts`.

        A batch that straddles two windows takes from the first, lets go of it, and takes from the second.
        """
        done = 0
        while done < len(starts):
            with self._locked():
                window, held = self._hold(epoch, start + done)
                end = min(len(starts), window.stop - start)
                for name, resident in held.items():
                    cut = [Part(part.first, part.count, part.step, part.out[done:end]) for part in parts[name]]
                    resident.gather(starts[done:end], cut)
                if done == 0 and end == len(starts):
                    self._look_ahead(epoch, window)
            done = end

    def run(self, name: str, epoch: int, start: int, first: int, last: int) -> Array | None:
        """Samples [first, last) of a field, a view, for the batch that begins at position `start`; None if not in one piece."""
        with self._locked():
            window, held = self._hold(epoch, start)
            found = held[name].run(first, last)
            self._look_ahead(epoch, window)
        return found

    @property
    def is_asked_in_order(self) -> bool:
        """False once batches of an epoch were asked for out of order again and again."""
        return self._jumps[1] < _JUMPS

    def _locked(self) -> threading.Lock:
        if self._process != os.getpid():
            self._reset()  # in a forked child: a thread that is not there may hold the lock
        return self._lock

    def _hold(self, epoch: int, position: int) -> tuple[Window, dict[str, Resident]]:
        if self._now is not None and self._now[0][0] == epoch and self._now[1].start <= position < self._now[1].stop:
            return self._now[1], self._now[2]
        window = self._frames.at(epoch, position)
        key = (epoch, window.number)
        self._count_jump(key)
        (promised, promise), self._next = self._next or (None, None), None
        before = self._now[2] if self._now is not None and self._now[0] == (epoch, window.number - 1) else {}
        self._now = None  # its buffers are lent again once nobody looks into them
        if promise is not None and promised == key:
            held = promise.result()
        else:
            if promise is not None:
                promise.drop()
            held = self._read(epoch, window, before)
        self._now = key, window, held
        return window, held

    def _look_ahead(self, epoch: int, window: Window) -> None:
        """Begin with the window after this one, now that no batch in order needs the one before any more."""
        if self._next is not None or not self.is_asked_in_order:
            return
        coming = self._frames.after(epoch, window)
        if coming is not None:
            assert self._now is not None
            before = self._now[2]
            self._next = (epoch, coming.number), Promise(lambda: self._read(epoch, coming, before))

    def _read(self, epoch: int, window: Window, before: Mapping[str, Resident]) -> dict[str, Resident]:
        found = {}
        runs = self._frames.runs(epoch, window)
        in_stored_order = self._frames.order.shuffling is None
        for name, reader in self._readers.items():
            low, high = self._plan.reach(name)
            wanted = [(start + low, stop + high) for start, stop in runs]
            if in_stored_order and name in self._decodes:
                # All of what has to be decoded is kept: the next stretch begins with the rest of the last chunk.
                wanted = [self._decodes[name].whole_chunks(start, stop) for start, stop in wanted]
            last = before.get(name) if in_stored_order else None
            found[name] = Resident(reader, wanted, self._buffers, self._rows(name, self._frames), last)
        return found

    def _count_jump(self, key: tuple[int, int]) -> None:
        epoch, number = key
        if self._jumps[0] != epoch:
            self._jumps = (epoch, 0)
        elif self._now is not None and number != self._now[0][1] + 1:
            self._jumps = (epoch, self._jumps[1] + 1)
            if self._jumps[1] == _JUMPS and self._decodes and not self._warned:
                self._warned = True
                warnings.warn(self._jumping_costs(), SlowAccessWarning, stacklevel=2)

    def _jumping_costs(self) -> str:
        samples = self._frames.samples
        return (
            f"batches are asked for out of order, and {samples} samples are decoded at a time: an epoch decodes everything up to "
            f"{max(2, samples // self._batch_size)} times. Keras's default, fit(shuffle=True), does that to a Sequence. Write "
            "fit(..., shuffle=False), which leaves the order to these batches; or use to_tf(); or decode once with "
            "ds.cache(directory)."
        )

    # --- prediction --------------------------------------------------------------------------------------------------

    def _rows(self, name: str, frames: WindowFrames) -> int:
        return frames.rows(name, self._decodes[name].decoded_together - 1 if name in self._decodes else 0)

    def nbytes(self, order: SampleOrder) -> int:
        """Bytes of private memory held at most in this order."""
        frames = self._frames.under(order)
        # The one in use and the next; in stored order batches are views, which keep alive the one before as well.
        alive = min(3 if order.shuffling is None else 2, frames.count)
        return alive * sum(self._rows(name, frames) * reader.spec.sample_nbytes for name, reader in self._readers.items())
