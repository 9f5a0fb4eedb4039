"""Statistics of x[t+1] - x[t], against NumPy's own difference of each episode."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from mmapstore.plain.channel_statistics import DifferenceStatistics
from mmapstore.plain.errors import InvalidTypeError

DTYPES = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]


def random(dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    if dtype[0] == "f":
        return (rng.normal(size=shape) * 100).astype(dtype)
    if dtype == "?":
        return rng.integers(0, 2, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def gathered(array: np.ndarray[Any, Any], starts: list[int], cuts: list[int]) -> DifferenceStatistics:
    seen = DifferenceStatistics()
    for first, last in itertools.pairwise([0, *cuts, len(array)]):
        seen.update(array[first:last], [start - first for start in starts if first <= start < last], 1)
    return seen


@pytest.mark.parametrize("starts", [[0], [0, 1, 20, 39], list(range(0, 40, 2)), list(range(40))])
@pytest.mark.parametrize("cuts", [[], [13], [1, 2, 20, 21, 39]])
@pytest.mark.parametrize("dtype", DTYPES)
def test_agrees_with_numpy(dtype: str, cuts: list[int], starts: list[int]) -> None:
    array = random(dtype, (40, 3, 2))
    seen = gathered(array, starts, cuts).statistics
    exact = array.astype(object) * 1 if dtype[0] != "f" else array.astype(np.float64)
    parts = [np.diff(exact[first:last], axis=0) for first, last in itertools.pairwise([*starts, 40])]
    expected = np.moveaxis(np.concatenate(parts), 1, 0).reshape(3, -1)
    if expected.size == 0:
        assert seen.channels == 0
        return
    assert seen.count.tolist() == [expected.shape[1]] * 3
    numbers = expected.astype(np.float64)
    np.testing.assert_array_equal(seen.minimum.astype(np.float64), numbers.min(axis=1))
    np.testing.assert_array_equal(seen.maximum.astype(np.float64), numbers.max(axis=1))
    scale = np.abs(numbers).max()
    np.testing.assert_allclose(seen.mean, numbers.mean(axis=1), rtol=1e-12, atol=1e-12 * scale)
    np.testing.assert_allclose(seen.std, numbers.std(axis=1), rtol=1e-12, atol=1e-12 * scale)


def test_large_neighbours_keep_their_difference() -> None:
    """As float64, these are all the same number."""
    for dtype, base in (("i8", 2**62), ("u8", 2**63), ("i8", -(2**62))):
        array = np.array([base, base + 1, base + 3], dtype)[:, None]
        seen = gathered(array, [0], []).statistics
        assert (seen.minimum.tolist(), seen.maximum.tolist(), seen.mean.tolist()) == ([1.0], [2.0], [1.5])
    ends = np.array([np.iinfo("i8").min, np.iinfo("i8").max], "i8")[:, None]
    assert gathered(ends, [0], []).statistics.maximum.tolist() == [2.0**64]


def test_a_large_offset_costs_no_digits() -> None:
    array = 1e9 + np.random.default_rng(0).normal(size=(5000, 1))
    seen = gathered(array, [0], [1000, 1001, 4000]).statistics
    np.testing.assert_allclose(seen.std, np.diff(array, axis=0).std(axis=0), rtol=1e-9)


def test_labels_without_channels_and_values_that_are_none() -> None:
    seen = DifferenceStatistics()
    seen.update(np.array([1.0, np.nan, 3.0, 5.0]), [0], None)
    assert (seen.statistics.count.tolist(), seen.statistics.nans.tolist(), seen.statistics.mean.tolist()) == ([1], [2], [2.0])
    with pytest.raises(InvalidTypeError, match=r"Differences of dtype \|S3 mean nothing"):
        seen.update(np.array([b"abc"]), [0], None)


def test_samples_larger_than_a_slice() -> None:
    array = random("u1", (5, 2, 300, 300))
    seen = gathered(array, [0, 1, 2, 3], [2]).statistics
    expected = np.diff(array[3:].astype(int), axis=0)
    assert seen.count.tolist() == [90_000] * 2
    np.testing.assert_allclose(seen.mean, expected.mean(axis=(0, 2, 3)), rtol=1e-12)
