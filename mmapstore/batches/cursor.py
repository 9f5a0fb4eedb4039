"""The position of batches: loops, Keras epochs and iterations of a tf.data dataset move it by one rule.

A pass begins where the cursor stands and ends where its epoch does. When its last batch was handed out, the cursor moves
behind it, and the next pass begins the next epoch. A pass that is broken off leaves the cursor where it was, so that the next
pass begins with the same batch again. After `move_to` into the middle of an epoch the first pass is short, later ones are whole.
"""

from __future__ import annotations

import threading

_lock = threading.Lock()  # of all cursors: held for a few assignments, and a cursor without a lock of its own pickles


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
        self._next = self._reached = self._latest = 0  # places
        self._moves = 0

    @property
    def position(self) -> tuple[int, int]:
        """The (epoch, batch) after the last batch handed out: where a later run goes on."""
        return divmod(self._reached, self._batches)

    @property
    def next(self) -> tuple[int, int]:
        """The (epoch, batch) with which the next pass begins."""
        return divmod(self._next, self._batches)

    @property
    def latest(self) -> tuple[int, int]:
        """The (epoch, batch) with which the latest pass began."""
        return divmod(self._latest, self._batches)

    def after(self, batches: int) -> tuple[int, int]:
        """Return the (epoch, batch) that comes after so many batches of the latest pass."""
        return divmod(self._latest + batches, self._batches)

    def begin(self, batches: int | None = None) -> Pass:
        """Begin a pass of so many batches, over the ends of epochs; None for those up to the end of the epoch."""
        with _lock:
            self._latest = self._next
            length = self._batches - self._next % self._batches if batches is None else batches
            return Pass(self, self._next, length, self._moves)

    def move_to(self, epoch: int, batch: int) -> None:
        """Let the next pass begin with this batch. Passes that are under way move the cursor no more."""
        with _lock:
            self._next = self._reached = self._latest = epoch * self._batches + batch
            self._moves += 1


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
        if self._moves == cursor._moves:
            cursor._reached = self.place + batches

    def complete(self) -> None:
        """Let the next pass begin behind this one, unless another pass from the same place was complete before."""
        with _lock:
            if self._moves == self._cursor._moves:
                self._cursor._reached = self.place + self._length
                if self._cursor._next == self.place:
                    self._cursor._next = self._cursor._reached
