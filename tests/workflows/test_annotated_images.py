"""A tree as of ImageNet DET, photographs and annotations apart, to `.npy` with labels, and Keras trained on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

import mmapstore as mm
from mmapstore.cli import main

CATEGORIES = ["cat", "cup", "helmet", "motorcycle", "person", "rocket", "spoon", "wheel"]
BACKGROUND = len(CATEGORIES)
PACKAGED = Path(skimage.data.__file__).parent
# File of scikit-image: the objects on it, (ymin, xmin, ymax, xmax) in parts of the picture, in no order of size.
OBJECTS = {
    "astronaut.png": [("helmet", (0.6, 0.75, 0.9, 1.0)), ("person", (0.0, 0.1, 1.0, 0.9))],
    "chelsea.png": [("cat", (0.0, 0.1, 1.0, 0.95))],
    "coffee.png": [("spoon", (0.55, 0.7, 0.65, 0.95)), ("cup", (0.1, 0.15, 0.85, 0.75))],
    "rocket.jpg": [("rocket", (0.05, 0.45, 0.8, 0.55))],
    "motorcycle_left.png": [
        ("wheel", (0.45, 0.05, 0.9, 0.35)),
        ("motorcycle", (0.15, 0.05, 0.9, 0.95)),
        ("wheel", (0.45, 0.65, 0.9, 0.95)),
    ],
    "hubble_deep_field.jpg": [],  # far from everything: background
}
LARGEST = {"astronaut": "person", "chelsea": "cat", "coffee": "cup", "rocket": "rocket", "motorcycle_left": "motorcycle"}
SUBSETS = {
    "train": ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg"],
    "val": ["rocket.jpg", "coffee.png"],
    "test": ["hubble_deep_field.jpg", "chelsea.png"],
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Data/DET and Annotations/DET below the working directory; in train, one image and one annotation lack the other."""
    monkeypatch.chdir(tmp_path)
    for subset, photographs in SUBSETS.items():
        images, annotations = Path("Data/DET", subset), Path("Annotations/DET", subset)
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for photograph in photographs:
            with Image.open(PACKAGED / photograph) as image:
                image.convert("RGB").save(images / f"{Path(photograph).stem}.JPEG", quality=92)
                annotation = annotation_of(photograph, Path(photograph).stem, image.width, image.height)
            (annotations / f"{Path(photograph).stem}.xml").write_text(annotation)
    Image.new("RGB", (80, 60)).save("Data/DET/train/not_annotated.JPEG")
    Path("Annotations/DET/train/no_image.xml").write_text(annotation_of("chelsea.png", "no_image", 80, 60))
    Path("categories.txt").write_text("\n".join(CATEGORIES))
    return tmp_path


def annotation_of(photograph: str, name: str, width: int, height: int) -> str:
    objects = "".join(
        f"<object><name>{category}</name><bndbox><xmin>{int(xmin * width)}</xmin><ymin>{int(ymin * height)}</ymin>"
        f"<xmax>{int(xmax * width)}</xmax><ymax>{int(ymax * height)}</ymax></bndbox></object>"
        for category, (ymin, xmin, ymax, xmax) in OBJECTS[photograph]
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><folder>DET</folder><filename>{name}</filename>{size}{objects}</annotation>"


def source(subset: str, **more) -> mm.AnnotatedImages:
    return mm.AnnotatedImages(
        f"Data/DET/{subset}", f"Annotations/DET/{subset}", categories=CATEGORIES, size=(64, 64), fit="stretch", **more
    )


def test_labels_are_those_of_the_largest_objects(tree):
    mm.ingest(source("train", unmatched="skip"), "train")

    images, labels, boxes = (np.load(f"train/{name}.npy") for name in ("image", "label", "box"))
    names = [Path(path.decode()).stem for path in np.load("train/source.npy")]
    assert sorted(names) == sorted(Path(photograph).stem for photograph in SUBSETS["train"])
    assert [[*CATEGORIES, "background"][label] for label in labels] == [LARGEST.get(name, "background") for name in names]
    assert images.shape == (6, 3, 64, 64) and images.dtype == np.uint8
    for name, image, box in zip(names, images, boxes, strict=True):
        with Image.open(f"Data/DET/train/{name}.JPEG") as photograph:
            expected = np.asarray(photograph.resize((64, 64), Image.Resampling.BILINEAR), np.float32).transpose(2, 0, 1)
        assert np.abs(image - expected).mean() < 3  # JPEG may be decoded smaller, not pixel for pixel the same
        if name in LARGEST:
            within = dict(next(objects for file, objects in OBJECTS.items() if Path(file).stem == name))[LARGEST[name]]
            np.testing.assert_allclose(box / 64, within, atol=0.01)
        else:
            assert np.isnan(box).all()


def test_what_lacks_its_partner_is_an_error_or_listed(tree):
    with pytest.raises(mm.MmapstoreError, match=r"1 of 7 annotations have no image .* the first is .*no_image\.xml.*unmatched="):
        mm.ingest(source("train"), "train")
    with pytest.raises(mm.MmapstoreError, match=r"1 of 7 images have no annotation .*not_annotated\.JPEG.*unmatched="):
        mm.ingest(source("train", unmatched="skip-annotations"), "train")
    assert not Path("train").exists()

    mm.ingest(source("train", unmatched="skip"), "train")
    notes = json.loads(Path("train/mmapstore.json").read_text())["fields"]["label"]["notes"]
    assert sorted(Path(name).name for name in notes["skipped"]) == ["no_image.xml", "not_annotated.JPEG"]
    assert notes["classes"] == [*CATEGORIES, "background"]


def test_the_command_writes_the_same(tree):
    mm.ingest(source("train", unmatched="skip"), "by_python")
    options = ["--categories", "categories.txt", "--size", "64x64", "--fit", "stretch", "--unmatched", "skip", "--json"]
    assert main(["ingest", "Data/DET/train", "by_command", "--annotations", "Annotations/DET/train", *options]) == 0
    for name in ("image", "label", "box"):
        assert Path(f"by_command/{name}.npy").read_bytes() == Path(f"by_python/{name}.npy").read_bytes()
    assert main(["verify", "by_python", "by_command"]) == 0


TRAIN = """
import keras
import mmapstore as mm

train, val, test = mm.open("train"), mm.open("val"), mm.open("test")
feed = dict(inputs="image", target="label", max_memory="64MB")
model = keras.Sequential(
    [
        keras.Input((3, 64, 64)),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Permute((2, 3, 1)),
        keras.layers.Conv2D(8, 3, strides=4, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(9, activation="softmax"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy")
batches = train.batches(3, shuffle=True, **feed)
fitted = model.fit(batches.to_keras(), validation_data=val.batches(2, **feed).to_keras(), shuffle=False, verbose=0)
predicted = model.predict(test.batches(2, inputs="image").to_keras(), verbose=0)
print(len(batches), *fitted.history["loss"], *fitted.history["val_loss"], *predicted.sum(axis=1))
"""


@pytest.mark.slow
def test_two_steps_of_keras(tree):
    for subset in SUBSETS:
        mm.ingest(source(subset, unmatched="skip"), subset)
    assert [len(mm.open(subset)) for subset in SUBSETS] == [6, 2, 2]
    assert mm.open("test")["label"][:].tolist() == [CATEGORIES.index("cat"), BACKGROUND]

    done = subprocess.run([sys.executable, "-W", "error", "-c", TRAIN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    steps, loss, validation_loss, *certain = map(float, done.stdout.split())
    assert steps == 2 and 0 < loss < 100 and 0 < validation_loss < 100
    np.testing.assert_allclose(certain, [1, 1], rtol=1e-5)
