"""One epoch over 8 GB inside a hard memory limit of 1 GB: who finishes, and how fast.

    python -m benchmarks.hard_limit                       needs Linux, and the right to make a control group (root)
    python -m benchmarks.hard_limit --gigabytes 2 --limit 700MB

Each arm is a process that puts itself under the limit before it imports anything: a control group (version 1 or 2)
with swap off, so that memory it cannot give back ends it. The file holds random bytes, and before each arm its pages
are dropped from the cache, which is verified. Each arm sums the bits of every x and y it was given as integers: a
checksum that does not depend on the order, compared with that of the file.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmapstore.plain.memory_budget import format_bytes, parse_bytes

from .measure import machine, private_bytes, random_frames

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


# --- the limit ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def hard_limit(nbytes: int) -> Iterator[Path]:
    """A control group with that memory limit and no swap; yields the file to write a process number to."""
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    own = next(
        line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()
        if (line.startswith("0::") if unified else "memory" in line.split(":")[1].split(","))
    )  # fmt: skip
    group = Path("/sys/fs/cgroup") / ("" if unified else "memory") / own.lstrip("/") / f"mmapstore-benchmark-{os.getpid()}"
    group.mkdir()
    try:
        if unified:
            (group / "memory.max").write_text(str(nbytes))
            (group / "memory.swap.max").write_text("0")
        else:
            (group / "memory.limit_in_bytes").write_text(str(nbytes))
            with contextlib.suppress(OSError):  # absent where swap accounting is off; there is then nothing to limit
                (group / "memory.memsw.limit_in_bytes").write_text(str(nbytes))
        yield group / "cgroup.procs"
    finally:
        for _ in range(100):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


def drop_from_cache(path: Path) -> float:
    """Drop a file's pages from the page cache; the fraction of sampled pages that are still there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        pages = os.fstat(descriptor).st_size // 4096
        cached = 0
        for page in (chosen := random.Random(0).sample(range(pages), min(pages, 2000))):
            try:
                cached += os.preadv(descriptor, [bytearray(1)], page * 4096, os.RWF_NOWAIT) > 0
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
        return cached / len(chosen)
    finally:
        os.close(descriptor)


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
    parser.add_argument("--arm", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        Path(options.arm[2]).write_text(str(os.getpid()))  # first of all: everything from here on counts
        run_arm(options.arm[0], Path(options.arm[1]))
        return
    samples = int(options.gigabytes * 1e9 / (4 * np.prod(SHAPE)))
    path = random_frames(options.data / f"frames-{options.gigabytes:g}GB.npy", samples, SHAPE, "float32")
    limit, expected, rows = parse_bytes(options.limit, "--limit"), checksum(path), {}
    print(
        f"one epoch of next-frame pairs over {format_bytes(path.stat().st_size)} of random float32, "
        f"limit {format_bytes(limit)}, cache dropped"
    )
    for name in options.only or ARMS:
        cached = drop_from_cache(path)
        if cached > 0.01:
            raise SystemExit(f"{cached:.0%} of the file is still in the page cache: something else holds it")
        with hard_limit(limit) as procs:
            command = [sys.executable, "-m", "benchmarks.hard_limit", "--arm", name, str(path), str(procs)]
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
                rows[name] = _outcome(done, expected, path)
        print(f"  {(ARMS[name].__doc__ or name):62}{rows[name]['outcome']}", flush=True)
    if options.json:
        options.json.write_text(
            json.dumps({"machine": machine(), "bytes": path.stat().st_size, "limit": limit, "arms": rows}, indent=1)
        )


def _outcome(done: subprocess.CompletedProcess[str], expected: int, path: Path) -> dict[str, Any]:
    if done.returncode:
        killed = done.returncode < 0
        return {
            "outcome": "killed" if killed else f"failed: {(done.stderr.strip().splitlines() or ['?'])[-1][:100]}",
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
