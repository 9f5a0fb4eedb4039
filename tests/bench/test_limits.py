"""Limits, with processes that are functions: the threshold is found, in few runs, also where it is not sharp."""

from __future__ import annotations

import random

import pytest

from mmapstore.bench.contract import FAILED, FINISHED, GIVEN_UP, KILLED, NOT_RUN, Epoch, Row
from mmapstore.bench.limits import SHARES, TOLERANCE, judge, smallest_limit, sweep

MB = 10**6
MOST = 20_000 * MB


def row(outcome=FINISHED, **more):
    return Row("way", "npy", "next", outcome, **{"data_nbytes": 1000 * MB, **more})


class Process:
    """Finishes under `threshold` bytes and more; within `width` of it by chance."""

    def __init__(self, threshold, width=0.0, seed=0):
        self.threshold, self.width, self.limits = threshold, width, []
        self.random = random.Random(seed)

    def __call__(self, limit):
        self.limits.append(limit)
        off = limit / self.threshold - 1
        enough = off >= 0 if abs(off) >= self.width else self.random.random() < (off / self.width + 1) / 2
        return row(FINISHED if enough else KILLED)


@pytest.mark.parametrize("threshold", [17 * MB, 300 * MB, 612_345_678, 5_000 * MB, 19_999 * MB])
@pytest.mark.parametrize("guess", [1, 100 * MB, 700 * MB, 19_000 * MB, 10**15])
def test_the_threshold_is_found_from_any_guess(threshold, guess):
    process = Process(threshold)
    found = smallest_limit(process, guess, most=MOST)
    assert threshold <= found <= threshold * (1 + TOLERANCE) + 1
    assert len(process.limits) <= 16
    assert process.limits.count(found) == 2, "what is answered has finished twice"
    assert max(process.limits) <= MOST


@pytest.mark.parametrize("off", [0.8, 0.9, 1.0, 1.1, 1.25])
def test_a_good_guess_takes_few_runs(off):
    process = Process(900 * MB)
    smallest_limit(process, int(900 * MB * off), most=MOST)
    assert len(process.limits) <= 8


@pytest.mark.parametrize("tolerance", [0.3, 0.1, 0.01])
def test_tolerance(tolerance):
    found = smallest_limit(Process(700 * MB), 500 * MB, most=MOST, tolerance=tolerance)
    assert 700 * MB <= found <= 700 * MB * (1 + tolerance) + 1


@pytest.mark.parametrize("seed", range(200))
def test_noise_near_the_threshold(seed):
    """The answer is not in what never finishes, and not above all that is in doubt by more than the tolerance."""
    process = Process(900 * MB, width=0.08, seed=seed)
    found = smallest_limit(process, 800 * MB, most=MOST)
    assert 0.92 * 900 * MB < found <= 1.08 * 900 * MB * (1 + TOLERANCE) + 1
    assert len(process.limits) <= 24


def test_what_never_finishes_has_no_limit():
    for outcome in (KILLED, FAILED, GIVEN_UP):
        limits = []

        def run(limit, outcome=outcome, limits=limits):
            limits.append(limit)
            return row(outcome)

        assert smallest_limit(run, 700 * MB, most=MOST) is None
        assert limits[-1] == MOST and len(limits) <= 7


def test_what_finishes_once_and_never_again_has_no_limit():
    outcomes = iter([FINISHED])
    assert smallest_limit(lambda limit: row(next(outcomes, KILLED)), 700 * MB, most=2000 * MB) is None


def test_what_always_finishes_ends_at_the_least():
    limits = []

    def run(limit):
        limits.append(limit)
        return row()

    assert smallest_limit(run, 700 * MB, most=MOST, least=100 * MB) == 100 * MB
    assert len(limits) <= 6


def test_small_numbers_end():
    assert smallest_limit(Process(2), 1, most=10, least=1, tolerance=0.01) == 2


# --- which rows count ---------------------------------------------------------------------------------------------------


def test_rows_count_where_one_that_holds_the_data_was_killed():
    rows = [row(KILLED, predicted=3000 * MB), row(FINISHED, predicted=16 * MB)]
    judge(rows)
    assert [each.why for each in rows] == ["", ""]


@pytest.mark.parametrize(
    ("control", "said"),
    [
        ([row(FINISHED, predicted=3000 * MB)], "killed under this limit (way: finished)"),
        ([row(FAILED, predicted=3000 * MB, why="no tensorflow")], "killed under this limit (way: failed (no tensorflow))"),
        ([row(GIVEN_UP, predicted=3000 * MB)], "killed under this limit (way: given up)"),
        ([row(KILLED, predicted=16 * MB)], "killed under this limit (none was run)"),
        ([row(KILLED, predicted=None)], "killed under this limit (none was run)"),
        ([], "killed under this limit (none was run)"),
    ],
)
def test_rows_do_not_count_where_none_was(control, said):
    judged = row(FINISHED, predicted=16 * MB, why="slowly")
    killed = row(KILLED, predicted=17 * MB)
    judge([*control, judged, killed])
    assert judged.why == f"slowly; does not count: no strategy that holds the data was {said}"
    assert killed.why == ""


# --- throughput against the limit ---------------------------------------------------------------------------------------


def test_sweep_goes_down_and_stops_where_it_ends():
    limits = []

    def run(limit):
        limits.append(limit)
        return row(FINISHED if limit >= 900 * MB else KILLED, limit=limit, epochs=[Epoch(1.0, 10, 100, True)])

    rows = list(sweep(run, row(NOT_RUN, predicted=7), framework=500 * MB, most=MOST))
    assert limits == [2500 * MB, 2000 * MB, 1500 * MB, 1200 * MB, 1000 * MB, 800 * MB]
    assert [each.outcome for each in rows] == [FINISHED] * 5 + [KILLED] + [NOT_RUN] * 2
    assert [each.limit for each in rows] == [500 * MB + int(share * 1000 * MB) for share in SHARES]
    assert {each.why for each in rows[6:]} == {"killed under 800 MB already"}
    assert (rows[-1].strategy, rows[-1].data_nbytes, rows[-1].predicted) == ("way", 1000 * MB, 7)


def test_sweep_of_what_leans_on_nothing_runs_all():
    assert [each.outcome for each in sweep(lambda limit: row(limit=limit), row(), 0, MOST)] == [FINISHED] * len(SHARES)


def test_sweep_leaves_out_what_is_more_than_the_machine_has():
    limits = [each.limit for each in sweep(lambda limit: row(limit=limit), row(), 100 * MB, 800 * MB)]
    assert limits == [800 * MB, 600 * MB, 400 * MB, 300 * MB, 200 * MB]
