"""One strategy in its own process: what the row says of what it took, delivered, and how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmapstore.bench import running
from mmapstore.bench.contract import FAILED, FINISHED, GIVEN_UP, KILLED, NOT_RUN, Row, Task
from mmapstore.bench.instruments import limits
from mmapstore.bench.running import judge

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured through /proc")
MB = 1_000_000
STRATEGY = '''
"""Made for a test."""
import os, time
import numpy as np
NAME = "of a test"
KINDS = ("next", "labelled")
STORED = ("",)
REQUIRES = {requires}


def private(task):
    return 300_000_000


def fit_arguments(task):
    a = np.load(task.path, mmap_mode="r")
    x, y = (a[:-1], a[1:]) if task.labels is None else (a, np.load(task.labels))
{body}
'''
ARRAYS = '    return {"x": x, "y": y, "batch_size": task.batch}'
HOLDING = """
    held = np.ones(300_000_000, np.uint8)

    def batches():
        while True:
            for start in range(0, len(x), task.batch):
                assert held[start] == 1
                yield x[start : start + task.batch], y[start : start + task.batch]

    return {"x": batches(), "steps_per_epoch": -(-len(x) // task.batch)}
"""
UNKNOWN_CARDINALITY = """
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((x, y)).filter(lambda *pair: True).batch(task.batch)
    return {"x": data}
"""
ONE_PASS = """
    return {"x": ((x[at : at + task.batch], y[at : at + task.batch]) for at in range(0, len(x), task.batch))}
"""
SLEEPING = """
    open(os.environ["TEST_PID_FILE"], "w").write(str(os.getpid()))
    time.sleep(100)
"""


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "frames.npy"
    np.save(path, np.random.default_rng(0).random((150, 3, 10, 10), np.float32))
    return Task("next", "npy", str(path), 150, (3, 10, 10), "float32")


@pytest.fixture
def strategy(tmp_path):
    def write(body: str, requires: tuple[str, ...] = ()) -> str:
        path = tmp_path / "made.py"
        path.write_text(STRATEGY.format(body=body, requires=requires))
        return str(path)

    return write


needs_tensorflow = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
)


@needs_tensorflow
@pytest.mark.slow
def test_a_row_says_what_was_held_and_delivered(task, strategy):
    row = running.run(strategy(HOLDING), task, epochs=2)
    assert (row.outcome, row.why) == (FINISHED, "")
    assert (row.strategy, row.form, row.kind) == ("made", "npy", "next")
    assert row.private == pytest.approx(300 * MB, abs=12 * MB)
    assert row.predicted == 300 * MB
    assert row.baseline > 50 * MB
    assert [(epoch.samples, epoch.nbytes, epoch.right) for epoch in row.epochs] == [(149, 2 * 149 * 1200, True)] * 2
    assert 0 < row.first_batch < row.epochs[0].seconds
    assert row.resident > row.private and row.file_backed > 0
    assert 10 < len(row.looks) <= 150
    assert max(look.private for look in row.looks if look.seconds >= 0) == row.private + row.baseline
    assert min(look.seconds for look in row.looks) < 0
    assert row.data_nbytes == task.nbytes


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["next", "labelled"])
@pytest.mark.parametrize(("body", "epochs"), [(ARRAYS, 2), (UNKNOWN_CARDINALITY, 2), (ONE_PASS, 1)])
def test_every_form_of_input_is_summed_alike(task, strategy, tmp_path, kind, body, epochs):
    if kind == "labelled":
        np.save(tmp_path / "bytes.npy", np.random.default_rng(1).integers(0, 256, (150, 3, 10, 10), np.uint8))
        np.save(tmp_path / "labels.npy", np.arange(150) % 7)
        task = replace(task, kind=kind, path=str(tmp_path / "bytes.npy"), dtype="uint8", labels=str(tmp_path / "labels.npy"))
    row = running.run(strategy(body), task, epochs=epochs, cold=False)
    assert (row.outcome, row.why) == (FINISHED, "")
    assert [(epoch.samples, epoch.right) for epoch in row.epochs] == [(task.pairs, True)] * epochs


@needs_tensorflow
@pytest.mark.slow
def test_pairs_that_do_not_belong_together_are_seen(task, strategy):
    row = running.run(strategy(ARRAYS.replace('"y": y', '"y": y[::-1]')), task, epochs=1)
    assert row.outcome == FINISHED
    assert [epoch.right for epoch in row.epochs] == [False]
    assert "did not get every x with its y" in row.why


@needs_tensorflow
@pytest.mark.slow
def test_a_strategy_that_fails_says_why(task, strategy):
    row = running.run(strategy('    raise ValueError("frame 7 is missing")'), task)
    assert (row.outcome, row.why, row.epochs) == (FAILED, "ValueError: frame 7 is missing", [])
    row = running.run(strategy("    os.abort()"), task)
    assert row.outcome == FAILED and row.why.startswith("ended by SIGABRT")


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("by", [limits.CONTROL_GROUP, limits.DATA_LIMIT])
def test_over_the_limit_is_killed_and_under_it_is_not(task, strategy, by, monkeypatch):
    if by == limits.DATA_LIMIT:
        monkeypatch.setattr(limits, "_parent", lambda: None)
    elif limits.can_limit() != by:
        pytest.skip("no control group may be made here")
    greedy = HOLDING.replace("300_000_000", "9_000_000_000" if by == limits.DATA_LIMIT else "2_000_000_000")
    limit = 6000 * MB if by == limits.DATA_LIMIT else 1500 * MB
    row = running.run(strategy(greedy), task, limit=limit, epochs=1)
    assert (row.outcome, row.limited_by, row.limit) == (KILLED, by, limit)
    assert row.why.startswith(f"by the limit of {limit / 1e9:.2f} GB, in the first epoch")
    row = running.run(strategy(HOLDING), task, limit=limit, epochs=1)
    assert (row.outcome, row.why) == (FINISHED, "")


def test_what_cannot_run_is_not_run(task, strategy, monkeypatch):
    row = running.run(strategy(ARRAYS, requires=("no_such_package",)), task)
    assert (row.outcome, row.why) == (NOT_RUN, "needs no_such_package")
    monkeypatch.setattr(running, "can_limit", lambda: None)
    row = running.run(strategy(ARRAYS), task, limit=MB)
    assert row.outcome == NOT_RUN and row.why.startswith("memory cannot be limited on")


def test_data_that_stay_in_the_page_cache_are_not_measured_cold(task, strategy):
    held = np.memmap(task.path, mode="r")
    int(held.sum())  # mapped pages stay
    row = running.run(strategy(ARRAYS), task, cold=True)
    assert row.outcome == NOT_RUN
    assert "still in the page cache after dropping" in row.why


def test_the_last_words_of_a_process_are_its_own():
    note = "I0000 00:00:1795293174.625747   30500 port.cc:153] oneDNN custom operations are on."
    assert running._last_line(f"it hurts\n{note}\n\n", -11) == "ended by SIGSEGV: it hurts"
    assert running._last_line(note, 3) == "ended with exit status 3, and said nothing"


def test_one_that_takes_too_long_is_given_up_and_gone(task, strategy):
    row = running.run(strategy(SLEEPING), task, timeout=1)
    assert (row.outcome, row.why) == (GIVEN_UP, "not finished after 1 s, before the framework had started")
    assert row.private is None and row.epochs == []


def test_what_is_prepared_is_made_before(task, strategy):
    path = strategy(ARRAYS)
    text = Path(path).read_text()
    Path(path).write_text(text + "\ndef prepare(task):\n    raise OSError('no room')\n")
    row = running.run(path, task)
    assert (row.outcome, row.why) == (NOT_RUN, "its preparation failed: OSError: no room")


@needs_tensorflow
@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_no_group(task, strategy, tmp_path):
    marker = tmp_path / "pid"
    program = (
        # Set for certain: what a shell starts in the background is deaf to Ctrl-C, and so are the tests it runs.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from mmapstore.bench import running; from mmapstore.bench.contract import Task; "
        f"running.run({strategy(SLEEPING)!r}, {task!r})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "TEST_PID_FILE": str(marker)}, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while not (marker.exists() and marker.read_text()):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    child = int(marker.read_text())
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in words
    assert not Path("/proc", str(child)).exists()
    for parent in limits.parents():
        assert not list(parent.glob(f"mmapstore-bench-{process.pid}-*"))


def limited_row(outcome, **more):
    return Row("way", "npy", "next", outcome, **{"data_nbytes": 1000 * MB, **more})


def test_rows_count_where_one_that_holds_the_data_was_killed():
    rows = [limited_row(KILLED, predicted=3000 * MB), limited_row(FINISHED, predicted=16 * MB)]
    judge(rows)
    assert [each.why for each in rows] == ["", ""]


@pytest.mark.parametrize(
    ("control", "said"),
    [
        ([limited_row(FINISHED, predicted=3000 * MB)], "way: finished"),
        ([limited_row(FAILED, predicted=3000 * MB, why="no tensorflow")], "way: failed (no tensorflow)"),
        ([limited_row(KILLED, predicted=16 * MB)], "none was run"),
        ([limited_row(KILLED, predicted=None)], "none was run"),
        ([], "none was run"),
    ],
)
def test_rows_do_not_count_where_none_was(control, said):
    judged, killed = limited_row(FINISHED, predicted=16 * MB, why="slowly"), limited_row(KILLED, predicted=17 * MB)
    judge([*control, judged, killed])
    assert judged.why == f"slowly; does not count: no strategy that holds the data was killed under this limit ({said})"
    assert killed.why == ""
