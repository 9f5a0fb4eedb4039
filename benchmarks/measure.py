"""The runner of the benchmarks: arms in fresh processes that take turns, watched by the instruments of `mmapstore bench`."""

from __future__ import annotations

import contextlib
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mmapstore.bench.child import Say, channel, in_a_line
from mmapstore.bench.instruments.limits import Limit, limited
from mmapstore.bench.instruments.process_tree import Watch
from mmapstore.bench.machine import machine as machine
from mmapstore.bench.running import Child


def run_arm(module: str, arguments: Sequence[str], timeout: float = math.inf, limit: int | None = None) -> dict[str, Any]:
    """Run one arm in a process of its own, watched from outside; return the fields of its event "result", and `growth`.

    `growth` : bytes of private memory over those at the event "baseline"; None without that event. `timeout` in seconds, `limit`
    in bytes of memory, the framework included. An arm that failed has the keys "failed" and "error".
    """
    found: list[dict[str, Any]] = []

    def take(event: dict[str, Any]) -> bool:
        found.append(event)
        return True

    under_limit = limited(limit) if limit is not None else contextlib.nullcontext(Limit())
    with under_limit as under, Child([module, *arguments], under.prefix) as child:
        with Watch(child.number) as watch:
            in_time = child.follow(take, timeout, watch)
        why, code, words = child.end()
        why = "killed by the limit" if under.killed(code, words) else why
    if found:
        return {name: value for name, value in found[0].items() if name != "event"} | {"growth": watch.private}
    return {"failed": code, "error": [why if in_time else f"given up after {timeout:.0f} s"]}


def report_arm(run: Callable[[Say], dict[str, Any]]) -> None:
    """Run the arm of this process, and give its figures, or its failure, to `run_arm`. `run` gets the channel of its events."""
    say = channel()
    try:
        say("result", **run(say))
    except Exception as error:
        say("failed", why=in_a_line(error))
        raise SystemExit(1) from error


def take_turns(module: str, arms: Sequence[Sequence[str]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Every arm once, then every arm again, `rounds` times: drift of the machine then meets all alike."""
    results: dict[str, list[dict[str, Any]]] = {arm[0]: [] for arm in arms}
    for turn in range(rounds):
        for arm in arms if turn % 2 == 0 else reversed(arms):
            print(f"  round {turn + 1} of {rounds}: {arm[0]}", file=sys.stderr)
            results[arm[0]].append(run_arm(module, arm))
    return results


def spread(values: Sequence[float]) -> str:
    """ "median (min to max)"."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
