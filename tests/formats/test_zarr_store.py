"""Zarr stores of both formats: located bytes against zarr-python's values, keys, damage and hostile content."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from sent_objects import sent
from stored_bytes import raw_rows, sample_values

from mmapstore.formats import zarr_store, zarr_writer
from mmapstore.formats.contract import NewArray
from mmapstore.plain.errors import (
    DamagedFileError,
    InvalidTypeError,
    KeyNotFoundError,
    MissingPackageError,
    NotFoundError,
    UnsafeFileError,
)

zarr = pytest.importorskip("zarr")
from zarr.storage import LocalStore, MemoryStore  # noqa: E402

DTYPES = ["?", "u1", "<i2", ">i4", "<f2", "<f4", ">f8", "<c8"]
NAMINGS = {  # (format, chunk key encoding): file of chunk 1 of a 3-D array
    (2, "."): "1.0.0",
    (2, "/"): "1/0/0",
    (3, "default/"): "c/1/0/0",
    (3, "default."): "c.1.0.0",
    (3, "v2."): "1.0.0",
    (3, "v2/"): "1/0/0",
}


def make(path, values, version=3, naming=None, key=None, chunks=None, **options):
    """A store written by zarr-python itself, without compression unless asked for."""
    options.setdefault("compressors", None)
    dtype = values.dtype
    if version == 3 and not dtype.isnative:
        options["serializer"] = zarr.codecs.BytesCodec(endian="big")
        dtype = dtype.newbyteorder("=")
    if naming:
        options["chunk_key_encoding"] = {"name": "v2" if version == 2 else naming[:-1], "separator": naming[-1]}
    array = zarr.create_array(
        store=LocalStore(path),
        name=key,
        shape=values.shape,
        dtype=dtype,
        chunks=(3, *values.shape[1:]) if chunks is None else chunks,
        zarr_format=version,
        **options,
    )
    array[...] = values
    return array


def edit(path, **changes):
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps({**metadata, **changes}))


@pytest.mark.parametrize(("version", "naming"), NAMINGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_raw_bytes_lie_where_they_are_located(tmp_path, dtype, version, naming):
    values = sample_values((10, 2, 3), dtype)  # the last chunk of 3 holds one row and is stored full
    make(tmp_path / "a.zarr", values, version, naming)
    stored = zarr_store.open_array(tmp_path / "a.zarr")
    assert (stored.shape, stored.dtype, stored.chunks) == (values.shape, values.dtype, (3, 2, 3))
    located = stored.located
    assert located.one_file_each and located.grid.chunk[0] == 3 and located.dtype == values.dtype and stored.why_not == ""
    assert located.place(1).path == os.path.join(tmp_path, "a.zarr", *NAMINGS[version, naming].split("/"))
    assert os.path.getsize(located.place(3).path) == 3 * values[0].nbytes
    np.testing.assert_array_equal(raw_rows(located).reshape(values.shape), values)
    box = np.empty((5, 2, 1), values.dtype.newbyteorder("="))
    stored.read_box((slice(2, 7), slice(0, 2), slice(1, 2)), box)
    np.testing.assert_array_equal(box, values[2:7, :, 1:2])


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("fill", [7, 0, None])
def test_missing_chunks_are_the_fill_value(tmp_path, version, fill):
    values = sample_values((10, 4), "<f4")
    make(tmp_path / "a.zarr", values, version, **({} if fill is None and version == 3 else {"fill_value": fill}))
    located = zarr_store.open_array(tmp_path / "a.zarr").located
    os.unlink(located.place(1).path)
    expected = values.copy()
    expected[3:6] = fill or 0
    np.testing.assert_array_equal(zarr.open_array(LocalStore(tmp_path / "a.zarr"), mode="r")[:], expected)
    np.testing.assert_array_equal(raw_rows(located).reshape(values.shape), expected)
    assert np.ndim(located.fill) == 0 and located.fill.dtype == np.dtype("f4")


@pytest.mark.parametrize("version", [2, 3])
def test_one_axis_and_chunks_longer_than_the_array_and_nan_fills(tmp_path, version):
    values = np.arange(5.0)
    make(tmp_path / "a.zarr", values, version, chunks=(8,), fill_value=np.nan)
    stored = zarr_store.open_array(tmp_path / "a.zarr")
    np.testing.assert_array_equal(raw_rows(stored.located), values)
    assert np.isnan(stored.located.fill)


@pytest.mark.parametrize("version", [2, 3])
def test_scalar_and_empty_arrays_open(tmp_path, version):
    make(tmp_path / "scalar.zarr", np.array(2.5), version, chunks=())
    make(tmp_path / "empty.zarr", np.empty((0, 3)), version)
    scalar, empty = zarr_store.open_array(tmp_path / "scalar.zarr"), zarr_store.open_array(tmp_path / "empty.zarr")
    assert scalar.shape == () and not scalar.located.has_rows
    box = np.empty(())
    scalar.read_box((), box)
    assert box == 2.5
    assert empty.shape == (0, 3) and len(empty.located.grid) == 0


VARIANTS = [
    *((version, {"compressors": "auto"}) for version in (2, 3)),
    *((version, {"chunks": (3, 2, 3)}) for version in (2, 3)),
    (2, {"order": "F"}),
    (3, {"chunks": (2, 4, 3), "shards": (4, 4, 3)}),
    (3, {"filters": [zarr.codecs.TransposeCodec(order=(2, 1, 0))]}),
    (3, {"compressors": [zarr.codecs.Crc32cCodec()]}),
]


@pytest.mark.parametrize(("version", "options"), VARIANTS)
def test_encoded_chunks_have_no_raw_rows_but_read_right(tmp_path, version, options):
    values = sample_values((8, 4, 3), "<f4")
    make(tmp_path / "a.zarr", values, version, **options)
    stored = zarr_store.open_array(tmp_path / "a.zarr")
    assert not stored.located.has_rows
    box = np.empty((5, 4, 3), "f4")
    stored.read_box((slice(1, 6), slice(0, 4), slice(0, 3)), box)
    np.testing.assert_array_equal(box, values[1:6])


def test_storage_is_said_in_a_few_words(tmp_path):
    make(tmp_path / "a.zarr", np.zeros((6, 2)), compressors="auto")
    make(tmp_path / "b.zarr", np.zeros((6, 2)), 2)
    assert zarr_store.open_array(tmp_path / "a.zarr").storage == "Zarr 3, chunks of (3, 2), zstd"
    assert zarr_store.open_array(tmp_path / "b.zarr").storage == "Zarr 2, chunks of (3, 2), uncompressed"


# --- finding arrays ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_keys_are_found_in_nested_groups(tmp_path, version):
    path = tmp_path / "a.zarr"
    zarr.open_group(LocalStore(path), mode="w", zarr_format=version)
    make(path, np.arange(6.0), version, key="x")
    make(path, sample_values((4, 3), "u1"), version, key="deep/er/y", chunks=(1, 3))
    assert zarr_store.matches(path)
    assert [(found.key, found.shape, found.dtype) for found in zarr_store.list_arrays(path)] == [
        ("deep/er/y", (4, 3), np.dtype("u1")),
        ("x", (6,), np.dtype("f8")),
    ]
    assert [found.key for found in zarr_store.list_arrays(path, "deep")] == ["deep/er/y"]
    with pytest.raises(KeyNotFoundError, match=r"several arrays: 'deep/er/y' \(4, 3\), 'x' \(6,\). Say which one with key="):
        zarr_store.open_array(path)
    stored = zarr_store.open_array(path, "/deep")  # the only array in that group
    assert stored.name == f"{path}::/deep/er/y" and stored.shape == (4, 3)
    with pytest.raises(KeyNotFoundError, match=r"nothing under 'z'. It holds: 'deep/er/y' \(4, 3\), 'x' \(6,\)"):
        zarr_store.open_array(path, "z")
    again = sent(stored, 1000)
    assert again.name == stored.name and again.located.place(2) == stored.located.place(2)
    listed = zarr_store.list_arrays(path)
    (path / "deep" / ("zarr.json" if version == 3 else ".zgroup")).unlink()  # an implicit group
    assert zarr_store.list_arrays(path) == listed
    assert zarr_store.open_array(path, "/deep").name == stored.name


def test_a_single_array_needs_no_key_and_pickles_by_absolute_path(tmp_path, monkeypatch):
    make(tmp_path / "a.zarr", sample_values((500, 100), "f8"))
    monkeypatch.chdir(tmp_path)
    stored = zarr_store.open_array("a.zarr")
    assert stored.name == "a.zarr"
    expected = raw_rows(zarr_store.open_array(str(tmp_path / "a.zarr")).located)
    np.testing.assert_array_equal(raw_rows(sent(stored, 500).located), expected)


def test_directories_that_are_no_store(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "frame.png").write_bytes(b"png")
    (tmp_path / "file.zarr").write_bytes(b"x")
    assert not zarr_store.matches(tmp_path / "empty") and not zarr_store.matches(tmp_path / "file.zarr")
    for name, error, found in [
        ("gone", NotFoundError, "does not exist"),
        ("empty", DamagedFileError, "it is empty"),
        ("other", DamagedFileError, r"expected one of zarr.json, .zarray, .zgroup in it, found frame.png"),
        ("file.zarr", DamagedFileError, "is a file; expected the directory"),
    ]:
        for call in (zarr_store.open_array, zarr_store.list_arrays):
            with pytest.raises(error, match=found):
                call(tmp_path / name)
    zarr.open_group(LocalStore(tmp_path / "group"), mode="w")
    with pytest.raises(KeyNotFoundError, match="a group that holds no arrays"):
        zarr_store.open_array(tmp_path / "group")
    assert zarr_store.list_arrays(tmp_path / "group") == []


@pytest.mark.parametrize(
    "text", ["{nope", "", "[]", "null", '{"zarr_format": 3}', '{"zarr_format": 9, "node_type": "array"}', "[" * 100_000]
)
def test_corrupt_metadata_is_named(tmp_path, text):
    make(tmp_path / "a.zarr", np.arange(6.0))
    (tmp_path / "a.zarr" / "zarr.json").write_text(text)
    with pytest.raises(DamagedFileError, match=r"zarr.json is not Zarr metadata"):
        zarr_store.open_array(tmp_path / "a.zarr")


@pytest.mark.parametrize("missing", ["shape", "data_type", "codecs", "chunk_grid", "fill_value"])
def test_incomplete_metadata_is_an_error_that_names_the_store(tmp_path, missing):
    make(tmp_path / "a.zarr", np.arange(6.0))
    path = tmp_path / "a.zarr" / "zarr.json"
    metadata = json.loads(path.read_text())
    del metadata[missing]
    path.write_text(json.dumps(metadata))
    with pytest.raises(DamagedFileError, match=r"a.zarr cannot be read"):
        zarr_store.open_array(tmp_path / "a.zarr")


def test_one_damaged_array_does_not_hide_the_others(tmp_path):
    make(tmp_path / "a.zarr", np.arange(6.0), key="good")
    make(tmp_path / "a.zarr", np.arange(6.0), key="bad")
    (tmp_path / "a.zarr" / "bad" / "zarr.json").write_text("{")
    bad, good = zarr_store.list_arrays(tmp_path / "a.zarr")
    assert good.key == "good" and good.shape == (6,)
    assert bad.key == "bad" and bad.dtype == "unknown" and "is not Zarr metadata" in bad.storage


def test_a_damaged_chunk_is_an_error_that_says_where(tmp_path):
    make(tmp_path / "a.zarr", sample_values((9, 4), "f4"), compressors="auto")
    stored = zarr_store.open_array(tmp_path / "a.zarr")
    chunk = tmp_path / "a.zarr" / "c" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    stored.read_box((slice(0, 3), slice(0, 4)), np.empty((3, 4), "f4"))
    with pytest.raises(DamagedFileError, match=r"a.zarr, region .*slice\(2, 5.* cannot be read"):
        stored.read_box((slice(2, 5), slice(0, 4)), np.empty((3, 4), "f4"))


# --- hostile stores ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["../b.zarr", "x/../../b.zarr", "..", "x//..", "./x", "x\\..\\..", "x\0"])
def test_keys_that_leave_the_store_are_refused(tmp_path, key):
    make(tmp_path / "a.zarr", np.arange(6.0), key="x")
    make(tmp_path / "b.zarr", np.arange(6.0))
    for call in (zarr_store.open_array, zarr_store.list_arrays):
        with pytest.raises(UnsafeFileError, match="not a path inside the store"):
            call(tmp_path / "a.zarr", key)
    with pytest.raises(UnsafeFileError, match="not a path inside the store"):
        zarr_writer.create(tmp_path / "a.zarr", key, NewArray((2,), np.dtype("f4")))


@pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")
def test_links_out_of_the_store_are_neither_opened_nor_listed(tmp_path):
    make(tmp_path / "a.zarr", np.arange(6.0), key="x")
    make(tmp_path / "secret.zarr", np.arange(6.0))
    os.symlink(tmp_path / "secret.zarr", tmp_path / "a.zarr" / "y")
    os.symlink(tmp_path / "a.zarr", tmp_path / "a.zarr" / "loop")
    with pytest.raises(UnsafeFileError, match="a link that leads out of the store"):
        zarr_store.open_array(tmp_path / "a.zarr", "y")
    assert [found.key for found in zarr_store.list_arrays(tmp_path / "a.zarr")] == ["x"]
    os.symlink(tmp_path / "a.zarr", tmp_path / "link.zarr")  # the store itself may be reached through a link
    assert zarr_store.open_array(tmp_path / "link.zarr").shape == (6,)


def test_codecs_that_run_code_are_refused_before_zarr_sees_them(tmp_path):
    make(tmp_path / "a.zarr", np.arange(6.0), 2)
    edit(tmp_path / "a.zarr" / ".zarray", dtype="|O", filters=[{"id": "pickle", "protocol": 5}])
    with pytest.raises(UnsafeFileError, match="codec 'pickle', which runs code"):
        zarr_store.open_array(tmp_path / "a.zarr")
    (listing,) = zarr_store.list_arrays(tmp_path / "a.zarr")
    assert "runs code" in listing.storage


def test_a_declared_size_beyond_reason_reads_no_more_than_asked(tmp_path):
    make(tmp_path / "a.zarr", sample_values((6, 2), "f8"))
    edit(tmp_path / "a.zarr" / "zarr.json", shape=[10**15, 2])
    stored = zarr_store.open_array(tmp_path / "a.zarr")
    assert stored.located.place((10**15 - 1) // 3).path.endswith("/c/333333333333333/0")
    box = np.ones((2, 2))
    stored.read_box((slice(10**14, 10**14 + 2), slice(0, 2)), box)
    np.testing.assert_array_equal(box, np.zeros((2, 2)))


def strings(path):
    zarr.create_array(LocalStore(path), shape=(3,), dtype="str", chunks=(2,))


def fixed_unicode(path):
    zarr.create_array(LocalStore(path), shape=(3,), dtype="U4", chunks=(2,), zarr_format=2)


def compound(path):
    zarr.create_array(LocalStore(path), shape=(3,), dtype=[("a", "i4"), ("b", "f4")], chunks=(2,), zarr_format=2)


@pytest.mark.parametrize(
    ("write", "found"), [(strings, "StringDType|object dtype"), (fixed_unicode, "unicode"), (compound, "compound")]
)
def test_other_dtypes_are_refused_and_listed_in_words(tmp_path, write, found):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(tmp_path / "a.zarr")
    with pytest.raises(InvalidTypeError, match=found):
        zarr_store.open_array(tmp_path / "a.zarr")
    (listing,) = zarr_store.list_arrays(tmp_path / "a.zarr")
    assert isinstance(listing.dtype, str) and listing.shape == (3,)


# --- live objects, and no zarr ------------------------------------------------------------------------------------------


def test_live_arrays_from_a_directory_are_opened_by_path(tmp_path):
    values = sample_values((9, 4), "f4")
    array = make(tmp_path / "a.zarr", values, key="g/x")
    assert zarr_store.is_live(array) and not zarr_store.is_live(values)
    for live in (array, zarr.open_group(LocalStore(tmp_path / "a.zarr"))):
        stored = zarr_store.from_live(live)
        assert stored.name == f"{tmp_path / 'a.zarr'}::/g/x"
        np.testing.assert_array_equal(raw_rows(pickle.loads(pickle.dumps(stored)).located).reshape(9, 4), values)


def test_live_arrays_elsewhere_are_read_through_the_handle_and_do_not_pickle():
    values = sample_values((9, 4), "f4")
    array = zarr.create_array(MemoryStore(), name="x", shape=(9, 4), dtype="f4", chunks=(2, 4))
    array[:] = values
    stored = zarr_store.from_live(array)
    assert stored.name == "MemoryStore::/x" and stored.located is None and stored.why_not == "its chunks live in a MemoryStore"
    box = np.empty((3, 4), "f4")
    stored.read_box((slice(4, 7), slice(0, 4)), box)
    np.testing.assert_array_equal(box, values[4:7])
    with pytest.raises(InvalidTypeError, match="MemoryStore::/x cannot be sent to another process"):
        pickle.dumps(stored)
    with pytest.raises(InvalidTypeError, match="give one of its arrays: x"):
        zarr_store.from_live(zarr.open_group(array.store))
    with pytest.raises(InvalidTypeError, match="a ndarray is not a zarr array"):
        zarr_store.from_live(values)


def test_without_zarr_the_extra_is_named(tmp_path, monkeypatch):
    make(tmp_path / "a.zarr", np.arange(6.0))
    monkeypatch.setitem(sys.modules, "zarr", None)
    assert zarr_store.matches(tmp_path / "a.zarr") and not zarr_store.is_live(np.zeros(2))
    for call in (zarr_store.open_array, zarr_store.list_arrays):
        with pytest.raises(MissingPackageError, match=r"pip install 'mmapstore\[zarr\]'"):
            call(tmp_path / "a.zarr")
    with pytest.raises(MissingPackageError, match="zarr"):
        zarr_writer.create(tmp_path / "b.zarr", None, NewArray((2,), np.dtype("f4")))


def test_importing_the_module_loads_no_zarr(tmp_path):
    calls = "import sys; import mmapstore.formats.zarr_store as z; z.matches('.'); z.is_live(1)"
    code = f"{calls}; assert not {{'zarr', 'numcodecs'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
