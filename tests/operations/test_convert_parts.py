"""Conversion in regions: in any order, some of them twice, in other processes, with the result of one `convert`."""

from __future__ import annotations

import functools
import itertools
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from killed_steps import forked

import mmapstore as mm
from mmapstore.operations.convert import origin, parts
from mmapstore.operations.convert.copying import Slabwise
from mmapstore.operations.convert.parts import Parts, do, finish, plan_parts
from mmapstore.operations.convert.request import Request
from mmapstore.operations.flow.parts import Receipt
from mmapstore.operations.flow.receipts import WHOLE
from mmapstore.plain import digest_leaves
from mmapstore.plain.errors import (
    DamagedFileError,
    InvalidValueError,
    MmapstoreError,
    NotFoundError,
    StateMismatchError,
    TargetExistsError,
)
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
    with pytest.raises(StateMismatchError, match=r"2 of \d+ regions were not done: 0, 2\. Do them first"):
        finish(plan, [*receipts[1:2], *receipts[3:]])
    with pytest.raises(StateMismatchError, match="A receipt is of another call"):
        finish(plan, [*receipts, Receipt("00000000", 0, {}, {})])
    changed = Receipt(plan.mark, 0, {"data": ["0" * 8] * len(receipts[0].checksums["data"])}, {})
    with pytest.raises(StateMismatchError, match="Region 0 was done twice with different values"):
        finish(plan, [*receipts, changed])
    with pytest.raises(InvalidValueError, match=rf"Region {len(plan)} is asked for; expected one of 0 to {len(plan) - 1}"):
        do(plan, len(plan))
    with pytest.raises(StateMismatchError, match="begun by another call: it is converted in parts"):
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


@pytest.mark.parametrize(
    ("out", "options", "error"),
    [
        ("y.npy", {"part": "finish"}, "it publishes once all parts are done"),
        ("y.npy", {"part": "2/2"}, "is none of 2 parts"),
        ("y.npy", {"engine": "spark"}, "engine='spark' is not understood"),
        ("y.h5", {"part": "0/2"}, "cannot be written in parts"),
    ],
)
def test_a_dry_run_looks_at_parts_and_engines(source: str, tmp_path: Path, out: str, options: dict[str, Any], error: str) -> None:
    with pytest.raises(MmapstoreError, match=error):
        mm.convert(source, tmp_path / out, dry_run=True, **options)
    assert mm.convert(source, tmp_path / "y.npy", dry_run=True, engine="processes", part="1/2").dry_run
    assert not list(tmp_path.glob("y.*"))


def all_parts(source: str, out: Path, **options: Any) -> None:
    for index in range(3):
        mm.convert(source, out, part=f"{index}/3", progress=False, **options)


def beside(out: Path) -> list[str]:
    return sorted(path.name.removeprefix(out.name) for path in out.parent.glob(f"{out.name}?*") if "leaves" not in path.name)


@pytest.mark.parametrize("out", ["x.npy", "x.zarr"])
def test_what_is_published_needs_no_part(source: str, tmp_path: Path, out: str) -> None:
    """The same call finds nothing left to do; another one is refused; `overwrite` begins anew, without receipts of before."""
    call = functools.partial(mm.convert, source, tmp_path / out, progress=False)
    all_parts(source, tmp_path / out)
    shutil.copytree(f"{tmp_path / out}.partial.receipts", tmp_path / "receipts")
    done = call(part="finish")
    finish = {"part": "finish"}
    for options in (finish, {**finish, "overwrite": True}, {**finish, "max_memory": 10**9}, {"part": "7/9"}):
        again = call(**options)
        assert again.was_published and "was published before" in again.to_text()
        assert (again.sha256, again.verified, again.shape) == (done.sha256, True, done.shape)
    for options in ({"part": "0/3", "samples": (0, 200)}, {"part": "0/3", "dtype": "f8"}, {}):
        with pytest.raises(TargetExistsError, match="exists"):
            call(**options)
    assert beside(tmp_path / out) == [SUFFIX]
    call(part="0/3", overwrite=True)
    shutil.copytree(tmp_path / "receipts", f"{tmp_path / out}.partial.receipts", dirs_exist_ok=True)
    with pytest.raises(StateMismatchError, match="is of another call"):
        call(part="finish", overwrite=True)
    assert mm.verify(source, tmp_path / out)


@pytest.mark.parametrize("moment", ["read", "write", "receipt"])
@pytest.mark.parametrize("out", ["x.npy", "x.zarr"])
def test_a_late_part_ends_in_words(source: str, tmp_path: Path, out: str, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is done again, and all is published while it reads, right before it writes, or when it has written."""
    all_parts(source, tmp_path / out)
    (tmp_path / f"{out}.partial" / "c.0.0.0.0.5e.tmp").touch() if out == "x.zarr" else None  # left by a part that was killed
    finished = []

    def finishing(call: Any) -> Any:
        def late(*arguments: Any, **options: Any) -> Any:
            if not finished:
                finished.append(mm.convert(source, tmp_path / out, part="finish", progress=False))
            return call(*arguments, **options)

        return late

    plan = plan_parts(source, tmp_path / out, request())
    owner, name = {"read": (origin.Stored, "read_box"), "write": (Slabwise, "write"), "receipt": (parts, "_hash_tail")}[moment]
    monkeypatch.setattr(owner, name, finishing(getattr(owner, name)))
    if moment == "receipt":
        assert do(plan, 0).region == 0  # it has written what was there
    else:
        with pytest.raises(StateMismatchError, match="was published, or begun anew, while this call was at work"):
            do(plan, 0)
    with pytest.raises(StateMismatchError, match="the call is late"):
        do(plan, 1)
    with pytest.raises(StateMismatchError, match="the call is late"):
        parts.do_part(plan, WHOLE, "threads")
    assert beside(tmp_path / out) == [SUFFIX] and not list(tmp_path.rglob("*.tmp"))
    assert finished[0].verified and mm.verify(source, tmp_path / out)
    np.testing.assert_array_equal(mm.open(tmp_path / out)[:], frames())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="finishes in forked processes")
@pytest.mark.parametrize(("out", "engine"), [("x.npy", None), ("x.zarr", None), ("x.zarr", "map")])
def test_finish_killed_at_every_step(source: str, tmp_path: Path, out: str, engine: str | None) -> None:
    """Over older data, which is there until the new is: the next `finish`, or the next call of an engine, publishes the same."""
    target, ends = tmp_path / out, 0
    np.save(tmp_path / "old.npy", np.zeros((5, 3), "u1"))
    expected = mm.convert(source, tmp_path / f"one-{out}", progress=False).sha256
    with ThreadPoolExecutor(1) as executor:
        last = {"part": "finish"} if engine is None else {"engine": executor}
        call = functools.partial(mm.convert, source, target, overwrite=True, progress=False)
        for step in itertools.count(1):
            mm.convert(tmp_path / "old.npy", target, overwrite=True, progress=False)
            all_parts(source, target, overwrite=True)
            code, found = forked(lambda: call(part="finish").sha256, dies_at=step)
            whole = [path for path in (target, Path(f"{target}.replaced")) if path.exists()]
            assert mm.open(whole[0]).shape in ((5, 3), frames().shape)
            if code == 0:
                assert found == expected
                break
            ends += 1
            assert call(**last).sha256 == expected
            assert mm.verify(target) and beside(target) == [SUFFIX]
    assert ends > 10


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
