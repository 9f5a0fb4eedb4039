"""One strategy on one task, in a fresh process, watched from outside, under a limit or none: a `Row`.

A row without a limit is run with the files in the page cache where they fit, or dropped from it (`cold`). Under a limit
they are always dropped first: pages that another process has brought in are not counted against the one that is limited.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from ..files import page_cache
from ..files.stored_files import files_of
from ..formats.registry import split_inside
from ..plain.errors import MissingPackageError
from ..plain.memory_budget import format_bytes
from . import checksum, strategies
from .arm import strategy_module
from .contract import FAILED, FINISHED, GIVEN_UP, KILLED, NOT_RUN, Epoch, Row, Task, name_of
from .instruments import limits
from .instruments.calibration import calibrate
from .instruments.limits import can_limit
from .instruments.process_tree import Watch, method

__all__ = ["calibrate", "can_limit", "command", "instruments", "run"]

_STILL_CACHED = 0.01  # the share of a file's pages that may be left after dropping it
_LAST_WORDS = 4000  # bytes of standard error that are looked at
_NOTE = re.compile(r"[IW]\d{4} |\d{4}-\d\d-\d\d [\d:.]+: [IW] |WARNING: All log messages before absl")


def run(
    strategy: str,
    task: Task,
    *,
    epochs: int = 2,
    limit: int | None = None,
    timeout: float = 600.0,
    cold: bool = False,
    knobs: dict[str, int] | None = None,
) -> Row:
    """Run epochs of `fit` and say what they cost. Never raises for what the strategy does: the row says how it ended.

    Parameters
    ----------
    strategy : of `strategies.names()`, or the path of a .py file that is one
    limit : bytes for the process and all it starts, the framework included
    timeout : seconds, from the start of the process
    cold : drop the files from the page cache first, verified
    knobs : given to the strategy's functions by name: {"look_ahead": 4}
    """
    module, given = strategy_module(strategy), knobs or {}
    row = Row(name_of(strategy), task.form, task.kind, NOT_RUN, data_nbytes=task.nbytes, limit=limit)
    row.command = command(strategy, task, epochs=epochs, limit=limit, cold=cold, knobs=knobs)
    if limit is not None:
        row.limit_command = limits.from_outside(limit, command(strategy, task, epochs=epochs, cold=True, knobs=knobs))
        row.limited_by = can_limit()
    row.why = _obstacle(module, strategy, given, row)
    if row.why:
        return row
    row.predicted = _predicted(module, task, given)
    asked: dict[str, Any] = {"strategy": strategy, "task": asdict(task)}
    row.why = _prepared(module, asked, timeout)
    if row.why:
        return row
    expected = checksum.checksum(task)
    row.why = _cache_made(task, drop=cold or limit is not None)
    if row.why:
        return row
    asked |= {"epochs": epochs, "knobs": given, "wait": True}
    until = time.monotonic() + timeout
    with limits.limited(limit) as under, _Arm(asked, under.prefix) as arm:
        with Watch(arm.number, beside=under.look) as watch:
            in_time = arm.follow(row, watch, expected, until)
        code, words = arm.end()
        _judge(row, under, code, words, given_up_after=None if in_time else timeout, failure=arm.failure, started=arm.started)
    row.private, row.baseline = watch.private, watch.baseline
    row.file_backed, row.resident, row.disk_read = watch.file_backed, watch.resident, watch.disk_read
    row.group_anonymous, row.group_file = under.anonymous, under.file
    row.looks = watch.looks
    return row


def command(
    strategy: str,
    task: Task,
    *,
    epochs: int = 2,
    limit: int | None = None,
    cold: bool = False,
    knobs: dict[str, int] | None = None,
    run_all: bool = False,
) -> str:
    """The line that runs this row again, and nothing else.

    >>> command("fit_memmap", Task("next", "npy", "a.npy", 9, (2,), "float32", batch=4), limit=10**9)
    'mmapstore bench a.npy --batch 4 --only fit_memmap --limit 1000000000'
    """
    words = ["mmapstore", "bench", *_data_words(task), "--only", strategy]
    words += [] if epochs == 2 else ["--epochs", str(epochs)]
    words += [] if limit is None else ["--limit", str(limit)]
    words += ["--cold"] if cold and limit is None else []
    words += ["--scale"] if knobs else []
    words += ["--run-all"] if run_all else []
    return shlex.join(words)


def _data_words(task: Task) -> list[str]:
    """The data: the user's own by their path, and what is made from a seed by what it is made from."""
    if (Path(split_inside(task.path)[0]).parent / checksum.RECORD).exists():
        words = ["--task", task.kind, "--form", task.form, "--size", str(task.nbytes)]
    else:
        words = [task.path, *([] if task.labels is None else ["--labels", task.labels])]
    words += [] if task.batch == Task.batch else ["--batch", str(task.batch)]
    return words + ([] if task.seed == Task.seed else ["--seed", str(task.seed)])


def instruments() -> dict[str, str]:
    """What is measured with here, in words, for the record of the machine.

    >>> sorted(instruments())
    ['limit', 'private memory']
    """
    return {"private memory": method(), "limit": can_limit() or "none"}


# --- before it runs -----------------------------------------------------------------------------------------------------


def _obstacle(module: ModuleType, strategy: str, knobs: dict[str, int], row: Row) -> str:
    """Why it cannot be run, or ""."""
    for name in knobs:
        if name not in inspect.signature(module.fit_arguments).parameters:
            return f"it has no {name.replace('_', '-')} that one could set"
    if row.limit is not None and row.limited_by is None:
        return f"memory cannot be limited on {sys.platform}"
    if not strategy.endswith(".py"):
        return strategies.missing(strategy)
    absent = [name for name in module.REQUIRES if importlib.util.find_spec(name) is None]
    return f"needs {' and '.join(absent)}" if absent else ""


def _predicted(module: ModuleType, task: Task, knobs: dict[str, int]) -> int | None:
    taken = inspect.signature(module.private).parameters
    try:
        return int(module.private(task, **{name: value for name, value in knobs.items() if name in taken}))
    except MissingPackageError:
        return None


def _prepared(module: ModuleType, asked: dict[str, Any], timeout: float) -> str:
    """What the strategy makes once is there; or why not."""
    if not hasattr(module, "prepare"):
        return ""
    with _Arm({**asked, "prepare": True}) as arm:
        if not arm.follow(None, None, 0, time.monotonic() + timeout):
            return f"what it makes beforehand was not there after {timeout:.0f} s"
        code, words = arm.end()
    return "" if code == 0 else f"what it makes beforehand could not be made: {arm.failure or _last_line(words, code)}"


def _cache_made(task: Task, *, drop: bool) -> str:
    """The files are in the page cache, as far as they fit, or out of it; or why not."""
    prepared = task.prepared if task.prepared and Path(task.prepared).exists() else None  # few strategies prepare anything
    paths = [each for place in (task.path, task.labels, prepared) if place for each in files_of(place)]
    if not drop:
        page_cache.warm(paths)
        return ""
    share = page_cache.drop(paths)
    if share <= _STILL_CACHED:
        return ""
    return (
        f"{share:.0%} of the data are still in the page cache after dropping them, where no limit counts them: another program has "
        "them mapped, they are someone else's, or they lie on a tmpfs. Close that program, or put them on a disk."
    )


# --- while it runs ------------------------------------------------------------------------------------------------------


class _Arm:
    """`mmapstore.bench.arm` in a process of its own: its events, and its last words. All it started ends with the block."""

    def __init__(self, asked: dict[str, Any], prefix: tuple[str, ...] = ()) -> None:
        self.started, self.failure = False, ""
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        # What a process that is killed leaves of its temporary files, TensorFlow's source of traced functions, goes with it.
        self._scratch = tempfile.TemporaryDirectory(prefix="mmapstore-bench-")
        # Keras can compute with others; the step that reads every bit is TensorFlow's.
        settings = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", f"{__package__}.arm", json.dumps(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env={**os.environ, **settings, "TMPDIR": self._scratch.name},
            start_new_session=True,  # Ctrl-C is ours alone
        )
        self.number = self._process.pid
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="events of the benchmark", daemon=True)
        self._reader.start()

    def __enter__(self) -> _Arm:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not read any more
                    pipe.close()
        self._errors.close()
        self._scratch.cleanup()

    def follow(self, row: Row | None, watch: Watch | None, expected: int, until: float) -> bool:
        """Take events until the process ends, or is done. False if it was neither by `until`, of `time.monotonic`."""
        while (left := until - time.monotonic()) > 0:
            try:
                line = self._lines.get(timeout=min(left, 0.2))
            except queue.Empty:
                if self._process.poll() is not None:
                    return True  # and a process that it started holds on to the pipe
                continue
            if line is None:
                self._process.wait()
                return True
            event = json.loads(line)
            if event["event"] == "failed":
                self.failure = event["why"]
            elif row is not None and watch is not None:
                self._take(event, row, watch, expected)
                if row.outcome == FINISHED:
                    return True  # that TensorFlow shuts down in order takes seconds, and is nobody's concern
        return False

    def _take(self, event: dict[str, Any], row: Row, watch: Watch, expected: int) -> None:
        if event["event"] == "baseline":
            self.started = True
            watch.mark()
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):  # it has ended, which will be seen
                self._process.stdin.write("go\n")
                self._process.stdin.flush()
        elif event["event"] == "first batch":
            row.first_batch = event["seconds"]
        elif event["event"] == "epoch":
            row.epochs.append(Epoch(event["seconds"], event["samples"], event["nbytes"], event["checksum"] == expected))
        elif event["event"] == "end":
            row.gpu, row.outcome = event["gpu"], FINISHED

    def end(self) -> tuple[int, str]:
        """(exit status, the end of what it wrote to standard error). Whatever still runs is killed."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(self.number, signal.SIGKILL)
        if self._process.poll() is None:
            self._process.kill()
        code = self._process.wait()
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _LAST_WORDS))
        return code, self._errors.read().decode("utf-8", "replace").strip()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)


def _judge(
    row: Row, under: limits.Limit, code: int, words: str, *, given_up_after: float | None, failure: str, started: bool
) -> None:
    """Write into the row how it ended, and why."""
    if row.outcome == FINISHED:
        if not row.epochs or not all(epoch.right for epoch in row.epochs):
            row.why = "the model did not get every x with its y: the checksum is not that of the data"
        return
    stage = "" if row.epochs else ", in the first epoch" if started else ", before the framework had started"
    if given_up_after is not None:
        row.outcome, row.why = GIVEN_UP, f"not finished after {given_up_after:.0f} s{stage}"
    elif under.killed(code, f"{failure}\n{words}"):
        row.outcome = KILLED
        row.why = "the machine had no memory left" if row.limit is None else f"by the limit of {format_bytes(row.limit)}{stage}"
        if under.name == limits.DATA_LIMIT:
            row.why += f": {failure or _last_line(words, code)}"
    else:
        row.outcome, row.why = FAILED, failure or _last_line(words, code)


def _last_line(words: str, code: int) -> str:
    """How it ended, and the last thing it said that was not a note of TensorFlow's on its start."""
    said = next((line.strip() for line in reversed(words.splitlines()) if line.strip() and not _NOTE.match(line)), "")
    ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
    return f"{ended}: {said[:300]}" if said else f"{ended}, and said nothing"
