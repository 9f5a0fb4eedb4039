"""Windows of frames in sequential order: two are read ahead, each chunk once, and an error belongs to its window alone."""

from __future__ import annotations

import threading
import time

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmapstore as mm
from mmapstore.batches import window_frames
from mmapstore.batches.window_buffers import _shared
from mmapstore.plain.errors import DamagedFileError, MemoryBudgetError
from mmapstore.plain.runs import merged, samples_of
from mmapstore.readers.decoded import Decoded

FRAMES = np.random.default_rng(0).random((400, 2, 3), "f4")
CHUNK = 16


@pytest.fixture
def batches(tmp_path, monkeypatch):
    """Of 10 samples, in stretches of 40, from chunks of 16."""
    monkeypatch.setattr(window_frames, "STRETCH_BYTES", 40 * FRAMES[0].nbytes)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=FRAMES, chunks=(CHUNK, 2, 3), compression="gzip")
    return mm.open(tmp_path / "x.h5").batches(10, target=mm.NextFrame())


@pytest.fixture
def reads(monkeypatch):
    """The runs that were read, as (first, last) sample."""
    found, whole = [], Decoded.read_runs

    def noting(self, runs, out):
        found.extend(map(tuple, runs.tolist()))
        return whole(self, runs, out)

    monkeypatch.setattr(Decoded, "read_runs", noting)
    return found


def right(number, x, y):
    start = 10 * number
    return np.array_equal(x, FRAMES[start : start + len(x)]) and np.array_equal(y, FRAMES[start + 1 : start + 1 + len(x)])


def test_two_windows_are_read_ahead(batches, reads):
    x, y = batches[0]
    deadline = time.monotonic() + 20
    while sum(stop - start for start, stop in reads) < 128 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert right(0, x, y)
    # Samples 0 to 40, 80 and 120 are wanted, in whole chunks, none twice; and no fourth window.
    assert sorted(reads) == [(0, 48), (48, 96), (96, 128)]


def test_in_stored_order_every_chunk_is_decoded_once(batches, reads):
    for _ in range(3):
        reads.clear()
        assert all(right(number, x, y) for number, (x, y) in enumerate(batches))
        assert merged(reads).tolist() == [[0, 400]] and sum(stop - start for start, stop in reads) == 400


def test_two_windows_are_decoded_at_the_same_time(batches, monkeypatch):
    both, whole = threading.Barrier(2, timeout=20), Decoded.read_runs

    def meeting(self, runs, out):
        if runs[0][0] in (48, 96):
            both.wait()  # breaks, and fails the batch, if one waits for the other
        return whole(self, runs, out)

    monkeypatch.setattr(Decoded, "read_runs", meeting)
    assert all(right(number, *batches.read(0, number)) for number in range(len(batches)))


@pytest.mark.parametrize("fails", [48, 96])
def test_an_error_comes_out_in_its_own_window_and_reading_goes_on(batches, monkeypatch, fails):
    whole, failed = Decoded.read_runs, []

    def failing(self, runs, out):
        if runs[0][0] == fails and not failed:
            failed.append(runs)
            raise DamagedFileError("once")
        return whole(self, runs, out)

    monkeypatch.setattr(Decoded, "read_runs", failing)
    first = 4 if fails == 48 else 8  # batches that need nothing of it
    assert all(right(number, *batches.read(0, number)) for number in range(first))
    with pytest.raises(DamagedFileError, match="once"):
        batches.read(0, first)
    assert all(right(number, *batches.read(0, number)) for number in range(first, len(batches)))


def test_turning_to_another_place_leaves_nothing_under_way(batches):
    for epoch, numbers in enumerate([(0, 30, 5), (17, 18, 2), (38, 0, 1), (0,)]):
        assert all(right(number, *batches.read(epoch, number)) for number in numbers)


RUNS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)).map(lambda run: (run[0], sum(run))), min_size=1, max_size=4)


@given(RUNS, RUNS)
def test_what_two_windows_share_at_the_beginning(before, runs):
    before, runs = merged(before), merged(runs)
    last, wanted = range(*before[-1]), samples_of(runs).tolist()
    if wanted[0] < last.start:
        assert _shared(before, runs) == 0
    else:
        assert _shared(before, runs) == sum(sample in last for sample in wanted)


def test_less_is_read_ahead_where_less_memory_is_allowed(tmp_path):
    frames = np.zeros((4000, 3, 32, 32), "f4")
    frames[:] = np.arange(len(frames))[:, None, None, None]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=frames, chunks=(64, 3, 32, 32), compression="gzip", shuffle=True)
    ds = mm.open(tmp_path / "x.h5")
    usual = ds.batches(32, target=mm.NextFrame())
    less = ds.batches(32, target=mm.NextFrame(), max_memory=usual.memory.total - 1)
    least = ds.batches(32, target=mm.NextFrame(), max_memory=less.memory.total - 1)
    assert least.memory.total < less.memory.total < usual.memory.total
    for b in (usual, less, least):
        assert [int(x[0, 0, 0, 0]) for x, _ in b] == list(range(0, 3999, 32))
    with pytest.raises(MemoryBudgetError, match="batch_size=32"):
        ds.batches(32, target=mm.NextFrame(), max_memory=least.memory.total - least.memory.parts["decoder"])  # not even one thread


def test_a_pass_that_begins_in_the_middle_decodes_nothing_twice(batches, reads):
    assert batches.grouped(lambda have, want: False).most == 4 and len(batches) == 40
    batches.load_state_dict(batches.state_at(0, 6))
    reads.clear()  # of the fingerprint that a state is bound to
    for number, (x, y) in enumerate(batches, start=6):
        assert right(number, x, y)
    samples = [sample for start, stop in reads for sample in range(start, stop)]
    assert number == 39 and len(samples) == len(set(samples)) and set(samples) >= set(range(60, 400))
