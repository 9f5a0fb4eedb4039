"""The instruments against known amounts, and against trees of processes and control groups made for the purpose."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmapstore.bench.contract import Look
from mmapstore.bench.instruments import calibration, limits, process_tree
from mmapstore.bench.instruments.calibration import HELD, SPIKE, measured
from mmapstore.bench.instruments.process_tree import Thinned, Watch, descendants

MB = 1_000_000
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured through /proc")
HOLD = "import sys; print('ready', flush=True); sys.stdin.readline(); a = bytearray(b'x') * {nbytes}; print('held', flush=True)"
FORKING = """
import mmap, os, sys
print("ready", flush=True)
sys.stdin.readline()
shared = mmap.mmap(-1, 100_000_000)
for _ in range(100):
    shared.write(b"x" * 1_000_000)
own = bytearray(b"x") * 50_000_000
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.close(writing)
    sum(shared[at] for at in range(0, len(shared), 4096))
    print("held", flush=True)
    os.read(reading, 1)
    os._exit(0)
sys.stdin.readline()
os.close(writing)
os.waitpid(child, 0)
"""


class Child:
    """A Python process that waits for a line before it does anything, and answers each with one."""

    def __init__(self, program: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program + "\nsys.stdin.readline()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.answer()

    def answer(self) -> str:
        return self.process.stdout.readline().strip()

    def ask(self) -> str:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


# --- the process tree ---------------------------------------------------------------------------------------------------


@linux
def test_calibration_comes_to_what_was_taken(monkeypatch):
    found = []
    monkeypatch.setattr(calibration, "measured", lambda *given: (found.extend(measured(*given)), found)[1])
    assert calibration.calibrate().startswith("Of a process that took known amounts the instruments saw ")
    assert found[0] == pytest.approx(HELD, abs=3 * MB)
    assert found[1] == pytest.approx(0, abs=3 * MB)
    assert found[2] < SPIKE + 3 * MB  # how much of it is seen depends on what else the machine does


@linux
@pytest.mark.parametrize("rollup", [True, False])
def test_what_a_child_holds_is_measured_to_a_few_megabytes(monkeypatch, rollup):
    if not rollup:
        monkeypatch.setattr(process_tree, "_ROLLUP", {b"of another kernel"})
        assert process_tree.method().startswith("RssAnon")
    with Child(HOLD.format(nbytes=300 * MB)) as child, Watch(child.process.pid) as watch:
        watch.mark()
        assert watch.private == 0
        assert child.ask() == "held"
        watch.catch_up()
    assert watch.private == pytest.approx(300 * MB, abs=2 * MB)
    assert watch.baseline > MB
    assert watch.resident >= watch.private + watch.baseline
    assert max(look.private for look in watch.looks if look.seconds >= 0) == watch.private + watch.baseline


@linux
def test_quick_looks_alone_see_a_peak(monkeypatch):
    with Child(HOLD.format(nbytes=100 * MB)) as child, Watch(child.process.pid) as watch:
        monkeypatch.setattr(process_tree, "_FULL", 1000.0)
        watch.mark()
        assert child.ask() == "held"
        until = time.monotonic() + 60
        while watch.private < 98 * MB and time.monotonic() < until:
            time.sleep(0.01)
        assert watch.private == pytest.approx(100 * MB, abs=2 * MB)


@linux
def test_memory_that_processes_share_is_counted_once_by_either_look():
    with Child(FORKING) as child, Watch(child.process.pid) as watch:
        watch.mark()
        assert child.ask() == "held"
        watch.catch_up()
        time.sleep(0.1)
        assert watch.private == pytest.approx(150 * MB, abs=15 * MB)
        assert watch.resident > 250 * MB  # which counts it for each


@linux
def test_the_tree_has_children_of_children_and_loses_those_that_ended():
    program = (
        "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); "
        "sys.stdin.readline(); p.kill(); p.wait(); print()"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        grandchild = int(process.stdout.readline())
        assert descendants(process.pid) == {process.pid, grandchild}
        process.communicate("\n", timeout=30)
        assert grandchild not in descendants(process.pid)
    finally:
        process.kill()
        process.communicate()


@linux
def test_one_whose_parent_has_ended_stays_in_the_tree_of_its_session():
    program = """
import os, subprocess, sys
if os.fork() == 0:
    print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
    os._exit(0)
os.wait()
sys.stdin.readline()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    orphan = None
    try:
        orphan = int(process.stdout.readline())
        time.sleep(0.1)
        assert orphan in descendants(process.pid)
    finally:
        if orphan is not None:
            os.kill(orphan, signal.SIGKILL)
        process.kill()
        process.communicate()


@linux
def test_a_process_that_is_gone_is_no_error():
    with Child(HOLD.format(nbytes=20 * MB)) as child, Watch(child.process.pid) as watch:
        watch.mark()
        child.ask()
        watch.catch_up()
        child.process.kill()
        child.process.wait()
        time.sleep(0.1)
    assert watch.private == pytest.approx(20 * MB, abs=2 * MB)


def test_thinned_looks_keep_the_peak_and_spread_evenly():
    thinned = Thinned(40)
    for number in range(10_000):
        thinned.add(Look(number * 0.001, 900 if number == 7777 else number % 7, 0, 0))
    assert 10 <= len(thinned.looks) <= 40
    assert [look.seconds for look in thinned.looks if look.private == 900] == [7.777]
    steps = [later.seconds - sooner.seconds for sooner, later in zip(thinned.looks, thinned.looks[1:], strict=False)]
    assert max(steps) < 1.0


# --- limits -------------------------------------------------------------------------------------------------------------


@linux
def test_more_than_the_limit_is_killed_and_said_to_be():
    with limits.limited(150 * MB) as under:
        assert under.name == limits.can_limit()
        done = subprocess.run(
            [*under.prefix, sys.executable, "-c", "a = bytearray(b'x') * 400_000_000"], capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        assert under.killed(done.returncode, done.stderr)
    with limits.limited(150 * MB) as under:
        done = subprocess.run([*under.prefix, sys.executable, "-c", "1 / 0"], capture_output=True, text=True, check=False)
        assert "ZeroDivisionError" in done.stderr
        assert not under.killed(done.returncode, done.stderr)


@linux
def test_the_second_best_refuses_memory_and_not_a_map(tmp_path):
    under = limits.DataLimit(200 * MB)
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2000 * MB)
    mapping = (
        f"import mmap; file = open({str(path)!r}, 'rb'); m = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ); print(m[10**9])"
    )
    done = subprocess.run(
        [*under.prefix, sys.executable, "-W", "ignore", "-c", mapping], capture_output=True, text=True, check=False
    )
    assert done.stdout == "0\n", done.stderr
    taking = "a = bytearray(400_000_000)"
    done = subprocess.run([*under.prefix, sys.executable, "-c", taking], capture_output=True, text=True, check=False)
    assert under.killed(done.returncode, done.stderr)
    assert not under.killed(0, "")
    assert not under.killed(1, "ValueError: shapes differ")


@pytest.mark.skipif(limits.can_limit() != limits.CONTROL_GROUP, reason="no control group may be made here")
def test_a_group_takes_what_is_in_it_along():
    with limits.limited(300 * MB) as under:
        command = [*under.prefix, sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        child.stdout.readline()
        folder = under.folder
        assert folder.exists()
    assert child.wait(timeout=10) == -signal.SIGKILL
    child.stdout.close()
    assert not folder.exists()


def group_tree(root: Path, own: str, version: int) -> tuple[Path, Path]:
    """(root of the control groups, /proc/self/cgroup) of a machine that has `own` as our group."""
    base = root / "cgroup"
    if version == 2:
        (base / own.lstrip("/")).mkdir(parents=True)
        (base / "cgroup.controllers").write_text("cpu memory")
        lines = f"0::{own}\n"
    else:
        (base / "memory" / own.lstrip("/")).mkdir(parents=True)
        lines = f"9:name=systemd:/\n4:cpu,memory:{own}\n0::/elsewhere\n"
    (root / "self").write_text(lines)
    return base, root / "self"


def test_groups_of_version_1_are_made_below_ours_or_further_up(tmp_path):
    base, own = group_tree(tmp_path, "/a/b", 1)
    assert limits.parents(base, own) == [base / "memory/a/b", base / "memory/a", base / "memory"]
    own.write_text("4:memory:/docker/of/the/host\n")  # which a container sees as the root
    assert limits.parents(base, own) == [base / "memory"]
    own.write_text("3:cpu:/a/b\n")
    assert limits.parents(base, own) == []


def test_groups_of_version_2_are_made_where_memory_is_shared_out(tmp_path):
    base, own = group_tree(tmp_path, "/user.slice/user@1000.service/app.slice/term.scope", 2)
    assert limits.parents(base, own) == []
    for place in ("", "user.slice", "user.slice/user@1000.service/app.slice"):
        (base / place / "cgroup.subtree_control").write_text("memory pids")
    (base / "user.slice/user@1000.service/cgroup.subtree_control").write_text("pids")
    assert limits.parents(base, own) == [base / "user.slice/user@1000.service/app.slice", base / "user.slice", base]


def test_a_folder_that_is_no_group_is_left_as_it_was(tmp_path):
    with pytest.raises(PermissionError, match="does not share out memory"):
        limits.ControlGroup(tmp_path, MB)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", [1, 2])
def test_whom_a_group_killed(tmp_path, version):
    group = object.__new__(limits.ControlGroup)
    group.folder, group._unified = tmp_path, version == 2
    events = tmp_path / ("memory.events" if version == 2 else "memory.oom_control")
    events.write_text("oom 3\noom_kill 0\n")
    assert not group.killed(-signal.SIGKILL, "")
    events.write_text("oom 3\noom_kill 1\n")
    assert group.killed(-signal.SIGKILL, "")
    events.write_text("oom_kill_disable 0\nunder_oom 0\n")  # a kernel that does not count them
    (tmp_path / "memory.failcnt").write_text("12\n")
    assert group.killed(-signal.SIGKILL, "") and not group.killed(1, "")
