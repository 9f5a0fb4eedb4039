"""Threads of the process for work that lets go of Python's lock: decoding, reads from disk, preparing the next batch.

Threads start when there is work and end when there has been none for a moment: nothing has to be closed, and no idle thread
holds on to buffers.
"""

from __future__ import annotations

import atexit
import collections
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_IDLE_SECONDS = 0.2
_ENDING_SECONDS = 10.0  # that the end of the interpreter waits for work under way


def usable_cpus() -> int:
    """Return the number of processors that this process may use."""
    count: Callable[[], int | None] | None = getattr(os, "process_cpu_count", None)  # Python 3.13
    if count is not None:
        return count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_out(tasks: Iterable[T], work: Callable[[Iterator[T]], None], threads: int | None = None) -> None:
    """Do all tasks in several threads, at most `threads`, of which the calling one is the first.

    `work` is called once in each thread that takes part, with an iterator over the tasks of that thread, so that it allocates
    its buffers once. Returns or raises when nothing is under way any more, also on Ctrl-C: then no thread writes anywhere.
    The first exception is raised again here; tasks that were not begun are dropped. May be called from any thread, also from
    within `work`.

    >>> done = []
    >>> share_out(range(5), lambda tasks: done.extend(task * task for task in tasks))
    >>> sorted(done)
    [0, 1, 4, 9, 16]
    """
    job = _Job(tasks, work)
    failure: BaseException | None = None
    begun = False
    while True:
        # Ctrl-C may strike anywhere here, and again while we wait: nothing but the end of all work leads out.
        try:
            if not begun:
                begun = True
                _decoders.give(job.help, min(len(job.tasks), threads or usable_cpus()) - 1)
                job.take_part()
            job.end()
            break
        except BaseException as error:
            failure = failure or error
            job.tasks.clear()
    failure, job.failure = failure or job.failure, None  # threads that come too late still hold the job for a moment
    if failure is not None:
        try:
            raise failure
        finally:
            del failure, job  # the traceback leads to this frame: no circle that keeps buffers alive


class _Job(Generic[T]):
    """The tasks of one call of `share_out`, and the number of threads at work on them."""

    def __init__(self, tasks: Iterable[T], work: Callable[[Iterator[T]], None]) -> None:
        self.tasks = collections.deque(tasks)
        self.failure: BaseException | None = None
        self._work: Callable[[Iterator[T]], None] | None = work
        self._lock = threading.Lock()
        self._helping = 0
        self._all_gone: threading.Event | None = None

    def _taken(self) -> Iterator[T]:
        # deque.popleft is atomic and takes no lock of ours.
        while True:
            try:
                task = self.tasks.popleft()
            except IndexError:
                return
            yield task

    def take_part(self) -> None:
        work = self._work
        if work is not None:
            work(self._taken())

    def help(self) -> None:
        """Take part in a thread of the pool, unless the job has ended."""
        with self._lock:
            if self._work is None:
                return
            self._helping += 1
        try:
            self.take_part()
        except BaseException as error:
            self.failure = self.failure or error
            self.tasks.clear()
        finally:
            with self._lock:
                self._helping -= 1
                if self._all_gone is not None and not self._helping:
                    self._all_gone.set()

    def end(self) -> None:
        """Keep further threads from beginning, and wait for those at work."""
        with self._lock:
            self._work = None
            if self._helping and self._all_gone is None:
                self._all_gone = threading.Event()
            waiting = self._all_gone
        if waiting is not None:
            waiting.wait()


class WorkerThreads:
    """Up to `most` threads that call given functions, in the order given. Forked children begin with none."""

    def __init__(self, name: str, most: Callable[[], int]) -> None:
        self._name = name
        self._most = most
        self.forget()
        atexit.register(self.end)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Begin anew in a forked child: it has none of its parent's threads, and their locks stay locked."""
        # Not queue.SimpleQueue: with several threads that wait, its get(timeout=) was seen to wait far past it (Python 3.11).
        self._changed = threading.Condition()
        self._given: collections.deque[Callable[[], Any]] = collections.deque()
        self._threads = 0
        self._unfinished = 0
        self._is_ended = False

    def end(self) -> None:
        """Begin nothing more, and return when nothing is under way: an interpreter that ends stops threads wherever they are,
        and whoever then waited for their work, or took away its buffers, would wait forever, or crash.
        """
        with self._changed:
            self._is_ended = True
            self._unfinished -= len(self._given)
            self._given.clear()
            self._changed.wait_for(lambda: not self._unfinished, _ENDING_SECONDS)

    def give(self, work: Callable[[], Any], times: int = 1) -> None:
        """Call `work` soon, `times` times, if the system gives threads: nobody may wait for it without an alternative."""
        with self._changed:
            if self._is_ended:
                return
            for _ in range(times):
                self._given.append(work)
                self._unfinished += 1
                self._changed.notify()
            while self._threads < min(self._most(), self._unfinished):
                try:
                    threading.Thread(target=self._serve, name=self._name, daemon=True).start()
                except RuntimeError:
                    return  # the interpreter is ending, or the system gives no more threads
                self._threads += 1

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._given:
                    if not self._changed.wait(_IDLE_SECONDS) and not self._given:
                        self._threads -= 1
                        return
                work = self._given.popleft()
            work()
            del work  # an idle thread holds nothing
            with self._changed:
                self._unfinished -= 1
                if self._is_ended:
                    self._changed.notify_all()


_decoders = WorkerThreads("mmapstore-decode", lambda: usable_cpus() - 1)
