"""Batches dealt out among workers, by `shard=` or by the framework, never by both; and among the replicas of one process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")
if keras.backend.backend() != "tensorflow":
    pytest.skip("in-process tests want Keras on TensorFlow", allow_module_level=True)

from fake_batches import FakeBatches  # noqa: E402
from keras_recorder import Recorder, fit, numbers, orders  # noqa: E402

from mmapstore.adapters.keras_sequence import Sequence  # noqa: E402
from mmapstore.adapters.tf_dataset import to_tf  # noqa: E402
from mmapstore.plain.errors import InvalidValueError  # noqa: E402


@pytest.fixture(autouse=True)
def let_go():
    yield
    keras.utils.clear_session()


@pytest.fixture
def worker(monkeypatch):
    """Makes this process worker `index` of `count`, under the rule of Keras 3.16."""
    # Iterators of Keras are known by the name of its modules.
    spec = importlib.util.spec_from_file_location("keras.stub_of_3_16", Path(__file__).with_name("keras_3_16.py"))
    stub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stub)

    def become(index, count):
        distribution = SimpleNamespace(auto_shard_dataset=True, num_data_shards=count, data_shard_id=index)
        monkeypatch.setattr(stub.PyDatasetAdapter, "shard", (index, count))
        monkeypatch.setattr(keras.src.trainers.data_adapters, "PyDatasetAdapter", stub.PyDatasetAdapter)
        # The rest of Keras does not know of it: it would place variables.
        monkeypatch.setattr(keras.distribution, "distribution", lambda: distribution)
        return distribution

    return become


@pytest.mark.parametrize("samples", [24, 21, 19])  # 6, 6 and 5 batches
@pytest.mark.parametrize("shuffle", [False, True])
def test_workers_of_keras_share_each_epoch(worker, samples, shuffle):
    seen = []
    for index in range(2):
        worker(index, 2)
        batches = FakeBatches(samples)
        seen.append(fit(Sequence(batches), Recorder(), epochs=3, shuffle=shuffle).trained)
        assert batches.cursor.next == batches.cursor.position == (3, 0)
    expected, each = orders(batches, range(3)), [len(one) // 3 for one in seen]
    if not shuffle:
        count = len(batches)
        assert seen == [[batch for e in range(3) for batch in expected[e * count : (e + 1) * count][i::2]] for i in range(2)]
    for epoch in range(3):
        both = [batch for one, many in zip(seen, each, strict=True) for batch in one[epoch * many : (epoch + 1) * many]]
        assert sorted(both) == sorted(orders(batches, (epoch,)))


@pytest.mark.filterwarnings("error:.*ran out of data.*")
def test_a_worker_of_keras_goes_on_in_mid_epoch(worker):
    worker(1, 2)
    batches = FakeBatches(24, position=(2, 2))
    assert fit(Sequence(batches), epochs=2).trained == [*orders(batches, (2,))[3::2], *orders(batches, (3,))[1::2]]
    assert batches.cursor.next == (4, 0)


def test_a_part_of_a_part_is_an_error(worker):
    batches = FakeBatches(24, shard=(1, 2))
    data, seq = to_tf(batches), Sequence(batches)
    distribution = worker(1, 2)
    remedy = (
        r"batches of shard=\(1, 2\) under a Keras distribution.*Set distribution.auto_shard_dataset = False, or leave out shard="
    )
    with pytest.raises(InvalidValueError, match=remedy):
        fit(seq)
    with pytest.raises(InvalidValueError, match=remedy):
        to_tf(batches)
    with pytest.raises(tf.errors.OpError, match=remedy):
        next(iter(data))
    distribution.num_data_shards, distribution._is_multi_process = 1, True  # of Keras 3.15
    with pytest.raises(InvalidValueError, match=remedy):
        to_tf(batches)
    distribution.auto_shard_dataset = False
    assert numbers(next(iter(data))[0]) == [0, 1, 2, 3]
    assert next(iter(to_tf(batches)))[0].shape == (4, 3)


@pytest.mark.slow
def test_replicas_of_one_process_share_each_batch():
    """In a process of its own: logical devices are made before TensorFlow begins."""
    child = Path(__file__).with_name("mirrored_child.py")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", "PYTHONWARNINGS": ""}
    done = subprocess.run([sys.executable, child], capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.strip().endswith("all right")
