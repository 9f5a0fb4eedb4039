"""Zarr stores are written so that zarr-python, and plain reads of the located bytes, give back what went in."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
from stored_bytes import raw_rows, sample_values

import mmapstore as mm
from mmapstore.formats import zarr_store, zarr_writer
from mmapstore.formats.contract import NewArray
from mmapstore.plain.errors import (
    InvalidTypeError,
    InvalidValueError,
    NotFoundError,
    StateMismatchError,
    TargetExistsError,
    WriteError,
)

zarr = pytest.importorskip("zarr")
from zarr.storage import LocalStore  # noqa: E402


@pytest.mark.parametrize("compression", [None, *zarr_writer.COMPRESSIONS])
@pytest.mark.parametrize("dtype", ["?", "<f2", ">f4"])
def test_zarr_reads_what_was_written_in_blocks(tmp_path, compression, dtype):
    values = sample_values((11, 2, 3), dtype)
    new = NewArray(values.shape, values.dtype, compression, 4, {"layout": "NHW"})
    writer = zarr_writer.create(tmp_path / "a.zarr", None, new)
    for start in (0, 3, 6, 9):  # not aligned to chunks
        writer.write(start, values[start : start + 3])
    writer.flush()
    np.testing.assert_array_equal(writer.read(2, 9), values[2:9])
    assert writer.read(2, 9).dtype == values.dtype
    writer.close()
    found = zarr.open_array(LocalStore(tmp_path / "a.zarr"), mode="r")
    np.testing.assert_array_equal(found[:], values)
    assert found.metadata.zarr_format == 3 and found.chunks == (4, 2, 3) and found.attrs["layout"] == "NHW"
    stored = zarr_store.open_array(tmp_path / "a.zarr")
    assert stored.dtype == values.dtype
    if compression is None:
        np.testing.assert_array_equal(raw_rows(stored.located).reshape(values.shape), values)
    else:
        expected = {"lz4": "blosc"}.get(compression, compression)
        assert stored.storage.endswith(f", {expected}")


def test_several_arrays_share_a_store(tmp_path):
    for key, count in [("image", 4), ("extra/label", 6)]:
        writer = zarr_writer.create(tmp_path / "a.zarr", key, NewArray((count,), np.dtype("i8"), chunk_samples=5))
        writer.write(0, np.arange(1, count + 1))
        writer.flush()
    group = zarr.open_group(LocalStore(tmp_path / "a.zarr"), mode="r")
    np.testing.assert_array_equal(group["extra/label"][:], np.arange(1, 7))
    np.testing.assert_array_equal(group["image"][:], np.arange(1, 5))
    for key in ("image", "extra", None):
        with pytest.raises(TargetExistsError, match=r"exists\. Choose another name"):
            zarr_writer.create(tmp_path / "a.zarr", key, NewArray((2,), np.dtype("f4")))
    with pytest.raises(TargetExistsError, match="is a Zarr array, which cannot hold 'image/x'"):
        zarr_writer.create(tmp_path / "a.zarr", "image/x", NewArray((2,), np.dtype("f4")))
    np.testing.assert_array_equal(group["image"][:], np.arange(1, 5))


def test_truncating_and_growing(tmp_path):
    writer = zarr_writer.create(tmp_path / "a.zarr", None, NewArray((2, 3), np.dtype("f4"), chunk_samples=4, resizable=True))
    for start in range(0, 20, 5):
        writer.write(start, np.full((5, 3), start + 1, "f4"))
    writer.truncate(17)
    writer.flush()
    writer.close()
    found = zarr.open_array(LocalStore(tmp_path / "a.zarr"), mode="r")
    assert found.shape == (17, 3)
    np.testing.assert_array_equal(found[:, 0], np.repeat([1, 6, 11, 16], 5)[:17])
    assert not (tmp_path / "a.zarr" / "c.5.0").exists()


def test_a_store_of_fixed_length_refuses_what_does_not_fit(tmp_path):
    writer = zarr_writer.create(tmp_path / "a.zarr", None, NewArray((2, 2), np.dtype("u1")))
    with pytest.raises(InvalidValueError, match=r"has 2 samples; got samples \[1, 3\)"):
        writer.write(1, np.zeros((2, 2), "u1"))
    with pytest.raises(InvalidValueError, match="takes samples of shape"):
        writer.write(0, np.zeros((1, 3), "u1"))
    with pytest.raises(InvalidTypeError, match="does not fit without loss"):
        writer.write(0, np.zeros((1, 2), "f4"))
    with pytest.raises(InvalidValueError, match="cannot keep the first 3"):
        writer.truncate(3)
    with pytest.raises(InvalidValueError, match=r"asked for \[1, 5\)"):
        writer.read(1, 5)


def test_reopening_goes_on_where_it_stopped_and_refuses_another_array(tmp_path):
    new = NewArray((6, 2), np.dtype(">i2"), "zstd", 4)
    writer = zarr_writer.create(tmp_path / "a.zarr", "x", new)
    writer.write(0, np.ones((3, 2), "i2"))
    writer.flush()
    writer.close()
    writer = zarr_writer.reopen(tmp_path / "a.zarr", "x", new)
    np.testing.assert_array_equal(writer.read(0, 6)[:, 0], [1, 1, 1, 0, 0, 0])
    writer.write(3, np.full((3, 2), 2, "i2"))
    writer.flush()
    np.testing.assert_array_equal(zarr.open_group(LocalStore(tmp_path / "a.zarr"))["x"][:, 1], [1, 1, 1, 2, 2, 2])
    others = [((7, 2), ">i2", 4), ((6, 3), ">i2", 4), ((6, 2), "<i2", 4), ((6, 2), ">i2", 3)]
    for shape, dtype, chunk in others:
        with pytest.raises(StateMismatchError, match=r"is to be written\. Delete it"):
            zarr_writer.reopen(tmp_path / "a.zarr", "x", NewArray(shape, np.dtype(dtype), "zstd", chunk))
    with pytest.raises(StateMismatchError, match="is a group"):
        zarr_writer.reopen(tmp_path / "a.zarr", None, new)
    with pytest.raises(NotFoundError, match="does not exist"):
        zarr_writer.reopen(tmp_path / "b.zarr", None, new)


def test_flush_syncs_the_chunks_written_and_their_directory(tmp_path, monkeypatch):
    writer = zarr_writer.create(tmp_path / "a.zarr", None, NewArray((8, 2), np.dtype("f4"), chunk_samples=2))
    synced = []
    real = os.fsync

    def fsync(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    writer.write(3, np.ones((2, 2), "f4"))
    writer.flush()
    for name in ("c.1.0", "c.2.0", "zarr.json", "."):
        assert (tmp_path / "a.zarr" / name).stat().st_ino in synced
    synced.clear()
    writer.write(0, np.ones((1, 2), "f4"))
    writer.flush()
    assert (tmp_path / "a.zarr" / "c.1.0").stat().st_ino not in synced


def test_what_cannot_be_created_is_refused_and_leaves_nothing(tmp_path):
    def create(shape=(2, 2), dtype="f4", name="a.zarr", **more):
        zarr_writer.create(tmp_path / name, None, NewArray(shape, np.dtype(dtype), **more))

    with pytest.raises(
        InvalidValueError, match="'lzf' is not known for Zarr; expected None or one of 'zstd', 'gzip', 'blosc', 'lz4'"
    ):
        create(compression="lzf")
    for options in ({"shape": ()}, {"shape": (-1, 2)}, {"chunk_samples": 0}):
        with pytest.raises(InvalidValueError, match="chunks of 1 or more"):
            create(**options)
    with pytest.raises(InvalidTypeError, match="object dtype"):
        create(dtype="O")
    if np.dtype("g").itemsize > 8:  # on Windows it is a float64
        with pytest.raises(InvalidTypeError, match="Zarr 3 has no such type"):
            create(dtype="g")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.zarr").write_bytes(b"precious")
    with pytest.raises(TargetExistsError, match="delete it first"):
        create()
    assert (tmp_path / "a.zarr").read_bytes() == b"precious"
    with pytest.raises(WriteError, match="cannot be written"):
        create(name="a.zarr/below")


@pytest.mark.parametrize("compression", [None, "zstd", "blosc", "lz4"])
def test_text_of_a_fixed_width(tmp_path, compression):
    """Bytes come back as they were through zarr, and through our own reading of chunks."""
    values = np.array(["cat/1.jpg", "", "\u00fc\u6c7d.png", "d" * 300] * 3, object)
    values = np.array([text.encode() for text in values], "S300")
    new = NewArray((5,), np.dtype("S300"), compression, 4, resizable=True)
    zarr_writer.create(tmp_path / "a.zarr", None, new).write(0, values[:5])
    writer = zarr_writer.reopen(tmp_path / "a.zarr", None, new)
    writer.write(5, values[5:])
    writer.flush()
    np.testing.assert_array_equal(writer.read(2, 12), values[2:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(zarr.open_array(tmp_path / "a.zarr", mode="r")[:], values)
    np.testing.assert_array_equal(mm.open(tmp_path / "a.zarr")[:], values)


def test_what_a_kill_left_of_a_chunk_goes_when_it_is_reopened(tmp_path):
    new = NewArray((4, 2), np.dtype("f4"), chunk_samples=2)
    writer = zarr_writer.create(tmp_path / "a.zarr", None, new)
    writer.write(0, np.ones((2, 2), "f4"))
    left = [tmp_path / "a.zarr" / name for name in ("c.1.0.0123abcd.partial", "c.1.0.tmp")]
    for path in left:
        path.write_bytes(b"half")
    again = zarr_writer.reopen(tmp_path / "a.zarr", None, new)
    assert not any(path.exists() for path in left)
    np.testing.assert_array_equal(again.read(0, 2), np.ones((2, 2)))
