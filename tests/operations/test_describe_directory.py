"""`mmapstore info DIR`: one line for each archive."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from mmapstore.cli import main
from mmapstore.operations.describe import describe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "b.npy", np.zeros((5, 4), np.float32))
    (tmp_path / "deep").mkdir()
    with h5py.File(tmp_path / "deep" / "a.h5", "w") as file:
        file["x"] = np.zeros((6, 4))
        file.create_dataset("y", data=np.zeros((6, 4)), chunks=(2, 4), compression="gzip")
        file["names"] = ["text", "of any length"]
    zarr.create_array(str(tmp_path / "c.zarr"), data=np.zeros((3, 3)))
    (tmp_path / "broken.h5").write_bytes(b"no HDF5")
    (tmp_path / "notes.txt").write_text("hello")
    return tmp_path


def test_one_line_for_each(folder: Path) -> None:
    found = describe(folder)
    by_name = {each.name: each for each in found.archives}
    assert list(by_name) == ["b.npy", "broken.h5", "c.zarr", "deep/a.h5"]
    assert (by_name["b.npy"].arrays, by_name["b.npy"].bytes, by_name["b.npy"].read) == (1, 80, ("memory-mapped",))
    assert by_name["deep/a.h5"].arrays == 2 and by_name["deep/a.h5"].read == ("memory-mapped", "decoded in threads")
    assert by_name["deep/a.h5"].refused[0].startswith(f"{folder}/deep/a.h5::/names has an object dtype")
    assert by_name["broken.h5"].arrays == 0 and "is a file of 7 bytes" in by_name["broken.h5"].refused[0]
    assert found.kind == "a directory, 5 arrays in 4 archives"


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["archive", "arrays", "values", "on", "disk", "read"]
    assert any(line.strip().startswith("refused: ") for line in lines)
    assert main(["info", str(folder), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["archives"]) == 4
