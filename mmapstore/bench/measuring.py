"""One run of the benchmark: each row saved as soon as it is measured, with the line that reproduces it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files.durable_writes import write_text_atomically
from ..files.system_errors import explaining_write_errors
from ..plain.memory_budget import format_bytes
from .contract import FINISHED, Report, Row
from .derived import grouped, holds_the_data, limit_of, proof, rate, signed, title
from .running import command
from .workload import Planned


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
                row = one.not_run()
                row.command = command(one.strategy, one.task, epochs=self.epochs, cold=self.cold, run_all=True)
            self.report.rows.append(row)
            self._save()

    def under_limit(self, planned: Sequence[Planned], limit: int) -> None:
        """Measure each row once under the limit; those that hold the data first, because they decide if the others count."""
        try:
            for one in sorted(planned, key=lambda one: not one.holds_the_data()):
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
        name = f"{title(one.name)}, {one.task.form}, {one.task.kind}, {format_bytes(one.task.nbytes)}"
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
