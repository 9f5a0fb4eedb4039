"""One strategy on one task, in a fresh process, watched from outside, under a limit or none: a `Row`; and all rows of a run.

A row without a limit is run with the files in the page cache where they fit, or dropped from it (`cold`). Under a limit the
files are always dropped first: pages that another process has brought in are not counted against the limited one.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from ..files import page_cache
from ..files.durable_writes import write_text_atomically
from ..files.stored_files import files_of
from ..files.system_errors import explaining_write_errors
from ..formats.registry import split_inside
from ..plain.errors import MissingPackageError
from ..plain.memory_budget import format_bytes
from . import checksum, strategies
from .child import in_a_line
from .contract import FAILED, FINISHED, GIVEN_UP, KILLED, NOT_RUN, Epoch, Report, Row, Task, name_of
from .derived import grouped, holds_the_data, limit_of, proof, rate, signed, title
from .instruments import limits
from .instruments.calibration import calibrate
from .instruments.limits import can_limit
from .instruments.process_tree import Watch, method
from .workload import Planned

__all__ = ["Child", "Measuring", "calibrate", "can_limit", "command", "judge", "method", "run"]

_CHILD = f"{__package__}.child"
_STILL_CACHED = 0.01  # the share of a file's pages that may be left after dropping it
_LAST_WORDS = 4000  # bytes of standard error that are looked at
_NOTE = re.compile(r"[IW]\d{4} |\d{4}-\d\d-\d\d [\d:.]+: [IW] |WARNING: All log messages before absl")


def run(strategy: str, task: Task, *, epochs: int = 2, limit: int | None = None, timeout: float = 600.0, cold: bool = False) -> Row:
    """Run epochs of `fit` and return their cost. Never raises for an error of the strategy: the row has its outcome.

    Parameters
    ----------
    strategy : of `strategies.names()`, or the path of a .py file that is one
    limit : bytes for the process and all it starts, the framework included
    timeout : seconds, from the start of the process
    cold : drop the files from the page cache first, verified
    """
    chosen = strategies.load(strategy)
    row = Row(name_of(strategy), task.form, task.kind, NOT_RUN, data_nbytes=task.nbytes, limit=limit)
    row.command = command(strategy, task, epochs=epochs, limit=limit, cold=cold)
    row.limited_by = None if limit is None else can_limit()
    no_limit = limit is not None and row.limited_by is None
    row.why = f"memory cannot be limited on {sys.platform}" if no_limit else strategies.missing(strategy)
    if row.why:
        return row
    try:
        if chosen.prepare is not None:
            chosen.prepare(task)
    except Exception as error:
        row.why = f"its preparation failed: {in_a_line(error)}"
        return row
    with contextlib.suppress(MissingPackageError):
        row.predicted = chosen.private(task)
    asked = {"strategy": strategy, "task": asdict(task), "epochs": epochs}
    expected = checksum.checksum(task)
    row.why = _cache_made(task, drop=cold or limit is not None)
    if row.why:
        return row

    def take(event: dict[str, Any]) -> bool:
        match event["event"]:
            case "first batch":
                row.first_batch = event["seconds"]
            case "epoch":
                found = {name: value for name, value in event.items() if name not in ("event", "checksum")}
                row.epochs.append(Epoch(**found, right=event["checksum"] == expected))
            case "end":  # an orderly shutdown of TensorFlow takes seconds
                row.outcome = FINISHED
        return row.outcome == FINISHED

    with limits.limited(limit) as under, Child([_CHILD, json.dumps(asked)], under.prefix) as child:
        with Watch(child.number) as watch:
            in_time = child.follow(take, timeout, watch)
        _judge(row, under, child, None if in_time else timeout, started=watch.baseline is not None)
    row.private, row.baseline = watch.private, watch.baseline
    row.file_backed, row.resident = watch.file_backed, watch.resident
    row.looks = watch.looks
    return row


def command(
    strategy: str, task: Task, *, epochs: int = 2, limit: int | None = None, cold: bool = False, run_all: bool = False
) -> str:
    """Return the line that runs this row again, and nothing else.

    >>> command("fit_memmap", Task("next", "npy", "a.npy", 9, (2,), "float32", batch=4), limit=10**9)
    'mmapstore bench a.npy --batch 4 --only fit_memmap --limit 1000000000'
    """
    words = ["mmapstore", "bench", *_data_words(task), "--only", strategy]
    words += [] if epochs == 2 else ["--epochs", str(epochs)]
    words += [] if limit is None else ["--limit", str(limit)]
    words += ["--cold"] if cold and limit is None else []
    words += ["--run-all"] if run_all else []
    return shlex.join(words)


def _data_words(task: Task) -> list[str]:
    """Name the data: the user's own by their path, generated data by its task, form and size."""
    if (Path(split_inside(task.path)[0]).parent / checksum.RECORD).exists():
        words = ["--task", task.kind, "--form", task.form, "--size", str(task.nbytes)]
    else:
        words = [task.path, *([] if task.labels is None else ["--labels", task.labels])]
    words += [] if task.batch == Task.batch else ["--batch", str(task.batch)]
    return words + ([] if task.seed == Task.seed else ["--seed", str(task.seed)])


# --- before it runs -----------------------------------------------------------------------------------------------------


def _cache_made(task: Task, *, drop: bool) -> str:
    """Bring the files into the page cache, as far as they fit, or drop them; return the reason why it failed, or ""."""
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


class Child:
    """`python -m ARGUMENTS` in a process of its own: events and last words. Its processes end with the block."""

    def __init__(self, arguments: Sequence[str], prefix: tuple[str, ...] = ()) -> None:
        self._failure = ""
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        # A killed process leaves temporary files, such as TensorFlow's source of traced functions; they go with this directory.
        self._scratch = tempfile.TemporaryDirectory(prefix="mmapstore-bench-")
        # Keras can compute with others; the step that reads every bit is TensorFlow's.
        settings = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", *arguments],
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

    def __enter__(self) -> Child:
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

    def follow(self, take: Callable[[dict[str, Any]], bool], seconds: float, watch: Watch | None = None) -> bool:
        """Give events to `take` until it returns True or the process ends. Returns False if neither came within `seconds`.

        At the event "baseline" the process waits, and `watch` takes its baseline.
        """
        until = time.monotonic() + seconds
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
                self._failure = event["why"]
            elif event["event"] == "baseline" and watch is not None:
                watch.mark()
                assert self._process.stdin is not None
                with contextlib.suppress(OSError):  # it has ended, which will be seen
                    self._process.stdin.write("go\n")
                    self._process.stdin.flush()
            elif take(event):
                return True
        return False

    def end(self) -> tuple[str, int, str]:
        """Kill every process that still runs; return the failure in a line, the exit status, and the end of standard error."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(self.number, signal.SIGKILL)
        if self._process.poll() is None:
            self._process.kill()
        code = self._process.wait()
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _LAST_WORDS))
        words = self._errors.read().decode("utf-8", "replace").strip()
        return self._failure or _last_line(words, code), code, f"{self._failure}\n{words}"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)


def _judge(row: Row, under: limits.Limit, child: Child, given_up_after: float | None, started: bool) -> None:
    """Write the outcome and its reason into the row."""
    why, code, words = child.end()
    stage = "" if row.epochs else ", in the first epoch" if started else ", before the framework had started"
    if row.outcome == FINISHED:
        if not row.epochs or not all(epoch.right for epoch in row.epochs):
            row.why = "the model did not get every x with its y: the checksum differs from that of the data"
    elif given_up_after is not None:
        row.outcome, row.why = GIVEN_UP, f"not finished after {given_up_after:.0f} s{stage}"
    elif under.killed(code, words):
        row.outcome, row.why = KILLED, f"by the limit of {format_bytes(row.limit or 0)}{stage}"
        if under.name == limits.DATA_LIMIT:
            row.why += f": {why}"
    else:
        row.outcome, row.why = FAILED, why


def _last_line(words: str, code: int) -> str:
    """Return the exit status in words, and the last line that was not a note of TensorFlow's on its start."""
    said = next((line.strip() for line in reversed(words.splitlines()) if line.strip() and not _NOTE.match(line)), "")
    ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
    return f"{ended}: {said[:300]}" if said else f"{ended}, and said nothing"


# --- all rows of a run --------------------------------------------------------------------------------------------------


@dataclass
class Measuring:
    """The measurements go into `report`, and the report to the disk at `save_to` after each row."""

    report: Report
    run: Callable[..., Row]  # `running.run`, or its stand-in in a test
    bar: Any  # a `tqdm` bar over all runs
    epochs: int = 2  # of each process, as `timeout`, in seconds, and `cold`
    timeout: float = 600.0
    cold: bool = False
    save_to: Path | None = None

    def rows(self, planned: Sequence[Planned]) -> None:
        """Measure each row once, without a limit."""
        for one in planned:
            if one.runs:
                row = self._measured(one, self.cold)
            else:
                row = one.row
                row.command = command(one.strategy, one.task, epochs=self.epochs, cold=self.cold, run_all=True)
            self.report.rows.append(row)
            self._save()

    def under_limit(self, planned: Sequence[Planned], limit: int) -> None:
        """Measure each row once under the limit; those that hold the data first, because they decide if the others count."""
        try:
            for one in sorted(planned, key=lambda one: not holds_the_data(one.row)):
                self.report.limited.append(self._measured(one, True, limit))
                self._save()
        finally:  # also where Ctrl-C ends it: an unjudged row would look like one that counts
            for rows in grouped(self.report.limited, limit_of).values():
                judge(rows)
            self._save()

    def _save(self) -> None:
        if self.save_to is not None:
            with explaining_write_errors(self.save_to):
                write_text_atomically(self.save_to, self.report.to_json())

    def _measured(self, one: Planned, cold: bool, limit: int | None = None) -> Row:
        under = "" if limit is None else f" under {format_bytes(limit)}"
        name = f"{title(one.row.strategy)}, {one.task.form}, {one.task.kind}, {format_bytes(one.task.nbytes)}"
        self.bar.set_description_str(f"{name}{under}")
        row = self.run(one.strategy, one.task, timeout=self.timeout, epochs=self.epochs, cold=cold, limit=limit)
        private = f", {signed(row.private)} private" if row.private is not None else ""
        speed = rate(row)
        self.bar.set_postfix_str(f"last: {row.outcome}{private}{f', {format_bytes(speed)}/s' if speed else ''}")
        self.bar.update()
        return row


def judge(rows: Sequence[Row]) -> None:
    """Write into each finished row of one limit that it does not count, unless a row that holds the data was killed.

    A limit that lets the whole data set into memory is no proof that a strategy does without it.
    """
    if proof(rows) is not None:
        return
    in_ram = [f"{row.strategy}: {row.outcome}{f' ({row.why})' if row.why else ''}" for row in rows if holds_the_data(row)]
    reason = f"does not count: no strategy that holds the data was killed under this limit ({'; '.join(in_ram) or 'none was run'})"
    for row in rows:
        if row.outcome == FINISHED:
            row.why = "; ".join(filter(None, [row.why, reason]))
