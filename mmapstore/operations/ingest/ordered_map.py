"""A map over items, done by threads ahead of whoever takes the results, in the order of the items and within a number of bytes."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from ...files.worker_threads import WorkerThreads

T = TypeVar("T")
R = TypeVar("R")
_MOST_THREADS = 256


def in_order(
    items: Iterable[T],
    work: Callable[[T], R],
    *,
    workers: int,
    ahead: int,
    nbytes: Callable[[T], int] = lambda item: 0,
    most_nbytes: int = 0,
) -> Generator[R, None, None]:
    """The results of `work` for all items, in their order, whichever thread was first. Nothing begins before the first is taken.

    An error of `work` is raised in place of its result, and ends the iteration. Closing the iterator, or dropping it, begins
    nothing more and waits for what is under way.

    Parameters
    ----------
    items : gone through once, by one thread at a time
    work : called in threads, for several items at once; should leave Python's lock for most of its time
    workers : calls of `work` at once
    ahead : results that may be under way or wait to be taken, at least `workers`
    nbytes : bytes that `work` holds for an item until it returns
    most_nbytes : of all items under way together; one item alone may need more, so that every item gets its turn

    >>> list(in_order(range(6), lambda number: number * number, workers=3, ahead=4))
    [0, 1, 4, 9, 16, 25]
    """
    under_way = _UnderWay(iter(items), work, workers, max(ahead, workers), nbytes, most_nbytes)
    try:
        while (slot := under_way.next()) is not None:
            if slot.error is not None:
                raise slot.error
            yield slot.result  # type: ignore[misc]
            slot = None
    finally:
        slot = None  # the traceback of an error leads here: no circle that keeps results alive
        under_way.close()


@dataclass(eq=False)
class _Slot(Generic[R]):
    """The place of one result in the order."""

    ended: bool = False
    result: R | None = None
    error: BaseException | None = None


class _UnderWay(Generic[T, R]):
    """The items that were begun and not yet taken. Threads take items while there is room, and leave when there is none."""

    def __init__(
        self,
        items: Iterator[T],
        work: Callable[[T], R],
        workers: int,
        ahead: int,
        nbytes: Callable[[T], int],
        most_nbytes: int,
    ) -> None:
        self._items, self._work, self._nbytes = items, work, nbytes
        self._workers, self._ahead, self._most_nbytes = workers, ahead, most_nbytes
        self._changed = threading.Condition()
        self._slots: collections.deque[_Slot[R]] = collections.deque()
        self._waiting: list[T] = []  # the next item, if there was no room for it when it was looked at
        self._running = 0
        self._held = 0
        self._exhausted = False

    def next(self) -> _Slot[R] | None:
        """The next result in order, None at the end. Works itself where no thread has begun."""
        while True:
            with self._changed:
                while self._slots and not self._slots[0].ended:
                    self._changed.wait()
                if self._slots:
                    taken = self._slots.popleft()
                    self._call_for_help()
                    return taken
                begun = self._begin()
                if begun is None:
                    if self._exhausted and not self._slots:
                        return None
                    continue
                self._call_for_help()
            self._do(*begun)

    def close(self) -> None:
        with self._changed:
            self._exhausted = True
            self._waiting.clear()
            self._slots.clear()
            while self._running:
                self._changed.wait()

    def _call_for_help(self) -> None:
        if not self._exhausted and self._running < self._workers and len(self._slots) < self._ahead:
            _threads.give(self._run)

    def _run(self) -> None:
        """In a thread of the pool: as much as there is room for."""
        while True:
            with self._changed:
                begun = self._begin()
                if begun is None:
                    return
                self._call_for_help()
            self._do(*begun)
            del begun  # an idle thread holds nothing

    def _begin(self) -> tuple[T, int, _Slot[R]] | None:
        """The next item with what it needs and where its result belongs, if there is one and room for it. The lock is held."""
        if self._exhausted or self._running >= self._workers or len(self._slots) >= self._ahead:
            return None
        try:
            item = self._waiting.pop() if self._waiting else next(self._items)
            needed = self._nbytes(item)
        except StopIteration:
            self._exhausted = True
            return None
        except BaseException as error:
            self._exhausted = True
            self._slots.append(_Slot(True, None, error))
            self._changed.notify_all()
            return None
        if self._running and self._held + needed > self._most_nbytes:
            self._waiting.append(item)
            return None
        slot: _Slot[R] = _Slot()
        self._slots.append(slot)
        self._running += 1
        self._held += needed
        return item, needed, slot

    def _do(self, item: T, needed: int, slot: _Slot[R]) -> None:
        try:
            slot.result = self._work(item)
        except BaseException as error:
            slot.error = error
        finally:
            with self._changed:
                slot.ended = True
                self._running -= 1
                self._held -= needed
                if slot.error is not None:
                    self._exhausted = True  # nobody will take what comes behind an error
                self._changed.notify_all()


_threads = WorkerThreads("mmapstore-ingest", lambda: _MOST_THREADS)
