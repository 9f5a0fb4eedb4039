"""What a Sequence takes and refuses, and what becomes of the arrays it hands over."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
keras = pytest.importorskip("keras")
if keras.backend.backend() != "tensorflow":
    pytest.skip("in-process tests want Keras on TensorFlow; test_backends covers the others", allow_module_level=True)

from backends import require_backend  # noqa: E402
from fake_batches import FakeBatches  # noqa: E402
from keras_recorder import Recorder, fit, orders  # noqa: E402
from real_batches import real_batches  # noqa: E402

import mmapstore as mm  # noqa: E402
from mmapstore.adapters.keras_sequence import Sequence  # noqa: E402
from mmapstore.adapters.passes import Room  # noqa: E402
from mmapstore.batches.batch_reader import ALIVE  # noqa: E402
from mmapstore.plain.errors import (  # noqa: E402
    InvalidTypeError,
    InvalidValueError,
    MmapstoreError,
    NotAnArrayError,
    OutOfRangeError,
)


@pytest.fixture(autouse=True)
def let_go():
    """TensorFlow keeps every dataset made from a generator, and so what it reads, until its graph is cleared."""
    yield
    keras.utils.clear_session()


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"workers": 2}, "workers=2"),
        ({"use_multiprocessing": True}, "use_multiprocessing=True"),
        ({"workers": 0, "use_multiprocessing": True}, "use_multiprocessing=True"),
    ],
)
def test_workers_are_refused_with_reasons(arguments, found):
    reason = r"; expected workers=1 .*lose batches with steps_per_epoch.*Leave the argument out"
    with pytest.raises(InvalidValueError, match=found + reason):
        Sequence(FakeBatches(12), **arguments)
    seq = Sequence(FakeBatches(12))
    for name, value in arguments.items():
        if value:
            with pytest.raises(InvalidValueError, match="expected workers=1"):
                setattr(seq, name, value)
    assert (seq.workers, seq.use_multiprocessing) == (1, False)


def test_worker_arguments_without_effect_are_accepted():
    seq = Sequence(FakeBatches(12), workers=0, use_multiprocessing=False, max_queue_size=3)
    seq.workers = 1
    assert (seq.workers, seq.use_multiprocessing, seq.max_queue_size) == (1, False, 3)
    assert fit(seq, epochs=2).trained == orders(seq.batches, (0, 1))
    with pytest.raises(InvalidValueError, match="workers=-1; expected"):
        Sequence(FakeBatches(12), workers=-1)


def test_indices():
    seq = Sequence(FakeBatches(9))
    np.testing.assert_array_equal(seq[-1][0], seq[2][0])
    np.testing.assert_array_equal(seq[np.int64(1)][1], seq[1][1])
    for index in (3, -4):
        with pytest.raises(OutOfRangeError, match=rf"Batch {index} .* has 3 \(0 to 2\)"):
            seq[index]
    for index in (slice(0, 2), "a", 1.5):
        with pytest.raises(InvalidTypeError, match="one batch at a time; expected its number, an int"):
            seq[index]


@pytest.mark.parametrize("steps", [0, -2])
def test_steps_below_one(steps):
    with pytest.raises(InvalidValueError, match=f"steps={steps}; expected at least 1"):
        Sequence(FakeBatches(9), steps=steps)


def test_steps_that_are_no_number():
    with pytest.raises(InvalidTypeError, match=r"steps=2\.5 is not a number of batches"):
        Sequence(FakeBatches(9), steps=2.5)


def test_no_batches():
    with pytest.raises(InvalidValueError, match=r"no batch to train on.*smaller batch_size"):
        Sequence(FakeBatches(0))


def test_structures():
    x, y = Sequence(FakeBatches(9, inputs=2))[0]
    assert isinstance(x, tuple) and len(x) == 2 and y.shape == (4, 3)
    (x,) = Sequence(FakeBatches(9, target=False))[0]
    assert x.shape == (4, 3)
    (x,) = Sequence(FakeBatches(9, target=False, inputs=2))[0]
    assert isinstance(x, tuple) and len(x) == 2


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float64", "int32"])
def test_dtypes_pass_as_they_are(dtype):
    kinds = set()

    class Kinds(Recorder):
        def train_step(self, data):
            kinds.update(part.dtype.name for part in data)
            return super().train_step(data)

    seq = Sequence(FakeBatches(9, dtype=dtype))
    assert fit(seq, Kinds()).trained == orders(seq.batches, (0,))
    assert kinds == {dtype}


def test_tensorflow_takes_the_arrays_without_a_copy():
    seen = []

    class Addresses(Recorder):
        def train_step(self, data):
            seen.extend(part._numpy().ctypes.data for part in data)
            return super().train_step(data)

    seq = Sequence(FakeBatches(16))
    fit(seq, Addresses())
    assert len(seen) == 8 and set(seen) <= seq.batches.addresses


def test_two_inputs_reach_the_model():
    a, b = keras.Input((3,)), keras.Input((3,))
    model = keras.Model([a, b], keras.layers.Dense(3)(a + b))
    model.compile(optimizer="sgd", loss="mse")
    seq = Sequence(FakeBatches(12, inputs=2))
    model.fit(seq, epochs=2, verbose=0, shuffle=False)
    assert model.predict(Sequence(FakeBatches(12, inputs=2, target=False)), verbose=0).shape == (12, 3)


def test_stop_iteration_does_not_end_an_epoch_silently():
    def used_up(x, y):
        if x[0, 0] == 8:
            next(iter(()))
        return x, y

    batches = mm.open(np.arange(21, dtype="f4").reshape(21, 1)).batches(4, target="data", transform=used_up)
    seq = Sequence(batches)
    with pytest.raises(MmapstoreError, match=r"transform=.*used_up raised StopIteration.* for batch 2 of epoch 0"):
        seq[2]
    with pytest.raises(Exception, match=r"used_up raised StopIteration.* for batch 2 of epoch 0"):
        fit(seq)


def test_a_batch_that_could_not_be_read_was_not_served():
    broken = [True]

    def sometimes(epoch, batch):
        if broken[0] and batch == 5:
            raise OSError("the disk is gone")

    seq = Sequence(FakeBatches(21, fail=sometimes))
    with pytest.raises(Exception, match="the disk is gone"):
        fit(seq)
    broken[0] = False
    assert fit(seq).trained == orders(seq.batches, (0,))


def test_repr():
    seq = Sequence(FakeBatches(21, position=(2, 3)), steps=4)
    assert repr(seq) == "Sequence(4 batches a Keras epoch, next from epoch 2, batch 3, of FakeBatches(21 samples))"


@pytest.mark.parametrize("shuffle", [False, True])
def test_arrays_of_real_batches_are_taken_without_a_copy(tmp_path, shuffle):
    served, seen = [], []

    class Noting(Sequence):
        def __getitem__(self, index):
            pair = super().__getitem__(index)
            served.extend(part.ctypes.data for part in pair)
            return pair

    class Addresses(Recorder):
        def train_step(self, data):
            seen.extend(part._numpy().ctypes.data for part in data)
            return super().train_step(data)

    seq = Noting(real_batches(tmp_path, 40, shape=(5, 7), shuffle=shuffle))
    assert fit(seq, Addresses(), epochs=2).trained == orders(seq.batches, (0, 1))
    assert len(seen) == 40 and set(seen) <= set(served)


def test_batches_make_their_own_sequence(tmp_path):
    b = real_batches(tmp_path, 21)
    assert isinstance(b.to_keras(), Sequence)
    assert len(b.to_keras(steps=4)) == 4
    with pytest.raises(InvalidValueError, match="workers=2; expected workers=1"):
        b.to_keras(workers=2)


@pytest.mark.slow
def test_no_more_batches_are_alive_than_predicted():
    # Without waiting, TensorFlow's queue behind a PyDataset grows to dozens of batches here, and to hundreds later.
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    seq = Sequence(FakeBatches(16000))
    model.fit(seq, verbose=0, shuffle=False)
    assert seq.batches.most_alive <= 2 * (ALIVE + 1)  # x and y; TensorFlow lets go of a batch a moment after it is done


def test_reading_waits_until_a_batch_is_let_go(monkeypatch):
    monkeypatch.setattr("mmapstore.adapters.passes.PATIENCE", 60.0)
    room, gone_on = Room(), threading.Event()
    lent = []
    for _ in range(ALIVE - 1):
        room.wait()
        lent.append(room.lend(np.zeros(3)))
    asker = threading.Thread(target=lambda: (room.wait(), gone_on.set()))
    asker.start()
    assert not gone_on.wait(0.2)
    del lent[0]
    assert gone_on.wait(30)
    asker.join()


@pytest.mark.parametrize("kept", [10, 1000])
def test_who_keeps_batches_waits_a_few_times_in_all(monkeypatch, kept):
    waits = []
    monkeypatch.setattr("mmapstore.adapters.passes.PATIENCE", 0.0)
    room = Room()
    returned = room._returned
    room._returned = SimpleNamespace(
        empty=returned.empty, put=returned.put, get=lambda **more: (waits.append(more), returned.get(**more))[1]
    )
    held = deque(maxlen=kept)
    for _ in range(5000):
        room.wait()
        held.append(room.lend(np.zeros(3)))
    in_vain = sum("timeout" in more for more in waits)
    assert in_vain <= 12 and room._alive in (kept, kept + 1)


@pytest.mark.parametrize("keeps", ["train_step", "predict"])
def test_who_keeps_batches_is_served_all_the_same(monkeypatch, keeps):
    monkeypatch.setattr("mmapstore.adapters.passes.PATIENCE", 0.01)
    kept = []

    class Keeping(Recorder):
        def train_step(self, data):
            kept.append(data)
            return super().train_step(data)

    seq = Sequence(FakeBatches(200))
    if keeps == "train_step":
        assert fit(seq, Keeping(), epochs=2).trained == orders(seq.batches, (0, 1))
    else:
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(optimizer="sgd", loss="mse", steps_per_execution=10)
        assert model.predict(seq, verbose=0).shape == (200, 1)


def test_threads_asking_at_once():
    seq = Sequence(FakeBatches(400, 4))
    walk = iter(seq)
    found, lock = [], threading.Lock()

    def take():
        for _ in range(20):
            with lock:
                x, _ = next(walk)
            found.append(tuple(x[:, 0].astype(int)))
            seq[3]

    threads = [threading.Thread(target=take) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sum(found, ())) == list(range(400))


BACKENDS = Path(__file__).with_name("other_backends.py")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_backends(backend):
    """The same order on every backend, in a process of its own: a process has one backend."""
    require_backend(backend)
    here = {**os.environ, "KERAS_BACKEND": backend, "PYTHONWARNINGS": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run([sys.executable, str(BACKENDS)], env=here, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith(f"{backend}: all right")


def test_fit_on_what_is_not_yet_a_sequence_says_what_to_write(tmp_path):
    np.save(tmp_path / "frames.npy", np.zeros((20, 3, 4, 4), np.float32))
    dataset = mm.open(tmp_path / "frames.npy")
    model = keras.Sequential([keras.Input((3, 4, 4)), keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(NotAnArrayError, match=r"write model\.fit\(ds\.batches\(32, .*\)\.to_keras\(\), shuffle=False\)"):
        model.fit(dataset)
    with pytest.raises(NotAnArrayError, match=r"write model\.fit\(batches\.to_keras\(\), shuffle=False\)"):
        model.fit(dataset.batches(4, mm.NextFrame()))
    assert not hasattr(dataset.batches(4), "shape")
