"""A crash in a C library costs the step in which it happened: judged for each step, and with real signals in real commands."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from mmapstore import supervised
from mmapstore.files import crashes
from mmapstore.operations.convert.archives import convert_directory
from mmapstore.operations.convert.tree import convert_all
from mmapstore.operations.flow import journal
from mmapstore.operations.verify import verify
from mmapstore.plain.errors import DamagedFileError

HOW = "signal 11 (SIGSEGV)"


@pytest.fixture
def noted(monkeypatch, tmp_path):
    """This process as one that a supervisor started. Gives the names of the steps that were entered."""
    entered = {}

    def write():
        entered.update(dict.fromkeys(crashes._entered))

    with (tmp_path / "steps").open("wb") as notes:
        monkeypatch.setattr(crashes, "_notes", notes)
        monkeypatch.setattr(crashes, "_blamed", {})
        monkeypatch.setattr(crashes, "_write", write)
        yield entered


def write_source(path):
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(5)
        file["group/y"] = np.arange(6.0)
        file["group"].attrs["unit"] = "m"
        file["group/again"] = file["a"]
        file["reference"] = np.array([file["a"].ref], h5py.ref_dtype)
    return path


@pytest.mark.parametrize("suffix", [".h5", pytest.param(".zarr", marks=pytest.mark.slow), pytest.param("", marks=pytest.mark.slow)])
def test_whatever_step_crashed_the_rest_arrives(noted, tmp_path, suffix):
    """The judge: every step that a conversion enters is blamed once, and objects that the step is not of arrive as before."""
    source = write_source(tmp_path / "a.h5")
    target = tmp_path / f"out{suffix}"
    whole = {row.path for row in convert_all(source, target, progress=False).rows}
    steps = list(noted)
    assert len(steps) > len(whole)
    for name in steps:
        crashes._blamed.clear()
        crashes._blamed[name] = HOW
        if name == f"converting {source}":
            with pytest.raises(DamagedFileError, match=r"a\.h5 ended the process with signal 11"):
                convert_all(source, target, overwrite=True, progress=False)
            continue
        report = convert_all(source, target, overwrite=True, progress=False)
        blamed = next(word for word in name.split() if word.startswith("/") and str(tmp_path) not in word)
        found = {row.path: row for row in report.rows if not row.is_lost}
        lost = [row for row in report.rows if row.is_lost]
        if "H5Ocopy" in name:  # done in another way
            assert not lost
        elif "partial" not in name and "attributes of /reference" not in name:
            assert any(row.path.startswith(blamed) and HOW in row.how for row in lost), (name, report.to_text())
        for path in whole:
            is_of_the_step = path == blamed or path.startswith(f"{blamed.rstrip('/')}/")
            led_there = blamed == "/a" and path in ("/group/again", "/reference")
            assert is_of_the_step or led_there or path in found, (name, report.to_text())
        if "partial" not in name:  # which `verify` does not read
            verdict = verify(source, target, progress=False)
            assert bool(verdict) is (report.exit_code == 0), (name, report.to_text(), verdict.to_text())


def test_a_partial_target_that_crashes_is_begun_anew(noted, monkeypatch, tmp_path):
    source, target = write_source(tmp_path / "a.h5"), tmp_path / "out.h5"
    monkeypatch.setattr(journal, "COMMIT_SECONDS", 0.0)
    seen = []

    def stop(row):
        seen.append(row.path)
        if row.path == "/group":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_all(source, target, progress=stop)
    crashes._blamed[f"going on with {target}.partial"] = HOW
    again = []
    report = convert_all(source, target, progress=lambda row: again.append(row.path))
    assert report.exit_code == 0 and set(seen) < set(again)


def test_a_verify_that_crashed_says_so_of_the_object(noted, tmp_path):
    source, target = write_source(tmp_path / "a.h5"), tmp_path / "out.zarr"
    convert_all(source, target, progress=False)
    noted.clear()
    assert verify(source, target, progress=False)
    for name in list(noted):
        crashes._blamed.clear()
        crashes._blamed[name] = HOW
        try:
            verdict = verify(source, target, progress=False)
        except DamagedFileError as error:
            assert "listing" in name and HOW in str(error)
            continue
        wrong = [array for array in verdict.arrays if not array.ok]
        said = any(HOW in problem for array in wrong for problem in array.problems)
        assert not verdict and (said or verdict.extra == ("group",)), (name, verdict.to_text())
        assert len(wrong) < len(verdict.arrays)


def test_an_archive_that_crashed_is_a_row_and_leaves_no_lock(noted, tmp_path):
    (tmp_path / "in").mkdir()
    for name in "abc":
        write_source(tmp_path / f"in/{name}.h5")
    crashes._blamed[f"converting {tmp_path / 'in/b.h5'}"] = HOW
    report = convert_directory(tmp_path / "in", tmp_path / "out", progress=False)
    assert [(row.archive, row.path) for row in report.rows if row.is_lost] == [("b.h5", "/")]
    assert sorted(os.listdir(tmp_path / "out")) == ["a.zarr", "c.zarr", "mmapstore-conversion.jsonl"]


# --- real signals in real commands -----------------------------------------------------------------------------------------

# Loaded by Python itself when a process starts: reading an object of which the name is that of a signal ends the process with it.
SITE = """
import os, signal, sys, time
if sys.argv[:1] == ["-c"]:  # the child
    from mmapstore.formats import hdf5_tree
    kept = hdf5_tree.Hdf5Tree.arrays

    def values(self, path, regions=False):
        name = path.rpartition("/")[2]
        if name.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, name))
        if name == "slow":
            print(os.getpid(), flush=True)
            time.sleep(60)
        return kept(self, path, regions)

    hdf5_tree.Hdf5Tree.arrays = values
    kept_init = hdf5_tree.Hdf5Tree.__init__

    def init(self, path, *rest, **named):
        if "unopenable" in path:
            os.kill(os.getpid(), signal.SIGBUS)
        kept_init(self, path, *rest, **named)

    hdf5_tree.Hdf5Tree.__init__ = init
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Starts `python -m mmapstore ...` with these crashes in it."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SITE)
    package = Path(crashes.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(package)]))

    def started(*words):
        return subprocess.Popen(
            [sys.executable, "-m", "mmapstore", *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    return started


def ended(process):
    printed, errors = process.communicate(timeout=120)
    return process.returncode, printed, errors


def write_archives(folder, *names):
    folder.mkdir()
    for name in names:
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["before"] = np.arange(3)
            file[f"group/{name}"] = [1]
            file["group/with"] = [2]
    return folder


def test_h5ocopy_that_frees_twice(command, tmp_path):
    """HDF5 1.14.6 aborts in H5Ocopy where the size of a chunk is damaged; by value it reports an error."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["before"] = [1]
        file.create_dataset("damaged", data=np.arange(40), chunks=(10,))
        file["later"] = [2]
    data = bytearray((tmp_path / "a.h5").read_bytes())
    second_key = data.rindex(b"TREE\1") + 24 + 32
    assert data[second_key : second_key + 4] == (80).to_bytes(4, "little")
    data[second_key : second_key + 4] = b"\0\0\0\xff"
    (tmp_path / "a.h5").write_bytes(data)
    code, printed, _ = ended(command("convert", "--all", "--json", tmp_path / "a.h5", tmp_path / "out.h5"))
    rows = {row["path"]: row for row in json.loads(printed)["rows"]}
    assert code == 1 and [path for path, row in rows.items() if row["outcome"] != "copied"] == ["/damaged"]
    assert "HDF5 cannot copy it" in rows["/damaged"]["how"]
    with h5py.File(tmp_path / "out.h5") as file:
        assert sorted(file) == ["before", "later"]


@pytest.mark.slow
def test_a_directory_survives_a_crash_in_one_archive(command, tmp_path):
    source = write_archives(tmp_path / "in", "SIGSEGV", "fine")
    code, printed, errors = ended(command("convert", "--json", "--no-resume", source, tmp_path / "out"))
    rows = {(row["archive"], row["path"]): row for row in json.loads(printed)["rows"]}
    lost = [key for key, row in rows.items() if row["outcome"] not in ("copied", "changed")]
    assert code == 1 and lost == [("SIGSEGV.h5", "/group/SIGSEGV")]
    assert "copying /group/SIGSEGV" in rows[lost[0]]["how"] and HOW in rows[lost[0]]["how"]
    assert errors.count("Going on without that") == 1
    assert zarr.open_array(tmp_path / "out/SIGSEGV.zarr/group/with", mode="r")[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("to", [".zarr", ".h5", ".npy-tree"])
def test_any_crash_in_a_directory_and_verify_after_it(command, tmp_path, to):
    names = ["SIGABRT", "SIGFPE", "SIGILL", "fine", "unopenable"]
    source, out = write_archives(tmp_path / "in", *names), tmp_path / "out"
    code, printed, errors = ended(command("convert", "--json", source, out, "--to", to))
    assert printed, errors
    lost = {row["archive"]: (row["path"], row["how"]) for row in json.loads(printed)["rows"] if row["outcome"] == "failed"}
    assert code == 1 and sorted(lost) == ["SIGABRT.h5", "SIGFPE.h5", "SIGILL.h5", "unopenable.h5"]
    assert all(f"({name})" in lost[f"{name}.h5"][1] for name in names[:3])
    assert lost["unopenable.h5"][0] == "/" and "(SIGBUS)" in lost["unopenable.h5"][1]
    assert sorted(os.listdir(out)) == sorted([*(f"{name}{to}" for name in names[:4]), "mmapstore-conversion.jsonl"])
    code, printed, _ = ended(command("verify", "--json", source, out))
    said = json.loads(printed)
    wrong = {array["key"] for array in said["arrays"] if not array["ok"]}
    assert code == 1 and {key.strip("/").split("/")[0] for key in (*wrong, *said["missing"])} == {*names} - {"fine"}


@pytest.mark.slow
def test_a_crash_in_no_object_is_a_plain_error(command, tmp_path):
    source = write_archives(tmp_path / "in", "unopenable") / "unopenable.h5"
    code, printed, errors = ended(command("convert", "--all", "--json", source, tmp_path / "out.h5"))
    assert code == 1 and json.loads(printed)["error"] == "DamagedFileError"
    assert errors.count("\n") == 2 and "Traceback" not in errors and "unopenable.h5 ended the process with signal" in errors
    assert sorted(os.listdir(tmp_path)) == ["in", "site"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_the_machine_s_signals_blame_no_object(command, tmp_path, name):
    source = write_archives(tmp_path / "in", name) / f"{name}.h5"
    code, _, errors = ended(command("convert", "--all", source, tmp_path / "out.h5"))
    assert code == 1 and f"({name}) ended the process while copying /group/{name}" in errors and "No file is to blame" in errors
    assert ("memory runs out" in errors) is (name == "SIGKILL")


@pytest.mark.slow
@pytest.mark.parametrize("to_all", [False, True], ids=["to the parent", "to all"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_the_child_ends_with_the_parent(command, tmp_path, name, to_all):
    source = write_archives(tmp_path / "in", "slow") / "slow.h5"
    process = command("convert", "--all", source, tmp_path / "out.zarr")
    child = int(process.stdout.readline())
    assert child != process.pid
    number = getattr(signal, name)
    os.killpg(process.pid, number) if to_all else process.send_signal(number)
    code, _, errors = ended(process)
    assert code in {"SIGINT": (130,), "SIGTERM": (143, -15), "SIGKILL": (-9,)}[name] and "Traceback" not in errors
    for _ in range(100):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, 0)
            time.sleep(0.1)
            continue
        break
    else:
        pytest.fail("the child lives on")
    assert convert_all(source, tmp_path / "out.zarr", progress=False).exit_code == 0


@pytest.mark.slow
def test_many_crashes_in_one_archive_end_its_conversion(command, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(supervised, "_MOST_CRASHES", 1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for group in "abc":
            file[f"{group}/SIGSEGV"] = [1]
    assert supervised.run_supervised(["convert", "--all", str(tmp_path / "a.h5"), str(tmp_path / "out.zarr")]) == 1
    errors = capfd.readouterr().err
    assert errors.count("Going on without that") == 2 and "converting" in errors.splitlines()[-1]
