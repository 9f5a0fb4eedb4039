"""Measured private memory stays below what was predicted, and the prediction below `max_memory`, whatever the size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from private_memory import measured, needs_counts

pytestmark = needs_counts

CHILD = """
from mmapstore.operations.convert import convert
source, out, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
# The same once, small: libraries are loaded before anything is counted.
convert(source, out.replace("x.", "warm."), progress=False, **{**options, "samples": (0, 2)})
with Rise() as rise:
    done = convert(source, out, progress=False, **options)
print(json.dumps({"measured": rise.nbytes, "predicted": done.memory.total, "nbytes": done.nbytes}))
"""
SAMPLE = (3, 128, 160)


def make(path: Path, samples: int, form: str) -> str:
    """float32 frames of 245 kB, written a few at a time."""
    random = np.random.default_rng(0)
    if form == "npy":
        out: Any = np.lib.format.open_memmap(path / "a.npy", "w+", "f4", (samples, *SAMPLE))
        source = str(path / "a.npy")
    elif form == "zarr":
        import zarr

        out, source = (
            zarr.create_array(path / "a.zarr", shape=(samples, *SAMPLE), dtype="f4", chunks=(8, *SAMPLE)),
            str(path / "a.zarr"),
        )
    else:
        import h5py

        chunks = (8, *SAMPLE) if form == "gzip" else (min(samples, 1024), 1, 32, 40)
        file = h5py.File(path / "a.h5", "w")
        out = file.create_dataset("x", (samples, *SAMPLE), "f4", chunks=chunks, compression="gzip", compression_opts=1)
        source = str(path / "a.h5")
    step = min(samples, 1024 if form == "fighting" else 64)
    for at in range(0, samples, step):
        count = min(step, samples - at)
        out[at : at + count] = random.integers(0, 50, (1, *SAMPLE)).astype("f4") + np.arange(count, dtype="f4")[:, None, None, None]
    if form in ("gzip", "fighting"):
        file.close()
    return source


def run(source: str, out: Path, options: dict[str, Any]) -> dict[str, int]:
    return measured(CHILD, source, out, json.dumps(options))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"dtype": "f2", "casting": "round", "layout": "NHWC"}])
@pytest.mark.parametrize("out", ["x.npy", "x.h5", "x.zarr"])
@pytest.mark.parametrize("form", ["npy", "gzip", "fighting", "zarr"])
def test_measured_is_at_most_predicted(tmp_path: Path, form: str, out: str, options: dict[str, Any]) -> None:
    source = make(tmp_path, 1024, form)
    extra = {"compression": "gzip"} if out == "x.h5" else {}
    found = run(source, tmp_path / out, {"max_memory": "128MB", **options, **extra})
    assert found["measured"] <= found["predicted"] <= 128_000_000


@pytest.mark.slow
def test_a_gigabyte_within_256_megabytes(tmp_path: Path) -> None:
    source = make(tmp_path, 4400, "gzip")
    small = run(source, tmp_path / "x.npy", {"max_memory": "256MB", "samples": [0, 800]})
    (tmp_path / "whole").mkdir()
    found = run(source, tmp_path / "whole" / "x.npy", {"max_memory": "256MB"})
    assert found["nbytes"] > 10**9 and found["measured"] <= found["predicted"] <= 256_000_000
    assert found["predicted"] <= small["predicted"] + 10**6  # what the size adds is a record of 120 bytes for each piece
