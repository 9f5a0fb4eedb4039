"""Statistics in one pass against NumPy on everything at once; hard cases are offsets, NaN, infinities and wide integers."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmapstore.plain import channel_statistics
from mmapstore.plain.channel_statistics import ChannelStatistics, DifferenceStatistics, difference_nbytes, scratch_nbytes
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError


def seen(*blocks: np.ndarray[Any, Any], axis: int | None = None) -> ChannelStatistics:
    statistics = ChannelStatistics()
    for block in blocks:
        statistics.update(block, axis)
    return statistics


def assert_agrees(statistics: ChannelStatistics, whole: np.ndarray[Any, Any], axis: int) -> None:
    rows = np.moveaxis(whole, axis, 0).reshape(whole.shape[axis], -1).astype(np.float64)
    np.testing.assert_array_equal(statistics.count, rows.shape[1])
    np.testing.assert_array_equal(statistics.minimum, np.moveaxis(whole, axis, 0).reshape(len(rows), -1).min(1))
    np.testing.assert_array_equal(statistics.maximum, np.moveaxis(whole, axis, 0).reshape(len(rows), -1).max(1))
    np.testing.assert_allclose(statistics.mean, rows.mean(1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(statistics.std, rows.std(1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", ">f4", ">i2"])
@pytest.mark.parametrize("axis", [0, 1, 3])
def test_agrees_with_numpy_for_every_dtype_and_axis(dtype: str, axis: int) -> None:
    values = np.random.default_rng(0).integers(0, 2 if dtype == "?" else 100, (12, 3, 7, 5)).astype(dtype)
    blocks = (values[:, :, :3], values[:, :, 3:]) if axis == 0 else (values[:5], values[5:])
    assert_agrees(seen(*blocks, axis=axis), values, axis)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), slice_size=st.integers(1, 40), channels_at_once=st.integers(1, 6))
def test_any_cut_into_slices_and_blocks_gives_the_same(data: st.DataObject, slice_size: int, channels_at_once: int) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=2, max_size=4)))
    axis = data.draw(st.integers(0, len(shape) - 1))
    values = np.random.default_rng(data.draw(st.integers(0, 99))).normal(1e3, 2, shape)
    cut_axis = 1 if axis == 0 else 0
    cut = data.draw(st.integers(0, shape[cut_axis]))
    first, second = np.split(values, [cut], axis=cut_axis)
    before = channel_statistics._SLICE, channel_statistics._CHANNELS
    channel_statistics._SLICE, channel_statistics._CHANNELS = slice_size, channels_at_once
    try:
        statistics = seen(first, second, axis=axis)
        merged = seen(first, axis=axis)
        merged.merge(seen(second, axis=axis))
    finally:
        channel_statistics._SLICE, channel_statistics._CHANNELS = before
    assert_agrees(statistics, values, axis)
    assert_agrees(merged, values, axis)


def test_without_a_channel_axis_all_is_one_channel() -> None:
    statistics = seen(np.array([[1, 2], [3, 6]]))
    assert (statistics.channels, statistics.mean.tolist(), statistics.count.tolist()) == (1, [3.0], [4])


def test_a_large_offset_costs_no_digits() -> None:
    values = 1e9 + np.tile([-1.0, 1.0], 200_000)
    np.testing.assert_allclose(seen(*np.split(values, 4)).std, [1.0], rtol=1e-9)


def test_a_constant_has_no_spread() -> None:
    assert seen(np.full(300_000, 0.1, np.float32)).std.tolist() == [0.0]


def test_wide_integers_keep_exact_extremes() -> None:
    top = 2**64 - 1
    found = seen(np.array([3, top], np.uint64))
    assert (found.minimum.tolist(), found.maximum.tolist()) == ([3], [top])
    assert found.maximum.dtype == np.uint64
    low = -(2**63)
    assert seen(np.array([low, low + 1], np.int64)).minimum.tolist() == [low]


def test_integers_then_floats_become_floats() -> None:
    found = seen(np.array([1, 2], np.uint8), np.array([0.5]))
    assert (found.minimum.tolist(), found.maximum.tolist()) == ([0.5], [2.0])


def test_nan_is_counted_apart() -> None:
    values = np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, np.nan]], np.float32)
    found = seen(values, axis=1)
    assert (found.count.tolist(), found.nans.tolist(), found.mean[0], found.std[0], found.maximum[0]) == (
        [2, 0],
        [1, 3],
        2.0,
        1.0,
        3.0,
    )
    for nothing in (found.mean, found.std, found.minimum, found.maximum):
        assert np.isnan(nothing[1])
    found.update(np.array([[5.0, 7.0]], np.float32), 1)
    assert (found.count.tolist(), found.mean.tolist()) == ([3, 1], [3.0, 7.0])


def test_infinities_show_in_the_extremes() -> None:
    found = seen(np.array([1.0, np.inf]), np.array([-np.inf, 2.0]))
    assert (found.minimum.tolist(), found.maximum.tolist(), found.count.tolist()) == ([-np.inf], [np.inf], [4])
    assert np.isnan(found.mean).all()


def test_json_keeps_every_bit() -> None:
    blocks = np.random.default_rng(1).normal(size=(4, 1000, 3)).astype(np.float32)
    blocks[0, :, 2] = np.nan
    half = seen(*blocks[:2], axis=1)
    again = ChannelStatistics.from_json(json.loads(json.dumps(half.to_json(), allow_nan=False)))
    for block in blocks[2:]:
        half.update(block, 1)
        again.update(block, 1)
    assert again.to_json() == half.to_json()
    wide = seen(np.array([2**64 - 1], np.uint64))
    assert ChannelStatistics.from_json(wide.to_json()).maximum.tolist() == [2**64 - 1]
    small = ChannelStatistics.from_json(seen(np.array([7], np.uint64)).to_json(), np.dtype(np.uint64))
    small.merge(wide)  # as int64 they would meet in float64
    assert (small.minimum.tolist(), small.maximum.tolist()) == ([7], [2**64 - 1])


def test_json_of_something_else_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="not statistics of channels"):
        ChannelStatistics.from_json({"count": [1]})
    with pytest.raises(InvalidValueError, match="different numbers of channels"):
        ChannelStatistics.from_json({**seen(np.zeros(3)).to_json(), "nans": [0, 0]})


def test_merging_nothing_changes_nothing() -> None:
    found = seen(np.arange(5.0))
    before = found.to_json()
    found.merge(ChannelStatistics())
    found.update(np.zeros((0,)), None)
    assert found.to_json() == before
    fresh = ChannelStatistics()
    fresh.merge(found)
    assert fresh.to_json() == before


def test_another_number_of_channels_is_an_error() -> None:
    found = seen(np.zeros((2, 3)), axis=1)
    with pytest.raises(InvalidValueError, match="has 4 channels, the blocks before had 3"):
        found.update(np.zeros((2, 4)), 1)


@pytest.mark.parametrize("dtype", ["S3", "c8", "O"])
def test_what_has_no_mean_is_refused(dtype: str) -> None:
    with pytest.raises(InvalidTypeError, match="mean nothing"):
        seen(np.zeros(3, dtype))


@pytest.mark.parametrize("dtype", ["?", "u1", "i2", "u4", "i8", "u8", "f2", "f4", "f8"])
@pytest.mark.parametrize("shape, axis", [((64, 3, 50, 50), 1), ((64, 50, 50, 3), 3), ((40, 20_000), 1), ((1_000_000,), None)])
def test_memory_is_at_most_predicted_and_nearly_as_much(shape: tuple[int, ...], axis: int | None, dtype: str) -> None:
    block = np.random.default_rng(0).integers(0, 2 if dtype == "?" else 250 if dtype == "u1" else 3000, shape).astype(dtype)
    if dtype[0] == "f":
        block.reshape(-1)[::1000] = np.nan
    form = block.dtype, 1 if axis is None else shape[axis]
    peaks = []
    for take in (
        lambda: ChannelStatistics().update(block, axis),
        lambda: DifferenceStatistics().update(block, [0, len(block) // 2, len(block) // 2 + 1], axis),
    ):
        tracemalloc.start()
        try:
            take()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert 0.5 * scratch_nbytes(*form) <= peaks[0] <= scratch_nbytes(*form)
    assert 0.3 * difference_nbytes(*form) <= peaks[1] <= difference_nbytes(*form) + block[0].nbytes


@pytest.mark.parametrize("values", [65_536, 300, 7])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "?"])
def test_small_integers_are_summed_without_rounding(dtype: str, values: int) -> None:
    """Whatever the sums reach within a slice: mean and deviations are those of whole numbers, rounded once."""
    for row in (np.full(values, 255 if dtype in ("u1", "i2") else 1), np.arange(values) % 256 - (128 if dtype == "i1" else 0)):
        row = row.astype(dtype)
        exact = [int(value) for value in row]
        total, squares = sum(exact), sum(value * value for value in exact)
        found = seen(row[None], axis=0).to_json()
        assert found["mean"] == [total / values]
        assert found["deviations"] == [(values * squares - total * total) / values]
