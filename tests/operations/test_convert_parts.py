"""Conversion in regions: in any order, some of them twice, in other processes, with the result of one `convert`."""

from __future__ import annotations

import functools
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

import mmapstore as mm
from mmapstore.operations.convert import parts
from mmapstore.operations.convert.parts import Parts, do, finish, plan_parts
from mmapstore.operations.convert.request import Request
from mmapstore.operations.flow.parts import Receipt
from mmapstore.plain import digest_leaves
from mmapstore.plain.errors import DamagedFileError, InvalidValueError, NotFoundError, StateMismatchError, TargetExistsError
from mmapstore.plain.manifest import SUFFIX, Manifest


def request(**options: Any) -> Request:
    given = {"layout": None, "dtype": None, "casting": "exact", "samples": None, "compression": None, "chunks": None}
    return Request(**{**given, "chunk_samples": None, "unpack": False, **options})


def frames() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 200, (300, 3, 10, 8)).astype("f4")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An HDF5 file of 300 samples, slabs of 16 kB and leaves of 10 kB: none ends where a slab does."""
    monkeypatch.setattr("mmapstore.operations.convert.plan.PREFERRED_NBYTES", 16_000)
    monkeypatch.setattr("mmapstore.operations.flow.slabs.PREFERRED_NBYTES", 16_000)
    monkeypatch.setattr(digest_leaves, "LEAF_NBYTES", 10_000)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=frames(), chunks=(7, 3, 10, 8), compression="gzip")
    return str(tmp_path / "a.h5")


def planned(source: str, out: Path, region_nbytes: int = 10_000, **options: Any) -> Parts:
    found = plan_parts(source, out, request(**options), region_nbytes=region_nbytes)
    assert len(pickle.dumps(found)) < 10_000
    again: Parts = pickle.loads(pickle.dumps(found))
    assert again.mark == found.mark
    return again


@pytest.mark.parametrize(
    "out, options",
    [
        ("x.npy", {}),
        ("x.zarr", {}),
        ("x.npy", {"layout": "NHWC", "dtype": "u1", "casting": "clip"}),
        ("x.zarr", {"chunk_samples": 14}),
    ],
)
def test_any_order_and_twice_is_what_one_call_writes(source: str, tmp_path: Path, out: str, options: dict[str, Any]) -> None:
    plan = planned(source, tmp_path / out, **options)
    assert len(plan) > 4
    slabs = [slab for number in range(len(plan)) for slab in plan.region(number)]
    assert slabs == list(range(plan.number_of_slabs))
    order = [*range(len(plan)), 1, 3]
    random.Random(out).shuffle(order)
    receipts = [do(plan, number) for number in order]
    assert all(len(pickle.dumps(receipt)) < 1000 for receipt in receipts)
    assert not (tmp_path / out).exists()
    manifest = finish(plan, receipts)
    (tmp_path / "one").mkdir()
    one = mm.convert(source, tmp_path / "one" / out, progress=False, **options)
    expected = Manifest.from_json(Path(f"{one.path}{SUFFIX}").read_text(), "").fields["data"]
    found = Manifest.from_json(Path(f"{tmp_path / out}{SUFFIX}").read_text(), "").fields["data"]
    assert found == manifest.fields["data"]
    assert (found.sha256, found.leaves, found.checksums, found.episodes) == (
        expected.sha256, expected.leaves, expected.checksums, expected.episodes,
    )  # fmt: skip
    values = np.load(tmp_path / out) if out.endswith("npy") else zarr.open_array(tmp_path / out, mode="r")[...]
    np.testing.assert_array_equal(values, mm.open(one.path)[:])
    left = sorted(path.name for path in tmp_path.glob("x.*"))
    assert mm.verify(tmp_path / out) and left == sorted([out, out + SUFFIX, f"{out}.mmapstore.leaves"])


DOES = """
import pickle, sys
from mmapstore.operations.convert.parts import do
plan = pickle.load(sys.stdin.buffer)
sys.stdout.buffer.write(pickle.dumps([do(plan, int(number)) for number in sys.argv[1:]]))
"""


def test_other_processes_do_regions(source: str, tmp_path: Path) -> None:
    """Two at once, one region in both; with leaves as they are there, of which there is one."""
    plan = planned(source, tmp_path / "x.zarr")
    numbers = list(map(str, range(len(plan))))
    workers = [
        subprocess.Popen([sys.executable, "-c", DOES, *part], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for part in (numbers[::2], [*numbers[1::2], "0"])
    ]
    receipts: list[Receipt] = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(pickle.dumps(plan))
        worker.stdin.close()
    for worker in workers:
        assert worker.stdout is not None
        receipts += pickle.load(worker.stdout)
        worker.stdout.close()
        assert worker.wait() == 0
    manifest = finish(plan, receipts)
    assert mm.verify(tmp_path / "x.zarr") and manifest.fields["data"].shape == (300, 3, 10, 8)


def test_what_cannot_be_finished(source: str, tmp_path: Path) -> None:
    plan = planned(source, tmp_path / "x.npy")
    receipts = [do(plan, number) for number in range(len(plan))]
    with pytest.raises(StateMismatchError, match=r"2 of \d+ regions have no receipt: 0, 2\. Do them first"):
        finish(plan, [*receipts[1:2], *receipts[3:]])
    with pytest.raises(StateMismatchError, match="A receipt is of another call"):
        finish(plan, [*receipts, Receipt("00000000", 0, {}, {})])
    changed = Receipt(plan.mark, 0, {"data": ["0" * 8] * len(receipts[0].checksums["data"])}, {})
    with pytest.raises(StateMismatchError, match="Region 0 was done twice with different values"):
        finish(plan, [*receipts, changed])
    with pytest.raises(InvalidValueError, match=rf"Region {len(plan)} is asked for; expected one of 0 to {len(plan) - 1}"):
        do(plan, len(plan))
    with pytest.raises(StateMismatchError, match="begun by another call: slabs in each region 1, now None"):
        mm.convert(source, tmp_path / "x.npy", progress=False)
    finish(plan, receipts)
    with pytest.raises(TargetExistsError):
        planned(source, tmp_path / "x.npy")


def test_a_source_that_changes_is_noticed(source: str, tmp_path: Path) -> None:
    plan = planned(source, tmp_path / "x.npy")
    with h5py.File(source, "r+") as file:
        file["x"][0] = 0
    with pytest.raises(DamagedFileError, match="was changed since its conversion was planned"):
        do(plan, 0)


def test_hdf5_has_one_writer(source: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="cannot be written in parts: HDF5 has one writer at a time"):
        planned(source, tmp_path / "x.h5")
    assert not list(tmp_path.glob("x.*")) and parts.REGION_NBYTES >= 4 * digest_leaves.LEAF_NBYTES


# --- many workers ----------------------------------------------------------------------------------------------------------


def test_parts_from_another_directory_and_nothing_to_finish(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "x.npy"
    with pytest.raises(NotFoundError, match=r"no part of .*x\.npy was converted yet"):
        mm.convert(source, out, part="finish", progress=False)
    assert mm.convert(source, out, part="0/2", progress=False).regions[0] > 0
    monkeypatch.chdir(tmp_path)
    mm.convert("a.h5", "x.npy", part="1/2", progress=False)
    done = mm.convert(source, out, part="finish", progress=False)
    assert done.verified and 0 < done.peak_nbytes <= done.memory.total
    with pytest.raises(InvalidValueError, match="resume=False with part="):
        mm.convert(source, tmp_path / "y.npy", part="0/2", resume=False)


class Forked:
    """Processes that convert parts of a source, some of which are killed at random moments."""

    def __init__(self, source: str, out: Path, random: random.Random) -> None:
        self.call = functools.partial(mm.convert, source, out, progress=False, max_memory="64MB", compression="zstd")
        self.random, self.killed = random, 0

    def run(self, part: str, is_killed: bool) -> None:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                self.call(part=part)
                status = 0
            finally:
                os._exit(status)
        if is_killed:
            time.sleep(self.random.random() * 0.06)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert status == 0 or (is_killed and os.WTERMSIG(status) == signal.SIGKILL)
        self.killed += status != 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")
@pytest.mark.parametrize("seed", range(100 if os.environ.get("MMAPSTORE_THOROUGH") else 3))
def test_parts_in_any_order_with_workers_that_are_killed(source: str, tmp_path: Path, seed: int) -> None:
    """64 parts, a third of them killed and done again, a fifth done twice: the root digest is that of one process."""
    chance = random.Random(seed)
    out = tmp_path / chance.choice(["x.npy", "x.zarr"])
    options = {} if out.suffix == ".npy" else {"chunk_samples": chance.choice([1, 3, 4])}
    workers = Forked(source, out, chance)
    workers.call.keywords.update(options, compression=None if out.suffix == ".npy" else "zstd")
    order = list(range(64))
    chance.shuffle(order)
    for index in [*order, *chance.sample(order, 13)]:
        if chance.random() < 1 / 3:
            workers.run(f"{index}/64", is_killed=True)
    with pytest.raises((StateMismatchError, NotFoundError), match=r"is not whole: \d+ of \d+ regions|was converted yet"):
        workers.call(part="finish")
    for index in [*order, *chance.sample(order, 13)]:
        workers.run(f"{index}/64", is_killed=False)
    done = workers.call(part="finish")
    one = mm.convert(source, tmp_path / f"one{out.suffix}", progress=False)
    assert done.sha256 == one.sha256 and workers.killed > 0
    assert mm.verify(source, out) and mm.verify(out)
    assert not list(tmp_path.glob("x.*.partial*"))
