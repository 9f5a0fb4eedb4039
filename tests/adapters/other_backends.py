"""Run as a program, with KERAS_BACKEND set: real `fit`, `evaluate` and `predict`; says "all right" or fails."""

import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("error", message=".*(not writ|read-only|ran out of data|super).*")

import keras  # noqa: E402
import numpy as np  # noqa: E402
from fake_batches import FakeBatches  # noqa: E402

import mmapstore as mm  # noqa: E402
from mmapstore.adapters.keras_sequence import Sequence  # noqa: E402

backend = keras.backend.backend()


def model_of(built):
    model = keras.Sequential([keras.Input((3,))] * built + [keras.layers.Dense(3)])
    model.compile(optimizer="sgd", loss="mse", metrics=["mae"], run_eagerly=backend != "jax")
    return model


def end_with(reads, passes, batches):
    """The last passes are these, in order; whatever was asked before, to learn shapes or build a model, comes before."""
    expected = [(e, i) for e in passes for i in range(batches)]
    assert reads[-len(expected) :] == expected, (reads, expected)
    assert {place[0] for place in reads[: -len(expected)]} <= {passes[0]}, reads
    reads.clear()


for samples in (3, 7, 21):
    for built in (False, True):
        seq = Sequence(FakeBatches(samples))
        n = len(seq)
        model = model_of(built)
        model.fit(seq, epochs=3, verbose=0, shuffle=False)
        end_with(seq.batches.reads, (0, 1, 2), n)
        assert seq.batches.state_dict() == seq.batches.state_at(3, 0), (samples, built, seq.batches.state_dict())
        model.evaluate(seq, verbose=0)
        end_with(seq.batches.reads, (3,), n)
        assert model.predict(seq, verbose=0).shape == (samples, 3)
        end_with(seq.batches.reads, (4,), n)
        model.fit(seq, verbose=0, shuffle=False)
        end_with(seq.batches.reads, (4,), n)
        assert seq.batches.state_dict() == seq.batches.state_at(5, 0), (samples, built, seq.batches.state_dict())

for built in (False, True):
    seq = Sequence(FakeBatches(24, position=(2, 2)))
    model_of(built).fit(seq, epochs=3, verbose=0, shuffle=False)
    rest, whole = [(2, i) for i in range(2, 6)], [(e, i) for e in (3, 4) for i in range(6)]
    assert seq.batches.reads[-16:] == [*rest, *whole], "the first epoch is short"
    assert seq.batches.cursor.next == (5, 0)

seq = Sequence(FakeBatches(24))
model_of(True).fit(seq, epochs=6, steps_per_epoch=2, verbose=0, shuffle=False)
end_with(seq.batches.reads, (0, 1), 6)


class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == 2


seq = Sequence(FakeBatches(24))
model_of(True).fit(seq, verbose=0, shuffle=False, callbacks=[Stop()])
model_of(True).fit(seq, epochs=2, verbose=0, shuffle=False)
end_with(seq.batches.reads, (0, 1), 6)

for array in seq[0]:
    assert isinstance(array, np.ndarray)
    assert array.flags.writeable or backend != "torch"
    assert array.ctypes.data % 64 == 0 or backend == "torch"

(x,) = Sequence(FakeBatches(9, target=False))[0]
(pair,) = Sequence(FakeBatches(9, target=False, inputs=2))[0]
assert isinstance(pair, tuple) and len(pair) == 2 and x.shape == (4, 3)
if backend == "torch":
    import torch

    assert all(part.flags.writeable for part in pair)
    assert torch.as_tensor(x).data_ptr() == x.ctypes.data
# Nests, weights and text, from real files; several transforms at a time.
data = mm.open({"x": np.random.default_rng(0).random((22, 3), "f4"), "t": np.array([b"a cat", b"dog"] * 11), "w": np.ones(22)})


def augmented(x, y, w, *, rng):
    lengths = np.char.str_len(x["text"]).astype("f4")[:, None]
    return {"text": lengths, "image": x["image"] + rng.random(x["image"].shape, "f4")}, [y, y], [w, w]


asked = {"inputs": {"image": "x", "text": "t"}, "target": "x", "sample_weight": "w"}
made = data.batches(5, **asked, transform=augmented, transform_workers=3)
ins = {"image": keras.Input((3,), name="image"), "text": keras.Input((1,), name="text")}
joined = keras.layers.Concatenate()(list(ins.values()))
model = keras.Model(ins, [keras.layers.Dense(3)(joined), keras.layers.Dense(3)(joined)])
model.compile(optimizer="sgd", loss=["mse", "mse"], run_eagerly=backend != "jax")
model.fit(made.to_keras(), epochs=2, verbose=0, shuffle=False)
for number, batch in enumerate(data.batches(5, **asked, transform=augmented).to_keras()):
    expected = data.batches(5, **asked, transform=augmented)[number]
    for found, wanted in zip(keras.tree.flatten(batch), keras.tree.flatten(expected), strict=True):
        np.testing.assert_array_equal(found, wanted, strict=True)
try:
    data.batches(5, inputs=["x", "t"]).to_keras()[2]
except mm.MmapstoreError as error:
    assert f"holds text, and {backend} has no tensors of text. Make numbers of it in transform=" in str(error), error
    assert "batch 2 of epoch 0" in str(error)
else:
    assert backend == "tensorflow"


class Noisy(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.noise = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        return x + self.noise


class Losses(keras.callbacks.Callback):
    found = ()

    def on_train_batch_end(self, batch, logs=None):
        self.found = (*self.found, float(logs["loss"]))


# A control file sets variables of a step that is compiled by default; the loss is a mean over the batches so far.
with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "control.json").write_text('{"learning_rate": 0, "noise": 2}')
    layer, losses = Noisy(), Losses()
    model = keras.Sequential([keras.Input((3,)), layer, keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    model.compile(optimizer="sgd", loss="mae")
    control = mm.ControlFile(f"{folder}/control.json", attributes={"noise": layer})
    model.fit(np.zeros((3, 3)), np.zeros(3), batch_size=1, verbose=0, callbacks=[control, losses])
    assert losses.found == (0, 3, 4), losses.found
print(f"{backend}: all right")
