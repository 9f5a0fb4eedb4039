"""What `.npy` files give, what they refuse, and that NumPy reads what was written."""

from __future__ import annotations

import errno
import io
import os
import struct

import numpy as np
import pytest
from sent_objects import sent
from stored_bytes import raw_rows, sample_values

from mmapstore.formats import npy_file
from mmapstore.formats.contract import NewArray
from mmapstore.plain.errors import (
    DamagedFileError,
    InvalidTypeError,
    InvalidValueError,
    KeyNotFoundError,
    NotFoundError,
    StateMismatchError,
    TargetExistsError,
    WriteError,
)

DTYPES = ["?", "u1", "<i2", ">i4", "<f2", ">f8", "<c8", "S5"]


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_version_reads_as_numpy_does(tmp_path, dtype, version):
    values = sample_values((7, 3, 2), dtype)
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, values, version=version)
    stored = npy_file.open_array(tmp_path / "x.npy")
    assert npy_file.matches(tmp_path / "x.npy")
    assert (stored.shape, stored.dtype, stored.chunks, stored.why_not) == (values.shape, values.dtype, None, "")
    np.testing.assert_array_equal(raw_rows(stored.located).reshape(values.shape), values)
    box = np.empty((2, 1, 2), values.dtype.newbyteorder("="))
    stored.read_box((slice(3, 5), slice(1, 2), slice(0, 2)), box)
    np.testing.assert_array_equal(box, values[3:5, 1:2])
    np.testing.assert_array_equal(stored.as_array(), values)


def test_reading_casts_to_the_buffer(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6, dtype="f8"))
    box = np.empty(2, "f4")
    npy_file.open_array(tmp_path / "x.npy").read_box((slice(2, 4),), box)
    np.testing.assert_array_equal(box, np.array([2, 3], "f4"))


def test_fortran_order_has_no_raw_rows_but_reads_right(tmp_path):
    values = sample_values((5, 4, 3), "<f4")
    np.save(tmp_path / "x.npy", np.asfortranarray(values))
    stored = npy_file.open_array(tmp_path / "x.npy")
    assert stored.fortran_order and stored.located is None and stored.why_not.startswith("Fortran order")
    assert stored.shape == (5, 4, 3)
    box = np.empty((2, 4, 3), "f4")
    stored.read_box((slice(1, 3), slice(0, 4), slice(0, 3)), box)
    np.testing.assert_array_equal(box, values[1:3])
    np.testing.assert_array_equal(stored.as_array(), values)


def test_fortran_order_along_one_axis_is_c_order_too(tmp_path):
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i4", "fortran_order": True, "shape": (1, 6, 1)})
        file.write(np.arange(6, dtype="<i4").tobytes())
    stored = npy_file.open_array(tmp_path / "x.npy")
    assert not stored.fortran_order
    np.testing.assert_array_equal(raw_rows(stored.located), np.arange(6))


def test_scalar_and_empty_arrays_open(tmp_path):
    np.save(tmp_path / "scalar.npy", np.float32(2.5))
    np.save(tmp_path / "empty.npy", np.empty((0, 3), "f4"))
    scalar, empty = npy_file.open_array(tmp_path / "scalar.npy"), npy_file.open_array(tmp_path / "empty.npy")
    assert scalar.shape == () and not scalar.located.has_rows
    assert scalar.as_array()[()] == 2.5
    assert empty.shape == (0, 3) and empty.located.grid.shape == (0, 3) and empty.as_array().shape == (0, 3)


def test_the_array_is_a_read_only_map_and_pickles_by_path(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", sample_values((100, 50), "f8"))
    monkeypatch.chdir(tmp_path)
    stored = npy_file.open_array("x.npy")
    assert stored.name == "x.npy"
    with pytest.raises(ValueError, match="read-only"):
        stored.as_array()[0] = 1
    np.testing.assert_array_equal(sent(stored, 500).as_array(), np.load(tmp_path / "x.npy"))


def test_listing_names_the_dtype_even_of_what_cannot_be_opened(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 3), "<f4"))
    np.save(tmp_path / "o.npy", np.array([None, "a"], dtype=object))
    (listing,) = npy_file.list_arrays(tmp_path / "x.npy")
    assert (listing.key, listing.shape, listing.dtype, listing.storage) == ("", (2, 3), np.dtype("<f4"), "contiguous")
    assert npy_file.list_arrays(tmp_path / "o.npy")[0].dtype == np.dtype(object)


@pytest.mark.parametrize(
    ("values", "found"),
    [(np.array([None, 1], dtype=object), "object dtype"), (np.zeros(2, "i4,f4"), "compound"), (np.array(["a"]), "unicode")],
)
def test_other_dtypes_are_refused_and_nothing_is_unpickled(tmp_path, values, found):
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(InvalidTypeError, match=found):
        npy_file.open_array(tmp_path / "x.npy")


def test_a_truncated_file_says_how_many_bytes_are_missing_at_every_length(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(24, dtype="<i4").reshape(4, 6))
    whole = path.read_bytes()
    for length in [0, 3, 6, 7, 8, 9, 10, 11, 64, 127, 128, 129, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError) as caught:
            npy_file.open_array(path)
        assert str(path) in str(caught.value)
        if length >= 128:
            assert f"{len(whole)} bytes with the header, but the file has {length}" in str(caught.value)


def header(text, version=1):
    encoded = text.encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(encoded)) + encoded


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1099511627776)}"), "is truncated"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}"), r"its shape is \(-1, 4\)"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (1.5,)}"), "shape is not valid"),
        (header("{'descr': '<f4', 'fortran_order': False}"), "correct keys"),
        (header("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}"), "fortran_order is not"),
        (header("{'descr': 'nonsense', 'fortran_order': False, 'shape': (1,)}"), "damaged .npy header"),
        (header("__import__('os').abort()"), "damaged .npy header"),
        (header("(" * 5000), "damaged .npy header"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}" + " " * 20_000), "at most 10000 are accepted"),
        (header(" " * 20_000, version=2), "at most 10000 are accepted"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1), "at most 10000 are accepted"),
        (b"\x93NUMPY\x09\x00" + bytes(200), r"version \(9, 0\)"),
        (b"PK\x03\x04" + bytes(200), "name it .npz"),
        (b"\x89HDF\r\n\x1a\n" + bytes(200), "HDF5"),
        (b"hello, I am text", "starts with b'hello,'"),
        (b"", "it is empty"),
    ],
)
def test_hostile_and_foreign_files_are_named_and_refused(tmp_path, content, found):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(DamagedFileError, match=found):
        npy_file.open_array(tmp_path / "x.npy")
    assert npy_file.matches(tmp_path / "x.npy") == content.startswith(b"\x93NUMPY")


def test_missing_files_directories_and_keys(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(NotFoundError, match="does not exist"):
        npy_file.open_array(tmp_path / "gone.npy")
    with pytest.raises(DamagedFileError, match="is a directory"):
        npy_file.open_array(tmp_path)
    with pytest.raises(KeyNotFoundError, match="got key 'frames'"):
        npy_file.open_array(tmp_path / "x.npy", "frames")
    assert not npy_file.matches(tmp_path) and not npy_file.matches(tmp_path / "gone.npy")


def test_a_file_that_shrinks_before_it_is_mapped_is_an_error(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(1000))
    stored = npy_file.open_array(tmp_path / "x.npy")
    os.truncate(tmp_path / "x.npy", 500)
    with pytest.raises(DamagedFileError, match="ends at byte 500, but 8000 bytes at offset 128 were expected"):
        stored.as_array()


# --- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_reads_what_was_written_in_blocks(tmp_path, dtype):
    values = sample_values((10, 3, 2), dtype)
    writer = npy_file.create(tmp_path / "x.npy", None, NewArray(values.shape, values.dtype))
    for start in (0, 4, 8):
        writer.write(start, values[start : start + 4])
    writer.flush()
    np.testing.assert_array_equal(writer.read(3, 9), values[3:9])
    writer.close()
    found = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert found.dtype == values.dtype and found.offset % 64 == 0
    np.testing.assert_array_equal(found, values)


def test_blocks_in_any_memory_order_and_smaller_dtypes_are_written_right(tmp_path):
    writer = npy_file.create(tmp_path / "x.npy", "", NewArray((4, 3, 2), np.dtype(">f4")))
    block = np.arange(24, dtype="u1").reshape(2, 3, 4).T
    writer.write(0, block)
    writer.close()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), block)


def test_truncating_keeps_the_first_samples_and_frees_the_rest(tmp_path):
    writer = npy_file.create(tmp_path / "x.npy", None, NewArray((1000, 5), np.dtype("f8")))
    size = (tmp_path / "x.npy").stat().st_size
    writer.write(0, np.arange(15, dtype="f8").reshape(3, 5))
    writer.truncate(3)
    writer.close()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), np.arange(15).reshape(3, 5))
    assert (tmp_path / "x.npy").stat().st_size == size - 997 * 40
    with pytest.raises(ValueError, match="closed file"):
        writer.write(0, np.zeros((1, 5)))


def test_a_resizable_file_grows_in_place_from_1_to_6_digits_of_samples(tmp_path):
    writer = npy_file.create(tmp_path / "x.npy", None, NewArray((1,), np.dtype("u1"), resizable=True))
    for count in (1, 10, 1000, 100_000):
        writer.write(count - 1, np.full(1, 7, "u1"))
    writer.close()
    found = np.load(tmp_path / "x.npy")
    assert len(found) == 100_000 and np.flatnonzero(found).tolist() == [0, 9, 999, 99_999]


def test_a_file_of_fixed_length_refuses_more_samples_than_announced(tmp_path):
    writer = npy_file.create(tmp_path / "x.npy", None, NewArray((2, 2), np.dtype("u1")))
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
    writer.close()


def test_reopening_goes_on_where_it_stopped_and_refuses_another_array(tmp_path):
    new = NewArray((4, 2), np.dtype("<f4"))
    writer = npy_file.create(tmp_path / "x.npy", None, new)
    writer.write(0, np.ones((2, 2), "f4"))
    writer.flush()
    writer.close()
    writer = npy_file.reopen(tmp_path / "x.npy", None, new)
    np.testing.assert_array_equal(writer.read(0, 4), [[1, 1], [1, 1], [0, 0], [0, 0]])
    writer.write(2, np.full((2, 2), 2, "f4"))
    writer.close()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy")[:, 0], [1, 1, 2, 2])
    for other in [NewArray((5, 2), np.dtype("<f4")), NewArray((4, 3), np.dtype("<f4")), NewArray((4, 2), np.dtype(">f4"))]:
        with pytest.raises(StateMismatchError, match=r"is to be written\. Delete it"):
            npy_file.reopen(tmp_path / "x.npy", None, other)
    npy_file.reopen(tmp_path / "x.npy", None, NewArray((99, 2), np.dtype("<f4"), resizable=True)).close()
    with pytest.raises(NotFoundError, match="does not exist"):
        npy_file.reopen(tmp_path / "y.npy", None, new)


def test_what_cannot_be_created_is_refused_and_leaves_nothing(tmp_path):
    def create(shape=(2, 2), dtype="f4", name="x.npy", **more):
        npy_file.create(tmp_path / name, None, NewArray(shape, np.dtype(dtype), **more))

    with pytest.raises(InvalidValueError, match=r"cannot be compressed \('gzip'\)"):
        create(compression="gzip")
    with pytest.raises(InvalidValueError, match=r"expected \(samples, ...\)"):
        create(shape=())
    with pytest.raises(InvalidTypeError, match="object dtype"):
        create(dtype="O")
    with pytest.raises(WriteError, match="Create it first"):
        create(name="no/such/folder.npy")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x.npy").write_bytes(b"precious")
    with pytest.raises(TargetExistsError, match="delete it first"):
        create()
    assert (tmp_path / "x.npy").read_bytes() == b"precious"


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_a_full_disk_is_an_error_at_creation_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(WriteError, match="The disk is full"):
        npy_file.create(tmp_path / "x.npy", None, NewArray((10,), np.dtype("f4")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_file_systems_that_cannot_preallocate_still_work(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    npy_file.create(tmp_path / "x.npy", None, NewArray((10,), np.dtype("f4"))).close()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), np.zeros(10))


def test_headers_equal_those_of_numpy(tmp_path):
    npy_file.create(tmp_path / "x.npy", None, NewArray((3, 2), np.dtype("<f4"))).close()
    expected = io.BytesIO()
    np.save(expected, np.zeros((3, 2), "<f4"))
    assert (tmp_path / "x.npy").read_bytes() == expected.getvalue()
