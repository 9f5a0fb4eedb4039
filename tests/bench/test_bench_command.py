"""`mmapstore bench`, with processes that are functions; and, slowly, with real ones."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from tqdm import tqdm

from mmapstore import cli
from mmapstore.bench import command as bench
from mmapstore.bench import running, strategies
from mmapstore.bench.contract import FAILED, FINISHED, KILLED, NOT_RUN, Epoch, Report, Row
from mmapstore.bench.generated_data import generated
from mmapstore.bench.running import Measuring
from mmapstore.bench.workload import plan_row, workload

MB = 10**6
BASELINE = 300 * MB


class Machine:
    """Stands for `running.run`: a process takes what its strategy predicts, and is killed under a limit that is less."""

    def __init__(self):
        self.runs = []

    def __call__(self, strategy, task, *, epochs=2, limit=None, timeout=600.0, cold=False):
        self.runs.append(SimpleNamespace(strategy=strategy, task=task, epochs=epochs, limit=limit, cold=cold))
        private = strategies.load(strategy).private(task)
        row = Row(
            strategy, task.form, task.kind, FINISHED, data_nbytes=task.nbytes, limit=limit, predicted=private, private=private
        )
        row.baseline, row.first_batch, row.limited_by = BASELINE, 0.1, limit and "control group"
        row.epochs = [Epoch(0.5, task.pairs, 2 * task.nbytes, True) for _ in range(epochs)]
        row.command = running.command(strategy, task, epochs=epochs, limit=limit, cold=cold)
        if limit and BASELINE + private > limit:
            row.outcome, row.epochs = KILLED, []
        return row


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(running, "run", machine)
    monkeypatch.setattr(running, "calibrate", lambda: "99 B of 100 B")
    monkeypatch.setattr(running, "can_limit", lambda: "control group")
    monkeypatch.setattr("mmapstore.files.process_memory.memory_available", lambda: 20_000 * MB)
    monkeypatch.setattr(bench, "_require_framework", lambda: None)
    return machine


@pytest.fixture
def run(machine, tmp_path, capsys):
    """Run the command on data below tmp_path: (exit code, standard output, standard error)."""

    def run(*words):
        given = [str(word) for word in words]
        code = cli.main(["bench", *given, "--data", str(tmp_path / "data")])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


MEDIUM = ("--size", "60MB", "--form", "npy")
SMALL = ("--size", "3MB", "--form", "npy")


# --- a run --------------------------------------------------------------------------------------------------------------


def test_a_run_tells_first_then_measures_then_reports(run, machine, tmp_path):
    code, out, err = run(*SMALL, "--only", "array_in_ram,fit_memmap,mmapstore_keras", "--json", tmp_path / "r.json")
    assert (code, err) == (0, "")
    report = Report.from_json((tmp_path / "r.json").read_text())
    assert [row.strategy for row in report.rows] == ["array_in_ram", "fit_memmap", "mmapstore_keras"]
    assert [(one.epochs, one.limit, one.cold) for one in machine.runs] == [(2, None, False)] * 3
    assert report.calibration == "99 B of 100 B" and report.seed == 0
    assert report.machine["cores"] >= 1 and "numpy" in report.machine["versions"]
    (task,) = report.tasks
    assert (task["kind"], task["form"], task["samples"]) == ("next", "npy", 100) and not {"path", "labels", "prepared"} & set(task)
    assert out.index("3 rows of 2 epochs") < out.index("array in RAM, fit(x, y)") < out.index("It took")
    assert f"still in {tmp_path / 'data'}, for the next run" in out
    assert str(tmp_path) not in report.to_json()


def test_a_dry_run_makes_and_runs_nothing(run, machine, tmp_path):
    code, out, _ = run(*SMALL, "--dry-run")
    assert code == 0 and not machine.runs and not (tmp_path / "data").exists()
    assert "about 3.00 MB of disk" in " ".join(out.split()) and "Ctrl-C" in out


def test_data_of_an_earlier_run_are_used_again(run, tmp_path):
    run(*SMALL, "--only", "fit_memmap")
    (path,) = (tmp_path / "data").rglob("data.npy")
    before = path.stat().st_mtime_ns
    code, out, _ = run(*SMALL, "--only", "fit_memmap")
    assert code == 0 and path.stat().st_mtime_ns == before
    assert "made from seed 0 by an earlier run" in " ".join(out.split())


@pytest.mark.parametrize(
    "words",
    [
        [*SMALL],
        ["--size", "3MB", "--form", "npy,h5-gzip", "--seed", "5", "--batch", "16", "--epochs", "3", "--cold"],
        ["--size", "2MB", "--task", "labelled", "--form", "npy,h5"],
        ["--size", "3MB", "--form", "npy", "--only", "mmapstore_keras,mmapstore_tf", "--limit", "1GB"],
        ["--size", "3MB,6MB", "--form", "npy", "--only", "fit_memmap", "--epochs", "1"],
    ],
    ids=["default", "options", "labelled", "limit", "sizes"],
)
def test_the_command_of_a_row_means_that_row(run, machine, tmp_path, words):
    """Parsed, it gives the same task and strategy and nothing else, run in the same way."""
    code, _, _ = run(*words, "--json", tmp_path / "r.json")
    assert code == 0
    report = Report.from_json((tmp_path / "r.json").read_text())
    ran = [row for row in report.everything if row.outcome != NOT_RUN]
    assert len(ran) == len(machine.runs) > 0
    for row, once in zip(ran, machine.runs, strict=True):
        parsed = cli._parser().parse_args([*shlex.split(row.command)[1:], "--data", str(tmp_path / "data")])
        work = workload(parsed, 20_000 * MB)
        assert [(one.strategy, one.task) for one in work.rows] == [(once.strategy, once.task)], row.command
        assert parsed.epochs == once.epochs and work.limit == once.limit and (parsed.cold or work.limit is not None) == once.cold


def test_the_command_of_a_row_on_the_users_data(run, machine, tmp_path):
    np.save(tmp_path / "my x.npy", np.zeros((100, 3, 4), np.float32))
    np.save(tmp_path / "y.npy", np.zeros(100, np.int64))
    code, _, _ = run(tmp_path / "my x.npy", "--labels", tmp_path / "y.npy", "--batch", 8, "--json", tmp_path / "r.json")
    assert code == 0
    for row, once in zip(Report.from_json((tmp_path / "r.json").read_text()).rows, machine.runs, strict=True):
        parsed = cli._parser().parse_args([*shlex.split(row.command)[1:], "--data", str(tmp_path / "data")])
        assert [(one.strategy, one.task) for one in workload(parsed, 20_000 * MB).rows] == [(once.strategy, once.task)]


def test_what_would_not_fit_is_predicted_and_not_run_unless_asked(run, machine, monkeypatch, tmp_path):
    monkeypatch.setattr("mmapstore.files.process_memory.memory_available", lambda: 490 * MB)
    only = (*MEDIUM, "--only", "fit_memmap,sequence", "--json", tmp_path / "r.json")
    code, out, _ = run(*only)
    assert code == 0 and [one.strategy for one in machine.runs] == ["sequence"]
    assert "fit(memmap) (npy, next) would not fit: predicted" in out
    row = Report.from_json((tmp_path / "r.json").read_text()).rows[0]
    assert (row.outcome, row.private) == (NOT_RUN, None) and row.predicted > 100 * MB
    assert "--run-all" in row.command
    code, _, _ = run(*only, "--run-all")
    assert [one.strategy for one in machine.runs] == ["sequence", "fit_memmap", "sequence"]


@pytest.mark.parametrize("after", [1, 2])
def test_ctrl_c_keeps_what_was_measured(run, machine, monkeypatch, tmp_path, after):
    def ended(*arguments, **how):
        if len(machine.runs) == after:
            raise KeyboardInterrupt
        return machine(*arguments, **how)

    monkeypatch.setattr(running, "run", ended)
    code, out, err = run(*SMALL, "--json", tmp_path / "r.json")
    assert code == 130
    assert err.splitlines() == ["It ended early: above are the measurements until then.", "interrupted"]
    assert len(Report.from_json((tmp_path / "r.json").read_text()).rows) == after
    assert "array in RAM, fit(x, y)" in out


def test_ctrl_c_before_anything_was_measured(run, machine, monkeypatch, tmp_path):
    monkeypatch.setattr(running, "calibrate", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    code, _, err = run(*SMALL, "--json", tmp_path / "r.json")
    assert (code, err) == (130, "interrupted\n") and not (tmp_path / "r.json").exists()


def test_the_report_on_the_disk_is_whole_after_each_row(run, machine, monkeypatch, tmp_path):
    seen = []

    def looked(*arguments, **how):
        if (tmp_path / "r.json").exists():
            seen.append(len(Report.from_json((tmp_path / "r.json").read_text()).rows))
        return machine(*arguments, **how)

    monkeypatch.setattr(running, "run", looked)
    run(*SMALL, "--only", "fit_memmap,sequence,mmapstore_keras", "--json", tmp_path / "r.json")
    assert seen == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "r.json"]


def test_wrong_data_is_a_failure(run, machine, monkeypatch):
    def wrong(strategy, task, **how):
        row = machine(strategy, task, **how)
        row.epochs = [replace(row.epochs[0], right=strategy != "sequence")]
        return row

    monkeypatch.setattr(running, "run", wrong)
    code, out, err = run(*SMALL, "--only", "fit_memmap,sequence")
    assert (code, err) == (1, "mmapstore: wrong data came from hand-written Sequence (npy, next)\n")
    assert "WRONG DATA" in out


def test_a_run_in_which_nothing_finished_is_a_failure(run, machine, monkeypatch):
    monkeypatch.setattr(running, "run", lambda s, t, **how: Row(s, t.form, t.kind, FAILED, "no such device", data_nbytes=t.nbytes))
    code, out, err = run(*SMALL, "--only", "fit_memmap")
    assert code == 1 and "failed: no such device" in out and "nothing finished" in err


# --- further questions --------------------------------------------------------------------------------------------------


def test_limit_rows_count_because_the_array_in_ram_was_killed(run, machine, tmp_path):
    code, _, _ = run(*MEDIUM, "--only", "mmapstore_keras", "--limit", "330MB", "--json", tmp_path / "r.json")
    assert code == 0
    report = Report.from_json((tmp_path / "r.json").read_text())
    control, ours = report.limited
    assert control.outcome == KILLED and control.predicted > 54 * MB
    assert (ours.strategy, ours.limit, ours.limited_by) == ("mmapstore_keras", 330 * MB, "control group")
    assert "does not count" not in ours.why
    assert all(one.cold for one in machine.runs if one.limit)
    assert len(report.rows) == 1, "the control is not a row of its own"


def test_ctrl_c_between_limit_rows_leaves_none_that_seems_to_count(run, machine, monkeypatch, tmp_path):
    def ended(strategy, task, **how):
        if len(machine.runs) == 3:
            raise KeyboardInterrupt
        return machine(strategy, task, **how)

    monkeypatch.setattr(running, "run", ended)
    code, _, _ = run(*SMALL, "--only", "mmapstore_keras,sequence", "--limit", "1GB", "--json", tmp_path / "r.json")
    (row,) = Report.from_json((tmp_path / "r.json").read_text()).limited
    assert code == 130 and "does not count" in row.why


def test_a_system_without_limits_is_told_before_anything_runs(run, machine, monkeypatch):
    monkeypatch.setattr(running, "can_limit", lambda: None)
    code, _, err = run(*SMALL, "--limit", "1GB")
    assert code == 2 and "needs a limit of memory that holds" in err and not machine.runs


def test_kinds_of_task_and_sizes_have_a_table_each(run, machine, tmp_path):
    words = ("--size", "40MB,60MB", "--form", "npy", "--only", "fit_memmap,sequence", "--task", "next,labelled")
    code, out, _ = run(*words, "--limit", "420MB", "--json", tmp_path / "r.json")
    assert code == 0
    report = Report.from_json((tmp_path / "r.json").read_text())
    assert len(report.rows) == len({(row.strategy, row.kind, row.data_nbytes) for row in report.rows}) == 8
    assert len(report.limited) == 8
    assert out.count("WHAT EACH STRATEGY COSTS") == out.count("UNDER A HARD LIMIT OF 420 MB") == 4
    _, first, second = out.split("HOW MEMORY GROWS WITH THE DATA\n")
    for text, kind in ((first, "next"), (second, "labelled")):
        assert text.startswith(f"{kind}: ")
        assert re.search(r"hand-written Sequence +npy +\+.* MB +\+.* MB +-?0\.0", text)
    assert re.search(r"fit\(memmap\) +npy +\+\d+ MB +\+\d+ MB +4\.00", first)


def test_a_strategy_of_ones_own_is_called_the_same_everywhere(run, machine, monkeypatch, tmp_path):
    own = tmp_path / "mine.py"
    own.write_text(
        'NAME, KINDS, STORED, REQUIRES = "mine", ("next",), ("npy",), ()\n\ndef private(task):\n    return 5_000_000\n\n'
        "def fit_arguments(task):\n    return {}\n"
    )
    monkeypatch.setattr(running, "run", lambda strategy, task, **how: replace(machine("fit_memmap", task, **how), strategy="mine"))
    code, _, _ = run(*MEDIUM, "--only", own, "--json", tmp_path / "r.json")
    report = Report.from_json((tmp_path / "r.json").read_text())
    assert code == 0
    assert {each.strategy for each in report.rows} == {"mine"}


# --- what is asked of it beside that ------------------------------------------------------------------------------------


def test_list_tells_names_tasks_and_what_is_missing(run, machine, monkeypatch):
    monkeypatch.setattr(strategies, "missing", lambda name: "needs zarr: pip install zarr" if name == "zarr_sequence" else "")
    code, out, _ = run("--list")
    assert code == 0 and not machine.runs
    for name in strategies.names():
        assert any(line.startswith(name) and line.endswith(strategies.load(name).title) for line in out.splitlines())
    assert out.count("cannot run: needs zarr: pip install zarr") == 1


def test_show_prints_the_source(run):
    code, out, _ = run("--show", "fit(memmap)")
    assert code == 0 and out == strategies.source("fit_memmap")


def test_a_path_that_does_not_exist(run, machine, tmp_path):
    code, _, err = run(tmp_path / "no.npy")
    assert code == 1 and "no.npy does not exist" in err and not machine.runs


@pytest.mark.parametrize("absent", ["tensorflow", "keras"])
def test_without_a_framework(tmp_path, monkeypatch, capsys, absent):
    found = bench.importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == absent else found(name, *more))
    assert cli.main(["bench", *SMALL, "--data", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert f'{absent} cannot be found. Install them with: pip install "mmapstore[tensorflow]"' in err
    assert cli.main(["bench", "--list"]) == 0
    assert f"needs {absent}" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_outputs_are_checked_before_anything_runs(run, machine, tmp_path, option):
    code, _, err = run(*SMALL, option, tmp_path / "none" / "r")
    assert code == 1 and "which does not exist; expected the name of a file to write" in err
    code, _, err = run(*SMALL, option, tmp_path)
    assert code == 1 and "is a directory; expected the name of a file" in err
    assert not machine.runs


def test_read_reports_again_without_a_run(run, machine, tmp_path):
    _, out, _ = run(*SMALL, "--only", "fit_memmap,sequence", "--json", tmp_path / "new.json")
    ran = len(machine.runs)
    code, again, _ = run("--read", tmp_path / "new.json", "--html", tmp_path / "r.html")
    assert code == 0 and len(machine.runs) == ran
    assert again.partition("\n\nwritten: ")[0] in out and f"written: {tmp_path / 'r.html'}" in again
    assert 'class="bars"' in (tmp_path / "r.html").read_text(encoding="utf-8")
    code, _, err = run("x.npy", "--read", tmp_path / "new.json")
    assert code == 2 and "measures nothing, so x.npy is not used" in err


def test_too_little_disk_is_told_before_anything_is_written(run, machine, monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=2 * MB))
    code, _, err = run(*SMALL)
    assert code == 1 and "The data take about 3.00 MB of disk" in err and "has 2.00 MB left" in err
    assert not machine.runs and not (tmp_path / "data").exists()


def test_the_bar_says_what_runs_and_how_the_last_run_went(machine, monkeypatch, tmp_path):
    task, shown = generated("next", "npy", 3 * MB, tmp_path), io.StringIO()
    monkeypatch.setattr(tqdm, "monitor_interval", 0)  # no thread that stays
    with tqdm(total=2, file=shown, ncols=240, mininterval=0) as bar:
        Measuring(Report({}, 0), machine, bar).rows([plan_row("fit_memmap", task, 10**12)])
    assert "fit(memmap), npy, next, 3.00 MB:  50%" in shown.getvalue()
    assert re.search(r"last: finished, \+1\d\.\d MB private, 11\.\d MB/s", shown.getvalue())


# --- real processes -----------------------------------------------------------------------------------------------------


def real(*words):
    return subprocess.run([sys.executable, "-m", "mmapstore", "bench", *map(str, words)], capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured on Linux")
def test_real_rows_and_limits(tmp_path):
    """What holds the data takes twice it and is killed under the limit; mmapstore takes little and finishes."""
    limit = (("--limit", 900 * MB),) if running.can_limit() == "control group" else ()
    only = ("--only", "array_in_ram,fit_memmap,mmapstore_keras", "--form", "npy", "--size", "300MB", "--epochs", 1)
    done = real(*only, *(word for pair in limit for word in pair), "--data", tmp_path, "--json", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    report = Report.from_json((tmp_path / "r.json").read_text())
    rows = {row.strategy: row for row in report.rows}
    assert all(row.outcome == FINISHED and all(epoch.right for epoch in row.epochs) for row in rows.values())
    assert rows["fit_memmap"].private > 550 * MB
    assert rows["array_in_ram"].private > 850 * MB
    assert rows["mmapstore_keras"].private < 32 * MB
    assert report.calibration.startswith("Of a process that took known amounts the instruments saw 200 MB of 200 MB")
    if limit:
        under = {row.strategy: row for row in report.limited}
        assert under["array_in_ram"].outcome == KILLED
        assert under["mmapstore_keras"].outcome == FINISHED
        assert "does not count" not in under["mmapstore_keras"].why
