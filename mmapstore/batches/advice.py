"""Advice to the kernel about a pass: the bytes that come next, and those that are done with."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from ..files.process_memory import memory_available
from ..plain.sample_order import Window
from ..readers.contract import Reader
from .plan import Plan
from .window_frames import WindowFrames

_GAP_BYTES = 64 * 2**10  # samples left out between others are asked for as well: less than another call costs
AHEAD_BYTES = 8 * 2**20  # that the kernel is told of ahead of a pass in sequential order


class Advice:
    """Keeps the kernel one shuffling window, or some megabytes in sequential order, ahead of a pass.

    Where the data exceeds the memory available when an epoch begins, pages behind the pass are let go of: the next epoch would not
    find them in memory anyway, and the pages of other programs would have to make room for them.
    """

    def __init__(self, readers: Mapping[str, Reader], plan: Plan, frames: WindowFrames, held: Container[str] = ()) -> None:
        self._held = held  # fields of which whole windows are read ahead anyway
        self._readers = {name: reader for name, reader in readers.items() if reader.takes_advice}
        self._plan = plan
        self._frames = frames
        self._nbytes = sum(reader.spec.nbytes for reader in readers.values())
        self._ahead = max(1, AHEAD_BYTES // max(1, sum(spec.sample_nbytes for spec in plan.fields.values())))
        self._end = frames.end if frames.order.shuffling is None else 0
        self._told = (-1, -1)  # (epoch, position) when shuffled, the samples told of when not
        self._behind = 0  # in sequential order: samples from here to those told of are not let go of yet
        self._before = 0  # where the run before the last one began
        self._epoch = -1
        self._exceeds = False
        self._window: tuple[int, Window] | None = None

    def on_window(self, epoch: int, position: int) -> None:
        """Ask for the next window when the first batch of one begins, at this position of a shuffled pass."""
        if self._told[0] == epoch and position < self._told[1]:
            return
        window = self._frames.at(epoch, position)
        coming: list[Window | None] = [] if self._told[0] == epoch else [window]
        self._told = (epoch, window.stop)
        if not self._readers:
            return
        self._begin(epoch)
        coming.append(self._frames.after(epoch, window))
        for one in coming:
            if one is not None:
                self._tell_of_window(epoch, one, "will_need")
        done, self._window = self._window, (epoch, window)
        if self._exceeds and done is not None and done != self._window:
            self._tell_of_window(*done, "let_go")

    def on_sample(self, epoch: int, sample: int) -> None:
        """Ask for the samples behind this one, at which a batch in sequential order begins."""
        low, high = self._told
        if low <= sample and min(sample + self._ahead, self._end) <= high:
            return
        self._begin(epoch)
        follows = low <= sample <= high
        self._told = (sample, min(sample + 2 * self._ahead, self._end))
        self._tell(high if follows else sample, self._told[1], "will_need")
        # The samples that views of the last batches look at stay: a batch or two behind, far less than a step of advice.
        self._pass_by(sample - self._ahead if follows else sample, follows)

    def on_run(self, epoch: int, first: int, last: int) -> None:
        """Ask for samples [first, last), which somebody else reads next in sequential order, and for as many again behind them."""
        # Only samples that were not asked for yet: the kernel looks at every page, also of those that it has.
        self._begin(epoch)
        low, high = self._told
        follows = low <= first <= high
        self._told = (first, min(2 * last - first, self._end))
        self._tell(high if follows else first, self._told[1], "will_need")
        # While one run is asked for, the one before it waits, and batches of the one before that may still be in use.
        self._pass_by(self._before if follows else first, follows)
        self._before = low if follows else first

    def _pass_by(self, sample: int, follows: bool) -> None:
        """Let go of the samples before this one, if it `follows` those told of before."""
        if self._exceeds and follows and sample > self._behind:
            self._tell(self._behind, sample, "let_go")
        self._behind = max(self._behind, sample) if follows else sample

    def _begin(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._epoch = epoch
            self._exceeds = self._nbytes > memory_available()

    def _tell_of_window(self, epoch: int, window: Window, what: str) -> None:
        for name, reader in self._readers.items():
            if what == "will_need" and name in self._held:
                continue
            tell: Any = getattr(reader, what)
            gap = _GAP_BYTES // max(1, reader.spec.sample_nbytes)
            for start, stop in self._frames.runs(epoch, window, name, gap).tolist():
                tell(start, stop)

    def _tell(self, start: int, stop: int, what: str) -> None:
        """Call `what` for the samples of the windows that begin at [start, stop)."""
        for name, reader in self._readers.items():
            low, high = self._plan.reach(name)
            tell: Any = getattr(reader, what)
            if start < stop:
                tell(max(0, start + low), stop + high)
