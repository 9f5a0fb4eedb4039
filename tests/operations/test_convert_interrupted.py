"""Killed at any moment, stopped, resumed: the same bytes as without, the source and what was there before untouched."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ingest_results import read, recorded_samples

from mmapstore.operations.convert import convert
from mmapstore.operations.flow import journal, slabs
from mmapstore.plain.content_digest import content_sha256
from mmapstore.plain.errors import StateMismatchError
from mmapstore.plain.manifest import SUFFIX, Manifest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills are POSIX")

SMALL_STEPS = """
import sys, time
from mmapstore.operations.convert import convert, origin, plan
from mmapstore.operations.flow import slabs
from mmapstore.operations.flow import journal
journal.COMMIT_SECONDS = 0.0
slabs.PREFERRED_NBYTES = plan.PREFERRED_NBYTES = 100_000
read = origin.Stored.read_box
def slowly(self, box, out):
    time.sleep(0.01)
    read(self, box, out)
origin.Stored.read_box = slowly
source, out, dtype = sys.argv[1:4]
print("began", flush=True)
done = convert(source, out, dtype=dtype or None, casting="clip", progress=lambda done, total: print(done, flush=True))
print("done", done.sha256, done.clipped, flush=True)
"""


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(slabs, "PREFERRED_NBYTES", 100_000)
    monkeypatch.setattr("mmapstore.operations.convert.plan.PREFERRED_NBYTES", 100_000)


def data() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 300, (300, 3, 40, 25)).astype("i2")


def make(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("x", data=data(), chunks=(7, 3, 40, 25), compression="gzip", compression_opts=1)
    return folder / "a.h5"


def child(source: Path, out: Path, dtype: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", SMALL_STEPS, source, out, dtype], stdout=subprocess.PIPE, text=True)


def all_bytes(path: Path) -> dict[str, bytes]:
    """Of every file of a target; without the time that a gzip header begins with."""
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    found = {str(each.relative_to(path)): each.read_bytes() for each in files}
    return {name: data[:4] + data[8:] if data.startswith(b"\x1f\x8b") else data for name, data in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("out", "dtype"), [("x.npy", ""), ("x.npy", "u1"), ("x.h5", ""), ("x.h5", "u1"), ("x.zarr", ""), ("x.zarr", "u1")]
)
def test_killed_at_random_moments(tmp_path: Path, out: str, dtype: str) -> None:
    source, target = make(tmp_path), tmp_path / out
    before = source.read_bytes()
    values = data() if not dtype else np.clip(data(), 0, 255).astype("u1")
    undisturbed = tmp_path / "other" / out
    undisturbed.parent.mkdir()
    running = child(source, undisturbed, dtype)
    assert running.stdout is not None and running.stdout.readline() == "began\n"
    began = time.monotonic()
    expected_words = running.communicate()[0].split()[-3:]
    whole = time.monotonic() - began
    assert expected_words == ["done", content_sha256(values), str(int((data() > 255).sum()) if dtype else 0)]
    moments = random.Random(out + dtype)
    kills = 0
    for _ in range(8):
        running = child(source, target, dtype)
        assert running.stdout is not None and running.stdout.readline() == "began\n"
        try:
            running.wait(moments.uniform(0, 0.6 * whole))
        except subprocess.TimeoutExpired:
            kills += 1
            running.kill()
        running.communicate()
        assert source.read_bytes() == before
        if target.exists():  # published, maybe killed in its last steps
            np.testing.assert_array_equal(read(str(target)), values)
        if target.exists() and not Path(f"{target}.partial.json").exists():
            break  # all was done
    else:
        assert child(source, target, dtype).communicate()[0].split()[-3:] == expected_words
    assert kills >= 1
    np.testing.assert_array_equal(read(str(target)), values)
    if out != "x.h5":  # what HDF5 keeps beside the data depends on when it was flushed
        assert all_bytes(target) == all_bytes(undisturbed)
    found, expected = (
        Manifest.from_json(Path(str(path) + SUFFIX).read_text(), "").fields["data"] for path in (target, undisturbed)
    )
    assert (found.checksums, found.sha256, found.episodes) == (expected.checksums, expected.sha256, expected.episodes)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"a.h5", out, out + SUFFIX, "other"})


class Stopped(Exception):
    pass


def stopping(after: int) -> Any:
    def progress(done: int, total: int | None) -> None:
        if done > after:
            raise Stopped

    return progress


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("out", ["x.npy", "x.h5", "x.zarr"])
def test_goes_on_where_it_stopped(tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path)
    with pytest.raises(Stopped):
        convert(source, tmp_path / out, progress=stopping(150))
    assert not (tmp_path / out).exists()
    recorded = recorded_samples(tmp_path / out)
    assert recorded > 5
    begun: list[int] = []
    done = convert(source, tmp_path / out, progress=lambda now, total: begun.append(now))
    assert begun[0] >= 100  # of 300: what was recorded is not read again
    np.testing.assert_array_equal(read(done.path), data())
    assert done.sha256 == content_sha256(data())


@pytest.mark.usefixtures("small_steps")
def test_what_was_spoilt_meanwhile_is_written_again(tmp_path: Path) -> None:
    source = make(tmp_path)
    with pytest.raises(Stopped):
        convert(source, tmp_path / "x.npy", progress=stopping(150))
    with (tmp_path / "x.npy.partial").open("r+b") as file:
        file.seek(128 + 30 * 6000)
        file.write(b"\xff" * 10)
    begun: list[int] = []
    done = convert(source, tmp_path / "x.npy", progress=lambda now, total: begun.append(now))
    assert 0 < begun[0] <= 30
    np.testing.assert_array_equal(read(done.path), data())


@pytest.mark.usefixtures("small_steps")
def test_another_call_does_not_go_on_with_it(tmp_path: Path) -> None:
    source = make(tmp_path)
    with pytest.raises(Stopped):
        convert(source, tmp_path / "x.npy", progress=stopping(150))
    with pytest.raises(StateMismatchError, match=r"was begun by another call: .*dtype '<i2', now '<f4'. Repeat that call"):
        convert(source, tmp_path / "x.npy", dtype="f4")
    with h5py.File(source, "r+") as file:
        file["x"][0, 0, 0, 0] += 1
    with pytest.raises(StateMismatchError, match="the source has changed"):
        convert(source, tmp_path / "x.npy")
    done = convert(source, tmp_path / "x.npy", resume=False)
    with h5py.File(source) as file:
        np.testing.assert_array_equal(read(done.path), file["x"][()])


@pytest.mark.usefixtures("small_steps")
def test_goes_on_with_another_bound_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path)
    with pytest.raises(Stopped):
        convert(source, tmp_path / "x.npy", progress=stopping(150))
    monkeypatch.setattr(slabs, "PREFERRED_NBYTES", 500_000)
    monkeypatch.setattr("mmapstore.operations.convert.plan.PREFERRED_NBYTES", 500_000)
    begun: list[int] = []
    np.testing.assert_array_equal(read(convert(source, tmp_path / "x.npy", progress=lambda now, _: begun.append(now)).path), data())
    assert begun[0] >= 100


def test_with_nothing_done_nothing_is_left(tmp_path: Path) -> None:
    source = make(tmp_path)
    began = time.monotonic()
    with pytest.raises(Stopped):
        convert(source, tmp_path / "x.npy", progress=stopping(-1))
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"] and time.monotonic() - began < 60
