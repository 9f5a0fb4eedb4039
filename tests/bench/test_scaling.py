"""Lines through memory: known slopes are found, and the interval holds as often as it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmapstore.bench.contract import FAILED, FINISHED, KILLED, Row, Task
from mmapstore.bench.scaling import BATCHES, Setting, fitted, measured_fit

TASK = Task("next", "npy", "frames.npy", 1000, (3, 10, 10), "float32")
SETTINGS = [Setting(batch, replace(TASK, batch=batch)) for batch in BATCHES]


def row(private=None, outcome=FINISHED, why=""):
    return Row("way", "npy", "next", outcome, why, private=private)


@pytest.mark.parametrize("repeats", [1, 2, 5])
def test_the_interval_covers_the_true_slope_19_times_in_20(repeats):
    random = np.random.default_rng(repeats)
    sizes = np.repeat([0.5e9, 2e9, 8e9], repeats)
    covered = 0
    for _ in range(2000):
        slope, noise = random.uniform(-0.1, 3), 10 ** random.uniform(4, 8)
        fit = fitted("way", "npy", "next", "data", [(x, round(slope * x + 3e8 + random.normal(0, noise))) for x in sizes])
        covered += fit.low <= slope <= fit.high
    assert 0.93 < covered / 2000 < 0.97


def test_slope_and_intercept_are_those_of_numpy():
    random = np.random.default_rng(0)
    x, y = random.uniform(0, 1e9, 20), random.integers(0, 10**9, 20)
    fit = fitted("way", "h5", "labelled", "batch", list(zip(x.tolist(), y.tolist(), strict=True)))
    assert (fit.slope, fit.intercept) == pytest.approx(np.polyfit(x, y, 1))
    assert (fit.strategy, fit.form, fit.kind, fit.knob, len(fit.points)) == ("way", "h5", "labelled", "batch", 20)


@pytest.mark.parametrize("points", [[], [(1, 1)], [(1, 1), (2, 2)], [(1, 1), (1, 2), (1, 3)]])
def test_no_line_where_its_slope_or_interval_is_open(points):
    assert fitted("way", "npy", "next", "data", points) is None


def test_settings_are_measured_in_turns():
    seen = []

    def run(setting):
        seen.append(setting.value)
        return row(1000 + 7 * setting.task.batch)

    fit, why = measured_fit(run, "way", "batch", SETTINGS, repeats=3)
    assert seen == list(BATCHES) * 3
    assert why == "" and fit.slope == pytest.approx(7) and fit.intercept == pytest.approx(1000)
    assert (fit.form, fit.kind) == (TASK.form, TASK.kind)


def test_what_did_not_finish_is_left_out_and_not_tried_again():
    seen = []

    def run(setting):
        seen.append(setting.value)
        return row(outcome=KILLED) if setting.value == 256 else row(setting.task.batch)

    fit, why = measured_fit(run, "way", "batch", SETTINGS)
    assert seen == [16, 64, 256, 16, 64]
    assert fit.slope == pytest.approx(1) and why == ""


def test_no_line_says_why():
    fit, why = measured_fit(lambda setting: row(outcome=FAILED, why="no such file"), "way", "batch", SETTINGS)
    assert fit is None
    assert why == "a line needs 3 measurements at 2 values, there are 0; failed: no such file"
    fit, why = measured_fit(lambda setting: row(private=None), "way", "batch", SETTINGS)
    assert fit is None and "finished" in why
