"""The lock around a write: one holder, and a file that comes and goes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from mmapstore.files import exclusive_lock as module
from mmapstore.files.exclusive_lock import exclusive_lock
from mmapstore.plain.errors import LockedFileError, WriteError


def test_one_at_a_time_and_nothing_left(tmp_path):
    path = str(tmp_path / "x.lock")
    with exclusive_lock(path, "x.npy"):
        found = rf"x\.npy is being written by another run: process {os.getpid()} on "
        with pytest.raises(LockedFileError, match=found), exclusive_lock(path, "x.npy"):
            raise AssertionError("held twice")
        assert os.path.exists(path)
    assert os.listdir(tmp_path) == []
    with exclusive_lock(path, "x.npy"):
        pass


def test_it_is_let_go_by_an_error(tmp_path):
    path = str(tmp_path / "x.lock")
    with pytest.raises(ZeroDivisionError), exclusive_lock(path, "x.npy"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_a_file_left_behind_locks_nothing(tmp_path):
    (tmp_path / "x.lock").write_text("process 1 on some machine, and a long name " * 5)
    with exclusive_lock(str(tmp_path / "x.lock"), "x.npy"):
        assert (tmp_path / "x.lock").read_text().startswith(f"process {os.getpid()} on ")


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes nothing that is open")
def test_a_file_deleted_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    path = str(tmp_path / "x.lock")
    take, taken = module._take, []

    def late(descriptor):
        if not taken:
            os.unlink(path)  # as the holder before does, between our opening and our locking
        taken.append(descriptor)
        take(descriptor)

    monkeypatch.setattr(module, "_take", late)
    with exclusive_lock(path, "x.npy"):
        assert len(taken) == 2 and os.path.exists(path)
    assert os.listdir(tmp_path) == []


def test_no_directory(tmp_path):
    with (
        pytest.raises(WriteError, match=r"x\.npy cannot be written: .*Create it first"),
        exclusive_lock(f"{tmp_path}/no/x", "x.npy"),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, number):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, "_take", refuse)
    with pytest.warns(RuntimeWarning, match=r"file system of x\.npy has no locks"), exclusive_lock(f"{tmp_path}/x", "x.npy"):
        pass
    assert os.listdir(tmp_path) == []


def test_other_failures_are_write_errors(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module, "_take", refuse)
    found = "x cannot be written: Input/output error"
    with pytest.raises(WriteError, match=found), exclusive_lock(f"{tmp_path}/x.lock", "x"):
        pass


_FORKING_WRITER = """
import os, sys, time
from mmapstore.files.exclusive_lock import exclusive_lock
with exclusive_lock(sys.argv[1], "x.npy"):
    child = os.fork()
    if child == 0 and sys.argv[2] == "leaves":
        sys.exit()  # unwinds the block: the lock is its parent's
    if child and sys.argv[2] == "leaves":
        os.waitpid(child, 0)
    os.write(1, f"{child}\\n".encode())
    time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("child", ["stays", "leaves"])
def test_a_forked_child_neither_holds_nor_drops_the_lock(tmp_path, child):
    path = str(tmp_path / "x.lock")
    writer = subprocess.Popen([sys.executable, "-c", _FORKING_WRITER, path, child], stdout=subprocess.PIPE, text=True)
    forked = max(int(writer.stdout.readline()), int(writer.stdout.readline()) if child == "stays" else 0)
    try:
        with pytest.raises(LockedFileError, match=f"process {writer.pid} on"), exclusive_lock(path, "x.npy"):
            pass
        writer.kill()
        writer.wait()
        with exclusive_lock(path, "x.npy"):
            pass
    finally:
        writer.kill()
        writer.stdout.close()
        if child == "stays":
            os.kill(forked, signal.SIGKILL)
