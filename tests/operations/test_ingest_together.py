"""Two ingests into one target at once: the second is told who writes, and the first is not disturbed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingest_child import child, data

from mmapstore.operations.ingest import ingest
from mmapstore.plain.errors import LockedFileError
from mmapstore.plain.manifest import SUFFIX

WAITING = """
def waiting():
    yield from data()
    print("ready", flush=True)
    sys.stdin.readline()
try:
    print(ingest(waiting(), sys.argv[1]))
except BaseException as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("out", ["x.npy", "x.h5::/a", "x.zarr"])
def test_the_second_process_is_told_who_writes(tmp_path: Path, out: str) -> None:
    target = tmp_path / out
    first = child(WAITING, target)
    assert first.stdout is not None and first.stdout.readline() == "ready\n"
    before = sorted(os.listdir(tmp_path))
    for options in ({}, {"overwrite": True}, {"resume": False}):
        with pytest.raises(LockedFileError, match=rf"is being written by another run: process {first.pid} on .*Wait until it ends"):
            ingest(data(), target, **options)  # type: ignore[arg-type]
    assert sorted(os.listdir(tmp_path)) == before
    output, errors = first.communicate("go on\n", timeout=60)
    assert output == f"{target}\n", errors
    file = out.partition("::")[0]
    assert sorted(os.listdir(tmp_path)) == sorted([file, file + SUFFIX])


def test_another_thread_is_refused_too(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def waiting() -> Iterator[np.ndarray[Any, Any]]:
        yield data()[0]
        begun.set()
        go_on.wait(30)

    writer = threading.Thread(target=lambda: ingest(waiting(), tmp_path / "x.npy"))
    writer.start()
    try:
        assert begun.wait(30)
        with pytest.raises(LockedFileError, match=f"process {os.getpid()} on"):
            ingest(data(), tmp_path / "x.npy")
        ingest(data(), tmp_path / "y.npy")
    finally:
        go_on.set()
        writer.join()
    assert np.load(tmp_path / "x.npy").shape == (1, 3, 50, 40)


def test_a_run_that_was_killed_locks_nothing(tmp_path: Path) -> None:
    first = child(WAITING, tmp_path / "x.npy")
    assert first.stdout is not None and first.stdout.readline() == "ready\n"
    first.kill()
    first.communicate()
    assert (tmp_path / "x.npy.partial.lock").exists()
    np.testing.assert_array_equal(np.load(ingest(iter(data()), tmp_path / "x.npy", resume=False)), data())
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "x.npy" + SUFFIX]
