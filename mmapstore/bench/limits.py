"""Hard limits of memory: the rows that count, the smallest limit that is enough, and throughput against the limit.

Each function gets `run`, which measures one epoch or more under a limit in bytes, framework included, and returns the row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ..plain.memory_budget import format_bytes
from .contract import FINISHED, Row
from .derived import holds_the_data, proof

TOLERANCE = 0.05  # how much above the smallest limit the answer of the bisection may lie
RUNS = 7  # that a bisection takes, about, from a good guess
SHARES = (2.0, 1.5, 1.0, 0.7, 0.5, 0.3, 0.2, 0.1)  # of the bytes of the data
_STEP = 1.25  # from the guess to the first limit on its other side
_LEAST = 16_000_000  # bytes; no framework starts in less


def judge(rows: Sequence[Row]) -> None:
    """Write into each finished row of one limit that it does not count, unless a row that holds the data was killed.

    A limit that lets the whole data set into memory is no proof that a strategy does without it.
    """
    if proof(rows) is not None:
        return
    in_ram = [f"{row.strategy}: {row.outcome}{f' ({row.why})' if row.why else ''}" for row in rows if holds_the_data(row)]
    reason = f"does not count: no strategy that holds the data was killed under this limit ({'; '.join(in_ram) or 'none was run'})"
    for row in rows:
        if row.outcome == FINISHED:
            row.why = "; ".join(filter(None, [row.why, reason]))


def smallest_limit(
    run: Callable[[int], Row], guess: int, *, most: int, least: int = _LEAST, tolerance: float = TOLERANCE
) -> int | None:
    """Return the smallest limit, in bytes, under which `run` finishes: to within `tolerance`, and finished twice.

    Steps away from `guess`, wider and wider, until one limit is enough and one is not, then bisects. A limit that is enough
    only now and then is not an answer: it is tried a second time, and the next higher ones after it.

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
    """Yield rows under limits of `framework` bytes and a share of the data each, from the largest down.

    The framework's memory is added because a tenth of 300 MB is less than TensorFlow needs to start. Below a limit that was not
    enough nothing is run, and the rows say so.

    Parameters
    ----------
    unlimited : a row of the same strategy and data that was not run: the form of the rows that are not run here
    framework : bytes that the process has before the data
    most : bytes that the machine has; limits above it limit nothing, and are skipped
    """
    ended = ""
    limits = (framework + int(share * unlimited.data_nbytes) for share in sorted(shares, reverse=True))
    for limit in limits:
        if limit <= most and ended:
            yield replace(unlimited, why=ended, limit=limit, epochs=[], looks=[])
        elif limit <= most:
            row = run(limit)
            if row.outcome != FINISHED:
                ended = f"{row.outcome} under {format_bytes(limit)} already"
            yield row
