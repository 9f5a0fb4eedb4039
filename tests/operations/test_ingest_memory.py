"""Measured private memory stays below what was predicted, and the prediction below `max_memory`."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from ingest_results import video
from private_memory import measured, needs_counts

pytestmark = needs_counts

CHILD = """
import numpy as np
from mmapstore.operations.ingest import ingest

source, out, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
def opened():
    if source.startswith("generator"):
        return (np.full((64, 30_000), number % 7, np.float32) for number in range(60))
    if options.get("append") or source.endswith("fields.npy"):
        array = np.load(source, mmap_mode="r")
        return {"image": array, "label": np.arange(len(array), dtype=np.int32)}
    return source
if options.get("append"):
    for name in (out.replace("x.", "warm."), out):
        ingest({field: array[:131] for field, array in opened().items()}, name)
# The same once, small: libraries are loaded and their pools filled before anything is counted.
ingest(opened(), out.replace("x.", "warm."), samples=3, **options)
with predictions() as predicted, Rise() as rise:
    ingest(opened(), out, **options)
print(json.dumps({"measured": rise.nbytes, "predicted": predicted[0]}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("out", ["x.npy", "x.h5", "x.zarr"])
@pytest.mark.parametrize("kind", ["npy", "npz", "generator", "video", "converted", "fields", "appended", "large chunks"])
def test_measured_is_at_most_predicted(tmp_path: Path, out: str, kind: str) -> None:
    options: dict[str, object] = {"max_memory": "100MB"}
    if kind == "video":
        source = video("bikes.mp4")
    elif kind in ("fields", "appended"):
        array = np.random.default_rng(0).integers(0, 255, (400, 3, 300, 400)).astype(np.uint8)
        source = str(tmp_path / "fields.npy")
        np.save(source, array)
        out = out.replace(".npy", ".store")
        options |= {"append": True} if kind == "appended" else {}
    elif kind == "large chunks":  # one thread decodes: all of them would take 500 MB
        options["max_memory"] = "250MB"
        array = np.random.default_rng(0).integers(0, 9, (400, 3, 300, 400)).astype(np.uint8)
        source = str(tmp_path / "in.h5")
        with h5py.File(source, "w") as file:
            file.create_dataset("x", data=array, chunks=(100, 3, 300, 400), compression="gzip", compression_opts=1)
    elif kind == "generator":
        source = "generator"
        options |= {"source_layout": "NC"}
    else:
        array = np.random.default_rng(0).integers(0, 255, (400, 3, 300, 400)).astype(np.uint8)
        source = str(tmp_path / "in.npz" if kind == "npz" else tmp_path / "in.npy")
        (np.savez if kind == "npz" else np.save)(source, array)
        if kind == "converted":
            options |= {"layout": "NHWC", "dtype": "float32"}
    if out != "x.npy" and kind == "npy":
        options |= {"compression": "gzip"}
    found = measured(CHILD, source, tmp_path / out, json.dumps(options))
    assert found["measured"] <= found["predicted"] <= int(str(options["max_memory"])[:3]) * 1_000_000, found
