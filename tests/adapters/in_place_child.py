"""What models that compute in place are given and leave behind: `python in_place_child.py FOLDER` prints a line for each case.

A process of its own: where TensorFlow takes the memory of a mapped file for its own, the system ends it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf

import mmapstore as mm

SAMPLES, SHAPE = 4096, (8, 16)  # 512 bytes each: every one begins at a multiple of 64


class Doubling(keras.Model):
    """Sums up 2 x + 1 and 2 y + 1; TensorFlow computes both in place where it thinks that nobody else looks."""

    def __init__(self):
        super().__init__()
        self.sum = self.add_weight(shape=(), dtype="float64", initializer="zeros", trainable=False, name="sum")

    def train_step(self, data):
        for one in data:
            self.sum.assign_add(tf.reduce_sum(tf.cast(tf.cast(one, tf.float32) * 2.0 + 1.0, tf.float64)))
        return {"sum": tf.identity(self.sum)}


def summed(feed) -> float:
    model = Doubling()
    model.compile(loss=None)
    model.built = True
    model.fit(feed, epochs=2, shuffle=False, verbose=0)
    return float(model.sum.numpy()) / 2


def main(folder: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 100, (SAMPLES, *SHAPE)).astype("f4")
    labels = np.arange(SAMPLES, dtype="f4")
    np.save(folder / "x.npy", frames)
    np.save(folder / "labels.npy", labels)
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("x", data=frames, chunks=(256, *SHAPE), compression="gzip")
        file.create_dataset("plain", data=frames)
    live = frames.copy()
    sources = {
        "mapped": mm.open(folder / "x.npy"),
        "contiguous HDF5": mm.open(folder / "x.h5", key="plain"),
        "in RAM": mm.open(live),
        "decoded": mm.open(folder / "x.h5", key="x"),
        "cached": mm.open(folder / "x.h5", key="x").cache(folder / "cache"),
        "episodes": mm.open(folder / "x.npy", episodes=[0, 1000, SAMPLES]),
        "read in place": mm.open(folder / "x.npy", mapped=False),
    }
    plans = {"next": {"target": mm.NextFrame()}, "windows": {"target": mm.Window(history=1)}}
    for source, ds in sources.items():
        for plan, wishes in plans.items():
            for shuffle in (False, True):
                for size in (16, 512):
                    b = ds.batches(size, shuffle=shuffle, **wishes)
                    expected = 0.0
                    for x, y in b:
                        expected += sum(float((one.astype("f8") * 2 + 1).sum()) for one in (x, y))
                    found = {"to_tf": summed(b.to_tf()), "to_keras": summed(b.to_keras())}
                    whole = all(np.array_equal(now, frames) for now in (np.load(folder / "x.npy"), live, ds[:]))
                    case = f"{source}, {plan}, {'shuffled' if shuffle else 'in order'}, batches of {size}"
                    print(json.dumps({"case": case, "expected": expected, "found": found, "whole": whole}), flush=True)
    fields = mm.open({"x": folder / "x.npy", "y": folder / "labels.npy"})
    expected = float((frames.astype("f8") * 2 + 1).sum() + (labels.astype("f8") * 2 + 1).sum())
    b = fields.batches(32, target="y")
    found = {"to_tf": summed(b.to_tf()), "to_keras": summed(b.to_keras())}
    whole = np.array_equal(np.load(folder / "x.npy"), frames) and np.array_equal(np.load(folder / "labels.npy"), labels)
    print(json.dumps({"case": "two fields", "expected": expected, "found": found, "whole": whole}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
