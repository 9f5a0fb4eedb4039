"""Arrays of .npz archives: mapped where they lie as they are, refused where they do not, or where the archive lies."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest
from sent_objects import sent
from stored_bytes import raw_rows, sample_values

import mmapstore as mm
from mmapstore.formats import npz_member
from mmapstore.operations.describe import describe
from mmapstore.plain.errors import (
    DamagedFileError,
    InvalidTypeError,
    KeyNotFoundError,
    MmapstoreError,
    NotFoundError,
    UnsafeFileError,
)

VALUES = sample_values((7, 3, 2), "<f4")


def npy_bytes(values) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def zipped(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("dtype", ["?", "u1", "<i2", ">i4", "<f2", ">f8", "<c8", "S5"])
def test_every_dtype_reads_as_numpy_does(tmp_path, dtype):
    values = sample_values((7, 3, 2), dtype)
    np.savez(tmp_path / "a.npz", first=np.arange(5), frames=values, **{"deep/label": np.arange(7)})
    stored = npz_member.open_array(tmp_path / "a.npz", "frames")
    assert (stored.shape, stored.dtype, stored.why_not) == (values.shape, values.dtype, "")
    assert stored.name == f"{tmp_path}/a.npz::/frames"
    np.testing.assert_array_equal(raw_rows(stored.located).reshape(values.shape), values)
    np.testing.assert_array_equal(stored.as_array(), values)
    np.testing.assert_array_equal(sent(stored, 500).as_array(), values)
    for spelled in ("/frames", "frames.npy"):
        assert npz_member.open_array(tmp_path / "a.npz", spelled).shape == (7, 3, 2)
    np.testing.assert_array_equal(mm.open(f"{tmp_path}/a.npz::/deep/label")[:], np.arange(7))
    np.testing.assert_array_equal(mm.open(f"{tmp_path}/a.npz/deep/label")[:], np.arange(7))
    np.testing.assert_array_equal(mm.open(tmp_path / "a.npz", key="first")[:], np.arange(5))


@pytest.mark.parametrize("padding", range(9))
def test_batches_are_right_wherever_the_bytes_begin(tmp_path, padding):
    """Nothing in a zip archive is aligned: numbers of 8 bytes may begin at any byte."""
    values = sample_values((40, 3, 5), "<f8")
    np.savez(tmp_path / "a.npz", **{"x" * (padding + 1): values})
    ds = mm.open(tmp_path / "a.npz")
    for options in ({}, {"shuffle": True, "seed": 1}, {"dtype": "f4"}, {"target": mm.NextFrame(), "shuffle": 8}):
        made, wanted = ds.batches(9, **options), mm.open(values).batches(9, **options)
        for found, expected in zip(made, wanted, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_one_array_needs_no_name_and_several_are_listed(tmp_path):
    np.savez(tmp_path / "one.npz", VALUES)
    np.testing.assert_array_equal(mm.open(tmp_path / "one.npz")[:], VALUES)
    np.savez(tmp_path / "two.npz", frames=VALUES, label=np.arange(7))
    with pytest.raises(KeyNotFoundError, match=r"holds 2 arrays: frames, label. Name one, as in '.*two.npz::/frames'"):
        mm.open(tmp_path / "two.npz")
    with pytest.raises(KeyNotFoundError, match=r"holds no array 'x'; it holds frames, label"):
        mm.open(tmp_path / "two.npz::/x")
    ds = mm.open({name: f"{tmp_path}/two.npz::/{name}" for name in ("frames", "label")})
    np.testing.assert_array_equal(ds[4]["frames"], VALUES[4])
    np.savez(tmp_path / "three.npz", VALUES + 1)
    np.testing.assert_array_equal(mm.open([tmp_path / "one.npz", tmp_path / "three.npz"])[:], np.concatenate([VALUES, VALUES + 1]))


def test_fortran_order_and_scalars_read_as_they_do_from_npy(tmp_path):
    np.savez(tmp_path / "a.npz", f=np.asfortranarray(VALUES), s=np.float32(2.5), e=np.empty((0, 3)))
    stored = npz_member.open_array(tmp_path / "a.npz", "f")
    assert stored.located is None and stored.why_not.startswith("Fortran order")
    np.testing.assert_array_equal(mm.open(f"{tmp_path}/a.npz::/f", layout="NHW")[2:5], VALUES[2:5])
    assert npz_member.open_array(tmp_path / "a.npz", "s").as_array()[()] == 2.5
    assert npz_member.open_array(tmp_path / "a.npz", "e").as_array().shape == (0, 3)


def test_compressed_arrays_name_the_line_that_ingests_them_and_it_runs(tmp_path, monkeypatch, capsys):
    from mmapstore import cli

    monkeypatch.chdir(tmp_path)
    np.savez_compressed("a.npz", frames=VALUES, label=np.arange(7))
    with pytest.raises(InvalidTypeError, match=r"deflated.*: mmapstore ingest a.npz::/frames frames.npy") as caught:
        mm.open("a.npz::/frames")
    assert cli.main(str(caught.value).split(": mmapstore ")[1].split()) == 0
    np.testing.assert_array_equal(mm.open("frames.npy")[:], VALUES)
    for method, words in ((zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")):
        zipped(tmp_path / "b.npz", {"x.npy": npy_bytes(VALUES)}, method)
        with pytest.raises(InvalidTypeError, match=f"compressed with {words}"):
            mm.open("b.npz")


def test_object_and_other_dtypes_are_refused_and_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", o=np.array([None, 1], dtype=object), u=np.array(["a"]), c=np.zeros(2, "i4,f4"))
    for key, found in (("o", "object dtype"), ("u", "unicode"), ("c", "compound")):
        with pytest.raises(InvalidTypeError, match=rf"a.npz::/{key} has .*{found}"):
            mm.open(tmp_path / "a.npz", key=key)


def test_info_tells_what_is_mapped_and_that_the_checksum_is_not_looked_at(tmp_path):
    np.savez(tmp_path / "a.npz", frames=VALUES)
    text = describe(tmp_path / "a.npz").to_text()
    assert ".npz, 1 array" in text and "7 samples of (3, 2) float32" in text and "memory-map" in text
    (listing,) = npz_member.list_arrays(tmp_path / "a.npz")
    assert (listing.key, listing.shape, listing.storage) == ("frames", (7, 3, 2), "stored as it is, checksum not looked at")
    np.savez_compressed(tmp_path / "b.npz", frames=VALUES, label=np.asfortranarray(VALUES))
    assert [one.storage for one in npz_member.list_arrays(tmp_path / "b.npz")] == ["deflated", "deflated, Fortran order"]
    assert "mmapstore ingest" in describe(tmp_path / "b.npz").to_text()


def test_sizes_behind_the_data_and_large_ones(tmp_path):
    """As written to a pipe (sizes follow), by `numpy.savez` (sizes of 64 bits), and by `zip` of a .npy (neither)."""

    class Pipe(io.RawIOBase):
        data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        archive.writestr("x.npy", npy_bytes(VALUES))
    (tmp_path / "pipe.npz").write_bytes(pipe.data)
    zipped(tmp_path / "zip.npz", {"x.npy": npy_bytes(VALUES)})
    np.savez(tmp_path / "numpy.npz", x=VALUES)
    (tmp_path / "behind.npz").write_bytes(b"#! something before\n" + (tmp_path / "zip.npz").read_bytes())
    local = (tmp_path / "numpy.npz").read_bytes()[:30]
    assert struct.unpack("<4s5H3I2H", local)[-3] == 0xFFFFFFFF, "numpy.savez no longer writes zip64 headers: this tests nothing"
    for name in ("pipe", "zip", "numpy"):
        np.testing.assert_array_equal(mm.open(tmp_path / f"{name}.npz")[:], VALUES)
    np.testing.assert_array_equal(npz_member.open_array(tmp_path / "behind.npz").as_array(), VALUES)


def changed(path, at, data):
    whole = bytearray(path.read_bytes())
    whole[at : at + len(data)] = data
    path.write_bytes(whole)


@pytest.mark.parametrize(
    ("at", "data", "said"),
    [
        (0, b"XXXX", "where none does"),
        (6, b"\x01\x00", "its encryption is 1 in one place"),
        (8, b"\x08\x00", "its compression is 8 in one place and 0 in another"),
        (18, b"\x10\x00\x00\x00", "bytes where it begins, and"),
        (22, b"\x10\x00\x00\x00", "its size is 16 bytes where it begins, and"),
        (26, b"\x04\x00", "its name is b'x.np' in one place"),
        (28, b"\x20\x00", "what follows it begins at byte"),
        (30, b"y", "its name is b'y.npy' in one place and b'x.npy' in another"),
    ],
)
def test_local_headers_that_say_something_else_are_refused(tmp_path, at, data, said):
    path = zipped(tmp_path / "a.npz", {"first": b"", "x.npy": npy_bytes(VALUES)})
    with zipfile.ZipFile(path) as archive:
        begin = archive.getinfo("x.npy").header_offset
    changed(path, begin + at, data)
    with pytest.raises(DamagedFileError, match=rf"a.npz::/x is damaged: .*{said}"):
        mm.open(path)


def test_arrays_that_overlap_are_refused(tmp_path):
    """Both entries of the directory lead to the first array: its size is the same, and its name is not."""
    path = zipped(tmp_path / "a.npz", {"x.npy": npy_bytes(VALUES), "y.npy": npy_bytes(VALUES)})
    whole = path.read_bytes()
    second = whole.rindex(b"PK\x01\x02")
    changed(path, second + 42, struct.pack("<I", 0))
    with pytest.raises(DamagedFileError, match=r"its name is b'x.npy'|not a whole .npz archive"):
        mm.open(path, key="y")
    changed(path, second + 42, struct.pack("<I", 2**31))
    with pytest.raises(DamagedFileError, match=r"where none does|not a whole .npz archive"):
        mm.open(path, key="y")


def test_encrypted_archives_are_refused(tmp_path):
    path = zipped(tmp_path / "a.npz", {"x.npy": npy_bytes(VALUES)})
    central = path.read_bytes().rindex(b"PK\x01\x02")
    changed(path, central + 8, b"\x01\x00")
    with pytest.raises(UnsafeFileError, match=r"a.npz::/x is encrypted"):
        mm.open(path)
    assert "is encrypted" in describe(path).to_text()


def test_arrays_that_declare_more_than_they_hold_are_refused(tmp_path):
    data = npy_bytes(VALUES)
    path = zipped(tmp_path / "a.npz", {"x.npy": data[:-4], "rest.npy": npy_bytes(VALUES)})
    with pytest.raises(DamagedFileError, match=r"a.npz::/x is truncated: its header declares"):
        mm.open(path, key="x")
    zipped(path, {"x.npy": b"no array at all"})
    with pytest.raises(DamagedFileError, match=r"a.npz::/x is not a .npy file"):
        mm.open(path)
    zipped(path, {"x.npy": data.replace(b"(7, 3, 2)", b"(7777777,)")})
    with pytest.raises(DamagedFileError, match="is truncated"):
        mm.open(path)


def test_every_truncation_and_every_flipped_byte_is_refused_or_read(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(6, dtype="i2"))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(MmapstoreError):
            npz_member.open_array(path)
    read = 0
    for at in range(len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            try:
                found = npz_member.open_array(path, "x").as_array()
            except MmapstoreError:
                continue
            assert found.nbytes <= len(whole)
            read += 1
    assert read > 0


def test_what_is_no_archive_of_arrays(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(DamagedFileError, match=r"not a whole .npz archive"):
        mm.open(tmp_path / "a.npz")
    zipped(tmp_path / "b.npz", {"readme.txt": b"hello"})
    with pytest.raises(DamagedFileError, match=r"without arrays of NumPy: it holds readme.txt"):
        mm.open(tmp_path / "b.npz")
    zipped(tmp_path / "c.npz", {})
    with pytest.raises(DamagedFileError, match="it holds nothing"):
        mm.open(tmp_path / "c.npz")
    np.save(tmp_path / "d.npy", VALUES)
    (tmp_path / "d.npy").rename(tmp_path / "d.npz")
    with pytest.raises(DamagedFileError, match=r"not .npz, as its suffix says, but .npy"):
        mm.open(tmp_path / "d.npz")
    with pytest.raises(NotFoundError):
        npz_member.open_array(tmp_path / "e.npz")
