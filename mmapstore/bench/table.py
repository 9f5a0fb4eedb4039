"""A report as a table for the terminal, and reports in files."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path

from ..plain.errors import DamagedFileError, NotFoundError
from .contract import Report
from .derived import answer, machine_words
from .report_model import Column, Line, Section, calibration, sections

_GAP, _LEAST = 2, 16  # characters between columns; of the first column at least


def table(report: Report, width: int = 120) -> str:
    """Write all of a report as text, in lines of at most `width` characters: the answer, then the rows, each column explained.

    >>> print(table(Report({"processor": "A CPU", "cores": 2}, seed=0)))
    mmapstore bench: A CPU, 2 cores; seed 0
    <BLANKLINE>
    No private memory was measured without a limit.
    Nothing was run under a hard limit of memory.
    No throughput was measured without a limit.
    <BLANKLINE>
    The instruments were not calibrated in this run: their error is not known.
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
    """Write one section: title, description, head, lines, and the notes of the columns that are not among `told`."""
    widths = _widths(section, width)
    parts = [section.title.upper(), *([_wrapped(section.about, width)] if section.about else [])]
    for half in (0, 1):
        heads = [_cell(column.head[half], column, wide) for column, wide in zip(section.columns, widths, strict=True)]
        parts += [line] if (line := (" " * _GAP).join(heads).rstrip()) else []
    parts.append((" " * _GAP).join("-" * wide for wide in widths))
    parts += [_line(line, section.columns, widths, width) for line in section.lines]
    for name, note in section.notes(set() if told is None else told):
        parts.append(textwrap.fill(f"{name}: {note}", width, initial_indent="  ", subsequent_indent="    "))
    return "\n".join(parts)


def _wrapped(lines: Sequence[str], width: int) -> str:
    # A list of versions must not be torn at the hyphens of the packages' names.
    return "\n".join(textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False) for line in lines)


def _widths(section: Section, width: int) -> list[int]:
    """Return the characters of each column: those of its widest cell; the first column gets the rest, and is wrapped."""
    cells = [line.cells for line in section.lines]
    widths = [
        max([*map(len, column.head), *(len(row[place]) for row in cells if place < len(row))])
        for place, column in enumerate(section.columns)
    ]
    left = width - sum(widths[1:]) - _GAP * (len(widths) - 1)
    return [max(_LEAST, min(widths[0], left)), *widths[1:]]


def _cell(text: str, column: Column, width: int) -> str:
    return f"{text:<{width}}" if column.words else f"{text:>{width}}"


def _line(line: Line, columns: Sequence[Column], widths: Sequence[int], width: int) -> str:
    """Write the cells; the first over several lines where it is long, and `words` in the room of the cells that are missing."""
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


def read(path: Path) -> Report:
    """Read the report in a file. Raises NotFoundError; DamagedFileError for a file that `mmapstore bench --json` did not write."""
    try:
        return Report.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {path}. `mmapstore bench --json {path.name}` writes one.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(
            f"{path} is not a report of this version ({type(error).__name__}: {error}); "
            f"expected the JSON that `mmapstore bench --json {path.name}` writes. Run that again."
        ) from error
