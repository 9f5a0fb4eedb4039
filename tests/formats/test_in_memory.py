"""Views of memory maps are followed back to their file; the rest is data in RAM."""

from __future__ import annotations

import mmap
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from sent_objects import sent

import mmapstore
from mmapstore.files import mapped_files
from mmapstore.formats import in_memory
from mmapstore.plain.errors import DamagedFileError, InvalidTypeError, NotFoundError

SHAPE = (40, 6, 300)


@pytest.fixture
def values():
    return np.random.default_rng(1).standard_normal(SHAPE).astype("<f4")


@pytest.fixture
def mapped(tmp_path, values):
    np.save(tmp_path / "x.npy", values)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


VIEWS = {
    "all": lambda m: m,
    "rows": lambda m: m[5:],
    "rows of rows": lambda m: m[5:][2:8],
    "one row": lambda m: m[7],
    "last row": lambda m: m[-1:],
    "every other": lambda m: m[::2],
    "reversed": lambda m: m[::-1],
    "reversed columns": lambda m: m[3:9, ::-1, 5:2:-1],
    "transposed": lambda m: m.T,
    "columns": lambda m: m[:, 2:4],
    "new axis": lambda m: m[3:6, None],
    "plain array": lambda m: np.asarray(m)[4:9],
    "reshaped": lambda m: m.reshape(20, 2, -1)[3:5],
    "as bytes": lambda m: m[2:4].view(np.uint8),
    "windows": lambda m: np.lib.stride_tricks.sliding_window_view(m, 3, axis=0)[2:9],
    "broadcast": lambda m: np.broadcast_to(m[3], (4, *m.shape[1:])),
    "squeezed": lambda m: m[4:5].squeeze(),
}
CONTIGUOUS = {"all", "rows", "rows of rows", "one row", "last row", "new axis", "plain array", "reshaped", "as bytes", "squeezed"}


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_of_a_map_is_found_in_its_file_and_pickles_small(tmp_path, values, mapped, name):
    view, expected = VIEWS[name](mapped), VIEWS[name](values)
    stored = in_memory.from_live(view)
    assert isinstance(stored, in_memory.MappedArray)
    assert (stored.shape, stored.dtype, stored.name) == (expected.shape, expected.dtype, str(tmp_path / "x.npy"))
    assert np.shares_memory(stored.as_array(), mapped)
    again = sent(stored, 1000)
    assert again.offset == stored.offset and pickle.dumps(again) == pickle.dumps(stored)
    for each in (stored, again):
        np.testing.assert_array_equal(each.as_array(), expected)
        box = np.empty((1, *expected.shape[1:]), expected.dtype)
        each.read_box((slice(1, 2), *(slice(0, n) for n in expected.shape[1:])) if len(expected) > 1 else (slice(0, 1),), box)
        np.testing.assert_array_equal(box, expected[1:2] if len(expected) > 1 else expected[:1])
        assert (each.located is not None) == (name in CONTIGUOUS)
        if each.located is not None:
            raw = (tmp_path / "x.npy").read_bytes()[each.located.offset :]
            np.testing.assert_array_equal(np.frombuffer(raw, expected.dtype, expected.size).reshape(expected.shape), expected)
        else:
            assert "strides" in each.why_not


@pytest.mark.parametrize("offset", [0, 4, mmap.ALLOCATIONGRANULARITY, mmap.ALLOCATIONGRANULARITY * 2 + 12])
def test_maps_that_begin_anywhere_in_a_file_are_located(tmp_path, offset):
    payload = np.random.default_rng(2).integers(0, 256, 5 * mmap.ALLOCATIONGRANULARITY, dtype=np.uint8)
    payload.tofile(tmp_path / "raw.bin")
    mapped = np.memmap(tmp_path / "raw.bin", ">i2", "r", offset, (50, 20))
    stored = in_memory.from_live(mapped[10:][5:7])
    assert stored.offset == offset + 15 * 40
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(stored)).as_array(), mapped[15:17])


def test_the_array_is_read_only_and_the_callers_own_stays_writable(tmp_path):
    mapped = np.memmap(tmp_path / "raw.bin", "f4", "w+", shape=(4, 2))
    for array in (mapped, np.zeros((4, 2), "f4")):
        stored = in_memory.from_live(array)
        with pytest.raises(ValueError, match="read-only"):
            stored.as_array()[0] = 1
        array[0] = 3
        np.testing.assert_array_equal(stored.as_array()[0], [3, 3])


def test_arrays_in_ram_say_so_and_pickle_as_data():
    array = np.arange(20.0).reshape(10, 2)
    stored = in_memory.from_live(array)
    assert (stored.name, stored.storage, stored.located, stored.chunks) == ("array in RAM", "in RAM", None, None)
    assert stored.why_not == "it is an array in RAM" and np.shares_memory(stored.as_array(), array)
    again = pickle.loads(pickle.dumps(stored))
    np.testing.assert_array_equal(again.as_array(), array)
    assert not again.as_array().flags.writeable
    box = np.empty((1, 2), "f4")
    stored.read_box((slice(4, 5), slice(0, 2)), box)
    np.testing.assert_array_equal(box, [[8, 9]])


def test_what_is_not_the_bytes_of_a_file_counts_as_memory(tmp_path, values, mapped):
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[0] = 5
    copies = {
        "copy on write": (private[:2], private[:2].copy()),
        "fancy": (mapped[[3, 1]], values[[3, 1]]),
        "copied": (mapped[2:4].copy(), values[2:4]),
        "computed": (mapped[2:4] * 2, values[2:4] * 2),
        "unpickled": (pickle.loads(pickle.dumps(mapped[2:4])), values[2:4]),
        "empty": (mapped[3:3], values[3:3]),
    }
    for name, (array, expected) in copies.items():
        stored = in_memory.from_live(array)
        assert isinstance(stored, in_memory.ArrayInMemory), name
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(stored)).as_array(), expected)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not delete mapped files")
def test_maps_of_files_that_are_gone_or_replaced_count_as_memory(tmp_path, values, mapped):
    os.rename(tmp_path / "x.npy", tmp_path / "y.npy")
    assert isinstance(in_memory.from_live(mapped), in_memory.ArrayInMemory)
    np.save(tmp_path / "x.npy", values[:10])
    stored = in_memory.from_live(mapped)
    assert isinstance(stored, in_memory.ArrayInMemory)
    np.testing.assert_array_equal(stored.as_array(), values)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not delete mapped files")
@pytest.mark.parametrize("system", ["linux", "without /proc"])
@pytest.mark.parametrize("moved", [True, False])
def test_a_map_whose_file_was_replaced_by_one_of_equal_size_is_memory(tmp_path, values, mapped, moved, system, monkeypatch):
    """Its path would lead to the values of the new file."""
    if system != "linux":
        monkeypatch.setattr(mapped_files, "Path", lambda path: Path("/nowhere") if "proc" in str(path) else Path(path))
    assert isinstance(in_memory.from_live(mapped[3:]), in_memory.MappedArray)
    if moved:
        os.rename(tmp_path / "x.npy", tmp_path / "y.npy")
    np.save(tmp_path / "z.npy", values + 1)
    os.replace(tmp_path / "z.npy", tmp_path / "x.npy")
    stored = in_memory.from_live(mapped)
    assert isinstance(stored, in_memory.ArrayInMemory)
    np.testing.assert_array_equal(mmapstore.open(mapped).batches(16, shuffle=False)[0], values[:16])


@pytest.mark.skipif(os.name == "nt", reason="Windows does not delete mapped files")
def test_a_pickled_map_whose_file_changed_is_an_error_where_it_is_opened(tmp_path, mapped):
    dumped = pickle.dumps(in_memory.from_live(mapped))
    os.truncate(tmp_path / "x.npy", 5000)
    with pytest.raises(DamagedFileError, match="has 5000 bytes, but a memory map of it reached to byte 288128"):
        pickle.loads(dumped)
    os.unlink(tmp_path / "x.npy")
    with pytest.raises(NotFoundError, match="Pickles of maps need their file"):
        pickle.loads(dumped)


def test_a_map_of_a_temporary_file_without_name_is_memory(tmp_path):
    with (tmp_path / "x.bin").open("w+b") as file:
        file.write(bytes(4096))
        file.flush()
        anonymous = np.frombuffer(mmap.mmap(file.fileno(), 4096), "f4")
    assert isinstance(in_memory.from_live(anonymous), in_memory.ArrayInMemory)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([[1, 2], [3, 4]], r"a list is not an array.*np\.asarray"),
        ((1, 2), "a tuple is not an array"),
        (np.ma.masked_array([1, 2], [True, False]), r"array\.filled"),
        (np.array(["a", None], dtype=object), "object dtype"),
        (np.array(["a"]), "unicode"),
        (np.zeros(2, "i4,f4"), "compound"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(given, found):
    with pytest.raises(InvalidTypeError, match=found):
        in_memory.from_live(given)


def test_only_arrays_are_live():
    assert in_memory.is_live(np.zeros(2)) and not in_memory.is_live([1, 2]) and not in_memory.is_live("x.npy")
