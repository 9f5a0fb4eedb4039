"""Large arrays of a tree by an engine: regions in any order, done twice, by workers that die, equal what one process writes."""

from __future__ import annotations

import errno
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from killed_steps import forked

from mmapstore.operations.convert import tree_regions
from mmapstore.operations.convert.tree import convert_all
from mmapstore.operations.flow import engines
from mmapstore.operations.verify import verify
from mmapstore.plain import digest_leaves
from mmapstore.plain.errors import InvalidValueError, StateMismatchError, WriteError


class Shuffled:
    """An engine that sends each task through pickle, does each item twice, and in another order."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def map(self, function: Callable[[int], Any], items: Iterable[int]) -> Iterator[Any]:
        twice = [*items, *items]
        self.counts.append(len(twice) // 2)
        random.Random(len(twice)).shuffle(twice)
        return (pickle.loads(pickle.dumps(function))(item) for item in twice)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Arrays of 240 kB, in regions of 50 kB and leaves of 30 kB: none ends where another does."""
    monkeypatch.setattr(tree_regions, "REGION_NBYTES", 50_000)
    monkeypatch.setattr(digest_leaves, "LEAF_NBYTES", 30_000)
    monkeypatch.setattr("mmapstore.operations.convert.tree_values._BLOCK_NBYTES", 40_000)
    monkeypatch.setattr("mmapstore.formats.zarr_tree_writer._CHUNK_NBYTES", 20_000)
    chance = np.random.default_rng(0)
    values = chance.integers(0, 100, (300, 20, 10)).astype("f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("runs")
        group.create_dataset("chunked", data=values, chunks=(7, 20, 10), compression="gzip").attrs["unit"] = "m"
        group.create_dataset("split", data=values, chunks=(7, 9, 4), compression="gzip", shuffle=True)
        group["plain"] = values
        group["big_endian"] = values.astype(">f4")
        group["line"] = chance.random(30_000)
        group["flags"] = values > 50
        group["empty"] = np.zeros((40_000, 0), "f4")
        group["zeros"] = np.zeros((300, 20, 10), "f4")
        group["small"] = values[:3]
        group["texts"] = ["a" * (number % 9) for number in range(9000)]
        group["pairs"] = np.zeros(20_000, [("x", "f8"), ("y", "i4")])
        group["scalar"] = 3.5
    return tmp_path / "a.h5"


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("form", ["a.h5", "b.zarr", "c.npy-tree"])
@pytest.mark.parametrize("out", ["x.zarr", "x.npy-tree"])
def test_an_engine_leaves_what_one_process_does(source: Path, tmp_path: Path, form: str, out: str) -> None:
    origin = tmp_path / form
    if form != "a.h5":
        convert_all(source, origin, progress=False)
    engine = Shuffled()
    (tmp_path / "one").mkdir()
    expected = convert_all(origin, tmp_path / "one" / out, progress=False)
    found = convert_all(origin, tmp_path / out, engine=engine, progress=False)
    assert found.rows == expected.rows and found.exit_code == 0
    assert contents(tmp_path / out) == contents(tmp_path / "one" / out)
    assert len(engine.counts) >= 12 and min(engine.counts) >= 2  # written, and read back
    assert verify(source, tmp_path / out)


def test_hdf5_has_one_writer(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"x\.h5 cannot be written by an engine: HDF5 has one writer at a time"):
        convert_all(source, tmp_path / "x.h5", engine="processes", progress=False)
    assert not list(tmp_path.glob("x.*"))


def test_workers_that_cannot_work_end_the_call(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version, a full disk: no object is to blame, nothing is published, and the same call goes on."""
    versions = iter(["0.1.0", "0.2.0", "0.2.0"])
    with monkeypatch.context() as patched:
        patched.setattr(engines, "_version", lambda: next(versions))
        with pytest.raises(StateMismatchError, match=r"has mmapstore 0\.2\.0, and was called by 0\.1\.0"):
            convert_all(source, tmp_path / "x.zarr", engine=Shuffled(), progress=False)

    def full(regions: Any, number: int) -> Any:
        raise WriteError("x cannot be written") from OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(tree_regions, "_copied", full)
        with pytest.raises(WriteError, match="No space left on device"):
            convert_all(source, tmp_path / "x.zarr", engine=Shuffled(), progress=False)
    assert not (tmp_path / "x.zarr").exists()
    assert convert_all(source, tmp_path / "x.zarr", engine=Shuffled(), progress=False).exit_code == 0
    assert verify(source, tmp_path / "x.zarr")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are POSIX")
def test_a_call_killed_among_regions_is_resumed(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after some regions of an array; and files that killed workers had begun go."""
    expected = convert_all(source, tmp_path / "one.zarr", progress=False)
    copied, count = tree_regions._copied, 0

    def dying(regions: Any, number: int) -> Any:
        nonlocal count
        count += 1
        if count > 25:
            os._exit(9)
        return copied(regions, number)

    def work() -> None:
        tree_regions._copied = dying
        convert_all(source, tmp_path / "x.zarr", engine=Shuffled(), progress=False)

    def littering(regions: Any, number: int) -> Any:
        found = copied(regions, number)
        if regions.reopen is not None:
            Path(regions.reopen.args[0], "0.5e5e.partial").touch()
        return found

    assert forked(work)[0] == 9 and not (tmp_path / "x.zarr").exists()
    monkeypatch.setattr(tree_regions, "_copied", littering)
    assert convert_all(source, tmp_path / "x.zarr", engine=Shuffled(), progress=False).rows == expected.rows
    assert contents(tmp_path / "x.zarr") == contents(tmp_path / "one.zarr")


PROCESSES = """
import os, signal, sys
from mmapstore.operations.convert import tree_regions
from mmapstore.operations.convert.tree import convert_all
from mmapstore.operations.convert.tree_values import reading
tree_regions.REGION_NBYTES = 50_000

def dying(array):
    try:
        os.close(os.open(sys.argv[3], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return reading(array)
    os.kill(os.getpid(), signal.SIGKILL)

tree_regions.reading = dying
if __name__ == "__main__":
    print(convert_all(sys.argv[1], sys.argv[2], engine="processes", progress=False).exit_code)
"""


@pytest.mark.slow
def test_processes_that_die(source: Path, tmp_path: Path) -> None:
    """Regions in processes of their own, the first of which is killed: the digests are those of leaves as they are there."""
    (tmp_path / "program.py").write_text(PROCESSES)
    command = [sys.executable, str(tmp_path / "program.py"), str(source), str(tmp_path / "x.zarr"), str(tmp_path / "killed")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0 and found.stdout.strip() == "0", found.stderr
    assert (tmp_path / "killed").exists() and verify(source, tmp_path / "x.zarr")
