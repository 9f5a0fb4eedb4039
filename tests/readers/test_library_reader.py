"""The library's reader notices at each epoch that its file is another one."""

from __future__ import annotations

import os
import pickle
import shutil

import numpy as np
import pytest

import mmapstore as mm
from mmapstore.formats.in_memory import ArrayInMemory
from mmapstore.plain.array_spec import StoredLayout
from mmapstore.plain.errors import DamagedFileError, NotFoundError
from mmapstore.readers.library_reader import LibraryReader

h5py = pytest.importorskip("h5py")

DATA = np.arange(40 * 6).reshape(40, 6)


@pytest.fixture
def path(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=DATA, chunks=(8, 6), scaleoffset=0)
    return tmp_path / "a.h5"


def reader_of(dataset):
    (reader,) = dataset.readers.values()
    assert isinstance(reader, LibraryReader)
    reader.check()
    return reader


def replaced(path):
    shutil.copy(path, path.with_name("b.h5"))
    os.replace(path.with_name("b.h5"), path)


def truncated(path):
    os.truncate(path, path.stat().st_size - 1)


def touched(path):
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (replaced, DamagedFileError, r"a\.h5 was replaced by another file since it was opened"),
        (truncated, DamagedFileError, r"a\.h5 ends at byte \d+, but had \d+ bytes when it was opened"),
        (touched, DamagedFileError, r"a\.h5 was written to since it was opened: its time of change is 1 s later"),
        (os.remove, NotFoundError, r"a\.h5 does not exist"),
    ],
)
def test_a_file_that_changed_is_noticed_at_the_next_epoch(path, change, error, says):
    dataset = mm.open(path)
    reader = reader_of(dataset)
    batches = dataset.batches(8, shuffle=True, seed=0)
    assert sum(len(x) for x in batches) == len(DATA)
    change(path)
    with pytest.raises(error, match=says):
        reader.check()
    with pytest.raises(error, match=says):
        list(batches)


def test_a_relative_path_stays_the_file_that_was_opened(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    reader = reader_of(mm.open("a.h5"))
    monkeypatch.chdir("/")
    reader.check()
    pickle.loads(pickle.dumps(reader)).check()


def test_a_file_that_is_being_written_may_change(tmp_path):
    """By this process, through the caller's own object; and by another that shares it."""
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        live = file.create_dataset("x", data=DATA, chunks=(8, 6), maxshape=(None, 6))
        reader = reader_of(mm.open(live))
        live[0] = 7
        file.flush()
        touched(tmp_path / "a.h5")
        reader.check()


def test_a_store_that_was_replaced_is_noticed(tmp_path):
    """A directory: what is in it comes and goes, the directory stays."""
    stored = in_directory(tmp_path / "a.zarr")
    reader = LibraryReader(stored, StoredLayout.of(None, stored.shape, "x"), "because")
    (tmp_path / "a.zarr" / "new").touch()
    reader.check()
    (tmp_path / "a.zarr").rename(tmp_path / "b.zarr")
    with pytest.raises(DamagedFileError, match=r"a\.zarr does not exist any more"):
        reader.check()
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(DamagedFileError, match=r"a\.zarr was replaced by another directory"):
        reader.check()


def in_directory(path):
    """A stored array of some format that keeps a directory."""
    path.mkdir()
    return ArrayInMemory(DATA, str(path))
