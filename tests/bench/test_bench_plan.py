"""What is told before a run: which ways, how long, what would not fit, and how much disk."""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import pytest

from mmapstore.bench import command, strategies
from mmapstore.bench import workload as planning
from mmapstore.bench.contract import NOT_RUN, Task, delivered
from mmapstore.bench.workload import FRAMEWORK, START_SECONDS, chosen_strategies, seconds_of, to_write, workload
from mmapstore.plain.errors import InvalidValueError

GB = 10**9
TASK = Task("next", "npy", "a.npy", 10**5 + 1, (2500,), "float32")  # 1 GB


def options(*words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def ways(work):
    return [(one.strategy, one.task.form) for one in work.rows]


# --- rows ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def planned(monkeypatch):
    def planned(predicted, available, missing="", **more):
        told = replace(strategies.load("fit_memmap"), private=lambda task: predicted)
        monkeypatch.setattr(strategies, "load", lambda name: told)
        monkeypatch.setattr(strategies, "missing", lambda *_: missing)
        return planning.plan_row("fit_memmap", TASK, available, **more)

    return planned


@pytest.mark.parametrize(("predicted", "runs"), [(None, True), (0, True), (3 * GB, True), (3 * GB + 1, False)])
def test_what_is_predicted_and_the_framework_must_fit(planned, predicted, runs):
    assert planned(predicted, 3 * GB + FRAMEWORK).runs is runs
    assert planned(predicted, 3 * GB + FRAMEWORK, run_all=True).runs


def test_what_would_not_fit_is_a_row_with_the_numbers(planned):
    row = planned(5 * GB, 4 * GB).row
    assert (row.outcome, row.predicted, row.data_nbytes, row.private) == (NOT_RUN, 5 * GB, TASK.nbytes, None)
    assert row.why == "would not fit: predicted 5.00 GB and 400 MB of the framework, available 4.00 GB"


def test_what_is_missing_is_not_predicted(planned):
    one = planned(5 * GB, 4 * GB, missing="needs zarr: pip install zarr")
    assert (one.runs, one.row.predicted, one.row.why) == (False, None, "needs zarr: pip install zarr")


def test_seconds_grow_with_epochs_and_bytes():
    assert seconds_of(TASK, 0) == START_SECONDS
    more = seconds_of(TASK, 4) - seconds_of(TASK, 2)
    assert more == pytest.approx(2 * delivered(TASK.kind, TASK.nbytes, TASK.pairs) / 0.4e9)


def test_disk_is_for_what_is_not_there_and_for_the_npy_that_is_converted(tmp_path):
    tasks = [
        Task("next", form, f"{tmp_path}/{name}::/data", 10**6, (250,), "float32")
        for form, name in [("h5", "h5.h5"), ("zarr", "zarr.zarr")]
    ]
    assert to_write(tasks)[0] == 3 * GB
    (tmp_path / "zarr.zarr").mkdir()
    nbytes, seconds = to_write(tasks)
    assert nbytes == 2 * GB and seconds > 1
    for name in ("h5.h5", "data.npy"):
        (tmp_path / name).touch()
    assert to_write(tasks) == (0, 0)


# --- what the words of a command line mean ------------------------------------------------------------------------------


def test_the_default_is_next_frame_in_every_form_in_under_ten_minutes():
    given = options()
    work = workload(given, 10**12)
    assert {one.task.kind for one in work.rows} == {"next"}
    assert {one.task.form for one in work.rows} == {"npy", "h5", "h5-gzip", "zarr", "zarr-zstd"}
    disk, write_seconds = to_write(work.to_make)
    assert work.seconds(given.epochs) + write_seconds < 600
    assert disk < 2 * GB
    expected = [(name, task.form) for task in work.tasks for name in strategies.serving(task)]
    assert ways(work) == expected
    assert not work.limited


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("fit_memmap", ["fit_memmap"]),
        ("fit(memmap)", ["fit_memmap"]),
        ("array in RAM, fit(x, y)", ["array_in_ram"]),
        ("FIT_MEMMAP, array_in_ram", ["array_in_ram", "fit_memmap"]),
        ("from_generator*", ["from_generator_args", "from_generator", "batched_generator"]),
    ],
)
def test_strategies_by_either_name(only, expected):
    assert chosen_strategies(only) == expected


def test_a_strategy_of_ones_own(tmp_path):
    own = tmp_path / "mine.py"
    own.write_text('NAME, KINDS, STORED, REQUIRES = "mine", ("next",), ("npy",), ()\n\ndef private(task):\n    return 5\n')
    work = workload(options("--only", f"{own},fit_memmap", "--size", "3MB"), 10**12)
    assert ways(work) == [("fit_memmap", "npy"), (str(own), "npy")]
    assert work.rows[1].row.predicted == 5
    assert work.rows[1].row.strategy == "mine"


def test_a_name_that_matches_no_strategy():
    with pytest.raises(InvalidValueError, match=r"there is no strategy 'fit_memap'\. `mmapstore bench --list` has all"):
        chosen_strategies("fit_memmap, fit_memap")


def test_kinds_and_forms():
    work = workload(options("--task", "images, next", "--form", "folder,zarr,npy", "--only", "mmapstore*", "--size", "6MB"), 10**12)
    assert [(task.kind, task.form) for task in work.tasks] == [("next", "npy"), ("next", "zarr"), ("images", "folder")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", 0], "--epochs 0 is not valid; expected 1 or more"),
        (["--batch", 0], "--batch 0 is not valid"),
        (["--seed", -1], "--seed -1 is not valid; expected 0 or more"),
        (["--task", "nxt"], "--task nxt is not known; expected next, labelled, images, or several"),
        (["--form", "zaar"], "--form zaar is not known; expected npy, "),
        (["--size", "much"], "--size='much' is not a size"),
        (["--size", "1MB"], "33 samples of 30.0 kB; expected enough for two batches"),
        (["--limit", "2TB"], "--limit 2TB limits nothing here: 1.00 TB of memory are available"),
        (["--labels", "y.npy"], "--labels y.npy without the data they belong to"),
        (["--only", "zarr_sequence", "--form", "npy"], "None of zarr_sequence is for next from npy"),
        (["--task", "images", "--form", "npy"], "images"),
        (["x.npy", "--size", "1GB"], "--size is for generated data, and x.npy is read as it is"),
        (["x.npy", "--task", "next"], "--task is for generated data"),
    ],
)
def test_what_cannot_be_meant(words, message):
    with pytest.raises(InvalidValueError, match=message.replace("(", r"\(")):
        workload(options(*words), 10**12)


def test_the_users_own_data(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((100, 3, 4), np.float32))
    np.save(tmp_path / "y.npy", np.zeros(100, np.int64))
    work = workload(options(tmp_path / "x.npy", "--batch", 8, "--seed", 3), 10**12)
    (task,) = work.tasks
    assert (task.kind, task.form, task.samples, task.batch, task.seed) == ("next", "npy", 100, 8, 3)
    assert work.to_make == []
    assert ways(work) == [(name, "npy") for name in strategies.serving(task)]
    (task,) = workload(options(tmp_path / "x.npy", "--labels", tmp_path / "y.npy"), 10**12).tasks
    assert (task.kind, task.labels) == ("labelled", str(tmp_path / "y.npy"))


# --- further questions --------------------------------------------------------------------------------------------------


def test_a_limit_brings_data_of_twice_its_size_and_a_way_that_holds_it():
    work = workload(options("--only", "mmapstore_keras", "--form", "npy,h5", "--limit", "400MB"), 10**12)
    assert ways(work) == [("mmapstore_keras", "npy"), ("mmapstore_keras", "h5")]
    assert {task.nbytes for task in work.tasks} == {400 * 10**6 * 2 // 30_000 * 30_000}
    *asked, control = work.limited
    assert [one.strategy for one in asked] == ["mmapstore_keras"] * 2
    assert control.row.predicted >= 800 * 10**6 * 0.9
    assert workload(options("--only", "fit_memmap", "--limit", "400MB"), 10**12).limited[-1].strategy == "fit_memmap"


def test_ways_that_are_too_large_run_under_a_limit():
    work = workload(options("--only", "array_in_ram", "--limit", "400MB", "--size", "2GB"), 10**9)
    assert not work.rows[0].runs
    assert [one.strategy for one in work.limited] == ["array_in_ram"]


def test_several_sizes():
    work = workload(options("--only", "fit_memmap", "--form", "npy", "--size", "6MB, 3MB"), 10**12)
    assert [one.task.samples for one in work.rows] == [200, 100]
    assert [task.nbytes for task in work.to_make] == [6_000_000, 3_000_000]


def test_the_plan_in_words():
    given = options("--only", "fit_memmap,mmapstore_keras", "--form", "npy", "--size", "3GB", "--limit", "1GB")
    work = workload(given, 4 * GB)
    text = work.to_text(given.epochs, "made somewhere", 125)
    assert "next      x is a frame, y the frame after it" in text
    assert "3.00 GB: 100,000 samples of float32 (3, 50, 50), batches of 32; stored as npy" in text
    assert "runs      1 row of 2 epochs, each in a process of its own" in text
    assert "2 more under a limit of 1.00 GB" in text
    assert "time      about 2.08 min, estimated for 2 cores" in text
    assert "not run   fit(memmap) (npy, next) would not fit: predicted " in text
    assert all(len(line) <= 120 for line in text.splitlines())
