"""One run of the benchmark: its stages, each row saved as soon as it is measured, with the line that reproduces it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files.durable_writes import write_text_atomically
from ..files.system_errors import explaining_write_errors
from ..plain.memory_budget import format_bytes
from .contract import FINISHED, Report, Row, Smallest, Task, name_of
from .derived import data_of, framework_of, grouped, limit_of, rate, signed, title, variant_of
from .limits import judge, smallest_limit, sweep
from .running import command
from .scaling import measured_fit
from .workload import Growth, Planned


@dataclass
class Measuring:
    """The measurements go into `report`, and the report to the disk at `save_to` after each row.

    Parameters
    ----------
    run : `running.run`, or its stand-in in a test
    bar : a `tqdm` bar over all runs
    epochs, timeout, cold : of each process; seconds
    """

    report: Report
    run: Callable[..., Row]
    bar: Any
    epochs: int = 2
    timeout: float = 600.0
    cold: bool = False
    save_to: Path | None = None
    notes: list[str] = field(default_factory=list)

    def rows(self, planned: Sequence[Planned]) -> None:
        """Measure each row once, without a limit."""
        for one in planned:
            if one.runs:
                row = self._measured(one.strategy, one.task, epochs=self.epochs, cold=self.cold)
            else:
                row = one.not_run()
                row.command = command(one.strategy, one.task, epochs=self.epochs, cold=self.cold, run_all=True)
            self.report.rows.append(row)
            self.save()

    def under_limit(self, planned: Sequence[Planned], limit: int) -> None:
        """Measure each row once under the limit; those that hold the data first, because they decide if the others count."""
        try:
            for one in sorted(planned, key=lambda one: not one.holds_the_data()):
                self.report.limited.append(self._measured(one.strategy, one.task, epochs=self.epochs, cold=True, limit=limit))
                self.save()
        finally:  # also where Ctrl-C ends it: an unjudged row would look like one that counts
            for rows in grouped(self.report.limited, limit_of).values():
                judge(rows)
            self.save()

    def smallest_limits(self, planned: Sequence[Planned], most: int) -> None:
        """Search the smallest limit of each row."""
        for one in planned:
            task = one.task
            found = smallest_limit(self._under(one, 1), framework_of(self.report) + self._private(one), most=most)
            if found is None:
                limit, seconds = format_bytes(most), f"{self.timeout:.0f} s"
                self.notes.append(
                    f"{_words(one.strategy, task)}: no limit up to {limit} was enough to finish twice within {seconds}."
                )
            else:
                self.report.bisected.append(Smallest(name_of(one.strategy), task.form, task.kind, task.nbytes, found))
            self.save()

    def throughput_against_limit(self, planned: Sequence[Planned], most: int) -> None:
        """Measure each row under limits that fall."""
        for one in planned:
            for row in sweep(self._under(one, max(2, self.epochs)), one.not_run(), framework_of(self.report), most):
                row.command = row.command or command(one.strategy, one.task, limit=row.limit)
                self.report.swept.append(row)
                self.save()

    def growth(self, line: Growth) -> None:
        """Add one line to `report.fits`, or a note with the reason why there is none."""
        fit, why = measured_fit(
            lambda setting: self._measured(line.strategy, setting.task, epochs=1, knobs=setting.knobs),
            line.strategy, line.knob, line.settings,
        )  # fmt: skip
        if fit is None:
            self.notes.append(f"{_words(line.strategy, line.settings[0].task)}: no line of memory against {line.knob}: {why}.")
        else:
            self.report.fits.append(fit)
        self.save()

    def save(self) -> None:
        """Write the report so far; the file is whole at every moment."""
        if self.save_to is not None:
            with explaining_write_errors(self.save_to):
                write_text_atomically(self.save_to, self.report.to_json())

    def _under(self, one: Planned, epochs: int) -> Callable[[int], Row]:
        return lambda limit: self._measured(one.strategy, one.task, epochs=epochs, cold=True, limit=limit)

    def _private(self, one: Planned) -> int:
        """Return the bytes that the strategy takes beside the framework: as measured without a limit here, or as predicted."""
        own = one.not_run()
        for row in self.report.rows:
            if (*variant_of(row), *data_of(row)) == (*variant_of(own), *data_of(own)) and row.outcome == FINISHED:
                return row.private if row.private is not None else one.predicted or 0
        return one.predicted or 0

    def _measured(self, strategy: str, task: Task, **how: Any) -> Row:
        under = f" under {format_bytes(how['limit'])}" if how.get("limit") else ""
        knobs = "".join(f", {name.replace('_', '-')} {value}" for name, value in (how.get("knobs") or {}).items())
        self.bar.set_description_str(f"{_words(strategy, task)}, {format_bytes(task.nbytes)}{knobs}{under}")
        row = self.run(strategy, task, timeout=self.timeout, **how)
        private = f", {signed(row.private)} private" if row.private is not None else ""
        speed = rate(row)
        self.bar.set_postfix_str(f"last: {row.outcome}{private}{f', {format_bytes(speed)}/s' if speed else ''}")
        self.bar.update()
        return row


def _words(strategy: str, task: Task) -> str:
    return f"{title(name_of(strategy))}, {task.form}, {task.kind}"
