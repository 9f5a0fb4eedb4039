"""A report as one HTML file without network or script, for a desk, a phone, the dark, and paper.

Pictures are HTML and inline SVG that stretch with the page: memory by strategy, and memory over time. Their colours are variables
of the page's style, with a value for a page that does not set them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from ..plain.memory_budget import format_bytes
from . import derived
from .contract import FINISHED, FORMS, KILLED, Report, Row
from .derived import answer, data_of, finished, format_seconds, grouped, is_ours, labels, machine_words, signed, title, variant_of
from .table import NOT_CALIBRATED, Column, Line, Section, sections

_FLOOR = 1e6  # bytes: less is within the error of the instruments, and a logarithm needs an end
_INK, _PALE, _OURS, _OTHER = "var(--ink, #1c1c1f)", "var(--pale, #6b6b73)", "var(--ours, #0067a5)", "var(--other, #b85c00)"
_LINE = 'fill="none" vector-effect="non-scaling-stroke"'
_HOW = (
    "Every strategy ran in a process of its own, which trained a model that does nothing but sum every bit of x and y; the sum was "
    "compared with that of the data, so bytes that were not read, or paired wrongly, would show.",
    "Private memory is the memory that the kernel cannot take back: Pss_Anon + Pss_Shmem + SwapPss, summed over the process and "
    "its children. The figure is the highest sample, less the baseline: the memory of the process after the framework had started "
    "and run one step on a batch in RAM. Pages of a mapped file are file-backed; they count in RSS, and the kernel takes them back "
    "when it likes.",
    "A hard limit holds for the whole process, framework included. Rows under it count only if a strategy that holds the data in "
    "memory was killed under the same limit in the same run.",
    "Rows where mmapstore loses stand among the others.",
)
_LEGEND = '<p class="pale"><span class="ours">mmapstore\'s strategies are blue</span>, the others orange.</p>'


def html(report: Report) -> str:
    """Write the whole page."""
    machine, versions = machine_words(report.machine)
    body = [
        "<h1>Where the memory goes: strategies of feeding Keras, measured</h1>",
        "<p>Memory and time of strategies of training a Keras model on stored arrays. Taken on: "
        f"{escape(machine or 'a machine that is not named')}; seed {report.seed}.</p>",
        f'<div class="answer">{"".join(f"<p>{escape(sentence)}</p>" for sentence in answer(report))}</div>',
        "<h2>The figures</h2>",
        *_tables(report),
        *(["<h2>The pictures</h2>", _LEGEND, *drawn] if (drawn := pictures(report)) else []),
        "<h2>How it was measured</h2>",
        *(f"<p>{escape(each)}</p>" for each in _HOW),
        f"<p>{escape(report.calibration or NOT_CALIBRATED)}</p>",
        *_commands(report),
        *([f"<h2>Versions</h2>\n<p>{escape(versions)}.</p>"] if versions else []),
    ]
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<title>mmapstore bench: where the memory goes</title>\n"
        # A browser asks for an icon of its own accord, unless one is here.
        '<link rel="icon" href="data:,">\n<style>\n'
        + style
        + "</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


# --- tables -------------------------------------------------------------------------------------------------------------


def _tables(report: Report) -> Iterable[str]:
    told: set[str] = set()
    for section in sections(report):
        yield f"<h3>{escape(section.title)}</h3>"
        yield _table(section)
        notes = "".join(f"<dt>{escape(name)}</dt><dd>{escape(note)}</dd>" for name, note in section.notes(told))
        if notes:
            yield f"<dl>{notes}</dl>"


def _table(section: Section) -> str:
    about = "".join(f'<p class="pale">{escape(words)}</p>' for words in section.about)
    head = "".join(
        f'<th scope="col"{_words(column)}>{"<br>".join(escape(half) for half in column.head if half)}</th>'
        for column in section.columns
    )
    lines = "\n".join(_line(line, section.columns) for line in section.lines)
    return f"{about}\n<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>"


def _line(line: Line, columns: tuple[Column, ...]) -> str:
    cells = [f'<th scope="row">{escape(line.cells[0])}</th>']
    for cell, column in zip(line.cells[1:], columns[1:], strict=False):
        cells.append(f'<td{_words(column)} data-name="{escape(column.name)}">{escape(cell)}</td>')
    left = len(columns) - len(line.cells)
    mark = ' class="ours"' if line.ours else ""
    if left:
        cells.append(f'<td class="remark" colspan="{left}">{escape(line.words)}</td>')
    row = f"<tr{mark}>{''.join(cells)}</tr>"
    if line.words and not left:
        row += f'\n<tr{mark}><td class="remark" colspan="{len(columns)}">{escape(line.words)}</td></tr>'
    return row


def _words(column: Column) -> str:
    return ' class="words"' if column.words else ""


def _commands(report: Report) -> Iterable[str]:
    rows = [row for row in report.everything if row.command]
    if not rows:
        return
    yield "<h2>The command of each row</h2>"
    yield '<dl class="commands">'
    for row in rows:
        limit = f", under {format_bytes(row.limit)}" if row.limit else ""
        name = f"{title(row.strategy)}: {FORMS.get(row.form, row.form)}, {row.kind}, {format_bytes(row.data_nbytes)}{limit}"
        yield f"<dt{_marked(row)}>{escape(name)}</dt><dd><code>{escape(row.command)}</code></dd>"
    yield "</dl>"


# --- pictures -----------------------------------------------------------------------------------------------------------


def pictures(report: Report) -> list[str]:
    """Return all pictures for which the report has rows."""
    found: list[str] = []
    several = len({data_of(row) for row in report.everything}) > 1
    for (kind, nbytes), rows in grouped(report.rows, data_of).items():
        rows, about = derived.by_memory(rows), f", {kind}, {format_bytes(nbytes)}" if several else ""
        if known := [row for row in rows if row.private is not None or row.predicted is not None]:
            found.append(_by_strategy(known, about))
        if looked := [row for row in rows if row.looks]:
            found.append(_over_time(looked, about))
    for (kind, nbytes, limit, _), rows in grouped(report.limited, derived.limit_of).items():
        if looked := [row for row in derived.by_memory(rows) if row.looks]:
            found.append(_over_time(looked, f", {kind}, {format_bytes(nbytes)}", limit))
    return found


def _figure(title: str, caption: str, body: str) -> str:
    return (
        f"<figure>\n<h3>{escape(title)}</h3>\n<figcaption>{escape(caption)}</figcaption>\n"
        f'<div role="img" aria-label="{escape(f"{title}. {caption}")}">\n{body}\n</div>\n</figure>'
    )


def _by_strategy(rows: Sequence[Row], about: str) -> str:
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
    return _figure(
        f"Private memory, measured and predicted{about}",
        "Dot: measured, over the memory of the started framework (hollow: until the process was ended). Upright stroke: as "
        f"predicted. Dashed line: all data, {format_bytes(data)}. Logarithmic; figures below 1 MB are drawn there.",
        f'<div class="bars">{"".join(lines)}</div>',
    )


def _marked(row: Row) -> str:
    return ' class="ours"' if is_ours(row.strategy) else ""


def _over_time(rows: Sequence[Row], about: str = "", limit: int | None = None) -> str:
    """Draw a panel for each row, which has to have looks: private memory and RSS, from the baseline to the end."""
    names = labels(rows)
    highest = max(1.25 * limit if limit else 0, *(1.1 * max(look.private, look.resident) for row in rows for look in row.looks))
    panels = []
    for row in rows:
        course = f"{signed(row.private)}, {format_seconds(derived.epoch_seconds(row))} an epoch"
        if not finished(row):
            ended = f"{row.outcome} after {format_seconds(row.looks[-1].seconds)}"
            course = "wrong data" if row.outcome == FINISHED else ended
        panels.append(
            f'<div{_marked(row)}><p class="name">{escape(names[variant_of(row)])}<br>{escape(course)}</p>'
            f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="96">{_curves(row, limit, highest)}</svg>'
            f'<p class="pale">{format_seconds(max(row.looks[-1].seconds, 0.0))}</p></div>'
        )
    line = f" The dashed line is the limit, {format_bytes(limit)}; a cross where the process was killed." if limit else ""
    return _figure(
        f"Memory over time{f' under a limit of {format_bytes(limit)}' if limit else ''}{about}",
        "Grey: private memory of the started framework. Coloured: private memory that came on top. Dotted: RSS, which also "
        f"counts pages of mapped files that the kernel can take back.{line} All panels are {format_bytes(highest)} high; below "
        "each, the time it spans.",
        f'<div class="panels">{"".join(panels)}</div>',
    )


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
