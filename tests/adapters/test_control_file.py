"""A control file steers a running `fit`, on TensorFlow."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

import mmapstore as mm
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError, TrainingWarning

keras = pytest.importorskip("keras")
if keras.backend.backend() != "tensorflow":
    pytest.skip("in-process tests want Keras on TensorFlow", allow_module_level=True)


class Noisy(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.noise = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.counts = self.add_weight(shape=(2,), dtype="int32", initializer="zeros", trainable=False)
        self.plain = 0.5

    def call(self, x):
        return x + self.noise


class Writer(keras.callbacks.Callback):
    """Writes texts into the file before given batches, and notes what holds after each."""

    def __init__(self, path, texts):
        super().__init__()
        self.path, self.texts, self.rates, self.noise = path, texts, [], []

    def on_train_batch_begin(self, batch, logs=None):
        if batch in self.texts:
            text = self.texts[batch]
            self.path.write_text(text if isinstance(text, str) else json.dumps(text))
            os.utime(self.path, ns=(batch, batch))  # clocks of file systems may be coarse

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(round(float(self.model.optimizer.learning_rate), 6))
        self.noise.append(float(self.model.layers[0].noise))


def fit(tmp_path, texts, batches=8, attributes=("noise", "counts"), eagerly=False, rate=0.01, **others):
    layer = Noisy()
    model = keras.Sequential([keras.Input((3,)), layer, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(rate), "mse", run_eagerly=eagerly)
    writer = Writer(tmp_path / "control.json", texts)
    control = mm.ControlFile(tmp_path / "control.json", attributes={**dict.fromkeys(attributes, layer), **others})
    model.fit(np.ones((batches, 3)), np.zeros(batches), batch_size=1, verbose=0, callbacks=[control, writer])
    return writer, layer, control


def test_values_hold_from_the_batch_they_are_read_after(tmp_path):
    texts = {1: {"learning_rate": 0.25, "noise": 2}, 3: {"noise": -1.5, "counts": [3, 4]}, 6: {"stop": True}}
    writer, layer, _ = fit(tmp_path, texts)
    assert writer.rates == [0.01, *[0.25] * 6], "a rate is set once, and training stopped after batch 6"
    assert writer.noise == [0, 2, 2, -1.5, -1.5, -1.5, -1.5]
    assert np.asarray(layer.counts).tolist() == [3, 4]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"learning_rate": 0.2', "it is not JSON"),
        ("[1]", "it holds list; expected an object"),
        ('{"learning_rate": NaN}', "it has NaN, which is no number of JSON"),
        ('{"learning_rate": true}', '"learning_rate" is True; expected a finite number'),
        ('{"learning_rate": -1}', '"learning_rate" is -1.0; expected 0 or more'),
        ('{"learning_rate": 1e999}', '"learning_rate" is inf; expected a finite'),
        ('{"stop": 1}', '"stop" is 1; expected true or false'),
        ('{"noise": 1, "nose": 2}', "it sets 'nose'; expected some of 'stop', 'learning_rate', 'noise', 'counts'"),
        ('{"noise": 1, "counts": [1]}', r'"counts" is \[1\]; expected finite numbers of shape \(2,\)'),
        ('{"noise": 1, "counts": [1, 2.5]}', r'"counts" is \[1, 2.5\], which int32 cannot hold'),
        ('{"counts": [[1], [2, 3]]}', "is ignored"),
        ('{"noise": "__import__(\'os\').abort()"}', "expected finite numbers"),
        ('{"noise": 1e300}', "which float32 cannot hold"),
        ("[" * 50000, "is ignored"),
        (" " * 70000, "it has 70000 bytes"),
    ],
)
def test_a_broken_file_is_reported_once_and_ignored(tmp_path, text, reason):
    layer = Noisy()
    control = mm.ControlFile(tmp_path / "control.json", attributes={"noise": layer, "counts": layer})
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile("sgd", "mse")
    control.set_model(model)
    control.on_train_begin()
    (tmp_path / "control.json").write_text(text)
    with pytest.warns(TrainingWarning, match=reason) as told:
        for batch in range(3):
            control.on_train_batch_end(batch)
    assert len(told) == 1
    assert float(layer.noise) == 0 and not np.asarray(layer.counts).any() and round(float(model.optimizer.learning_rate), 6) == 0.01
    (tmp_path / "control.json").write_text('{"noise": 3}')
    control.on_train_batch_end(3)
    assert float(layer.noise) == 3


@pytest.mark.slow
def test_attributes_that_would_change_nothing(tmp_path):
    class Augmenter:
        strength, name = 1, "soft"

    with pytest.raises(InvalidTypeError, match=r"Noisy.plain is a plain float, which a compiled .*add_weight.*run_eagerly=True"):
        fit(tmp_path, {}, attributes=("plain",))
    augmenter = Augmenter()
    _, layer, _ = fit(
        tmp_path,
        {0: {"plain": 3, "strength": 4, "name": "b"}},
        attributes=("plain",),
        eagerly=True,
        strength=augmenter,
        name=augmenter,
    )
    assert (layer.plain, augmenter.strength, augmenter.name) == (3.0, 4, "b")
    with pytest.warns(TrainingWarning, match='"strength" is 1.5; expected a int, as 1 is'):
        fit(tmp_path, {0: {"strength": 1.5}}, strength=Augmenter())


@pytest.mark.slow
def test_a_schedule_of_the_optimizer_is_not_overruled(tmp_path):
    with pytest.warns(TrainingWarning, match='"learning_rate" is given by the ExponentialDecay of the optimizer'):
        fit(tmp_path, {0: {"learning_rate": 0.1}}, rate=keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.5))


@pytest.mark.parametrize(
    ("attributes", "error", "text"),
    [
        ({"loud": object()}, InvalidValueError, "object has no attribute 'loud'"),
        ({"stop": object()}, InvalidValueError, "a control file has 'stop' already"),
        ({"__class__": 3}, InvalidTypeError, "int.__class__ is a type; expected a variable, a number"),
    ],
)
def test_attributes_that_cannot_be_meant(attributes, error, text):
    with pytest.raises(error, match=text):
        mm.ControlFile("control.json", attributes=attributes)


@pytest.mark.slow
def test_a_resumed_run_does_not_follow_the_same_text_again(tmp_path):
    _, _, control = fit(tmp_path, {0: {"stop": True}})
    later = mm.ControlFile(tmp_path / "control.json")
    later.load_state_dict(control.state_dict())
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    history = model.fit(np.ones((3, 3)), np.zeros(3), epochs=2, verbose=0, callbacks=[later])
    assert history.epoch == [0, 1]
