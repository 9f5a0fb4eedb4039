"""Files without a header: what they give, and what is said where size, dtype and shape do not go together."""

from __future__ import annotations

import numpy as np
import pytest
from sent_objects import sent
from stored_bytes import raw_rows, sample_values

import mmapstore as mm
from mmapstore.formats.raw_file import RawForm, open_raw
from mmapstore.plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError, NotFoundError


def written(path, values, offset=0):
    path.write_bytes(b"\xa5" * offset + values.tobytes())
    return path


@pytest.mark.parametrize("offset", [0, 3, 64])
@pytest.mark.parametrize("dtype", ["?", "u1", "<i2", ">i4", "<f2", ">f8", "<c8", "S5"])
def test_every_dtype_and_offset_reads_as_it_was_written(tmp_path, dtype, offset):
    values = sample_values((7, 3, 2), dtype)
    stored = open_raw(written(tmp_path / "x.bin", values, offset), RawForm.of(dtype, (7, 3, 2), offset))
    assert (stored.shape, stored.dtype, stored.chunks, stored.why_not) == (values.shape, values.dtype, None, "")
    np.testing.assert_array_equal(raw_rows(stored.located).reshape(values.shape), values)
    box = np.empty((2, 1, 2), values.dtype.newbyteorder("="))
    stored.read_box((slice(3, 5), slice(1, 2), slice(0, 2)), box)
    np.testing.assert_array_equal(box, values[3:5, 1:2])
    np.testing.assert_array_equal(stored.as_array(), values)
    with pytest.raises(ValueError, match="read-only"):
        stored.as_array()[0] = values[1]
    assert stored.storage == ("headerless, contiguous" if not offset else f"headerless, from byte {offset} on, contiguous")
    np.testing.assert_array_equal(sent(stored, 500).as_array(), values)


@pytest.mark.parametrize("shape", [(-1, 3, 2), (7, -1, 2), (7, 3, -1), (7, 3, 2)])
def test_one_length_may_be_left_to_the_file(tmp_path, shape):
    values = sample_values((7, 3, 2), ">i4")
    ds = mm.open(written(tmp_path / "x.bin", values, 10), dtype=">i4", shape=shape, offset=10, layout="NHW")
    assert (ds.shape, ds.dtype, ds.layout) == ((7, 3, 2), np.dtype("i4"), "NHW")
    np.testing.assert_array_equal(ds[:], values)
    shuffled = np.concatenate(list(ds.batches(2, shuffle=True)))
    assert sorted(shuffled.tolist()) == sorted(values.tolist())


def test_a_length_alone_is_a_shape(tmp_path):
    ds = mm.open(written(tmp_path / "x.bin", np.arange(5.0)), dtype=float, shape=5)
    np.testing.assert_array_equal(ds[:], np.arange(5.0))


def test_files_are_joined_as_those_of_other_formats_are(tmp_path):
    parts = [sample_values((n, 4), "<f4") + n for n in (3, 5)]
    for number, part in zip((9, 10), parts, strict=True):
        written(tmp_path / f"run{number}.bin", part)
    for source in (tmp_path / "run*.bin", [tmp_path / "run9.bin", tmp_path / "run10.bin"]):
        ds = mm.open(source, dtype="<f4", shape=(-1, 4))
        assert list(ds.episodes) == [0, 3, 8]
        np.testing.assert_array_equal(ds[:], np.concatenate(parts))


def test_as_one_of_several_fields_and_as_the_source_of_an_ingest(tmp_path):
    values = sample_values((6, 2, 3, 3), "u1")
    raw = mm.open(written(tmp_path / "x.bin", values), dtype="u1", shape=(-1, 2, 3, 3))
    ds = mm.open({"image": raw, "label": np.arange(6)})
    np.testing.assert_array_equal(ds[2]["image"], values[2])
    np.testing.assert_array_equal(np.load(mm.ingest(raw, tmp_path / "x.npy")), values)


@pytest.mark.parametrize(
    ("shape", "offset", "said"),
    [
        ((7, 3, 3), 0, r"has 168 bytes, but shape \(7, 3, 3\) of int32 takes 252 bytes.*shape=\(4, 3, 3\) leaves 24 bytes over"),
        ((6, 3, 2), 0, r"takes 144 bytes\. shape=\(7, 3, 2\) fits"),
        ((-1, 3, 2), 8, r"has 160 bytes behind the first 8, .*takes a multiple of 24 bytes.*offset=24 skips it"),
        ((3, -1), 100, r"has 68 bytes behind the first 100.*shape=\(3, 5\) leaves 8 bytes over"),
        ((-1, 5, 50), 0, r"One entry of shape \(5, 50\) alone takes 1000 bytes"),
        ((-1,), 168, r"has 168 bytes, none behind the first 168\. Check the path, and offset="),
        ((-1,), 1000, r"none behind the first 1000"),
    ],
)
def test_a_size_that_does_not_fit_says_which_shape_does(tmp_path, shape, offset, said):
    written(tmp_path / "x.bin", np.arange(42, dtype="<i4"))
    with pytest.raises(InvalidValueError, match=said):
        mm.open(tmp_path / "x.bin", dtype="<i4", shape=shape, offset=offset)


def test_what_a_message_proposes_opens(tmp_path):
    written(tmp_path / "x.bin", np.arange(42, dtype="<i4"), 16)
    with pytest.raises(InvalidValueError, match=r"offset=16 skips it"):
        mm.open(tmp_path / "x.bin", dtype="<i4", shape=(-1, 3, 2))
    assert mm.open(tmp_path / "x.bin", dtype="<i4", shape=(-1, 3, 2), offset=16)[6].tolist() == [[36, 37], [38, 39], [40, 41]]


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"dtype": "u1"}, InvalidValueError, r"dtype is given for a file without a header, but not shape"),
        ({"shape": (3,)}, InvalidValueError, "but not dtype"),
        ({"offset": 0}, InvalidValueError, "offset is given .* but not dtype and shape"),
        ({"dtype": "u1", "shape": (-1, -1)}, InvalidValueError, "one may be -1"),
        ({"dtype": "u1", "shape": (0, 3)}, InvalidValueError, "lengths of at least 1"),
        ({"dtype": "u1", "shape": (-2, 3)}, InvalidValueError, "lengths of at least 1"),
        ({"dtype": "u1", "shape": ()}, InvalidValueError, "cannot be that of an array"),
        ({"dtype": "u1", "shape": (2.5,)}, InvalidTypeError, "expected whole numbers"),
        ({"dtype": "u1", "shape": "3,4"}, InvalidTypeError, "expected whole numbers"),
        ({"dtype": "u1", "shape": (3,), "offset": -1}, InvalidValueError, "before the file begins"),
        ({"dtype": "u1", "shape": (3,), "offset": "1"}, InvalidTypeError, "not a number of bytes"),
        ({"dtype": "no such", "shape": (3,)}, InvalidTypeError, "not a dtype of NumPy"),
        ({"dtype": object, "shape": (3,)}, InvalidTypeError, "object dtype"),
        ({"dtype": "i4,f4", "shape": (3,)}, InvalidTypeError, "compound"),
        ({"dtype": "u1", "shape": (168,), "key": "x"}, InvalidValueError, "is inside a file"),
    ],
)
def test_options_that_cannot_be_meant(tmp_path, options, kind, said):
    written(tmp_path / "x.bin", np.arange(42, dtype="<i4"))
    with pytest.raises(kind, match=said):
        mm.open(tmp_path / "x.bin", **options)


def test_other_formats_say_themselves_what_they_hold(tmp_path):
    h5py = pytest.importorskip("h5py")
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    np.savez(tmp_path / "x.npz", np.zeros((3, 2)))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.zeros((3, 2))
    form = {"dtype": "u1", "shape": (-1,)}
    for name, title in [("x.npy", ".npy"), ("x.npz", ".npz"), ("x.h5", "HDF5"), (".", "a directory")]:
        with pytest.raises(InvalidValueError, match=f"is {title}, which says itself what it holds.*Leave them out"):
            mm.open(tmp_path / name, **form)
    mm.ingest(np.zeros((3, 2)), tmp_path / "x.zarr")
    with pytest.raises(InvalidValueError, match="which says itself"):
        mm.open(tmp_path / "x.zarr", **form)
    for source in (np.zeros(3), {"x": tmp_path / "x.npy"}, mm.open(np.zeros(3))):
        with pytest.raises(InvalidValueError, match="are for paths of files without a header"):
            mm.open(source, **form)
    with pytest.raises(NotFoundError, match="does not exist"):
        mm.open(tmp_path / "no.bin", **form)


def test_without_dtype_and_shape_the_message_names_them(tmp_path):
    written(tmp_path / "x.bin", np.arange(42, dtype="<i4"))
    with pytest.raises(DamagedFileError, match=r"a file of 168 bytes that is not .npy, HDF5, Zarr or .npz.*with dtype= and shape="):
        mm.open(tmp_path / "x.bin")


def test_a_file_that_was_cut_short_since_does_not_open_in_another_process(tmp_path):
    path = written(tmp_path / "x.bin", np.arange(42, dtype="<i4"))
    ds = mm.open(path, dtype="<i4", shape=(-1, 2))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DamagedFileError, match="ends at byte 164"):
        ds[20]
