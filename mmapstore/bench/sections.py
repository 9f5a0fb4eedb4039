"""A report as sections of lines and cells, which the table on the terminal and the HTML both write down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..plain.memory_budget import format_bytes
from .contract import FINISHED, KINDS, Fit, Report, Row, Smallest
from .findings import (
    EACH,
    amplification,
    by_memory,
    epoch_seconds,
    finished,
    format_ratio,
    format_seconds,
    framework_of,
    grouped,
    is_ours,
    limit_of,
    outcome,
    proof,
    rate,
    share_of,
    signed,
    slope_words,
    task_of,
    title,
    way_of,
)


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
    """As many cells as the section has columns; or fewer, and `words` in place of the rest. `words` below it remark on it."""

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
        """(name, note) of each column that needs one and is not among `told`; they are added there."""
        found = [(each.name, each.note) for each in self.columns if each.note and each.name not in told]
        told.update(name for name, _ in found)
        return found


WAY = Column(("way", ""), words=True)
STORED = Column(
    ("stored", "as"), "npy; h5: HDF5, contiguous; h5-gzip; zarr: uncompressed; zarr-zstd; folder: of images", words=True
)
MEASURED = Column(
    ("private", "memory"),
    "highest Pss_Anon + Pss_Shmem + SwapPss of all its processes, over that after the framework and the format's library have "
    "started, and one step; "
    "> : before it ended early",
)
PREDICTED = Column(("predicted", ""), "private memory as the way predicts it, before it runs")
PER_BYTE = Column(("per byte", "of data"), "private memory / bytes of all samples as stored, decoded")
FILE_BACKED = Column(("file-", "backed"), "highest Pss_File: pages of mapped files, which the kernel takes back when it likes")
DISK = Column(("disk", "read"), "bytes that came from the disk, all epochs; 0 where the page cache had everything")
THROUGHPUT = Column(("throughput", ""), "bytes of x and y a second, as they are stored; the median from the second epoch on")
EPOCH = Column(("time per", "epoch"), "seconds of one pass of fit, the median from the second on (the first where it is alone)")
FIRST = Column(("first", "batch"), "from the call that opens the data to the begin of the first training step")
GPU = Column(("GPU", "memory"), "highest memory of the framework on the GPU")
SMALLEST = Column(("smallest", "limit"), "the smallest limit under which an epoch was found to finish")
OUTCOME = Column(("outcome", ""), "killed: by the limit", words=True)
SHARE = Column(("of its", "speed"), "throughput / that of the same way on the same data without a limit")
GROUP = Column(("group's", "own count"), "anonymous memory at its peak as the control group counts it, the framework in it")


def sections(report: Report) -> list[Section]:
    """All of a report that has rows, in the order in which it is read."""
    found = [_measured(report, task, rows) for task, rows in grouped(report.rows, task_of).items()]
    found += [_limited(report, rows) for rows in grouped(report.limited, limit_of).values()]
    if report.bisected and not report.limited:
        found += [_bisected(report, task, smallest) for task, smallest in grouped(report.bisected, task_of).items()]
    found += [_swept(rows, framework_of(report)) for rows in grouped(report.swept, task_of).values()]
    found += [_fits(kind, fits) for kind, fits in grouped(report.fits, lambda fit: fit.kind).items()]
    return found


def task_words(report: Report, task: tuple[str, int]) -> str:
    """The task of a group of rows: what x and y are, how much data, of which shape."""
    kind, nbytes = task
    words = f"{kind}: {KINDS.get(kind, kind)}; {format_bytes(nbytes)}"
    found = next((each for each in report.tasks if each.get("kind") == kind and _nbytes(each) == nbytes), None)
    if found is None:
        return words
    own = "" if found.get("exact", True) else "; each way decodes in its own manner, so values are counted and not compared"
    shape = ", ".join(map(str, found["shape"])) + ("," if len(found["shape"]) == 1 else "")
    return f"{words}: {found['samples']:,} samples of {found['dtype']} ({shape}), batches of {found.get('batch', '?')}{own}"


def _nbytes(task: dict[str, Any]) -> int | None:
    try:
        return int(_itemsize(task["dtype"]) * task["samples"] * math.prod(task["shape"]))
    except (KeyError, TypeError):
        return None


def _itemsize(dtype: str) -> int:
    import numpy as np

    return int(np.dtype(dtype).itemsize)


# --- the sections -------------------------------------------------------------------------------------------------------


def _measured(report: Report, task: tuple[str, int], rows: Sequence[Row]) -> Section:
    columns = [WAY, STORED, PREDICTED, MEASURED, PER_BYTE, FILE_BACKED, DISK, THROUGHPUT, EPOCH, FIRST]
    on_gpu = any(row.gpu is not None for row in report.rows)
    lines = []
    for row in by_memory(rows):
        start = (title(row.strategy), row.form, _bytes(row.predicted, sign=True), _private(row))
        if not finished(row):
            lines.append(Line(start, outcome(row), is_ours(row.strategy)))
            continue
        cells = [
            format_ratio(amplification(row)),
            _bytes(row.file_backed),
            _bytes(row.disk_read),
            _rate(rate(row)),
            format_seconds(epoch_seconds(row)),
            format_seconds(row.first_batch),
            *([_bytes(row.gpu)] if on_gpu else []),
        ]
        lines.append(Line((*start, *cells), row.why, is_ours(row.strategy)))
    about = (f"{task_words(report, task)}.", "Least private memory first. No limit; every way in a process of its own.")
    return Section("What each way costs", about, (*columns, *([GPU] if on_gpu else [])), tuple(lines))


def _limited(report: Report, rows: Sequence[Row]) -> Section:
    kind, nbytes, limit, by = limit_of(rows[0])
    columns = [WAY, STORED, *([SMALLEST] if report.bisected else []), MEASURED]
    in_group = any(row.group_anonymous is not None for row in report.limited)
    killed = proof(rows)
    enough = {(*way_of(each), *task_of(each)): each.limit for each in report.bisected}
    unlimited = {(*way_of(row), *task_of(row)): rate(row) for row in report.rows}
    lines = []
    for row in by_memory(rows):
        smallest = [_bytes(enough.get((*way_of(row), *task_of(row))))] if report.bisected else []
        start = (title(row.strategy), row.form, *smallest, _private(row))
        if not finished(row):
            lines.append(Line(start, outcome(row), is_ours(row.strategy)))
            continue
        speed, free = rate(row), unlimited.get((*way_of(row), *task_of(row)))
        share = f"{speed / free:.2f}" if speed and free else "-"
        cells = [row.outcome, format_seconds(epoch_seconds(row)), _rate(speed), share]
        cells += [_bytes(row.group_anonymous)] if in_group else []
        # Without a proof each row says so in `why`, and the line above them says it once.
        lines.append(Line((*start, *cells), row.why if killed else "", is_ours(row.strategy)))
    worth = (
        f"The limit is a real one: {title(killed.strategy)}, which holds the data in memory, was killed under it in this run."
        if killed
        else "No way that holds the data in memory was killed under this limit in this run, so these rows prove nothing."
    )
    swap = ", swap off" if by == "control group" else ""
    return Section(
        f"Under a hard limit of {format_bytes(limit)}",
        (f"{task_words(report, (kind, nbytes))}.", f"Limited by: {by}{swap}; the framework is in it. {worth}"),
        (*columns, OUTCOME, EPOCH, THROUGHPUT, SHARE, *([GROUP] if in_group else [])),
        tuple(lines),
    )


def _bisected(report: Report, task: tuple[str, int], found: Sequence[Smallest]) -> Section:
    lines = tuple(
        Line((title(each.strategy), each.form, format_bytes(each.limit)), ours=is_ours(each.strategy))
        for each in sorted(found, key=lambda each: each.limit)
    )
    about = (f"{task_words(report, task)}.", "Cold cache; the framework is in the limit.")
    return Section("The smallest limit that is enough", about, (WAY, STORED, SMALLEST), lines)


def _swept(rows: Sequence[Row], framework: int) -> Section:
    heads = {row.limit: (f"{share_of(row, framework):.0%}", format_bytes(row.limit)) for row in rows if row.limit}
    lines = []
    for (strategy, form), own in grouped(rows, way_of).items():
        cells = {row.limit: _rate(rate(row)) if finished(row) else _short(row) for row in own}
        lines.append(Line((title(strategy), form, *(cells.get(limit, "-") for limit in sorted(heads))), ours=is_ours(strategy)))
    about = (
        f"{rows[0].kind}, {format_bytes(rows[0].data_nbytes)}: bytes of x and y a second under a hard limit of the framework's "
        f"{format_bytes(framework)} and so many per cent of the data; below, that limit.",
        "A way that slows as the limit falls leans on the page cache; one that was killed needs the memory for itself.",
    )
    columns = [Column(heads[limit]) for limit in sorted(heads)]
    return Section("Throughput against the limit", about, (WAY, STORED, *columns), tuple(lines))


def _fits(kind: str, fits: Sequence[Fit]) -> Section:
    lines = []
    for fit in fits:
        values = [value for value, _ in fit.points]
        ends = [_bytes(value) if fit.knob == "data" else f"{value:g}" for value in (min(values), max(values))] if values else ["-"]
        cells = (
            title(fit.strategy),
            fit.form,
            EACH.get(fit.knob, fit.knob),
            slope_words(fit, fit.slope),
            f"{slope_words(fit, fit.low)} to {slope_words(fit, fit.high)}",
            signed(fit.intercept),
            f"{len(values)}: {' to '.join(dict.fromkeys(ends))}",
        )
        lines.append(Line(cells, ours=is_ours(fit.strategy)))
    columns = (
        WAY,
        STORED,
        Column(("private memory", "for each"), words=True),
        Column(("", "bytes"), "of private memory for each: the slope of a straight line through the measured peaks"),
        Column(("95 %", "interval"), "of the slope; one that contains 0 says that no growth was found"),
        Column(("at", "none"), "where the line begins: what does not depend on it"),
        Column(("measured", "points"), "", words=True),
    )
    return Section("How memory grows", (f"{kind}: {KINDS.get(kind, kind)}.",), columns, tuple(lines))


def calibration(report: Report) -> tuple[Section, str]:
    """The instruments on memory that was known, as a section; and what they miss, in a sentence."""
    lines = tuple(
        Line((str(each.get("what", "?")), _bytes(each.get("expected")), _bytes(each.get("measured")), _bytes(each.get("missed"))))
        for each in report.calibration
    )
    columns = (
        Column(("memory", ""), words=True),
        Column(("there", "is")),
        Column(("was", "measured")),
        Column(("was", "missed"), "below 0: more was measured than there is"),
    )
    missed = [(each["missed"], str(each.get("what", "?"))) for each in report.calibration if each.get("missed") is not None]
    if not lines:
        sentence = "The instruments were not calibrated in this run: how much they miss is not known."
    elif not missed:
        sentence = "How much the sampler misses was not measured in this run."
    elif max(missed)[0] <= 0:
        sentence = "The sampler missed nothing of it."
    else:
        sentence = (
            f"What the sampler misses: {format_bytes(max(missed)[0])} at most here ({max(missed)[1]}); peaks may be higher by that."
        )
    return Section("The instruments, on memory that is known", (), columns, lines), sentence


# --- cells --------------------------------------------------------------------------------------------------------------


def _bytes(size: float | None, sign: bool = False) -> str:
    return "-" if size is None else signed(size) if sign else format_bytes(size)


def _private(row: Row) -> str:
    early = row.outcome != FINISHED and row.private is not None
    return f">{format_bytes(max(row.private or 0, 0))}" if early else signed(row.private)


def _rate(speed: float | None) -> str:
    return "-" if speed is None else f"{format_bytes(speed)}/s"


def _short(row: Row) -> str:
    return "wrong data" if row.outcome == FINISHED else row.outcome
