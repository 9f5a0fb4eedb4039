from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from sample_reports import LIMIT, cut_short, empty_report, full_report, not_run, row, small_report

from benchmarks import tables
from mmapstore.bench import derived, table
from mmapstore.bench.contract import FINISHED, GIVEN_UP, KILLED, NOT_RUN, Epoch, Report
from mmapstore.plain.errors import DamagedFileError, InvalidValueError, NotFoundError

README = Path(__file__).parents[2] / "README.md"


def line_of(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


# --- figures ------------------------------------------------------------------------------------------------------------


def test_speeds_are_of_stored_bytes_whatever_a_way_makes_of_them():
    as_bytes, as_floats = (row(name, kind="images", nbytes=600_000_000) for name in "ab")
    as_bytes.epochs = [Epoch(2.0, 6_000, 600_000_000, True)]
    as_floats.epochs = [Epoch(2.0, 6_000, 2_400_000_000, True)]
    assert derived.rate(as_bytes) == derived.rate(as_floats) == (600_000_000 + 8 * 6_000) / 2  # a class takes 8


def test_the_first_epoch_counts_only_where_it_is_alone():
    three = row("a")
    three.epochs = [Epoch(10.0, 1, 100, True), Epoch(2.0, 1, 100, True), Epoch(4.0, 1, 100, True)]
    of_a_pair = 2 * three.data_nbytes / 2  # two samples, of each of which a pair has one
    assert derived.rate(three) == (of_a_pair / 2 + of_a_pair / 4) / 2
    assert derived.epoch_seconds(three) == 3.0
    assert derived.rate(replace(three, epochs=three.epochs[:1])) == of_a_pair / 10
    assert derived.rate(replace(three, epochs=[])) is None


def test_wrong_data_has_no_speed_and_says_so():
    wrong = row("a", right=False)
    assert not derived.finished(wrong)
    assert derived.rate(wrong) is derived.epoch_seconds(wrong) is derived.amplification(wrong) is None
    assert derived.outcome(wrong).startswith("WRONG DATA")


def test_what_was_cut_short_is_not_put_in_proportion_to_the_data():
    assert derived.amplification(cut_short("a", KILLED, private=4e8, seconds=1)) is None
    assert derived.amplification(row("a", private=6e8)) == 1.0


def test_a_limit_counts_only_if_what_holds_the_data_was_killed():
    rows = full_report().limited
    assert derived.proof(rows).strategy == "array in RAM, fit(x, y)"
    small = [replace(each, predicted=each.data_nbytes // 2) for each in rows]
    assert derived.proof(small) is None
    assert derived.proof([replace(each, outcome=FINISHED) for each in rows]) is None


def test_rows_stand_by_memory_and_what_was_not_run_last():
    rows = [
        not_run("d", "", predicted=1),
        cut_short("c", KILLED, private=1, seconds=1),
        row("b", private=9e6),
        row("a", private=1e6),
    ]
    assert [each.strategy for each in derived.by_memory(rows)] == ["a", "b", "c", "d"]


# --- the answer ---------------------------------------------------------------------------------------------------------


def test_the_answer_is_made_of_the_rows():
    memory, limit, speed = derived.answer(full_report())
    assert "600 MB" in memory
    assert (
        "mmapstore's strategies took +5.00 MB (mmapstore to_keras on npy) to +21.0 MB (mmapstore shuffled on zarr-zstd)" in memory
    )
    assert "to +1.82 GB (array in RAM, fit(x, y))" in memory
    assert "hard limit of 1.00 GB (control group)" in limit
    assert "was killed with array in RAM, fit(x, y); fit(memmap); from_generator(args=[memmap])" in limit
    assert "proves nothing" not in limit
    assert speed == (
        'The fastest (task "next"), in bytes of x and y: of mmapstore\'s strategies mmapstore to_tf on npy with 2.62 GB/s, of '
        "the other strategies hand-written Sequence with 2.52 GB/s."
    )


def test_the_answer_counts_nothing_wrong_and_nothing_unfinished():
    report = small_report()
    report.rows.append(row("too good", private=1.0, rate=9e9, right=False))
    report.rows.append(cut_short("too early", GIVEN_UP, private=1.0, seconds=1, nbytes=600_000_000))
    assert derived.answer(report) == derived.answer(small_report())


def test_the_answer_says_that_a_limit_under_which_nothing_was_killed_proves_nothing():
    report = small_report(limited=[row("mmapstore to_tf", limit=LIMIT, limited_by="RLIMIT_DATA")])
    assert derived.answer(report)[1].endswith("was killed under it, so it proves nothing.")


def test_of_two_kinds_in_one_size_the_answer_is_about_the_first():
    report = small_report()
    report.rows += [replace(each, kind="labelled", data_nbytes=each.data_nbytes + 7_584) for each in report.rows]
    memory, _, speed = derived.answer(report)
    assert '(task "next")' in memory and '(task "next")' in speed


def test_the_answer_of_an_empty_report():
    assert derived.answer(empty_report()) == [
        "No private memory was measured without a limit.",
        "Nothing was run under a hard limit of memory.",
        "No throughput was measured without a limit.",
    ]


# --- on the terminal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", [full_report(), small_report(), empty_report()])
def test_no_line_is_wider_than_the_terminal(report):
    assert max(map(len, table.table(report).splitlines())) <= 120


def test_all_rows_are_there_and_ours_among_them_in_the_order_of_memory():
    report = full_report()
    assert len(report.rows) >= 30
    text = table.table(report).split("WHAT EACH STRATEGY COSTS")[1].split("UNDER A HARD LIMIT")[0]
    body = text.split("-----\n", 1)[1].splitlines()
    starts = [re.compile(rf"{re.escape(each.strategy)} +{each.form} ") for each in derived.by_memory(report.rows)]
    places = [next(n for n, line in enumerate(body) if start.match(line)) for start in starts]
    assert places == sorted(places)
    careful, ours = (
        next(line for line in body if line.startswith(name)) for name in ("hand-written Sequence ", "mmapstore to_tf ")
    )
    assert body.index(careful) < body.index(ours)  # it needs less, so it stands above


def test_a_row_has_its_figures():
    line = line_of(table.table(full_report()), "fit(memmap) ")
    assert " ".join(line.split()) == "fit(memmap) npy +1.35 GB +1.23 GB 2.04 720 MB 2.43 GB/s 494 ms 21 ms"


def test_rows_that_did_not_finish_say_why_and_are_not_compared():
    text = table.table(full_report())
    assert re.search(r"a way that breaks +npy +\+1.20 GB +>70.0 MB +failed: ValueError: Data is expected", text)
    assert re.search(r"fit\(list of arrays\) +npy +\+24.0 GB +- +not run: would not fit: 24.0 GB predicted", text)
    assert re.search(r"a way that pairs wrongly +npy .*WRONG DATA", text)
    assert re.search(r"hand-written Sequence, shuffled +npy +>22.0 MB +given up: 120 s", text)


def test_a_remark_on_a_row_that_finished_stands_below_it():
    report = small_report()
    report.rows[2].why = "its cache was not empty"
    lines = table.table(report).splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("mmapstore to_tf"))
    assert lines[at + 1].strip() == "its cache was not empty"


def test_the_limit_is_judged():
    report = full_report()
    assert "The limit is a real one: array in RAM, fit(x, y), which" in table.table(report)
    report.limited = [each for each in report.limited if each.outcome != KILLED]
    assert "so these rows prove nothing" in table.table(report)


def test_the_speed_under_the_limit_is_put_beside_that_without():
    report = small_report()
    ours = replace(
        report.rows[2],
        limit=LIMIT,
        limited_by="control group",
        epochs=[replace(e, seconds=2 * e.seconds) for e in report.rows[2].epochs],
    )
    report.limited = [ours]
    assert re.search(r"mmapstore to_tf +npy .* finished .* 0.50$", table.table(report), re.MULTILINE)


def test_calibration_is_told():
    assert table.table(full_report()).endswith("\n\nThe instruments saw 446 MB of 500 MB.")
    assert table.table(small_report()).endswith("were not calibrated in this run: their error is not known.")


def test_memory_against_the_size_of_the_data():
    report = small_report()
    report.rows += [replace(report.rows[0], data_nbytes=2_000_000_000, private=4_000_000_000)]
    report.rows += [not_run("mmapstore to_tf", "no room", predicted=1, nbytes=2_000_000_000)]
    text = table.table(report).split("HOW MEMORY GROWS WITH THE DATA")[1]
    assert re.search(r"strategy +stored +600 MB +2.00 GB +per byte\n +as +of data +of data +more\n", text)
    assert re.search(r"fit\(memmap\) +npy +\+1.20 GB +\+4.00 GB +2.00\n", text)
    assert re.search(r"hand-written Sequence +npy +\+6.00 MB +- +-\n", text)
    assert re.search(r"mmapstore to_tf +npy +\+9.00 MB +not run +-\n", text)
    assert tables.markdown_growth(report).splitlines()[2] == "| fit(memmap) | npy | +1.20 GB | +4.00 GB | 2.00 |"


def test_every_column_is_explained_once():
    text = table.table(full_report())
    for name in ("predicted", "private memory", "per byte of data", "file-backed", "throughput"):
        assert len(re.findall(rf"^  {name}: ", text, re.MULTILINE)) == 1


def test_tasks_have_a_table_each():
    report = small_report()
    report.rows.append(row("fit(memmap)", kind="labelled", nbytes=600_000_000, private=6e8))
    report.tasks = full_report().tasks
    text = table.table(report)
    assert "next: x is a frame, y the frame after it; 600 MB: 20,000 samples of float32 (3, 50, 50), batches of 32." in text
    assert "labelled: x is a sample, y its class, an integer; 600 MB: 1,000,000 samples of uint8 (600,), batches of 256." in text


def labelled_too():
    """The full report, and the same again for another kind of task, with rows of its own."""
    report, other = full_report(), full_report()
    for name in ("rows", "limited"):
        getattr(report, name).extend(replace(each, kind="labelled") for each in getattr(other, name))
    return report


def test_what_is_of_one_kind_of_task_says_of_which():
    text = table.table(labelled_too())
    assert max(map(len, text.splitlines())) <= 120
    for title in ("WHAT EACH STRATEGY COSTS", "UNDER A HARD LIMIT OF 1.00 GB"):
        assert re.findall(rf"^{title}\n(next|labelled)\b", text, re.MULTILINE) == ["next", "labelled"]
    assert all('(task "' in sentence for sentence in derived.answer(labelled_too()))


# --- in Markdown --------------------------------------------------------------------------------------------------------


def test_the_markdown_table():
    assert tables.markdown_table(full_report(), ["mmapstore to_tf", "hand-written Sequence, shuffled", "fit(memmap)"]) == (
        "| strategy | data | private memory | outcome under 1.00 GB | throughput |\n"
        "|---|---|---|---|---|\n"
        "| mmapstore to_tf | 8.00 GB, npy | +11.0 MB | 35.3 s | 454 MB/s |\n"
        "| hand-written Sequence, shuffled | 8.00 GB, npy | more than +22.0 MB | given up: 120 s | |\n"
        "| fit(memmap) | 8.00 GB, npy | more than +515 MB | killed | |\n"
    )


def test_the_markdown_table_without_a_limit_and_of_one_form():
    report = full_report()
    report.limited = []
    assert tables.markdown_table(report, ["mmapstore to_tf|h5"]).splitlines()[2:] == [
        "| mmapstore to_tf | 600 MB, h5 | +9.00 MB | 509 ms | 2.36 GB/s |"
    ]
    assert (
        tables.markdown_table(report, ["fit(list of arrays)"])
        .splitlines()[2]
        .startswith("| fit(list of arrays) | 600 MB, npy | +24.0 GB predicted | not run: would not fit")
    )


def test_the_markdown_table_of_several_kinds():
    report = labelled_too()
    report.limited = []
    both = tables.markdown_table(report, ["mmapstore to_tf|h5"]).splitlines()[2:]
    assert [line.split(" | ")[1] for line in both] == ["600 MB, h5, next", "600 MB, h5, labelled"]
    assert tables.markdown_table(report, ["mmapstore to_tf|h5|labelled"]).splitlines()[2:] == both[1:]
    with pytest.raises(InvalidValueError, match=r"no row 'a\|h5'; it has: .*mmapstore to_tf\|h5\|labelled"):
        tables.markdown_table(report, ["a|h5"])


def test_the_memory_is_that_without_a_limit_where_it_was_measured():
    report = full_report()
    report.rows.append(row("fit(memmap)", nbytes=8_000_000_000, private=16.1e9))
    assert "| fit(memmap) | 8.00 GB, npy | +16.1 GB | killed | |" in tables.markdown_table(report)


def test_a_row_that_does_not_count_says_so_in_markdown():
    report = small_report(limited=[row("mmapstore to_tf", limit=LIMIT, why="does not count: nothing was killed")])
    assert "(does not count: nothing was killed) |" in tables.markdown_table(report)


def test_a_bar_in_a_text_ends_no_cell():
    report = small_report(rows=[not_run("a", "x | y", predicted=None)])
    assert "not run: x \\| y |" in tables.markdown_table(report)


def test_a_way_that_the_report_does_not_have():
    with pytest.raises(
        InvalidValueError, match=r"no row 'mmapstore'; it has: hand-written Sequence\|npy, mmapstore to_tf\|npy, fit"
    ):
        tables.markdown_table(small_report(), ["mmapstore"])


@pytest.mark.parametrize("page", ["README.md", "benchmarks/README.md"])
def test_the_tables_of_the_readmes_are_those_of_the_committed_reports(page):
    path = README.parent / page
    text = path.read_text(encoding="utf-8")
    assert tables.filled(text, path.parent) == text, f"older than its report: python -m benchmarks.tables --fill {page}"


def test_filling_replaces_what_is_between_the_marks_alone(tmp_path, capsys):
    (tmp_path / "a.json").write_text(full_report().to_json())
    (tmp_path / "b.json").write_text(small_report().to_json())
    file = tmp_path / "README.md"
    file.write_text(
        "# Title\n<!-- footprint table: a.json 'fit(memmap)' -->\nold\n<!-- end -->\nText.\n"
        "<!-- footprint table: b.json -->\n<!-- end -->\n<!-- end -->\n"
    )
    tables.main(["--fill", str(file)])
    first, second = tables.markdown_table(full_report(), ["fit(memmap)"]), tables.markdown_table(small_report())
    assert file.read_text() == (
        f"# Title\n<!-- footprint table: a.json 'fit(memmap)' -->\n{first}<!-- end -->\nText.\n"
        f"<!-- footprint table: b.json -->\n{second}<!-- end -->\n<!-- end -->\n"
    )
    tables.main(["--fill", str(file)])
    assert first in file.read_text()
    assert capsys.readouterr().out == ""


def test_the_command_prints_the_short_table_or_all_of_it(tmp_path, capsys):
    (tmp_path / "a.json").write_text(small_report().to_json())
    tables.main([str(tmp_path / "a.json")])
    assert capsys.readouterr().out == tables.markdown_table(small_report())
    tables.main([str(tmp_path / "a.json"), "fit(memmap)"])
    assert capsys.readouterr().out.count("\n") == 3
    tables.main([str(tmp_path / "a.json"), "--all"])
    assert capsys.readouterr().out == table.table(small_report()) + "\n"


def test_files_that_are_no_reports(tmp_path):
    with pytest.raises(NotFoundError, match=r"there is no .*a\.json. `mmapstore bench --json a\.json` writes one"):
        table.read(tmp_path / "a.json")
    for number, text in enumerate(["{", "[]", "{}", '{"rows": [{}]}']):
        (tmp_path / f"{number}.json").write_text(text)
        with pytest.raises(DamagedFileError, match="is not a report of this version"):
            table.read(tmp_path / f"{number}.json")
    with pytest.raises(InvalidValueError, match="there is no table to fill"):
        tables.filled("nothing", tmp_path)


def test_a_report_comes_back_from_its_file(tmp_path):
    (tmp_path / "a.json").write_text(full_report().to_json())
    assert table.read(tmp_path / "a.json") == full_report()
    assert {each.outcome for each in full_report().rows} == {FINISHED, NOT_RUN, "failed"}
    assert isinstance(table.read(tmp_path / "a.json"), Report)


def test_a_report_is_written_with_a_row_in_each_line():
    report = full_report()
    lines = report.to_json().splitlines()
    assert sum('"outcome": ' in line for line in lines) == len(report.everything)
