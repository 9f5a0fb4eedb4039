"""What the rows of a report say: figures derived from one row, rows that belong together, and the answer in sentences."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

from ..plain.memory_budget import format_bytes
from .contract import FINISHED, KILLED, NOT_RUN, Epoch, Fit, Report, Row, Smallest, delivered
from .plan import FRAMEWORK

IN_RAM = 0.9  # of the data in private memory: a way that was predicted to take this holds the data, whatever it is called
EACH = {"data": "byte of data", "batch": "sample of a batch", "look-ahead": "batch of look-ahead"}  # knob of a fit: its unit
Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


# --- one row ------------------------------------------------------------------------------------------------------------


def title(strategy: str) -> str:
    """What people read: the NAME of a strategy of this version, else the word that the report has.

    >>> title("a strategy of another version")
    'a strategy of another version'
    """
    from . import strategies

    return str(strategies.load(strategy).NAME) if strategy in strategies.names() else strategy


def is_ours(strategy: str) -> bool:
    """
    >>> is_ours("mmapstore of another version"), is_ours("a careful Sequence")
    (True, False)
    """
    return title(strategy).startswith("mmapstore")


def is_right(row: Row) -> bool:
    """Whether every epoch consumed the bytes of its task, and each pair as a pair."""
    return all(epoch.right for epoch in row.epochs)


def finished(row: Row) -> bool:
    return row.outcome == FINISHED and is_right(row)


def counted(row: Row) -> list[Epoch]:
    """Epochs whose time counts: from the second on, or the first where it is alone."""
    return row.epochs[1:] or row.epochs


def speed_of(row: Row, epoch: Epoch) -> float:
    """Bytes of x and y that an epoch went through a second, as they are stored.

    Not as the model got them: a way that makes floats of bytes would look four times as fast for it.
    """
    return delivered(row.kind, row.data_nbytes, epoch.samples) / epoch.seconds


def rates(row: Row) -> list[float]:
    """`speed_of` each counted epoch."""
    return [speed_of(row, epoch) for epoch in counted(row) if epoch.seconds > 0]


def rate(row: Row) -> float | None:
    """`speed_of` the counted epochs, the median; None unless the row finished, with the right data."""
    found = rates(row) if finished(row) else []
    return statistics.median(found) if found else None


def epoch_seconds(row: Row) -> float | None:
    """Median of the counted epochs; None unless the row finished, with the right data."""
    return statistics.median(epoch.seconds for epoch in counted(row)) if finished(row) and row.epochs else None


def amplification(row: Row) -> float | None:
    """Bytes of private memory per byte of data; None unless the row finished: what was cut short had not come to its peak."""
    return row.private / row.data_nbytes if finished(row) and row.private is not None and row.data_nbytes else None


def outcome(row: Row) -> str:
    """The outcome in words, with the reason where there is one.

    >>> outcome(Row("fit_memmap", "npy", "next", "not run", why="16.0 GB would not fit into 4.00 GB"))
    'not run: 16.0 GB would not fit into 4.00 GB'
    """
    if row.outcome == FINISHED and not is_right(row):
        return "WRONG DATA: it finished, but the checksum of what it consumed is not the task's"
    return f"{row.outcome}: {row.why}" if row.why else row.outcome


# --- rows together ------------------------------------------------------------------------------------------------------


def grouped(rows: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Rows with the same key together, keys and rows in the order in which they came."""
    found: dict[Key, list[Item]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def task_of(row: Row | Smallest) -> tuple[str, int]:
    """(kind, bytes of data): rows with the same can be compared."""
    return row.kind, row.data_nbytes


def limit_of(row: Row) -> tuple[str, int, int, str]:
    """(kind, bytes of data, bytes of the limit, by what): rows with the same ran under the same limit."""
    return *task_of(row), row.limit or 0, row.limited_by or "a limit"


def way_of(row: Row | Smallest | Fit) -> tuple[str, str]:
    """(strategy, form)"""
    return row.strategy, row.form


def has_kinds(report: Report) -> bool:
    """Whether it has rows of several kinds of task, so that what is said of one has to say of which."""
    rows = {row.kind for row in (*report.rows, *report.limited, *report.swept)}
    return len(rows | {each.kind for each in report.bisected} | {fit.kind for fit in report.fits}) > 1


def proof(rows: Iterable[Row]) -> Row | None:
    """The row that gives a limit its worth: one that holds the data in memory, and was killed. None: the limit proves nothing."""
    return next(
        (
            row
            for row in rows
            if row.outcome == KILLED and row.predicted is not None and row.predicted >= IN_RAM * max(row.data_nbytes, 1)
        ),
        None,
    )


def framework_of(report: Report) -> int:
    """Private bytes that a process has before the data: the most of the rows without a limit, or what is usual."""
    return max((row.baseline for row in report.rows if row.baseline), default=FRAMEWORK)


def share_of(row: Row, framework: int) -> float:
    """What a limit leaves beside the framework, as a share of the data; at least 0.01, so that it has a logarithm.

    >>> share_of(Row("fit_memmap", "npy", "next", "killed", data_nbytes=1000, limit=700), framework=200)
    0.5
    """
    return max(0.01, ((row.limit or 0) - framework) / max(row.data_nbytes, 1))


def by_memory(rows: Iterable[Row]) -> list[Row]:
    """Least private memory first; then what did not finish, by what it had taken; then what was not run, by prediction."""

    def place(row: Row) -> tuple[int, int]:
        if row.outcome == NOT_RUN:
            return 2, row.predicted or 0
        return int(not finished(row)), row.private if row.private is not None else row.predicted or 0

    return sorted(rows, key=place)


def labels(rows: Iterable[Row]) -> dict[tuple[str, str], str]:
    """{(strategy, form): a label}: the title, and the form where the same strategy has several.

    >>> labels([Row("a", "npy", "next", "finished"), Row("b", "npy", "next", "finished"), Row("b", "h5", "next", "finished")])
    {('a', 'npy'): 'a', ('b', 'npy'): 'b on npy', ('b', 'h5'): 'b on h5'}
    """
    ways = list(dict.fromkeys(way_of(row) for row in rows))
    forms = {strategy: {form for other, form in ways if other == strategy} for strategy, _ in ways}
    return {way: title(way[0]) + (f" on {way[1]}" if len(forms[way[0]]) > 1 else "") for way in ways}


# --- words and sentences ------------------------------------------------------------------------------------------------


def signed(nbytes: float | None) -> str:
    """
    >>> signed(12_000_000), signed(-4096), signed(None)
    ('+12.0 MB', '-4.10 kB', '-')
    """
    return "-" if nbytes is None else f"{'-' if nbytes < 0 else '+'}{format_bytes(abs(nbytes))}"


def format_seconds(seconds: float | None) -> str:
    """
    >>> format_seconds(0.0123), format_seconds(4.2), format_seconds(123.4), format_seconds(1200), format_seconds(None)
    ('12 ms', '4.20 s', '123 s', '20 min', '-')
    """
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds:#.3g} s".replace(". s", " s") if seconds < 999.5 else f"{seconds / 60:.0f} min"


def format_ratio(value: float | None) -> str:
    """
    >>> format_ratio(1.97), format_ratio(0.0123), format_ratio(0.00031), format_ratio(-1e-7), format_ratio(None)
    ('1.97', '0.012', '0.0003', '0.0000', '-')
    """
    if value is None:
        return "-"
    text = f"{value:.2f}" if abs(value) >= 0.0995 else f"{value:.3f}" if abs(value) >= 0.00995 else f"{value:.4f}"
    return text.lstrip("-") if not float(text) else text


def slope_words(fit: Fit, slope: float) -> str:
    """A slope of that line: a plain number for bytes of memory per byte of data, bytes for the rest.

    >>> from dataclasses import replace
    >>> fit = Fit("a", "npy", "next", "batch", 240_000.0, 230_000.0, 250_000.0, 0.0)
    >>> slope_words(fit, fit.slope), slope_words(replace(fit, knob="data"), 1.97)
    ('+240 kB', '1.97')
    """
    return format_ratio(slope) if fit.knob == "data" else signed(slope)


def machine_words(machine: dict[str, Any]) -> tuple[str, str]:
    """(what it is, versions of packages), each on one line.

    >>> machine_words({"processor": "A CPU", "cores": 2, "memory": 8 * 10**9, "python": "3.11.9", "versions": {"keras": "3.8"}})
    ('A CPU, 2 cores, 8.00 GB of memory, Python 3.11.9', 'keras 3.8')
    """
    named: dict[str, Callable[[Any], str]] = {
        "processor": str,
        "cores": lambda cores: f"{cores} cores",
        "memory": lambda memory: f"{format_bytes(memory) if isinstance(memory, (int, float)) else memory} of memory",
        "python": lambda version: f"Python {version}",
        "system": str,
    }
    words, versions = [], []
    for name, value in machine.items():
        if isinstance(value, dict):
            versions += [f"{package} {version}" for package, version in value.items()]
        elif value not in (None, "", [], ()):
            words.append(named[name](value) if name in named else f"{name.replace('_', ' ')} {value}")
    return ", ".join(words), ", ".join(versions)


def listed(words: Sequence[str], comma: str = ", ") -> str:
    """
    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join(filter(None, [comma.join(words[:-1]), *words[-1:]]))


def answer(report: Report) -> list[str]:
    """Three sentences: what memory it took, who finished under the limit, and who is fastest. Each from the rows alone."""
    kinds = has_kinds(report)
    return [_memory_sentence(report.rows, kinds), _limit_sentence(report.limited, kinds), _speed_sentence(report.rows, kinds)]


def _main_group(rows: Sequence[Row]) -> list[Row]:
    """The task on which most ways finished; of several the one with the most data; of several the first.

    Data of two kinds that were made in one size are whole samples of either, so they differ by less than a sample.
    """
    groups = grouped((row for row in rows if finished(row)), task_of)
    return groups[max(groups, key=lambda task: (len(groups[task]), float(f"{task[1]:.1e}")))] if groups else []


def _of_kind(kind: str, kinds: bool) -> str:
    return f' (task "{kind}")' if kinds else ""


def _memory_sentence(rows: Sequence[Row], kinds: bool) -> str:
    measured = by_memory(row for row in _main_group(rows) if row.private is not None)
    if not measured:
        return "No private memory was measured without a limit."
    ours = [row for row in measured if is_ours(row.strategy)]
    others = [row for row in measured if not is_ours(row.strategy)]
    names = labels(measured)

    def span(found: list[Row]) -> str:
        least, most = found[0], found[-1]
        if len(found) == 1 or least.private == most.private:
            return f"{signed(least.private)} ({names[way_of(least)]})"
        return f"{signed(least.private)} ({names[way_of(least)]}) to {signed(most.private)} ({names[way_of(most)]})"

    parts = [f"{who} took {span(found)}" for who, found in (("mmapstore's ways", ours), ("the other ways", others)) if found]
    return (
        f"For an epoch over {format_bytes(measured[0].data_nbytes)} of data{_of_kind(measured[0].kind, kinds)}, "
        f"private memory over that of the started framework: {', '.join(parts)}."
    )


def _limit_sentence(limited: Sequence[Row], kinds: bool) -> str:
    groups = grouped(limited, limit_of)
    if not groups:
        return "Nothing was run under a hard limit of memory."
    key = max(groups, key=lambda group: (proof(groups[group]) is not None, len(groups[group])))
    rows, names = groups[key], labels(groups[key])
    done = [f"{names[way_of(row)]} ({format_seconds(epoch_seconds(row))})" for row in rows if finished(row)]
    killed = [names[way_of(row)] for row in rows if row.outcome == KILLED]
    rest = [names[way_of(row)] for row in rows if not finished(row) and row.outcome not in (KILLED, NOT_RUN)]
    parts = [
        f"{what} with {listed(found, '; ')}"  # names have commas in them
        for what, found in (("finished", done), ("was killed", killed), ("did not finish", rest))
        if found
    ]
    worth = "" if proof(rows) else "; no way that holds the data in memory was killed under it, so it proves nothing"
    return (
        f"Under a hard limit of {format_bytes(key[2])} ({key[3]}), framework included, an epoch over {format_bytes(key[1])}"
        f"{_of_kind(key[0], kinds)} {', and '.join(parts) or 'was not tried'}{worth}."
    )


def _speed_sentence(rows: Sequence[Row], kinds: bool) -> str:
    timed = sorted(((rate(row) or 0.0, row) for row in _main_group(rows) if rate(row)), key=lambda pair: -pair[0])
    if not timed:
        return "No throughput was measured without a limit."
    names = labels(row for _, row in timed)
    best, first = timed[0]
    words = f"The fastest{_of_kind(first.kind, kinds)} was {names[way_of(first)]} with {format_bytes(best)}/s of x and y"
    ours = next(((speed, row) for speed, row in timed if is_ours(row.strategy)), None)
    other = next(((speed, row) for speed, row in timed if not is_ours(row.strategy)), None)
    if ours is None or other is None:
        return f"{words}."
    slower, row = other if is_ours(first.strategy) else ours
    whose = "of the other ways" if is_ours(first.strategy) else "of mmapstore's ways"
    return f"{words}; the fastest {whose}, {names[way_of(row)]}, came to {format_bytes(slower)}/s, {slower / best:.2f} of it."
