"""Files of checkpoints: read back whole, or not at all and with a word."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from mmapstore.adapters.checkpoint_files import CheckpointFiles
from mmapstore.plain.errors import DamagedFileError, InvalidTypeError, TrainingWarning


def state(number=0):
    return {
        "n": number,
        "none": None,
        "deep": {"list": [1.5, [True, "text"], float("inf")], "array": np.arange(6, dtype="f4").reshape(2, 3) + number},
        "kinds": [np.zeros((), "u4"), np.array([b"ab", b"c"]), np.zeros((0, 3), "i8"), np.float32(0.5)],
    }


def test_what_was_written_is_read(tmp_path):
    written = state(3)
    CheckpointFiles(tmp_path / "a" / "b", keep=2).write(written)
    path, found = CheckpointFiles(tmp_path / "a" / "b", keep=2).newest()
    assert path.name == "checkpoint-00000001.npz"
    assert found["n"] == 3 and found["none"] is None and found["deep"]["list"] == [1.5, [True, "text"], float("inf")]
    for one, other in zip([written["deep"]["array"], *written["kinds"]], [found["deep"]["array"], *found["kinds"]], strict=True):
        np.testing.assert_array_equal(one, other)
        assert other.dtype == one.dtype and other.shape == one.shape


def test_types_of_frameworks_are_kept_bit_for_bit(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = [np.array([1.5, -2, np.nan]).astype(ml_dtypes.bfloat16), np.array(0.25).astype(ml_dtypes.float8_e4m3fn)]
    CheckpointFiles(tmp_path, keep=1).write({"values": values})
    for one, other in zip(values, CheckpointFiles(tmp_path, keep=1).newest()[1]["values"], strict=True):
        assert (other.dtype, other.shape, other.tobytes()) == (one.dtype, one.shape, one.tobytes())


def test_the_last_ones_are_kept(tmp_path):
    (tmp_path / "log.csv").write_text("a file of the user")
    for keep, expected in ((2, [4, 5]), (1, [7])):
        files = CheckpointFiles(tmp_path, keep)
        files.newest()
        while max(files.numbered(), default=0) < expected[-1]:
            files.write(state())
        assert list(files.numbered()) == expected
    files.delete()
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.csv"]
    assert CheckpointFiles(tmp_path, 2).newest() is None is CheckpointFiles(tmp_path / "nowhere", 2).newest()


@pytest.mark.parametrize("damage", ["empty", "half", "flipped", "other"])
def test_the_one_before_a_damaged_one(tmp_path, damage):
    files = CheckpointFiles(tmp_path, 2)
    for number in (1, 2):
        newest = files.write(state(number))
    data = newest.read_bytes()
    at = data.index(state(2)["deep"]["array"].tobytes())  # in an array, where the framework would see nothing wrong
    flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    newest.write_bytes({"empty": b"", "half": data[: len(data) // 2], "flipped": flipped, "other": b"no archive"}[damage])
    files = CheckpointFiles(tmp_path, 2)
    with pytest.warns(TrainingWarning, match=r"checkpoint-00000002.npz is damaged .*before it is used, checkpoint-00000001.npz"):
        found = files.newest()[1]
    assert found["n"] == 1
    assert files.write(state(5)).name == "checkpoint-00000003.npz"
    assert list(files.numbered()) == [1, 3], "the good ones are kept, not the damaged one"


def test_nothing_that_can_be_read(tmp_path):
    CheckpointFiles(tmp_path, 2).write(state()).write_bytes(b"PK")
    with pytest.raises(DamagedFileError, match=r"checkpoint-00000001.npz is damaged .*no other checkpoint. Delete the directory"):
        CheckpointFiles(tmp_path, 2).newest()


def test_every_byte_that_matters_is_checked(tmp_path):
    """A flipped bit anywhere is an error, or is in padding and changes nothing."""
    path = CheckpointFiles(tmp_path, 1).write({"a": np.arange(3), "b": "text"})
    data = path.read_bytes()
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        try:
            found = CheckpointFiles(tmp_path, 1).newest()[1]
        except DamagedFileError:
            continue
        assert found["b"] == "text" and found["a"].tolist() == [0, 1, 2], at


def test_a_full_disk_leaves_no_part(tmp_path, monkeypatch):
    files = CheckpointFiles(tmp_path, 2)
    files.write(state(1))

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(state(2))
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["checkpoint-00000001.npz"]
    assert CheckpointFiles(tmp_path, 2).newest()[1]["n"] == 1


@pytest.mark.parametrize("value", [{1, 2}, np.array([object()]), object()])
def test_states_that_are_no_data(tmp_path, value):
    with pytest.raises(InvalidTypeError, match=r"a state to save holds .*expected dicts and lists of numbers"):
        CheckpointFiles(tmp_path, 2).write({"callbacks": {"Mine 0": {"x": value}}})
    assert os.listdir(tmp_path) == []
