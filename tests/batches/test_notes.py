"""What a manifest notes of a field: names of classes, and an order that was mixed."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mmapstore as mm
from mmapstore.plain.errors import InvalidValueError, NoClassNamesError

MIXED = [{"samples": 6, "order": "mixed", "seed": 0}]


@pytest.fixture
def store(tmp_path):
    """Write a directory of fields with the notes given, and return its path."""

    def write(name="store", samples=6, **notes):
        path = tmp_path / name
        fields = {
            "image": np.arange(4 * samples, dtype=np.uint8).reshape(samples, 4),
            "label": np.arange(samples) % 2,
            "kind": np.array([b"emu", b"ape"] * samples)[:samples],
        }
        mm.ingest(fields, path, progress=False)
        manifest = json.loads((path / "mmapstore.json").read_text())
        for field, note in notes.items():
            manifest["fields"][field]["notes"] = note
        (path / "mmapstore.json").write_text(json.dumps(manifest))
        return path

    return write


def test_class_names_go_with_parts_fields_and_caches(store, tmp_path):
    ds = mm.open(store(label={"classes": ["cat", "dog"]}))
    for each in (ds, ds.split(0.5, 0.5)[1], ds["label"], ds.split(3)[0]["label"], ds.cache(tmp_path / "cache")):
        assert each.class_names == ["cat", "dog"]
    assert ds.cache(tmp_path / "cache", transform={"image": lambda x: x + 1}, version=1).class_names == ["cat", "dog"]
    other = ds.cache(tmp_path / "cache", transform={"label": lambda x: 1 - x}, version=1)
    with pytest.raises(NoClassNamesError):
        assert other.class_names
    picked = mm.open({"x": ds["image"], "y": ds["label"]})
    assert picked.class_names == ["cat", "dog"]
    ds.class_names.append("emu")
    assert ds.class_names == ["cat", "dog"]


def test_without_class_names(store):
    ds = mm.open(store())
    assert not hasattr(ds, "class_names")
    with pytest.raises(NoClassNamesError, match=r"'image', 'label', 'kind'. The manifest of a store has them if mmapstore\.ingest"):
        assert ds.class_names


def test_text_names_its_classes_by_itself(store):
    """In a part too, whatever classes it has: a model has an output for each class of all data."""
    ds = mm.open(store())
    assert ds["kind"].class_names == ["ape", "emu"]
    assert ds.split(1, 5)[0]["kind"].class_names == ["ape", "emu"]
    assert mm.open({"x": ds["image"], "label": ds["kind"]}).class_names == ["ape", "emu"]


def test_fields_with_different_class_names(store):
    ds = mm.open(store(label={"classes": ["cat", "dog"]}, image={"classes": ["a"]}))
    with pytest.raises(NoClassNamesError, match=r"Ask one of them: ds\['image'\]\.class_names"):
        assert ds.class_names
    assert ds["label"].class_names == ["cat", "dog"]


@pytest.mark.parametrize(
    "notes", [{"classes": "cat"}, {"classes": [1]}, {"order": "mixed"}, {"order": [3]}, {"order": {}}, {}, None]
)
def test_notes_of_another_form_are_passed_over(store, notes):
    ds = mm.open(store(label=notes))
    assert not ds.notes
    assert not ds.mixed


def test_files_are_joined_if_they_number_classes_alike(store):
    notes = {"classes": ["cat", "dog"]}, {"classes": ["cat", "dog"], "order": MIXED}, {"classes": ["dog", "emu"]}
    paths = [f"{store(f's{number}', label=note)}::/label" for number, note in enumerate(notes)]
    joined = mm.open({"label": paths[:2]})
    assert joined.class_names == ["cat", "dog"]
    assert joined.mixed
    assert not mm.open(paths[:1]).mixed
    with pytest.raises(InvalidValueError, match=r"s2::/label has the classes 'dog', 'emu', but .*s0::/label 'cat', 'dog'"):
        mm.open(paths)


def test_windows_of_mixed_samples_are_an_error(store, tmp_path):
    ds = mm.open(store(image={"order": MIXED}))
    assert "6 samples in mixed order" in repr(ds)
    for part in (ds, ds.split(0.5, 0.5)[0], ds["image"], ds.cache(tmp_path / "cache", transform={"image": lambda x: x}, version=1)):
        for target in (mm.NextFrame(), mm.Window(history=2, horizon=None, lead=0)):
            with pytest.raises(InvalidValueError, match=r"order='sorted'\) \(--order sorted\), or episodes='folder'"):
                part.batches(2, target=target)
        assert len(list(part.batches(2, target="image"))) == -(-len(part) // 2)
    assert len(list(ds.batches(2, target="label", shuffle=True))) == 3
    assert len(list(ds["label"].batches(2, target=mm.NextFrame()))) == 3  # the field says nothing of an order
