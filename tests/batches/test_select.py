"""Datasets of selected samples, and of samples with gaps in time."""

from __future__ import annotations

import itertools

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmapstore as mm
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError, KeyNotFoundError, OutOfRangeError
from mmapstore.readers.decoded import Decoded

FRAMES = np.arange(60.0).reshape(60, 1)


def pairs(batches, epoch=0):
    made = [batches.read(epoch, number) for number in range(len(batches))]
    return sorted((float(a), float(b)) for x, y in made for a, b in zip(x.ravel(), y.ravel(), strict=True))


@given(st.sets(st.integers(0, 59), min_size=1), st.booleans(), st.randoms(use_true_random=False))
def test_windows_of_a_selection_are_those_of_neighbours(samples, shuffle, random):
    given_order = list(samples)
    random.shuffle(given_order)
    part = mm.open(FRAMES).select(given_order)
    assert part[:].ravel().tolist() == sorted(samples) == [int(part[i][0]) for i in range(len(part))]
    expected = [(float(n), float(n + 1)) for n in sorted(samples) if n + 1 in samples]
    if expected:
        assert pairs(part.batches(4, target=mm.NextFrame(), shuffle=shuffle)) == expected
    else:
        with pytest.raises(InvalidValueError, match="has no window"):
            part.batches(4, target=mm.NextFrame())


def test_selections_of_selections_and_of_parts():
    ds = mm.open({"x": FRAMES, "label": np.arange(60) % 3}, episodes=[0, 20, 60])
    part = ds.split(0.5, 0.5)[1].select(np.arange(30) % 2 == 0)  # 30, 32 ...
    again = part.select([3, -1])
    assert again["x"][:].ravel().tolist() == [36, 58] and again["label"][:].tolist() == [0, 1]
    assert [len(one) for one in part.split(10, 5)] == [10, 5] and part.split(10, 5)[1]["x"][0][0] == 50
    assert ds.select(np.arange(0, 60, 2)).episodes.tolist() == [0, 10, 30]
    assert "[2 of 60]" in again.name and "index" in repr(again) and "index" not in repr(ds.split(0.5)[0])
    assert part.fingerprint() != ds.select(np.arange(31, 60, 2)).fingerprint() != ds.fingerprint()


def test_the_index_is_in_the_memory_stated():
    ds = mm.open(np.zeros((100_000, 1), "f4"))
    every, half = ds.batches(10).memory.parts["index of samples"], ds.select(np.arange(0, 100_000, 2)).batches(10).memory.parts
    assert every < 100 and 16 * 50_000 <= half["index of samples"] < 17 * 50_000


@pytest.mark.parametrize(
    ("samples", "error", "text"),
    [
        ([], InvalidValueError, "no sample of the 60"),
        (np.zeros(60, bool), InvalidValueError, "no sample of the 60"),
        (np.ones(59, bool), InvalidValueError, r"the mask has the shape \(59,\); expected \(60,\)"),
        ([1, 5, 1], InvalidValueError, "sample 1 more than once"),
        ([0, -60], InvalidValueError, "sample 0 more than once"),
        ([60], OutOfRangeError, "there is no sample 60"),
        ([0.5], InvalidTypeError, "float64"),
        ([[1, 2]], InvalidTypeError, r"shape \(1, 2\)"),
    ],
)
def test_selections_that_cannot_be_meant(samples, error, text):
    with pytest.raises(error, match=text):
        mm.open(FRAMES).select(samples)


@given(st.lists(st.sampled_from([10, 9, 12, 40, 0, -5]), min_size=1, max_size=40))
def test_episodes_end_at_gaps(steps):
    times = np.cumsum([0, *steps])
    ds = mm.open({"x": np.arange(float(len(times))), "time": times}).break_at_gaps("time", step=10)
    cuts = [i + 1 for i, step in enumerate(steps) if not 0 < step <= 15]
    assert ds.episodes.tolist() == [0, *cuts, len(times)]
    assert len(ds) == len(times)


def test_gaps_in_windows_are_counted():
    ds = mm.open({"x": np.arange(30.0), "time": np.r_[np.arange(10) * 0.1, 5 + np.arange(20) * 0.1].astype("f4")})
    broken = ds.break_at_gaps("time")
    assert broken.episodes.tolist() == [0, 10, 30]
    assert "(4 of 30 samples begin no window)" in repr(broken.batches(5, target=mm.NextFrame(2)))
    assert all(b - a == 2 for a, b in pairs(broken.batches(5, target=mm.NextFrame(2))))
    assert list(itertools.pairwise(broken.select(np.arange(5, 30)).episodes.tolist())) == [(0, 5), (5, 25)]


def test_time_stamps_that_are_none():
    ds = mm.open({"x": FRAMES, "time": np.zeros(60), "bytes": np.full(60, b"a"), "two": np.zeros((60, 2))})
    for field, options, error, text in [
        ("when", {}, KeyNotFoundError, "no field 'when'"),
        ("bytes", {}, InvalidTypeError, "expected one number for each sample"),
        ("two", {}, InvalidTypeError, "expected one number for each sample"),
        ("time", {}, InvalidValueError, "expected the time from one sample to the next"),
        ("time", {"step": -1}, InvalidValueError, "step=-1"),
    ]:
        with pytest.raises(error, match=text):
            ds.break_at_gaps(field, **options)


def test_stamps_that_are_no_number_are_gaps():
    ds = mm.open({"x": np.arange(4.0), "time": np.array([0, 1, np.nan, 3])}).break_at_gaps("time", step=1)
    assert ds.episodes.tolist() == [0, 2, 3, 4]


@pytest.mark.parametrize("index", [slice(None, None, 2), [45, 3, 3, -1, 17], np.arange(60) % 3 == 0], ids=["steps", "list", "mask"])
def test_indexing_decodes_each_chunk_once(tmp_path, monkeypatch, index):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=FRAMES, chunks=(16, 1), compression="gzip")
    ds, decoded = mm.open(tmp_path / "x.h5"), []
    whole = Decoded._decode
    monkeypatch.setattr(Decoded, "_decode", lambda self, chunk, *rest: decoded.append(chunk.number) or whole(self, chunk, *rest))
    np.testing.assert_array_equal(ds[index], FRAMES[index])
    assert sorted(decoded) == sorted(set(decoded)) and decoded
    decoded.clear()
    for _ in ds.select(np.arange(60) % 3 > 0).batches(7):
        pass
    assert sorted(decoded) == [0, 1, 2, 3]
