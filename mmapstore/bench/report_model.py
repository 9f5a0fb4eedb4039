"""A report as sections of lines and cells, which the terminal's table and the HTML both print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..plain.memory_budget import format_bytes
from . import derived
from .contract import FINISHED, KINDS, Report, Row
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
    for task in report.tasks:
        if (task["kind"], task["samples"] * math.prod(task["shape"]) * np.dtype(task["dtype"]).itemsize) == data_of(row):
            shape = ", ".join(map(str, task["shape"])) + ("," if len(task["shape"]) == 1 else "")
            counted = "; each strategy decodes in its own manner, so values are counted, not compared" * (row.kind == "images")
            return f"{words}: {task['samples']:,} samples of {task['dtype']} ({shape}), batches of {task['batch']}{counted}."
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
