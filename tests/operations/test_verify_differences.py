"""Which values differ: against brute force, one value after the other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mmapstore.operations.verify import comparison
from mmapstore.operations.verify.comparison import Differences, cast_values

DTYPES = ["?", "u1", "i2", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16", "S3"]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Two arrays of one dtype and length, alike in most places."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    length = draw(st.integers(0, 40))
    a = draw(arrays.arrays(dtype, length))
    b = a.copy()
    other = draw(arrays.arrays(dtype, length))
    for place in draw(st.lists(st.integers(0, max(0, length - 1)), max_size=5)) if length else []:
        b[place] = other[place]
    return a, b


def same_value(a: Any, b: Any) -> bool:
    if isinstance(a, complex):
        return same_value(a.real, b.real) and same_value(a.imag, b.imag)
    return bool(a == b) or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


@given(pairs(), st.integers(1, 50))
def test_against_brute_force(pair: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]], cut: int) -> None:
    a, b = pair
    found = Differences()
    for start in range(0, len(a), cut):
        part = Differences()  # as another process finds it
        part.update(np.ascontiguousarray(a[start : start + cut]), np.ascontiguousarray(b[start : start + cut]))
        found.add(part)
    unlike = [place for place in range(len(a)) if not same_value(a[place].item(), b[place].item())]
    bits = [place for place in range(len(a)) if a[place].tobytes() != b[place].tobytes()]
    assert found.compared == len(a)
    assert found.differing == len(unlike)
    assert found.first == (unlike[0] if unlike else None)
    assert found.bits_only == len(set(bits) - set(unlike))
    if unlike:
        assert found.first_values is not None
        assert all(same_value(*each) for each in zip(found.first_values, (a[unlike[0]].item(), b[unlike[0]].item()), strict=True))


def test_slices_keep_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_SLICE", 3)
    a = np.arange(20.0)
    b = a.copy()
    b[[5, 6, 19]] += [1, 8, 2]
    found = Differences()
    found.update(a, b)
    assert (found.differing, found.first, found.first_values, found.largest) == (3, 5, (5.0, 6.0), 8.0)


@given(
    arrays.arrays(st.sampled_from(["?", "i1", "u2", "i8", "u8", "f2", "f4", "f8"]).map(np.dtype), st.integers(0, 20)),
    st.sampled_from(["?", "u1", "i1", "u4", "i4", "i8", "u8"]).map(np.dtype),
)
def test_casts_to_integers_lose_nothing_unseen(values: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> None:
    found, lost = cast_values(values, dtype)
    for place, value in enumerate(values.tolist()):
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        holds = not (isinstance(value, float) and not math.isfinite(value)) and value == int(value) and low <= value <= high
        assert bool(lost[place]) is not holds
        if holds:
            assert found[place].item() == value


def test_casts_to_floats_round_and_do_not_overflow() -> None:
    found, lost = cast_values(np.array([0.1, 1e300, np.inf, np.nan, 2**53 + 1.0]), np.dtype("f4"))
    assert lost.tolist() == [False, True, False, False, False]
    assert found[0] == np.float32(0.1)
    found, lost = cast_values(np.array([2**53 + 1, 3]), np.dtype("f8"))
    assert found[1] == 3 and not lost.any()
    found, lost = cast_values(np.array([1 + 0j, 1 + 2j]), np.dtype("f4"))
    assert lost.tolist() == [False, True]


def test_what_a_dtype_cannot_hold_differs_whatever_is_there() -> None:
    cast, lost = cast_values(np.array([256, 7]), np.dtype("u1"))
    found = Differences()
    found.update(cast, np.array([0, 7], np.uint8), lost)
    assert (found.differing, found.first) == (1, 0)
