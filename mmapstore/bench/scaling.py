"""How private memory grows with the data, the batch and the look-ahead: straight lines, with what is known of their slopes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from .contract import FINISHED, Fit, Row, Task, name_of

REPEATS = 2  # of each point: without repeats three points leave one degree of freedom, and an interval that says nothing
BATCHES = (16, 64, 256)
LOOK_AHEADS = (1, 4, 16)
LOOK_AHEAD = "look_ahead"  # the knob's name in `running.run`


@dataclass(frozen=True)
class Setting:
    """One value of the knob, and the run that has it."""

    value: float
    task: Task
    knobs: dict[str, int] | None = None


def data_sizes(largest: int) -> list[int]:
    """Bytes of the data sets that a line is laid through.

    >>> data_sizes(8_000_000_000)
    [500000000, 2000000000, 8000000000]
    """
    return [largest // 16, largest // 4, largest]


def data_settings(tasks: Iterable[Task]) -> list[Setting]:
    """Data sets of several sizes, at the same batch: bytes of memory for each byte of data."""
    return [Setting(task.nbytes, task) for task in tasks]


def batch_settings(task: Task) -> list[Setting]:
    """The same data in batches of several sizes: bytes of memory for each sample in a batch."""
    return [Setting(batch, replace(task, batch=batch)) for batch in BATCHES]


def look_ahead_settings(task: Task) -> list[Setting]:
    """The same data and batch, with more batches made before they are asked for: bytes of memory for each such batch."""
    return [Setting(count, task, {LOOK_AHEAD: count}) for count in LOOK_AHEADS]


def measured_fit(
    run: Callable[[Setting], Row], strategy: str, knob: str, settings: Sequence[Setting], repeats: int = REPEATS
) -> tuple[Fit | None, str]:
    """Run each setting `repeats` times, in turns, and lay the line; where there is none, None and why not.

    A setting that did not finish is not tried again, and the line goes through the others.
    """
    points: list[tuple[float, int]] = []
    unfinished: dict[float, Row] = {}
    form, kind = settings[0].task.form, settings[0].task.kind
    for _ in range(repeats):
        for setting in settings:
            if setting.value in unfinished:
                continue
            row = run(setting)
            if row.outcome == FINISHED and row.private is not None:
                points.append((setting.value, row.private))
            else:
                unfinished[setting.value] = row
    fit = fitted(name_of(strategy), form, kind, knob, points)
    if fit is not None:
        return fit, ""
    reasons = sorted({f"{row.outcome}{f': {row.why}' if row.why else ''}" for row in unfinished.values()})
    return None, f"a line needs 3 measurements at 2 values, there are {len(points)}; {'; '.join(reasons) or 'nothing failed'}"


def fitted(strategy: str, form: str, kind: str, knob: str, points: Sequence[tuple[float, int]]) -> Fit | None:
    """The line of least squares through (knob, bytes); None where the points leave its slope, or how sure it is, open.

    >>> fit = fitted("fit_memmap", "npy", "next", "data", [(0, 5), (1, 7), (2, 9), (3, 11)])
    >>> fit.slope, fit.low, fit.high, fit.intercept
    (2.0, 2.0, 2.0, 5.0)
    """
    knobs = [knob for knob, _ in points]
    if len(points) < 3 or len(set(knobs)) < 2:
        return None
    mean_knob, mean_bytes = statistics.fmean(knobs), statistics.fmean(nbytes for _, nbytes in points)
    spread = math.fsum((knob - mean_knob) ** 2 for knob in knobs)
    slope = math.fsum((knob - mean_knob) * (nbytes - mean_bytes) for knob, nbytes in points) / spread
    intercept = mean_bytes - slope * mean_knob
    misses = math.fsum((nbytes - intercept - slope * knob) ** 2 for knob, nbytes in points)
    free = len(points) - 2
    half = students_t(free) * math.sqrt(misses / free / spread)
    return Fit(strategy, form, kind, knob, slope, slope - half, slope + half, intercept, list(points))


def students_t(free: int, confidence: float = 0.95) -> float:
    """What Student's t of `free` degrees of freedom stays within, on both sides of 0, with this probability.

    >>> [round(students_t(free), 3) for free in (1, 2, 4, 10, 100)]
    [12.706, 4.303, 2.776, 2.228, 1.984]
    """
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / sqrt(free)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, free) < confidence else (low, middle)
    return math.tan(low) * math.sqrt(free)


def _within(angle: float, free: int) -> float:
    """P(|t| < tan(angle) * sqrt(free)): a finite sum for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = free % 2
    term = total = 0.0 if free == 1 else cosine if odd else 1.0
    for power in range(2 + odd, free - 1, 2):
        term *= cosine * cosine * (power - 1) / power
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
