"""A folder of pickled megabatches, each a dict of images, labels and texts, to one store, and Keras trained on all three."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from skimage.transform import resize

import mmapstore as mm
from mmapstore.cli import main

SENTENCES = {"cat": "a cat looks at you", "cup": "coffee, black", "rocket": "Ariane über Kourou"}
SIZES = [5, 4, 7]  # samples in each file


@pytest.fixture
def megabatches(tmp_path, monkeypatch):
    """batches/0.pkl ... below the working directory; returns what is in them, joined."""
    monkeypatch.chdir(tmp_path)
    Path("batches").mkdir()
    photographs = {"cat": skimage.data.chelsea(), "cup": skimage.data.coffee(), "rocket": skimage.data.rocket()}
    small = {name: (255 * resize(image, (20, 24))).astype(np.uint8) for name, image in photographs.items()}
    random, all_of_them = np.random.default_rng(0), []
    for number, samples in enumerate(SIZES):
        names = random.choice(list(small), samples).tolist()
        brightness = random.uniform(0.5, 1, (samples, 1, 1, 1))
        images = (np.stack([small[name] for name in names]) * brightness).astype(np.uint8)
        batch = {"images": images, "labels": names, "texts": [f"{SENTENCES[name]} ({number})" for name in names]}
        Path(f"batches/{number}.pkl").write_bytes(pickle.dumps(batch))
        all_of_them.append(batch)
    return {
        "images": np.concatenate([batch["images"] for batch in all_of_them]),
        "labels": [name for batch in all_of_them for name in batch["labels"]],
        "texts": [text for batch in all_of_them for text in batch["texts"]],
    }


def test_pickles_are_refused_until_allowed(megabatches, capsys):
    assert main(["ingest", "batches", "store"]) == 1
    assert "0.pkl is a pickle, and loading a pickle runs whatever code its author put into it" in capsys.readouterr().err
    for refused in (lambda: mm.ingest("batches", "store"), lambda: mm.ingest(mm.Megabatches("batches"), "store")):
        with pytest.raises(mm.MmapstoreError, match=r"pass allow_pickle=True to mmapstore\.Megabatches \(--allow-pickle\)"):
            refused()
    assert not Path("store").exists()


@pytest.mark.parametrize("by", ["python", "command"])
def test_every_value_arrives(megabatches, by):
    if by == "python":
        mm.ingest(mm.Megabatches("batches", allow_pickle=True, layout={"images": "NHWC"}, classes=["labels"]), "store")
    else:
        assert main(["ingest", "batches/*.pkl", "store", "--allow-pickle", "--source-layout", "NHWC", "--classes", "labels"]) == 0

    ds = mm.open("store")
    np.testing.assert_array_equal(ds["images"][:], megabatches["images"].transpose(0, 3, 1, 2))
    fields = json.loads(Path("store/mmapstore.json").read_text())["fields"]
    classes = fields["labels"]["notes"]["classes"]
    assert [classes[number] for number in ds["labels"][:]] == megabatches["labels"]
    assert [bytes(row).rstrip(b"\0").decode() for row in ds["texts"][:]] == megabatches["texts"]
    assert ds["texts"].shape[1] == max(len(text.encode()) for text in megabatches["texts"])
    assert ds.episodes.tolist() == [0, *np.cumsum(SIZES)]
    assert main(["verify", "store"]) == 0


TRAIN = """
import keras
import mmapstore as mm

ds = mm.open("store")
image, text = keras.Input((3, 20, 24)), keras.Input((ds["texts"].shape[1],), dtype="uint8")
seen = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
read = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(256, 4)(text))
model = keras.Model([image, text], keras.layers.Dense(3, activation="softmax")(keras.layers.Concatenate()([seen, read])))
model.compile("adam", "sparse_categorical_crossentropy")
batches = ds.batches(8, inputs=("images", "texts"), target="labels", shuffle=True)
fitted = model.fit(batches.to_keras(), epochs=2, shuffle=False, verbose=0)
print(len(batches), *fitted.history["loss"])
"""


@pytest.mark.slow
def test_two_steps_of_keras_on_images_and_texts(megabatches):
    mm.ingest(mm.Megabatches("batches", allow_pickle=True, layout={"images": "NHWC"}, classes=["labels"]), "store")
    done = subprocess.run([sys.executable, "-W", "error", "-c", TRAIN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    steps, *losses = map(float, done.stdout.split())
    assert steps == 2 and len(losses) == 2 and all(0 < loss < 100 for loss in losses)
