"""One run of the benchmark: its stages, each row saved as soon as it is there, with the line that reproduces it."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files.durable_writes import explaining_write_errors, write_text_atomically
from ..plain.memory_budget import format_bytes
from .contract import FINISHED, Report, Row, Smallest, Task, name_of
from .findings import framework_of, grouped, limit_of, rate, signed, task_of, title, way_of
from .limits import holds_the_data, judge, smallest_limit, sweep
from .plan import Planned, TimeLeft, format_duration, seconds_of
from .running import command
from .scaling import Setting, measured_fit


@dataclass
class Measuring:
    """What is measured goes into `report`, and that to the disk at `save_to` after each row.

    Parameters
    ----------
    run : `running.run`, or what stands for it in a test
    left : estimates, for the line of progress
    epochs, timeout, cold : of each process; seconds
    """

    report: Report
    run: Callable[..., Row]
    left: TimeLeft
    epochs: int = 2
    timeout: float = 600.0
    cold: bool = False
    save_to: Path | None = None
    progress: Progress = field(default_factory=lambda: Progress())
    notes: list[str] = field(default_factory=list)

    def rows(self, planned: Sequence[Planned]) -> None:
        """Each way once, without a limit."""
        for one in planned:
            if not one.runs:
                row = one.not_run()
                row.command = command(one.strategy, one.task, epochs=self.epochs, cold=self.cold, run_all=True)
            else:
                row = self._measured(one.strategy, one.task, epochs=self.epochs, cold=self.cold)
            self.report.rows.append(row)
            self.save()

    def under_limit(self, planned: Sequence[Planned], limit: int) -> None:
        """Each way once under the limit; those that hold the data first, for they tell whether the others count."""
        order = sorted(planned, key=lambda one: not holds_the_data(one.predicted, one.task.nbytes))
        try:
            for one in order:
                self.report.limited.append(self._measured(one.strategy, one.task, epochs=self.epochs, cold=True, limit=limit))
                self.save()
        finally:  # also where Ctrl-C ends it: an unjudged row would look like one that counts
            for rows in grouped(self.report.limited, limit_of).values():
                judge(rows)
            self.save()

    def smallest_limits(self, planned: Sequence[Planned], most: int) -> None:
        for one in planned:
            task = one.task
            found = smallest_limit(
                lambda limit, one=one: self._measured(one.strategy, one.task, epochs=1, cold=True, limit=limit),  # type: ignore[misc]
                framework_of(self.report) + self._private(one),
                most=most,
            )
            if found is None:
                self.notes.append(
                    f"{_words(one.strategy, task)}: no limit up to {format_bytes(most)} was enough to finish twice within "
                    f"{self.timeout:.0f} s."
                )
            else:
                self.report.bisected.append(Smallest(name_of(one.strategy), task.form, task.kind, task.nbytes, found))
            self.save()

    def throughput_against_limit(self, planned: Sequence[Planned], most: int) -> None:
        for one in planned:
            rows = sweep(
                lambda limit, one=one: self._measured(  # type: ignore[misc]
                    one.strategy, one.task, epochs=max(2, self.epochs), cold=True, limit=limit
                ),
                one.not_run(),
                framework_of(self.report),
                most,
            )
            for row in rows:
                if not row.command:
                    row.command = command(one.strategy, one.task, limit=row.limit)
                    self.left.skipped(seconds_of(one.strategy, one.task, max(2, self.epochs), cold=True))
                self.report.swept.append(row)
                self.save()

    def growth(self, strategy: str, knob: str, settings: Sequence[Setting]) -> None:
        """One line of `report.fits`, or a note that says why there is none."""

        def run(setting: Setting) -> Row:
            knobs = {"knobs": setting.knobs} if setting.knobs else {}
            return self._measured(strategy, setting.task, epochs=1, **knobs)

        fit, why = measured_fit(run, strategy, knob, settings)
        if fit is None:
            self.notes.append(f"{_words(strategy, settings[0].task)}: no line of memory against {knob}: {why}.")
        else:
            self.report.fits.append(fit)
        self.save()

    def save(self) -> None:
        """The report so far; whole at every moment, also if the machine stops in the middle of it."""
        if self.save_to is None:
            return
        with explaining_write_errors(self.save_to):
            write_text_atomically(self.save_to, self.report.to_json())

    def _private(self, one: Planned) -> int:
        """Bytes that the way takes beside the framework: as measured without a limit in this run, or as predicted."""
        own = one.not_run()
        same = (row for row in self.report.rows if (*way_of(row), *task_of(row)) == (*way_of(own), *task_of(own)))
        measured = next((row.private for row in same if row.outcome == FINISHED), None)
        return measured if measured is not None else one.predicted or 0

    def _measured(self, strategy: str, task: Task, **how: Any) -> Row:
        estimate = seconds_of(strategy, task, how["epochs"], how.get("cold", False))
        began = time.monotonic()
        limit, knobs = how.get("limit"), how.get("knobs")
        under = f" under {format_bytes(limit)}" if limit else ""
        knob = "".join(f", {name.replace('_', '-')} {value}" for name, value in (knobs or {}).items())
        self.progress.begins(f"{_words(strategy, task)}, {format_bytes(task.nbytes)}{knob}{under}", self.left.seconds)
        row = self.run(strategy, task, timeout=self.timeout, **how)
        self.left.took(time.monotonic() - began, estimate)
        self.progress.ended(row)
        return row


def _words(strategy: str, task: Task) -> str:
    return f"{title(name_of(strategy))}, {task.form}, {task.kind}"


class Progress:
    """A line on a terminal that says what runs, for how long still, and how the last one went; elsewhere nothing."""

    def __init__(self, to: Any = None) -> None:
        self._to = sys.stderr if to is None else to
        self._shown = bool(getattr(self._to, "isatty", lambda: False)())
        self._runs, self._last, self._width = 0, "", 0

    def begins(self, words: str, seconds_left: float) -> None:
        self._runs += 1
        self.says(f"run {self._runs}, about {format_duration(seconds_left)} left: {words}{self._last}")

    def ended(self, row: Row) -> None:
        speed = rate(row)
        figures = [
            row.outcome,
            f"{signed(row.private)} private" if row.private is not None else "",
            f"{format_bytes(speed)}/s" if speed else "",
        ]
        self._last = f" | {title(row.strategy)}, {row.form}, {row.kind}: {', '.join(filter(None, figures))}"

    def clear(self) -> None:
        self.says("")

    def says(self, words: str) -> None:
        if self._shown:
            columns = shutil.get_terminal_size().columns - 1
            print(f"\r{words[:columns]:<{self._width}}", end="" if words else "\r", file=self._to, flush=True)
            self._width = len(words[:columns])
