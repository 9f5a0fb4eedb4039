"""Two reports side by side: every figure with the range that repeated runs differ by, and the figures that moved beyond it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..plain.memory_budget import format_bytes
from .contract import FINISHED, Fit, Report, Row, Smallest
from .derived import (
    EACH,
    finished,
    framework_of,
    grouped,
    is_right,
    rate,
    rates,
    share_of,
    signed,
    slope_words,
    speed_of,
    speed_words,
    title,
)
from .limits import TOLERANCE
from .report_model import STORED, STRATEGY, Column, Line, Section
from .table import section_text

# Bytes: the noise of allocators and threads from run to run. There is one peak a row, so no spread to go by.
MEMORY_NOISE = 8_000_000
_RELATIVE = 0.05  # of the larger peak
_SWEEP = "throughput against the limit"
_LEGEND = """higher, lower: a throughput of which no epoch of one run is as slow, or fast, as any of the other, the first left out
of three; memory that moved by over 8 MB and over 5 %, a limit by over 5 %; a slope whose 95 % intervals lie apart.
one epoch each: there is no range to judge by."""
_COLUMNS = (
    STRATEGY,
    Column(STORED.head, words=True),
    Column(("figure", ""), words=True),
    *(Column((when, "")) for when in ("before", "now", "ratio")),
    Column(("", "change"), words=True),
)


@dataclass(frozen=True)
class Figure:
    """One figure, the range `low` to `high` that repeated runs differ by, and its text. `sure` is False without a range."""

    value: float
    low: float
    high: float
    text: str
    sure: bool = True

    def change(self, old: Figure) -> str:
        """Return "higher" or "lower" than `old` beyond both ranges, "" within them, or "one epoch each"."""
        if not self.sure and not old.sure:
            return "one epoch each" if self.value != old.value else ""
        return "higher" if self.low > old.high else "lower" if self.high < old.low else ""


Key = tuple[Any, ...]  # stage, kind, bytes of data; name, form; figure, and the limit that makes the row another one


def compare(old: Report, new: Report, width: int = 120) -> str:
    """Describe the changes from `old` to `new`. Rows are the same if strategy, form, task, bytes of data and limit are."""
    before, now = figures(old), figures(new)
    both = [key for key in now if key in before]
    changes = {key: now[key].change(before[key]) for key in both}
    outcomes = dict(_outcomes(old)), dict(_outcomes(new))
    ended = {key: (outcomes[0][key], after) for key, after in outcomes[1].items() if outcomes[0].get(key, after) != after}
    counts = {"with another outcome": len(ended)}
    counts |= {f"{word}": sum(change == word for change in changes.values()) for word in ("higher", "lower")}
    words = ", ".join(f"{count} {change}" for change, count in counts.items() if count) or "none of them changed"
    parts = [f"CHANGES: {len(both)} figures in both: {words}.", "\n".join(_machines(old, new))]
    for (stage, kind, nbytes), keys in grouped(dict.fromkeys([*now, *before]), lambda key: key[:3]).items():
        lines, same = [], 0
        for key in keys:
            change, pair = changes.get(key, ""), (before.get(key), now.get(key))
            if stage == _SWEEP and None not in pair and change in ("", "one epoch each"):
                same += 1
                continue
            ratio = f"{pair[1].value / pair[0].value:.2f}" if pair[0] and pair[1] and pair[0].value > 0 else "-"
            remark = change or ("within the range" if None not in pair else "only now" if pair[1] else "only before")
            texts = [figure.text if figure else "-" for figure in pair]
            lines.append(Line((key[3], key[4], key[5], *texts, ratio), remark, change in ("higher", "lower")))
        if lines:
            parts.append(section_text(Section(f"{stage}: {kind}, {format_bytes(nbytes)}", (), _COLUMNS, tuple(lines)), width))
        if same:
            parts.append(f"{stage}: {same} figures as before.".upper())
    if ended:
        parts.append(
            "\n".join(["OTHER OUTCOMES", *(f"  {', '.join(key)}: {was} before, now {now}" for key, (was, now) in ended.items())])
        )
    return "\n\n".join([*parts, _LEGEND])


def figures(report: Report) -> dict[Key, Figure]:
    """Return every figure of a report that can be compared."""
    found: dict[Key, Figure] = {}

    def add(stage: str, each: Row | Smallest | Fit, nbytes: int, name: str, figure: Figure, *more: Any) -> None:
        found[(stage, each.kind, nbytes, title(each.strategy), each.form, name, *more)] = figure

    for stage, row, limit, words in _rows(report):
        if not finished(row):
            continue
        if row.private is not None and stage != _SWEEP:
            noise = max(MEMORY_NOISE, _RELATIVE * row.private) / 2
            figure = Figure(row.private, row.private - noise, row.private + noise, signed(row.private))
            add(stage, row, row.data_nbytes, f"private{words}", figure, limit, row.limited_by)
        if speed := rate(row):
            spread = rates(row)
            if len(spread) < 2:  # the first epoch is slower, and widens the spread
                spread = [speed_of(row, epoch) for epoch in row.epochs if epoch.seconds > 0]
            figure = Figure(speed, min(spread), max(spread), speed_words(speed), len(spread) > 1)
            add(stage, row, row.data_nbytes, f"throughput{words}", figure, limit, row.limited_by)
    for each in report.bisected:
        figure = Figure(each.limit, each.limit / (1 + TOLERANCE), each.limit, format_bytes(each.limit))
        add("smallest limit", each, each.data_nbytes, "limit", figure)
    for fit in report.fits:
        figure = Figure(fit.slope, fit.low, fit.high, slope_words(fit, fit.slope))
        add("growth of memory", fit, 0, f"per {EACH.get(fit.knob, fit.knob)}", figure)
    return found


def _rows(report: Report) -> Iterator[tuple[str, Row, Any, str]]:
    """Yield (stage, row, limit, limit in words). The limit of a sweep is the share of the data: the framework's part varies."""
    framework = framework_of(report)

    def share(row: Row) -> float:
        return round(share_of(row, framework), 2)

    yield from (("without a limit", row, None, "") for row in report.rows)
    yield from (("under a hard limit", row, row.limit, f" under {format_bytes(row.limit or 0)}") for row in report.limited)
    yield from ((_SWEEP, row, share(row), f" at {share(row):.0%}") for row in report.swept)


def _outcomes(report: Report) -> Iterator[tuple[tuple[str, ...], str]]:
    for stage, row, _, words in _rows(report):
        outcome = row.outcome if row.outcome != FINISHED or is_right(row) else "finished on wrong data"
        yield (f"{stage}{words}", title(row.strategy), row.form, row.kind, format_bytes(row.data_nbytes)), outcome


def _machines(old: Report, new: Report) -> list[str]:
    before, after = ({**each.machine, **each.machine.get("versions", {}), "seed": each.seed} for each in (old, new))
    found = [
        f"  {name}: {before.get(name, 'none')} before, now {after.get(name, 'none')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name) and name != "versions"
    ]
    return ["Machine or versions differ, which alone may be the reason:", *found] if found else ["Same machine, same versions."]
