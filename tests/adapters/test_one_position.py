"""One rule moves the position of batches, whoever takes them: a table of passes, through a loop, `fit` and tf.data."""

from __future__ import annotations

import os

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")
if keras.backend.backend() != "tensorflow":
    pytest.skip("in-process tests want Keras on TensorFlow; test_backends covers the others", allow_module_level=True)

from keras_recorder import Recorder, numbers  # noqa: E402
from real_batches import real_batches  # noqa: E402

import mmapstore as mm  # noqa: E402

COUNT = 6  # batches in an epoch
LARGE = (96, 64)  # of a sample: TensorFlow does not gather batches of these itself


@pytest.fixture(autouse=True)
def let_go():
    yield
    keras.utils.clear_session()


class Stop(keras.callbacks.Callback):
    def __init__(self, after):
        super().__init__()
        self.after = after

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch + 1 == self.after


def by_loop(b):
    def take(count):
        found = []
        for x, _ in b:
            found.append(numbers(x))
            if len(found) == count:
                break
        return found

    return take


def by_fit_of(feed):
    def take(count):
        model = Recorder()
        model.fit(feed, verbose=0, shuffle=False, callbacks=[] if count is None else [Stop(count)])
        return model.trained

    return take


def by_iterations_of(data):
    return lambda count: [numbers(x) for x, _ in (data if count is None else data.take(count))]


WAYS = {
    "a loop": by_loop,
    "a loop over to_keras": lambda b: by_loop(b.to_keras()),
    "fit of to_keras": lambda b: by_fit_of(b.to_keras()),
    "fit of to_tf": lambda b: by_fit_of(b.to_tf()),
    "to_tf": lambda b: by_iterations_of(b.to_tf()),
    "to_tf by a generator": lambda b: by_iterations_of(b.to_tf("generator")),
}
# Batches taken of a pass, None for all that there are, or a position loaded; then what was taken, as (epoch, first, stop), and
# where the next pass begins.
RULE = [
    (None, (0, 0, 6), (1, 0)),
    (2, (1, 0, 2), (1, 0)),
    (5, (1, 0, 5), (1, 0)),
    (None, (1, 0, 6), (2, 0)),
    ((2, 4), None, (2, 4)),
    (1, (2, 4, 5), (2, 4)),
    (None, (2, 4, 6), (3, 0)),
    (None, (3, 0, 6), (4, 0)),
    ((0, 6), None, (1, 0)),
    (None, (1, 0, 6), (2, 0)),
]


def a_dataset(folder, shape):
    return real_batches(folder, 4 * COUNT - 1, shape=shape)


def a_mixture(folder, shape, within_batch=False):
    """Two batches of an epoch of a source, and four of nine of another: epochs of the second end within those of the mixture."""
    sources = [real_batches(folder, 8, shape=shape), real_batches(folder, 35, shape=shape)]
    return mm.mix(sources, [1, 2], within_batch=within_batch)


def mixed_samples(folder, shape):
    return a_mixture(folder, shape, within_batch=True)


@pytest.mark.filterwarnings("error:.*ran out of data.*")
@pytest.mark.parametrize(
    ("way", "shape", "make"),
    [
        *((way, (3,), a_dataset) for way in WAYS),
        ("to_tf", LARGE, a_dataset),
        ("to_tf by a generator", LARGE, a_dataset),
        *((way, (3,), make) for way in ("a loop", "fit of to_keras", "to_tf") for make in (a_mixture, mixed_samples)),
    ],
    ids=lambda value: value if isinstance(value, str) else "large" if value is LARGE else "" if value == (3,) else value.__name__,
)
def test_the_rule(tmp_path, way, shape, make):
    b = make(tmp_path, shape)
    take = WAYS[way](b)
    for what, taken, following in RULE:
        if taken is None:
            b.load_state_dict(b.state_at(*what))
        else:
            epoch, first, stop = taken
            expected = [numbers(b.read(epoch, number)[0]) for number in range(first, stop)]
            assert take(what) == expected
            assert b.cursor.latest == (epoch, first)
            assert b.state_dict(stop - first) == b.state_at(*divmod(epoch * COUNT + stop, COUNT))
            if stop == COUNT or way.startswith("a loop"):
                assert b.position == divmod(epoch * COUNT + stop, COUNT)
        assert b.cursor.next == following


@pytest.mark.parametrize("shape", [(3,), LARGE], ids=["small", "large"])
def test_an_epoch_that_other_workers_began(tmp_path, shape):
    state = real_batches(tmp_path, 187, 5, shape=shape, shard=(2, 3)).state_at(2, 4)
    for make in WAYS.values():
        b = real_batches(tmp_path, 187, shape=shape, shard=(1, 2))
        take = make(b)
        b.load_state_dict(state)
        epoch, first = b.position
        assert epoch == 2 and len(b) - first == 16  # 63 samples of 2 * 63 + 1
        assert take(None) == [numbers(b.read(2, number)[0]) for number in range(first, len(b))]
        assert b.cursor.next == (3, 0) and len(take(None)) == len(b)


def test_tensorflow_is_not_given_a_short_batch_after_full_ones_were_promised(tmp_path):
    b = real_batches(tmp_path, 4 * COUNT)
    data = b.to_tf()
    b.load_state_dict(real_batches(tmp_path, 4 * COUNT, 5, shard=(0, 2)).state_at(0, 1))
    with pytest.raises(tf.errors.OpError, match=r"Load the position before to_tf\(\), or make the batches with drop_last=True"):
        next(iter(data))
    assert [len(x) for x, _ in b.to_tf()] == [4, 4, 4, 2]


def test_all_ways_move_the_same_position(tmp_path):
    b = real_batches(tmp_path, 4 * COUNT)
    ways = [make(b) for make in WAYS.values()]
    ways[0](2)
    for epoch, take in enumerate([*ways, *ways]):
        assert take(None) == [numbers(b.read(epoch, number)[0]) for number in range(COUNT)]


@pytest.mark.parametrize("way", ["to_tf", "to_tf by a generator", "a loop"])
@pytest.mark.parametrize("shape", [(3,), LARGE], ids=["gathered by TensorFlow", "large"])
def test_iterators_side_by_side_have_one_epoch_and_the_first_that_ends_moves_on(tmp_path, way, shape):
    b = real_batches(tmp_path, 4 * COUNT, shape=shape)
    feed = {"to_tf": lambda: b.to_tf(), "to_tf by a generator": lambda: b.to_tf("generator"), "a loop": lambda: b}[way]()
    first, second = iter(feed), iter(feed)
    expected = [numbers(b.read(0, number)[0]) for number in range(COUNT)]
    assert [numbers(next(second)[0]) for _ in range(2)] == expected[:2]
    assert [numbers(next(first)[0]) for _ in range(COUNT)] == expected
    assert b.cursor.next == (1, 0)
    assert [numbers(next(second)[0]) for _ in range(COUNT - 2)] == expected[2:]
    assert b.cursor.next == b.position == (1, 0)
    b.load_state_dict(b.state_at(3, 1))
    assert numbers(next(iter(feed))[0]) == numbers(b.read(3, 1)[0])


@pytest.mark.parametrize("batches", [1, 2, 31, 32, 33, 34, 64, 65, 66, 97])
def test_tf_data_notes_blocks_and_the_last_batch(tmp_path, batches):
    b = real_batches(tmp_path, batches, 1, shuffle=False)
    for taken, _ in enumerate(b.to_tf(), start=1):
        assert b.position == ((1, 0) if taken == batches else (0, (taken - 1) // 32 * 32 + 1))
    assert taken == batches and b.cursor.next == (1, 0)


def test_the_first_batch_of_a_dataset_twice(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((1000, 4), "f4"))
    data = mm.open(tmp_path / "x.npy").batches(10, shuffle=True).to_tf()
    one, other = (next(iter(data))[0].numpy() for _ in range(2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("make", [lambda b: b.to_keras(), lambda b: b.to_tf()], ids=["to_keras", "to_tf"])
def test_the_position_after_fit(tmp_path, make):
    b = real_batches(tmp_path, 4 * COUNT)
    Recorder().fit(make(b), epochs=2, verbose=0, shuffle=False)
    assert (b.state_dict()["epoch"], b.state_dict()["batch"]) == (2, 0)
