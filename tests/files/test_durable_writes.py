"""Writes that survive, and errors that say what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mmapstore.files.durable_writes import (
    allocate,
    replace,
    sync_data,
    sync_directory,
    sync_tree,
    write_text_atomically,
)

DATA = bytes(range(256)) * 400


@pytest.fixture
def path(tmp_path):
    (tmp_path / "data.bin").write_bytes(DATA)
    return str(tmp_path / "data.bin")


@pytest.mark.parametrize("posix", [True, False])
def test_files_are_made_longer_never_shorter(path, monkeypatch, posix):
    if not posix and hasattr(os, "posix_fallocate"):
        monkeypatch.delattr(os, "posix_fallocate")
    with Path(path).open("r+b") as file:
        allocate(file.fileno(), 150_000)
        assert os.stat(path).st_size == 150_000
        allocate(file.fileno(), 10)
        sync_data(file.fileno())
    assert Path(path).read_bytes() == DATA + bytes(150_000 - len(DATA))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no posix_fallocate on this platform")
def test_a_full_disk_is_an_error_at_once(path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with Path(path).open("r+b") as file, pytest.raises(OSError, match="No space left"):
        allocate(file.fileno(), 150_000)
    assert os.stat(path).st_size == len(DATA)


def test_text_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "m.json"
    write_text_atomically(target, "one")
    write_text_atomically(target, "två")
    assert target.read_text(encoding="utf-8") == "två" and os.listdir(tmp_path) == ["m.json"]


def test_a_directory_takes_the_place_of_another(tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    sync_tree(tmp_path)
    sync_directory(tmp_path)
    replace(tmp_path / "new", tmp_path / "old")
    assert os.listdir(tmp_path) == ["old"] and (tmp_path / "old" / "new").read_text() == "new"


def test_a_directory_is_put_back_if_nothing_can_take_its_place(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "kept").write_text("data")
    with pytest.raises(FileNotFoundError):
        replace(tmp_path / "missing", tmp_path / "old")
    assert os.listdir(tmp_path) == ["old"] and (tmp_path / "old" / "kept").read_text() == "data"
