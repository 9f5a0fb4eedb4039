"""A conversion stays within `max_memory`: measured in a process of its own."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from private_memory import measured, needs_counts

CHILD = """
from mmapstore.operations.convert.tree import convert_all
source, target, limit, small, first = sys.argv[1:]
convert_all(small, first, progress=False)  # libraries are loaded before anything is counted
with Rise() as rise:
    report = convert_all(source, target, max_memory=int(limit), progress=False)
print(json.dumps({"rise": rise.nbytes, "counts": report.counts}))
"""


@pytest.mark.slow
@needs_counts
@pytest.mark.parametrize("target", ["out/a.zarr", "out/a.h5", "out/a"])
def test_private_memory_stays_within_the_bound(tmp_path, target):
    (tmp_path / "out").mkdir()
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        frames = rng.integers(0, 16, (4000, 100, 100), np.uint8)
        file.create_dataset("gzip", data=frames, chunks=(32, 100, 100), compression="gzip", compression_opts=1)
        file.create_dataset("tiles", data=frames, chunks=(500, 50, 50), compression="lzf")
        file["plain"] = frames
        file["words"] = np.array([f"word {number}" * (number % 7) for number in range(200_000)], object)
        table = np.zeros(1_000_000, [("a", "f8"), ("b", "i4"), ("c", "S12")])
        table["a"] = rng.random(len(table))
        file.create_dataset("table", data=table, chunks=(10_000,), compression="gzip", compression_opts=1)
    with h5py.File(tmp_path / "small.h5", "w") as file:
        file.create_dataset("x", data=frames[:64], chunks=(32, 100, 100), compression="gzip")
        file["w"] = ["a", "b"]
    del frames, table
    limit = 100_000_000
    first = (tmp_path / "out" / "first").with_suffix((tmp_path / target).suffix)
    found = measured(CHILD, tmp_path / "a.h5", tmp_path / target, limit, tmp_path / "small.h5", first, timeout=600)
    assert found["counts"]["refused"] == found["counts"]["failed"] == 0
    assert 0 < found["rise"] <= limit
