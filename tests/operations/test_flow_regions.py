"""Samples cut into regions, and records of regions put into order, against brute force."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmapstore.operations.flow.regions import Regions, in_order
from mmapstore.plain.errors import InvalidValueError, StateMismatchError


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 60))
def test_regions_cover_all_samples_once(start: int, samples: int, length: int) -> None:
    regions = Regions(start, start + samples, length)
    found = [regions[number] for number in range(len(regions))]
    assert [at for first, stop in found for at in range(first, stop)] == list(range(start, start + samples))
    assert all(first < stop and first // length == (stop - 1) // length for first, stop in found)
    with pytest.raises(InvalidValueError, match=f"expected one of 0 to {len(found) - 1}"):
        regions[len(found)]


@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 20))
def test_at_most_so_many_regions_of_whole_units(samples: int, unit: int, most: int) -> None:
    regions = Regions.at_most(most, samples, unit)
    found = [regions[number] for number in range(len(regions))]
    assert len(found) <= most and all(start % unit == 0 for start, _ in found)
    assert sum(stop - start for start, stop in found) == samples


def test_a_million_regions_are_arithmetic() -> None:
    regions = Regions(0, 10**12 + 1, 10**6)
    assert len(regions) == 10**6 + 1 and regions[10**6] == (10**12, 10**12 + 1) and len(pickle.dumps(regions)) < 200


@given(st.lists(st.integers(0, 5)))
def test_records_come_in_order_and_once(numbers: list[int]) -> None:
    count = len(set(numbers))
    records = [(number, str(number)) for number in numbers]
    if set(numbers) == set(range(count)):
        assert list(in_order(records, count)) == [str(number) for number in range(count)]
    missing = sorted(set(range(6)) - set(numbers))
    if missing:
        with pytest.raises(StateMismatchError, match=f"{len(missing)} of 6 regions were not done: {missing[0]}"):
            list(in_order(records, 6))
