"""Settings and leak checks for every test."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run: a failure in CI is a failure at home.
settings.register_profile(
    "fixed",
    derandomize=True,
    deadline=None,
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("fixed")

_failed = pytest.StashKey[bool]()
_DESCRIPTORS = Path("/proc/self/fd")


def _open_files() -> dict[str, str]:
    """Descriptors that lead to files on disk, by number. Sockets, pipes and the like belong to frameworks and to pytest."""
    found = {}
    for entry in os.listdir(_DESCRIPTORS):
        try:
            target = os.readlink(_DESCRIPTORS / entry)
        except OSError:
            continue  # the descriptor of the listing itself
        if target.startswith("/") and not target.startswith(("/proc/", "/dev/", "/sys/", "/memfd:")):
            found[entry] = target
    return found


def _threads() -> set[threading.Thread]:
    """Python threads that somebody should have ended; those of frameworks and of libraries' own pools stay by design."""
    kept = ("asyncio", "zarr", "ThreadPoolExecutor", "pydevd", "Dummy", "tf_", "keras", "fsspec")
    return {thread for thread in threading.enumerate() if not thread.name.startswith(kept)}


def _settles(leaked) -> bool:
    """True once nothing is leaked: threads that were told to stop take a moment, and cycles of objects wait for a collection."""
    for attempt in range(12):
        if not leaked():
            return True
        if attempt > 2:
            gc.collect()
        time.sleep(0.002 * 2**attempt)
    return False


def pytest_collection_finish(session):
    """Exempts the objects of imported modules from collections: those of TensorFlow make each collection take 0.3 s.

    A default graph that TensorFlow made at an import is dropped: exempt, it would keep the functions of the first test for ever.
    """
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].compat.v1.reset_default_graph()
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


collect_ignore = ["adapters/mirrored_child.py"]  # a program: looking for examples in it would run it


@pytest.fixture(autouse=True)
def no_leaked_descriptors(request, tmp_path_factory):
    """Fails a test that leaves files of its temporary directories open."""
    if not _DESCRIPTORS.is_dir():
        yield
        return
    base = str(tmp_path_factory.getbasetemp())
    before = set(_open_files().items())

    def leaked():
        return sorted(f"{n} -> {path}" for n, path in _open_files().items() if path.startswith(base) and (n, path) not in before)

    yield
    request.node.funcargs.clear()  # what other fixtures gave this test: they are done with it, the test item is not
    # The traceback of a failed test holds on to what the test had.
    if not request.node.stash.get(_failed, False) and not _settles(leaked):
        pytest.fail(f"descriptors left open: {leaked()}")


@pytest.fixture(autouse=True)
def no_leaked_threads():
    """Fails a test that leaves threads running."""
    before = _threads()

    def leaked():
        return sorted(thread.name for thread in _threads() - before if thread.is_alive())

    yield
    if not _settles(leaked):
        pytest.fail(f"threads left running: {leaked()}")
