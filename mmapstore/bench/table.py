"""A report as a table for the terminal, and reports in files."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from ..plain.display import text_table
from ..plain.errors import DamagedFileError, NotFoundError
from .contract import Report
from .derived import answer, machine_words
from .report_model import NOT_CALIBRATED, Section, sections


def table(report: Report, width: int = 120) -> str:
    """Write all of a report as text, in lines of at most `width` characters: the answer, then the rows, each column explained."""
    machine, versions = machine_words(report.machine)
    head = [f"mmapstore bench: {machine}; seed {report.seed}", *([versions] if versions else [])]
    parts = [_wrapped(head, width), _wrapped(answer(report), width)]
    told: set[str] = set()
    parts += [section_text(section, width, told) for section in sections(report)]
    parts.append(_wrapped([report.calibration or NOT_CALIBRATED], width))
    return "\n\n".join(parts)


def section_text(section: Section, width: int, told: set[str] | None = None) -> str:
    """Write one section: title, description, head, lines, and the notes of the columns that are not among `told`."""
    parts = [section.title.upper(), *([_wrapped(section.about, width)] if section.about else [])]
    heads = [[column.head[half] for column in section.columns] for half in (0, 1)]
    align = "".join("<" if column.words else ">" for column in section.columns)
    lines = text_table([*filter(any, heads), *(line.cells for line in section.lines)], align, indent="")
    first = len(lines) - len(section.lines)
    parts += [*lines[:first], "-" * min(width, max(map(len, lines)))]
    for text, line in zip(lines[first:], section.lines, strict=True):
        # Words stand in place of the cells that are missing; below a full line they are a remark on it.
        is_remark = len(line.cells) == len(section.columns) and line.words
        parts.append(textwrap.fill(f"{text}{'' if is_remark else f'  {line.words}'}", width, subsequent_indent=" " * 8))
        parts += [textwrap.fill(line.words, width, initial_indent="    ", subsequent_indent="    ")] if is_remark else []
    for name, note in section.notes(set() if told is None else told):
        parts.append(textwrap.fill(f"{name}: {note}", width, initial_indent="  ", subsequent_indent="    "))
    return "\n".join(parts)


def _wrapped(lines: Sequence[str], width: int) -> str:
    # A list of versions must not be torn at the hyphens of the packages' names.
    return "\n".join(textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False) for line in lines)


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
