"""HDF5 files as stored arrays: what h5py wrote is read alike, by places and through h5py; what is hostile or broken is named."""

import contextlib
import errno
import gc
import itertools
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_bytes import raw_rows

from mmapstore.formats import hdf5_file, hdf5_writer
from mmapstore.formats.contract import Listing, NewArray
from mmapstore.formats.hdf5_library import explaining_read_errors
from mmapstore.plain.errors import (
    DamagedFileError,
    InvalidTypeError,
    InvalidValueError,
    KeyNotFoundError,
    LockedFileError,
    MissingPackageError,
    MmapstoreError,
    NotFoundError,
    StateMismatchError,
    TargetExistsError,
    UnsafeFileError,
    WriteError,
)

NUMBERS = itertools.count()
FRAMES = np.random.default_rng(0).integers(0, 200, (10, 3, 4, 5)).astype(np.float32)


def written(path, data=FRAMES, key="frames", **options):
    with h5py.File(path, "w", userblock_size=options.pop("userblock", 0)) as file:
        file.create_dataset(key, data=data, **options)
    return os.fspath(path)


def read_all(array):
    out = np.full(array.shape, 99, array.dtype.newbyteorder("="))
    array.read_box(tuple(slice(0, n) for n in array.shape), out)
    return out


def located_bytes(array):
    return raw_rows(array.located).reshape(array.shape)


def run_child(code, *arguments, wait=True):
    """A second Python process. It prints "ready" when it has done what `code` says, and is then the caller's."""
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if wait:
        assert child.stdout.readline().strip() == "ready"
    return child


def end_child(child):
    child.kill()
    child.communicate()


# --- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "<i2", ">i4", "uint64", "float16", "<f4", ">f8", "complex64", "S3"])
@pytest.mark.parametrize("userblock", [0, 1024])
def test_contiguous_bytes_are_h5pys_values(tmp_path, dtype, userblock):
    data = np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 100, (6, 2, 3)).astype(dtype)
    path = written(tmp_path / "a.h5", data, userblock=userblock)
    array = hdf5_file.open_array(path)
    assert (array.shape, array.dtype, array.chunks, array.storage) == ((6, 2, 3), np.dtype(dtype), None, "contiguous")
    assert array.name == f"{path}::/frames"
    assert array.located.offset is not None
    assert array.why_not == ""
    np.testing.assert_array_equal(located_bytes(array), data)
    np.testing.assert_array_equal(read_all(array), data)


@pytest.mark.parametrize("dtype", ["bool", ">i2", "float16", "float64"])
@pytest.mark.parametrize("userblock", [0, 512])
def test_plain_chunks_of_whole_rows_are_read_where_they_lie(tmp_path, dtype, userblock):
    data = np.random.default_rng(1).integers(0, 2, (10, 3, 4)).astype(dtype)
    path = written(tmp_path / "a.h5", data, chunks=(4, 3, 4), userblock=userblock)
    array = hdf5_file.open_array(path, "frames")
    assert array.storage == "chunks of (4, 3, 4), uncompressed"
    assert len(array.located.grid) == 3
    np.testing.assert_array_equal(located_bytes(array), data)
    np.testing.assert_array_equal(read_all(array), data)


def test_chunks_never_stored_are_the_fill_value(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("frames", (10, 2), np.int32, chunks=(2, 2), fillvalue=7)[4:6] = 1
    array = hdf5_file.open_array(str(tmp_path / "a.h5"))
    assert (array.located.index.offsets >= 0).tolist() == [False, False, True, False, False]
    assert array.located.fill == 7
    expected = np.full((10, 2), 7)
    expected[4:6] = 1
    np.testing.assert_array_equal(located_bytes(array), expected)
    np.testing.assert_array_equal(read_all(array), expected)


@pytest.mark.parametrize("chunks", [None, (2, 2)])
def test_values_never_stored_do_not_show_old_contents_of_the_buffer(tmp_path, chunks):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    if chunks:
        plist.set_chunk(chunks)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.h5d.create(file.id, b"frames", h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((6, 2)), plist)
    array = hdf5_file.open_array(str(tmp_path / "a.h5"))
    assert not read_all(array).any()
    out = np.full((6, 2), 99.0)
    array.read_box((slice(0, 6), slice(0, 2)), out)
    assert not out.any()


def test_unallocated_dataset_behind_a_user_block_is_not_taken_for_bytes(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=1024) as file:
        file.create_dataset("frames", (1000, 2), np.int32, fillvalue=3)
    array = hdf5_file.open_array(str(tmp_path / "a.h5"))
    assert array.located is None
    assert array.why_not == "nothing of it is stored yet"
    assert array.storage.startswith("contiguous, nothing stored yet")
    assert (read_all(array) == 3).all()


@pytest.mark.parametrize(
    ("options", "storage"),
    [
        ({"compression": "gzip", "shuffle": True, "chunks": (4, 3, 4, 5)}, "gzip 4 after shuffle"),
        ({"compression": "lzf", "fletcher32": True, "chunks": (4, 3, 4, 5)}, "lzf, with checksums"),
        ({"fletcher32": True, "chunks": (4, 3, 4, 5)}, "uncompressed, with checksums"),
        ({"chunks": (4, 3, 2, 5)}, "uncompressed"),
        ({"chunks": (16, 3, 4, 8), "maxshape": (None, 3, 4, None)}, "uncompressed"),
    ],
)
def test_encoded_or_split_chunks_have_no_raw_rows_but_read_right(tmp_path, options, storage):
    array = hdf5_file.open_array(written(tmp_path / "a.h5", **options))
    assert not array.located.has_rows
    assert array.storage == f"chunks of {options['chunks']}, {storage}"
    np.testing.assert_array_equal(read_all(array), FRAMES)
    out = np.empty((3, 2, 4, 5), np.float32)
    array.read_box((slice(2, 5), slice(1, 3), slice(0, 4), slice(0, 5)), out)
    np.testing.assert_array_equal(out, FRAMES[2:5, 1:3])


def test_boxes_are_cast_as_numpy_casts_and_into_strided_buffers(tmp_path):
    data = np.linspace(-1e5, 1e5, 5000 * 90, dtype=np.float64).reshape(5000, 90)
    path = written(tmp_path / "a.h5", data, chunks=(7, 90), compression="lzf")
    array = hdf5_file.open_array(path)
    with np.errstate(over="ignore", invalid="ignore"):
        for dtype in (np.float32, np.float16, np.int32):
            out = np.zeros((4901, 90), dtype)
            array.read_box((slice(13, 4914), slice(0, 90)), out)
            np.testing.assert_array_equal(out, data[13:4914].astype(dtype))
    strided = np.zeros((90, 20)).T
    array.read_box((slice(5, 25), slice(0, 90)), strided)
    np.testing.assert_array_equal(strided, data[5:25])


def test_chunk_larger_than_the_librarys_cache_is_decoded_once(tmp_path):
    path = written(tmp_path / "a.h5", np.zeros((8, 200_000), np.float32), chunks=(4, 200_000), compression="gzip")
    array = hdf5_file.open_array(path)
    assert array.cache_nbytes == 4 * 200_000 * 4
    assert not read_all(array).any()


def test_scalar_empty_and_compact_datasets(tmp_path):
    path = str(tmp_path / "a.h5")
    compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    compact.set_layout(h5py.h5d.COMPACT)
    with h5py.File(path, "w") as file:
        file["scalar"] = 2.5
        file["nothing"] = np.zeros((0, 3))
        file["null"] = h5py.Empty("f4")
        h5py.h5d.create(file.id, b"compact", h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((3,)), compact)
        file["compact"][:] = [1, 2, 3]
    scalar = hdf5_file.open_array(path, "scalar")
    assert (scalar.shape, scalar.located, scalar.why_not) == ((), None, "it is a scalar")
    assert read_all(scalar) == 2.5
    as_float32 = np.empty((), np.float32)
    scalar.read_box((), as_float32)
    assert as_float32 == 2.5
    nothing = hdf5_file.open_array(path, "nothing")
    assert (nothing.shape, nothing.located, nothing.why_not) == ((0, 3), None, "it holds no values")
    assert read_all(nothing).shape == (0, 3)
    small = hdf5_file.open_array(path, "compact")
    assert (small.located, read_all(small).tolist()) == (None, [1, 2, 3])
    with pytest.raises(InvalidValueError, match="null dataspace"):
        hdf5_file.open_array(path, "null")


@given(
    texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4), min_size=1, max_size=9),
    padding=st.sampled_from([h5py.h5t.STR_NULLTERM, h5py.h5t.STR_NULLPAD, h5py.h5t.STR_SPACEPAD]),
    is_utf8=st.booleans(),
    chunks=st.sampled_from([None, 1, 4]),
)
def test_text_of_fixed_width_is_h5pys(tmp_path, texts, padding, is_utf8, chunks):
    path = tmp_path / f"{next(NUMBERS)}.h5"  # an example that failed still holds its own open
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(20)
    kind.set_strpad(padding)
    kind.set_cset(h5py.h5t.CSET_UTF8 if is_utf8 else h5py.h5t.CSET_ASCII)
    with h5py.File(path, "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        if chunks:
            plist.set_chunk((min(chunks, len(texts)),))
            plist.set_deflate(1)
        h5py.h5d.create(file.id, b"s", kind, h5py.h5s.create_simple((len(texts),)), plist)
        file["s"][:] = np.array([text.encode() for text in texts], file["s"].dtype)
    with h5py.File(path) as file:
        expected = file["s"][:]
    array = hdf5_file.open_array(path)
    np.testing.assert_array_equal(read_all(array), expected)
    strided = np.empty((len(texts), 2), array.dtype)[:, 0]  # which has to be cast to
    array.read_box((slice(0, len(texts)),), strided)
    np.testing.assert_array_equal(strided, expected)


@pytest.mark.parametrize("dtype", ["<f4", ">f8"])
@pytest.mark.parametrize("sign", [0, 1, 2, 148433160, 2**32 - 1])
def test_scale_offset_of_floats_has_any_sign(tmp_path, dtype, sign):
    """HDF5 writes there what lay in memory."""
    values = np.linspace(-3, 3, 24).round(2).reshape(4, 6)
    path = written(tmp_path / "a.h5", values.astype(dtype), chunks=(2, 6), scaleoffset=2)
    with h5py.File(path) as file:
        settings = file["frames"].id.get_create_plist().get_filter(0)[2]
    head = np.array(settings[:5], "<u4").tobytes()
    content = Path(path).read_bytes()
    assert content.count(head) == 1
    at = content.index(head) + len(head)
    Path(path).write_bytes(content[:at] + sign.to_bytes(4, "little") + content[at + 4 :])
    with h5py.File(path) as file:
        assert file["frames"].id.get_create_plist().get_filter(0)[2][5] == sign
        expected = file["frames"][:]
    np.testing.assert_allclose(read_all(hdf5_file.open_array(path)), values, atol=0.006)
    np.testing.assert_array_equal(read_all(hdf5_file.open_array(path)), expected)


def test_numbers_numpy_lacks_are_converted_by_hdf5(tmp_path):
    narrow = h5py.h5t.STD_I16LE.copy()
    narrow.set_precision(12)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.h5d.create(file.id, b"narrow", narrow, h5py.h5s.create_simple((4,)))
        file["narrow"][:] = [1, -2, 3, -4]
        file["enum"] = np.array([0, 5, 0], h5py.enum_dtype({"A": 0, "B": 5}, "i2"))
    narrow = hdf5_file.open_array(str(tmp_path / "a.h5"), "narrow")
    assert narrow.located is None
    assert "not stored as plain int16" in narrow.why_not
    assert read_all(narrow).tolist() == [1, -2, 3, -4]
    enum = hdf5_file.open_array(str(tmp_path / "a.h5"), "enum")
    assert (enum.dtype, located_bytes(enum).tolist(), read_all(enum).tolist()) == (np.int16, [0, 5, 0], [0, 5, 0])


def test_files_of_pytables_are_read(tmp_path):
    tables = pytest.importorskip("tables")
    with tables.open_file(tmp_path / "a.h5", "w") as file:
        file.create_carray("/", "mask", obj=np.array([[True, False], [False, True]]))
        file.create_earray("/", "frames", obj=FRAMES)
    for key, expected in (("mask", [[1, 0], [0, 1]]), ("frames", FRAMES)):
        np.testing.assert_array_equal(read_all(hdf5_file.open_array(str(tmp_path / "a.h5"), key)), expected)


# --- names inside the file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("userblock", [0, 512, 2048])
def test_recognised_by_content(tmp_path, userblock):
    assert hdf5_file.matches(written(tmp_path / "a.bin", userblock=userblock))
    (tmp_path / "b.h5").write_bytes(b"\x93NUMPY" + bytes(3000))
    assert not hdf5_file.matches(str(tmp_path / "b.h5"))
    assert not hdf5_file.matches(str(tmp_path / "missing.h5"))
    assert not hdf5_file.matches(str(tmp_path))


def many(path):
    with h5py.File(path, "w") as file:
        file["run/frames"] = FRAMES
        file["run/labels"] = np.arange(10)
        file["other/only"] = np.arange(3.0)
        file["text"] = np.array(["a", "b"], h5py.string_dtype())
        file["pairs"] = np.zeros(2, [("a", "i4"), ("b", "f4")])
        file["ragged"] = np.array([np.arange(2), np.arange(3)], h5py.vlen_dtype(np.int64))
        file["soft"] = h5py.SoftLink("/run/frames")
        file["relative"] = h5py.SoftLink("run")
        file["dangling"] = h5py.SoftLink("/nowhere")
        file["round"] = h5py.SoftLink("/round")
        file.create_group("bare")
        file["run/dtype"] = np.dtype("f4")
    return os.fspath(path)


def test_listing_shows_all_that_lies_in_the_file(tmp_path):
    path = many(tmp_path / "a.h5")
    found = {listing.key: listing for listing in hdf5_file.list_arrays(path)}
    assert list(found) == ["other/only", "pairs", "ragged", "run/frames", "run/labels", "text"]
    assert found["run/frames"] == Listing("run/frames", (10, 3, 4, 5), np.dtype("f4"), "contiguous")
    assert found["text"].dtype == "variable-length text"
    assert found["ragged"].dtype == "variable-length runs of int64"
    assert found["pairs"].dtype.startswith("compound")
    assert [listing.key for listing in hdf5_file.list_arrays(path, "run")] == ["run/frames", "run/labels"]
    assert [listing.key for listing in hdf5_file.list_arrays(path, "/other/only")] == ["other/only"]
    with pytest.raises(KeyNotFoundError, match="no dataset or group 'runn'"):
        hdf5_file.list_arrays(path, "runn")


def test_key_may_be_left_out_where_there_is_one_dataset(tmp_path):
    path = many(tmp_path / "a.h5")
    assert hdf5_file.open_array(path, "other").name == f"{path}::/other/only"
    assert hdf5_file.open_array(path, "/soft").shape == FRAMES.shape
    assert hdf5_file.open_array(path, "relative/labels").shape == (10,)
    with pytest.raises(KeyNotFoundError) as error:
        hdf5_file.open_array(path)
    assert "holds 6 datasets; say which one, as in open(" in str(error.value)
    assert f'{path}::/other/only"' in str(error.value)
    assert "/run/frames  (10, 3, 4, 5)  float32" in str(error.value)
    with pytest.raises(KeyNotFoundError, match="holds no dataset in the group /bare"):
        hdf5_file.open_array(path, "bare")
    with h5py.File(tmp_path / "b.h5", "w"):
        pass
    with pytest.raises(KeyNotFoundError, match=r"b\.h5 holds no dataset; expected at least one"):
        hdf5_file.open_array(str(tmp_path / "b.h5"))


@pytest.mark.parametrize("key", ["frame", "run/frams", "run/frames/deeper", "dangling", "run/dtype", "../run/frames"])
def test_wrong_key_lists_what_is_there_likeliest_first(tmp_path, key):
    path = many(tmp_path / "a.h5")
    with pytest.raises(KeyNotFoundError, match="expected one of these") as error:
        hdf5_file.open_array(path, key)
    lines = str(error.value).splitlines()
    assert repr(key) in lines[0]
    assert len(lines) == 7
    if "fram" in key:
        assert lines[1].startswith("  /run/frames")


@pytest.mark.parametrize(("key", "found"), [("text", "an object dtype"), ("pairs", "a compound"), ("ragged", "an object dtype")])
def test_dtypes_that_are_no_numbers_are_refused(tmp_path, key, found):
    with pytest.raises(InvalidTypeError, match=f"::/{key} has {found}"):
        hdf5_file.open_array(many(tmp_path / "a.h5"), key)


# --- hostile and damaged files -----------------------------------------------------------------------------------------


def test_links_out_of_the_file_are_refused_wherever_they_stand(tmp_path):
    secret = written(tmp_path / "secret.h5", key="group/frames")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["last"] = h5py.ExternalLink(secret, "/group/frames")
        file["middle"] = h5py.ExternalLink(secret, "/group")
        file["soft"] = h5py.SoftLink("/middle/frames")
        file["round"] = h5py.SoftLink("/round")
        file["mine"] = np.arange(3)
    path = str(tmp_path / "a.h5")
    for key in ("last", "middle", "middle/frames", "soft"):
        with pytest.raises(UnsafeFileError, match=r"is a link to another file \('.*secret.h5', '/group"):
            hdf5_file.open_array(path, key)
    with pytest.raises(UnsafeFileError, match="another file"):
        hdf5_file.list_arrays(path, "middle")
    with pytest.raises(UnsafeFileError, match="go round in a circle"):
        hdf5_file.open_array(path, "round")
    assert [listing.key for listing in hdf5_file.list_arrays(path)] == ["mine"]


def test_bytes_in_other_files_are_refused(tmp_path):
    written(tmp_path / "source.h5")
    (tmp_path / "secret").write_bytes(bytes(100))
    virtual = h5py.VirtualLayout((10, 3, 4, 5), np.float32)
    virtual[:] = h5py.VirtualSource(str(tmp_path / "source.h5"), "frames", (10, 3, 4, 5))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("external", (10,), np.uint8, external=[(str(tmp_path / "secret"), 0, 100)])
        file.create_virtual_dataset("virtual", virtual)
    path = str(tmp_path / "a.h5")
    with pytest.raises(UnsafeFileError, match="keeps its bytes in other files"):
        hdf5_file.open_array(path, "external")
    with pytest.raises(UnsafeFileError, match=r"virtual dataset put together from others \('.*source\.h5'\)"):
        hdf5_file.open_array(path, "virtual")
    assert [listing.storage.split(":")[0] for listing in hdf5_file.list_arrays(path)] == ["external", "virtual"]
    with h5py.File(path, "r") as file, pytest.raises(UnsafeFileError, match="virtual dataset"):
        hdf5_file.from_live(file["virtual"])


@pytest.mark.parametrize("options", [{}, {"chunks": (2, 3, 4, 5)}, {"chunks": (2, 3, 4, 5), "compression": "gzip"}])
def test_truncated_at_any_length(tmp_path, options):
    whole = Path(written(tmp_path / "whole.h5", **options)).read_bytes()
    path = tmp_path / "a.h5"
    for length in [0, 3, 8, 20, 60, 100, 500, 1000, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError) as error:
            hdf5_file.open_array(str(path))
        assert str(path) in str(error.value)
        assert "expected" in str(error.value)
        assert "found" in str(error.value) or "HDF5 cannot read it" in str(error.value)
    with pytest.raises(DamagedFileError, match=rf"found {len(whole) - 1} bytes, expected {len(whole)}"):
        hdf5_file.open_array(str(path))


def test_truncated_with_a_header_that_denies_it(tmp_path):
    path = written(tmp_path / "a.h5")
    data = bytearray(Path(path).read_bytes())
    end = data.index(len(data).to_bytes(8, "little"))  # end of file in the superblock
    cut = len(data) - 100
    data[end : end + 8] = cut.to_bytes(8, "little")
    Path(path).write_bytes(data[:cut])
    with pytest.raises(DamagedFileError, match=r"declares 2400 bytes at offset|invalid dataset size"):
        hdf5_file.open_array(path)


def test_chunk_said_to_lie_past_the_end_of_the_file(tmp_path):
    path = written(tmp_path / "a.h5", chunks=(5, 3, 4, 5))
    with h5py.File(path) as file:
        offset = file["frames"].id.get_chunk_info(1).byte_offset
    data = bytearray(Path(path).read_bytes())
    at = data.index(offset.to_bytes(8, "little"))
    data[at : at + 8] = (len(data) - 8).to_bytes(8, "little")
    Path(path).write_bytes(data)
    with pytest.raises(DamagedFileError, match=r"the chunk at \(5, 0, 0, 0\) is said to be 1200 bytes at offset"):
        _ = hdf5_file.open_array(path).located


def test_names_that_are_no_utf8(tmp_path):
    path = written(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file.move("frames", b"\xff/fr\xe4mes")
    (listed,) = hdf5_file.list_arrays(path)
    assert listed.key == "\udcff/fr\udce4mes"
    assert hdf5_file.open_array(path, listed.key).shape == FRAMES.shape


def test_file_of_another_kind_missing_or_a_directory(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"GIF89a" + bytes(2000))
    with pytest.raises(DamagedFileError, match=r"is not an HDF5 file: expected the HDF5 signature .* found 47 49 46 38"):
        hdf5_file.open_array(str(tmp_path / "a.h5"))
    with pytest.raises(NotFoundError, match=r"missing\.h5 does not exist"):
        hdf5_file.open_array(str(tmp_path / "missing.h5"))
    with pytest.raises(DamagedFileError, match="is a directory"):
        hdf5_file.open_array(str(tmp_path))


def test_corrupt_chunk_is_named(tmp_path):
    path = written(tmp_path / "a.h5", chunks=(10, 3, 4, 5), compression="gzip")
    with h5py.File(path) as file:
        chunk = file["frames"].id.get_chunk_info(0)
    data = bytearray(Path(path).read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    Path(path).write_bytes(data)
    array = hdf5_file.open_array(path)
    with pytest.raises(DamagedFileError, match=r"a\.h5::/frames is damaged"):
        read_all(array)


def test_filter_that_is_not_installed_is_named(tmp_path):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((5,))
    plist.set_filter(31999, h5py.h5z.FLAG_OPTIONAL)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.h5d.create(file.id, b"frames", h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((5,)), plist)
    array = hdf5_file.open_array(str(tmp_path / "a.h5"))  # whoever can decode it needs no filter
    with pytest.raises(MissingPackageError, match=r"HDF5 filter 31999.*lacks here\. Its maker has a plug-in .*HDF5_PLUGIN_PATH"):
        array.require_codecs()
    with pytest.raises(MissingPackageError, match=r"a\.h5::/frames is compressed with filter 31999"):
        array.read_box((slice(0, 5),), np.empty(5, np.int32))


# --- locks -------------------------------------------------------------------------------------------------------------

WRITER = """
    import h5py, sys
    file = h5py.File(sys.argv[1], "w", libver=sys.argv[2] or None)
    file.create_dataset("frames", data=[[1.0, 2.0], [3.0, 4.0]], chunks=(1, 2), maxshape=(None, 2))
    file.flush()
    if sys.argv[3]:
        file.swmr_mode = True
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_file_that_another_process_writes_is_refused_with_the_cause(tmp_path):
    path = str(tmp_path / "a.h5")
    child = run_child(WRITER, path, "", "")
    try:
        for attempt in (
            lambda: hdf5_file.open_array(path),
            lambda: hdf5_file.list_arrays(path),
            lambda: hdf5_writer.create(path, "x", NewArray((1,), np.dtype("f4"))),
        ):
            with pytest.raises(LockedFileError, match=r"held by another program.*Close it there.*swmr_mode.*HDF5_USE_FILE_LOCKING"):
                attempt()
    finally:
        end_child(child)
    assert hdf5_file.open_array(path).shape == (2, 2)


def test_file_written_for_sharing_is_read_along_but_never_mapped(tmp_path):
    path = str(tmp_path / "a.h5")
    child = run_child(WRITER, path, "latest", "swmr")
    try:
        array = hdf5_file.open_array(path)
        assert read_all(array).tolist() == [[1.0, 2.0], [3.0, 4.0]]
        assert array.located is None
        assert "is being written" in array.why_not
    finally:
        end_child(child)


def test_mark_left_by_a_writer_that_died_is_explained(tmp_path):
    path = str(tmp_path / "a.h5")
    end_child(run_child(WRITER, path, "latest", ""))
    with pytest.raises(LockedFileError, match=r"died while it had.*h5clear -s"):
        hdf5_file.open_array(path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_named(number):
    text = f"Unable to synchronously open file (unable to lock file, errno = {number}, error message = '...')"
    with (
        pytest.raises(LockedFileError, match=r"its file system refuses file locks .*HDF5_USE_FILE_LOCKING=FALSE.*The risk"),
        explaining_read_errors("a.h5"),
    ):
        raise OSError(text)


def test_file_this_process_reads_is_not_written(tmp_path):
    path = written(tmp_path / "a.h5")
    array = hdf5_file.open_array(path)
    with pytest.raises(LockedFileError, match="this process has it open for reading"):
        hdf5_writer.create(path, "x", NewArray((1,), np.dtype("f4")))
    del array
    hdf5_writer.create(path, "x", NewArray((1,), np.dtype("f4"))).close()


# --- live objects, processes, descriptors ------------------------------------------------------------------------------


def test_live_dataset_of_an_ordinary_file_is_opened_by_path(tmp_path, monkeypatch):
    path = written(tmp_path / "a.h5", key="group/frames")
    monkeypatch.chdir(tmp_path)
    with h5py.File("a.h5", "r") as file:
        assert hdf5_file.is_live(file["group/frames"])
        array = hdf5_file.from_live(file["group/frames"])
    assert array.name == f"{path}::/group/frames"
    assert array.located is not None
    np.testing.assert_array_equal(read_all(pickle.loads(pickle.dumps(array))), FRAMES)
    assert not hdf5_file.is_live(FRAMES)


def test_live_dataset_that_is_being_written_is_read_through_the_object(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("frames", data=FRAMES)
        array = hdf5_file.from_live(dataset)
        by_path = hdf5_file.open_array(str(tmp_path / "a.h5"))
        dataset[0] = -5
        assert (read_all(array)[0] == -5).all()
        assert (read_all(by_path)[0] == -5).all()
        assert array.located is None
        assert by_path.located is None
        assert "open for writing in this process" in array.why_not
        with pytest.raises(InvalidTypeError, match=r"Close the file and open it by path instead: open\('.*a\.h5::/frames'\)"):
            pickle.dumps(array)
    with pytest.raises(InvalidValueError, match="its file was closed"):
        read_all(array)
    with pytest.raises(InvalidValueError, match="belongs to a file that is closed"):
        hdf5_file.from_live(dataset)


def test_live_dataset_in_memory(tmp_path):
    with h5py.File("memory.h5", "w", driver="core", backing_store=False) as file:
        file["frames"] = FRAMES
        array = hdf5_file.from_live(file["frames"])
        np.testing.assert_array_equal(read_all(array), FRAMES)
        assert array.why_not == "its file is not an ordinary one on disk"
        with pytest.raises(InvalidTypeError, match="cannot be sent to another process"):
            pickle.dumps(array)


def test_asking_whether_an_object_is_live_loads_nothing():
    code = "import sys; from mmapstore.formats import hdf5_file as h; assert not h.is_live(1) and not h.matches('x'); "
    code += "assert 'h5py' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pickles_by_path(tmp_path):
    array = hdf5_file.open_array(written(tmp_path / "a.h5", np.zeros((1000, 1000)), compression="gzip"))
    data = pickle.dumps(array)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert (again.name, again.shape, again.storage) == (array.name, array.shape, array.storage)
    assert not read_all(again).any()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_opens_the_file_anew(tmp_path):
    written(tmp_path / "a.h5", compression="gzip")
    code = """
        import os, sys, warnings
        import numpy as np
        from mmapstore.formats import hdf5_file
        warnings.simplefilter("ignore")
        array = hdf5_file.open_array(sys.argv[1])
        expected = np.empty(array.shape, array.dtype)
        box = tuple(slice(0, n) for n in array.shape)
        array.read_box(box, expected)
        before = array._opened
        child = os.fork()
        out = np.empty_like(expected)
        array.read_box(box, out)
        assert (out == expected).all()
        if child == 0:
            assert array._opened is not before and array._opened.pid == os.getpid()
            os._exit(7)
        assert array._opened is before
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        array.read_box(box, out)
        try:                                   # the child's end did not take our lock away
            import fcntl
            with open(sys.argv[1], "rb") as other:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            raise AssertionError("the lock is gone")
        except BlockingIOError:
            print("ready", flush=True)
    """
    child = run_child(code, tmp_path / "a.h5")
    assert child.wait(30) == 0
    child.communicate()


def open_files(folder):
    links = [os.path.join("/proc/self/fd", number) for number in os.listdir("/proc/self/fd")]
    return [target for target in (os.readlink(link) for link in links if os.path.lexists(link)) if target.startswith(str(folder))]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_descriptors_are_few_and_closed_with_the_object(tmp_path):
    arrays = [hdf5_file.open_array(written(tmp_path / f"{i}.h5", np.full((3, 2), i))) for i in range(100)]
    assert len(open_files(tmp_path)) == 8
    assert [int(read_all(array)[0, 0]) for array in arrays] == list(range(100))
    assert len(open_files(tmp_path)) == 8
    del arrays
    gc.collect()
    assert open_files(tmp_path) == []
    for path, key in (("0.h5", "wrong"), ("0.h5", None)):
        with contextlib.suppress(KeyNotFoundError):
            hdf5_file.open_array(str(tmp_path / path), key)
        hdf5_file.list_arrays(str(tmp_path / path))
    gc.collect()
    assert open_files(tmp_path) == []


def test_file_replaced_while_closed_is_noticed(tmp_path):
    path = written(tmp_path / "a.h5")
    array = hdf5_file.open_array(path)
    array._opened = None
    written(path, np.zeros((4, 4)))
    with pytest.raises(
        DamagedFileError, match=r"has changed since it was opened: found \(4, 4\) float64, expected \(10, 3, 4, 5\) float32"
    ):
        read_all(array)


def test_threads_read_at_once(tmp_path):
    array = hdf5_file.open_array(written(tmp_path / "a.h5", compression="gzip", chunks=(1, 3, 4, 5)))
    wrong = []

    def read(seed):
        for row in np.random.default_rng(seed).integers(0, 10, 50):
            out = np.empty((1, 3, 4, 5), np.float32)
            array.read_box((slice(row, row + 1), slice(0, 3), slice(0, 4), slice(0, 5)), out)
            if not (out[0] == FRAMES[row]).all():
                wrong.append(row)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- writing -----------------------------------------------------------------------------------------------------------


def test_index_that_is_newer_than_the_end_of_the_file_is_not_gone_on_with(tmp_path):
    """A kill in the middle of a flush leaves it: HDF5 opens the file, and cannot write the last chunk again."""
    path, new = tmp_path / "a.h5", NewArray((1, 3, 4, 5), np.dtype("u1"), "gzip", 4, resizable=True)
    writer = hdf5_writer.create(path, None, new)
    writer.write(0, FRAMES[:4].astype("u1"))
    writer.close()
    whole = path.read_bytes()
    hdf5_writer.reopen(path, None, new).close()
    end = whole.index(len(whole).to_bytes(8, "little"))  # of the file, as its superblock declares it
    path.write_bytes(whole[:end] + (len(whole) - 100).to_bytes(8, "little") + whole[end + 8 :])
    with pytest.raises(StateMismatchError, match="has chunks behind the end that its file declares, as a kill leaves it"):
        hdf5_writer.reopen(path, None, new)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", ">f4"])
@pytest.mark.parametrize(("compression", "resizable"), [(None, False), (None, True), ("gzip", False), ("lzf", True)])
def test_h5py_reads_what_was_written(tmp_path, dtype, compression, resizable):
    path = str(tmp_path / "a.h5")
    data = (FRAMES % 2).astype(dtype)
    new = NewArray(data.shape, np.dtype(dtype), compression, 4, {"layout": "NCHW"}, resizable)
    writer = hdf5_writer.create(path, None, new)
    for start in range(0, 10, 3):
        writer.write(start, data[start : start + 3])
    writer.flush()
    assert os.path.getsize(path) < 20_000
    np.testing.assert_array_equal(writer.read(2, 9), data[2:9])
    writer.close()
    with h5py.File(path) as file:
        dataset = file["data"]
        assert (dataset.dtype, dataset.compression, dataset.attrs["layout"]) == (np.dtype(dtype), compression, "NCHW")
        assert dataset.chunks == (None if compression is None and not resizable else (4, 3, 4, 5))
        assert dataset.shuffle == (compression is not None and data.itemsize > 1)
        np.testing.assert_array_equal(dataset[:], data)
    array = hdf5_file.open_array(path)
    assert array.located.has_rows == (compression is None)
    np.testing.assert_array_equal(read_all(array), data)
    if compression is None:
        np.testing.assert_array_equal(located_bytes(array), data)


@pytest.mark.parametrize("compression", ["blosc", "blosc2", "bzip2", "bitshuffle", "lz4", "zstd"])
def test_plugin_compressions(tmp_path, compression):
    pytest.importorskip("hdf5plugin")
    path = str(tmp_path / "a.h5")
    writer = hdf5_writer.create(path, "frames", NewArray(FRAMES.shape, FRAMES.dtype, compression, 4))
    writer.write(0, FRAMES)
    writer.close()
    hdf5_writer.reopen(path, "frames", NewArray(FRAMES.shape, FRAMES.dtype, compression, 4)).close()
    array = hdf5_file.open_array(path)
    assert compression in array.storage
    np.testing.assert_array_equal(read_all(array), FRAMES)


def test_compressions_that_cannot_be_had(tmp_path, monkeypatch):
    with pytest.raises(
        InvalidValueError, match="compression='zip' is not known for HDF5 files; expected None or one of 'gzip', 'lzf', 'zstd'"
    ):
        hdf5_writer.create(str(tmp_path / "a.h5"), None, NewArray((3,), np.dtype("f4"), "zip"))
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(MissingPackageError, match=r"needs the package hdf5plugin.*pip install hdf5plugin; or choose 'gzip'"):
        hdf5_writer.create(str(tmp_path / "a.h5"), None, NewArray((3,), np.dtype("f4"), "zstd"))
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize(("compression", "resizable"), [(None, False), (None, True), ("gzip", False)])
@pytest.mark.parametrize("samples", [0, 1, 7, 10])
def test_truncate_keeps_the_first_samples_and_all_else(tmp_path, compression, resizable, samples):
    path = str(tmp_path / "a.h5")
    with h5py.File(path, "w") as file:
        file["group/labels"] = np.arange(5)
        file["group"].attrs["note"] = "kept"
    new = NewArray(FRAMES.shape, FRAMES.dtype, compression, 4, {"a": 1}, resizable)
    writer = hdf5_writer.create(path, "group/frames", new)
    writer.write(0, FRAMES)
    writer.truncate(samples)
    writer.flush()
    np.testing.assert_array_equal(writer.read(0, samples), FRAMES[:samples])
    with pytest.raises(InvalidValueError, match=f"has {samples} samples; cannot keep the first 11"):
        writer.truncate(11)
    writer.close()
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["group/frames"][:], FRAMES[:samples])
        assert file["group/frames"].attrs["a"] == 1
        assert (file["group/labels"][:].tolist(), file["group"].attrs["note"]) == ([0, 1, 2, 3, 4], "kept")
    assert os.listdir(tmp_path) == ["a.h5"]


def test_truncate_keeps_links_as_links(tmp_path):
    path = str(tmp_path / "a.h5")
    with h5py.File(path, "w") as file:
        file["group/labels"] = np.arange(5)
        file["group/again"] = file["group/labels"]
        file["group/soft"] = h5py.SoftLink("/group/labels")
        file["dangling"] = h5py.SoftLink("/nowhere")
        file["elsewhere"] = h5py.ExternalLink("other.h5", "/x")
        file["other/deep/values"] = np.arange(3)
    writer = hdf5_writer.create(path, "group/frames", NewArray(FRAMES.shape, FRAMES.dtype))
    writer.write(0, FRAMES)
    writer.truncate(4)
    writer.close()
    with h5py.File(path) as file:
        assert set(file) == {"group", "dangling", "elsewhere", "other"}
        assert set(file["group"]) == {"labels", "again", "soft", "frames"}
        assert file["group/again"][:].tolist() == file["group/soft"][:].tolist() == [0, 1, 2, 3, 4]
        assert file.get("group/soft", getlink=True).path == "/group/labels"
        assert file.get("dangling", getlink=True).path == "/nowhere"
        assert file.get("elsewhere", getlink=True).filename == "other.h5"
        assert file["other/deep/values"][:].tolist() == [0, 1, 2]
        np.testing.assert_array_equal(file["group/frames"][:], FRAMES[:4])


def test_contiguous_array_is_not_truncated_under_another_writer(tmp_path):
    path = str(tmp_path / "a.h5")
    first = hdf5_writer.create(path, "a", NewArray((4,), np.dtype("f4")))
    second = hdf5_writer.create(path, "b", NewArray((4,), np.dtype("f4")))
    with pytest.raises(InvalidValueError, match="has the file open a second time"):
        first.truncate(2)
    second.close()
    first.truncate(2)
    first.close()
    assert [listing.shape for listing in hdf5_file.list_arrays(path)] == [(2,), (4,)]


def test_array_of_unknown_length_grows(tmp_path):
    path = str(tmp_path / "a.h5")
    writer = hdf5_writer.create(path, None, NewArray((0, 3, 4, 5), FRAMES.dtype, None, 4, resizable=True))
    writer.write(0, FRAMES[:6])
    writer.write(6, FRAMES[6:])
    writer.close()
    np.testing.assert_array_equal(located_bytes(hdf5_file.open_array(path)), FRAMES)


def test_writer_refuses_what_does_not_fit(tmp_path):
    path = str(tmp_path / "a.h5")
    writer = hdf5_writer.create(path, "a/b", NewArray(FRAMES.shape, FRAMES.dtype))
    with pytest.raises(InvalidValueError, match=r"takes samples of shape \(3, 4, 5\); got a block of shape \(2, 2, 4, 5\)"):
        writer.write(0, FRAMES[:2, :2])
    with pytest.raises(InvalidValueError, match=r"has 10 samples; got samples \[8, 18\)"):
        writer.write(8, FRAMES)
    with pytest.raises(InvalidTypeError, match="holds float32; got a block of float64"):
        writer.write(0, FRAMES.astype(np.float64))
    with pytest.raises(InvalidValueError, match=r"has 10 samples; asked for \[5, 11\)"):
        writer.read(5, 11)
    writer.close()
    for key in ("a/b", "a", "a/b/c"):
        with pytest.raises(TargetExistsError, match=r"::/a.* exists"):
            hdf5_writer.create(path, key, NewArray((3,), np.dtype("f4")))
    for shape, dtype, match in (((), "f4", "cannot have shape"), ((3,), "O", "object dtype")):
        with pytest.raises(MmapstoreError, match=match):
            hdf5_writer.create(str(tmp_path / "b.h5"), None, NewArray(shape, np.dtype(dtype)))
    with pytest.raises(InvalidValueError, match="HDF5 allows at most 4294967295"):
        hdf5_writer.create(str(tmp_path / "b.h5"), None, NewArray((8, 2**30), np.dtype("f4"), "gzip"))
    (tmp_path / "c.h5").write_bytes(b"precious")
    with pytest.raises(DamagedFileError, match="is not an HDF5 file"):
        hdf5_writer.create(str(tmp_path / "c.h5"), None, NewArray((3,), np.dtype("f4")))
    assert (tmp_path / "c.h5").read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "c.h5"]


def test_target_that_cannot_be_written(tmp_path):
    with pytest.raises(WriteError, match=r"The directory does not exist. Create it first"):
        hdf5_writer.create(str(tmp_path / "no" / "a.h5"), None, NewArray((3,), np.dtype("f4")))
    with pytest.raises(TargetExistsError, match="is a directory; expected a file"):
        hdf5_writer.create(str(tmp_path), None, NewArray((3,), np.dtype("f4")))


def test_nothing_is_written_through_a_link(tmp_path):
    written(tmp_path / "other.h5", key="group/frames")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["out"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/group")
    with pytest.raises(UnsafeFileError, match="'out' is a link; a new dataset is not written through links"):
        hdf5_writer.create(str(tmp_path / "a.h5"), "out/x", NewArray((3,), np.dtype("f4")))
    assert [listing.key for listing in hdf5_file.list_arrays(str(tmp_path / "other.h5"))] == ["group/frames"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits")
@pytest.mark.parametrize(("compression", "resizable"), [("", ""), ("", "1"), ("gzip", ""), ("lzf", "1")])
def test_disk_that_fills_up_is_a_write_error_and_what_was_written_stays(tmp_path, compression, resizable):
    code = """
        import resource, sys
        import numpy as np
        from mmapstore.formats import hdf5_file, hdf5_writer
        from mmapstore.formats.contract import NewArray
        from mmapstore.plain.errors import WriteError
        compression, resizable = sys.argv[2] or None, bool(sys.argv[3])
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))
        values = np.random.default_rng(0).random((1000, 1000))
        writer, written = None, 0
        try:
            new = NewArray((10 if resizable else 1000, 1000), np.dtype("f8"), compression, 10, resizable=resizable)
            writer = hdf5_writer.create(sys.argv[1], None, new)
            for start in range(0, 1000, 20):
                writer.write(start, values[start : start + 20])
                written = start + 20
        except WriteError as error:
            assert "File too large" in str(error), error
        assert (writer is None) == (compression is None and not resizable), "a file of known size is refused at once"
        if writer is not None:
            assert 100 < written < 900
            writer.close()
            array = hdf5_file.open_array(sys.argv[1])
            out = np.empty((written, 1000))
            array.read_box((slice(0, written), slice(0, 1000)), out)
            assert (out == values[:written]).all()
        print("ready", flush=True)
    """
    child = run_child(code, tmp_path / "a.h5", compression, resizable)
    child.communicate()
    assert child.returncode == 0


KILLED = """
    import os, signal, sys
    import numpy as np
    from mmapstore.formats import hdf5_file, hdf5_writer
    from mmapstore.formats.contract import NewArray
    new = NewArray((4000, 50, 10), np.dtype("i4"), sys.argv[2] or None, 3, resizable=bool(sys.argv[3]))
    writer = hdf5_writer.create(sys.argv[1], "frames", new)
    values = np.arange(4000 * 500, dtype=np.int32).reshape(4000, 50, 10)
    for start in range(0, 1500, 100):
        writer.write(start, values[start : start + 100])
    writer.flush()
    for start in range(1500, 3000, 100):
        writer.write(start, values[start : start + 100])
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize(("compression", "resizable"), [("", ""), ("", "1"), ("gzip", ""), ("lzf", "1")])
def test_blocks_before_the_last_flush_survive_a_kill(tmp_path, compression, resizable):
    path = str(tmp_path / "a.h5")
    child = run_child(KILLED, path, compression, resizable, wait=False)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    values = np.arange(4000 * 500, dtype=np.int32).reshape(4000, 50, 10)
    np.testing.assert_array_equal(read_all(hdf5_file.open_array(path))[:1500], values[:1500])
    new = NewArray((4000, 50, 10), np.dtype("i4"), compression or None, 3, resizable=bool(resizable))
    writer = hdf5_writer.reopen(path, "frames", new)
    np.testing.assert_array_equal(writer.read(0, 1500), values[:1500])
    writer.write(1500, values[1500:])
    writer.close()
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["frames"][:], values)


def test_reopen_refuses_another_array(tmp_path):
    path = str(tmp_path / "a.h5")
    new = NewArray((10, 3), np.dtype("f4"), "gzip", 4)
    hdf5_writer.create(path, None, new).close()
    for other in (
        NewArray((10, 4), np.dtype("f4"), "gzip", 4),
        NewArray((10, 3), np.dtype("f8"), "gzip", 4),
        NewArray((10, 3), np.dtype("f4"), "lzf", 4),
        NewArray((10, 3), np.dtype("f4"), None, 4),
        NewArray((10, 3), np.dtype("f4"), "gzip", 5),
    ):
        with pytest.raises(StateMismatchError, match=r"holds \(10, 3\) float32.*is to be written. Delete it to start again"):
            hdf5_writer.reopen(path, None, other)
    with pytest.raises(KeyNotFoundError, match="no dataset or group 'x'"):
        hdf5_writer.reopen(path, "x", new)
    with pytest.raises(NotFoundError, match="does not exist"):
        hdf5_writer.reopen(str(tmp_path / "missing.h5"), None, new)
    hdf5_writer.reopen(path, None, new).close()


def test_index_of_a_long_array_does_not_pile_up_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("mmapstore.formats.hdf5_writer._MOST_METADATA_NBYTES", 20_000)
    writer = hdf5_writer.create(str(tmp_path / "a.h5"), None, NewArray((3000, 2), np.dtype("i4"), "lzf", 1))
    for start in range(0, 3000, 1000):
        writer.write(start, np.full((1000, 2), start, np.int32))
        writer.flush()
        assert writer._file.id.get_mdc_size()[2] < 20_000
    assert writer.read(0, 3000)[:, 0].tolist() == [0] * 1000 + [1000] * 1000 + [2000] * 1000
    writer.close()
