"""Killed at any call that reaches the disk, a conversion resumes to the same result; what is not proven never gets its name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from mmapstore.operations.convert import tree, tree_regions
from mmapstore.operations.convert.tree import convert_all
from mmapstore.plain.errors import DamagedFileError, LockedFileError, StateMismatchError, TargetExistsError

CHILD = Path(__file__).with_name("tree_kill_child.py")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.h5"
    with h5py.File(path, "w") as file:
        for group in range(3):
            inside = file.create_group(f"g{group}")
            inside.attrs["number"] = group
            for number in range(3):
                values = np.arange(60 * (number + 1)) + group
                inside.create_dataset(f"x{number}", data=values, chunks=(20,), compression="gzip")
        file["again"] = file["g1/x1"]
        file["soft"] = h5py.SoftLink("/g2")
        file["table"] = np.zeros(3, [("a", "i4"), ("b", "f4")])
        file["ref"] = np.array([file["g1"].ref], h5py.ref_dtype)
        file["word"] = ["ä", "b"]
    return path


def run_child(source, folder, suffix, every, overwrite):
    folder.mkdir()
    command = [sys.executable, str(CHILD), str(source), str(folder), suffix, str(every), str(int(overwrite))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of a process")
@pytest.mark.parametrize("suffix", [".h5", pytest.param(".zarr", marks=pytest.mark.slow), ""])
def test_killed_now_and_then(source, tmp_path, suffix):
    found = run_child(source, tmp_path / "work", suffix, 17, overwrite=False)
    assert found["kills"]["by call"] >= 2
    assert found["wrong"] == []


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of a process")
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("suffix", [".h5", ".zarr", ""])
def test_killed_at_many_calls(source, tmp_path, suffix, overwrite):
    every = 1 if "MMAPSTORE_THOROUGH" in os.environ else 3
    found = run_child(source, tmp_path / "work", suffix, every, overwrite)
    assert found["kills"]["by call"] > 30 // every
    assert found["wrong"] == []


def interrupted(monkeypatch, source, target, after):
    """A run that ends after so many objects, as an exception does it."""
    monkeypatch.setattr("mmapstore.operations.flow.journal.COMMIT_SECONDS", 0.0)
    seen = []

    def stop(row):
        seen.append(row.path)
        if len(seen) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_all(source, target, progress=stop)
    return seen


@pytest.mark.parametrize("suffix", [".h5", ".zarr", ""])
def test_finished_objects_are_not_converted_again(monkeypatch, source, tmp_path, suffix):
    target = tmp_path / f"out{suffix}"
    first = interrupted(monkeypatch, source, target, after=9)
    assert not target.exists()
    rest = []
    report = convert_all(source, target, progress=lambda row: rest.append(row.path))
    assert report.exit_code == 0
    assert len(set(first) & set(rest)) <= 1  # the one at which it was stopped
    assert set(first) | set(rest) == {row.path for row in report.rows}
    assert convert_all(source, tmp_path / f"straight{suffix}", progress=False).rows == report.rows


def test_an_hdf5_target_that_cannot_be_opened_again_is_begun_anew(monkeypatch, source, tmp_path):
    target = tmp_path / "out.h5"
    interrupted(monkeypatch, source, target, after=9)
    partial = tmp_path / "out.h5.partial"
    partial.write_bytes(partial.read_bytes()[:1000])
    seen = []
    report = convert_all(source, target, progress=lambda row: seen.append(row.path))
    assert report.exit_code == 0 and set(seen) == {row.path for row in report.rows}


@pytest.mark.parametrize("suffix", [".h5", ".zarr", ""])
def test_what_was_damaged_meanwhile_is_found_and_written_again(monkeypatch, source, tmp_path, suffix):
    """Each array is read back before the target gets its name, also those of the run before."""
    target = tmp_path / f"out{suffix}"
    interrupted(monkeypatch, source, target, after=9)
    partial = tmp_path / f"out{suffix}.partial"
    if suffix == ".h5":
        with h5py.File(partial, "r+") as file:
            file["g0/x0"][3] = 77
    elif suffix == ".zarr":
        (partial / "g0/x0/c/0").unlink()
    else:
        np.save(partial / "g0/x0.npy", np.zeros(60, "i8"))
    report = convert_all(source, target, progress=False)
    assert report.rows == convert_all(source, tmp_path / f"straight{suffix}", progress=False).rows
    if suffix == ".h5":
        with h5py.File(target) as file:
            values = file["g0/x0"][:]
    elif suffix == ".zarr":
        values = zarr.open_array(target / "g0/x0", mode="r")[:]
    else:
        values = np.load(target / "g0/x0.npy")
    np.testing.assert_array_equal(values, np.arange(60))


def test_objects_that_read_back_differently_are_left_out(monkeypatch, source, tmp_path):
    copied, found = tree_regions.copy_values, convert_all(source, tmp_path / "whole", progress=False)

    def forgetful(values, new, plan):
        digest = copied(values, new, plan)
        if new is not None and values.read.args[0] == "/g1/x2":
            new.write(tuple(slice(0, 1) for _ in values.shape), np.full((1,) * len(values.shape), 77, values.dtype))
        return digest

    monkeypatch.setattr(tree_regions, "copy_values", forgetful)
    for name in ("out", "out.zarr"):
        report = convert_all(source, tmp_path / name, progress=False)
        rows = {row.path: row for row in report.rows}
        assert rows["/g1/x2"].outcome == "failed" and report.exit_code == 1
        assert re.search("reads back as [0-9a-f]{64}, expected [0-9a-f]{64}", rows["/g1/x2"].how)
        assert [row.path for row in report.rows if row.is_lost] == ["/g1/x2"] and len(rows) == len(found.rows)
    assert (tmp_path / "out/g1/x0.npy").exists() and not (tmp_path / "out/g1/x2.npy").exists()


def test_a_machine_that_damages_other_objects_each_time_is_at_fault(monkeypatch, source, tmp_path):
    """The one case in which the disk or the memory is blamed: each attempt leaves out what the one before found wrong."""
    copied, paths, chosen = tree_regions.copy_values, iter(["/g0/x1", "/g0/x2", "/g1/x0", "/g2/x0", "/g2/x1"]), []

    def faulty(values, new, plan):
        digest = copied(values, new, plan)
        if new is not None and values.read.args[0] == "/g0/x0":
            chosen.append(next(paths))
        if new is not None and values.read.args[0] in chosen[-1:]:
            new.write(tuple(slice(0, 1) for _ in values.shape), np.full((1,) * len(values.shape), 77, values.dtype))
        return digest

    monkeypatch.setattr(tree_regions, "copy_values", faulty)
    with pytest.raises(DamagedFileError, match="the disk or the memory of this machine is at fault"):
        convert_all(source, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_another_conversion_or_a_changed_source_does_not_go_on(monkeypatch, source, tmp_path):
    interrupted(monkeypatch, source, tmp_path / "out.zarr", after=5)
    with h5py.File(source, "r+") as file:
        file["new"] = [1]
    with pytest.raises(StateMismatchError, match=r"its source has changed since.*resume=False \(--no-resume\)"):
        convert_all(source, tmp_path / "out.zarr", progress=False)
    assert convert_all(source, tmp_path / "out.zarr", resume=False, progress=False).exit_code == 0


def test_a_foreign_partial_target_is_kept(source, tmp_path):
    (tmp_path / "out.zarr.partial").mkdir()
    with pytest.raises(TargetExistsError, match=r"no journal says what it is"):
        convert_all(source, tmp_path / "out.zarr", progress=False)
    (tmp_path / "out.h5.replaced").write_text("mine")
    with pytest.raises(TargetExistsError, match=r"out\.h5\.replaced exists"):
        convert_all(source, tmp_path / "out.h5", progress=False)
    assert (tmp_path / "out.h5.replaced").read_text() == "mine"


def test_one_run_at_a_time(source, tmp_path):
    with (
        tree.exclusive_lock(str(tmp_path / "out.zarr.partial.lock"), "out.zarr"),
        pytest.raises(LockedFileError, match="is being written by another run"),
    ):
        convert_all(source, tmp_path / "out.zarr", progress=False)
