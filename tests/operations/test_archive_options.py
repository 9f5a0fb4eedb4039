"""`mmapstore ingest` and `mmapstore info` on the command line: megabatches, files without a header, videos with options."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingest_results import video

import mmapstore as mm
from mmapstore import cli

BATCH = {"images": np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3), "labels": ["cat", "ant"], "texts": ["a", "bc"]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        Path(f"b{number}.pkl").write_bytes(pickle.dumps(BATCH))
        np.savez(f"b{number}.npz", **BATCH)  # type: ignore[arg-type]
    values = np.arange(3 * 2 * 4, dtype=">i2").reshape(3, 2, 4)
    Path("raw.bin").write_bytes(b"head" + values.tobytes())
    return tmp_path


def run(*arguments: str) -> int:
    return cli.main([*arguments])


def test_pickles_only_when_allowed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ingest", "*.pkl", "out") == 1
    assert "b0.pkl is a pickle, and loading a pickle runs whatever code" in capsys.readouterr().err
    assert run("info", "b0.pkl") == 1
    assert "mmapstore ingest b0.pkl OUT --allow-pickle" in capsys.readouterr().err
    assert (
        run(
            "ingest",
            "*.pkl",
            "out",
            "--allow-pickle",
            "--source-layout",
            "NHWC",
            "--text-width",
            "9",
            "--classes",
            "labels",
            "--json",
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["fields"]["images"]["shape"] == [3, 4, 5]
    ds = mm.open("out")
    assert {name: field.shape for name, field in ds.fields.items()} == {"images": (4, 3, 4, 5), "labels": (4,), "texts": (4, 9)}
    np.testing.assert_array_equal(ds["images"][2:], BATCH["images"].transpose(0, 3, 1, 2))  # type: ignore[attr-defined]


def test_archives_of_several_fields(folder: Path) -> None:
    assert run("ingest", "b0.npz", "b1.npz", "out.h5", "--fields", "image=images,labels", "--classes", "labels") == 0
    np.testing.assert_array_equal(mm.open("out.h5::/labels")[:], [1, 0, 1, 0])
    assert mm.open("out.h5::/image").shape == (4, 4, 5, 3)


def test_a_file_without_a_header(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    form = ["--raw-dtype", ">i2", "--raw-shape", "N,2,4", "--raw-offset", "4"]
    assert run("info", "raw.bin", *form) == 0
    text = capsys.readouterr().out
    assert "3 samples of (2, 4) int16" in text
    line = next(line for line in text.splitlines() if "open it:" in line).partition("open it: ")[2]
    assert line == "mmapstore.open('raw.bin', dtype='>i2', shape=(-1, 2, 4), offset=4)"
    expected = np.arange(24).reshape(3, 2, 4)
    np.testing.assert_array_equal(eval(line, {"mmapstore": mm})[:], expected)
    assert run("ingest", "raw.bin", "out.npy", *form, "--source-layout", "NHW") == 0
    np.testing.assert_array_equal(np.load("out.npy"), expected)
    assert np.load("out.npy").dtype == np.dtype("<i2")
    assert run("info", "raw.bin") == 1
    assert "--raw-dtype" not in capsys.readouterr().out


def test_videos_with_stride_and_size(folder: Path) -> None:
    assert run("ingest", video("carphone_pristine.mp4"), video("bikes.mp4"), "out.npy", "--stride", "50", "--size", "36x44") == 0
    assert np.load("out.npy").shape == (3 + 5, 3, 36, 44)
    Path("broken.mp4").write_bytes(b"")
    assert run("ingest", "broken.mp4", video("carphone_pristine.mp4"), "skipped.npy", "--skip-broken") == 0
    assert np.load("skipped.npy").shape == (120, 3, 144, 176)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["b0.npz", "--stride", "2"], "--stride is for videos, which b0.npz is not"),
        (["b0.npz", "--size", "10x10"], "--size is for images and videos, which b0.npz is not"),
        (["b0.npz", "--skip-broken"], "--skip-broken is for images, videos and megabatches"),
        (["raw.bin", "--raw-dtype", "u1"], "but not shape"),
        (["raw.bin", "--raw-dtype", "u1", "--raw-shape", "3x4"], "--raw-shape 3x4 is not understood"),
        (["raw.bin", "--raw-dtype", "u1", "--raw-shape", "N", "--fields", "x"], "--fields is not for files without a header"),
        (["b0.npz", "--fields", "images,,x"], "--fields images,,x is not understood"),
        (["b0.pkl", "--allow-pickle", "--size", "3x3"], "--size is not for megabatches"),
        (["raw.bin", "--raw-dtype", "u1", "--raw-shape", "7,7"], r"shape=(7, 7) leaves 3 bytes over"),
    ],
)
def test_options_that_do_not_go_together(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    if "7,7" in arguments:
        Path("raw.bin").write_bytes(bytes(52))
    assert run("ingest", arguments[0], "out.npy", *arguments[1:]) == 2
    assert said in capsys.readouterr().err


def test_every_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("ingest", "info"):
        with pytest.raises(SystemExit):
            run(command, "--help")
        shown: Any = capsys.readouterr().out
        assert "--raw-shape" in shown and ("--allow-pickle" in shown) == (command == "ingest")
