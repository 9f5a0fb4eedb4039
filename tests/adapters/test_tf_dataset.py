"""tf.data over batches: order, cardinality, shapes, no copies, and checkpoints that restore exactly."""

from __future__ import annotations

import gc
import os
import threading

import h5py
import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
tf = pytest.importorskip("tensorflow")

from fake_batches import FakeBatches  # noqa: E402
from real_batches import real_batches  # noqa: E402

import mmapstore as mm  # noqa: E402
from mmapstore.adapters.tf_dataset import to_tf  # noqa: E402
from mmapstore.adapters.tf_groups import _casts_alike  # noqa: E402
from mmapstore.batches import batch_reader, window_frames  # noqa: E402
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError  # noqa: E402
from mmapstore.readers import raw_reader  # noqa: E402


@pytest.fixture(autouse=True)
def let_go():
    """TensorFlow keeps every function given to numpy_function, and so what it reads, until its graph is cleared."""
    yield
    tf.compat.v1.reset_default_graph()


METHODS = pytest.mark.parametrize("method", ["map", "generator"])


def gathered_by_tensorflow(batches):
    """Batches are gathered from mapped files, or from windows of decoded frames: from fields by name."""
    reads = batches.grouped(_casts_alike)
    return reads is not None and all(one.field for one in reads.arrays)


def numbers(x):
    return [int(n) for n in np.asarray(x).reshape(len(x), -1)[:, 0]]


def orders(batches, places):
    return [numbers(batches.read(*divmod(place, len(batches)))[0]) for place in places]


def seen(dataset):
    return [numbers(element[0]) for element in dataset]


@METHODS
@pytest.mark.parametrize("samples", [3, 8, 21])
def test_one_epoch_an_iteration_each_with_the_next_order(method, samples):
    b = FakeBatches(samples)
    data, n = to_tf(b, method), len(b)
    for epoch in range(3):
        assert seen(data) == orders(b, range(epoch * n, epoch * n + n))
    assert int(data.cardinality()) == n


@METHODS
def test_an_iteration_broken_off_is_repeated(method):
    b = FakeBatches(40)
    data = to_tf(b, method)
    assert seen(data.take(2)) == orders(b, range(2))
    assert seen(data) == orders(b, range(10))
    assert seen(data.repeat(2)) == orders(b, range(10, 30))


@METHODS
def test_epochs_in_a_row(method):
    b = FakeBatches(21, position=(2, 4))
    data = to_tf(b, method, epochs=3)
    assert int(data.cardinality()) == 2 + 6 + 6
    for _ in range(2):
        assert seen(data) == orders(b, range(16, 30))


@METHODS
def test_without_end(method):
    b = FakeBatches(21, position=(0, 5))
    data = to_tf(b, method, epochs=None)
    assert int(data.cardinality()) == tf.data.INFINITE_CARDINALITY
    assert seen(data.take(20)) == orders(b, range(5, 25))


@METHODS
def test_starting_position_of_single_epochs(method):
    b = FakeBatches(21, position=(1, 3))
    data = to_tf(b, method)
    assert seen(data) == orders(b, range(9, 12)), "the rest of the epoch"
    assert seen(data) + seen(data) == orders(b, range(12, 24))


@METHODS
def test_shapes_and_dtypes(method):
    x, y = to_tf(FakeBatches(21, shape=(2, 3), dtype="float64"), method).element_spec
    assert x == y == tf.TensorSpec((None, 2, 3), tf.float64)
    x, y = to_tf(FakeBatches(20, dtype="uint8"), method).element_spec
    assert x == y == tf.TensorSpec((4, 3), tf.uint8)


@METHODS
def test_structures(method):
    (pair, y) = next(iter(to_tf(FakeBatches(20, inputs=2), method)))
    assert isinstance(pair, tuple) and len(pair) == 2 and y.shape == (4, 3)
    (x,) = next(iter(to_tf(FakeBatches(20, target=False), method)))
    assert x.shape == (4, 3)
    (pair,) = next(iter(to_tf(FakeBatches(20, target=False, inputs=2), method)))
    assert isinstance(pair, tuple) and len(pair) == 2


@METHODS
@pytest.mark.parametrize("epochs", [1, 2, None])
def test_tensors_look_at_the_arrays_that_were_read(method, epochs):
    b = FakeBatches(20)
    kept = [part for element in to_tf(b, method, epochs=epochs).take(5) for part in element]
    assert len(kept) == 10
    assert {part._numpy().ctypes.data for part in kept} <= b.addresses


@pytest.mark.parametrize("epochs", [2, None])
@pytest.mark.parametrize("taken", [0, 1, 7])
def test_a_checkpoint_is_small_and_restores_in_mid_epoch(tmp_path, epochs, taken):
    def batches():
        return FakeBatches(16, 2, shape=(65536,))  # 512 KiB each

    data = to_tf(batches(), epochs=epochs)
    iterator = iter(data)
    for _ in range(taken):
        next(iterator)
    saved = tf.train.Checkpoint(data=iterator).write(str(tmp_path / "at"))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 100_000
    goes_on = [numbers(next(iterator)[0]) for _ in range(5)]
    assert goes_on == orders(batches(), range(taken, taken + 5))
    restored = iter(to_tf(batches(), epochs=epochs))
    next(restored)
    tf.train.Checkpoint(data=restored).read(saved).assert_consumed()
    assert [numbers(next(restored)[0]) for _ in range(5)] == goes_on


@pytest.mark.parametrize(("method", "epochs"), [("map", 1), ("generator", 2)])
def test_what_cannot_be_restored_is_not_saved(tmp_path, method, epochs):
    iterator = iter(to_tf(FakeBatches(20), method, epochs=epochs))
    next(iterator)
    with pytest.raises(Exception, match=r"stateful|not support"):
        tf.train.Checkpoint(data=iterator).write(str(tmp_path / "at"))


@METHODS
@pytest.mark.parametrize("epochs", [1, None])
def test_few_batches_are_made_ahead(method, epochs):
    b = FakeBatches(400)
    iterator = iter(to_tf(b, method, epochs=epochs))
    for _ in range(5):
        next(iterator)
    held = threading.Event()
    held.wait(0.3)  # long enough for a hungry pipeline to show itself; a slow machine only makes the test milder
    assert len(b.reads) <= 1 + 5 + 2  # the look at shapes, those taken, two ahead


@METHODS
def test_an_iterator_outlives_its_dataset(method):
    b = FakeBatches(400)
    iterator = iter(to_tf(b, method, epochs=2))
    gc.collect()
    assert [numbers(next(iterator)[0]) for _ in range(6)] == orders(b, range(6))


@METHODS
def test_an_abandoned_iterator_lets_go(method):
    b = FakeBatches(400)
    data = to_tf(b, method, epochs=None)
    before = threading.active_count()
    for _ in range(20):
        next(iter(data))
    gc.collect()
    assert threading.active_count() <= before + 1
    assert seen(data.take(2)) == orders(b, range(2))


@METHODS
def test_the_text_of_errors_survives(method):
    def broken(epoch, batch):
        if batch == 2:
            raise InvalidValueError("found 3 where 4 was expected; give 4")

    with pytest.raises(tf.errors.OpError, match="found 3 where 4 was expected; give 4"):
        seen(to_tf(FakeBatches(20, fail=broken), method))


@METHODS
def test_stop_iteration_does_not_end_an_epoch_silently(method):
    def used_up(x, y):
        if x[0, 0] == 8:
            next(iter(()))
        return x, y

    batches = mm.open(np.arange(21, dtype="f4").reshape(21, 1)).batches(4, target="data", transform=used_up)
    with pytest.raises(tf.errors.OpError, match=r"transform=.*used_up raised StopIteration.* for batch 2 of epoch 0"):
        seen(to_tf(batches, method))


@METHODS
def test_batches_that_change_shape_are_named(method):
    class Changing(FakeBatches):
        def read(self, epoch, batch, *, aligned=False):
            x, y = super().read(epoch, batch, aligned=aligned)
            return (x[:, :2] if batch == 1 else x), y

    said = r"Batch 1 of epoch 0 has arrays of float32 \(4, 2\), float32 \(4, 3\); expected, as in the first batch, float32 \(4, 3\)"
    with pytest.raises(tf.errors.OpError, match=said):
        seen(to_tf(Changing(20), method))


def test_arguments():
    with pytest.raises(InvalidValueError, match=r"method='rows'; expected 'map' .* or 'generator'"):
        to_tf(FakeBatches(20), "rows")
    for epochs in (0, -1):
        with pytest.raises(InvalidValueError, match=f"epochs={epochs}; expected 1"):
            to_tf(FakeBatches(20), epochs=epochs)
    for epochs in (True, 1.5, "all"):
        with pytest.raises(InvalidTypeError, match=r"epochs=.*expected 1, a number of epochs, or None"):
            to_tf(FakeBatches(20), epochs=epochs)
    with pytest.raises(InvalidValueError, match="no batch to train on"):
        to_tf(FakeBatches(0))


@METHODS
def test_sharding_of_tf_data_stays_away_from_our_own(method):
    policy = tf.data.experimental.AutoShardPolicy
    assert to_tf(FakeBatches(20), method).options().experimental_distribute.auto_shard_policy == policy.DATA
    assert to_tf(FakeBatches(20, shard=(1, 2)), method).options().experimental_distribute.auto_shard_policy == policy.OFF


@METHODS
def test_fit_sees_the_next_order_each_epoch(method):
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("written for Keras on TensorFlow")
    from keras_recorder import Recorder

    b, val = FakeBatches(21), FakeBatches(9)
    model = Recorder()
    model.fit(to_tf(b, method), epochs=3, validation_data=to_tf(val, method), verbose=0, shuffle=False)
    assert model.trained == orders(b, range(18))
    assert model.tested == orders(val, range(9))
    model = Recorder()
    model.fit(to_tf(b, method, epochs=None), epochs=4, steps_per_epoch=4, verbose=0, shuffle=False)
    assert model.trained == orders(b, range(18, 34))
    found = model.predict(to_tf(FakeBatches(21, target=False), method), verbose=0)
    assert numbers(found) == list(range(21))


@METHODS
@pytest.mark.parametrize("shuffle", [False, True])
def test_real_batches(tmp_path, method, shuffle):
    b = real_batches(tmp_path, 21, shape=(5, 7), shuffle=shuffle)
    data = b.to_tf(method)
    for epoch in range(2):
        for (x, y), batch in zip(data, range(6), strict=True):
            np.testing.assert_array_equal(x, b.read(epoch, batch)[0])
            np.testing.assert_array_equal(y, b.read(epoch, batch)[1])
    assert seen(b.to_tf(method, epochs=3)) == orders(b, range(12, 30))
    full = real_batches(tmp_path, 21, shape=(5, 7), shuffle=shuffle, drop_last=True).to_tf(method)
    assert full.element_spec[0] == tf.TensorSpec((4, 5, 7), tf.float32)


def test_real_batches_resume_from_their_state_and_from_a_checkpoint(tmp_path):
    def batches():
        return real_batches(tmp_path, 48, 2, shape=(64, 64))

    b = batches()
    expected = orders(b, range(60))
    iterator = iter(b.to_tf(epochs=None))
    assert [numbers(next(iterator)[0]) for _ in range(30)] == expected[:30]
    saved = tf.train.Checkpoint(data=iterator).write(str(tmp_path / "at"))
    restored = iter(batches().to_tf(epochs=None))
    tf.train.Checkpoint(data=restored).read(saved).assert_consumed()
    assert [numbers(next(restored)[0]) for _ in range(30)] == expected[30:]
    again = batches()
    again.load_state_dict(b.state_at(*divmod(30, len(b))))
    assert seen(again.to_tf(epochs=None).take(30)) == expected[30:]


# --- batches that TensorFlow cuts from the mapped file itself ---------------------------------------------------------------


def stored(folder, samples=50, dtype="float32", shape=(3, 4, 4)):
    frames = np.random.default_rng(0).integers(0, 255, (samples, *shape)).astype(dtype)
    np.save(folder / "frames.npy", frames)
    np.save(folder / "labels.npy", np.arange(samples))
    return mm.open({"image": str(folder / "frames.npy"), "label": str(folder / "labels.npy")})


@pytest.mark.parametrize(("part", "dtype"), [(0, "float32"), (1, "uint8"), (2, "float64")])
@pytest.mark.parametrize(
    "arguments",
    [
        {"target": mm.NextFrame()},
        {"target": mm.NextFrame(lead=3), "drop_last": True},
        {"target": "label"},
        {"target": None},
        {"target": mm.NextFrame(), "shard": (1, 3)},
        {"target": "label", "inputs": ("image", "image")},
    ],
    ids=lambda arguments: "-".join(map(str, arguments)),
)
def test_slices_of_the_mapped_file_are_what_reading_gives(tmp_path, part, dtype, arguments):
    b = stored(tmp_path, dtype=dtype).split(0.5, 0.2, 0.3)[part].batches(4, **arguments)
    assert gathered_by_tensorflow(b)
    # The dataset of two epochs begins behind the first one: a shard leaves out other samples there.
    for epochs, places in ((1, range(len(b))), (2, range(len(b), 3 * len(b)))):
        dataset = b.to_tf(epochs=epochs)
        found = list(dataset)
        assert len(found) == len(places) == int(dataset.cardinality())
        for place, element in zip(places, found, strict=True):
            expected = b.read(*divmod(place, len(b)))
            flat = tf.nest.flatten(element)
            assert len(flat) == len(tf.nest.flatten(expected))
            for tensor, array in zip(flat, tf.nest.flatten(expected), strict=True):
                np.testing.assert_array_equal(tensor.numpy(), array)


def test_slices_are_tensors_of_their_own(tmp_path):
    """TensorFlow computes in place in what it takes for its own: see test_in_place.py."""
    ds = stored(tmp_path, shape=(3, 16, 16))["image"]
    b = ds.batches(8, target=mm.NextFrame())
    for number, (x, _) in enumerate(b.to_tf()):
        expected, _ = b.read(0, number)
        assert not np.shares_memory(np.asarray(memoryview(x)), expected)
        np.testing.assert_array_equal(x.numpy(), expected)


@pytest.mark.parametrize(
    "arguments",
    [
        {"transform": lambda x, y: (x, y)},
        {"dtype": "uint8"},  # TensorFlow casts values out of range otherwise than NumPy
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_what_tensorflow_cannot_gather_is_read(tmp_path, arguments):
    stored(tmp_path)
    b = mm.open(tmp_path / "frames.npy").batches(4, target=mm.NextFrame(), **arguments)
    assert not gathered_by_tensorflow(b)
    for element, number in zip(b.to_tf(), range(len(b)), strict=True):
        for tensor, array in zip(element, b.read(0, number), strict=True):
            np.testing.assert_array_equal(tensor.numpy(), array)


@pytest.mark.parametrize(
    "shape", [(40, 3, 4, 5), (40, 3, 16, 16), (40, 4, 5)], ids=["rows of 240 bytes", "aligned rows", "no channels"]
)
@pytest.mark.parametrize("stored_as, dtype", [("f8", "f4"), ("u1", "f4"), ("i8", "f4"), ("f4", "f8"), (">i2", "f4"), ("f4", None)])
@pytest.mark.parametrize("layout", [None, "NHWC"])
def test_casts_and_transposes_in_tensorflow_are_those_of_numpy(tmp_path, shape, stored_as, dtype, layout):
    values = np.random.default_rng(0).integers(0, 2**53 if stored_as == "i8" else 200, shape)
    np.save(tmp_path / "x.npy", (values / 3 if stored_as in ("f8", "f4") else values).astype(stored_as))
    b = mm.open(tmp_path / "x.npy").batches(4, target=mm.NextFrame(), dtype=dtype, layout=layout)
    assert gathered_by_tensorflow(b) == (stored_as != ">i2")
    for element, number in zip(b.to_tf(), range(len(b)), strict=True):
        for tensor, array in zip(element, b.read(0, number), strict=True):
            assert tensor.dtype == array.dtype
            np.testing.assert_array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("fits", [True, False], ids=["fits in memory", "larger than memory"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"shuffle": 16},
        {"shuffle": True, "dtype": "float64", "layout": "NHWC"},
        {"shuffle": 16, "target": mm.Window(history=2, horizon=3, sampling_rate=2)},
        {"target": mm.Window(history=3, horizon=None), "layout": "NHWC"},
        {"shuffle": 16, "episodes": [0, 20, 50], "shard": (1, 2)},
        {"shuffle": 16, "target": None, "drop_last": True},
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_gathers_by_tensorflow_are_those_of_numpy(tmp_path, monkeypatch, arguments, fits):
    if not fits:
        for module in (batch_reader, raw_reader):
            monkeypatch.setattr(module, "memory_available", lambda: 0)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((50, 3, 4, 5), "f4"))
    ds = mm.open(tmp_path / "x.npy", episodes=arguments.get("episodes"))
    b = ds.batches(4, **{"target": mm.NextFrame(), **{name: value for name, value in arguments.items() if name != "episodes"}})
    assert gathered_by_tensorflow(b) == (fits or "shuffle" not in arguments), "one end of the file to the other needs no room"
    data = b.to_tf()
    for epoch in range(2):
        for element, number in zip(data, range(len(b)), strict=True):
            expected = b.read(epoch, number)
            for tensor, array in zip(element, expected, strict=True):
                assert (tensor.dtype, tensor.shape) == (array.dtype, array.shape)
                np.testing.assert_array_equal(tensor.numpy(), array)


@pytest.mark.parametrize(
    "arguments",
    [
        {"target": mm.NextFrame()},
        {"target": mm.NextFrame(lead=2), "episodes": [0, 70, 71, 200], "drop_last": True},
        {"target": mm.Window(history=3, horizon=2, sampling_rate=2, stride=9), "shard": (1, 2)},
        {"target": mm.Window(history=2, horizon=None), "dtype": "float64"},
        {"target": "label", "layout": "NHWC"},
    ],
    ids=lambda arguments: str(arguments["target"]),
)
def test_windows_of_decoded_frames_are_gathered_from_by_tensorflow(tmp_path, monkeypatch, arguments):
    monkeypatch.setattr(window_frames, "STRETCH_BYTES", 4 * 4 * 480)  # a few batches, so that there are several
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset(
            "image", data=np.random.default_rng(0).random((200, 3, 8, 5), "f4"), chunks=(7, 3, 8, 5), compression="gzip"
        )
        file["label"] = np.arange(200)  # in the file as it is, and at no multiple of 64 bytes
    ds = mm.open({"image": tmp_path / "x.h5::image", "label": tmp_path / "x.h5::label"}, episodes=arguments.pop("episodes", None))
    b, beside = (ds.batches(4, inputs="image", **arguments) for _ in range(2))
    assert gathered_by_tensorflow(b) and b.grouped(_casts_alike).most < len(b)
    b.load_state_dict(b.state_at(0, 2))
    data = b.to_tf(epochs=2)
    for place, element in enumerate(data, start=2):
        for tensor, array in zip(element, beside.read(*divmod(place, len(b))), strict=True):
            assert (tensor.dtype, tensor.shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(tensor.numpy(), array)
    assert place == 2 * len(b) - 1


def test_nothing_is_tuned_unless_somebody_asks(tmp_path):
    b = stored(tmp_path).batches(4, inputs="image")
    assert b.to_tf().options().autotune.enabled is False
    options = tf.data.Options()
    options.autotune.enabled = True
    assert b.to_tf().with_options(options).options().autotune.enabled is True
    more = tf.autograph.experimental.do_not_convert(lambda x: x + 1)  # converting it warns on Python 3.13
    behind = b.to_tf().map(more, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    for (x,), y in zip(b.to_tf(), behind, strict=True):
        np.testing.assert_array_equal(x.numpy() + 1, y.numpy())


@pytest.mark.parametrize("epochs", [1, 3, None])
@pytest.mark.parametrize("start", [0, 5, 23])
@pytest.mark.parametrize("drop_last", [False, True])
def test_small_batches_are_read_together_and_come_one_by_one(tmp_path, monkeypatch, epochs, start, drop_last):
    """Groups end where epochs do, and passes that begin in the middle of an epoch straddle two."""
    np.save(tmp_path / "x.npy", np.arange(100, dtype="f4").reshape(100, 1))
    monkeypatch.setattr(batch_reader, "TOGETHER_BYTES", 4 * 5 * 4 * 8)  # four groups of five batches of four pairs
    b = mm.open(tmp_path / "x.npy", mapped=False).batches(4, target=mm.NextFrame(), shuffle=20, drop_last=drop_last)
    assert b.grouped(_casts_alike).most == 5
    b.load_state_dict(b.state_at(0, start))
    count, passes = len(b), 3
    expected = [b.read(*divmod(start + n, count)) for n in range(passes * count)]
    data = b.to_tf(epochs=epochs)
    if epochs == 1:
        found, expected = [element for _ in range(passes) for element in data], expected[: passes * count - start]
    elif epochs is None:
        found = list(data.take(passes * count))
    else:
        found, expected = list(data), expected[: 3 * count - start]
    assert len(found) == len(expected)
    for element, arrays in zip(found, expected, strict=True):
        for tensor, array in zip(element, arrays, strict=True):
            np.testing.assert_array_equal(tensor.numpy(), array)


def test_slices_go_on_from_a_position_and_from_a_checkpoint(tmp_path):
    b = stored(tmp_path)["image"].batches(4, target=mm.NextFrame())
    b.load_state_dict(b.state_at(1, 5))
    expected = [b.read(1, n)[0] for n in range(5, len(b))] + [b.read(2, n)[0] for n in range(len(b))]
    iterator = iter(b.to_tf(epochs=2))
    for array in expected[:4]:
        np.testing.assert_array_equal(next(iterator)[0].numpy(), array)
    saved = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "checkpoint"))
    assert sum(file.stat().st_size for file in tmp_path.glob("checkpoint*")) < 100_000
    again = iter(b.to_tf(epochs=2))
    tf.train.Checkpoint(iterator=again).restore(saved)
    for array, (x, _) in zip(expected[4:], again, strict=True):
        np.testing.assert_array_equal(x.numpy(), array)


def test_slices_without_end(tmp_path):
    b = stored(tmp_path)["image"].batches(16, target=mm.NextFrame())
    data = b.to_tf(epochs=None)
    assert data.cardinality() == tf.data.INFINITE_CARDINALITY
    found = [len(x) for x, _ in data.take(9)]
    assert found == [16, 16, 16, 1, 16, 16, 16, 1, 16]
