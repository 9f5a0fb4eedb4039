"""A Keras model that notes what it is shown, and what it should have been shown."""

from __future__ import annotations

import keras
import numpy as np


def numbers(x):
    """The samples in a batch, each filled with its own number."""
    return [int(n) for n in np.asarray(x).reshape(len(x), -1)[:, 0]]


class Recorder(keras.Model):
    """Notes the number of every sample it is trained, tested or asked on, one list a batch. TensorFlow backend."""

    def __init__(self):
        super().__init__()
        self.trained, self.tested, self.predicted = [], [], []
        self.compile(optimizer="sgd", loss="mse", run_eagerly=True)

    def call(self, x):
        return x

    def _note(self, into, data):
        into.append(numbers(data[0]))
        return {"loss": 0.0}

    def train_step(self, data):
        return self._note(self.trained, data)

    def test_step(self, data):
        return self._note(self.tested, data)

    def predict_step(self, data):
        self._note(self.predicted, data)
        return data[0]


def orders(batches, epochs):
    """What the model should see: the batches of these epochs, as lists of sample numbers."""
    return [numbers(batches.read(e, i)[0]) for e in epochs for i in range(len(batches))]


def fit(seq, model=None, **more):
    model = model or Recorder()
    model.fit(seq, verbose=0, **{"shuffle": False, **more})
    return model
