"""The position of batches: loops, Keras epochs and iterations of a tf.data dataset move it by one rule.

A pass begins where the cursor stands and ends where its epoch does. When its last batch was handed out, the cursor moves
behind it, and the next pass begins the next epoch. A pass that is broken off leaves the cursor where it was, so that the next
pass begins with the same batch again. After `move_to` into the middle of an epoch the first pass is short, later ones are whole.
"""

from __future__ import annotations

import ctypes
import threading
from multiprocessing.context import get_spawning_popen
from multiprocessing.sharedctypes import RawValue
from types import SimpleNamespace
from typing import Any

_lock = threading.Lock()  # of all cursors: held for a few assignments, and a cursor without a lock of its own pickles

_NUMBERS = ("next", "reached", "latest", "moves", "order", "shared", "shared_place")


class _Shared(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in _NUMBERS)


class Cursor:
    """A position in the epochs of batches: the beginning of the next pass, and the end of the latest so far. Any thread may use it.

    A place is the number of a batch in the row of all epochs: `epoch * batches + batch`.

    >>> cursor = Cursor(batches=3)
    >>> broken_off = cursor.begin()
    >>> broken_off.hand_out(2)
    >>> cursor.position, cursor.begin().first
    ((0, 2), (0, 0))
    >>> cursor.move_to(0, 2)
    >>> short = cursor.begin()
    >>> short.hand_out(len(short))
    >>> short.complete()
    >>> len(short), cursor.begin().first
    (1, (1, 0))
    """

    def __init__(self, batches: int) -> None:
        self._batches = batches
        # Places, the number of moves, the order of the epoch moved to, and the latest pass that worker processes share.
        self._at: Any = SimpleNamespace(**dict.fromkeys(_NUMBERS, 0))

    def share(self) -> None:
        """Keep the position in memory that child processes share from now on, forked or spawned."""
        if isinstance(self._at, SimpleNamespace):
            self._at = RawValue(_Shared, *(getattr(self._at, name) for name in _NUMBERS))

    def __getstate__(self) -> dict[str, Any]:
        at = self._at
        if not isinstance(at, SimpleNamespace) and get_spawning_popen() is None:  # a copy for anybody else is one by itself
            at = SimpleNamespace(**{name: getattr(at, name) for name in _NUMBERS})
        return {**self.__dict__, "_at": at}

    @property
    def position(self) -> tuple[int, int]:
        """The (epoch, batch) after the last batch handed out: where a later run goes on."""
        return self._named(self._at.reached)

    @property
    def next(self) -> tuple[int, int]:
        """The (epoch, batch) with which the next pass begins."""
        return self._named(self._at.next)

    @property
    def latest(self) -> tuple[int, int]:
        """The (epoch, batch) with which the latest pass began."""
        return self._named(self._at.latest)

    def after(self, batches: int) -> tuple[int, int]:
        """Return the (epoch, batch) that comes after so many batches of the latest pass."""
        return self._named(self._at.latest + batches)

    def _named(self, place: int) -> tuple[int, int]:
        return divmod(place, self._batches)

    def begin(self, batches: int | None = None) -> Pass:
        """Begin a pass of so many batches, over the ends of epochs; None for those up to the end of the epoch."""
        with _lock:
            self._at.latest = self._at.next
            length = self._batches - self._at.next % self._batches if batches is None else batches
            return Pass(self, self._at.next, length, self._at.moves)

    def begin_shared(self, name: int) -> Pass:
        """Begin a pass up to the end of the epoch, or join the pass of this name that another process has begun.

        No lock is shared: processes that begin one pass at the same time write the same numbers, the name last. A pass that was
        completed meanwhile has left its name, for the name is looked at after the place is read.
        """
        at = self._at
        place = at.next
        if at.shared == name:
            place = at.shared_place
        else:
            at.latest = at.shared_place = place
            at.shared = name
        return Pass(self, place, self._batches - place % self._batches, at.moves)

    @property
    def order(self) -> int:
        """The number that the last `move_to` gave the order of its epoch."""
        return int(self._at.order)

    def move_to(self, epoch: int, batch: int, order: int | None = None) -> None:
        """Let the next pass begin with this batch. Passes that are under way move the cursor no more.

        order : 0 for whole epochs, or a number for an epoch that other workers have begun; None leaves what was told before
        """
        with _lock:
            self._at.order = self._at.order if order is None else order
            self._at.next = self._at.reached = self._at.latest = epoch * self._batches + batch
            self._at.moves += 1


class Pass:
    """One pass over batches, `len(walk)` of them from `place` on. Made by `Cursor.begin`, or again from its numbers."""

    def __init__(self, cursor: Cursor, place: int, batches: int, moves: int) -> None:
        self._cursor, self.place, self._length, self._moves = cursor, place, batches, moves

    def __len__(self) -> int:
        return self._length

    @property
    def numbers(self) -> tuple[int, int, int]:
        """The arguments of `Pass` but the cursor, for a caller that can hold numbers alone."""
        return self.place, self._length, self._moves

    @property
    def first(self) -> tuple[int, int]:
        """The (epoch, batch) with which the pass began."""
        return self.at(0)

    def at(self, number: int) -> tuple[int, int]:
        """Return the (epoch, batch) of batch `number` of the pass."""
        return divmod(self.place + number, self._cursor._batches)

    def hand_out(self, batches: int) -> None:
        """Note that so many batches of the pass were handed out, from its first on."""
        cursor = self._cursor
        if self._moves == cursor._at.moves:
            cursor._at.reached = self.place + batches

    def complete(self) -> None:
        """Let the next pass begin behind this one, unless another pass from the same place was complete before."""
        with _lock:
            if self._moves == self._cursor._at.moves:
                self._cursor._at.reached = self.place + self._length
                if self._cursor._at.next == self.place:
                    self._cursor._at.next = self._cursor._at.reached
