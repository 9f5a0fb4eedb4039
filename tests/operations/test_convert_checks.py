"""What `convert` refuses, bounds and finds out: wishes that cannot be meant, memory, disks that lie, sources that change."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from convert_sources import SHAPE, frames, make
from ingest_results import read

from mmapstore.formats import npy_file
from mmapstore.operations.convert import convert
from mmapstore.operations.flow import slabs
from mmapstore.plain.errors import (
    DamagedFileError,
    InvalidTypeError,
    InvalidValueError,
    MemoryBudgetError,
    TargetExistsError,
    WriteError,
)


@pytest.fixture(autouse=True)
def several_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "PREFERRED_NBYTES", 16_000)  # some 10 samples
    monkeypatch.setattr("mmapstore.operations.convert.plan.PREFERRED_NBYTES", 16_000)


# --- what is refused, and what is bounded ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"layout": "NHW"}, InvalidValueError, "does not say where C of the source's NCHW go"),
        ({"layout": "NXHW"}, InvalidValueError, "layout='NXHW' is not understood"),
        ({"layout": 3}, InvalidTypeError, "layout=3 is not text"),
        ({"samples": (5, 5)}, InvalidValueError, "is not a range in the 61 samples"),
        ({"samples": slice(0, 10, 2)}, InvalidValueError, "has a step"),
        ({"samples": 7}, InvalidTypeError, "samples=7 is not a range"),
        ({"compression": "gzip"}, InvalidValueError, "compression='gzip' has no place in .npy"),
        ({"chunk_samples": 4}, InvalidValueError, "chunk_samples=4 has no place in .npy"),
        ({"casting": "wrap"}, InvalidValueError, "casting='wrap' is not known"),
        ({"key": "x"}, Exception, "leave out key='x'"),
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, options: dict[str, Any], error: type[Exception], words: str) -> None:
    source = make(tmp_path, "gzip")
    with pytest.raises(error, match=words.replace("(", r"\(")):
        convert(source, tmp_path / "x.npy", **options)
    assert sorted(os.listdir(tmp_path)) == ["a.nc"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chunks": (1, 2)}, r"chunks=\(1, 2\) does not fit .*one length for each axis"),
        ({"chunks": (1, 2, 3, 0)}, "chunks=0 is too small; expected 1 or more"),
        ({"chunks": (1, 1, 1, 1), "chunk_samples": 2}, "were both given"),
        ({"compression": "lzma"}, "compression='lzma' is not known for HDF5"),
    ],
)
def test_chunks_that_cannot_be_meant(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValueError, match=words):
        convert(make(tmp_path, "npy"), tmp_path / "x.h5", **options)
    assert sorted(os.listdir(tmp_path)) == ["a.npy"]


def test_nothing_is_replaced_unasked_nor_onto_itself(tmp_path: Path) -> None:
    source = make(tmp_path, "npy")
    convert(source, tmp_path / "b.npy")
    with pytest.raises(TargetExistsError, match=r"exists\. Pass overwrite=True"):
        convert(source, tmp_path / "b.npy")
    convert(source, tmp_path / "b.npy", overwrite=True, dtype="u1")
    assert read(str(tmp_path / "b.npy")).dtype == np.uint8
    with pytest.raises(InvalidValueError, match="is the target, and the same file as"):
        convert(source, source, overwrite=True)


def test_scalars_and_nothing_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.float32(3))
    np.save(tmp_path / "e.npy", np.zeros((0, 3)))
    for name, words in (("s.npy", "is a scalar"), ("e.npy", "holds no values")):
        with pytest.raises(InvalidValueError, match=words):
            convert(tmp_path / name, tmp_path / "x.npy")


def test_too_little_memory_is_refused_with_the_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 2000, 2000), "f4"))
    with pytest.raises(MemoryBudgetError, match=r"would need .* over max_memory=20.0 MB. Give max_memory='.*' or more") as caught:
        convert(tmp_path / "a.npy", tmp_path / "x.h5", chunks=(4, 2000, 2000), max_memory="20MB")
    enough = str(caught.value).split("max_memory='")[1].split("'")[0]
    assert convert(tmp_path / "a.npy", tmp_path / "x.h5", chunks=(4, 2000, 2000), max_memory=enough).memory.total > 64_000_000
    done = convert(tmp_path / "a.npy", tmp_path / "x.npy", max_memory="20MB")  # one sample does not fit, but pieces of it do
    assert done.memory.total <= 20_000_000


def test_more_memory_means_fewer_decodes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 99, (4000, 4, 16, 16)).astype("f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=values, chunks=(4000, 1, 8, 8), compression="gzip", compression_opts=1)
    counts = []
    for most in ("12MB", "18MB", "200MB"):
        done = convert(tmp_path / "a.h5", tmp_path / "b.npy", max_memory=most, overwrite=True)
        np.testing.assert_array_equal(read(done.path), values)
        counts.append(done.decodes / done.source_chunks)
    assert counts[0] > counts[1] > counts[2] == 1


def test_a_dry_run_writes_nothing_and_tells(tmp_path: Path) -> None:
    source = make(tmp_path, "split")
    for out in ("x.npy", "x.h5", "x.zarr"):
        done = convert(source, tmp_path / out, dry_run=True)
        assert done.dry_run and done.seconds > 0 and done.sha256 == "" and not done.verified
        assert (done.decodes, done.source_chunks) == (27, 27)
        text = str(done)
        assert (
            f"{tmp_path / out} would hold {SHAPE} float32 NCHW" in text and "27 chunks of the source, decoded 1 times each" in text
        )
        assert "predicted peak" in text and "by a timed sample" in text
        size = convert(source, tmp_path / out).stored_nbytes
        assert abs(done.stored_nbytes - size) <= 0.25 * size + 4000
    assert json.loads(json.dumps(done.to_json()))["memory"]["total"] == done.memory.total


# --- what is read back -------------------------------------------------------------------------------------------------------


def test_a_disk_that_lies_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path, "gzip")
    write_box = npy_file.NpyWriter.write_box

    def lying(self: Any, box: Any, block: Any) -> None:
        if box[0].start >= 24:
            block = block.copy()
            block[0, 0, 0, 0] += 1
        write_box(self, box, block)

    monkeypatch.setattr(npy_file.NpyWriter, "write_box", lying)
    with pytest.raises(WriteError, match=r"x.npy: what was written from \(\d+, 0, 0, 0\) on is not what the disk gives back"):
        convert(source, tmp_path / "x.npy")
    assert not (tmp_path / "x.npy").exists()
    assert not convert(source, tmp_path / "y.npy", verify=False).verified
    assert not np.array_equal(read(str(tmp_path / "y.npy")), frames())
    monkeypatch.undo()
    np.testing.assert_array_equal(read(convert(source, tmp_path / "x.npy").path), frames())  # goes on from what was right


@pytest.mark.parametrize("out", ["x.h5", "x.zarr"])
def test_a_library_that_writes_something_else_is_found_out(tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path, "npy")
    module = "hdf5_writer.Hdf5Writer" if out == "x.h5" else "zarr_writer.ZarrWriter"
    kept = getattr(__import__(f"mmapstore.formats.{module.split('.')[0]}", fromlist=["x"]), module.split(".")[1]).write_box
    monkeypatch.setattr(f"mmapstore.formats.{module}.write_box", lambda self, box, block: kept(self, box, block * np.float32(2)))
    with pytest.raises(WriteError, match="is not what the disk gives back"):
        convert(source, tmp_path / out)
    assert not (tmp_path / out).exists()


def test_a_source_that_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path, "npy")

    def touch(done: int, total: int | None) -> None:
        os.utime(source, ns=(1, done + 1))

    with pytest.raises(DamagedFileError, match=r"was changed while it was read|was written to since it was opened"):
        convert(source, tmp_path / "x.npy", progress=touch)
    assert not (tmp_path / "x.npy").exists()


def test_a_damaged_chunk_names_itself_and_leaves_nothing_that_opens(tmp_path: Path) -> None:
    source = make(tmp_path, "fletcher")
    with h5py.File(tmp_path / "a.nc") as file:
        place = file["g/x"].id.get_chunk_info(5)
    with (tmp_path / "a.nc").open("r+b") as raw:
        raw.seek(place.byte_offset + 40)
        raw.write(b"\xff\xff\xff\xff")
    with pytest.raises(DamagedFileError, match=r"the chunk that begins at \(40, 0, 0, 0\)"):
        convert(source, tmp_path / "x.npy")
    assert not (tmp_path / "x.npy").exists()
