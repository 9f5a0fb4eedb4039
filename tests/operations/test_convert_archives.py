"""A directory of archives: each converted to its place, one row for each object, and what a second run does."""

from __future__ import annotations

import csv
import json
import os
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import zarr

from mmapstore.cli import main
from mmapstore.operations.convert import archives as archives_module
from mmapstore.operations.convert.archives import JOURNAL, archives_below, convert_directory, is_directory_of_archives
from mmapstore.plain.errors import InvalidValueError, NotFoundError, TargetExistsError


@pytest.fixture
def folder(tmp_path):
    """Two HDF5 files of one name, a store, a .npy file, a broken file, one of another kind, and a symbolic link."""
    root = tmp_path / "archives"
    (root / "deep/er").mkdir(parents=True)
    for name, values in (("a.h5", [1]), ("a.nc", [1, 2]), ("deep/er/b.h5", [1, 2, 3])):
        with h5py.File(root / name, "w") as file:
            file["x"] = values
    zarr.open_group(root / "deep/c.zarr", mode="w").create_array("y", data=np.arange(4))
    np.save(root / "deep/d.npy", np.arange(5))
    (root / "broken.h5").write_bytes((root / "a.h5").read_bytes()[:900])
    (root / "empty.hdf5").write_bytes(b"")
    (root / "README.txt").write_text("hello")
    os.symlink(tmp_path, root / "up")
    return root


def rows_of(report):
    return {(row.archive, row.path): (row.outcome, row.how) for row in report.rows}


def test_what_is_below(folder):
    found = {each.relative: each.container.title if each.container else "" for each in archives_below(folder)}
    assert found == {
        "README.txt": "", "a.h5": "HDF5", "a.nc": "HDF5", "broken.h5": "HDF5", "deep/c.zarr": "Zarr", "deep/d.npy": ".npy",
        "deep/er/b.h5": "HDF5", "empty.hdf5": "HDF5", "up": "",
    }  # fmt: skip
    reasons = {archive.relative: archive.why_none for archive in archives_below(folder) if archive.container is None}
    assert reasons["up"] == "a symbolic link, which is not followed"
    assert reasons["README.txt"].startswith("not an archive")
    assert is_directory_of_archives(folder)
    assert not is_directory_of_archives(folder / "deep/c.zarr")
    with pytest.raises(NotFoundError, match="is no directory"):
        list(archives_below(folder / "a.h5"))


def test_each_goes_to_its_place(folder, tmp_path):
    out = tmp_path / "out"
    report = convert_directory(folder, out, report=tmp_path / "r.csv", progress=False)
    found = rows_of(report)
    assert found["a.h5", "/x"] == ("copied", "")
    assert found["README.txt", "/"][0] == found["up", "/"][0] == "left out"
    assert found["broken.h5", "/"][0] == "failed" and "truncated" in found["broken.h5", "/"][1]
    assert found["empty.hdf5", "/"][0] == "failed" and "its first bytes do not" in found["empty.hdf5", "/"][1]
    assert report.exit_code == 1
    arrays = {
        "a.h5.zarr/x": [1], "a.nc.zarr/x": [1, 2], "deep/er/b.zarr/x": [1, 2, 3],
        "deep/c.zarr/y": [0, 1, 2, 3], "deep/d.zarr/data": [0, 1, 2, 3, 4],
    }  # fmt: skip
    for place, values in arrays.items():
        assert zarr.open_array(out / place, mode="r")[:].tolist() == values
    with (tmp_path / "r.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {(line["archive"], line["path"]) for line in lines} == set(found)
    assert not [path.name for path in out.rglob("*.partial*")]


@pytest.mark.parametrize(("to", "name"), [(".h5", "deep/er/b.h5"), (".npy-tree", "deep/er/b.npy-tree/x.npy")])
def test_other_targets(folder, tmp_path, to, name):
    convert_directory(folder, tmp_path / "out", to=to, progress=False)
    path = tmp_path / "out" / name
    if to == ".h5":
        with h5py.File(path) as file:
            assert file["x"][:].tolist() == [1, 2, 3]
    else:
        assert np.load(path).tolist() == [1, 2, 3]
    again = convert_directory(tmp_path / "out", tmp_path / "back", to=".h5", progress=False)
    assert again.exit_code == 0
    with h5py.File(tmp_path / "back/deep/er/b.h5") as file:
        assert file["x"][:].tolist() == [1, 2, 3]


def test_a_second_run_converts_what_is_new_and_keeps_the_rest(monkeypatch, folder, tmp_path):
    first = convert_directory(folder, tmp_path / "out", progress=False)
    done = []
    convert_all = archives_module.convert_all
    monkeypatch.setattr(archives_module, "convert_all", lambda path, *a, **k: done.append(path) or convert_all(path, *a, **k))
    with h5py.File(folder / "new.h5", "w") as file:
        file["x"] = [5]
    second = convert_directory(folder, tmp_path / "out", progress=False)
    assert [os.path.basename(path) for path in done] == ["broken.h5", "empty.hdf5", "new.h5"]
    assert set(rows_of(first).items()) < set(rows_of(second).items())


def test_an_archive_that_changed_is_replaced_on_request(folder, tmp_path):
    convert_directory(folder, tmp_path / "out", progress=False)
    with h5py.File(folder / "deep/er/b.h5", "w") as file:
        file["x"] = [9, 9, 9, 9]
    found = rows_of(convert_directory(folder, tmp_path / "out", progress=False))
    assert found["deep/er/b.h5", "/"][0] == "failed" and "its archive has changed since" in found["deep/er/b.h5", "/"][1]
    assert zarr.open_array(tmp_path / "out/deep/er/b.zarr/x", mode="r")[:].tolist() == [1, 2, 3]
    convert_directory(folder, tmp_path / "out", overwrite=True, progress=False)
    assert zarr.open_array(tmp_path / "out/deep/er/b.zarr/x", mode="r")[:].tolist() == [9, 9, 9, 9]


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_an_interrupted_run_goes_on(monkeypatch, folder, tmp_path, moment):
    straight = convert_directory(folder, tmp_path / "straight", progress=False)
    convert_all = archives_module.convert_all

    def stopping(path, *arguments, **options):
        if not path.endswith("b.h5"):
            return convert_all(path, *arguments, **options)
        if moment == "within":
            options["progress"] = stop
        if moment != "before":
            convert_all(path, *arguments, **options)
        raise KeyboardInterrupt

    def stop(row):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archives_module, "convert_all", stopping)
        with pytest.raises(KeyboardInterrupt):
            convert_directory(folder, tmp_path / "out", progress=False)
    with (tmp_path / "out" / JOURNAL).open("a") as file:
        file.write('{"archive": "a.h5", "cut sho')
    resumed = convert_directory(folder, tmp_path / "out", progress=False)
    assert rows_of(resumed) == {key: (outcome, how.replace("straight", "out")) for key, (outcome, how) in rows_of(straight).items()}
    assert zarr.open_array(tmp_path / "out/deep/er/b.zarr/x", mode="r")[:].tolist() == [1, 2, 3]


def test_targets_that_are_somebody_elses_are_kept(folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    with pytest.raises(TargetExistsError, match="holds files that are not from a conversion of archives"):
        convert_directory(folder, tmp_path / "mine", progress=False)
    with pytest.raises(InvalidValueError, match=r"to='\.tif' is not understood; expected one of \.zarr, \.h5, \.npy-tree"):
        convert_directory(folder, tmp_path / "out", to="tif")
    with pytest.raises(InvalidValueError, match="is, or lies around"):
        convert_directory(folder, folder)
    # a directory inside the one that is read is not read itself
    inside = convert_directory(folder, folder / "out", progress=False)
    again = convert_directory(folder, folder / "out", progress=False)
    assert rows_of(inside) == rows_of(again)


def test_the_command(capsys, folder, tmp_path):
    assert main(["convert", str(folder), str(tmp_path / "out"), "--report", str(tmp_path / "r.csv"), "--to", ".h5"]) == 1
    assert "failed   broken.h5::/  (archive)" in capsys.readouterr().out
    assert (tmp_path / "r.csv").read_text().startswith("archive,path,kind,outcome,how,bytes,sha256\n")
    assert main(["convert", str(folder / "a.h5"), str(tmp_path / "a.zarr"), "--all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["copied"] == 2
    assert main(["convert", str(folder / "a.h5"), str(tmp_path / "b.zarr"), "--all", "--dtype", "f4"]) == 2
    assert "--dtype can be meant for one array alone" in capsys.readouterr().err
    assert main(["convert", str(folder / "a.h5"), str(tmp_path / "b.zarr"), "--all", "--to", ".h5"]) == 2
    assert "--to is for a directory of archives" in capsys.readouterr().err


@pytest.mark.slow
def test_an_engine_converts_several_at_once(folder, tmp_path):
    """Each in a child of its own, with the rows of one process; a second call converts nothing but what failed."""
    straight = convert_directory(folder, tmp_path / "straight", progress=False)
    told = []
    with ThreadPoolExecutor(2) as executor:
        report = convert_directory(folder, tmp_path / "out", engine=executor, progress=told.append)
        again = convert_directory(folder, tmp_path / "out", engine=executor, progress=False)
    assert rows_of(report) == rows_of(straight) == rows_of(again)
    assert {row.archive for row in told} == {row.archive for row in report.rows if row.outcome != "left out"}
    assert zarr.open_array(tmp_path / "out/deep/er/b.zarr/x", mode="r")[:].tolist() == [1, 2, 3]
