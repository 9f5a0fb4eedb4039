"""The memory bound on random arrays, chunks, codecs, targets and limits: measured private memory <= predicted <= max_memory.

The same cases in every run; MMAPSTORE_MEMORY_CASES=1000 tries more, MMAPSTORE_MEMORY_SEED others.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.measure import run_arm

h5py, zarr = pytest.importorskip("h5py"), pytest.importorskip("zarr")
CASES, SEED = int(os.environ.get("MMAPSTORE_MEMORY_CASES", "48")), int(os.environ.get("MMAPSTORE_MEMORY_SEED", "0"))
OPERATIONS = ("ingest", "convert", "verify", "stats", "loop", "loop", "ingest", "convert")
FRAMEWORK = ("to_tf", "to_keras")  # each 16th case: TensorFlow takes 6 s to start
OF_FRAMEWORK = 8 << 20  # bytes that TensorFlow may take for itself beside the prediction, which is of mmapstore alone
HDF5: list[dict[str, Any]] = [
    {},
    {"compression": "gzip", "compression_opts": 1},
    {"compression": "gzip", "shuffle": True},
    {"compression": "lzf"},
]
ZARR: list[Any] = [None, zarr.codecs.ZstdCodec(level=1), zarr.codecs.GzipCodec(level=1), zarr.codecs.BloscCodec(cname="lz4")]


def random_case(draw: random.Random, number: int) -> dict[str, Any]:
    dtype = np.dtype(draw.choice(["u1", "<i2", ">i4", "<f4", ">f4", "<f8", "<i8", "<f2"]))
    total = 2 ** draw.uniform(22.5, 26) / dtype.itemsize  # values: 6 to 64 MB
    shape = draw.choice(
        [
            lambda: (draw.randint(16, 4096),),
            lambda: (draw.randint(8, 256), draw.randint(8, 256)),
            lambda: (draw.choice([1, 3, 5]), draw.randint(16, 256), draw.randint(16, 256)),
        ]
    )()
    samples = max(6, int(total / math.prod(shape)))
    storage = draw.choice(["npy", "h5", "h5", "zarr", "zarr", "sharded"])
    chunk = draw.choice([
        (1, *shape), (max(1, samples // 3), *shape), (draw.randint(1, samples), *shape[:-1], -(-shape[-1] // 2)),
        (draw.randint(1, min(samples, 64)), *shape),
    ])  # fmt: skip
    if samples * math.prod(shape) / math.prod(chunk) > 4000:  # a file for each is slow to write
        chunk = (-(-samples * chunk[0] // 4000), *chunk[1:])
    if storage == "sharded":
        chunk = (min(chunk[0], max(1, samples // 4)), *chunk[1:])
    operation = draw.choice(FRAMEWORK) if number % 16 == 15 else draw.choice(OPERATIONS)
    target = draw.choice([".npy", ".h5", ".zarr"])
    options: dict[str, Any] = {}
    if target != ".npy" and draw.random() < 0.7:
        options = {"chunk_samples": draw.randint(1, min(samples, 200)), "compression": draw.choice([None, "gzip"])}
    layout = "NC" if len(shape) == 1 else f"N{'CHW'[-len(shape) :]}"
    return {
        "number": number, "operation": operation, "storage": storage, "codec": draw.randrange(4), "dtype": dtype.str,
        "shape": [samples, *shape], "chunk": chunk, "suffix": target, "options": options, "layout": layout,
        "batch": draw.choice([1, 16, 32, 100]), "shuffle": draw.random() < 0.6, "limit": draw.choice([48, 64, 128, 256, 512]) << 20,
        "noise": draw.random() < 0.5,
    }  # fmt: skip


def write(case: dict[str, Any], path: str, samples: int) -> str:
    """Write `samples` random numbers for a case, which no codec makes smaller where they are noise; return the path for `open`."""
    shape, dtype = (samples, *case["shape"][1:]), np.dtype(case["dtype"])
    numbers = np.random.default_rng(case["number"])
    if not case["noise"]:
        values = numbers.integers(0, 100, shape, np.int8).astype(dtype)
    elif dtype.kind == "f":
        values = numbers.random(shape).astype(dtype)
    else:
        values = np.frombuffer(numbers.bytes(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)
    chunk = tuple(min(pair) for pair in zip(case["chunk"], shape, strict=True))
    if case["storage"] == "npy":
        np.save(f"{path}.npy", values)
        return f"{path}.npy"
    if case["storage"] == "h5":
        with h5py.File(f"{path}.h5", "w") as file:
            file.create_dataset("data", data=values, chunks=chunk, **HDF5[case["codec"]])
        return f"{path}.h5::/data"
    shards = tuple(chunk[axis] * -(-length // chunk[axis] // (3 if axis == 0 else 1) or 1) for axis, length in enumerate(shape))
    sharded = {"shards": shards} if case["storage"] == "sharded" else {}
    zarr.create_array(f"{path}.zarr", data=values, chunks=chunk, compressors=ZARR[case["codec"]], **sharded)
    return f"{path}.zarr"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="private memory is read from /proc")
def test_measured_is_below_predicted_and_predicted_below_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = (Path(__file__).parent, Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")]))
    draw, rows, wrong = random.Random(SEED), [], []
    for number in range(CASES):
        case = random_case(draw, number)
        folder = tmp_path / str(number)
        folder.mkdir()
        case["source"], case["small"] = write(case, f"{folder}/source", case["shape"][0]), write(case, f"{folder}/small", 4)
        case["target"], case["small_target"] = (f"{folder}/{name}{case['suffix']}" for name in ("out", "small-out"))
        if case["batch"] > 4:
            case["small"] = write(case, f"{folder}/small-too", 2 * case["batch"])
        found = run_arm("random_memory_case", [json.dumps(case)], timeout=120)
        shutil.rmtree(folder)
        predicted, measured = found.get("predicted"), found.get("growth")
        row = " ".join(f"{case[key]}" for key in ("operation", "storage", "dtype", "shape", "chunk", "limit"))
        if "error" in found:
            wrong.append(f"{row}: {found['error']}; {case}")
        elif predicted is not None:
            rows.append((case["operation"], measured, predicted))
            free = OF_FRAMEWORK if case["operation"] in FRAMEWORK else 0
            if not measured - free <= predicted <= case["limit"]:
                wrong.append(f"{row}: measured {measured / 2**20:.1f} MiB, predicted {predicted / 2**20:.1f} MiB; {case}")
        else:
            rows.append((case["operation"], None, None))
    print(f"\n{'operation':10}{'cases':>6}{'refused':>8}{'median of measured / predicted':>32}")
    for name in sorted({name for name, _, _ in rows}):
        own = [(measured, predicted) for operation, measured, predicted in rows if operation == name]
        shares = [measured / predicted for measured, predicted in own if predicted]
        print(f"{name:10}{len(own):6}{len(own) - len(shares):8}{statistics.median(shares) if shares else math.nan:32.2f}")
    assert not wrong, "\n".join(wrong)
