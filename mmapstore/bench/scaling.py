"""The growth of private memory with the data, the batch and the look-ahead: straight lines, with intervals of their slopes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .contract import FINISHED, Fit, Row, Task, name_of

REPEATS = 2  # of each point: without repeats three points leave one degree of freedom, and a useless interval
BATCHES = (16, 64, 256)
LOOK_AHEADS = (1, 4, 16)
LOOK_AHEAD = "look_ahead"  # the knob's name in `running.run`
# Student's t, two-sided, 95 %, by degrees of freedom: two less than the points, of which a line has at most 6.
_STUDENTS_T = (math.nan, 12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


@dataclass(frozen=True)
class Setting:
    """One value of the knob, and the run that has it."""

    value: float
    task: Task
    knobs: dict[str, int] | None = None


def measured_fit(
    run: Callable[[Setting], Row], strategy: str, knob: str, settings: Sequence[Setting], repeats: int = REPEATS
) -> tuple[Fit | None, str]:
    """Run each setting `repeats` times, in turns, and return (the line, ""), or (None, the reason).

    A setting that did not finish is not tried again, and the line goes through the others.
    """
    points: list[tuple[float, int]] = []
    unfinished: dict[float, Row] = {}
    for setting in [*settings] * repeats:
        if setting.value in unfinished:
            continue
        row = run(setting)
        if row.outcome == FINISHED and row.private is not None:
            points.append((setting.value, row.private))
        else:
            unfinished[setting.value] = row
    fit = fitted(name_of(strategy), settings[0].task.form, settings[0].task.kind, knob, points)
    if fit is not None:
        return fit, ""
    reasons = sorted({f"{row.outcome}{f': {row.why}' if row.why else ''}" for row in unfinished.values()})
    return None, f"a line needs 3 measurements at 2 values, there are {len(points)}; {'; '.join(reasons) or 'nothing failed'}"


def fitted(strategy: str, form: str, kind: str, knob: str, points: Sequence[tuple[float, int]]) -> Fit | None:
    """Return the line of least squares through (knob, bytes); None where the points leave its slope or interval open.

    >>> fit = fitted("fit_memmap", "npy", "next", "data", [(0, 5), (1, 7), (2, 9), (3, 11)])
    >>> fit.slope, fit.low, fit.high, fit.intercept
    (2.0, 2.0, 2.0, 5.0)
    """
    knobs, sizes = [knob for knob, _ in points], [nbytes for _, nbytes in points]
    free = len(points) - 2
    if free < 1 or len(set(knobs)) < 2:
        return None
    slope, intercept = statistics.linear_regression(knobs, sizes)
    misses = math.fsum((nbytes - intercept - slope * knob) ** 2 for knob, nbytes in points)
    half = _STUDENTS_T[min(free, 10)] * math.sqrt(misses / free / ((len(points) - 1) * statistics.variance(knobs)))
    return Fit(strategy, form, kind, knob, slope, slope - half, slope + half, intercept, list(points))
