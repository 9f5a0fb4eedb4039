"""`mmapstore ingest` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmapstore.cli import main
from mmapstore.operations.ingest import command


def run(*arguments: object) -> int:
    return main(["ingest", *map(str, arguments)])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    np.save(tmp_path / "in.npy", np.zeros((5, 4, 6, 3), np.uint8))
    return tmp_path / "in.npy"


def test_one_line_and_how_to_open_it(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, tmp_path / "x.npy", "--source-layout", "NHWC", "--dtype", "float32") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path}/x.npy: 5 x (3, 4, 6) float32, 1.44 kB in ") and first.endswith("/s), 1.57 kB on disk")
    assert second == f"open it with: ds = mmapstore.open('{tmp_path}/x.npy')"
    assert np.load(tmp_path / "x.npy").shape == (5, 3, 4, 6)


def test_several_sources_and_json(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(source, source, tmp_path / "x.zarr", "--layout", "keep", "--compression", "zstd", "--max-memory", "64MB", "--json") == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == f"{tmp_path}/x.zarr"
    (field,) = found["fields"].values()
    assert (field["samples"], field["shape"], field["dtype"], field["episodes"], field["layout"]) == (
        10,
        [4, 6, 3],
        "u1",
        2,
        "NCHW",
    )
    assert found["bytes"] == field["bytes"] > 0


def test_errors_are_one_line_and_a_code(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "no.npy", tmp_path / "x.npy") == 1
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("mmapstore: ") and "does not exist" in shown.err
    assert run(source, tmp_path / "x.npy") == 0
    capsys.readouterr()
    assert run(source, tmp_path / "x.npy", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["error"] == "TargetExistsError" and "exists. Pass overwrite=True" in found["message"]
    assert run(source, tmp_path / "y.npy", "--layout", "ZZ") == 2
    assert run(source, tmp_path / "x.npy", "--overwrite", "--no-resume") == 0


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "ingest", interrupt)
    assert run(source, tmp_path / "x.npy") == 130
    assert capsys.readouterr().err == "Interrupted. Run the same command again to go on from here.\n"


def test_appending(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, tmp_path / "x.h5") == 0
    assert run(source, tmp_path / "x.h5", "--append", "--json") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["fields"]["data"]["samples"] == 10 and found["fields"]["data"]["episodes"] == 2
    assert run(source, tmp_path / "x.h5", "--append", "--overwrite") == 2


def test_a_dry_run_writes_nothing(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, tmp_path / "x.npy", "--dry-run", "--epochs", "15", "--train-seconds", "60") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path}/x.npy would hold 5 x (4, 6, 3) uint8 NCHW"
    assert lines[1].startswith("360 B, ") and "judged by 5 samples" in lines[1]
    assert lines[2].startswith("memory: ") and lines[3].startswith("15 epochs: ")
    assert run(source, tmp_path / "x.npy", "--dry-run", "--epochs", "15", "--train-seconds", "60", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == 5 and found["bytes"] == 360 and found["seconds_from_source"] > 15 * 60
    assert [path.name for path in tmp_path.iterdir()] == ["in.npy"]
    assert run(source, tmp_path / "x.npy", "--epochs", "15") == 2
    assert "is for a dry run" in capsys.readouterr().err


def test_what_was_left_out_is_told(tmp_path: Path) -> None:
    found = {"path": "x", "fields": {}, "bytes": 0, "seconds": 1.0, "skipped": [f"{number}.png" for number in range(12)]}
    assert command._line(found).endswith(
        "skipped 12, broken or unmatched: 0.png, 1.png, 2.png, 3.png, 4.png, 5.png, 6.png, 7.png, 8.png, 9.png ... "
        "(the manifest names all)"
    )
