"""The pictures of a report, as HTML and inline SVG: memory by strategy, and memory over time.

Pictures stretch with the page. Their colours are variables of the page's style, with a value for a page that does not set them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ..plain.memory_budget import format_bytes
from . import derived
from .contract import FINISHED, KILLED, Report, Row
from .derived import data_of, finished, format_seconds, grouped, is_ours, labels, signed, variant_of

_FLOOR = 1e6  # bytes: less is within the error of the instruments, and a logarithm needs an end
_INK, _PALE, _OURS, _OTHER = "var(--ink, #1c1c1f)", "var(--pale, #6b6b73)", "var(--ours, #0067a5)", "var(--other, #b85c00)"
_LINE = 'fill="none" vector-effect="non-scaling-stroke"'


@dataclass(frozen=True)
class Picture:
    """One picture; `caption` explains how to read it."""

    title: str
    caption: str
    body: str

    def to_html(self) -> str:
        label = escape(f"{self.title}. {self.caption}")
        return (
            f"<figure>\n<h3>{escape(self.title)}</h3>\n<figcaption>{escape(self.caption)}</figcaption>\n"
            f'<div role="img" aria-label="{label}">\n{self.body}\n</div>\n</figure>'
        )


def pictures(report: Report) -> list[Picture]:
    """Return all pictures for which the report has rows."""
    found: list[Picture] = []
    several = len({data_of(row) for row in report.everything}) > 1
    for (kind, nbytes), rows in grouped(report.rows, data_of).items():
        rows, about = derived.by_memory(rows), f", {kind}, {format_bytes(nbytes)}" if several else ""
        if known := [row for row in rows if row.private is not None or row.predicted is not None]:
            found.append(_by_strategy(known, about))
        if looked := [row for row in rows if row.looks]:
            found.append(over_time(looked, about))
    for (kind, nbytes, limit, _), rows in grouped(report.limited, derived.limit_of).items():
        if looked := [row for row in derived.by_memory(rows) if row.looks]:
            found.append(over_time(looked, f", {kind}, {format_bytes(nbytes)}", limit))
    return found


# --- memory by strategy -------------------------------------------------------------------------------------------------


def _by_strategy(rows: Sequence[Row], about: str) -> Picture:
    names, data = labels(rows), rows[0].data_nbytes
    seen = [*(row.private or 0 for row in rows), *(row.predicted or 0 for row in rows), data, 10 * _FLOOR]
    decades = math.ceil(math.log10(1.05 * max(seen) / _FLOOR))

    def place(nbytes: float) -> str:
        return f'style="left:{100 * math.log10(max(nbytes, _FLOOR) / _FLOOR) / decades:.2f}%"'

    def tick(power: int) -> str:
        size = _FLOOR * 10**power
        return f"{'≤ ' * (power == 0)}{format_bytes(size).replace('.00', '').replace('.0', '')}"

    ticks = "".join(f"<b {place(_FLOOR * 10**power)}>{tick(power)}</b>" for power in range(decades))
    lines = [f'<div><span></span><span class="track">{ticks}</span><span></span></div>']
    for row in rows:
        marks = f'<i class="data" {place(data)}></i>'
        if row.predicted is not None:
            marks += f'<i class="predicted" {place(row.predicted)}></i>'
        if row.private is not None:
            marks += f'<i class="{"measured" if row.outcome == FINISHED else "ended"}" {place(row.private)}></i>'
        private = signed(row.private) if finished(row) else "wrong data" if row.outcome == FINISHED else row.outcome
        lines.append(
            f'<div{_marked(row)}><span class="name">{escape(names[variant_of(row)])}</span><span class="track">{marks}</span>'
            f"<span>{escape(private)}</span></div>"
        )
    return Picture(
        f"Private memory, measured and predicted{about}",
        "Dot: measured, over the memory of the started framework (hollow: until the process was ended). Upright stroke: as "
        f"predicted. Dashed line: all data, {format_bytes(data)}. Logarithmic; figures below 1 MB are drawn there.",
        f'<div class="bars">{"".join(lines)}</div>',
    )


def _marked(row: Row) -> str:
    return ' class="ours"' if is_ours(row.strategy) else ""


# --- memory over time ---------------------------------------------------------------------------------------------------


def over_time(rows: Sequence[Row], about: str = "", limit: int | None = None) -> Picture:
    """Draw a panel for each row, which has to have looks: private memory and RSS, from the baseline to the end."""
    names = labels(rows)
    highest = max(1.25 * limit if limit else 0, *(1.1 * max(look.private, look.resident) for row in rows for look in row.looks))
    panels = [
        f'<div{_marked(row)}><p class="name">{escape(names[variant_of(row)])}<br>{escape(_course(row))}</p>'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="96">{_curves(row, limit, highest)}</svg>'
        f'<p class="pale">{format_seconds(max(row.looks[-1].seconds, 0.0))}</p></div>'
        for row in rows
    ]
    line = f" The dashed line is the limit, {format_bytes(limit)}; a cross where the process was killed." if limit else ""
    return Picture(
        f"Memory over time{f' under a limit of {format_bytes(limit)}' if limit else ''}{about}",
        "Grey: private memory of the started framework. Coloured: private memory that came on top. Dotted: RSS, which also "
        f"counts pages of mapped files that the kernel can take back.{line} All panels are {format_bytes(highest)} high; below "
        "each, the time it spans.",
        f'<div class="panels">{"".join(panels)}</div>',
    )


def _course(row: Row) -> str:
    """Describe the end of a row in a few words."""
    if finished(row):
        return f"{signed(row.private)}, {format_seconds(derived.epoch_seconds(row))} an epoch"
    return "wrong data" if row.outcome == FINISHED else f"{row.outcome} after {format_seconds(row.looks[-1].seconds)}"


def _curves(row: Row, limit: int | None, highest: float) -> str:
    base, colour = row.baseline or 0, _OURS if is_ours(row.strategy) else _OTHER
    looks = [look for look in row.looks if look.seconds >= 0] or row.looks
    if row.outcome == KILLED:  # looks while the kernel took the process apart do not show the memory it held
        looks = list(itertools.dropwhile(lambda look: look.private < base, reversed(looks)))[::-1] or looks
    first, span = min(0.0, looks[0].seconds), max(looks[-1].seconds - min(0.0, looks[0].seconds), 1e-3)
    xs = [f"{100 * (look.seconds - first) / span:.1f}" for look in looks]

    def line(heights: Sequence[float]) -> str:
        return "L".join(f"{x} {100 - 100 * height / highest:.1f}" for x, height in zip(xs, heights, strict=True))

    def area(heights: Sequence[float], fill: str) -> str:
        return f'<path d="M{xs[0]} 100L{line(heights)}L{xs[-1]} 100Z" fill="{fill}" fill-opacity="0.3"/>'

    private = [look.private for look in looks]
    found = [
        area(private, colour),
        area([min(base, each) for each in private], _PALE),
        f'<path d="M{line([look.resident for look in looks])}" stroke="{_PALE}" stroke-dasharray="1 2" {_LINE}/>',
        f'<path d="M{line(private)}" stroke="{colour}" stroke-width="1.5" {_LINE}/>',
    ]
    if limit:
        found.append(f'<path d="M0 {100 - 100 * limit / highest:.1f}H100" stroke="{_INK}" stroke-dasharray="4 2" {_LINE}/>')
    if row.outcome == KILLED:
        x, y = float(xs[-1]), 100 - 100 * private[-1] / highest
        found.append(f'<path d="M{x - 2:.1f} {y - 4:.1f}l4 8m0-8l-4 8" stroke="{_INK}" stroke-width="2" {_LINE}/>')
    return "".join(found)
