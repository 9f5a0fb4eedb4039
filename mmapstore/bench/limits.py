"""Hard limits of memory: which rows count, the smallest limit that is enough, and throughput against the limit.

Each function gets `run`, which measures one epoch or more under a limit in bytes, framework included, and returns the row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from ..plain.memory_budget import format_bytes
from .contract import FINISHED, NOT_RUN, Row
from .findings import IN_RAM, proof

TOLERANCE = 0.05  # how much above the smallest limit the answer of the bisection may lie
RUNS = 7  # that a bisection takes, about, from a good guess
SHARES = (2.0, 1.5, 1.0, 0.7, 0.5, 0.3, 0.2, 0.1)  # of the bytes of the data
_STEP = 1.25  # from the guess to the first limit on its other side
_LEAST = 16_000_000  # bytes; no framework starts in less


def judge(rows: Sequence[Row]) -> None:
    """Write into each row that finished why it proves nothing, unless one that holds the data in memory was killed beside it.

    A limit that lets the whole data set into memory shows of no strategy that it does without. `rows` ran under one limit.
    """
    if proof(rows) is not None:
        return
    in_ram = [row for row in rows if holds_the_data(row.predicted, row.data_nbytes)]
    found = "; ".join(f"{row.strategy}: {row.outcome}{f' ({row.why})' if row.why else ''}" for row in in_ram)
    reason = f"does not count: what holds the data in memory was not killed under this limit ({found or 'it was not run'})"
    for row in rows:
        if row.outcome == FINISHED:
            row.why = "; ".join(filter(None, [row.why, reason]))


def holds_the_data(predicted: int | None, data_nbytes: int) -> bool:
    """
    >>> holds_the_data(900, 900), holds_the_data(100, 900), holds_the_data(None, 900)
    (True, False, False)
    """
    return predicted is not None and predicted >= IN_RAM * max(data_nbytes, 1)


def smallest_limit(
    run: Callable[[int], Row], guess: int, *, most: int, least: int = _LEAST, tolerance: float = TOLERANCE
) -> int | None:
    """The smallest limit, in bytes, under which `run` finishes: to within `tolerance`, and finished twice.

    Steps away from `guess`, wider and wider, until one limit is enough and one is not, then halves what lies between. A
    limit that is enough only now and then is not an answer: it is tried a second time, and the next higher ones after it.

    Parameters
    ----------
    guess : bytes, where to begin; a good one saves runs and does not change the answer
    most, least : bytes; None is returned where `most` is not enough, and `least` where that is
    """

    def finishes(limit: int) -> bool:
        return run(limit).outcome == FINISHED

    low, high = 0, 0  # the highest limit that was not enough, the lowest that was
    limit, step = max(least, min(guess, most)), _STEP
    while not (low and high):
        if finishes(limit):
            high = limit
            if limit == least:
                break
            limit = max(least, int(limit / step))
        else:
            low = limit
            if limit == most:
                return None
            limit = min(most, int(limit * step))
        step *= _STEP
    while low and high > max(low * (1 + tolerance), low + 1):
        middle = int(math.sqrt(low * high))
        low, high = (low, middle) if finishes(middle) else (middle, high)
    if finishes(high):
        return high
    while high < most:
        high = min(most, int(high * (1 + tolerance)))
        if finishes(high) and finishes(high):
            return high
    return None


def sweep(run: Callable[[int], Row], unlimited: Row, framework: int, most: int, shares: Sequence[float] = SHARES) -> Iterator[Row]:
    """Rows under limits of `framework` bytes and a share of the data each, from the largest down.

    What the framework takes by itself is added, so that data of any size show what theirs is good for: a tenth of 300 MB
    is less than TensorFlow needs to start. Below a limit that was not enough nothing is run, and the rows say so.

    Parameters
    ----------
    unlimited : a row of the same strategy and data, run or not; its names and bytes are those of rows that are not run
    framework : bytes that the process has before the data
    most : bytes that the machine has; limits above it limit nothing, and are left out
    """
    ended = ""
    for share in sorted(shares, reverse=True):
        limit = framework + int(share * unlimited.data_nbytes)
        if limit > most:
            continue
        if ended:
            first = unlimited
            yield Row(
                first.strategy, first.form, first.kind, NOT_RUN, ended, data_nbytes=first.data_nbytes, limit=limit,
                predicted=first.predicted,
            )  # fmt: skip
            continue
        row = run(limit)
        if row.outcome != FINISHED:
            ended = f"{row.outcome} under {format_bytes(limit)} already"
        yield row
