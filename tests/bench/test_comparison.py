from __future__ import annotations

import re
from dataclasses import replace

import pytest
from sample_reports import FRAMEWORK, LARGE, LIMIT, SMALL, cut_short, empty_report, epochs, full_report, row, small_report

from mmapstore.bench.comparison import compare, figures
from mmapstore.bench.contract import KILLED, Report, Smallest


def with_rates(*rates: float, first: float = 1e9):
    """A row whose epochs ran at these bytes a second."""
    return row("a", epochs=[epochs(10**9, each, 1)[0] for each in (first, *rates)])


def change(old, new, name="throughput"):
    """Of a figure from one row to another."""
    before, now = (figures(small_report(rows=[each])) for each in (old, new))
    (key,) = (key for key in now if key[5] == name)
    return now[key].change(before[key])


def test_a_report_and_itself():
    text = compare(full_report(), full_report())
    assert text.startswith("CHANGES: 109 figures in both: none of them changed.")
    assert "Same machine, same versions." in text
    assert "THROUGHPUT AGAINST THE LIMIT: 33 FIGURES AS BEFORE." in text
    assert not re.search(r"only (before|now)$|higher$|lower$", text, re.MULTILINE)


@pytest.mark.parametrize("report", [full_report(), small_report(), empty_report()])
def test_no_line_is_wider_than_the_terminal(report):
    assert max(map(len, compare(report, report).splitlines())) <= 120


def test_speed_changes_only_beyond_the_spread_of_the_epochs():
    before = with_rates(1.0e9, 1.1e9, 1.2e9)
    assert change(before, with_rates(1.3e9, 1.4e9, 1.5e9)) == "higher"
    assert change(before, with_rates(0.7e9, 0.8e9, 0.9e9)) == "lower"
    assert change(before, with_rates(1.15e9, 1.4e9, 1.5e9)) == ""  # one of its epochs is as slow as one before
    assert change(before, before) == ""


def test_with_two_epochs_the_first_belongs_to_the_spread_and_with_one_there_is_none():
    before = with_rates(1.2e9, first=1.0e9)
    assert change(before, with_rates(1.3e9, first=1.1e9)) == ""
    assert change(before, with_rates(1.5e9, first=1.3e9)) == "higher"
    assert change(with_rates(first=1e9), with_rates(first=2e9)) == "one epoch each"


@pytest.mark.parametrize(
    ("before", "now", "expected"), [(5e6, 12e6, ""), (5e6, 14e6, "higher"), (1e9, 1.04e9, ""), (1e9, 0.9e9, "lower")]
)
def test_memory_changes_only_beyond_what_peaks_differ_by(before, now, expected):
    assert change(row("a", private=before), row("a", private=now), "private") == expected


def test_another_outcome_is_told_and_has_no_figures():
    old, new = row("a"), cut_short("a", KILLED, private=1e8, seconds=1, nbytes=SMALL)
    text = compare(small_report(rows=[old]), small_report(rows=[new, row("b", right=False)]))
    assert text.startswith("CHANGES: 0 figures in both: 1 with another outcome.")
    assert "OTHER OUTCOMES\n  without a limit, a, npy, next, 600 MB: finished before, now killed\n" in text
    assert re.search(r"^a +npy +throughput +1.94 GB/s +- +- +only before$", text, re.MULTILINE)
    text = compare(small_report(rows=[old]), small_report(rows=[row("a", right=False)]))
    assert "finished before, now finished on wrong data" in text


def test_rows_are_the_same_by_strategy_form_task_size_and_limit():
    rows = [row("a"), row("b"), row("a", "h5"), row("a", kind="labelled"), row("a", nbytes=2 * SMALL)]
    report = small_report(rows=rows, limited=[row("a", limit=LIMIT), row("a", limit=2 * LIMIT)])
    assert len(figures(report)) == 2 * 7
    other = small_report(rows=rows[1:], limited=report.limited)
    text = compare(report, other)
    assert text.startswith("CHANGES: 12 figures in both") and text.count("only before") == 2 and "only now" not in text


def test_machines_versions_and_seeds_that_differ_are_named():
    old, new = small_report(), small_report(seed=1)
    new.machine = {**old.machine, "cores": 4, "versions": {**old.machine["versions"], "keras": "3.9.0", "zarr": "3.1.0"}}
    text = compare(old, new)
    for name, was, now in (("cores", 2, 4), ("keras", "3.8.0", "3.9.0"), ("zarr", "none", "3.1.0"), ("seed", 0, 1)):
        assert f"\n  {name}: {was} before, now {now}\n" in text + "\n"
    assert "numpy" not in text


def test_limits_of_a_sweep_are_the_same_by_their_share_of_the_data():
    old, new = full_report(), full_report()
    for each in new.rows:
        each.baseline = FRAMEWORK + 3_000_000
    new.swept = [replace(each, limit=each.limit + 3_000_000) for each in new.swept]
    assert "THROUGHPUT AGAINST THE LIMIT: 33 FIGURES AS BEFORE." in compare(old, new)
    new.swept[3].epochs, new.swept[3].outcome = epochs(2 * SMALL, 3e9), "finished"
    assert re.search(r"at 50%, fit\(memmap\), npy, next, 600 MB: killed before, now finished", compare(old, new))


def test_smallest_limits_and_slopes_are_side_by_side():
    old, new = full_report(), full_report()
    new.bisected = [
        Smallest("mmapstore to_tf", "npy", "next", LARGE, 600_000_000),
        Smallest("mmapstore to_tf", "npy", "labelled", LARGE, 700_000_000),
    ]
    new.fits[0] = replace(new.fits[0], slope=1.0, low=0.99, high=1.01)
    text = compare(old, new)
    for line in (
        r"mmapstore to_tf +npy +limit +511 MB +600 MB +1.17 +higher",
        r"mmapstore shuffled +npy +limit +514 MB +- +- +only before",
        r"fit\(memmap\) +npy +per byte of data +2.00 +1.00 +0.50 +lower",
        r".shuffle\(n\) +npy +per byte of data +1.02 +1.02 +1.00 +within the range",
    ):
        assert re.search(f"^{line}$", text, re.MULTILINE), line
    assert re.search(r"LABELLED, 8.00 GB\n.*\n.*\n.*\nmmapstore to_tf +npy +limit +- +700 MB", text)


def test_empty_reports():
    assert compare(empty_report(), Report({}, 0)).startswith("CHANGES: 0 figures in both")
