from __future__ import annotations

import re
from dataclasses import replace

import pytest
from sample_reports import FRAMEWORK, LARGE, LIMIT, SMALL, cut_short, empty_report, epochs, full_report, row, small_report

from mmapstore.bench.comparison import Pair, compare, matched
from mmapstore.bench.contract import KILLED, Report, Smallest


def with_rates(*rates: float, first: float = 1e9):
    """A row whose epochs ran at these bytes a second."""
    return row("a", epochs=[epochs(10**9, each, 1)[0] for each in (first, *rates)])


def test_a_report_and_itself():
    text = compare(full_report(), full_report())
    assert text.startswith("CHANGES: 87 rows in both: none of them changed beyond the spread; 0 only before, 0 only now.")
    assert "Same machine, same versions." in text
    assert "THROUGHPUT AGAINST THE LIMIT: 48 ROWS AS BEFORE." in text
    assert not re.search(r"ONLY (BEFORE|NOW)\n", text)


@pytest.mark.parametrize("report", [full_report(), small_report(), empty_report()])
def test_no_line_is_wider_than_the_terminal(report):
    assert max(map(len, compare(report, report).splitlines())) <= 120


def test_speed_changes_only_beyond_the_spread_of_the_epochs():
    before = with_rates(1.0e9, 1.1e9, 1.2e9)
    assert Pair(before, with_rates(1.3e9, 1.4e9, 1.5e9)).speed == "faster"
    assert Pair(before, with_rates(0.7e9, 0.8e9, 0.9e9)).speed == "slower"
    assert Pair(before, with_rates(1.15e9, 1.4e9, 1.5e9)).speed == ""  # one of its epochs is as slow as one before
    assert Pair(before, before).speed == ""


def test_with_two_epochs_the_first_belongs_to_the_spread():
    before = with_rates(1.2e9, first=1.0e9)
    assert Pair(before, with_rates(1.3e9, first=1.1e9)).speed == ""
    assert Pair(before, with_rates(1.5e9, first=1.3e9)).speed == "faster"


def test_with_one_epoch_each_there_is_no_spread():
    pair = Pair(with_rates(first=1e9), with_rates(first=2e9))
    assert pair.speed == "?"
    assert not pair.changed
    assert "one epoch each" in compare(small_report(rows=[pair.old]), small_report(rows=[pair.new]))


def test_memory_changes_only_beyond_what_peaks_differ_by():
    assert Pair(row("a", private=5e6), row("a", private=12e6)).memory == ""
    assert Pair(row("a", private=5e6), row("a", private=14e6)).memory == "more memory"
    assert Pair(row("a", private=1e9), row("a", private=1.04e9)).memory == ""
    assert Pair(row("a", private=1e9), row("a", private=0.9e9)).memory == "less memory"
    assert Pair(row("a", private=1e9), cut_short("a", KILLED, private=1e8, seconds=1, nbytes=SMALL)).memory == ""


def test_another_outcome_is_told():
    pair = Pair(row("a"), cut_short("a", KILLED, private=1e8, seconds=1, nbytes=SMALL))
    assert pair.outcome == "finished before, now killed"
    assert Pair(row("a"), row("a", right=False)).outcome == "finished before, now finished on wrong data"
    text = compare(small_report(rows=[pair.old]), small_report(rows=[pair.new]))
    assert "1 rows in both: 1 with another outcome" in text
    assert re.search(r"^a +npy +\+6.00 MB +\+100 MB +1.94 GB/s +- +- +finished before,", text, re.MULTILINE)


def test_rows_are_the_same_by_strategy_form_task_size_and_limit():
    rows = [row("a"), row("b"), row("a", "h5"), row("a", kind="labelled"), row("a", nbytes=2 * SMALL), row("a", limit=LIMIT)]
    pairs, before, after = matched(rows, rows[::-1])
    assert [pair.new for pair in pairs] == [pair.old for pair in pairs] == rows[::-1]
    assert (before, after) == ([], [])
    pairs, before, after = matched(rows[:2], rows[1:])
    assert ([pair.new for pair in pairs], before, after) == ([rows[1]], [rows[0]], rows[2:])


def test_rows_that_only_one_has_are_named():
    old, new = small_report(), small_report()
    gone = old.rows[0]
    new.rows[0] = row("a new way", "h5", private=7e6)
    text = compare(old, new)
    assert f"WITHOUT A LIMIT, ONLY BEFORE\n  {gone.strategy}, npy, next, 600 MB: finished" in text
    assert "WITHOUT A LIMIT, ONLY NOW\n  a new way, h5, next, 600 MB: finished" in text


def test_machines_versions_and_seeds_that_differ_are_named():
    old, new = small_report(), small_report(seed=1)
    new.machine = {**old.machine, "cores": 4, "versions": {**old.machine["versions"], "keras": "3.9.0", "zarr": "3.1.0"}}
    text = compare(old, new)
    for words in (
        "cores: 2 before, now 4",
        "keras: 3.8.0 before, now 3.9.0",
        "zarr: none before, now 3.1.0",
        "seed: 0 before, now 1",
    ):
        assert f"\n  {words}\n" in text + "\n"
    assert "numpy" not in text


def test_limits_of_a_sweep_are_the_same_by_their_share_of_the_data():
    old, new = full_report(), full_report()
    for each in new.rows:
        each.baseline = FRAMEWORK + 3_000_000
    new.swept = [replace(each, limit=each.limit + 3_000_000) for each in new.swept]
    text = compare(old, new)
    assert "THROUGHPUT AGAINST THE LIMIT: 48 ROWS AS BEFORE." in text
    new.swept[3].epochs, new.swept[3].outcome = epochs(2 * SMALL, 3e9), "finished"
    assert re.search(r"^fit\(memmap\), under 783 MB +npy .*killed before,", compare(old, new), re.MULTILINE)


def test_smallest_limits_and_slopes_are_side_by_side():
    old, new = full_report(), full_report()
    new.bisected = [
        Smallest("mmapstore to_tf", "npy", "next", LARGE, 600_000_000),
        Smallest("mmapstore to_tf", "npy", "labelled", LARGE, 700_000_000),
        Smallest("a", "npy", "next", LARGE, 1_000_000_000),
    ]
    new.fits[0] = replace(new.fits[0], slope=1.0, low=0.99, high=1.01)
    text = compare(old, new)
    assert "  mmapstore to_tf, npy, next, 8.00 GB: 511 MB before, 600 MB now\n" in text
    assert "  mmapstore to_tf, npy, labelled, 8.00 GB: 700 MB now\n" in text
    assert "  a, npy, next, 8.00 GB: 1.00 GB now\n" in text
    assert "  mmapstore shuffled, npy, next, 8.00 GB: 514 MB before\n" in text
    assert "  fit(memmap), npy, next, for each byte of data: 2.00 before, 1.00 now; their intervals lie apart\n" in text
    assert "  .shuffle(n), npy, next, for each byte of data: 1.02 before, 1.02 now; their intervals overlap\n" in text
    new.fits[1] = replace(new.fits[1], kind="labelled")
    text = compare(old, new)
    assert "  .shuffle(n), npy, next, for each byte of data: 1.02 before\n" in text
    assert "  .shuffle(n), npy, labelled, for each byte of data: 1.02 now\n" in text
    assert "for each sample of a batch: +240 kB before, +240 kB now" in text


def test_empty_reports():
    assert compare(empty_report(), Report({}, 0)).startswith("CHANGES: 0 rows in both")
