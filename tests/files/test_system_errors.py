"""Errors of the system and of libraries in our words; mistakes of our own pass as they are."""

from __future__ import annotations

import errno
import os

import h5py
import numpy as np
import pytest

from mmapstore.files.system_errors import explaining_read_errors, explaining_write_errors, is_of_this_machine, raised_in
from mmapstore.formats import hdf5_file, hdf5_library, npy_file, zarr_library
from mmapstore.plain.errors import (
    DamagedFileError,
    MmapstoreError,
    NotFoundError,
    NotReadableError,
    ReadError,
    WriteError,
)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "The disk is full. Free space"),
        (errno.EACCES, "Permission was denied. Write where you may"),
        (errno.EROFS, "That file system is read-only"),
        (errno.ENOENT, "The directory does not exist. Create it first"),
        (errno.ENOTDIR, "Part of that path is a file"),
        (errno.EIO, "Check the disk"),
    ],
)
def test_write_errors_say_what_to_do(number, remedy):
    with (
        pytest.raises(WriteError, match=rf"^out/x.npy cannot be written: .*{remedy}") as caught,
        explaining_write_errors("out/x.npy"),
    ):
        raise OSError(number, os.strerror(number))
    assert isinstance(caught.value.__cause__, OSError)


def test_errors_that_explain_themselves_pass():
    with pytest.raises(NotFoundError, match=r"^already clear$"), explaining_write_errors("x"):
        raise NotFoundError("already clear")


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOENT, NotFoundError, r"in/x\.npy does not exist\. Check the path and the directory that it is relative to: /"),
        (errno.EACCES, NotReadableError, "may not be read by this user"),
        (errno.EISDIR, DamagedFileError, "is a directory; expected a file"),
        (errno.ENOTDIR, DamagedFileError, "a part of its path is a file"),
        (errno.ELOOP, DamagedFileError, "lead in a circle"),
        (errno.EMFILE, ReadError, "too many files are open in this process"),
        (errno.EIO, DamagedFileError, "Input/output error. Check the disk"),
    ],
)
@pytest.mark.parametrize(
    "explaining", [explaining_read_errors, hdf5_library.explaining_read_errors, zarr_library.explaining_damage]
)
def test_read_errors_say_what_to_do_for_every_format(explaining, number, kind, words):
    with pytest.raises(kind, match=words) as caught, explaining("in/x.npy"):
        raise OSError(number, os.strerror(number))
    assert type(caught.value) is kind and caught.value.errno == number
    assert is_of_this_machine(caught.value) == (number in (errno.EMFILE, errno.EIO))


@pytest.mark.parametrize("mistake", [ValueError("could not broadcast"), KeyError("x"), RuntimeError("ours"), OSError("no number")])
@pytest.mark.parametrize(
    "explaining",
    [
        explaining_read_errors,
        hdf5_library.explaining_read_errors,
        hdf5_library.explaining_failed_writes,
        zarr_library.explaining_damage,
    ],
)
def test_our_own_mistakes_pass_as_they_are(explaining, mistake):
    with pytest.raises(type(mistake)) as caught, explaining("x.h5"):
        raise mistake
    assert caught.value is mistake and not isinstance(mistake, MmapstoreError)


def test_what_a_library_raises_is_known_by_its_frames(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.arange(3)
        with pytest.raises(KeyError) as caught:
            file["y"]
        assert raised_in(caught.value, "h5py") and not raised_in(caught.value, "zarr")
        with (
            pytest.raises(DamagedFileError, match=r"HDF5 cannot read it \(.*doesn't exist"),
            hdf5_library.explaining_read_errors("x"),
        ):
            file["y"]


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    """Permissions bind no superuser, so the refusals are the kernel's answers in its place."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.zeros((4, 3))
    np.save(tmp_path / "x.npy", np.zeros((4, 3)))

    def no_file(*_, **__):
        raise PermissionError(errno.EACCES, "Unable to synchronously open file (unable to open file: errno = 13)")

    monkeypatch.setattr(h5py, "File", no_file)
    with pytest.raises(NotReadableError, match="may not be read by this user"):
        hdf5_file.open_array(tmp_path / "x.h5", "x")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions bind no superuser")
def test_permissions_are_told_as_such(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.zeros((4, 3))
    np.save(tmp_path / "x.npy", np.zeros((4, 3)))
    for open_array, name in ((hdf5_file.open_array, "x.h5"), (npy_file.open_array, "x.npy")):
        (tmp_path / name).chmod(0)
        with pytest.raises(NotReadableError, match="may not be read by this user"):
            open_array(tmp_path / name)
