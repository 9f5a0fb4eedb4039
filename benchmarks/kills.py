"""kill -9 of training at random batches, 30 times for each backend and adapter: is the resumed run equal to the uninterrupted one?

    python -m benchmarks.kills
    python -m benchmarks.kills --kills 100 --only torch jax --json kills.json

Equal means: every variable of model and optimizer, what each batch and each epoch came to, weights of ModelCheckpoint, rows of
CSVLogger, the History, and the next random numbers, bit for bit. Below: what a position costs to save, by the size of the data.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mmapstore as mm

from .measure import machine

CASES = [("tensorflow", "keras"), ("tensorflow", "tf"), ("jax", "keras"), ("torch", "keras")]


def measure(backend: str, adapter: str, kills: int, seed: int) -> dict[str, Any]:
    """One row: kills of one backend through one adapter."""
    if importlib.util.find_spec(backend) is None:
        return {"backend": backend, "adapter": adapter, "outcome": f"{backend} is not installed"}
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        environment |= {"JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        command = [sys.executable, "-m", "benchmarks.killed_run", folder, adapter, str(kills), str(seed)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"backend": backend, "adapter": adapter, "outcome": f"NOT EQUAL: {done.stderr.strip()[-2000:]}"}
    return {**json.loads(done.stdout.splitlines()[-1]), "outcome": "equal"}


def cost_of_a_position(samples: int) -> dict[str, Any]:
    """Bytes of the position in shuffled batches of so many samples, and the milliseconds to make it the first time."""
    b = mm.open(np.broadcast_to(np.arange(2, dtype=np.uint8), (samples, 2))).batches(32, shuffle=True)
    began = time.perf_counter()
    state = b.state_at(3, len(b) // 2)
    return {"samples": samples, "bytes": len(json.dumps(state)), "ms": 1e3 * (time.perf_counter() - began)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.kills", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="times that each run is killed (default %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="backends or adapters: tensorflow, jax, torch, keras, tf")
    parser.add_argument("--seed", type=int, default=0, help="of the batches at which runs are killed (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)

    rows = []
    print(f"{'backend':<12}{'adapter':<9}{'kills':>6}{'epochs':>8}{'batches':>9}{'trained':>9}{'seconds':>9}  outcome")
    for backend, adapter in CASES:
        if not options.only or {backend, adapter} & set(options.only):
            row = measure(backend, adapter, options.kills, options.seed)
            rows.append(row)
            numbers = "".join(
                f"{row.get(key, '-'):>{width}}" for key, width in (("kills", 6), ("epochs", 8), ("batches", 9), ("trained", 9))
            )
            print(f"{backend:<12}{adapter:<9}{numbers}{row.get('seconds', 0):>9.1f}  {row['outcome']}", flush=True)
    costs = [cost_of_a_position(samples) for samples in (10**3, 10**6, 10**9)]
    print()
    for cost in costs:
        print(f"position in {cost['samples']:>13,} samples: {cost['bytes']} bytes, {cost['ms']:.1f} ms")
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), "kills": rows, "positions": costs}, indent=1) + "\n")
    return 1 if any(row["outcome"].startswith("NOT") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
