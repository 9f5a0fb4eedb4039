"""shard="auto": the rank that frameworks and launchers say."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import mmapstore as mm
from mmapstore.batches.worker_rank import LAUNCHERS, worker_rank

VARIABLES = [name for _, *both in LAUNCHERS for name in both]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in (*VARIABLES, "TF_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("launcher", "rank", "size"), LAUNCHERS)
def test_workers_of_a_launcher_share_the_data(monkeypatch, launcher, rank, size):
    ds, seen = mm.open(np.arange(14.0)), []
    monkeypatch.setenv(size, "4")
    for index in range(4):
        monkeypatch.setenv(rank, str(index))
        b = ds.batches(2, shuffle=True, shard="auto")
        assert b.shard == (index, 4) and f"shard {index} of 4 ({launcher})" in repr(b)
        assert len(b) == 2
        seen += [x for batch in b for x in batch.tolist()]
    assert len(seen) == len(set(seen)) == 12
    monkeypatch.setenv(rank, "4")
    with pytest.raises(mm.MmapstoreError, match=f"{launcher} says that this is worker 4 of 4; expected one from 0 to 3"):
        ds.batches(2, shard="auto")


@pytest.mark.parametrize(
    ("task", "expected"), [(("chief", 0), (0, 3)), (("worker", 1), (2, 3)), (("evaluator", 0), (0, 1)), (("ps", 0), (0, 1))]
)
def test_tf_config(task, expected):
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": ["d:1"]}
    config = {"cluster": cluster, "task": {"type": task[0], "index": task[1]}}
    assert worker_rank({"TF_CONFIG": json.dumps(config)})[:2] == expected


def test_one_process_has_all_samples():
    b = mm.open(np.arange(4)).batches(2, shard="auto")
    assert b.shard == (0, 1) and "shard 0 of 1 (no other worker found)" in repr(b)
    assert worker_rank({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}).size == 1  # a batch script, before any srun
    with pytest.raises(mm.MmapstoreError, match="or 'auto'"):
        mm.open(np.arange(4)).batches(2, shard="slurm")


def test_a_keras_distribution_deals_out_nothing_beside_it(monkeypatch):
    """Of four processes two and two hold one model, and get the same samples."""
    one = SimpleNamespace(num_processes=4, num_model_replicas=2, data_shard_id=1, auto_shard_dataset=True)
    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(distribution=SimpleNamespace(distribution=lambda: one)))
    assert worker_rank({}) == (1, 2, "keras.distribution")
    assert one.auto_shard_dataset is False
