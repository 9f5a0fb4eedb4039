"""Sound files that mmapstore does not open: called what they are, with the command that helps, and never damaged."""

import shutil
import zipfile

import h5py
import netCDF4
import numpy as np
import pytest
import scipy.io
import zarr

import mmapstore as mm
from mmapstore import cli
from mmapstore.plain.errors import DamagedFileError

VALUES = np.arange(3000, dtype="i4").reshape(30, 100)


def refusal(path):
    with pytest.raises(mm.MmapstoreError) as caught:
        mm.open(path)
    text = str(caught.value)
    assert str(path) in text and not any(words in text for words in ("damaged", "truncated", "how it was"))
    return text


@pytest.mark.parametrize("form", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])
def test_classic_netcdf(tmp_path, form, capsys):
    with netCDF4.Dataset(tmp_path / "a.nc", "w", format=form) as file:
        file.createDimension("t", 3)
        file.createVariable("x", "f4", ("t",))[:] = 1
    text = refusal(tmp_path / "a.nc")
    assert "a NetCDF file in the classic format" in text and "nccopy -k nc4" in text
    assert cli.main(["convert", "--all", str(tmp_path / "a.nc"), str(tmp_path / "a.zarr")]) == 1
    assert "nccopy -k nc4" in capsys.readouterr().err


@pytest.mark.parametrize(("version", "words"), [("5", "a MATLAB file of version 5 to 7"), ("4", "a MATLAB file of version 4")])
def test_matlab_before_hdf5(tmp_path, version, words):
    scipy.io.savemat(tmp_path / "a.mat", {"x": VALUES}, format=version)
    text = refusal(tmp_path / "a.mat")
    assert words in text and "'-v7.3'" in text and "scipy.io.loadmat" in text


@pytest.mark.parametrize(
    ("content", "remedy"), [(b"\x0e\x03\x13\x01" + bytes(200), "h4toh5 IN OUT"), (b"\x1f\x8b\x08" + bytes(200), "gunzip FILE")]
)
def test_others_by_their_first_bytes(tmp_path, content, remedy):
    (tmp_path / "a.hdf").write_bytes(content)
    assert remedy in refusal(tmp_path / "a.hdf")


@pytest.mark.parametrize("content", [bytes(300), b"\0\1\2\3" * 80, b"MATLAB" * 50, b"PK\x03\x04" + bytes(300), b""])
def test_what_is_none_of_them_keeps_its_message(tmp_path, content):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"a\.mat is (not|a file of)"):
        mm.open(tmp_path / "a.mat")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", ["a.zarr.zip", "a.zip", "a.npz"])
def test_zipped_zarr(tmp_path, zarr_format, name):
    with zarr.storage.ZipStore(tmp_path / "group.zip", mode="w") as store:
        zarr.create_group(store, zarr_format=zarr_format).create_array("x", data=VALUES)
    shutil.copy(tmp_path / "group.zip", tmp_path / name)
    assert "a Zarr store packed into a zip archive" in refusal(tmp_path / name)
    zipfile.ZipFile(tmp_path / name).extractall(tmp_path / "unpacked.zarr")  # what the message says
    np.testing.assert_array_equal(mm.open(f"{tmp_path}/unpacked.zarr::/x")[:], VALUES)


def test_zarr_below_a_directory_of_the_zip_archive(tmp_path):
    zarr.create_array(tmp_path / "deep" / "a.zarr", data=VALUES)
    shutil.make_archive(str(tmp_path / "deep"), "zip", tmp_path / "deep")
    assert "unzip FILE" in refusal(tmp_path / "deep.zip")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize(
    ("options", "part", "words"),
    [
        ({"driver": "family", "memb_size": 4096}, "a0.h5", "driver family"),
        ({"driver": "split"}, "a%d.h5-m.h5", "driver multi or split"),
    ],
)
def test_one_part_of_several(tmp_path, libver, options, part, words):
    with h5py.File(tmp_path / "a%d.h5", "w", libver=libver, **options) as file:
        file["x"] = VALUES
    text = refusal(tmp_path / part)
    assert words in text and "h5repack NAME OUT" in text
