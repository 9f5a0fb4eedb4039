"""Every dtype into every format, fields, targets and options; what cannot be meant is refused with a reason."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from ingest_results import OUTS, frames, manifest_of, read

from mmapstore.batches.opening import open_dataset
from mmapstore.operations.ingest import ingest, plan, source_detection
from mmapstore.operations.progress import Progress
from mmapstore.plain.channel_statistics import ChannelStatistics
from mmapstore.plain.errors import (
    InvalidTypeError,
    InvalidValueError,
    MemoryBudgetError,
    NotFoundError,
    TargetExistsError,
    WriteError,
)
from mmapstore.plain.manifest import DIRECTORY_MANIFEST, SUFFIX

DTYPES = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]


@pytest.mark.parametrize("out", OUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_into_every_format(tmp_path: Path, out: str, dtype: str) -> None:
    array = frames(dtype=dtype)
    path = ingest(array, tmp_path / out, source_layout="NHWC")
    expected = array.transpose(0, 3, 1, 2)
    found = read(path)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, expected)
    dataset = open_dataset(path)
    assert (dataset.layout, dataset.dtype, dataset.episodes.tolist()) == ("NCHW", array.dtype, [0, 40])
    np.testing.assert_array_equal(dataset[:], expected)
    assert not [name for name in os.listdir(tmp_path) if "partial" in name or "tmp" in name]


@pytest.mark.parametrize(
    "out, compression", [("x.h5", "gzip"), ("x.h5", "lzf"), ("x.zarr", "zstd"), ("x.zarr", "blosc"), ("x.zarr", "gzip")]
)
def test_compressed_in_whole_samples(tmp_path: Path, out: str, compression: str) -> None:
    array = np.repeat(frames(64), 8, axis=1)
    path = ingest(array, tmp_path / out, layout=None, compression=compression, chunk_samples=16)
    np.testing.assert_array_equal(read(path), array)
    chunks = zarr.open(path, mode="r").chunks if out.endswith("zarr") else h5py.File(path)["data"].chunks
    assert chunks == (16, *array.shape[1:])


def test_default_chunks_are_whole_samples_of_about_512_kib(tmp_path: Path) -> None:
    path = ingest(np.zeros((40, 64, 1024), np.uint8), tmp_path / "x.zarr")
    assert zarr.open(path, mode="r").chunks == (8, 64, 1024)


def test_the_manifest_describes_what_was_written(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(1700, 2000)).astype(np.float32)
    entry = manifest_of(ingest(array, tmp_path / "x.npy"))
    assert (entry.shape, entry.dtype, entry.layout, entry.episodes) == ((1700, 2000), "<f4", "NC", (0, 1700))
    assert entry.block_samples == (8 << 20) // 8000
    blocks = [array[at : at + entry.block_samples] for at in range(0, 1700, entry.block_samples)]
    assert entry.checksums == tuple(f"{zlib.crc32(block):08x}" for block in blocks)
    whole = ChannelStatistics()
    whole.update(array, 1)
    assert entry.statistics is not None
    np.testing.assert_allclose(entry.statistics["mean"], whole.mean, rtol=1e-10)
    np.testing.assert_allclose(entry.statistics["std"], whole.std, rtol=1e-10)
    assert entry.source == "an array in RAM"


# --- fields -----------------------------------------------------------------------------------------------------------


def test_fields_into_a_directory(tmp_path: Path) -> None:
    path = ingest(
        {"image": frames(12), "label": iter(range(12))}, tmp_path / "store", source_layout={"image": "NHWC"}, dtype={"label": "u1"}
    )
    assert sorted(os.listdir(path)) == ["image.npy", "label.npy", DIRECTORY_MANIFEST]
    np.testing.assert_array_equal(np.load(tmp_path / "store/image.npy"), frames(12).transpose(0, 3, 1, 2))
    dataset = open_dataset(path)
    assert {name: field.dtype.name for name, field in dataset.fields.items()} == {"image": "uint8", "label": "uint8"}
    assert os.listdir(tmp_path) == ["store"]
    again = ingest(dataset, tmp_path / "again")
    assert sorted(os.listdir(again)) == ["image.npy", "label.npy", DIRECTORY_MANIFEST]


def test_fields_of_unequal_length(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="different numbers of samples: image 12, label 5"):
        ingest({"image": frames(12), "label": np.arange(5)}, tmp_path / "store")
    with pytest.raises(InvalidValueError, match="different numbers of samples: image 12, label 5"):
        ingest({"image": frames(12), "label": (n for n in range(5))}, tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", 3])
def test_fields_with_impossible_names(tmp_path: Path, name: Any) -> None:
    with pytest.raises(InvalidValueError, match="cannot be the name of a file"):
        ingest({name: frames(3)}, tmp_path / "store")


def test_fields_need_a_directory(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="written into a directory"):
        ingest({"image": frames(3)}, tmp_path / "x.npy")
    with pytest.raises(InvalidValueError, match="dict of fields is empty"):
        ingest({}, tmp_path / "store")
    with pytest.raises(InvalidValueError, match=r"given for \['depth'\]"):
        ingest({"image": frames(3)}, tmp_path / "store", dtype={"depth": "u1"})


# --- targets and options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["x.npy", "x.h5", "x.zarr", "store"])
def test_overwriting_is_asked_for(tmp_path: Path, out: str) -> None:
    def source(seed: int) -> Any:
        return {"a": frames(seed=seed)} if out == "store" else frames(seed=seed)

    ingest(source(0), tmp_path / out, layout=None)
    with pytest.raises(TargetExistsError, match=r"exists\. Pass overwrite=True"):
        ingest(source(1), tmp_path / out, layout=None)
    path = ingest(source(1), tmp_path / out, layout=None, overwrite=True)
    np.testing.assert_array_equal(np.load(tmp_path / "store/a.npy") if out == "store" else read(path), frames(seed=1))
    assert sorted(os.listdir(tmp_path)) == ([out] if out == "store" else [out, out + SUFFIX])


def test_an_existing_target_leaves_a_generator_untouched(tmp_path: Path) -> None:
    ingest(frames(3), tmp_path / "x.npy")
    source = iter([np.zeros(3), np.ones(3)])
    with pytest.raises(TargetExistsError):
        ingest(source, tmp_path / "x.npy")
    assert len(list(source)) == 2


def test_overwriting_never_takes_more_than_was_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"], file["b"] = np.arange(3), np.arange(4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    (tmp_path / "z.zarr").mkdir()
    (tmp_path / "z.zarr" / "thesis.txt").write_text("precious")
    (tmp_path / "d.npy").mkdir()
    for source, out, text in [
        (frames(3), "x.h5::/a", "holds more than would be replaced: b"),
        (frames(3), "x.h5", "holds more"),
        ({"a": frames(3)}, "mine", "thesis.txt"),
        (frames(3), "z.zarr", "thesis.txt"),
        (frames(3), "d.npy", "a directory"),
    ]:
        with pytest.raises(TargetExistsError, match=text):
            ingest(source, tmp_path / out, overwrite=True)
    with h5py.File(tmp_path / "x.h5") as file:
        assert sorted(file) == ["a", "b"]


def test_a_partial_file_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x.npy.partial").write_text("a download")
    for resume in (True, False):
        with pytest.raises(TargetExistsError, match="no journal says what it is"):
            ingest(frames(3), tmp_path / "x.npy", resume=resume)
    assert (tmp_path / "x.npy.partial").read_text() == "a download"


def test_the_target_is_no_source(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", frames(4))
    os.symlink(tmp_path / "x.npy", tmp_path / "link.npy")
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    sources = [
        tmp_path / "x.npy",
        tmp_path / "link.npy",
        [tmp_path / "x.npy", tmp_path / "x.npy"],
        str(tmp_path / "*.npy"),
        tmp_path,
        mapped,
        mapped[1:3].transpose(0, 3, 1, 2),
        open_dataset(tmp_path / "x.npy"),
        open_dataset(tmp_path / "x.npy").split(0.5)[0],
        open_dataset([tmp_path / "x.npy", tmp_path / "x.npy"]).split(3)[0],
    ]
    for source in sources:
        with pytest.raises(InvalidValueError, match="is the target, and the same file as"):
            ingest(source, tmp_path / "x.npy", overwrite=True)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), frames(4))
    ingest({"a": frames(4)}, tmp_path / "store")
    with pytest.raises(InvalidValueError, match=r"store is the target, and .*store/a\.npy, which is read, lies in it"):
        ingest({"a": tmp_path / "store" / "a.npy"}, tmp_path / "store", overwrite=True)


def test_the_target_is_not_around_the_source(tmp_path: Path) -> None:
    ingest(frames(4), tmp_path / "x.zarr::/inner", layout=None)
    ingest(frames(4), tmp_path / "x.h5::/inner", layout=None)
    for source, out in (("x.zarr::/inner", "x.zarr"), ("x.zarr/inner", "x.zarr"), ("x.h5::/inner", "x.h5"), ("x.h5/inner", "x.h5")):
        with pytest.raises(InvalidValueError, match="is the target, and "):
            ingest(tmp_path / source, tmp_path / out, overwrite=True)
    for kept in ("x.zarr::/inner", "x.h5::/inner"):
        np.testing.assert_array_equal(read(f"{tmp_path}/{kept}"), frames(4))


def test_a_directory_that_holds_more_than_fields_is_not_replaced(tmp_path: Path) -> None:
    store = tmp_path / "store"
    ingest({"a": frames(4)}, store)
    ingest({"a": frames(5), "b": np.arange(5)}, store, overwrite=True)
    assert sorted(os.listdir(store)) == ["a.npy", "b.npy", "mmapstore.json"]
    (store / "notes.txt").write_text("mine")
    (store / "runs").mkdir()
    with pytest.raises(TargetExistsError, match=r"holds more than would be replaced: notes\.txt, runs\."):
        ingest({"a": frames(4)}, store, overwrite=True)
    assert (store / "notes.txt").read_text() == "mine"
    assert len(np.load(store / "a.npy")) == 5


def test_statistics_of_very_many_channels_are_left_out(tmp_path: Path) -> None:
    """They would make a manifest larger than the data, outside any bound on memory."""
    for channels, described in ((plan.MOST_CHANNELS, True), (plan.MOST_CHANNELS + 1, False)):
        entry = manifest_of(ingest(np.ones((2, channels), np.uint8), tmp_path / f"{channels}.npy"))
        assert (entry.statistics is not None) is described
        assert len(entry.checksums) == 1


@pytest.mark.parametrize(
    "out, options, error, text",
    [
        ("x.tiff", {}, InvalidValueError, "no suffix that says how to write it; expected one of .npy"),
        ("x.h5/a/b", {}, InvalidValueError, r"Did you mean '.*x\.h5::/a/b'"),
        ("x.npy::/a", {}, InvalidValueError, "holds one array without a name"),
        ("x.npy", {"compression": "gzip"}, InvalidValueError, "has no place in .npy"),
        ("x.npy", {"chunk_samples": 3}, InvalidValueError, "has no place in .npy"),
        ("x.h5", {"compression": "zip"}, InvalidValueError, "compression='zip' is not known"),
        ("x.zarr", {"compression": "zip"}, InvalidValueError, "zip"),
        ("x.h5", {"chunk_samples": 0}, InvalidValueError, "less than 1"),
        ("x.npy", {"samples": "3"}, InvalidTypeError, "not a number of samples"),
        ("x.npy", {"dtype": "nonsense"}, InvalidTypeError, "not a dtype"),
        ("x.npy", {"dtype": "c8"}, InvalidTypeError, "cannot be ingested"),
        ("x.npy", {"layout": "NTCHW"}, InvalidValueError, "there is no T"),
        ("x.npy", {"layout": "NCH"}, InvalidValueError, "does not say where W"),
        ("x.npy", {"source_layout": "NHW"}, InvalidValueError, "names 3 axes"),
        ("x.npy", {"max_memory": "lots"}, InvalidValueError, "not a size"),
        ("x.npy", {"max_memory": "1MB"}, MemoryBudgetError, r"Ingesting an array in RAM would need .* over max_memory=1.00 MB"),
        ("x.npy", {"progress": "yes"}, InvalidTypeError, "progress='yes'"),
        ("no/such/x.npy", {}, WriteError, "there is no directory"),
    ],
)
def test_options_that_cannot_be_meant(tmp_path: Path, out: str, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ingest(frames(3), tmp_path / out, **options)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="Permission was denied"):
        ingest(frames(3), tmp_path / "x.npy")


def test_a_sample_larger_than_the_budget(tmp_path: Path) -> None:
    with pytest.raises(
        MemoryBudgetError, match=r"block being written 40.0 MB.*over max_memory=16.0 MB\. Give a larger max_memory="
    ):
        ingest((np.zeros(5_000_000) for _ in range(2)), tmp_path / "x.npy", max_memory="16MB")
    assert os.listdir(tmp_path) == []


def test_opened_datasets_are_known_by_what_they_have(tmp_path: Path) -> None:
    dataset = open_dataset(frames(3))
    assert source_detection.fields_of(dataset) is None
    with pytest.raises(InvalidValueError, match="Say layout= where it is opened"):
        ingest(dataset, tmp_path / "x.npy", source_layout="NHWC")


# --- progress ---------------------------------------------------------------------------------------------------------


def test_progress_is_called_with_samples(tmp_path: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    ingest(np.zeros((30, 1_000_000), np.uint8), tmp_path / "x.npy", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(0, 30), (8, 30), (16, 30), (24, 30), (30, 30)]
    calls.clear()
    ingest((np.zeros(3) for _ in range(5)), tmp_path / "y.npy", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(0, None), (5, None)]


def test_a_bar_on_a_terminal_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ingest(frames(4), tmp_path / "x.npy")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for total, expected in ((200, "1.90k/2.00k"), (None, "1.90kB [")):
        bar = Progress(None, total, 10, 40)
        for done in (50, 190):
            time.sleep(0.21)  # a bar appears after 0.2 s, and is painted ten times a second
            bar(done)
        bar.close()
        shown = capsys.readouterr().err
        assert expected in shown and f"190{f' of {total}' * bool(total)} samples" in shown and shown.endswith("\r")
        assert not any("tqdm" in type(thread).__module__ for thread in threading.enumerate())
    Progress(False, 200, 10, 0)(50)
    assert capsys.readouterr() == ("", "")


def test_the_manifest_is_json_that_any_reader_takes(tmp_path: Path) -> None:
    path = ingest(np.array([[1.0, np.nan], [np.inf, np.nan]]), tmp_path / "x.npy")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads(Path(path + SUFFIX).read_text(), parse_constant=refuse)
    assert found["fields"]["data"]["statistics"]["max"] == ["inf", "nan"]


def test_a_source_that_is_not_there_is_named_before_the_output(tmp_path):
    with pytest.raises(NotFoundError, match="nowhere does not exist"):
        ingest(str(tmp_path / "nowhere"), tmp_path / "out")
