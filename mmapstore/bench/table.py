"""A report as text: the table for a terminal, and short ones in Markdown for a README.

python -m mmapstore.bench.table footprint.json                  prints the short table, and that of growth where there is one
python -m mmapstore.bench.table footprint.json "fit(memmap)"    its rows, in this order; "fit(memmap)|npy|next" is one of them
python -m mmapstore.bench.table --fill README.md                writes each table between its marks:

    <!-- footprint table: benchmarks/results/footprint.json -->
    <!-- end -->
    <!-- growth table: benchmarks/results/growth.json "fit(memmap)" -->
    <!-- end -->
"""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from ..plain.errors import DamagedFileError, InvalidValueError, NotFoundError
from ..plain.memory_budget import format_bytes
from .contract import KILLED, Fit, Report, Row
from .findings import (
    EACH,
    answer,
    by_memory,
    epoch_seconds,
    finished,
    format_seconds,
    grouped,
    has_kinds,
    is_right,
    machine_words,
    rate,
    signed,
    slope_words,
    task_of,
    title,
    way_of,
)
from .sections import Column, Line, Section, calibration, sections

_GAP, _LEAST = 2, 16  # characters between columns; of the first column at least
_MARK = re.compile(r"(<!-- (footprint|growth) table: (.*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_Named = TypeVar("_Named", bound=Row | Fit)


def table(report: Report, width: int = 120) -> str:
    """All of a report as text, in lines of at most `width` characters: the answer, then the rows, each column explained.

    >>> print(table(Report({"processor": "A CPU", "cores": 2}, seed=0)))
    mmapstore bench: A CPU, 2 cores; seed 0
    <BLANKLINE>
    No private memory was measured without a limit.
    Nothing was run under a hard limit of memory.
    No throughput was measured without a limit.
    <BLANKLINE>
    The instruments were not calibrated in this run: how much they miss is not known.
    """
    machine, versions = machine_words(report.machine)
    head = [f"mmapstore bench: {machine}; seed {report.seed}", *([versions] if versions else [])]
    parts = [_wrapped(head, width), _wrapped(answer(report), width)]
    told: set[str] = set()
    parts += [section_text(section, width, told) for section in sections(report)]
    section, missed = calibration(report)
    parts.append("\n".join(filter(None, [section_text(section, width) if section.lines else "", _wrapped([missed], width)])))
    return "\n\n".join(parts)


def section_text(section: Section, width: int, told: set[str] | None = None) -> str:
    """One section: title, what it is about, head, lines, and below them what the columns mean, unless it was `told` above."""
    widths = _widths(section, width)
    parts = [section.title.upper(), *([_wrapped(section.about, width)] if section.about else [])]
    parts.append(_head(section.columns, widths))
    parts += [_line(line, section.columns, widths, width) for line in section.lines]
    for name, note in section.notes(set() if told is None else told):
        parts.append(textwrap.fill(f"{name}: {note}", width, initial_indent="  ", subsequent_indent="    "))
    return "\n".join(parts)


def _wrapped(lines: Sequence[str], width: int) -> str:
    # A list of versions must not be torn at the hyphens of the packages' names.
    return "\n".join(textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False) for line in lines)


def _widths(section: Section, width: int) -> list[int]:
    """Characters of each column: what its widest cell needs; the first gets what is left, and is wrapped."""
    cells = [line.cells for line in section.lines]
    widths = [
        max([*map(len, column.head), *(len(row[place]) for row in cells if place < len(row))])
        for place, column in enumerate(section.columns)
    ]
    left = width - sum(widths[1:]) - _GAP * (len(widths) - 1)
    return [max(_LEAST, min(widths[0], left)), *widths[1:]]


def _cell(text: str, column: Column, width: int) -> str:
    return f"{text:<{width}}" if column.words else f"{text:>{width}}"


def _head(columns: Sequence[Column], widths: Sequence[int]) -> str:
    rows = [
        (" " * _GAP).join(_cell(column.head[half], column, wide) for column, wide in zip(columns, widths, strict=True)).rstrip()
        for half in (0, 1)
    ]
    return "\n".join([*filter(None, rows), (" " * _GAP).join("-" * wide for wide in widths)])


def _line(line: Line, columns: Sequence[Column], widths: Sequence[int], width: int) -> str:
    """The cells; the first over several lines where it is long, and so `words` in the room of the cells that are missing."""
    first = textwrap.wrap(line.cells[0], widths[0], subsequent_indent="  ") or [""]
    rest = [_cell(cell, column, wide) for cell, column, wide in zip(line.cells[1:], columns[1:], widths[1:], strict=False)]
    full = len(line.cells) == len(columns)
    indent = widths[0] + _GAP if full else sum(widths[: len(line.cells)]) + _GAP * len(line.cells)
    words = textwrap.wrap(line.words, max(width - indent, _LEAST)) if line.words else []
    beside = [] if full else words[:1]
    out = [(" " * _GAP).join([f"{first[0]:<{widths[0]}}", *rest, *beside])]
    for start, more in itertools.zip_longest(first[1:], words[len(beside) :], fillvalue=""):
        out.append(f"{start:<{indent}}{more}")
    return "\n".join(text.rstrip() for text in out)


# --- the short tables, in Markdown --------------------------------------------------------------------------------------


def markdown_table(report: Report, ways: Sequence[str] = ()) -> str:
    """The rows that matter most as a Markdown table: way, data, private memory, outcome under the limit, throughput.

    The rows under a hard limit; all others where there are none. `ways` picks rows and puts them in this order: names of
    strategies or what the table calls them, with "|form" or "|form|kind" where a strategy has several.
    Raises InvalidValueError for a way that the report does not have.
    """
    limit = next((row.limit for row in report.limited if row.limit), None)
    kinds = has_kinds(report)
    rows = _chosen(by_memory(report.limited or report.rows), ways, kinds)
    head = ["way", "data", "private memory", *(["outcome under " + format_bytes(limit)] if limit else ["outcome"]), "throughput"]
    lines = []
    free = {(*way_of(row), *task_of(row)): row for row in report.rows if finished(row)}
    for row in rows:
        cells = [
            title(row.strategy),
            f"{format_bytes(row.data_nbytes)}, {row.form}{f', {row.kind}' if kinds else ''}",
            _memory(row, free.get((*way_of(row), *task_of(row)))),
            _outcome(row, limit),
            f"{format_bytes(rate(row) or 0)}/s" if rate(row) else "",
        ]
        lines.append(cells)
    return _markdown(head, lines)


def markdown_growth(report: Report, ways: Sequence[str] = ()) -> str:
    """How private memory grows, as a Markdown table: for each way the slopes, and half of their 95 % intervals.

    `ways` picks rows as in `markdown_table`, and raises for the same.
    """
    kinds = has_kinds(report)
    knobs = [knob for knob in EACH if any(fit.knob == knob for fit in report.fits)]
    lines = []
    for (_, form, kind), fits in grouped(_chosen(report.fits, ways, kinds), lambda fit: (*way_of(fit), fit.kind)).items():
        slopes = {
            fit.knob: f"{slope_words(fit, fit.slope)} ± {slope_words(fit, (fit.high - fit.low) / 2).lstrip('+')}" for fit in fits
        }
        lines.append([title(fits[0].strategy), f"{form}{f', {kind}' if kinds else ''}", *(slopes.get(knob, "") for knob in knobs)])
    return _markdown(["way", "stored as", *(f"for each {EACH[knob]}" for knob in knobs)], lines)


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str]) -> str:
        return "".join(f"| {escaped} " if (escaped := cell.replace("|", r"\|")) else "| " for cell in cells) + "|"

    return "\n".join([row(head), "|" + "---|" * len(head), *map(row, lines)]) + "\n"


def _chosen(rows: Sequence[_Named], ways: Sequence[str], kinds: bool) -> list[_Named]:
    if not ways:
        return list(rows)
    found = []
    for way in ways:
        name, _, stored = way.partition("|")
        own = [
            one
            for one in rows
            if name in (one.strategy, title(one.strategy)) and stored in ("", one.form, f"{one.form}|{one.kind}")
        ]
        if not own:
            have = ", ".join(dict.fromkeys("|".join((*way_of(one), *([one.kind] if kinds else []))) for one in rows))
            raise InvalidValueError(f"the report has no row {way!r}; it has: {have or 'none'}.")
        found += own
    return found


def _memory(row: Row, free: Row | None) -> str:
    """Of the run without a limit where there is one, which could take what it liked; else of this one."""
    if free is not None and free.private is not None:
        return signed(free.private)
    if row.private is None:
        return "" if row.predicted is None else f"{signed(row.predicted)} predicted"
    return signed(row.private) if finished(row) else f"more than {signed(row.private)}"


def _outcome(row: Row, limit: int | None) -> str:
    other = f", under {format_bytes(row.limit)}" if row.limit and row.limit != limit else ""
    if finished(row):
        return f"{format_seconds(epoch_seconds(row))}{other}{f' ({row.why})' if row.why else ''}"
    if not is_right(row):
        return "wrong data"
    # The reason of a kill is the limit, which stands above; that of anything else is news.
    return f"{row.outcome}{other}" if row.outcome == KILLED or not row.why else f"{row.outcome}{other}: {row.why}"


def filled(text: str, directory: Path) -> str:
    """`text` with the table of each pair of marks made anew from the JSON that the mark names, relative to `directory`.

    Raises NotFoundError, DamagedFileError, InvalidValueError: no marks, or a row that the report does not have.
    """
    if not _MARK.search(text):
        raise InvalidValueError(
            "there is no table to fill; expected the lines '<!-- footprint table: FILE.json -->' and, below, '<!-- end -->'."
        )

    def made(match: re.Match[str]) -> str:
        name, *ways = shlex.split(match[3])
        markdown = markdown_table if match[2] == "footprint" else markdown_growth
        return f"{match[1]}{markdown(read(directory / name), ways)}{match[5]}"

    return _MARK.sub(made, text)


def read(path: Path) -> Report:
    """The report in a file. Raises NotFoundError; DamagedFileError where it is not one of `mmapstore bench --json`."""
    try:
        return Report.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {path}. `mmapstore bench --json {path.name}` writes one.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(
            f"{path} is not a report of this version ({type(error).__name__}: {error}); "
            f"expected the JSON that `mmapstore bench --json {path.name}` writes. Run that again."
        ) from error


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mmapstore.bench.table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", nargs="?", type=Path, help="the JSON of a run")
    parser.add_argument("ways", nargs="*", help="only these rows, in this order: NAME or NAME|form")
    parser.add_argument("--all", action="store_true", help="the whole table, as the terminal shows it")
    parser.add_argument("--fill", type=Path, metavar="FILE", help="write the tables between the marks of this file")
    options = parser.parse_args(given)
    if options.fill:
        text = options.fill.read_text(encoding="utf-8")
        options.fill.write_text(filled(text, options.fill.parent), encoding="utf-8")
    elif options.report is None:
        parser.error("which report? Name the JSON of a run, or a file to --fill.")
    elif options.all:
        print(table(read(options.report)))
    else:
        report = read(options.report)
        print(markdown_table(report, options.ways), end="")
        if report.fits:
            print("\n" + markdown_growth(report, options.ways), end="")


if __name__ == "__main__":
    main()
