"""Appending: the old store is there whole, or the new one, or the same call goes on; and the result is that of one ingest."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from ingest_child import child, data
from ingest_results import fields_of, frames, manifest_of, read

from mmapstore.batches.opening import open_dataset
from mmapstore.operations.convert import convert
from mmapstore.operations.flow import journal
from mmapstore.operations.ingest import ingest, plan
from mmapstore.plain import chunk_grid
from mmapstore.plain.errors import (
    DamagedFileError,
    InvalidTypeError,
    InvalidValueError,
    NotFoundError,
    StateMismatchError,
    TargetExistsError,
)
from mmapstore.plain.manifest import SUFFIX

Array = np.ndarray[Any, Any]
FORMS = [
    ("x.npy", None), ("x.h5", None), ("x.h5", "gzip"), ("x.h5::/deep/frames", "lzf"), ("x.zarr", None), ("x.zarr", "zstd"),
    ("x.zarr::/deep/frames", "blosc"),
]  # fmt: skip


@pytest.fixture
def stepwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(plan, "BLOCK_NBYTES", 200_000)
    monkeypatch.setattr(chunk_grid, "USUAL_CHUNK_NBYTES", 60_000)


def stopping(array: Array, after: int) -> Iterator[Array]:
    yield from array[:after]
    raise RuntimeError("stopped")


def without_source(entry: Any) -> Any:
    return dataclasses.replace(entry, source="", provenance=None)


# --- what comes out -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["array", "generator"])
@pytest.mark.parametrize("out, compression", FORMS)
def test_the_result_is_that_of_one_ingest(tmp_path: Path, out: str, compression: str | None, kind: str, stepwise: None) -> None:
    """In three parts, cut in the middle of blocks and chunks; each part is an episode."""
    parts = [data()[:50], data()[50:180], data()[180:]]
    path = ingest(parts[0], tmp_path / out, compression=compression)
    for part in parts[1:]:
        assert ingest(part if kind == "array" else iter(part), tmp_path / out, append=True) == path
    np.testing.assert_array_equal(read(path), data())
    dataset = open_dataset(path)
    assert dataset.episodes.tolist() == [0, 50, 180, 240]
    np.testing.assert_array_equal(dataset[40:200], data()[40:200])
    (tmp_path / "once").mkdir()
    once = manifest_of(ingest(iter(parts), tmp_path / "once" / out, compression=compression, source_layout="TCHW"))
    assert without_source(manifest_of(path)) == without_source(once)
    file = out.partition("::")[0]
    assert sorted(os.listdir(tmp_path)) == [*sorted(["once", file, file + SUFFIX])]
    if compression == "gzip":
        with h5py.File(path) as opened:
            assert opened["data"].compression == "gzip"
    if out == "x.npy":
        assert (tmp_path / out).read_bytes() == (tmp_path / "once" / out).read_bytes()


@pytest.mark.parametrize("out", ["store", "x.h5", "x.zarr", "x.zarr::/group"])
def test_fields_together(tmp_path: Path, out: str, stepwise: None) -> None:
    for at in (0, 100, 170):
        stop = {0: 100, 100: 170, 170: 240}[at]
        fields = {"image": data()[at:stop].transpose(0, 2, 3, 1), "label": iter(range(at, stop))}
        path = ingest(fields, tmp_path / out, source_layout={"image": "NHWC"}, append=at > 0)
    found = fields_of(path, ["image", "label"])
    np.testing.assert_array_equal(found["image"], data())
    np.testing.assert_array_equal(found["label"], np.arange(240))
    assert open_dataset(path).episodes.tolist() == [0, 100, 170, 240]
    assert open_dataset(path)["label"][239] == 239


@pytest.mark.parametrize("links", [True, False])
def test_a_store_shares_the_chunks_it_had(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hard links, where the file system has them."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "Operation not permitted")))
    path = ingest(frames(40), tmp_path / "x.zarr", chunk_samples=10)
    before = {file: os.stat(file).st_ino for file in Path(path, "c").rglob("*") if file.is_file()}
    ingest(frames(40), path, append=True)
    assert [file for file, inode in before.items() if os.stat(file).st_ino != inode] == ([] if links else list(before))
    np.testing.assert_array_equal(read(path), np.concatenate([frames(40)] * 2))


def test_a_file_of_numpy_readers_in_between(tmp_path: Path) -> None:
    """What has the old file open sees the old samples, unchanged."""
    path = ingest(frames(30), tmp_path / "x.npy", layout=None)
    mapped, inode = np.load(path, mmap_mode="r"), os.stat(path).st_ino
    ingest(frames(20, seed=1), path, append=True, source_layout="NCHW")
    np.testing.assert_array_equal(mapped, frames(30))
    assert os.stat(path).st_ino == inode
    np.testing.assert_array_equal(np.load(path), np.concatenate([frames(30), frames(20, seed=1)]))


def test_where_it_came_from_and_how_many_at_most(tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, frames(6))
    path = ingest(tmp_path / "a.npy", tmp_path / "x.npy")
    ingest(tmp_path / "b.npy", path, append=True, samples=4)
    entry = manifest_of(path)
    assert entry.shape[0] == 10 and entry.source == f"{tmp_path}/a.npy; then {tmp_path}/b.npy"
    assert entry.provenance is not None
    assert [Path(file["path"]).name for file in entry.provenance["files"]] == ["a.npy", "b.npy"]


def test_the_dtype_is_converted_when_it_is_said(tmp_path: Path) -> None:
    path = ingest(np.zeros((3, 4), np.float64), tmp_path / "x.npy", dtype="f4")
    with pytest.raises(InvalidTypeError, match=r"as float32, and this would append float64\. Say dtype='float32' to convert"):
        ingest(np.ones((2, 4)), path, append=True)
    ingest(np.ones((2, 4)), path, append=True, dtype="f4")
    np.testing.assert_array_equal(np.load(path)[:, 0], np.float32([0, 0, 0, 1, 1]))


# --- what is refused ----------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    path = ingest(frames(5), tmp_path / "x.npy", layout=None)
    np.save(tmp_path / "plain.npy", frames(3))
    store = ingest({"a": np.zeros((3, 2)), "b": np.arange(3)}, tmp_path / "store")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for source, out, options, error, text in [
        (frames(3), "no.npy", {}, NotFoundError, r"no\.npy does not exist, so nothing is appended to it"),
        (frames(3), "plain.npy", {}, InvalidValueError, r"plain\.npy has no manifest that can be read"),
        (
            frames(3)[:, :4],
            "x.npy",
            {},
            InvalidValueError,
            r"shape \(6, 5, 3\) \(NCHW\), and the source gives \(4, 5, 3\)",
        ),
        (frames(3).transpose(0, 3, 1, 2), "x.npy", {}, InvalidValueError, r"gives \(3, 6, 5\)\. Say the order .*--source-layout"),
        (np.zeros((3, 6), np.uint8), "x.npy", {}, InvalidValueError, r"as NCHW, and the source gives NC; expected the same axes"),
        (
            frames(3),
            "x.npy",
            {"overwrite": True},
            InvalidValueError,
            "append=True adds to what is there",
        ),
        (path, "x.npy", {}, InvalidValueError, "is the target, and the same file"),
        ({"a": np.zeros((3, 2))}, "store", {}, InvalidValueError, "holds the fields a, b, and the source gives a"),
        ({"a": np.zeros((3, 2)), "b": (n for n in range(2))}, "store", {}, InvalidValueError, "different numbers of samples"),
    ]:
        with pytest.raises(error, match=text):
            ingest(source, tmp_path / out, append=True, **options)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    np.testing.assert_array_equal(np.load(path), frames(5))
    np.testing.assert_array_equal(open_dataset(store)["b"][:], np.arange(3))
    compressed = ingest(frames(5), tmp_path / "x.h5", compression="gzip")
    with pytest.raises(InvalidValueError, match="compression='lzf' cannot be chosen anew"):
        ingest(frames(5), compressed, append=True, compression="lzf")


def test_appending_to_what_convert_wrote(tmp_path: Path) -> None:
    """Plain bytes go on; in which chunks others were encoded, only an ingest has noted, and the refusal has the command."""
    np.save(tmp_path / "a.npy", frames(30))
    path = convert(tmp_path / "a.npy", tmp_path / "x.npy").path
    ingest(frames(20, seed=1), path, append=True, source_layout="NCHW")
    np.testing.assert_array_equal(np.load(path), np.concatenate([frames(30), frames(20, seed=1)]))
    assert open_dataset(path).episodes.tolist() == [0, 30, 50]
    chunked = convert(tmp_path / "a.npy", tmp_path / "x.h5", chunk_samples=4).path
    with pytest.raises(InvalidValueError, match=r"was not written by `ingest`.*mmapstore ingest \S+x\.h5 NEW"):
        ingest(frames(3), chunked, append=True, source_layout="NCHW")


def test_a_container_with_other_arrays_is_not_replaced(tmp_path: Path) -> None:
    path = ingest(frames(5), tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        file["mine"] = np.arange(3)
    with pytest.raises(TargetExistsError, match="holds more than would be replaced: mine"):
        ingest(frames(5), path, append=True)
    with h5py.File(path) as file:
        assert sorted(file) == ["data", "mine"]


def test_classes_that_mean_something_else_are_refused(tmp_path: Path) -> None:
    class Labels:
        gives_from_any_sample, samples, guess, name, paths = True, 4, 4, "labels", ()

        def __init__(self, classes: list[str]) -> None:
            from mmapstore.plain.array_spec import ArraySpec

            self.specs = {"label": ArraySpec((4,), np.dtype("i4"), "N")}
            self.fingerprint = {"classes": classes}
            self.notes = {"label": {"classes": classes}}

        def pieces(self, after: Any, at_most: int) -> Iterator[Any]:
            from mmapstore.operations.ingest.contract import Piece

            yield Piece({"label": np.arange(4, dtype="i4")[after.samples :]}, (0,))

        def memory(self, at_most: int) -> dict[str, int]:
            return {}

    path = ingest(Labels(["cat", "dog"]), tmp_path / "store")
    ingest(Labels(["cat", "dog"]), path, append=True)
    with pytest.raises(InvalidValueError, match="the same numbers would mean something else"):
        ingest(Labels(["dog", "cat"]), path, append=True)
    assert manifest_of(path).shape == (8,)


@pytest.mark.parametrize("at", [20, 235])
@pytest.mark.parametrize("out", ["x.npy", "x.h5", "x.zarr"])
def test_a_store_that_was_damaged_is_not_appended_to(tmp_path: Path, out: str, at: int, stepwise: None) -> None:
    """Neither in a whole block, nor in the last samples, which are none."""
    path = ingest(data(), tmp_path / out)
    block = manifest_of(path).block_samples
    first = at // block * block
    if out == "x.npy":
        content = bytearray(Path(path).read_bytes())
        content[128 + at * 6000] ^= 255
        Path(path).write_bytes(content)
    elif out == "x.h5":
        with h5py.File(path, "a") as file:
            file["data"][at, 0, 0, 0] ^= 255
    else:
        array = zarr.open_array(path, mode="a")
        array[at, 0, 0, 0] = array[at, 0, 0, 0] ^ 255
    with pytest.raises(DamagedFileError, match=rf"{out}\S* is not what was written: its samples from {first} on.*Nothing was"):
        ingest(data()[:9], path, append=True)
    assert read(path).shape == (240, 3, 50, 40)
    ingest(data()[:9], path, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == [out, out + SUFFIX]


# --- interrupted --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out, compression", FORMS)
def test_an_interrupted_append_goes_on(tmp_path: Path, out: str, compression: str | None, stepwise: None) -> None:
    path = ingest(data()[:50], tmp_path / out, compression=compression)
    with pytest.raises(RuntimeError, match="stopped"):
        ingest(stopping(data()[50:], 100), path, append=True)
    np.testing.assert_array_equal(read(path), data()[:50])
    np.testing.assert_array_equal(open_dataset(path)[:], data()[:50])
    with pytest.raises(StateMismatchError, match=r"begun by another call: .*append"):
        ingest(iter(data()), path, overwrite=True)
    with pytest.raises(StateMismatchError, match=r"begun by another call: the source has changed"):
        ingest(iter(data(seed=1)), path, append=True)
    seen: list[int] = []
    ingest(iter(data()[50:]), path, append=True, progress=lambda done, total: seen.append(done))
    assert seen[0] > 50
    np.testing.assert_array_equal(read(path), data())
    assert not [name for name in os.listdir(tmp_path) if "partial" in name]


@pytest.mark.parametrize("out", ["x.npy", "x.h5", "x.zarr", "store"])
def test_an_interrupted_append_is_forgotten_when_asked(tmp_path: Path, out: str, stepwise: None) -> None:
    def of(source: Any) -> Any:
        return {"a": source} if out == "store" else source

    path = ingest(of(data()[:50]), tmp_path / out)
    files = sorted(file for file in tmp_path.rglob("*") if file.is_file())
    sizes = [file.stat().st_size for file in files]
    with pytest.raises(RuntimeError):
        ingest(of(stopping(data()[50:], 100)), path, append=True)
    ingest(of(data(seed=1)[:9]), tmp_path / "other.npy" if out != "store" else tmp_path / "other")
    with pytest.raises(RuntimeError):
        ingest(of(stopping(data()[50:], 1)), path, append=True, resume=False)
    assert sorted(file for file in tmp_path.rglob("*") if file.is_file() and "other" not in str(file)) == files
    assert [file.stat().st_size for file in files] == sizes
    np.testing.assert_array_equal(open_dataset(path)[:], data()[:50])


def test_forgotten_from_another_directory(tmp_path: Path, stepwise: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal names what grows as lying beside it, whatever the target was called then: a file of that name here is not it."""
    for name in ("there", "here"):
        (tmp_path / name).mkdir()
        ingest(data()[:50], tmp_path / name / "x.npy")
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(RuntimeError):
        ingest(stopping(data()[50:], 100), "x.npy", append=True)
    monkeypatch.chdir(tmp_path / "here")
    before = Path("x.npy").read_bytes() + b"behind the end"
    Path("x.npy").write_bytes(before)
    ingest(data()[50:], tmp_path / "there" / "x.npy", append=True, resume=False)
    np.testing.assert_array_equal(np.load(tmp_path / "there" / "x.npy"), data())
    assert Path("x.npy").read_bytes() == before


EVERY_STEP = """
import shutil
from killed_steps import forked
from mmapstore.batches.opening import open_dataset
from mmapstore.plain.errors import MmapstoreError
out, kind = sys.argv[1:]
def source(seed, samples):
    return {"a": data(samples, seed), "b": np.arange(samples)} if kind == "fields" else data(samples, seed)
OLD, NEW = data(50, 0), np.concatenate([data(50, 0), data(60, 1)])
def same(found):
    return "old" if np.array_equal(found, OLD) else "new" if np.array_equal(found, NEW) else "garbage"
def state():
    'What the format\\'s own library finds, and what `open` gives.'
    if not os.path.exists(out): return {"at": None, "opened": None}
    if kind == "fields": found = np.load(os.path.join(out, "a.npy"))
    elif kind == "npy": found = np.load(out)
    elif kind == "h5":
        import h5py
        with h5py.File(out) as file: found = file["data"][()]
    else:
        import zarr
        found = zarr.open(out, mode="r")[...]
    try:
        ds = open_dataset(out)
        opened = same(ds["a"][:] if kind == "fields" else ds[:])
    except MmapstoreError as error:
        opened = str(error)
    return {"at": same(found), "opened": opened}
folder = os.path.dirname(out)
assert forked(lambda: ingest(source(0, 50), out))[0] == 0
shutil.copytree(folder, folder + ".prepared")
results = []
for step in range(1, 400):
    shutil.rmtree(folder)
    shutil.copytree(folder + ".prepared", folder)
    code, _ = forked(lambda: ingest(source(1, 60), out, append=True), dies_at=step)
    if code == 0: break
    after = forked(state)[1]
    left = sorted(os.listdir(os.path.dirname(out)))
    done = after["at"] == after["opened"] == "new" and not any(path.endswith(".partial.json") for path in left)
    # Where nothing was left to do when it died, once more would be once more.
    then = out if done else forked(lambda: ingest(source(1, 60), out, append=True))[1]
    results.append([step, after, left, then, forked(state)[1], sorted(os.listdir(os.path.dirname(out)))])
print(json.dumps(results))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="forks")
@pytest.mark.parametrize("kind", ["npy", "h5", "zarr", "fields"])
def test_killed_at_every_step(tmp_path: Path, kind: str) -> None:
    name = "store" if kind == "fields" else f"x.{kind}"
    (tmp_path / "here").mkdir()
    process = child(EVERY_STEP, tmp_path / "here" / name, kind)
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    results = json.loads(output)
    assert len(results) > 8
    whole = [name] if kind == "fields" else [name, name + SUFFIX]
    noticed = 0
    for step, after, left, then, finally_, remaining in results:
        where = f"killed at step {step}: {after} {left}, then {then}"
        if kind == "zarr" and after["at"] is None:  # a directory cannot be replaced in one step
            assert f"{name}.replaced" in left, where
        else:
            assert after["at"] in ("old", "new"), where
            assert after["opened"] in ("old", "new") or "last step is missing" in after["opened"], where
            noticed += after["opened"] not in ("old", "new")
        assert then == str(tmp_path / "here" / name), where
        assert finally_ == {"at": "new", "opened": "new"}, where
        assert [path for path in remaining if not path.endswith(".lock")] == whole, where
    assert noticed < 10, "steps between the first header and the manifest"
