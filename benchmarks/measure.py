"""How the benchmarks measure: arms in fresh processes that take turns, medians."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmapstore.bench.instruments.limits import Limit, limited
from mmapstore.bench.machine import machine as machine


def run_arm(module: str, arguments: Sequence[str], timeout: float | None = None, limit: int | None = None) -> dict[str, Any]:
    """One arm in a process of its own; it prints its result as one line of JSON, the last. `timeout` in seconds, `limit` in bytes
    of memory, the framework included."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
    with limited(limit) if limit is not None else contextlib.nullcontext(Limit()) as under:
        command = [*under.prefix, sys.executable, "-m", module, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=timeout)
        except subprocess.TimeoutExpired:
            return {"failed": -1, "error": [f"given up after {timeout:.0f} s"]}
        if under.killed(done.returncode, done.stderr):
            return {"failed": done.returncode, "error": ["killed by the limit"]}
    if done.returncode:
        return {
            "failed": done.returncode,
            "error": done.stderr.strip().splitlines()[-1:] or [f"killed by signal {-done.returncode}"],
        }
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


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


def random_frames(path: Path, samples: int, shape: tuple[int, ...], dtype: str, seed: int = 0) -> Path:
    """A .npy of random values, written a piece at a time; kept if it is there already."""
    if path.exists() and np.load(path, mmap_mode="r").shape == (samples, *shape):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    out = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=(samples, *shape))
    random = np.random.default_rng(seed)
    step = max(1, 2**24 // max(1, out[0].nbytes))
    for start in range(0, samples, step):
        block = random.random((min(step, samples - start), *shape), dtype=np.float32)
        out[start : start + step] = block * 255 if np.dtype(dtype).kind in "iu" else block
    out.flush()
    del out
    os.replace(partial, path)
    return path


def warm(path: Path) -> None:
    """Bring a file into the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(2**24):
            pass


def timed(function: Any, *arguments: Any) -> float:
    """Seconds."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start
