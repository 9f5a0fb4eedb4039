"""Measured private memory of `verify` and `preview` stays below what was predicted, and that below `max_memory`."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from private_memory import measured, needs_counts

pytestmark = needs_counts

CHILD = """
from mmapstore.operations.preview import preview
from mmapstore.operations.statistics import statistics_at
from mmapstore.operations.verify import verify

what, small, options = sys.argv[1].split("|"), sys.argv[2].split("|"), json.loads(sys.argv[3])
call = {"verify": verify, "stats": statistics_at, "preview": preview}[what.pop(0)]
call(*small, **options)  # libraries are loaded and their pools filled before anything is counted
with predictions() as predicted, Rise() as rise:
    found = call(*what, **options)
print(json.dumps({"measured": rise.nbytes, "predicted": max(predicted), "ok": bool(found)}))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    for size, samples in (("small", 20), ("large", 400)):
        array = np.random.default_rng(0).integers(0, 255, (samples, 3, 200, 300)).astype(np.uint8)
        np.save(folder / f"{size}.npy", array)
        np.save(folder / f"{size}-f2.npy", array.astype(np.float16))
        np.save(folder / f"{size}-last.npy", np.ascontiguousarray(array.transpose(0, 2, 3, 1)))
        with h5py.File(folder / f"{size}.h5", "w") as file:
            file.create_dataset("data", data=array, chunks=(8, 3, 200, 300), compression="gzip", compression_opts=1)
        zarr.create_array(str(folder / f"{size}.zarr"), data=array, chunks=(8, 3, 200, 300))
        with h5py.File(folder / f"{size}-text.h5", "w") as file:
            file.create_dataset("words", data=[f"word {n}" for n in range(500 * samples)])
            file["beside"] = np.arange(3)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "names", "options"),
    [
        ("verify", ["{}.npy"], {}),
        ("verify", ["{}.h5"], {}),
        ("verify", ["{}.zarr"], {"independent": True}),
        ("verify", ["{}.h5"], {"independent": True}),
        ("verify", ["{}.npy", "{}.h5"], {}),
        ("verify", ["{}.zarr", "{}.h5"], {}),
        ("verify", ["{}-text.h5", "{}-text.h5"], {}),
        ("verify", ["{}.zarr", "{}.h5"], {"independent": True}),
        ("verify", ["{}.npy", "{}-f2.npy"], {"cast": True}),
        ("verify", ["{}.h5", "{}-last.npy"], {"layout": "NCHW", "other_layout": "NHWC"}),
        ("stats", ["{}.h5"], {}),
        ("preview", ["{}.h5", "out.png"], {"random": 16}),
        ("preview", ["{}-f2.npy", "out.png"], {"next_frame": True}),
    ],
)
def test_measured_is_at_most_predicted(files: Path, call: str, names: list[str], options: dict[str, object]) -> None:
    large, small = (["|".join(str(files / name.format(size)) for name in names)] for size in ("large", "small"))
    arguments = [f"{call}|{large[0]}", small[0], json.dumps({"max_memory": "200MB", **options})]
    found = measured(CHILD, *arguments)
    assert found["ok"]
    assert found["measured"] <= found["predicted"] <= 200_000_000, found
