"""`mmapstore convert` as people type it: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from convert_sources import SHAPE, frames, make
from ingest_results import read

from mmapstore.cli import main
from mmapstore.plain.content_digest import content_sha256


def test_it_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make(tmp_path, "gzip")
    assert main(["convert", source, str(tmp_path / "b.npy"), "--samples", "10:40", "--layout", "NHWC"]) == 0
    said = capsys.readouterr()
    assert f"{tmp_path}/b.npy: (30, 14, 10, 3) float32 NHWC" in said.out and "read back and equal" in said.out
    assert f"sha256 of the values: {content_sha256(frames()[10:40].transpose(0, 2, 3, 1))}" in said.out
    assert "changed: axes NCHW to NHWC\nchanged: samples [10, 40) of 61" in said.out
    assert f"open it with: ds = mmapstore.open('{tmp_path}/b.npy')" in said.out and said.err == ""


def test_json_is_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make(tmp_path, "split")
    options = ["--chunks", "10,3,14,10", "--dtype", "u1", "--compression", "gzip", "--json"]
    assert main(["convert", source, str(tmp_path / "b.h5"), *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["shape"] == list(SHAPE) and found["dtype"] == "uint8" and found["verified"] and found["chunks"] == 7
    assert found["sha256"] == content_sha256(frames("u1")) and found["memory"]["total"] <= 256_000_000
    with h5py.File(tmp_path / "b.h5") as file:
        assert file["data"].chunks == (10, 3, 14, 10)


def test_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make(tmp_path, "npy")
    assert main(["convert", source, str(tmp_path / "b.zarr"), "--dry-run", "--chunk-samples", "16"]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path}/b.zarr would hold {SHAPE} float32 NCHW" in said and "4 chunks" in said and "by a timed sample" in said
    assert not (tmp_path / "b.zarr").exists()


def test_notes_go_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(tmp_path / "a.nc", "w") as file:
        file["t"] = np.arange(12, dtype="i2").reshape(3, 4)
        file["t"].attrs["scale_factor"] = np.float32(0.5)
    assert main(["convert", str(tmp_path / "a.nc"), str(tmp_path / "b.npy"), "--json"]) == 0
    said = capsys.readouterr()
    assert "a.nc::/t needs no conversion: its bytes lie in one piece" in said.err
    assert "holds packed values (stored * 0.5)" in said.err and "(--unpack)" in said.err
    assert json.loads(said.out)["dtype"] == "int16"
    assert main(["convert", str(tmp_path / "a.nc"), str(tmp_path / "c.npy"), "--unpack", "--no-verify"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and "changed: unpacked to float32: stored * 0.5" in said.out and "read back" not in said.out
    np.testing.assert_array_equal(read(str(tmp_path / "c.npy")), np.arange(12).reshape(3, 4) / 2)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--layout", "NHW"], 2, "does not say where C of the source's NCHW go"),
        (["--samples", "7"], 2, "--samples 7 is not a range; expected START:STOP"),
        (["--samples", "a:9"], 2, "--samples: 'a' is not a whole number"),
        (["--dtype", "i1", "--casting", "round", "--key", "none"], 2, "leave out key='none'"),
        (["--max-memory", "1kB"], 1, "would need"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, words: str
) -> None:
    source = make(tmp_path, "gzip")
    assert main(["convert", source, str(tmp_path / "b.npy"), *options]) == code
    said = capsys.readouterr()
    assert words in said.err and said.err.startswith("mmapstore: ") and said.err.count("\n") == 1
    assert not (tmp_path / "b.npy").exists()


def test_no_such_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(tmp_path / "a.h5"), str(tmp_path / "b.npy")]) == 1
    assert "a.h5 does not exist" in capsys.readouterr().err


def test_info_names_the_line_that_mends_bad_chunks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shlex

    values = np.random.default_rng(0).integers(0, 9, (3000, 3, 40, 40)).astype("f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=values, chunks=(3000, 1, 20, 20), compression="gzip", compression_opts=1)
    assert main(["info", str(tmp_path / "a.h5")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    words = shlex.split(said[said.index("mmapstore convert") :])
    assert words[2:5] == [f"{tmp_path}/a.h5::/x", f"{tmp_path}/a-chunked.h5", "--chunk-samples"]
    assert main(["convert", *words[2:6]]) == 0
    np.testing.assert_array_equal(read(f"{tmp_path}/a-chunked.h5"), values)
    with h5py.File(tmp_path / "a-chunked.h5") as file:
        assert file["data"].chunks == (int(words[5]), 3, 40, 40)
