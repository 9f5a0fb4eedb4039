"""Reports of `mmapstore bench` as short tables in Markdown, for a README.

python -m benchmarks.tables footprint.json                  prints the short table, and that of growth where there is one
python -m benchmarks.tables footprint.json "fit(memmap)"    its rows, in this order; "fit(memmap)|npy|next" is one of them
python -m benchmarks.tables --fill README.md                writes each table between its marks:

    <!-- footprint table: benchmarks/results/footprint.json -->
    <!-- end -->
    <!-- growth table: benchmarks/results/growth.json -->
    <!-- end -->
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from mmapstore.bench.contract import KILLED, Report, Row
from mmapstore.bench.derived import (
    by_memory,
    data_of,
    epoch_seconds,
    finished,
    format_seconds,
    is_right,
    rate,
    signed,
    title,
    variant_of,
)
from mmapstore.bench.table import read, sections, table
from mmapstore.plain.errors import InvalidValueError
from mmapstore.plain.memory_budget import format_bytes

_MARK = re.compile(r"(<!-- (footprint|growth) table: (.*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def markdown_table(report: Report, names: Sequence[str] = ()) -> str:
    """The rows that matter most as a Markdown table: strategy, data, private memory, outcome under the limit, throughput.

    The rows under a hard limit; all others where there are none. `names` picks rows and puts them in this order: names of
    strategies or what the table calls them, with "|form" or "|form|kind" where a strategy has several.
    Raises InvalidValueError for a row that the report does not have.
    """
    limit = next((row.limit for row in report.limited if row.limit), None)
    kinds = len({row.kind for row in report.everything}) > 1
    rows = _chosen(by_memory(report.limited or report.rows), names, kinds)
    head = [
        "strategy",
        "data",
        "private memory",
        *(["outcome under " + format_bytes(limit)] if limit else ["outcome"]),
        "throughput",
    ]
    lines = []
    free = {(*variant_of(row), *data_of(row)): row for row in report.rows if finished(row)}
    for row in rows:
        cells = [
            title(row.strategy),
            f"{format_bytes(row.data_nbytes)}, {row.form}{f', {row.kind}' if kinds else ''}",
            _memory(row, free.get((*variant_of(row), *data_of(row)))),
            _outcome(row, limit),
            f"{format_bytes(rate(row) or 0)}/s" if rate(row) else "",
        ]
        lines.append(cells)
    return _markdown(head, lines)


def markdown_growth(report: Report) -> str:
    """Write the growth of private memory with the data as Markdown tables; "" where there is one size alone."""
    found = [section for section in sections(report) if section.title.startswith("How memory grows")]
    return "\n".join(_markdown([column.name for column in each.columns], [line.cells for line in each.lines]) for each in found)


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str]) -> str:
        return "".join(f"| {escaped} " if (escaped := cell.replace("|", r"\|")) else "| " for cell in cells) + "|"

    return "\n".join([row(head), "|" + "---|" * len(head), *map(row, lines)]) + "\n"


def _chosen(rows: Sequence[Row], names: Sequence[str], kinds: bool) -> list[Row]:
    if not names:
        return list(rows)
    found = []
    for each in names:
        name, _, stored = each.partition("|")
        own = [
            one
            for one in rows
            if name in (one.strategy, title(one.strategy)) and stored in ("", one.form, f"{one.form}|{one.kind}")
        ]
        if not own:
            have = ", ".join(dict.fromkeys("|".join((*variant_of(one), *([one.kind] if kinds else []))) for one in rows))
            raise InvalidValueError(f"the report has no row {each!r}; it has: {have or 'none'}.")
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
        name, *names = shlex.split(match[3])
        report = read(directory / name)
        return f"{match[1]}{markdown_table(report, names) if match[2] == 'footprint' else markdown_growth(report)}{match[5]}"

    return _MARK.sub(made, text)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tables", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", nargs="?", type=Path, help="the JSON of a run")
    parser.add_argument("names", nargs="*", help="only these rows, in this order: NAME or NAME|form")
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
        print(markdown_table(report, options.names), end="")
        if growth := markdown_growth(report):
            print(f"\n{growth}", end="")


if __name__ == "__main__":
    main()
