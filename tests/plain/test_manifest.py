"""Manifests: what is written is read, and nothing else is."""

from __future__ import annotations

import json

import pytest

from mmapstore.plain.errors import DamagedFileError
from mmapstore.plain.manifest import ArrayManifest, Manifest

FRAMES = ArrayManifest(
    file="frames.npy",
    key="",
    shape=(10, 3, 4),
    dtype="<f4",
    layout="NHW",
    episodes=(0, 4, 10),
    block_samples=8,
    checksums=("00ff00ff", "12345678"),
    statistics={"mean": [0.1 + 0.2]},
    source="runs/*.npy",
)


def changed(**values) -> str:
    found = json.loads(Manifest({"image": FRAMES}).to_json())
    found.update(values)
    return json.dumps(found)


def changed_field(**values) -> str:
    found = json.loads(Manifest({"image": FRAMES}).to_json())
    found["fields"]["image"].update(values)
    return json.dumps(found)


def test_round_trip():
    manifest = Manifest({"image": FRAMES, "b": FRAMES}, written_by="mmapstore 1")
    assert Manifest.from_json(manifest.to_json(), "m.json") == manifest
    assert list(json.loads(manifest.to_json()))[:2] == ["mmapstore", "complete"]


def test_fields_added_later_are_ignored():
    assert Manifest.from_json(changed(added_later=1), "m.json").fields == {"image": FRAMES}
    assert Manifest.from_json(changed_field(added_later=1), "m.json").fields == {"image": FRAMES}


def test_a_version_from_the_future():
    with pytest.raises(DamagedFileError, match=r"^m.json is a manifest of version 2; this mmapstore reads version 1"):
        Manifest.from_json(changed(mmapstore=2), "m.json")


@pytest.mark.parametrize("complete", [False, None, "yes", 1])
def test_incomplete_data(complete):
    with pytest.raises(DamagedFileError, match=r"^m.json says that its data is not complete. Run the same ingest again"):
        Manifest.from_json(changed(complete=complete), "m.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        '{"mmapstore": 1}',
        '{"mmapstore": 1, "complete": true, "fields": []}',
        '{"mmapstore": 1, "complete": true, "fields": {"a": 5}}',
        "[" * 100_000,
        changed_field(episodes=[]),
        changed_field(episodes=[0]),
        changed_field(episodes=[1, 10]),
        changed_field(episodes=[0, 5, 5, 10]),
        changed_field(episodes=[0, 6, 5, 10]),
        changed_field(episodes=None),
        changed_field(shape="wide"),
        changed_field(block_samples="x"),
    ],
)
def test_damaged_text(text):
    with pytest.raises(DamagedFileError, match=r"^m.json is not a manifest of mmapstore \(\w+: .*Delete it"):
        Manifest.from_json(text, "m.json")
