"""What a framework does with batches: one pass over them, how many it still holds, and making them ahead for it."""

from __future__ import annotations

import queue
import weakref
from collections.abc import Callable
from typing import Any

from ..batches.assembly import ALIVE
from ..batches.look_ahead import LookAhead

PATIENCE = 1.0  # seconds to wait for a batch to come back
FORBEARANCE = 20  # waits in vain after which a pass is no longer held up


class Pass:
    """Which batches of a pass were served, one bit each, and how many of those are alive.

    number : of the pass, counted from 0
    counts : False for a pass that others do not go on after: building a model, predicting

    >>> walk = Pass(0, batches=3)
    >>> for batch in (0, 2):
    ...     walk.serve(batch)
    >>> walk.in_order, walk.complete
    (1, False)
    """

    def __init__(self, number: int, batches: int, counts: bool = True) -> None:
        self.number = number
        self.counts = counts
        self.in_order = 0  # batches 0 .. in_order - 1 were all served
        self._left = batches
        self._served = bytearray(batches // 8 + 1)
        self._alive = 0
        self._in_vain = 0
        self._ahead: LookAhead[int, Any] | None = None
        # SimpleQueue, for its `put` may be called by a finalizer in the middle of anything, itself included.
        self._returned: queue.SimpleQueue[None] = queue.SimpleQueue()

    def ahead(self, begin: Callable[[int], Callable[[], Any]], workers: int) -> LookAhead[int, Any]:
        """Making batches for this pass, by place. An iterator that is dropped drops it too, with at most `workers` made in vain."""
        if self._ahead is None:
            self._ahead = LookAhead(begin, workers)
        return self._ahead

    def served(self, batch: int) -> bool:
        return bool(self._served[batch >> 3] >> (batch & 7) & 1)

    def serve(self, batch: int) -> None:
        if not self.served(batch):
            self._served[batch >> 3] |= 1 << (batch & 7)
            self._left -= 1
        # The bit past the last batch is never set, so this ends.
        while self.served(self.in_order):
            self.in_order += 1

    @property
    def complete(self) -> bool:
        return self._left == 0

    def wait_for_room(self) -> None:
        """Return when fewer than `ALIVE` - 1 batches given out by `lend` are alive, or after `PATIENCE` seconds.

        Keras on TensorFlow puts prefetch(AUTOTUNE) behind a PyDataset, whose queue was seen to grow to 255 batches where
        training is fast. Waiting here keeps what is alive to what the prediction of memory says. Who keeps batches on purpose
        (steps_per_execution in predict, a train_step that collects them) is served all the same, and soon without waiting.
        """
        try:
            while True:
                self._returned.get_nowait()
                self._alive -= 1
        except queue.Empty:
            pass
        try:
            while self._alive >= ALIVE - 1 and self._in_vain < FORBEARANCE:
                self._returned.get(timeout=PATIENCE)
                self._alive -= 1
        except queue.Empty:
            self._in_vain += 1

    def lend(self, array: Any) -> Any:
        """A view of `array` that stands for its batch being alive: TensorFlow keeps the very object it was given."""
        view = array[...]
        weakref.finalize(view, self._returned.put, None).atexit = False
        self._alive += 1
        return view
