"""Real Keras models trained on nests, weights and text, against the same numbers given as arrays."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import mmapstore as mm
from mmapstore.plain.errors import InvalidValueError

tf = pytest.importorskip("tensorflow")
import keras  # noqa: E402

SAMPLES = 22
RNG = np.random.default_rng(0)
X, T = RNG.random((SAMPLES, 3), "f4"), np.array([b"red cat", b"blue dog", b"red dog"] * 8)[:SAMPLES]
LABELS, W = np.arange(SAMPLES) % 2, RNG.random(SAMPLES).astype("f4")
Y = X[:, :1].copy()
ADAPTERS = pytest.mark.parametrize("adapter", ["to_keras", "to_tf"])


@pytest.fixture(scope="module")
def ds():
    return mm.open({"x": X, "t": T, "label": LABELS, "y": Y, "w": W})


def weights_of(model):
    return [np.array(one) for one in model.get_weights()]


def small_model(seed=3):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse", weighted_metrics=["mae"], run_eagerly=True)
    return model


@ADAPTERS
def test_sample_weights_train_and_evaluate_as_those_of_arrays(ds, adapter):
    ours, theirs = small_model(), small_model()
    batches = ds.batches(5, "y", inputs="x", sample_weight="w")
    made = getattr(batches, adapter)()
    ours.fit(made, epochs=2, verbose=0, shuffle=False)
    theirs.fit(X, Y, sample_weight=W, batch_size=5, epochs=2, verbose=0, shuffle=False)
    for one, other in zip(weights_of(ours), weights_of(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    found = ours.evaluate(made, verbose=0)
    np.testing.assert_allclose(found, theirs.evaluate(X, Y, sample_weight=W, batch_size=5, verbose=0), rtol=1e-5)
    assert not np.allclose(found, theirs.evaluate(X, Y, batch_size=5, verbose=0), rtol=1e-3), "weights have an effect"


@ADAPTERS
def test_class_weight_works_beside_y_alone(ds, adapter):
    def made(**more):
        return getattr(ds.batches(5, "label", inputs="x", **more), adapter)()

    def model():
        keras.utils.set_random_seed(3)
        made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        made.compile(optimizer="sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
        return made

    ours, theirs = model(), model()
    ours.fit(made(), class_weight={0: 1.0, 1: 5.0}, verbose=0, shuffle=False)
    theirs.fit(X, LABELS, class_weight={0: 1.0, 1: 5.0}, batch_size=5, verbose=0, shuffle=False)
    for one, other in zip(weights_of(ours), weights_of(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    # Keras takes one of both, and says so in its own words.
    with pytest.raises(ValueError, match=r"class_weight.*sample_weight|sample_weight.*class_weight"):
        model().fit(made(sample_weight="w"), class_weight={0: 1.0, 1: 5.0}, verbose=0, shuffle=False)


@pytest.mark.parametrize(
    "adapter, kind",
    [
        ("to_keras", dict),
        ("to_tf", list),
        *(pytest.param(*other, marks=pytest.mark.slow) for other in (("to_keras", list), ("to_keras", tuple), ("to_tf", dict))),
    ],
)
@pytest.mark.filterwarnings("error:.*structure.*")
def test_named_inputs_and_outputs(ds, adapter, kind):
    def nest(**named):
        return named if kind is dict else kind(named.values())

    a, b = keras.Input((3,), name="a"), keras.Input((1,), name="b")
    joined = keras.layers.Concatenate()([a, b])
    outputs = nest(near=keras.layers.Dense(1, name="near")(joined), kind=keras.layers.Dense(2, name="kind")(joined))
    model = keras.Model(nest(a=a, b=b), outputs)
    model.compile(optimizer="sgd", loss=nest(near="mse", kind="mse"), run_eagerly=True)
    one_hot = np.eye(2, dtype="f4")[LABELS]
    data = mm.open({"x": X, "y": Y, "hot": one_hot, "w": W})
    weights = nest(near="w", kind="w")
    batches = data.batches(5, nest(near="y", kind="hot"), inputs=nest(a="x", b="y"), sample_weight=weights)
    made = getattr(batches, adapter)()
    given, wanted, weighed = nest(a=X, b=Y), nest(near=Y, kind=one_hot), nest(near=W, kind=W)
    expected = model.evaluate(given, wanted, sample_weight=weighed, batch_size=5, verbose=0)
    np.testing.assert_allclose(model.evaluate(made, verbose=0), expected, rtol=1e-5)
    model.fit(made, epochs=2, verbose=0, shuffle=False)
    predicted = model.predict(getattr(data.batches(5, inputs=nest(a="x", b="y")), adapter)(), verbose=0)
    shapes = keras.tree.map_structure(np.shape, predicted)
    assert shapes == keras.tree.map_structure(np.shape, model.predict(given, verbose=0))


@pytest.mark.parametrize(
    "adapter, alone",
    [
        ("to_keras", True),
        ("to_tf", False),
        *(pytest.param(*other, marks=pytest.mark.slow) for other in (("to_keras", False), ("to_tf", True))),
    ],
)
def test_text_vectorization_takes_text_as_it_comes(ds, adapter, alone):
    vectorize = keras.layers.TextVectorization(max_tokens=20, output_sequence_length=4)
    vectorize.adapt(ds.batches(5, inputs="t").to_tf().map(lambda x: x))
    assert set(vectorize.get_vocabulary()) == {"", "[UNK]", "red", "blue", "cat", "dog"}
    text = keras.Input((), dtype="string", name="text")
    hidden = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(20, 4)(vectorize(text)))
    image = keras.Input((3,), name="image")
    inputs = text if alone else {"text": text, "image": image}
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden if alone else keras.layers.Concatenate()([hidden, image])))
    model.compile(optimizer="sgd", loss="mse", run_eagerly=True)
    batches = ds.batches(5, "y", inputs="t" if alone else {"text": "t", "image": "x"}, shuffle=True)
    model.fit(getattr(batches, adapter)(), epochs=2, verbose=0, shuffle=False)
    found = model.evaluate(getattr(batches, adapter)(), verbose=0)
    given = tf.constant(T) if alone else {"text": tf.constant(T), "image": X}
    np.testing.assert_allclose(found, model.evaluate(given, Y, verbose=0), rtol=1e-4)


@pytest.mark.parametrize("method", ["map", "generator"])
def test_text_of_any_width_and_bytes_comes_through_tf_data(method):
    text = np.array([b"", b"a\0b", "été".encode(), b"\xff\xfe", b"longest of all"] * 3)
    data = mm.open({"t": text, "n": np.arange(15)})
    found = list(data.batches(4, "n", inputs="t", shuffle=True).to_tf(method=method).as_numpy_iterator())
    for x, y in found:
        assert x.tolist() == text[y].tolist()
    assert sorted(np.concatenate([y for _, y in found])) == list(range(15))
    vary = data.batches(4, "n", inputs="t", transform=lambda x, y: (x.astype(f"S{20 + y[0]}"), y))
    assert b"".join(np.concatenate([x for x, _ in vary.to_tf(method=method).as_numpy_iterator()])) == b"".join(text)


@ADAPTERS
def test_weights_that_are_none_stop_training_with_their_sample(ds, adapter):
    weights = W.copy()
    weights[13] = np.nan
    data = mm.open({"x": X, "y": Y, "w": weights})
    with pytest.raises((InvalidValueError, tf.errors.OpError), match=r"the field 'w' of .* is nan at sample 13 of the store"):
        small_model().fit(getattr(data.batches(5, "y", sample_weight="w"), adapter)(), verbose=0, shuffle=False)


# --- transforms ----------------------------------------------------------------------------------------------------------


def augmented(x, y, *, rng):
    return {"image": x + rng.random(x.shape, "f4")}, [y], y[:, 0]


@ADAPTERS
@pytest.mark.parametrize("workers", [1, 3])
def test_transformed_batches_are_those_of_the_loop(ds, adapter, workers):
    asked = {"target": "y", "inputs": "x", "transform": augmented, "shuffle": True, "seed": 2}
    loop = ds.batches(5, **asked)
    expected = [batch for _ in range(2) for batch in loop]
    made = getattr(ds.batches(5, **asked, transform_workers=workers), adapter)()
    found = [batch for _ in range(2) for batch in made]
    for (x, y, w), (x_, y_, w_) in zip(found, expected, strict=True):
        assert isinstance(y, tuple), "tf.data would make one tensor of a list"
        for one, other in ((x["image"], x_["image"]), (y[0], y_[0]), (w, w_)):
            np.testing.assert_array_equal(np.asarray(one), other, strict=True)


@ADAPTERS
@pytest.mark.parametrize(
    "change, said",
    [
        (
            lambda x, y: (x[:, :2], y),
            r"arrays of float32 \(5, 2\), float32 \(5, 1\); expected, as in the first batch, float32 \(\w+, 3\)",
        ),
        (lambda x, y: (x.astype("f8"), y), r"arrays of float64 \(5, 3\), float32"),
        (lambda x, y: ({"a": x}, y), r"arrays of {'a': float32 \(5, 3\)}, float32 \(5, 1\); expected"),
        (lambda x, y: (x, y, y[:, 0]), r"float32 \(5, 1\), float32 \(5,\); expected"),
        (lambda x, y: (x[1:], y[1:]), r"returned an array of shape \(4, 3\) for batch 3 of epoch 0.* expected 5 samples"),
        (lambda x, y: None, r"returned None .* for batch 3 of epoch 0"),
    ],
)
def test_what_tensorflow_was_not_told_of_is_named(ds, adapter, change, said):
    def changing(x, y):
        return change(x, y) if np.array_equal(x, X[15:20]) else (x, y)

    made = getattr(ds.batches(5, "y", inputs="x", transform=changing), adapter)()
    with pytest.raises(Exception, match=said) as raised:
        small_model().fit(made, verbose=0, shuffle=False)
    assert "changing" in str(raised.value) and "those at 15, 16, 17, 18, 19 in the store" in str(raised.value)


def test_keras_takes_what_differs_in_the_first_two_batches(ds):
    """Text padded to the longest of its batch: Keras leaves such an axis open, and so do we."""

    lengths = {0: 2, 1: 4, 2: 3, 3: 7, 4: 1}

    def padded(x, y):
        number = next(n for n in range(5) if np.array_equal(x[0], X[5 * n]))
        return np.repeat(x[:, :1, None], lengths[number], axis=1), y

    model = keras.Sequential([keras.Input((None, 1)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse", run_eagerly=True)
    model.fit(ds.batches(5, "y", inputs="x", transform=padded).to_keras(), epochs=2, verbose=0, shuffle=False)


@ADAPTERS
def test_no_thread_outlives_a_fit_that_ctrl_c_ends(ds, adapter):
    def slow(x, y):
        time.sleep(0.005)
        return x, y

    class CtrlC(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3:
                raise KeyboardInterrupt

    made = getattr(ds.batches(1, "y", inputs="x", transform=slow, transform_workers=4), adapter)()
    with pytest.raises(KeyboardInterrupt):
        small_model().fit(made, verbose=0, shuffle=False, callbacks=[CtrlC()])
    deadline = time.monotonic() + 10
    while (alive := [one for one in threading.enumerate() if one.name == "mmapstore-transform"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive


UNCAUGHT = """
import sys, time
import keras, numpy as np
import mmapstore as mm

def slow(x, y):
    time.sleep(0.02)  # at the error, and at the exit, a batch is being made
    return x, y

class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 3:
            raise {"error": RuntimeError, "ctrl-c": KeyboardInterrupt}[sys.argv[2]]("stopped")

b = mm.open({"x": np.zeros((1600, 8), "f4"), "y": np.zeros(1600)}).batches(32, "y", transform=slow)
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(getattr(b, sys.argv[1])(), epochs=9, verbose=0, callbacks=[Stop()], shuffle=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("error", ["error", "ctrl-c"])
@pytest.mark.parametrize("adapter", ["to_keras", "to_tf"])
def test_an_error_that_leaves_fit_ends_the_process(adapter: str, error: str) -> None:
    """TensorFlow alone hangs here: its iterator waits at the exit for a thread that waits for Python."""
    child = subprocess.run([sys.executable, "-c", UNCAUGHT, adapter, error], capture_output=True, text=True, timeout=60)
    assert child.returncode in (1, -signal.SIGINT, 130) and "stopped" in child.stderr, child.stderr
