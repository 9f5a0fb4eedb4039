"""Two reports side by side: the change of each row, and the changes that are more than the epochs of one run differ by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..plain.memory_budget import format_bytes
from .contract import FINISHED, Report, Row
from .derived import (
    EACH,
    data_of,
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
    variant_of,
)
from .report_model import STORED, STRATEGY, Column, Line, Section
from .table import section_text

# Bytes: the noise of allocators and threads from run to run. There is one peak a row, so no spread to go by.
MEMORY_NOISE = 8_000_000
_RELATIVE = 0.05  # of the larger peak
_SWEEP = "throughput against the limit"
_LEGEND = f"""faster, slower: no epoch of one run is as slow, or fast, as any of the other, the first left out of three.
within spread: the epochs of both overlap. one epoch each: there is no spread to judge by.
more memory, less memory: by over {format_bytes(MEMORY_NOISE)} and {_RELATIVE:.0%}, by which peaks differ from run to run."""

_COLUMNS = (
    STRATEGY,
    Column(STORED.head, words=True),
    *(Column((name, when)) for name in ("private", "throughput") for when in ("before", "now")),
    Column(("", "ratio")),
    Column(("", "change"), words=True),
)


def compare(old: Report, new: Report, width: int = 120) -> str:
    """Describe the changes from `old` to `new`. Rows are the same if strategy, form, task, bytes of data and limit are.

    A throughput counts as changed where no epoch of one run is as fast, or slow, as any of the other; with one epoch each
    there is no spread, and the row says so. Memory counts as changed by over 8 MB and over 5 %.
    """
    stages = {
        "without a limit": matched(old.rows, new.rows),
        "under a hard limit": matched(old.limited, new.limited),
        # These limits are the framework's memory, which differs from run to run, and a share of the data, which does not.
        _SWEEP: matched(
            old.swept,
            new.swept,
            lambda row: round(share_of(row, framework_of(old)), 2),
            lambda row: round(share_of(row, framework_of(new)), 2),
        ),
    }
    parts = ["CHANGES: " + _summary(list(stages.values())), "\n".join(_machines(old, new))]
    for name, (pairs, *alone) in stages.items():
        if name == _SWEEP:  # eight rows for each strategy
            same = sum(not pair.changed for pair in pairs)
            pairs = [pair for pair in pairs if pair.changed]
            parts += [f"{_SWEEP}: {same} row{'s' if same != 1 else ''} as before.".upper()] if same else []
        for (kind, nbytes), group in grouped(pairs, lambda pair: data_of(pair.new)).items():
            lines = tuple(pair.line() for pair in group)
            parts.append(section_text(Section(f"{name}: {kind}, {format_bytes(nbytes)}", (), _COLUMNS, lines), width))
        for when, rows in zip(("before", "now"), alone, strict=True):
            if rows:
                parts.append("\n".join([f"{name}, only {when}".upper(), *(f"  {_words(row)}: {row.outcome}" for row in rows)]))
    parts += ["\n".join(lines) for lines in (_bisected(old, new), _fits(old, new)) if len(lines) > 1]
    return "\n\n".join([*parts, _LEGEND])


@dataclass(frozen=True)
class Pair:
    """The same row in both reports."""

    old: Row
    new: Row

    @property
    def ratio(self) -> float | None:
        before, after = rate(self.old), rate(self.new)
        return after / before if before and after else None

    @property
    def speed(self) -> str:
        """ "faster" or "slower" beyond the spread of the epochs; "" within it; "?" where there is one epoch, so no spread."""
        if self.ratio is None or self.ratio == 1:
            return ""
        before, after = _spread(self.old), _spread(self.new)
        if len(before) < 2 and len(after) < 2:
            return "?"
        return "faster" if min(after) > max(before) else "slower" if max(after) < min(before) else ""

    @property
    def memory(self) -> str:
        """ "more memory" or "less memory" where it moved beyond the noise."""
        if not (finished(self.old) and finished(self.new)) or self.old.private is None or self.new.private is None:
            return ""
        moved = self.new.private - self.old.private
        if abs(moved) <= max(MEMORY_NOISE, _RELATIVE * max(self.old.private, self.new.private)):
            return ""
        return "more memory" if moved > 0 else "less memory"

    @property
    def outcome(self) -> str:
        before, after = (
            row.outcome if row.outcome != FINISHED or is_right(row) else "finished on wrong data" for row in (self.old, self.new)
        )
        return f"{before} before, now {after}" if before != after else ""

    @property
    def changed(self) -> bool:
        return bool(self.outcome or self.memory or self.speed.rstrip("?"))

    def line(self) -> Line:
        both = (self.old, self.new)
        under = f", under {format_bytes(self.new.limit)}" if self.new.limit else ""
        cells = [title(self.new.strategy) + under, self.new.form, *(signed(row.private) for row in both)]
        cells += [*(speed_words(rate(row)) for row in both), f"{self.ratio:.2f}x" if self.ratio else "-"]
        speed = {"": "within spread" if self.ratio else "", "?": "one epoch each"}.get(self.speed, self.speed)
        return Line(tuple(cells), "; ".join(filter(None, [self.outcome, self.memory, speed])) or "nothing", self.changed)


def _spread(row: Row) -> list[float]:
    """Return the speeds of the counted epochs; of all where one alone counts: the first is slower, and widens the spread."""
    found = rates(row)
    return found if len(found) > 1 else [speed_of(row, epoch) for epoch in row.epochs if epoch.seconds > 0]


Matched = tuple[list[Pair], list[Row], list[Row]]
_LimitOf = Callable[[Row], Any]


def matched(
    before: Sequence[Row], after: Sequence[Row], limit_before: _LimitOf | None = None, limit_after: _LimitOf | None = None
) -> Matched:
    """Return (rows of both, rows only before, rows only after), the first in the order of `after`.

    Of several rows that are the same the first goes with the first.
    """

    def key(row: Row, limit_of: _LimitOf | None) -> tuple[Any, ...]:
        return *variant_of(row), *data_of(row), limit_of(row) if limit_of else row.limit, row.limited_by

    left = grouped(before, lambda row: key(row, limit_before))
    pairs, only_new = [], []
    for row in after:
        others = left.get(key(row, limit_after))
        if others:
            pairs.append(Pair(others.pop(0), row))
        else:
            only_new.append(row)
    return pairs, [row for rows in left.values() for row in rows], only_new


# --- words --------------------------------------------------------------------------------------------------------------


def _words(row: Row) -> str:
    under = f", under {format_bytes(row.limit)}" if row.limit else ""
    return f"{title(row.strategy)}, {row.form}, {row.kind}, {format_bytes(row.data_nbytes)}{under}"


def _summary(stages: Sequence[Matched]) -> str:
    pairs = [pair for each, _, _ in stages for pair in each]
    counts = {"with another outcome": sum(bool(pair.outcome) for pair in pairs)}
    counts |= {f"with {moved}": sum(pair.memory == moved for pair in pairs) for moved in ("more memory", "less memory")}
    counts |= {moved: sum(pair.speed == moved for pair in pairs) for moved in ("faster", "slower")}
    words = ", ".join(f"{count} {change}" for change, count in counts.items() if count)
    before, now = (sum(len(stage[place]) for stage in stages) for place in (1, 2))
    words = words or "none of them changed beyond the spread"
    return f"{len(pairs)} rows in both: {words}; {before} only before, {now} only now."


def _machines(old: Report, new: Report) -> list[str]:
    before, after = ({**each.machine, **each.machine.get("versions", {}), "seed": each.seed} for each in (old, new))
    found = [
        f"  {name}: {before.get(name, 'none')} before, now {after.get(name, 'none')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name) and name != "versions"
    ]
    return ["Machine or versions differ, which alone may be the reason:", *found] if found else ["Same machine, same versions."]


def _bisected(old: Report, new: Report) -> list[str]:
    before, after = ({(*variant_of(each), *data_of(each)): each.limit for each in report.bisected} for report in (old, new))
    found = ["SMALLEST LIMIT UNDER WHICH AN EPOCH FINISHED"]
    for strategy, form, kind, nbytes in dict.fromkeys([*before, *after]):
        key = strategy, form, kind, nbytes
        words = [f"{format_bytes(limits[key])} {when}" for limits, when in ((before, "before"), (after, "now")) if key in limits]
        found.append(f"  {title(strategy)}, {form}, {kind}, {format_bytes(nbytes)}: {', '.join(words)}")
    return found


def _fits(old: Report, new: Report) -> list[str]:
    before, after = ({(*variant_of(fit), fit.kind, fit.knob): fit for fit in report.fits} for report in (old, new))
    found = ["BYTES OF MEMORY, SLOPES"]
    for key in dict.fromkeys([*before, *after]):
        fits = [(fit, when) for fit, when in ((before.get(key), "before"), (after.get(key), "now")) if fit is not None]
        words = ", ".join(f"{slope_words(fit, fit.slope)} {when}" for fit, when in fits)
        if len(fits) == 2:
            (one, _), (other, _) = fits
            words += f"; their intervals {'lie apart' if one.high < other.low or other.high < one.low else 'overlap'}"
        strategy, form, kind, knob = key
        found.append(f"  {title(strategy)}, {form}, {kind}, for each {EACH.get(knob, knob)}: {words}")
    return found
