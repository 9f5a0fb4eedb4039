"""A report as sections of lines and cells, which the terminal's table and the HTML both print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..plain.memory_budget import format_bytes
from . import derived
from .contract import FINISHED, KINDS, Fit, Report, Row, Smallest
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
DISK = Column(("disk", "read"), "bytes that came from the disk, all epochs; 0 where the page cache had everything")
THROUGHPUT = Column(("throughput", ""), "bytes of x and y a second, as they are stored; the median from the second epoch on")
EPOCH = Column(("time per", "epoch"), "seconds of one pass of fit, the median from the second on (the first where it is alone)")
FIRST = Column(("first", "batch"), "from the call that opens the data to the begin of the first training step")
GPU = Column(("GPU", "memory"), "highest memory of the framework on the GPU")
SMALLEST = Column(("smallest", "limit"), "the smallest limit under which an epoch finished")
OUTCOME = Column(("outcome", ""), "killed: by the limit", words=True)
SHARE = Column(("of its", "speed"), "throughput / that of the same strategy on the same data without a limit")
GROUP = Column(("group's", "own count"), "anonymous memory at its peak as the control group counts it, the framework in it")


def sections(report: Report) -> list[Section]:
    """Return all sections for which the report has rows, in reading order."""
    found = [_measured(report, rows) for rows in grouped(report.rows, data_of).values()]
    found += [_limited(report, rows) for rows in grouped(report.limited, derived.limit_of).values()]
    if not report.limited:
        found += [_bisected(report, smallest) for smallest in grouped(report.bisected, data_of).values()]
    found += [_swept(rows, derived.framework_of(report)) for rows in grouped(report.swept, data_of).values()]
    found += [_fits(fits) for fits in grouped(report.fits, lambda fit: fit.kind).values()]
    return found


def _task_words(report: Report, row: Row | Smallest) -> str:
    """Describe the task of a group of rows: x and y, the amount of data, and its shape."""
    words = f"{row.kind}: {KINDS.get(row.kind, row.kind)}; {format_bytes(row.data_nbytes)}"
    for task in report.tasks:
        try:
            nbytes = task["samples"] * math.prod(task["shape"]) * np.dtype(task["dtype"]).itemsize
        except (KeyError, TypeError):  # of another version, or edited
            continue
        if (task.get("kind"), nbytes) == data_of(row):
            shape = ", ".join(map(str, task["shape"])) + ("," if len(task["shape"]) == 1 else "")
            own = (
                "" if task.get("exact", True) else "; each strategy decodes in its own manner, so values are counted, not compared"
            )
            words += f": {task['samples']:,} samples of {task['dtype']} ({shape}), batches of {task.get('batch', '?')}{own}"
            break
    return f"{words}."


def _line(row: Row, start: tuple[str, ...], cells: Sequence[str], remark: str) -> Line:
    """Return the cells of a row that finished; else the outcome in their place."""
    if finished(row):
        return Line((*start, *cells), remark, is_ours(row.strategy))
    return Line(start, derived.outcome(row), is_ours(row.strategy))


def _measured(report: Report, rows: Sequence[Row]) -> Section:
    on_gpu = any(row.gpu is not None for row in report.rows)
    lines = []
    for row in derived.by_memory(rows):
        predicted = "-" if row.predicted is None else signed(row.predicted)
        cells = [
            derived.format_ratio(derived.amplification(row)),
            bytes_words(row.file_backed),
            bytes_words(row.disk_read),
            speed_words(rate(row)),
            format_seconds(derived.epoch_seconds(row)),
            format_seconds(row.first_batch),
            *([bytes_words(row.gpu)] if on_gpu else []),
        ]
        lines.append(_line(row, (title(row.strategy), row.form, predicted, _private(row)), cells, row.why))
    columns = (
        STRATEGY,
        STORED,
        PREDICTED,
        MEASURED,
        PER_BYTE,
        FILE_BACKED,
        DISK,
        THROUGHPUT,
        EPOCH,
        FIRST,
        *([GPU] if on_gpu else []),
    )
    about = (_task_words(report, rows[0]), "Least private memory first. No limit; every strategy in a process of its own.")
    return Section("What each strategy costs", about, columns, tuple(lines))


def _limited(report: Report, rows: Sequence[Row]) -> Section:
    _, _, limit, by = derived.limit_of(rows[0])
    in_group = any(row.group_anonymous is not None for row in report.limited)
    killed = derived.proof(rows)
    enough = {(*variant_of(each), *data_of(each)): each.limit for each in report.bisected}
    unlimited = {(*variant_of(row), *data_of(row)): rate(row) for row in report.rows}
    lines = []
    for row in derived.by_memory(rows):
        key = (*variant_of(row), *data_of(row))
        smallest = [bytes_words(enough.get(key))] if report.bisected else []
        speed, free = rate(row), unlimited.get(key)
        share = f"{speed / free:.2f}" if speed and free else "-"
        cells = [row.outcome, format_seconds(derived.epoch_seconds(row)), speed_words(speed), share]
        cells += [bytes_words(row.group_anonymous)] if in_group else []
        # Without a proof each row says so in `why`, and the line above them says it once.
        lines.append(_line(row, (title(row.strategy), row.form, *smallest, _private(row)), cells, row.why if killed else ""))
    worth = (
        f"The limit is a real one: {title(killed.strategy)}, which holds the data in memory, was killed under it in this run."
        if killed
        else "No strategy that holds the data in memory was killed under this limit in this run, so these rows prove nothing."
    )
    swap = ", swap off" if by == "control group" else ""
    columns = [STRATEGY, STORED, *([SMALLEST] if report.bisected else []), MEASURED, OUTCOME, EPOCH, THROUGHPUT, SHARE]
    return Section(
        f"Under a hard limit of {format_bytes(limit)}",
        (_task_words(report, rows[0]), f"Limited by: {by}{swap}; the framework is in it. {worth}"),
        (*columns, *([GROUP] if in_group else [])),
        tuple(lines),
    )


def _bisected(report: Report, found: Sequence[Smallest]) -> Section:
    lines = [
        Line((title(each.strategy), each.form, format_bytes(each.limit)), ours=is_ours(each.strategy))
        for each in sorted(found, key=lambda each: each.limit)
    ]
    about = (_task_words(report, found[0]), "Cold cache; the framework is in the limit.")
    return Section("The smallest limit that is enough", about, (STRATEGY, STORED, SMALLEST), tuple(lines))


def _swept(rows: Sequence[Row], framework: int) -> Section:
    heads = {row.limit: (f"{derived.share_of(row, framework):.0%}", format_bytes(row.limit)) for row in rows if row.limit}
    lines = []
    for (strategy, form), own in grouped(rows, variant_of).items():
        cells = {
            row.limit: speed_words(rate(row)) if finished(row) else "wrong data" if row.outcome == FINISHED else row.outcome
            for row in own
        }
        lines.append(Line((title(strategy), form, *(cells.get(limit, "-") for limit in sorted(heads))), ours=is_ours(strategy)))
    about = (
        f"{rows[0].kind}, {format_bytes(rows[0].data_nbytes)}: bytes of x and y a second under a hard limit of the framework's "
        f"{format_bytes(framework)} and so many per cent of the data; below, that limit.",
        "A strategy that slows as the limit falls depends on the page cache; one that was killed needs the memory for itself.",
    )
    columns = [Column(heads[limit]) for limit in sorted(heads)]
    return Section("Throughput against the limit", about, (STRATEGY, STORED, *columns), tuple(lines))


def _fits(fits: Sequence[Fit]) -> Section:
    lines = []
    for fit in fits:
        values = [value for value, _ in fit.points]
        ends = (
            [format_bytes(value) if fit.knob == "data" else f"{value:g}" for value in (min(values), max(values))] if values else "-"
        )
        cells = (
            title(fit.strategy),
            fit.form,
            derived.EACH.get(fit.knob, fit.knob),
            derived.slope_words(fit, fit.slope),
            f"{derived.slope_words(fit, fit.low)} to {derived.slope_words(fit, fit.high)}",
            signed(fit.intercept),
            f"{len(values)}: {' to '.join(dict.fromkeys(ends))}",
        )
        lines.append(Line(cells, ours=is_ours(fit.strategy)))
    columns = (
        STRATEGY,
        STORED,
        Column(("private memory", "for each"), words=True),
        Column(("", "bytes"), "of private memory for each: the slope of a straight line through the measured peaks"),
        Column(("95 %", "interval"), "of the slope; one that contains 0 says that no growth was found"),
        Column(("at", "none"), "where the line begins: the part that does not depend on it"),
        Column(("measured", "points"), "", words=True),
    )
    kind = fits[0].kind
    return Section("How memory grows", (f"{kind}: {KINDS.get(kind, kind)}.",), columns, tuple(lines))


def calibration(report: Report) -> tuple[Section, str]:
    """Return the instruments on memory that was known, as a section; and their largest error, in a sentence."""
    names = ("expected", "measured", "missed")
    lines = tuple(
        Line((str(each.get("what", "?")), *(bytes_words(each.get(name)) for name in names))) for each in report.calibration
    )
    columns = (
        Column(("memory", ""), words=True),
        Column(("there", "is")),
        Column(("was", "measured")),
        Column(("was", "missed"), "below 0: more was measured than there is"),
    )
    missed = [(each["missed"], str(each.get("what", "?"))) for each in report.calibration if each.get("missed") is not None]
    if not lines:
        sentence = "The instruments were not calibrated in this run: their error is not known."
    elif not missed:
        sentence = "The error of the sampler was not measured in this run."
    elif max(missed)[0] <= 0:
        sentence = "The sampler missed nothing of it."
    else:
        sentence = (
            f"The sampler misses {format_bytes(max(missed)[0])} at most here ({max(missed)[1]}); peaks may be higher by that."
        )
    return Section("The instruments, on memory that is known", (), columns, lines), sentence


def _private(row: Row) -> str:
    early = row.outcome != FINISHED and row.private is not None
    return f">{format_bytes(max(row.private or 0, 0))}" if early else signed(row.private)
