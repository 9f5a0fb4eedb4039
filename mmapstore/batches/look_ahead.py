"""Work done ahead of the training step, in threads of our own, as promises of results.

A promise is one finite piece of work, a window to read or a batch to make, never a loop: when training stops in mid-epoch, an
exception is raised or everything is dropped, there is nothing to stop.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Generic, TypeVar

from ..files.worker_threads import WorkerThreads

K = TypeVar("K")
T = TypeVar("T")
THREADS = 3  # two windows and a batch at a time; decoding has threads of its own
HANDOVER_SECONDS = 1e-4  # about what it takes a thread to be woken, and its result to be waited for
MOST_WORKERS = 1024  # threads that finish batches: as many as there are promises, no more are started


class Promise(Generic[T]):
    """The result of `work`, which is done by the next free thread, or by the caller who asks first.

    >>> promise = Promise(lambda: 6 * 7)
    >>> promise.result()
    42
    """

    def __init__(self, work: Callable[[], T], threads: WorkerThreads | None = None, begin: bool = True) -> None:
        self._work: Callable[[], T] | None = work
        self._threads: WorkerThreads | None = _threads if threads is None else threads
        self._process = os.getpid()
        self._begun = threading.Lock()  # taken by the thread that does the work
        self._ended = threading.Event()
        self._made: T | None = None
        self._error: BaseException | None = None
        if begin:
            self.begin()

    def begin(self) -> None:
        """Have a thread do the work, unless another has begun."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.give(self._run)

    def _run(self) -> None:
        work = self._work
        if work is None or not self._begun.acquire(blocking=False):
            return
        try:
            self._made = work()
        except BaseException as error:  # of any kind: `result` raises it
            self._error = error
        finally:
            self._work = None
            self._ended.set()

    def outcome(self) -> T:
        """Return or raise the outcome of `work`, which is kept for others who ask."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._made  # type: ignore[return-value]

    def result(self) -> T:
        """Return or raise the outcome of `work`. To be asked for once."""
        try:
            return self.outcome()
        finally:
            self._made = self._error = None

    def drop(self) -> None:
        """Forget the work, or wait for its end where it has begun, so that its buffers are free again."""
        if self._begun.acquire(blocking=False):
            self._work = None
            self._ended.set()
        elif self._process == os.getpid() and not sys.is_finalizing():  # then its thread is stopped, and never ends it
            self._ended.wait()
        self._made = self._error = None

    def wait(self) -> None:
        """Return when the work has ended, well or not, or was dropped; do it where nobody has begun."""
        if self._process != os.getpid():
            # A forked child has the promises of its parent, but not the threads that would keep them.
            self._begun, self._process = threading.Lock(), os.getpid()
        self._run()
        self._ended.wait()


class _Ahead(Generic[K, T]):
    """A result made ahead for a key: read in the order of keys, then finished beside others."""

    def __init__(self, key: K, begin: Callable[[K], Callable[[], T]], threads: WorkerThreads, first: bool) -> None:
        self.key = key
        self._begin = begin
        self.seconds = 0.0
        self._is_read = False
        self._next: _Ahead[K, T] | None = None
        self.promise = Promise(self._make, threads, begin=first)

    def _make(self) -> T:
        began = time.perf_counter()
        try:
            finish = self._begin(self.key)
        finally:
            self._is_read = True
            if self._next is not None:
                self._next.promise.begin()
        made = finish()
        self.seconds = time.perf_counter() - began
        return made

    def follow(self, following: _Ahead[K, T]) -> None:
        """Have `following` begin once this one is read, here or by `_make`; a promise begins once."""
        self._next = following
        if self._is_read:
            following.promise.begin()


class LookAhead(Generic[K, T]):
    """Makes the result asked for, and ahead of the caller up to `workers` of the next ones. One for each pass; for one thread.

    `begin` reads, and returns the function that finishes the result. Reading goes on in the order of keys, one at a time; each is
    finished in a thread of its own. With one worker, results that take less time than a handover are made when they are asked for.

    >>> ahead = LookAhead(lambda number: lambda: number * number, workers=2)
    >>> [ahead.get(number, range(number + 1, 4)) for number in range(4)]
    [0, 1, 4, 9]
    """

    def __init__(self, begin: Callable[[K], Callable[[], T]], workers: int = 1) -> None:
        self._begin = begin
        self._workers = workers
        self._ahead: deque[_Ahead[K, T]] = deque()
        self._seconds = 0.0  # that the latest result took

    def get(self, wanted: K, following: Iterable[K] = ()) -> T:
        """Return the result for `wanted`, and begin those for the first of `following`."""
        # Frameworks may call from several threads all the same: the thread that takes these promises has them alone.
        ahead, self._ahead = self._ahead, deque()
        try:
            made = self._next_of(ahead, wanted)
            if self._workers > 1 or self._seconds >= HANDOVER_SECONDS:
                self._promise(ahead, following)
        finally:
            self._ahead = ahead  # also on Ctrl-C, for `close`
        return made

    def _next_of(self, ahead: deque[_Ahead[K, T]], wanted: K) -> T:
        if ahead and ahead[0].key == wanted:
            ahead[0].promise.wait()
            self._seconds = ahead[0].seconds
            return ahead.popleft().promise.result()
        _drop(ahead)
        began = time.perf_counter()
        made = self._begin(wanted)()
        self._seconds = time.perf_counter() - began
        return made

    def _promise(self, ahead: deque[_Ahead[K, T]], following: Iterable[K]) -> None:
        for place, key in enumerate(islice(following, self._workers)):
            if place < len(ahead):
                if ahead[place].key == key:
                    continue
                _drop(ahead)
                return
            last = ahead[-1] if ahead else None
            ahead.append(_Ahead(key, self._begin, _threads if self._workers == 1 else _finishing, first=last is None))
            if last is not None:
                last.follow(ahead[-1])

    def close(self) -> None:
        """Drop all results made ahead. Returns when nothing is under way any more."""
        ahead, self._ahead = self._ahead, deque()
        _drop(ahead)


def _drop(ahead: deque[_Ahead[K, T]]) -> None:
    while ahead:
        ahead.pop().promise.drop()  # the last ones first, which nobody has begun with


_threads = WorkerThreads("mmapstore-ahead", lambda: THREADS)
_finishing = WorkerThreads("mmapstore-transform", lambda: MOST_WORKERS)
