"""Work done ahead of the training step, in threads of our own, as promises of what comes next.

A promise is one finite piece of work, a window to read or a batch to make, never a loop: when training stops in
mid-epoch, an exception is raised or everything is dropped, there is nothing to stop. How much is under way is bounded by
who makes promises, each of whom holds one at a time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from ..files.worker_threads import WorkerThreads

K = TypeVar("K")
T = TypeVar("T")
THREADS = 3  # two windows and a batch at a time; decoding has threads of its own


class Promise(Generic[T]):
    """The result of `work`, which a thread begins as soon as one is free, or else whoever asks for it.

    >>> promise = Promise(lambda: 6 * 7)
    >>> promise.result()
    42
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work: Callable[[], T] | None = work
        self._process = os.getpid()
        self._begun = threading.Lock()  # taken by whoever does the work
        self._ended = threading.Event()
        self._made: T | None = None
        self._error: BaseException | None = None
        _threads.give(self._run)

    def _run(self) -> None:
        work = self._work
        if work is None or not self._begun.acquire(blocking=False):
            return
        try:
            self._made = work()
        except BaseException as error:  # whatever it is, it belongs to whoever asks for the result
            self._error = error
        finally:
            self._work = None
            self._ended.set()

    def result(self) -> T:
        """What `work` returned or raised. To be asked for once."""
        self.wait()
        made, error = self._made, self._error
        self._made = self._error = None
        if error is not None:
            raise error
        return made  # type: ignore[return-value]

    def drop(self) -> None:
        """Nobody will ask. Returns when nothing of it is under way, so that its buffers are free again."""
        if self._begun.acquire(blocking=False):
            self._work = None
            self._ended.set()
        elif self._process == os.getpid():
            self._ended.wait()
        self._made = self._error = None

    def wait(self) -> None:
        """Return when the work has ended, well or not, or was dropped. Whoever finds it not begun does it."""
        if self._process != os.getpid():
            # A forked child has the promises of its parent, but not the threads that would keep them.
            self._begun, self._process = threading.Lock(), os.getpid()
        self._run()
        self._ended.wait()


class LookAhead(Generic[K, T]):
    """Reads what is asked for, and begins with what comes next while that is in use. One for each pass; for one thread.

    >>> ahead = LookAhead(lambda number: number * number)
    >>> [ahead.get(number, number + 1) for number in range(4)]
    [0, 1, 4, 9]
    """

    def __init__(self, read: Callable[[K], T]) -> None:
        self._read = read
        self._promised: tuple[K, Promise[T]] | None = None

    def get(self, wanted: K, following: K | None) -> T:
        """The result for `wanted`; that for `following`, unless None, is promised to the next call."""
        promised, self._promised = self._promised, None
        if promised is not None and promised[0] == wanted:
            made = promised[1].result()
        else:
            if promised is not None:
                promised[1].drop()
            made = self._read(wanted)
        if following is not None:
            self._promised = following, Promise(partial(self._read, following))
        return made

    def close(self) -> None:
        """Nothing more will be asked for."""
        promised, self._promised = self._promised, None
        if promised is not None:
            promised[1].drop()


_threads = WorkerThreads("mmapstore-ahead", lambda: THREADS)
