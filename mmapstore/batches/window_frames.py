"""The frames that the windows of an order draw on: arithmetic, no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..plain.array_spec import ArraySpec
from ..plain.runs import Runs, merged, samples_of
from ..plain.sample_order import SampleOrder, Window
from ..plain.windows import Anchors
from .plan import Plan

STRETCH_BYTES = 16 * 2**20  # held at a time in sequential order: several chunks, so that all processors decode
RUN_BYTES = 64  # two numbers, sorted and merged, and where the run lies among the frames that are held


@dataclass(frozen=True)
class Stretches:
    """The windows of a sequential order: stretches of `size` positions."""

    order: SampleOrder
    size: int

    def window_at(self, epoch: int, position: int) -> Window:
        number = position // self.size
        start, stop = max(number * self.size, self.order.begin(epoch)), min((number + 1) * self.size, self.order.end(epoch))
        return Window(number, start, stop, number, number)

    def window_runs(self, epoch: int, window: Window) -> Iterator[Runs]:
        return self.order.runs_at(epoch, window.start, window.stop)

    def largest_window(self) -> tuple[int, int]:
        return min(self.size, len(self.order)), self.order.pieces


@dataclass(frozen=True, eq=False)
class WindowFrames:
    """The windows of positions of an order, and the samples of the store that each draws on.

    In sequential order a window has about `stretch_bytes`, and holds all of up to `together` batches that are read by one call.
    """

    specs: Mapping[str, ArraySpec]  # of the fields that are held by windows
    plan: Plan
    anchors: Anchors
    order: SampleOrder
    batch_size: int
    together: int = 1
    stretch_bytes: int = STRETCH_BYTES

    @cached_property
    def _windows(self) -> SampleOrder | Stretches:
        if self.order.shuffling is not None:
            return self.order
        low, high = self.plan.reach()
        nbytes = sum(spec.sample_nbytes for spec in self.specs.values()) * min(self.anchors.stride, high - low + 1)
        # Whole batches: none has to be put together from two stretches.
        batches = max(1, self.stretch_bytes // max(1, nbytes * self.batch_size))
        together = min(self.together, batches)
        return Stretches(self.order, batches // together * together * self.batch_size)

    def under(self, order: SampleOrder) -> WindowFrames:
        """Return the windows of another order."""
        return replace(self, order=order)

    def at(self, epoch: int, position: int) -> Window:
        """Return the window that holds a position."""
        return self._windows.window_at(epoch, position)

    def after(self, epoch: int, window: Window) -> Window | None:
        """Return the next window of the same epoch; None after the last."""
        return self.at(epoch, window.stop) if window.stop < self.order.end(epoch) else None

    def runs(self, epoch: int, window: Window, name: str | None = None, gap: int = 0) -> Runs:
        """Return the samples of a field, or of all, that the anchors of a window reach; gaps of up to `gap` samples are filled."""
        low, high = self.plan.reach()
        reach, found = np.array(self.plan.reach(name)), []
        for numbers in self._windows.window_runs(epoch, window):
            if self.anchors.stride > high - low + 1:  # what lies between two anchors is in no window
                starts = self.anchors.starts(samples_of(numbers))
                runs = np.stack([starts, starts + 1], axis=1)
            else:
                runs = self.anchors.runs(numbers)
            found.append(merged(runs + reach, gap))
        return merged(np.concatenate(found), gap)

    @property
    def end(self) -> int:
        """The sample of the store behind the last anchor."""
        return int(self.anchors.starts(np.array([len(self.anchors) - 1]))[0]) + 1

    @property
    def samples(self) -> int:
        """The most samples (anchors) in a window."""
        return self._windows.largest_window()[0]

    @property
    def count(self) -> int:
        """Windows in an epoch, at least."""
        return -(-len(self.order) // self.samples)

    def rows(self, name: str, ahead: int = 0) -> int:
        """Return the most samples of a field that a window can reach; a sequential one's last run may be longer by `ahead`."""
        low, high = self.plan.reach(name)
        extra = ahead if self.order.shuffling is None else 0
        return min(len(self.specs[name]), self._most_samples(high - low) + extra)

    def _most_samples(self, reach: int) -> int:
        anchors, blocks = self._windows.largest_window()
        found = anchors * (1 + reach)
        if self.order.draws is None:
            in_runs = anchors * self.anchors.stride + self._most_runs * reach
            found = min(found, in_runs, blocks * (self._longest_span + reach))
        return found

    @cached_property
    def _longest_span(self) -> int:
        return self.anchors.longest_span(self._block)

    @property
    def index_nbytes(self) -> int:
        """Bytes that the runs of a window take."""
        return RUN_BYTES * self._most_runs

    @property
    def _block(self) -> int:
        """Consecutive anchors in each block of a window; a sequential window is one block."""
        return self._windows.largest_window()[0] if self.order.shuffling is None else self.order.shuffling.block

    @cached_property
    def _most_runs(self) -> int:
        anchors, blocks = self._windows.largest_window()
        if self.order.draws is not None:
            return int(anchors)
        cuts = self.anchors.most_runs(self._block) - 1 if self.order.shuffling is None else self.anchors.most_cuts(self._block)
        return int(min(anchors, blocks * (1 + cuts)))
