"""What comes of one archive: converted, verified, and judged by other libraries. Runs in a process that may die of it."""

from __future__ import annotations

import contextlib
import io
import resource
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "operations"))


@dataclass
class Outcome:
    """`faults` must not be; `refused` are the reasons given, each with the number of objects; `too_large` arrays are not judged."""

    path: str
    code: int | None = None
    equal: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    too_large: list[str] = field(default_factory=list)
    seconds: float = 0.0
    peak_nbytes: int = 0


def run(*arguments: str) -> tuple[int, str]:
    """(exit code, all that was printed) of a command."""
    from mmapstore.cli import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = main(list(arguments))
    return code, printed.getvalue()


def send_outcome(sender: Any, path: str, target: str, seconds: int) -> None:
    """In a process of its own, which ends after this much processor time."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    sender.send(outcome_of(path, target))


def outcome_of(path: str, target: str) -> Outcome:
    outcome, start = Outcome(path), time.process_time()
    try:
        _judged(Path(path), Path(target), outcome)
    except BaseException:
        outcome.faults.append(traceback.format_exc()[-3000:])
    outcome.seconds = time.process_time() - start
    outcome.peak_nbytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return outcome


def _judged(path: Path, target: Path, outcome: Outcome) -> None:
    import h5py
    from tree_judges import judge

    from mmapstore.operations.convert.tree import convert_all
    from mmapstore.plain.errors import MmapstoreError

    try:
        report = convert_all(path, target, progress=False)
    except MmapstoreError as error:
        outcome.refused[str(error)] = 1
        return
    outcome.code = report.exit_code
    outcome.outcomes = dict(Counter(row.outcome for row in report.rows))
    outcome.refused = dict(Counter(row.how for row in report.rows if row.is_lost))
    code, printed = run("verify", str(path), str(target), "--max-memory", "1GB")  # it holds two elements of 128 MB at once
    if code != outcome.code:
        outcome.faults.append(f"convert exits {outcome.code}, verify {code}: {printed}")
    if path.is_file() and h5py.is_hdf5(path):
        outcome.equal = judge(path, target, report, outcome.too_large)
