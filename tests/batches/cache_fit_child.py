"""Run in a child process, because TensorFlow holds on to files until it ends: the same training with a cache and without.

Arguments: path of the archive, directory for caches, path of the expected samples. Prints JSON.
"""

from __future__ import annotations

import json
import sys

import keras
import numpy as np

import mmapstore as mm


def fit(ds: mm.Dataset) -> list[float]:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((3, 4, 5)), keras.layers.Flatten(), keras.layers.Dense(60), keras.layers.Reshape((3, 4, 5))]
    )
    model.compile("sgd", "mse")
    batches = ds.batches(8, target=mm.NextFrame(), shuffle=20)
    return model.fit(batches.to_keras(), epochs=3, shuffle=False, verbose=0).history["loss"]


def passes(ds: mm.Dataset, shuffle: bool | int) -> list[str]:
    data = ds.batches(8, shuffle=shuffle).to_tf()
    return [x.numpy().tobytes().hex() for _ in range(3) for (x,) in data]


def main() -> None:
    archive, directory, expected = mm.open(sys.argv[1]), sys.argv[2], mm.open(np.load(sys.argv[3]))
    found = {"fit": fit(archive.cache(f"{directory}/fit")) == fit(expected)}
    for shuffle in (False, 20):
        found[f"to_tf {shuffle}"] = passes(archive.cache(f"{directory}/{shuffle}"), shuffle) == passes(expected, shuffle)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
