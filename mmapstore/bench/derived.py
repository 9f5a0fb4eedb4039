"""Figures derived from the rows of a report, and the answer in sentences."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

from ..plain.display import format_duration
from ..plain.memory_budget import format_bytes
from . import strategies
from .contract import FINISHED, KILLED, NOT_RUN, Epoch, Report, Row, delivered

IN_RAM = 0.9  # a strategy that is predicted to take this share of the data, or more, holds the data
USUAL_FRAMEWORK = 400_000_000  # private bytes of a process that has started TensorFlow on a CPU; 260 MB were measured
Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


# --- one row ------------------------------------------------------------------------------------------------------------


def title(strategy: str) -> str:
    """Return the title of a strategy; the name itself for a strategy that this version does not have."""
    return strategies.load(strategy).title if strategy in strategies.names() else strategy


def is_ours(strategy: str) -> bool:
    return title(strategy).startswith("mmapstore")


def is_right(row: Row) -> bool:
    """Return True if every epoch consumed the bytes of its task, and each pair as a pair."""
    return all(epoch.right for epoch in row.epochs)


def finished(row: Row) -> bool:
    return row.outcome == FINISHED and is_right(row)


def counted(row: Row) -> list[Epoch]:
    """Return the epochs whose time counts: from the second on, or the first where there is one alone."""
    return row.epochs[1:] or row.epochs


def speed_of(row: Row, epoch: Epoch) -> float:
    """Return the bytes of x and y a second, as they are stored: a strategy that makes floats of bytes is not faster for it."""
    return delivered(row.kind, row.data_nbytes, epoch.samples) / epoch.seconds


def rate(row: Row) -> float | None:
    """Return the median of `speed_of` the counted epochs; None unless the row finished, with the right data."""
    found = [speed_of(row, epoch) for epoch in counted(row) if epoch.seconds > 0]
    return statistics.median(found) if found and finished(row) else None


def epoch_seconds(row: Row) -> float | None:
    """Return the median of the counted epochs; None unless the row finished, with the right data."""
    return statistics.median(epoch.seconds for epoch in counted(row)) if finished(row) and row.epochs else None


def amplification(row: Row) -> float | None:
    """Return private memory / data; None unless the row finished: a row cut short had not come to its peak."""
    return row.private / row.data_nbytes if finished(row) and row.private is not None and row.data_nbytes else None


def growth(rows: Sequence[Row]) -> float | None:
    """Return private memory for each byte of data more, between the smallest and the largest data that the strategy finished."""
    ran = sorted((row for row in rows if finished(row) and row.private is not None), key=lambda row: row.data_nbytes)
    if not ran or ran[0].data_nbytes == ran[-1].data_nbytes:
        return None
    return ((ran[-1].private or 0) - (ran[0].private or 0)) / (ran[-1].data_nbytes - ran[0].data_nbytes)


def holds_the_data(row: Row) -> bool:
    """Return True if the strategy is predicted to hold the data in memory."""
    return row.predicted is not None and row.predicted >= IN_RAM * max(row.data_nbytes, 1)


def outcome(row: Row) -> str:
    """
    >>> outcome(Row("fit_memmap", "npy", "next", "not run", why="16.0 GB would not fit into 4.00 GB"))
    'not run: 16.0 GB would not fit into 4.00 GB'
    """
    if row.outcome == FINISHED and not is_right(row):
        return "WRONG DATA: the run finished, but the checksum of the data it consumed is not the task's"
    return f"{row.outcome}: {row.why}" if row.why else row.outcome


# --- rows together ------------------------------------------------------------------------------------------------------


def grouped(rows: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Group rows by key, keys and rows in the order in which they came."""
    found: dict[Key, list[Item]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def data_of(row: Row) -> tuple[str, int]:
    """Return (kind, bytes of data): rows with the same can be compared."""
    return row.kind, row.data_nbytes


def limit_of(row: Row) -> tuple[str, int, int, str]:
    """Return (kind, bytes of data, bytes of the limit, its means): rows with the same ran under the same limit."""
    return *data_of(row), row.limit or 0, row.limited_by or "a limit"


def variant_of(row: Row) -> tuple[str, str]:
    """Return (strategy, form)."""
    return row.strategy, row.form


def proof(rows: Iterable[Row]) -> Row | None:
    """Return the row that proves a limit: it holds the data in memory, and was killed. None: the limit proves nothing."""
    return next((row for row in rows if row.outcome == KILLED and holds_the_data(row)), None)


def by_memory(rows: Iterable[Row]) -> list[Row]:
    """Sort by private memory; then the rows that did not finish; then the rows that were not run, by prediction."""

    def place(row: Row) -> tuple[int, int]:
        if row.outcome == NOT_RUN:
            return 2, row.predicted or 0
        return int(not finished(row)), row.private if row.private is not None else row.predicted or 0

    return sorted(rows, key=place)


def labels(rows: Iterable[Row]) -> dict[tuple[str, str], str]:
    """Return {(strategy, form): label}: the title, and the form where the same strategy has several.

    >>> labels([Row("a", "npy", "next", "finished"), Row("b", "npy", "next", "finished"), Row("b", "h5", "next", "finished")])
    {('a', 'npy'): 'a', ('b', 'npy'): 'b on npy', ('b', 'h5'): 'b on h5'}
    """
    found = dict.fromkeys(map(variant_of, rows))
    several = {strategy for strategy, forms in grouped(found, lambda each: each[0]).items() if len(forms) > 1}
    return {(strategy, form): title(strategy) + (f" on {form}" if strategy in several else "") for strategy, form in found}


# --- words and sentences ------------------------------------------------------------------------------------------------


def bytes_words(nbytes: float | None) -> str:
    return "-" if nbytes is None else format_bytes(nbytes)


def signed(nbytes: float | None) -> str:
    """
    >>> signed(12_000_000), signed(-4096), signed(None)
    ('+12.0 MB', '-4.10 kB', '-')
    """
    return "-" if nbytes is None else f"{'-' if nbytes < 0 else '+'}{format_bytes(abs(nbytes))}"


def speed_words(speed: float | None) -> str:
    return "-" if speed is None else f"{format_bytes(speed)}/s"


def format_seconds(seconds: float | None) -> str:
    return "-" if seconds is None else format_duration(seconds)


def format_ratio(value: float | None) -> str:
    """
    >>> format_ratio(1.97), format_ratio(0.0123), format_ratio(0.00031), format_ratio(-1e-7), format_ratio(None)
    ('1.97', '0.012', '0.0003', '0.0000', '-')
    """
    if value is None:
        return "-"
    return f"{value:z.{2 if abs(value) >= 0.0995 else 3 if abs(value) >= 0.00995 else 4}f}"


def machine_words(machine: dict[str, Any]) -> tuple[str, str]:
    """Return (the machine, the versions of packages), each on one line.

    >>> machine_words({"processor": "A CPU", "cores": 2, "memory": 8 * 10**9, "python": "3.11.9", "versions": {"keras": "3.8"}})
    ('A CPU, 2 cores, 8.00 GB of memory, Python 3.11.9', 'keras 3.8')
    """
    known = {"processor": "{}", "system": "{}", "cores": "{} cores", "memory": "{} of memory", "python": "Python {}"}
    found = {name: value for name, value in machine.items() if name != "versions" and value}
    found |= {"memory": format_bytes(machine["memory"])} if machine.get("memory") else {}
    words = [known.get(name, f"{name.replace('_', ' ')} {{}}").format(value) for name, value in found.items()]
    return ", ".join(words), ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items())


def answer(report: Report) -> list[str]:
    """Return three sentences: the memory taken, the outcomes under the limit, and the fastest. Each from the rows alone."""
    # The task on which most finished; of several the one with the most data. Sizes of two kinds differ by less than a sample.
    groups = grouped((row for row in report.rows if finished(row)), data_of)
    main = groups[max(groups, key=lambda data: (len(groups[data]), float(f"{data[1]:.1e}")))] if groups else []
    return [_memory_sentence(main), _limit_sentence(report.limited), _speed_sentence(main)]


def _by_owner(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {
        ("mmapstore's strategies" if ours else "the other strategies"): found
        for ours, found in sorted(grouped(rows, lambda row: is_ours(row.strategy)).items(), reverse=True)
    }


def _memory_sentence(rows: Sequence[Row]) -> str:
    measured = by_memory(row for row in rows if row.private is not None)
    if not measured:
        return "No private memory was measured without a limit."
    names, parts = labels(measured), []
    for who, found in _by_owner(measured).items():
        ends = found[:1] + [row for row in found[-1:] if row.private != found[0].private]
        parts.append(f"{who} took {' to '.join(f'{signed(row.private)} ({names[variant_of(row)]})' for row in ends)}")
    return (
        f'For an epoch over {format_bytes(measured[0].data_nbytes)} of data (task "{measured[0].kind}"), '
        f"private memory over that of the started framework: {', '.join(parts)}."
    )


def _limit_sentence(limited: Sequence[Row]) -> str:
    groups = grouped(limited, limit_of)
    if not groups:
        return "Nothing was run under a hard limit of memory."
    key = max(groups, key=lambda group: (proof(groups[group]) is not None, len(groups[group])))
    rows, names = groups[key], labels(groups[key])
    done = [f"{names[variant_of(row)]} ({format_seconds(epoch_seconds(row))})" for row in rows if finished(row)]
    killed = [names[variant_of(row)] for row in rows if row.outcome == KILLED]
    rest = [names[variant_of(row)] for row in rows if not finished(row) and row.outcome not in (KILLED, NOT_RUN)]
    parts = [
        f"{verb} with {'; '.join(found)}"  # names have commas in them
        for verb, found in (("finished", done), ("was killed", killed), ("did not finish", rest))
        if found
    ]
    worth = "" if proof(rows) else "; no strategy that holds the data in memory was killed under it, so it proves nothing"
    return (
        f"Under a hard limit of {format_bytes(key[2])} ({key[3]}), framework included, an epoch over {format_bytes(key[1])} "
        f'(task "{key[0]}") {", and ".join(parts) or "was not tried"}{worth}.'
    )


def _speed_sentence(rows: Sequence[Row]) -> str:
    timed = sorted((row for row in rows if rate(row)), key=lambda row: -(rate(row) or 0))
    if not timed:
        return "No throughput was measured without a limit."
    names = labels(timed)
    fastest = [f"of {who} {names[variant_of(own[0])]} with {speed_words(rate(own[0]))}" for who, own in _by_owner(timed).items()]
    return f'The fastest (task "{timed[0].kind}"), in bytes of x and y: {", ".join(fastest)}.'
