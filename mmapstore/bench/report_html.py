"""A report as one HTML file without network or script, for a desk, a phone, the dark, and paper."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib import resources

from ..plain.memory_budget import format_bytes
from .contract import FORMS, Report
from .derived import answer, is_ours, machine_words, title
from .pictures import pictures
from .report_model import NOT_CALIBRATED, Column, Line, Section, sections

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
        *_pictures(report),
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


# --- the rest -----------------------------------------------------------------------------------------------------------


def _pictures(report: Report) -> Iterable[str]:
    if found := pictures(report):
        yield "<h2>The pictures</h2>"
        yield '<p class="pale"><span class="ours">mmapstore\'s strategies are blue</span>, the others orange.</p>'
        yield from (picture.to_html() for picture in found)


def _commands(report: Report) -> Iterable[str]:
    rows = [row for row in report.everything if row.command]
    if not rows:
        return
    yield "<h2>The command of each row</h2>"
    yield '<dl class="commands">'
    for row in rows:
        ours = ' class="ours"' if is_ours(row.strategy) else ""
        limit = f", under {format_bytes(row.limit)}" if row.limit else ""
        name = f"{title(row.strategy)}: {FORMS.get(row.form, row.form)}, {row.kind}, {format_bytes(row.data_nbytes)}{limit}"
        yield f"<dt{ours}>{escape(name)}</dt><dd><code>{escape(row.command)}</code></dd>"
    yield "</dl>"
