"""The processes that prepare rounds: what they make, how they end, and what is left after a kill."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import augmenting
import numpy as np
import pytest
from private_memory import needs_counts

import mmapstore as mm
from mmapstore.operations.rounds.preparation import is_ready
from mmapstore.plain.errors import LockedFileError, TransformError

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are counted in /proc")
HERE = str(Path(__file__).parent)
FEW = {"balance": "label", "samples_per_class": 20, "epochs_per_round": 1}


def opened(folder, samples=60):
    if not (folder / "pets").exists():
        images = np.random.default_rng(0).integers(0, 99, (samples, 3, 8, 8)).astype(np.uint8)
        mm.ingest({"image": images, "label": (np.arange(samples) % 6 == 0).astype(np.int64)}, folder / "pets")
    return mm.open(folder / "pets")


def children(process=None):
    """Ids of the processes that a process has started and that run, and of those that these have started."""
    process = os.getpid() if process is None else process
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(one) for one in task.read_text().split()]
    return [one for one in found if is_alive(one)] + [other for one in found for other in children(one)]


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def wait_until(happened, seconds=30.0):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def values(dataset):
    return {name: np.array(dataset[name][:]) for name in dataset.fields}


def test_a_process_at_low_priority_prepares_the_next_round_and_is_gone_with_the_object(tmp_path, capfd):
    ds = opened(tmp_path)
    before = set(children())
    rounds = ds.augmented(augmenting.printing, tmp_path / "rounds", **FEW)
    rounds.dataset(0)
    following = rounds.path(1)
    wait_until(lambda: is_ready(following))
    lines = [line.split() for line in capfd.readouterr().err.splitlines() if line.startswith("a line of fn")]
    nice = {line[5] for line in lines if line[4] != str(os.getpid())}
    assert nice == {str(min(19, os.nice(0) + 10))}
    assert rounds.dataset(1)["label"][:].sum() == 20 and not np.array_equal(values(rounds.dataset(1)), values(ds))
    assert set(children()) - before  # that of round 2
    del rounds
    assert not set(children()) - before


def test_an_error_in_the_process_comes_with_sample_and_place(tmp_path):
    images = np.arange(12, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 1, 2, 2), np.uint8)
    ds = mm.open({"image": images, "label": np.zeros(12, np.int64)})
    rounds = ds.augmented(augmenting.raising_for_seven, tmp_path / "rounds", balance="label")
    with pytest.raises(TransformError, match=r"fn raised ZeroDivisionError for sample 7 \(repeat 0 in round 0\)") as error:
        rounds.dataset(0)
    assert "raising_for_seven" in error.value.__notes__[0]
    assert not children()


def trainer(folder, code, **options):
    program = f"""
        import os, sys, time
        sys.path.insert(0, {HERE!r})
        import augmenting
        import mmapstore as mm
        if __name__ == "__main__":
            ds = mm.open({str(folder / "pets")!r})
            rounds = ds.augmented(augmenting.slow, {str(folder / "rounds")!r}, **{FEW})
            b = rounds.batches(8)
    """
    path = folder / "train.py"
    path.write_text(textwrap.dedent(program) + textwrap.indent(textwrap.dedent(code), "    "))
    return subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:round 1 is not ready")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_of_a_killed_run_and_the_next_goes_on(tmp_path, how):
    ds = opened(tmp_path)
    # Ctrl-C goes to all processes of a terminal: a session of their own stands for it.
    killed = trainer(tmp_path, "b.read(0, 0); print(1, flush=True); time.sleep(60 * bool(len(sys.argv)))", start_new_session=True)
    assert killed.stdout.readline() == "1\n"
    partial = tmp_path / "rounds" / "round-000001.partial"
    wait_until(partial.exists)
    started = children(killed.pid)
    assert started
    with pytest.raises(LockedFileError, match=f"process {killed.pid}"):
        ds.augmented(augmenting.slow, tmp_path / "rounds", **FEW)
    if how == signal.SIGINT:
        os.killpg(killed.pid, how)
    else:
        killed.send_signal(how)
    killed.communicate(timeout=20)
    wait_until(lambda: not any(map(is_alive, started)), 3.0)
    found = ds.augmented(augmenting.slow, tmp_path / "rounds", **FEW)
    expected = ds.augmented(augmenting.slow, tmp_path / "others", **FEW)
    for number in range(2):
        for name, array in values(found.dataset(number)).items():
            np.testing.assert_array_equal(array, values(expected.dataset(number))[name])


@pytest.mark.slow
def test_a_killed_process_stops_training_where_its_round_is_waited_for_and_not_before(tmp_path):
    b = opened(tmp_path).augmented(augmenting.slow, tmp_path / "rounds", **FEW).batches(8)
    b.read(0, 0)
    for one in children():
        os.kill(one, signal.SIGKILL)
    time.sleep(1.1)
    b.read(0, 1)
    assert not children()
    b.read(1, 0)  # begun again, and waited for


@pytest.mark.slow
def test_functions_of_the_training_script_need_its_guard(tmp_path):
    opened(tmp_path)
    program = f"""
        import numpy as np
        import mmapstore as mm

        def fn(x, rng):
            return (x + rng.integers(0, 9, x.shape)).astype(np.uint8)

        GUARD
            rounds = mm.open({str(tmp_path / "pets")!r}).augmented(fn, {str(tmp_path)!r} + "/NAME", **{FEW})
            print(len(rounds.dataset(0)))
    """
    for name, guard in (("guarded", 'if __name__ == "__main__":'), ("open", "if True:")):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(program).replace("GUARD", guard).replace("NAME", name))
        done = subprocess.run([sys.executable, f"{name}.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        if name == "guarded":
            assert done.stdout == "40\n", done.stderr
        else:
            assert done.returncode and "Put what the script does below `if __name__ == '__main__':`" in done.stderr
    at_the_prompt = textwrap.dedent(program).replace("GUARD", "if True:")
    done = subprocess.run([sys.executable, "-"], input=at_the_prompt, capture_output=True, text=True, timeout=60)
    assert "%%writefile" in done.stderr


@pytest.mark.slow
@needs_counts
def test_preparing_takes_at_most_the_memory_that_was_predicted(tmp_path):
    images = np.random.default_rng(0).integers(0, 99, (900, 3, 96, 96)).astype(np.uint8)
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "y.npy", np.arange(900) % 3)
    ds = mm.open({"image": tmp_path / "x.npy", "label": tmp_path / "y.npy"})
    rounds = ds.augmented(augmenting.noisy, tmp_path / "rounds", balance="label", samples_per_class=600)
    rounds._preparation.begin(0)
    most = 0
    while not is_ready(rounds.path(0)):
        most = max(most, sum(map(private, children())))
        time.sleep(0.005)
    assert 0.5 * rounds.memory.total <= most <= rounds.memory.total


def private(process):
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0
