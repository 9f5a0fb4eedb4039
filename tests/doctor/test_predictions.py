"""What the doctor says that the usual ways would take, against what they take when they are run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from mmapstore.bench import running, strategies
from mmapstore.bench.contract import FINISHED
from mmapstore.doctor import examination
from mmapstore.doctor.examination import examine
from mmapstore.doctor.frameworks import installed
from mmapstore.doctor.routes import task_of
from mmapstore.doctor.subject import subject_of

NBYTES = 200_000_000
MIB = 2**20
WAYS = {
    "float32": ("array_in_ram", "fit_memmap", "from_tensor_slices", "from_generator_args", "shuffle_n", "timeseries", "sequence"),
    "float64": ("fit_memmap", "from_tensor_slices"),
    "uint8": ("array_in_ram", "fit_memmap"),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow"),
    pytest.mark.skipif(sys.platform != "linux", reason="private memory is measured on Linux"),
]


@pytest.fixture(scope="module", params=WAYS)
def frames(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("frames") / f"{request.param}.npy"
    dtype = np.dtype(request.param)
    samples = NBYTES // (7500 * dtype.itemsize)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(samples, 3, 50, 50))
    random = np.random.default_rng(0)
    for start in range(0, samples, 1000):
        block = random.random((min(1000, samples - start), 3, 50, 50), dtype=np.float32)
        out[start : start + 1000] = block * (255 if dtype.kind == "u" else 1)
    del out
    return str(path)


def test_the_usual_ways_take_what_was_predicted(frames: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "installed", installed)
    predicted = {route.name: route for route in examine(frames, quick=True).routes}
    task = task_of(subject_of(frames, installed()))
    wrong = {}
    for strategy in WAYS[Path(frames).stem]:
        row = running.run(strategy, task, timeout=300)
        assert row.outcome == FINISHED and row.private is not None, f"{strategy}: {row.outcome}, {row.why}"
        route = predicted[strategies.load(strategy).title]
        least = route.nbytes / 2 if strategy == "shuffle_n" else 0.85 * route.nbytes  # if there are two buffers is left to chance
        if not least - 30 * MIB <= row.private <= 1.15 * route.nbytes + 30 * MIB:
            wrong[strategy] = f"predicted {route.nbytes / MIB:.0f} MiB, took {row.private / MIB:.0f} MiB"
    assert not wrong


def test_ours_takes_no_more_than_was_predicted(frames: str) -> None:
    task = task_of(subject_of(frames, installed()))
    found = examine(frames, quick=True).memory
    row = running.run("mmapstore_shuffled", task, epochs=1, timeout=300)
    assert row.outcome == FINISHED and row.private is not None, f"{row.outcome}, {row.why}"
    assert found is not None and row.private <= found.total + 8 * MIB  # what the framework takes for its own queue
