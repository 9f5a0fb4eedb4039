"""Two reports side by side: what changed of each way, and which changes are more than the epochs of one run differ by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..plain.memory_budget import format_bytes
from .contract import FINISHED, Fit, Report, Row
from .findings import (
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
    task_of,
    title,
    way_of,
)
from .sections import Column, Line, Section
from .table import section_text

# Bytes: what allocators and threads of a framework differ by from run to run. There is one peak a row, so no spread to go by.
MEMORY_NOISE = 8_000_000
_RELATIVE = 0.05  # of the larger peak

_SWEEP = "throughput against the limit"
_LEGEND = f"""faster, slower: no epoch of one run is as slow, or fast, as any of the other, the first left out of three.
within spread: the epochs of both overlap. one epoch each: there is no spread to judge by.
more memory, less memory: by over {format_bytes(MEMORY_NOISE)} and {_RELATIVE:.0%}, which peaks differ by from run to run."""

_COLUMNS = (
    Column(("way", ""), words=True),
    Column(("stored", "as"), words=True),
    Column(("private", "before")),
    Column(("private", "now")),
    Column(("throughput", "before")),
    Column(("throughput", "now")),
    Column(("now /", "before")),
    Column(("", "what changed  "), words=True),
)


def compare(old: Report, new: Report, width: int = 120) -> str:
    """What changed from `old` to `new`, as text. Rows are the same if strategy, form, task, bytes of data and limit are.

    A throughput counts as changed where no epoch of one run is as fast, or slow, as any of the other; with one epoch each
    there is no spread, and that is said. Memory, where it moved by over 8 MB and over 5 %: what peaks differ by anyhow.
    """
    parts = ["WHAT CHANGED: " + _summary(old, new), "\n".join(_machines(old, new))]
    for name, (pairs, only_old, only_new) in _stages(old, new).items():
        if name == _SWEEP:  # eight rows for each way
            same = sum(not pair.changed for pair in pairs)
            pairs = [pair for pair in pairs if pair.changed]
            parts += [f"{_SWEEP}: {same} row{'s' if same != 1 else ''} as before.".upper()] if same else []
        for (kind, nbytes), group in _by_task(pairs).items():
            section = Section(f"{name}: {kind}, {format_bytes(nbytes)}", (), _COLUMNS, tuple(map(_line, group)))
            parts.append(section_text(section, width))
        parts += [_only(f"{name}, only before", only_old)] if only_old else []
        parts += [_only(f"{name}, only now", only_new)] if only_new else []
    parts += ["\n".join(lines) for lines in (_bisected(old, new), _fits(old, new)) if lines]
    parts.append(_LEGEND)
    return "\n\n".join(parts)


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
        """ "more memory" or "less memory" where it is over what peaks differ by anyhow."""
        if not (finished(self.old) and finished(self.new)) or self.old.private is None or self.new.private is None:
            return ""
        moved = self.new.private - self.old.private
        if abs(moved) <= max(MEMORY_NOISE, _RELATIVE * max(self.old.private, self.new.private)):
            return ""
        return "more memory" if moved > 0 else "less memory"

    @property
    def outcome(self) -> str:
        before, after = _outcome(self.old), _outcome(self.new)
        return f"{before} before, now {after}" if before != after else ""

    @property
    def changed(self) -> bool:
        return bool(self.outcome or self.memory or self.speed.rstrip("?"))


def _spread(row: Row) -> list[float]:
    """Bytes a second of the counted epochs; of all where one alone counts: the first is slower, and widens the spread."""
    found = rates(row)
    return found if len(found) > 1 else [speed_of(row, epoch) for epoch in row.epochs if epoch.seconds > 0]


Matched = tuple[list[Pair], list[Row], list[Row]]


def _stages(old: Report, new: Report) -> dict[str, Matched]:
    return {
        "without a limit": matched(old.rows, new.rows),
        "under a hard limit": matched(old.limited, new.limited),
        # These limits are of what the framework takes, which differs from run to run, and a share of the data, which does not.
        _SWEEP: matched(
            old.swept,
            new.swept,
            lambda row: round(share_of(row, framework_of(old)), 2),
            lambda row: round(share_of(row, framework_of(new)), 2),
        ),
    }


def _limit(row: Row) -> Any:
    return row.limit


def matched(
    before: Sequence[Row],
    after: Sequence[Row],
    limit_before: Callable[[Row], Any] = _limit,
    limit_after: Callable[[Row], Any] = _limit,
) -> Matched:
    """(rows of both, rows only before, rows only after), the first in the order of `after`. Of several that are the same the
    first goes with the first."""
    left = grouped(before, lambda row: _key(row, limit_before(row)))
    pairs, only_new = [], []
    for row in after:
        others = left.get(_key(row, limit_after(row)))
        if others:
            pairs.append(Pair(others.pop(0), row))
        else:
            only_new.append(row)
    return pairs, [row for rows in left.values() for row in rows], only_new


def _key(row: Row, limit: Any) -> tuple[Any, ...]:
    return row.strategy, row.form, *task_of(row), limit, row.limited_by


def _by_task(pairs: Iterable[Pair]) -> dict[tuple[str, int], list[Pair]]:
    found: dict[tuple[str, int], list[Pair]] = {}
    for pair in pairs:
        found.setdefault(task_of(pair.new), []).append(pair)
    return found


# --- words --------------------------------------------------------------------------------------------------------------


def _line(pair: Pair) -> Line:
    speeds = [f"{format_bytes(speed)}/s" if speed else "-" for speed in (rate(pair.old), rate(pair.new))]
    speed = {"": "within spread" if pair.ratio else "", "?": "one epoch each"}.get(pair.speed, pair.speed)
    under = f", under {format_bytes(pair.new.limit)}" if pair.new.limit else ""
    cells = (
        title(pair.new.strategy) + under,
        pair.new.form,
        signed(pair.old.private),
        signed(pair.new.private),
        *speeds,
        f"{pair.ratio:.2f}x" if pair.ratio else "-",
    )
    return Line(cells, "; ".join(filter(None, [pair.outcome, pair.memory, speed])) or "nothing", pair.changed)


def _outcome(row: Row) -> str:
    return row.outcome if row.outcome != FINISHED or is_right(row) else "finished on wrong data"


def _summary(old: Report, new: Report) -> str:
    found = list(_stages(old, new).values())
    pairs = [pair for each, _, _ in found for pair in each]
    counts = {
        "with another outcome": sum(bool(pair.outcome) for pair in pairs),
        "with more memory": sum(pair.memory == "more memory" for pair in pairs),
        "with less memory": sum(pair.memory == "less memory" for pair in pairs),
        "faster": sum(pair.speed == "faster" for pair in pairs),
        "slower": sum(pair.speed == "slower" for pair in pairs),
    }
    words = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "none of them changed beyond the spread"
    lost = sum(len(gone) for _, gone, _ in found), sum(len(come) for _, _, come in found)
    return f"{len(pairs)} rows in both: {words}; {lost[0]} only before, {lost[1]} only now."


def _machines(old: Report, new: Report) -> list[str]:
    before, after = _flat(old.machine), _flat(new.machine)
    found = [
        f"  {name}: {before.get(name, 'none')} before, now {after.get(name, 'none')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]
    if old.seed != new.seed:
        found.append(f"  seed: {old.seed} before, now {new.seed}")
    return ["Machine or versions differ, which alone may be the reason:", *found] if found else ["Same machine, same versions."]


def _flat(machine: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in machine.items():
        found.update(_flat(value) if isinstance(value, dict) else {prefix + name: value})
    return found


def _only(head: str, rows: Sequence[Row]) -> str:
    lines = [
        f"  {title(row.strategy)}, {row.form}, {row.kind}, {format_bytes(row.data_nbytes)}"
        f"{f', under {format_bytes(row.limit)}' if row.limit else ''}: {row.outcome}"
        for row in rows
    ]
    return "\n".join([head.upper(), *lines])


def _bisected(old: Report, new: Report) -> list[str]:
    before, after = ({(*way_of(each), *task_of(each)): each.limit for each in report.bisected} for report in (old, new))
    found = []
    for key in dict.fromkeys([*before, *after]):
        strategy, form, kind, nbytes = key
        words = [f"{format_bytes(limits[key])} {when}" for limits, when in ((before, "before"), (after, "now")) if key in limits]
        found.append(f"  {title(strategy)}, {form}, {kind}, {format_bytes(nbytes)}: {', '.join(words)}")
    return ["SMALLEST LIMIT UNDER WHICH AN EPOCH FINISHED", *found] if found else []


def _fits(old: Report, new: Report) -> list[str]:
    def key_of(fit: Fit) -> tuple[str, str, str, str]:
        return fit.strategy, fit.form, fit.kind, fit.knob

    before, after = ({key_of(fit): fit for fit in report.fits} for report in (old, new))
    found = []
    for key in dict.fromkeys([*before, *after]):
        fits = [(fit, when) for fit, when in ((before.get(key), "before"), (after.get(key), "now")) if fit is not None]
        words = ", ".join(f"{slope_words(fit, fit.slope)} {when}" for fit, when in fits)
        if len(fits) == 2:
            (one, _), (other, _) = fits
            apart = one.high < other.low or other.high < one.low
            words += "; their intervals lie apart" if apart else "; their intervals overlap"
        strategy, form, kind, knob = key
        found.append(f"  {title(strategy)}, {form}, {kind}, for each {EACH.get(knob, knob)}: {words}")
    return ["BYTES OF MEMORY, SLOPES", *found] if found else []
