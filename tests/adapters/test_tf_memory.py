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
from mmapstore.bench.strategies import ours

NAME, KINDS, STORED, REQUIRES = "mmapstore to_tf, shuffled", ("next",), ("npy", "h5"), ()


def private(task):
    return ours.batches(task, shuffle=True).memory.total


def fit_arguments(task):
    return {"x": ours.batches(task, shuffle=True).to_tf()}
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="measures with /proc")
@pytest.mark.parametrize("shuffled", [False, True], ids=["in order", "shuffled"])
@pytest.mark.parametrize("form, batch", [("npy", 2), ("npy", 32), ("h5-gzip", 32)])  # 120 kB of pairs, and 1.9 MB
def test_epochs_of_fit_take_no_more_than_predicted(tmp_path, form, batch, shuffled):
    task = generated("next", form, 60 * MB, tmp_path, batch=batch)
    (tmp_path / "shuffled.py").write_text(SHUFFLED)
    row = running.run(str(tmp_path / "shuffled.py") if shuffled else "mmapstore_tf", task, epochs=8)
    assert row.outcome == FINISHED, row.why
    assert row.private <= row.predicted, f"{row.private / MB:.1f} MB, predicted {row.predicted / MB:.1f}"
