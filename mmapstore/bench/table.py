"""A report as sections of lines and cells, which the HTML prints too; as a table for the terminal; and read from a file."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..plain.display import text_table
from ..plain.errors import DamagedFileError, NotFoundError
from ..plain.memory_budget import format_bytes
from . import derived
from .contract import FINISHED, KINDS, Report, Row, Task
from .derived import bytes_words, data_of, finished, format_seconds, grouped, is_ours, rate, signed, speed_words, title, variant_of


@dataclass(frozen=True)
class Column:
    """`head` has two lines; `note` explains the column in one; `words`: text, not a figure."""

    head: tuple[str, str]
    note: str = ""
    words: bool = False

    @property
    def name(self) -> str:
        """
        >>> Column(("file-", "backed")).name, Column(("disk", "read")).name
        ('file-backed', 'disk read')
        """
        return " ".join(filter(None, self.head)).replace("- ", "-")


@dataclass(frozen=True)
class Line:
    """One cell for each column; or fewer, and `words` in place of the rest. `words` below a full line are a remark on it."""

    cells: tuple[str, ...]
    words: str = ""
    ours: bool = False


@dataclass(frozen=True)
class Section:
    """`about` stands above the lines."""

    title: str
    about: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]

    def notes(self, told: set[str]) -> list[tuple[str, str]]:
        """Return (name, note) of each column with a note that is not among `told`, and add the names there."""
        found = [(each.name, each.note) for each in self.columns if each.note and each.name not in told]
        told.update(name for name, _ in found)
        return found


NOT_CALIBRATED = "The instruments were not calibrated in this run: their error is not known."
STRATEGY = Column(("strategy", ""), words=True)
STORED = Column(
    ("stored", "as"), "npy; h5: HDF5, contiguous; h5-gzip; zarr: uncompressed; zarr-zstd; folder: of images", words=True
)
MEASURED = Column(
    ("private", "memory"),
    "highest Pss_Anon + Pss_Shmem + SwapPss of all its processes, over that after the framework and the format's library have "
    "started, and one step; > : before it ended early",
)
PREDICTED = Column(("predicted", ""), "private memory as the strategy predicts it, before it runs")
PER_BYTE = Column(("per byte", "of data"), "private memory / bytes of all samples as stored, decoded")
FILE_BACKED = Column(("file-", "backed"), "highest Pss_File: pages of mapped files, which the kernel takes back when it likes")
THROUGHPUT = Column(("throughput", ""), "bytes of x and y a second, as they are stored; the median from the second epoch on")
EPOCH = Column(("time per", "epoch"), "seconds of one pass of fit, the median from the second on (the first where it is alone)")
FIRST = Column(("first", "batch"), "from the call that opens the data to the begin of the first training step")
OUTCOME = Column(("outcome", ""), "killed: by the limit", words=True)
SHARE = Column(("of its", "speed"), "throughput / that of the same strategy on the same data without a limit")
GROWTH = Column(("per byte", "more"), "private memory for each byte of data more, from the smallest run to the largest")


def sections(report: Report) -> list[Section]:
    """Return all sections for which the report has rows, in reading order."""
    found = [_measured(report, rows) for rows in grouped(report.rows, data_of).values()]
    found += [section for rows in grouped(report.rows, lambda row: row.kind).values() for section in _growth(rows)]
    return found + [_limited(report, rows) for rows in grouped(report.limited, derived.limit_of).values()]


def _task_words(report: Report, row: Row) -> str:
    """Describe the task of a group of rows: x and y, the amount of data, and its shape."""
    words = f"{row.kind}: {KINDS.get(row.kind, row.kind)}; {format_bytes(row.data_nbytes)}"
    for task in (Task(path="", **{**found, "shape": tuple(found["shape"])}) for found in report.tasks):
        if (task.kind, task.nbytes) == data_of(row):
            counted = "; each strategy decodes in its own manner, so values are counted, not compared" * (row.kind == "images")
            return f"{words}: {task.samples:,} samples of {task.dtype} {task.shape}, batches of {task.batch}{counted}."
    return f"{words}."


def _line(row: Row, start: tuple[str, ...], cells: Sequence[str], remark: str) -> Line:
    """Return the cells of a row that finished; else the outcome in their place."""
    if finished(row):
        return Line((*start, *cells), remark, is_ours(row.strategy))
    return Line(start, derived.outcome(row), is_ours(row.strategy))


def _measured(report: Report, rows: Sequence[Row]) -> Section:
    lines = []
    for row in derived.by_memory(rows):
        predicted = "-" if row.predicted is None else signed(row.predicted)
        cells = [
            derived.format_ratio(derived.amplification(row)),
            bytes_words(row.file_backed),
            speed_words(rate(row)),
            format_seconds(derived.epoch_seconds(row)),
            format_seconds(row.first_batch),
        ]
        lines.append(_line(row, (title(row.strategy), row.form, predicted, _private(row)), cells, row.why))
    columns = (STRATEGY, STORED, PREDICTED, MEASURED, PER_BYTE, FILE_BACKED, THROUGHPUT, EPOCH, FIRST)
    about = (_task_words(report, rows[0]), "Least private memory first. No limit; every strategy in a process of its own.")
    return Section("What each strategy costs", about, columns, tuple(lines))


def _limited(report: Report, rows: Sequence[Row]) -> Section:
    _, _, limit, by = derived.limit_of(rows[0])
    killed = derived.proof(rows)
    unlimited = {(*variant_of(row), *data_of(row)): rate(row) for row in report.rows}
    lines = []
    for row in derived.by_memory(rows):
        speed, free = rate(row), unlimited.get((*variant_of(row), *data_of(row)))
        share = f"{speed / free:.2f}" if speed and free else "-"
        cells = [row.outcome, format_seconds(derived.epoch_seconds(row)), speed_words(speed), share]
        # Without a proof each row says so in `why`, and the line above them says it once.
        lines.append(_line(row, (title(row.strategy), row.form, _private(row)), cells, row.why if killed else ""))
    worth = (
        f"The limit is a real one: {title(killed.strategy)}, which holds the data in memory, was killed under it in this run."
        if killed
        else "No strategy that holds the data in memory was killed under this limit in this run, so these rows prove nothing."
    )
    swap = ", swap off" if by == "control group" else ""
    columns = (STRATEGY, STORED, MEASURED, OUTCOME, EPOCH, THROUGHPUT, SHARE)
    return Section(
        f"Under a hard limit of {format_bytes(limit)}",
        (_task_words(report, rows[0]), f"Limited by: {by}{swap}; the framework is in it. {worth}"),
        columns,
        tuple(lines),
    )


def _growth(rows: Sequence[Row]) -> list[Section]:
    """Return private memory of one kind of task against the size of its data, or nothing where there is one size alone."""
    sizes = sorted({row.data_nbytes for row in rows})
    if len(sizes) < 2:
        return []
    lines = []
    for (strategy, form), own in grouped(rows, variant_of).items():
        cells = {row.data_nbytes: _private(row) if row.private is not None else row.outcome for row in own}
        growth = derived.format_ratio(derived.growth(own))
        lines.append(Line((title(strategy), form, *(cells.get(size, "-") for size in sizes), growth), ours=is_ours(strategy)))
    columns = (STRATEGY, STORED, *(Column((format_bytes(size), "of data")) for size in sizes), GROWTH)
    about = f"{rows[0].kind}: {KINDS.get(rows[0].kind, rows[0].kind)}. Private memory for each size of the data."
    return [Section("How memory grows with the data", (about,), columns, tuple(lines))]


def _private(row: Row) -> str:
    early = row.outcome != FINISHED and row.private is not None
    return f">{format_bytes(max(row.private or 0, 0))}" if early else signed(row.private)


# --- as text ------------------------------------------------------------------------------------------------------------


def table(report: Report, width: int = 120) -> str:
    """Write all of a report as text, in lines of at most `width` characters: the answer, then the rows, each column explained."""
    machine, versions = derived.machine_words(report.machine)
    head = [f"mmapstore bench: {machine}; seed {report.seed}", *([versions] if versions else [])]
    parts = [_wrapped(head, width), _wrapped(derived.answer(report), width)]
    told: set[str] = set()
    parts += [_section_text(section, width, told) for section in sections(report)]
    parts.append(_wrapped([report.calibration or NOT_CALIBRATED], width))
    return "\n\n".join(parts)


def _section_text(section: Section, width: int, told: set[str]) -> str:
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
    for name, note in section.notes(told):
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
