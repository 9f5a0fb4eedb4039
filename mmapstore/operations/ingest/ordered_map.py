"""A map over items, done by threads ahead of the caller, in the order of the items and within a number of bytes."""

from __future__ import annotations

import collections
import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ...files.process_memory import give_back_freed_memory

_TRIMMED_NBYTES = 8 << 20
T = TypeVar("T")
R = TypeVar("R")


def in_order(
    items: Iterable[T],
    work: Callable[[T], R],
    *,
    workers: int,
    ahead: int,
    nbytes: Callable[[T], int] = lambda item: 0,
    most_nbytes: int = 0,
) -> Generator[R, None, None]:
    """Yield the results of `work` for all items, in their order. Nothing begins before the first is taken.

    An error of `work` is raised in place of its result, and ends the iteration. Closing the iterator, or dropping it, begins
    nothing more and waits for what is under way.

    Parameters
    ----------
    items : gone through once, by the thread that takes the results
    work : called in threads, for several items at once; should leave Python's lock for most of its time
    workers : calls of `work` at once
    ahead : results that may be under way or wait to be taken, at least `workers`
    nbytes : bytes that `work` holds for an item until it returns
    most_nbytes : of all items under way together; one item alone may need more, so that every item gets its turn

    >>> list(in_order(range(6), lambda number: number * number, workers=3, ahead=4))
    [0, 1, 4, 9, 16, 25]
    """
    room = threading.Condition()
    held: list[int] = []  # bytes of each item under way

    def one(item: T) -> R:
        needed = nbytes(item)
        with room:
            room.wait_for(lambda: not held or sum(held) + needed <= most_nbytes)
            held.append(needed)
        try:
            return work(item)
        finally:
            if needed >= _TRIMMED_NBYTES:
                give_back_freed_memory()  # malloc keeps it for this thread, and another one may do the next item
            with room:
                held.remove(needed)
                room.notify_all()

    def begun() -> Iterator[Future[R]]:
        try:
            for item in items:
                yield pool.submit(one, item)
        except Exception as error:  # of the items: it comes behind their results
            failed: Future[R] = Future()
            failed.set_exception(error)
            yield failed

    pool = ThreadPoolExecutor(workers, "mmapstore ingest")
    try:
        coming = begun()
        under_way = collections.deque(itertools.islice(coming, max(ahead, workers)))
        while under_way:
            result = under_way.popleft().result()
            under_way.extend(itertools.islice(coming, 1))
            yield result
            del result  # held by nobody once it is taken
    finally:
        pool.shutdown(cancel_futures=True)
