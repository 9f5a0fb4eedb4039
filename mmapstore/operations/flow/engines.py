"""Engines that do the regions of a plan: processes of this machine, a Dask cluster, or any object with `map(fn, items)`.

A region is a task of its own that may be done twice, so that an engine may repeat it, and results come in any order. `results`
keeps a bounded number of tasks with the engine, whatever the number of regions.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import itertools
import multiprocessing
import os
import pickle
import platform
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from ...files.worker_threads import usable_cpus
from ...plain.errors import (
    InvalidTypeError,
    MemoryBudgetError,
    MissingPackageError,
    MmapstoreError,
    NotFoundError,
    ReadError,
    SlowAccessWarning,
    StateMismatchError,
)
from ...plain.memory_budget import format_bytes

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")

THREADS, PROCESSES, DASK = "threads", "processes", "dask"
_AHEAD = 1000  # tasks with the engine at a time: each is some kB of its scheduler's memory
_RETRIES = 3  # of a region whose workers died


def results(engine: Any, do: Callable[[P, T], R], plan: P, items: Sequence[T], memory_nbytes: int) -> Iterator[R]:
    """Yield `do(plan, item)` for all items, the numbers of regions, in any order.

    Parameters
    ----------
    engine : what `opened` yields: `Processes`, a `distributed.Client`, or an object with `map(fn, items)`, which returns results,
        or futures of them, in order
    do : a function of a module, which workers import; it may be called twice for an item
    memory_nbytes : of one task, which Dask reserves where its workers have a resource called "memory"

    Raises what `do` raises, with the worker's name where it is another machine; StateMismatchError for a worker with another
    version of mmapstore; ReadError for workers that die again and again; MemoryBudgetError if no Dask worker can
    reserve the memory.
    """
    found: Generator[R]
    task = functools.partial(_done, _version(), platform.node(), pickle.dumps((do, plan)))
    if isinstance(engine, Processes):
        found = _by_processes(engine, task, items)
    elif _is_dask(engine):
        found = _by_dask(engine, task, items, memory_nbytes)
    else:
        found = _by_map(engine, task, items)
    try:
        with contextlib.closing(found):
            yield from found
    except ModuleNotFoundError as error:
        if isinstance(error, MmapstoreError):
            raise
        raise MissingPackageError(f"A worker has no module {error.name}. Install mmapstore {_version()} on all workers.") from error


@contextlib.contextmanager
def opened(engine: Any) -> Iterator[Any]:
    """Yield the engine that a name, an address or an object stands for; what is connected here is closed at the end.

    Raises InvalidTypeError, MissingPackageError, NotFoundError for a scheduler that does not answer.
    """
    if engine == DASK or (isinstance(engine, str) and "://" in engine):
        with _dask_client(engine) as client:
            yield client
    elif engine == PROCESSES:
        with contextlib.closing(Processes()) as processes:
            yield processes
    elif engine == THREADS or callable(getattr(engine, "map", None)):
        yield engine
    else:
        raise InvalidTypeError(
            f"engine={engine!r} is not understood; expected 'threads', 'processes', 'dask', the address of a Dask scheduler "
            "(tcp://host:8786), or an object with map(fn, items), such as an executor of concurrent.futures."
        )


def _version() -> str:
    return importlib.metadata.version("mmapstore")


def _done(version: str, node: str, work: bytes, item: Any) -> Any:
    """Do a region in a worker, and say which worker it was if it cannot."""
    here = f"Worker {platform.node()} (process {os.getpid()})"
    if version != _version():
        raise StateMismatchError(f"{here} has mmapstore {_version()}, and was called by {version}. Install one version everywhere.")
    do, plan = pickle.loads(work)
    try:
        return do(plan, item)
    except MmapstoreError as error:
        if platform.node() == node:
            raise
        raise type(error)(f"{here}: {error}") from error


def _end_with_parent() -> None:
    """End this process once its parent is gone: workers of one that was killed would wait for more work forever."""

    def wait() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, name="mmapstore parent", daemon=True).start()


class Processes:
    """As many processes as there are CPUs, started for the first task, and kept for all calls of `results`."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    @property
    def pool(self) -> ProcessPoolExecutor:
        self._pool = self._pool or ProcessPoolExecutor(usable_cpus(), multiprocessing.get_context("spawn"), _end_with_parent)
        return self._pool

    def close(self) -> None:
        """End the processes once they have done their tasks; those that none has begun are cancelled."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def _by_processes(processes: Processes, task: Callable[[T], R], items: Iterable[T]) -> Generator[R]:
    """Yield results; items of processes that were killed are done again by others."""
    left, attempts = dict(enumerate(items)), 0
    while left:
        before = len(left)
        pool = processes.pool
        try:
            waiting = iter(list(left.items()))
            under_way = {pool.submit(task, item): place for place, item in itertools.islice(waiting, _AHEAD)}
            while under_way:
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    del left[under_way.pop(future)]
                    yield result
                    for place, item in itertools.islice(waiting, 1):
                        under_way[pool.submit(task, item)] = place
        except BrokenProcessPool as error:
            attempts = attempts + 1 if len(left) == before else 0
            if attempts == _RETRIES:
                raise ReadError(
                    f"{attempts} times in turn, all worker processes ended before one had done a region: they were killed, for too "
                    "little memory perhaps (max_memory= is for each of them); or a script calls mmapstore outside of "
                    "`if __name__ == '__main__':`, which each process runs again."
                ) from error
        finally:
            if left:
                processes.close()


def _by_map(engine: Any, task: Callable[[T], R], items: Sequence[T]) -> Generator[R]:
    for first in range(0, len(items), _AHEAD):
        results = engine.map(task, items[first : first + _AHEAD])
        if not isinstance(results, Iterable):
            raise InvalidTypeError(f"map() of the engine {engine!r} returned {results!r}; expected the results of all items.")
        for found in results:
            yield found.result() if hasattr(found, "result") else found


def _dask_client(engine: str) -> contextlib.AbstractContextManager[Any]:
    """Return the current client, which stays open, or a new one for an address."""
    try:
        import distributed
    except ImportError as error:
        raise MissingPackageError(f"engine={engine!r} needs Dask: pip install 'mmapstore[dask]'.") from error
    try:
        current = engine == DASK
        return contextlib.nullcontext(distributed.Client.current()) if current else distributed.Client(engine, timeout="10s")
    except ValueError as error:
        raise NotFoundError(
            "engine='dask' uses the current client of Dask, and there is none. Create one, `distributed.Client(address)`, or give "
            "the address of a scheduler: engine='tcp://host:8786' (--scheduler tcp://host:8786)."
        ) from error
    except OSError as error:
        raise NotFoundError(f"No Dask scheduler answers at {engine}: {error}. Start it, or check the address.") from error


def _is_dask(engine: Any) -> bool:
    return isinstance(engine, getattr(sys.modules.get("distributed"), "Client", ()))


def _by_dask(client: Any, task: Callable[[T], R], items: Iterable[T], memory_nbytes: int) -> Generator[R]:
    from distributed import KilledWorker, as_completed

    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if not workers:  # no error: an adaptive cluster starts workers once there are tasks
        warnings.warn(
            f"The Dask scheduler at {client.scheduler.address} has no workers; the call waits until it has. Start some: "
            f"dask worker {client.scheduler.address}",
            SlowAccessWarning,
            stacklevel=2,
        )
    reserves = bool(workers) and all("memory" in worker["resources"] for worker in workers)
    if reserves and (most := max(worker["resources"]["memory"] for worker in workers)) < memory_nbytes:
        raise MemoryBudgetError(
            f"A region takes {format_bytes(memory_nbytes)}, and no Dask worker has more than {format_bytes(most)} of the resource "
            f"'memory' (in bytes). Start workers with --resources memory={memory_nbytes}, or give a smaller max_memory=."
        )
    options = {"resources": {"memory": memory_nbytes}} if reserves else {}
    waiting = iter(items)

    def submitted(count: int) -> list[Any]:
        return [client.submit(task, item, pure=False, retries=_RETRIES, **options) for item in itertools.islice(waiting, count)]

    futures = as_completed(submitted(_AHEAD))
    try:
        for future in futures:
            yield future.result()
            futures.update(submitted(1))
    except KilledWorker as error:
        raise ReadError(f"Dask gave a region up: {error} Give its workers more memory, or a smaller max_memory=.") from error
    finally:
        client.cancel(list(futures.futures), force=True)
