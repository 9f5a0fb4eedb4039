"""What `fit` from `to_tf` takes in memory, TensorFlow's pipeline included, over several epochs: no more than predicted."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tensorflow")

from mmapstore.bench import running
from mmapstore.bench.contract import FINISHED
from mmapstore.bench.generated_data import generated

MB = 10**6
SHUFFLED = """
from mmapstore.bench.strategies import mmapstore_tf as ordered

NAME, KINDS, STORED, REQUIRES = "mmapstore to_tf, shuffled", ordered.KINDS, ordered.STORED, ()


def batches(task):
    import mmapstore as mm

    return mm.open(task.path, episodes=task.samples).batches(task.batch, mm.NextFrame(), shuffle=True)


def private(task):
    return batches(task).memory.total


def fit_arguments(task):
    return {"x": batches(task).to_tf()}
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="measures with /proc")
@pytest.mark.parametrize("shuffled", [False, True], ids=["in order", "shuffled"])
@pytest.mark.parametrize("form, batch", [("npy", 2), ("npy", 32), ("h5-gzip", 32)])  # 120 kB of pairs, and 1.9 MB
def test_epochs_of_fit_take_no_more_than_predicted(tmp_path, form, batch, shuffled):
    task = generated("next", form, 60 * MB, tmp_path, batch=batch, progress=False)
    (tmp_path / "shuffled.py").write_text(SHUFFLED)
    row = running.run(str(tmp_path / "shuffled.py") if shuffled else "mmapstore_tf", task, epochs=8)
    assert row.outcome == FINISHED, row.why
    assert row.private <= row.predicted, f"{row.private / MB:.1f} MB, predicted {row.predicted / MB:.1f}"
