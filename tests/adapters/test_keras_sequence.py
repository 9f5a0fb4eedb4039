"""What Keras really asks for, and what a model really sees: order and coverage in every corner."""

from __future__ import annotations

import copy
import os
import pickle
import threading

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
keras = pytest.importorskip("keras")
if keras.backend.backend() != "tensorflow":
    pytest.skip("in-process tests want Keras on TensorFlow; test_backends covers the others", allow_module_level=True)

from fake_batches import FakeBatches  # noqa: E402
from keras_recorder import fit, orders  # noqa: E402
from real_batches import real_batches  # noqa: E402

import mmapstore as mm  # noqa: E402
from mmapstore.adapters.keras_sequence import Sequence  # noqa: E402


class Stop(keras.callbacks.Callback):
    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            self.model.stop_training = True


@pytest.fixture(autouse=True)
def let_go():
    """TensorFlow keeps every dataset made from a generator, and so what it reads, until its graph is cleared."""
    yield
    keras.utils.clear_session()


@pytest.fixture(params=["fake", "stored order", "shuffled"])
def make(request, tmp_path):
    """Batches by number of samples: the stand-in, and real ones on files."""
    if request.param == "fake":
        return FakeBatches
    return lambda samples: real_batches(tmp_path, samples, shuffle=request.param == "shuffled")


@pytest.mark.parametrize("samples", [3, 7, 8, 21])  # 1, 2, 2 and 6 batches: spec inference alone asks for two
def test_every_epoch_of_fit_sees_the_next_order_whole(make, samples):
    seq = Sequence(make(samples))
    model = fit(seq, epochs=3)
    assert model.trained == orders(seq.batches, range(3))
    fit(seq, model, epochs=2)
    assert model.trained == orders(seq.batches, range(5))


@pytest.mark.parametrize("samples", [3, 7, 21])
def test_an_unbuilt_model_changes_nothing(samples):
    seq = Sequence(FakeBatches(samples))
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse", metrics=["mae"])
    model.fit(seq, epochs=2, verbose=0, shuffle=False)
    assert seq.batches.state_dict() == seq.batches.state_at(2, 0)


@pytest.mark.parametrize("samples", [7, 8, 21])
def test_training_and_validation_on_one_sequence(make, samples):
    seq = Sequence(make(samples))
    model = fit(seq, epochs=2, validation_data=seq)
    # Every pass, whoever made it, has its own order and is whole.
    assert model.trained == orders(seq.batches, (0, 2))
    assert model.tested == orders(seq.batches, (1, 3))


def test_validation_in_each_epoch_on_its_own_sequence():
    seq, val = Sequence(FakeBatches(21)), Sequence(FakeBatches(9))
    model = fit(seq, epochs=3, validation_data=val)
    assert model.trained == orders(seq.batches, range(3))
    assert model.tested == orders(val.batches, range(3))


def test_evaluate_and_predict_in_between():
    seq = Sequence(FakeBatches(21))
    model = fit(seq)
    model.evaluate(seq, verbose=0)
    found = model.predict(seq, verbose=0)
    fit(seq, model)
    assert model.trained == orders(seq.batches, (0, 2))  # predict leaves the order that comes next
    assert model.tested == orders(seq.batches, (1,))
    assert found[:, 0].astype(int).tolist() == [(n + 2) % 21 for n in range(21)]


@pytest.mark.parametrize("steps_per_epoch", [1, 3])
def test_steps_per_epoch_that_divides_covers_each_order_once(make, steps_per_epoch):
    seq = Sequence(make(21))
    model = fit(seq, epochs=12 // steps_per_epoch, steps_per_epoch=steps_per_epoch)
    assert model.trained == orders(seq.batches, (0, 1))


@pytest.mark.filterwarnings("ignore:.*ran out of data.*:UserWarning")
@pytest.mark.parametrize("steps_per_epoch", [4, 5])
def test_steps_per_epoch_that_does_not_divide_still_loses_nothing(steps_per_epoch):
    seq = Sequence(FakeBatches(21))
    model = fit(seq, epochs=4, steps_per_epoch=steps_per_epoch)
    assert model.trained == orders(seq.batches, (0, 1))


def test_steps_per_epoch_with_validation_on_the_same_sequence(make):
    # The iterator of training lives on while validation makes whole passes: hooks alone could not tell them apart.
    seq = Sequence(make(24))
    model = fit(seq, epochs=3, steps_per_epoch=2, validation_data=seq)
    assert model.trained == orders(seq.batches, (0,))
    assert model.tested[:6] == orders(seq.batches, (0,))
    assert [sorted(n for batch in model.tested[at : at + 6] for n in batch) for at in (0, 6, 12)] == [list(range(24))] * 3


@pytest.mark.parametrize("after", [1, 3])
def test_a_stop_in_mid_epoch_then_another_fit_replays_that_order(make, after):
    seq = Sequence(make(24))
    threads = threading.active_count()
    model = fit(seq, epochs=2, callbacks=[Stop(6 + after)])
    del model.trained[:6]
    assert model.trained == orders(seq.batches, (1,))[:after]
    again = fit(seq, epochs=2)
    assert again.trained == orders(seq.batches, (1, 2))
    assert threading.active_count() <= threads + 1


def test_a_stop_in_mid_epoch_with_keras_permuting():
    seq = Sequence(FakeBatches(24))
    fit(seq, shuffle=True, callbacks=[Stop(2)])
    again = fit(seq, epochs=2, shuffle=True)
    assert sorted(again.trained[:6]) == sorted(orders(seq.batches, (0,)))
    assert sorted(again.trained[6:]) == sorted(orders(seq.batches, (1,)))


def test_keras_shuffle_permutes_batches_and_keeps_coverage(make):
    seq = Sequence(make(42))
    model = fit(seq, epochs=3, shuffle=True)
    assert model.trained != orders(seq.batches, range(3))
    for epoch in range(3):
        assert sorted(model.trained[11 * epoch : 11 * epoch + 11]) == sorted(orders(seq.batches, (epoch,)))


@pytest.mark.parametrize("samples", [24, 28])
def test_several_steps_per_execution(samples):
    seq = Sequence(FakeBatches(samples))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    model.compile(optimizer="sgd", loss="mse", steps_per_execution=2)
    model.fit(seq, epochs=2, verbose=0, shuffle=False)
    seen = [place for place in seq.batches.reads if place[0] == 1]
    assert seen == [(1, i) for i in range(len(seq))]
    assert seq.batches.state_dict() == seq.batches.state_at(2, 0)


def test_a_look_between_batches_changes_nothing():
    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            for i in range(len(seq)):
                seq[i]

    seq = Sequence(FakeBatches(21))
    model = fit(seq, epochs=3, callbacks=[Look()])
    assert model.trained == orders(seq.batches, range(3))


def test_evaluation_of_the_same_sequence_in_mid_epoch():
    class Evaluate(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.model.evaluate(seq, verbose=0)

    seq = Sequence(FakeBatches(24))
    model = fit(seq, epochs=1, callbacks=[Evaluate()])
    assert model.trained == orders(seq.batches, (0,))
    assert model.tested == orders(seq.batches, (0,))
    fit(seq, model)
    assert model.trained[6:] == orders(seq.batches, (1,))


@pytest.mark.parametrize("steps", [1, 4, 13])
def test_steps_walk_on_through_the_orders(make, steps):
    seq = Sequence(make(21), steps=steps)
    assert len(seq) == seq.num_batches == steps
    model = fit(seq, epochs=5)
    assert model.trained == (orders(seq.batches, range(11)))[: 5 * steps]


def test_steps_resume_where_they_ended(make):
    first = Sequence(make(21), steps=4)
    saved = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: saved.append(first.batches.state_dict()))
    model = fit(first, epochs=2, callbacks=[note])
    assert saved == [first.batches.state_at(0, 4), first.batches.state_at(1, 2)]
    second = Sequence(make(21), steps=4)
    second.batches.load_state_dict(saved[-1])
    fit(second, model, epochs=2)
    assert model.trained == orders(first.batches, range(3))[:16]
    resumed = make(21)
    resumed.load_state_dict(saved[-1])
    assert fit(Sequence(resumed, steps=4)).trained == orders(first.batches, range(2))[8:12]


def test_a_position_in_mid_epoch_is_exact_when_told_how_many_were_trained(make):
    saved = []
    first = Sequence(make(21))
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: saved.append(first.batches.state_dict(batch + 1)))
    model = fit(first, epochs=2, callbacks=[note, Stop(8)])
    assert saved == [first.batches.state_at(*divmod(i + 1, 6)) for i in range(8)]
    second = Sequence(make(21))
    second.batches.load_state_dict(saved[-1])
    fit(second, model)
    assert model.trained == orders(first.batches, range(2)), "a short epoch, to the end of that of the data"


def test_many_iterators_at_once_each_keep_their_order():
    seq = Sequence(FakeBatches(24))
    walks = [iter(seq) for _ in range(3)]
    found = [[next(walk)[0][:, 0].astype(int).tolist() for walk in walks] for _ in range(6)]
    for walk in range(3):
        assert [row[walk] for row in found] == orders(seq.batches, (0,))
    assert [x[:, 0].astype(int).tolist() for x, y in seq] == orders(seq.batches, (1,))


def test_loops_of_ones_own_advance_through_both_hooks():
    seq = Sequence(FakeBatches(21))
    for _ in range(2):
        seq.on_epoch_begin()
        for i in range(len(seq)):
            seq[i]
        seq.on_epoch_end()
    assert seq.batches.reads == [(e, i) for e in range(2) for i in range(6)]
    seq.on_epoch_begin()
    seq[0]
    seq.on_epoch_end()
    assert seq.batches.cursor.position == (2, 1) and seq.batches.cursor.next == (2, 0)


@pytest.mark.parametrize("samples", [3, 7, 21])
def test_hooks_alone_suffice_if_keras_hides_its_iterator(monkeypatch, samples):
    monkeypatch.setattr("mmapstore.adapters.keras_sequence._keras_caller", lambda caller, name="": (None, None))
    seq = Sequence(FakeBatches(samples))
    model = fit(seq, epochs=3)
    fit(seq, model, epochs=1)
    assert model.trained == orders(seq.batches, range(4))


def test_a_subclass_may_change_batches():
    class Doubled(Sequence):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x * 2, y

    seq = Doubled(FakeBatches(12))
    model = fit(seq, epochs=2)
    assert model.trained == [[2 * n for n in batch] for batch in orders(seq.batches, (0, 1))]


def test_pickle_and_deepcopy_go_on_at_the_same_place(make):
    seq = Sequence(make(21), steps=4)
    fit(seq, epochs=2)
    for other in (pickle.loads(pickle.dumps(seq)), copy.deepcopy(seq)):
        assert isinstance(other, keras.utils.PyDataset)
        assert other.batches.state_dict() == seq.batches.state_dict()
        assert fit(other).trained == orders(seq.batches, range(2))[8:]


@pytest.mark.parametrize(("adapter", "is_one_hot"), [("to_keras", False), ("to_tf", False), ("to_keras", True)])
def test_class_weights_make_classes_count_alike(adapter, is_one_hot):
    numbers = np.repeat([0, 1], [30, 10])
    label = np.eye(2, dtype="f4")[numbers] if is_one_hot else numbers
    ds = mm.open({"x": np.ones((40, 1), "f4"), "label": label})
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, use_bias=False, kernel_initializer="zeros")])
    loss = keras.losses.CategoricalCrossentropy if is_one_hot else keras.losses.SparseCategoricalCrossentropy
    model.compile(keras.optimizers.SGD(1.0), loss(from_logits=True))
    batches = ds.batches(40, target="label")
    assert model.fit(getattr(batches, adapter)(), shuffle=False, verbose=0, class_weight=ds.class_weights("label")).epoch == [0]
    assert abs(model.get_weights()[0]).max() < 1e-6  # unweighted, the frequent class wins: 0.25 and -0.25
