"""Engines do every region: in processes that die, on a Dask cluster, through `map` of any object."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmapstore as mm
from mmapstore.operations.flow import engines
from mmapstore.operations.flow.receipts import Part, part_of, part_of_job
from mmapstore.operations.statistics import statistics_at
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError, MissingPackageError, StateMismatchError


@given(count=st.integers(1, 50), number=st.integers(0, 200))
def test_parts_hold_each_region_once(count: int, number: int) -> None:
    parts = [Part(index, count).regions(number) for index in range(count)]
    assert [region for part in parts for region in part] == list(range(number))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["3", "a/b", "-1/4", "4/4", "0/0", "1/2/3", ""])
def test_parts_that_are_none(text: str) -> None:
    with pytest.raises(InvalidValueError, match="part="):
        part_of(text)
    with pytest.raises(InvalidTypeError, match="expected 'i/n'"):
        part_of(3)


@pytest.mark.parametrize(
    "environment, count, error",
    [
        ({"SLURM_ARRAY_TASK_ID": "3"}, None, "needs the number of parts"),
        ({}, 4, "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX"),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "2"}, 4, r"has 2 jobs\. Give --parts 2; to repeat single parts"),
        ({"JOB_COMPLETION_INDEX": "x"}, 4, "expected whole numbers"),
        ({"JOB_COMPLETION_INDEX": "4"}, 4, "none of 4 parts"),
    ],
)
def test_jobs_that_are_no_part(environment: dict[str, str], count: int | None, error: str) -> None:
    with pytest.raises(InvalidValueError, match=error):
        part_of_job(environment, count)


class Futures:
    """An engine whose `map` returns futures, as Lithops' does."""

    def map(self, function: Callable[[int], Any], items: Iterable[int]) -> list[Future[Any]]:
        found = []
        for item in items:
            future: Future[Any] = Future()
            future.set_result(function(item))
            found.append(future)
        return found


def squared(plan: int, number: int) -> int:
    return plan + number * number


def test_any_object_with_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_AHEAD", 3)
    expected = [10 + number * number for number in range(7)]
    with ThreadPoolExecutor(2) as executor:
        assert list(engines.results(executor, squared, 10, range(7), 0)) == expected
    assert list(engines.results(Futures(), squared, 10, range(7), 0)) == expected


def test_engines_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidTypeError, match="engine='spark' is not understood"), engines.opened("spark"):
        pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingPackageError, match="pip install 'mmapstore"), engines.opened("tcp://127.0.0.1:1"):
        pass


def test_a_worker_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = iter(["0.1.0", "0.2.0", "0.2.0"])
    monkeypatch.setattr(engines, "_version", lambda: next(versions))
    with pytest.raises(StateMismatchError, match=r"Worker .* has mmapstore 0\.2\.0, and was called by 0\.1\.0"):
        list(engines.results(Futures(), squared, 10, range(7), 0))


def dies_once(marks: str, number: int) -> int:
    """End the process the first time that this number comes, as a kill does."""
    if number % 3 == 0:
        try:
            os.close(os.open(f"{marks}/{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return number
        os.kill(os.getpid(), signal.SIGKILL)
    return number


PROCESSES = """
import sys
from tests.operations.test_engines import dies_once
from mmapstore.operations.flow import engines
from mmapstore.operations.statistics import statistics_at
if __name__ == "__main__":
    with engines.opened("processes") as processes:
        print(sorted(engines.results(processes, dies_once, sys.argv[1], range(7), 0)))
        print(list(engines.results(processes, dies_once, sys.argv[1], [0], 0)))
"""
ROOT = Path(__file__).parents[2]


def in_child(tmp_path: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(tmp_path / "program.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_regions_of_processes_that_die_are_done_again(tmp_path: Path) -> None:
    found = in_child(tmp_path, PROCESSES, str(tmp_path))
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == [str(list(range(7))), "[0]"]


def stays(marks: str, number: int) -> int:
    Path(marks, f"{number}.process").write_text(str(os.getpid()))
    Path(marks, "at work").touch()
    time.sleep(300)
    return number


ORPHANS = """
import sys
from tests.operations.test_engines import stays
from mmapstore.operations.flow import engines
if __name__ == "__main__":
    with engines.opened("processes") as processes:
        list(engines.results(processes, stays, sys.argv[1], range(2), 0))
"""


@pytest.mark.slow
def test_workers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(ORPHANS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen([sys.executable, str(tmp_path / "program.py"), str(tmp_path)], env=environment) as caller:
        until(lambda: (tmp_path / "at work").exists())
        caller.kill()
    workers = [int(path.read_text()) for path in tmp_path.glob("*.process")]
    until(lambda: not any(map(is_running, workers)))


def until(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_script_without_a_guard_is_told(tmp_path: Path) -> None:
    found = in_child(tmp_path, PROCESSES.replace('if __name__ == "__main__":', "if True:"), str(tmp_path))
    assert "outside of `if __name__ == '__main__':`" in found.stderr


DASK = """
import os
import platform
import sys
import warnings
import distributed
import mmapstore as mm
from tests.operations.test_engines import dies_once
from mmapstore.operations.flow import engines
from mmapstore.operations.statistics import statistics_at

def elsewhere():
    platform.node = lambda: "node7"
    os.chdir("/")

def older():
    engines._version = lambda: "0.0.9"

if __name__ == "__main__":
    folder = sys.argv[1]
    os.chdir(folder)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "resources": {"memory": 500e6}}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        print(sorted(engines.results(client, dies_once, folder, range(7), 100_000_000)))
        done = mm.convert("a.npy", f"{folder}/b.zarr", compression="zstd", engine="dask", progress=False)
        again = mm.convert(f"{folder}/a.npy", f"{folder}/c.npy", engine=cluster.scheduler_address, progress=False)
        print(done.sha256 == again.sha256, 0 < done.peak_nbytes <= done.memory.total)
        try:
            mm.convert(f"{folder}/a.npy", f"{folder}/d.npy", engine="tcp://127.0.0.1:1", progress=False)
        except mm.MmapstoreError as error:
            print(error)
        try:
            list(engines.results(client, dies_once, folder, [0], 600_000_000))
        except mm.MmapstoreError as error:
            print(error)
        for change in (elsewhere, older):
            client.run(change)
            try:
                mm.convert("/proc/self/cwd/a.npy", f"{folder}/e.npy", engine=client, progress=False)
            except mm.MmapstoreError as error:
                print(error)
        client.retire_workers()
        with warnings.catch_warnings(record=True) as told:
            list(engines.results(client, dies_once, folder, [], 1))
        print(told[0].message)
"""


@pytest.mark.slow
def test_dask(tmp_path: Path) -> None:
    """A scheduler and two worker processes: workers that die, and a conversion with memory that is reserved."""
    values = np.random.default_rng(0).integers(0, 9, (4000, 3, 50, 50)).astype("f4")
    np.save(tmp_path / "a.npy", values)
    found = in_child(tmp_path, DASK, str(tmp_path))
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert lines[:2] == [str(list(range(7))), "True True"]
    assert lines[2].startswith("No Dask scheduler answers at tcp://127.0.0.1:1")
    assert lines[3].startswith("A region takes 600 MB, and no Dask worker has more than 500 MB of the resource 'memory'")
    assert re.match(r"Worker node7 \(process \d+\): /proc/self/cwd/a\.npy does not exist", lines[4])
    assert re.match(r"Worker node7 \(process \d+\) has mmapstore 0\.0\.9, and was called by \S+\. Install", lines[5])
    assert " has no workers; the call waits until it has." in lines[6] and not (tmp_path / "e.npy.partial").exists()
    np.testing.assert_array_equal(mm.open(tmp_path / "b.zarr")[:], values)


def test_verify_and_statistics_by_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same verdict and figures as one process has, of a damaged array too, with progress to the end."""
    monkeypatch.setattr("mmapstore.operations.verify.regions.REGION_NBYTES", 1_000_000)
    monkeypatch.setattr("mmapstore.operations.statistics.REGION_NBYTES", 1_000_000)
    values = np.random.default_rng(0).random((3000, 3, 20, 20)).astype("f4")
    path = mm.ingest(values, tmp_path / "x.npy", progress=False)
    with (tmp_path / "x.npy").open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"\x01")
    told: list[tuple[int, int | None]] = []
    with ThreadPoolExecutor(2) as executor:
        found = mm.verify(path, engine=executor, progress=lambda *at: told.append(at))
        (counted,) = statistics_at(path, recompute=True, engine=executor, progress=False)
    alone = mm.verify(path, progress=False)
    (figures,) = statistics_at(path, recompute=True, progress=False)
    assert not found and found.arrays == alone.arrays and told[-1] == (3000, 3000) and len(told) > 1
    np.testing.assert_array_equal(counted.values.mean, figures.values.mean)
    np.testing.assert_array_equal(counted.differences.std, figures.differences.std)


class Silent:
    """Engines that lose results."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def map(self, function: Callable[[int], Any], items: Iterable[int]) -> Any:
        return self.found


@pytest.mark.parametrize(("found", "error"), [(None, "returned None; expected the results"), ([], "no result for 1 of 1 regions")])
def test_an_engine_that_loses_results_leaves_nothing_behind(tmp_path: Path, found: Any, error: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((10, 3)))
    with pytest.raises((InvalidTypeError, InvalidValueError), match=error):
        mm.convert(tmp_path / "a.npy", tmp_path / "b.npy", engine=Silent(found), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
