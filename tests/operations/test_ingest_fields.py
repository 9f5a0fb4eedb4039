"""Several fields in one pass: into a directory, one HDF5 file or one Zarr group; from dicts, datasets and sources of one's own."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from ingest_child import child, data
from ingest_results import fields_of, frames, manifest_of, recorded_samples

from mmapstore.batches.opening import open_dataset
from mmapstore.operations.flow import journal
from mmapstore.operations.ingest import field_write, ingest, plan
from mmapstore.operations.ingest.contract import ONLY, Piece, Position
from mmapstore.plain import chunk_grid, digest_leaves
from mmapstore.plain.array_spec import ArraySpec
from mmapstore.plain.content_digest import content_sha256
from mmapstore.plain.errors import (
    DamagedFileError,
    InvalidValueError,
    KeyNotFoundError,
    MemoryBudgetError,
    StateMismatchError,
    TargetExistsError,
)
from mmapstore.plain.manifest import DIRECTORY_MANIFEST, SUFFIX, leaves_path

CONTAINERS = ["x.h5", "x.h5::/deep/group", "x.zarr", "x.zarr::/deep/group", "store"]
Array = np.ndarray[Any, Any]


@pytest.fixture
def stepwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(plan, "BLOCK_NBYTES", 200_000)
    monkeypatch.setattr(chunk_grid, "USUAL_CHUNK_NBYTES", 60_000)


class Items:
    """A source of two fields, `image` and `label`, that leaves broken items out; it stops with an error before item `fails`."""

    gives_from_any_sample = True
    samples: int | None = None
    guess = 0
    name = "items"
    paths: Sequence[str] = ()

    def __init__(self, images: Array, broken: Sequence[int] = (), fails: int | None = None, at_once: int = 1) -> None:
        self.images, self.broken, self.fails, self.at_once = images, set(broken), fails, at_once
        self.labels = np.arange(len(images), dtype=np.int32)
        self.specs = {
            "image": ArraySpec((0, *images.shape[1:]), images.dtype, "NHWC"),
            "label": ArraySpec((0,), self.labels.dtype, "N"),
        }
        self.fingerprint = {"kind": "items", "items": len(images), "broken": sorted(broken)}
        self.notes = {"label": {"classes": ["cat", "dog"]}}
        self.began_at: list[Position] = []

    def pieces(self, after: Position, at_most: int) -> Iterator[Piece]:
        self.began_at.append(after)
        skipped: list[str] = []
        for number in range(after.samples + len(after.skipped), len(self.images)):
            if number == self.fails:
                raise RuntimeError("stopped")
            if number in self.broken:
                skipped.append(f"item {number}")
                continue
            one = slice(number, number + 1)
            yield Piece({"image": self.images[one], "label": self.labels[one]}, (0,) if number % 50 == 0 else (), skipped)
            skipped = []
        yield Piece({"image": self.images[:0], "label": self.labels[:0]}, (), skipped)

    def memory(self, at_most: int) -> Mapping[str, int]:
        return {"an item": self.images[0].nbytes}


# --- targets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("out", CONTAINERS)
def test_fields_into_every_container(tmp_path: Path, out: str, compression: str | None) -> None:
    images, labels = frames(300), np.arange(300, dtype=np.int64)
    if out == "store":
        compression = None
    path = ingest({"image": images, "label": labels}, tmp_path / out, source_layout={"image": "NHWC"}, compression=compression)
    assert path == f"{tmp_path}/{out}"
    found = fields_of(path, ["image", "label"])
    np.testing.assert_array_equal(found["image"], images.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(found["label"], labels)
    for spelling in {path, path.partition("::")[0]}:
        dataset = open_dataset(spelling)
        assert list(dataset.fields) == ["image", "label"] and dataset.layout == "NCHW"
        np.testing.assert_array_equal(dataset["label"][5:9], labels[5:9])
    one = open_dataset(f"{path}/label" if "::" in path else f"{path}::/label")
    np.testing.assert_array_equal(one[:], labels)
    file = out.partition("::")[0]
    assert sorted(os.listdir(tmp_path)) == ([file] if out == "store" else [file, file + SUFFIX])


@pytest.mark.parametrize("out", CONTAINERS)
def test_what_was_written_is_a_source_again(tmp_path: Path, out: str) -> None:
    path = ingest({"image": frames(30), "label": np.arange(30)}, tmp_path / out, layout=None)
    again = ingest(path, tmp_path / "again")
    np.testing.assert_array_equal(np.load(tmp_path / "again" / "label.npy"), np.arange(30))
    assert list(open_dataset(again).fields) == ["image", "label"]


def test_bytes_fields(tmp_path: Path) -> None:
    texts = np.array([b"a cat", b"", b"two dogs"])
    for out in ("store", "x.h5"):
        path = ingest({"text": texts, "label": np.arange(3)}, tmp_path / out)
        np.testing.assert_array_equal(fields_of(path, ["text"])["text"], texts)
        assert manifest_of(path, "text").statistics is None
        assert manifest_of(path, "text").sha256 == content_sha256(texts)


def test_options_by_field(tmp_path: Path) -> None:
    path = ingest(
        {"image": frames(100), "label": np.arange(100)},
        tmp_path / "x.h5",
        layout={"image": None},
        dtype={"label": "u1"},
        compression={"image": "gzip"},
        chunk_samples={"image": 10},
    )
    with h5py.File(path) as file:
        assert file["image"].chunks == (10, 6, 5, 3) and file["image"].compression == "gzip"
        assert file["label"].chunks is None and file["label"].dtype == np.uint8
    with pytest.raises(InvalidValueError, match=r"compression= is given for \['depth'\], but the fields are \['image'\]"):
        ingest({"image": frames(3)}, tmp_path / "y.h5", compression={"depth": "gzip"})
    with pytest.raises(InvalidValueError, match=r"given for \['image'\], but the fields are not named: there is one array"):
        ingest(frames(3), tmp_path / "y.h5", compression={"image": "gzip"})


def test_a_block_holds_whole_chunks_of_each_field(tmp_path: Path) -> None:
    images = np.zeros((500, 3, 64, 64), np.uint8)
    path = ingest({"image": images, "label": np.arange(500)}, tmp_path / "x.zarr", compression="zstd", max_memory="64MB")
    blocks = manifest_of(path, "image").block_samples
    group = zarr.open_group(path, mode="r")
    for name in ("image", "label"):
        assert manifest_of(path, name).block_samples == blocks
        assert blocks % group[name].chunks[0] == 0 or blocks >= 500
    with pytest.raises(MemoryBudgetError, match="fewer samples in a chunk"):
        ingest({"image": images, "label": np.arange(500)}, tmp_path / "y.zarr", chunk_samples={"label": 65536}, max_memory="64MB")


def test_several_fields_need_a_place_for_several(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"into one \.h5 or \.zarr; .*x\.npy names a single array"):
        ingest(Items(frames(4)), tmp_path / "x.npy")
    with pytest.raises(InvalidValueError, match=r"has a place inside; a directory of \.npy files has none"):
        ingest(Items(frames(4)), tmp_path / "store::/a")
    with pytest.raises(InvalidValueError, match=r"source_layout='NHWC' is for arrays; items knows the axes"):
        ingest(Items(frames(4)), tmp_path / "store", source_layout="NHWC")


def test_overwriting_a_container_takes_what_was_written_together(tmp_path: Path) -> None:
    target = tmp_path / "x.h5"
    ingest({"image": frames(5), "label": np.arange(5)}, target)
    ingest({"image": frames(6)}, target, overwrite=True)
    with h5py.File(target, "a") as file:
        assert list(file) == ["image"]
        file["mine"] = np.arange(3)
    with pytest.raises(TargetExistsError, match="holds more than would be replaced: mine"):
        ingest({"image": frames(5), "label": np.arange(5)}, target, overwrite=True)
    with h5py.File(target) as file:
        assert sorted(file) == ["image", "mine"]


# --- opening ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["x.h5", "x.zarr"])
def test_the_manifest_decides_for_what_it_names_alone(tmp_path: Path, out: str) -> None:
    path = ingest(frames(8), tmp_path / out if out == "x.h5" else f"{tmp_path}/x.zarr::/data", layout=None)
    path = path.partition("::")[0]
    if out == "x.h5":
        with h5py.File(path, "a") as file:
            file["later"] = np.arange(4)
    else:
        zarr.create_array(path, name="later", data=np.arange(4))
    np.testing.assert_array_equal(open_dataset(path)[:], frames(8))
    np.testing.assert_array_equal(open_dataset(f"{path}::/later")[:], np.arange(4))
    assert list(open_dataset(path).fields) == ["data"]


def test_a_container_that_lacks_what_its_manifest_names(tmp_path: Path) -> None:
    path = ingest({"image": frames(5), "label": np.arange(5)}, tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        del file["label"]
    with pytest.raises(DamagedFileError, match=r"x\.h5\.mmapstore\.json names label, which .*x\.h5 does not hold \(any more\)"):
        open_dataset(path)
    with h5py.File(path, "w") as file:
        file["other"] = np.arange(3)
    np.testing.assert_array_equal(open_dataset(path)[:], np.arange(3))
    with pytest.raises(KeyNotFoundError):
        open_dataset(f"{path}::/label")


# --- in lockstep --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["store", "x.h5", "x.zarr"])
def test_generators_of_unequal_length_leave_nothing(tmp_path: Path, out: str, stepwise: None) -> None:
    with pytest.raises(InvalidValueError, match=r"different numbers of samples: a more than 100, b 100\..*cut them to one length"):
        ingest({"a": iter(data()), "b": (n for n in range(100))}, tmp_path / out)
    assert os.listdir(tmp_path) == []
    with pytest.raises(InvalidValueError, match=r"different numbers of samples: a 240, b 100"):
        ingest({"a": data(), "b": (n for n in range(100))}, tmp_path / out)
    assert os.listdir(tmp_path) == []
    path = ingest({"a": iter(data()), "b": (n for n in range(1000))}, tmp_path / out, samples=240)
    np.testing.assert_array_equal(fields_of(path, ["b"])["b"], np.arange(240))


def test_episodes_of_any_field_are_those_of_all(tmp_path: Path) -> None:
    path = ingest(
        {"a": np.zeros((4, 6, 2), "u1"), "b": np.zeros((2, 12, 2), "u1")},
        tmp_path / "store",
        layout=None,
        source_layout="NTC",
    )
    assert manifest_of(path, "a").episodes == manifest_of(path, "b").episodes == (0, 6, 12, 18, 24)


def test_blocks_of_other_lengths_are_cut_to_fit(tmp_path: Path) -> None:
    cuts = [data()[:7], data()[7:100], data()[100:]]
    path = ingest({"a": iter(cuts), "b": iter(range(240))}, tmp_path / "store")
    np.testing.assert_array_equal(fields_of(path, ["a"])["a"], data())


@pytest.mark.parametrize("out", ["store", "x.h5", "x.zarr"])
def test_an_interrupted_container_goes_on(tmp_path: Path, out: str, stepwise: None) -> None:
    """From sources that start anywhere, with a block damaged meanwhile; and the result is that of a straight run."""
    images = data().transpose(0, 2, 3, 1)
    first = Items(images, fails=150)
    with pytest.raises(RuntimeError, match="stopped"):
        ingest(first, tmp_path / out)
    kept = recorded_samples(f"{tmp_path}/{out}")
    assert 0 < kept < 150
    again = Items(images)
    path = ingest(again, tmp_path / out)
    assert [position.samples for position in again.began_at] == [kept]
    (tmp_path / "straight").mkdir()
    straight = ingest(Items(images), tmp_path / "straight" / out)
    for name in ("image", "label"):
        np.testing.assert_array_equal(fields_of(path, [name])[name], fields_of(straight, [name])[name])
        assert manifest_of(path, name) == manifest_of(straight, name)
    assert manifest_of(path, "label").episodes == (0, 50, 100, 150, 200, 240)
    assert manifest_of(path, "label").notes == {"classes": ["cat", "dog"]}


def test_a_damaged_block_of_one_field_is_written_again_in_all(tmp_path: Path, stepwise: None) -> None:
    images = data().transpose(0, 2, 3, 1)
    with pytest.raises(RuntimeError):
        ingest(Items(images, fails=150), tmp_path / "store")
    partial = tmp_path / "store.partial" / "label.npy.partial"
    content = bytearray(partial.read_bytes())
    content[128 + 4 * 70] ^= 255
    partial.write_bytes(content)
    again = Items(images)
    path = ingest(again, tmp_path / "store")
    assert [position.samples for position in again.began_at] == [66]  # blocks of 33 samples; what is right ends before 70
    np.testing.assert_array_equal(fields_of(path, ["label"])["label"], np.arange(240))


def test_files_opened_anew_between_blocks(tmp_path: Path, stepwise: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field_write, "_MOST_CHUNKS", 3)
    for out in ("x.h5", "x.zarr", "store"):
        path = ingest({"a": iter(data()), "b": iter(range(240))}, tmp_path / out, compression=None if out == "store" else "gzip")
        np.testing.assert_array_equal(fields_of(path, ["a"])["a"], data())
        np.testing.assert_array_equal(fields_of(path, ["b"])["b"], np.arange(240))


# --- sources of one's own -----------------------------------------------------------------------------------------------


def test_skipped_items_are_kept_in_the_manifest_and_not_skipped_twice(tmp_path: Path, stepwise: None) -> None:
    images, broken = data().transpose(0, 2, 3, 1), [0, 60, 61, 150, 239]
    with pytest.raises(RuntimeError):
        ingest(Items(images, broken, fails=200), tmp_path / "store")
    again = Items(images, broken)
    path = ingest(again, tmp_path / "store")
    assert again.began_at[0].skipped == ["item 0", "item 60", "item 61", "item 150"]
    found = manifest_of(path, "label")
    assert found.notes == {"classes": ["cat", "dog"], "skipped": [f"item {number}" for number in broken]}
    np.testing.assert_array_equal(fields_of(path, ["label"])["label"], np.delete(np.arange(240), broken))


class Depths(Items):
    """One field only, under a name of its own, or under none."""

    def __init__(self, images: Array, name: str) -> None:
        super().__init__(images)
        self.field, self.specs, self.notes = name, {name: self.specs["image"]}, {}

    def pieces(self, after: Position, at_most: int) -> Iterator[Piece]:
        for at in range(after.samples, len(self.images), at_most):
            yield Piece({self.field: self.images[at : at + at_most]}, (0,) if at == 0 else ())


def test_a_source_of_one_field(tmp_path: Path) -> None:
    for name, out, field in [
        (ONLY, "a.npy", "data"),
        ("depth", "b.npy", "data"),
        (ONLY, "a.h5", "data"),
        ("depth", "b.h5", "depth"),
        ("depth", "store", "depth"),
    ]:
        path = ingest(Depths(frames(7), name), tmp_path / out, layout=None)
        np.testing.assert_array_equal(open_dataset(path)[:], frames(7))
        assert list(open_dataset(path).fields) == [field]
        assert manifest_of(path).sha256 == content_sha256(frames(7))


def test_fields_side_by_side_refuse_items_left_out(tmp_path: Path) -> None:
    class Skipping(Depths):
        def pieces(self, after: Position, at_most: int) -> Iterator[Piece]:
            yield Piece({ONLY: self.images[:2]}, (0,))
            yield Piece({ONLY: self.images[3:]}, (), ["third.png"])

    with pytest.raises(InvalidValueError, match=r"field 'a' leaves out third\.png, .* they would belong to other samples"):
        ingest({"a": Skipping(frames(7), ONLY), "b": np.arange(6)}, tmp_path / "store", samples=6)
    assert os.listdir(tmp_path) == []


def test_another_call_over_fields_is_told_apart(tmp_path: Path, stepwise: None) -> None:
    images = data().transpose(0, 2, 3, 1)
    with pytest.raises(RuntimeError):
        ingest(Items(images, fails=150), tmp_path / "x.h5")
    with pytest.raises(StateMismatchError, match=r"dtype of label '<i4', now '<i8'"):
        ingest(Items(images), tmp_path / "x.h5", dtype={"label": "i8"})
    with pytest.raises(StateMismatchError, match=r"fields \['image', 'label'\], now \['a'\]"):
        ingest({"a": images}, tmp_path / "x.h5", source_layout={"a": "NHWC"})


# --- what the manifest says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["x.npy", "x.h5", "x.zarr"])
def test_content_digest_is_the_same_in_every_format(
    tmp_path: Path, out: str, stepwise: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest_leaves, "LEAF_NBYTES", 100_000)
    big = data().astype(">i2")

    def stopping() -> Iterator[Array]:
        yield from big[:150]
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        ingest(stopping(), tmp_path / out)
    path = ingest(iter(big), tmp_path / out)  # what was there is read back, and hashed again
    assert manifest_of(path).sha256 == content_sha256(big)
    assert os.path.getsize(leaves_path(path + SUFFIX)) == 32 * -(-big.nbytes // 100_000)


def test_provenance_of_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", frames(4))
    entry = manifest_of(ingest(tmp_path / "a.npy", tmp_path / "x.npy", layout=None))
    assert entry.provenance is not None
    (file,) = entry.provenance["files"]
    assert file["path"] == str(tmp_path / "a.npy") and file["bytes"] == (tmp_path / "a.npy").stat().st_size
    assert file["changed"].endswith("+00:00")
    assert entry.provenance["versions"]["numpy"] == np.__version__


def test_differences_within_episodes(tmp_path: Path, stepwise: None) -> None:
    """Across blocks of 33 samples, a resume, and never from one episode to the next."""
    array = data().reshape(4, 60, 3, 50, 40)
    episodes = iter(array)

    def stopping() -> Iterator[Array]:
        yield array[0]
        yield array[1]
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        ingest(stopping(), tmp_path / "x.npy", source_layout="TCHW")
    entry = manifest_of(ingest(episodes, tmp_path / "x.npy", source_layout="TCHW"))
    assert entry.statistics is not None
    found = entry.statistics["difference"]
    expected = np.diff(array.astype(np.int64), axis=1)
    per_channel = np.moveaxis(expected, 2, 0).reshape(3, -1)
    assert found["count"] == [4 * 59 * 2000] * 3
    assert found["min"] == per_channel.min(axis=1).tolist() and found["max"] == per_channel.max(axis=1).tolist()
    np.testing.assert_allclose(found["mean"], per_channel.mean(axis=1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found["std"], per_channel.std(axis=1), rtol=1e-12)
    one = manifest_of(ingest(frames(1), tmp_path / "one.npy"))
    assert one.statistics is not None and "difference" not in one.statistics


def test_the_manifest_of_a_directory_names_its_fields(tmp_path: Path) -> None:
    ingest(Items(frames(9)), tmp_path / "store")
    found = json.loads((tmp_path / "store" / DIRECTORY_MANIFEST).read_text())
    assert list(found["fields"]) == ["image", "label"]
    assert found["fields"]["label"]["notes"] == {"classes": ["cat", "dog"]}


KILLED = """
def slowly(array):
    for number, sample in enumerate(array):
        time.sleep(0.0003)
        if number == int(sys.argv[3]):
            print("here", flush=True)
        if number == 239:
            time.sleep(60)
        yield sample
source = {"image": slowly(data()), "label": iter(range(240))}
ingest(source, sys.argv[1], compression=sys.argv[2] or None)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills are POSIX")
@pytest.mark.parametrize("out, compression", [("store", ""), ("x.h5", ""), ("x.h5", "gzip"), ("x.zarr", "zstd")])
def test_killed_again_and_again_ends_bit_identical(tmp_path: Path, out: str, compression: str, stepwise: None) -> None:
    rng = random.Random(out + compression)
    target, kept = tmp_path / out, []
    for _ in range(5):
        process = child(KILLED, target, compression, rng.randrange(20, 230))  # waits before the last sample: the kill comes first
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        time.sleep(rng.uniform(0.0, 0.02))
        process.kill()
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
        assert not target.exists()
        kept.append(recorded_samples(target))
    source = {"image": iter(data()), "label": iter(range(240))}
    ingest(source, target, compression=compression or None)
    (tmp_path / "straight").mkdir()
    source = {"image": iter(data()), "label": iter(range(240))}
    straight = ingest(source, tmp_path / "straight" / out, compression=compression or None)
    for name in ("image", "label"):
        np.testing.assert_array_equal(fields_of(str(target), [name])[name], fields_of(straight, [name])[name])
        assert manifest_of(str(target), name).sha256 == manifest_of(straight, name).sha256
    assert max(kept, default=0) > 0, "no kill came between the first block and the last"
    assert not [name for name in os.listdir(tmp_path) if "partial" in name]
