"""One epoch over 8 GB inside a hard memory limit of 1 GB: who finishes, and how fast.

    python -m benchmarks.hard_limit                       needs Linux, and the right to make a control group (root)
    python -m benchmarks.hard_limit --gigabytes 2 --limit 700MB

Each arm is a process that is under the limit before it imports anything: a control group (version 1 or 2) with swap off, so
that memory it cannot give back ends it. The file holds random bytes, and before each arm its pages
are dropped from the cache, which is verified. Each arm sums the bits of every x and y it was given as integers: a
checksum that does not depend on the order, compared with that of the file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mmapstore.bench.instruments.limits import CONTROL_GROUP, Limit, can_limit, limited
from mmapstore.bench.instruments.page_cache import drop
from mmapstore.files.process_memory import private_bytes
from mmapstore.plain.memory_budget import format_bytes, parse_bytes

from .measure import machine, random_frames

B = 32
SHAPE = (3, 50, 50)


# --- the arms -----------------------------------------------------------------------------------------------------------


def mmapstore_shuffled(path: Path) -> Any:
    """mmapstore, shuffled"""
    import mmapstore as mm

    return (mm.open(path).batches(B, mm.NextFrame(), shuffle=True, max_memory="64MB").to_tf(),)


def mmapstore_sequential(path: Path) -> Any:
    """mmapstore, in stored order"""
    import mmapstore as mm

    return (mm.open(path).batches(B, mm.NextFrame(), max_memory="64MB").to_tf(),)


def six_lines(path: Path) -> Any:
    """six-line Sequence, in stored order"""
    from .next_frame import six_lines as way

    return way(path, "float32")[0]


def six_lines_shuffled(path: Path) -> Any:
    """six-line Sequence, each batch gathered from all over the map"""
    import keras

    class Frames(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.a = np.load(path, mmap_mode="r")
            self.order = np.random.default_rng(0).permutation(len(self.a) - 1)

        def __len__(self) -> int:
            return -(-len(self.order) // B)

        def __getitem__(self, i: int) -> Any:
            chosen = self.order[i * B : (i + 1) * B]
            return self.a[chosen], self.a[chosen + 1]

    return (Frames(),)


def fit_memmap(path: Path) -> Any:
    """fit(memmap)"""
    a = np.load(path, mmap_mode="r")
    return a[:-1], a[1:]


def fit_array(path: Path) -> Any:
    """array in RAM, fit(x, y)"""
    a = np.load(path)
    return a[:-1], a[1:]


ARMS = {
    arm.__name__: arm for arm in (mmapstore_shuffled, mmapstore_sequential, six_lines, six_lines_shuffled, fit_memmap, fit_array)
}


def run_arm(name: str, path: Path) -> None:
    """Inside the limit: one epoch of `fit`, whose step adds up the bits of x and y."""
    import keras
    import tensorflow as tf

    class Summing(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.sum = self.add_weight(shape=(), dtype="int64", initializer="zeros", trainable=False, name="sum")

        def train_step(self, data: Any) -> Any:
            for one in data:
                self.sum.assign_add(tf.reduce_sum(tf.cast(tf.bitcast(one, tf.int32), tf.int64)))
            return {"sum": tf.identity(self.sum)}

    model = Summing()
    model.compile(loss=None)
    model.built = True
    baseline, start = private_bytes(), time.perf_counter()
    data = ARMS[name](path)
    model.fit(*data, **({"batch_size": B} if len(data) == 2 else {}), shuffle=False, verbose=0)
    seconds = time.perf_counter() - start
    print(
        json.dumps(
            {"seconds": seconds, "checksum": int(model.sum.numpy()), "baseline": baseline, "growth": private_bytes() - baseline}
        )
    )


# --- what an arm must come to -------------------------------------------------------------------------------------------


def checksum(path: Path) -> int:
    """What an arm must come to: the bits of every frame but the last as x, and of every frame but the first as y."""
    frames = np.load(path, mmap_mode="r")
    total = 0
    for start in range(0, len(frames), 1000):
        total += int(frames[start : start + 1000].view(np.int32).sum(dtype=np.int64))
    ends = int(frames[0].view(np.int32).sum(dtype=np.int64)) + int(frames[-1].view(np.int32).sum(dtype=np.int64))
    return (2 * total - ends + 2**63) % 2**64 - 2**63


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=8)
    parser.add_argument("--limit", default="1GB")
    parser.add_argument("--only", nargs="*", choices=ARMS)
    parser.add_argument("--timeout", type=float, default=300, help="seconds after which an arm is given up")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "mmapstore-benchmarks")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--arm", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        run_arm(options.arm[0], Path(options.arm[1]))
        return
    if can_limit() != CONTROL_GROUP:
        raise SystemExit("no control group may be made here; expected the right to make one, as root has it")
    samples = int(options.gigabytes * 1e9 / (4 * np.prod(SHAPE)))
    path = random_frames(options.data / f"frames-{options.gigabytes:g}GB.npy", samples, SHAPE, "float32")
    limit, expected, rows = parse_bytes(options.limit, "--limit"), checksum(path), {}
    print(
        f"one epoch of next-frame pairs over {format_bytes(path.stat().st_size)} of random float32, "
        f"limit {format_bytes(limit)}, cache dropped"
    )
    for name in options.only or ARMS:
        cached = drop([path])
        if cached > 0.01:
            raise SystemExit(f"{cached:.0%} of the file is still in the page cache: something else holds it")
        with limited(limit) as under:
            command = [*under.prefix, sys.executable, "-m", "benchmarks.hard_limit", "--arm", name, str(path)]
            try:
                done = subprocess.run(
                    command,
                    capture_output=True,
                    text=True,
                    timeout=options.timeout,
                    check=False,
                    env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
                )
            except subprocess.TimeoutExpired:
                rows[name] = {"outcome": f"not finished after {options.timeout:.0f} s"}
            else:
                rows[name] = _outcome(done, under, expected, path)
        print(f"  {(ARMS[name].__doc__ or name):62}{rows[name]['outcome']}", flush=True)
    if options.json:
        options.json.write_text(
            json.dumps({"machine": machine(), "bytes": path.stat().st_size, "limit": limit, "arms": rows}, indent=1)
        )


def _outcome(done: subprocess.CompletedProcess[str], under: Limit, expected: int, path: Path) -> dict[str, Any]:
    if done.returncode:
        return {
            "outcome": "killed"
            if under.killed(done.returncode, done.stderr)
            else f"failed: {(done.stderr.strip().splitlines() or ['?'])[-1][:100]}",
            "code": done.returncode,
        }
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if result["checksum"] != expected:
        return {"outcome": f"finished, but consumed other data: checksum {result['checksum']}, expected {expected}", **result}
    rate = 2 * path.stat().st_size / result["seconds"]
    return {
        "outcome": f"{result['seconds']:.0f} s, {format_bytes(rate)}/s of pairs, "
        f"private memory {result['growth'] / 2**20:+.0f} MiB, checksum {result['checksum']} as in the file",
        **result,
    }


if __name__ == "__main__":
    main()
