"""Casts and packed integers against Python's own numbers, one value at a time."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmapstore.operations.flow.casts import Cast, Changes, RefusedValue, checked_casting, checked_target
from mmapstore.plain.cf_packing import Packing
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError

KINDS = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]


def expected(value, target):
    """(the nearest value, exact?, in range?) in exact arithmetic; None where there is none."""
    if isinstance(value, float) and math.isnan(value):
        return (value, True, True) if target.kind == "f" else None
    if target.kind == "f":
        with np.errstate(over="ignore"):
            near = target.type(value)
        if np.isinf(near) and math.isfinite(value):
            return math.copysign(float(np.finfo(target).max), value), False, False
        return float(near), math.isinf(value) or Fraction(float(near)) == Fraction(value), True
    low, high = (0, 1) if target.kind == "b" else (int(np.iinfo(target).min), int(np.iinfo(target).max))
    if isinstance(value, float) and math.isinf(value):
        return (high if value > 0 else low), False, False
    near = round(value)  # halves to even
    if not low <= near <= high:
        return (high if near > high else low), False, False
    return near, near == value, True


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(KINDS), st.sampled_from(KINDS), st.data())
def test_every_value_is_the_nearest_and_is_counted(source, target, data):
    source, target = np.dtype(source), np.dtype(target)
    elements = hnp.from_dtype(source)
    if source.kind == "f":
        ends = [float(np.iinfo(t).max) for t in ("i1", "u1", "i4", "i8", "u8")] + [0.5, 1.5, 2.5, -0.5, 1e4, 7e4]
        with np.errstate(over="ignore"):
            elements = st.one_of(elements, st.sampled_from([source.type(x).item() for x in ends]))
    elif source.kind in "iu":
        ends = [2**k + d for k in (7, 8, 15, 16, 24, 31, 32, 53, 63, 64) for d in (-1, 0, 1)]
        info = np.iinfo(source)
        elements = st.one_of(elements, st.sampled_from([x for x in ends if x <= info.max]))
    values = data.draw(hnp.arrays(source, st.integers(1, 6), elements=elements))
    wanted = [expected(value, target) for value in values.tolist()]
    out = np.empty(values.shape, target)
    for casting in ("exact", "round", "clip"):
        bad = [w is None or (casting != "clip" and not w[2]) or (casting == "exact" and not w[1]) for w in wanted]
        cast = Cast(source, target, casting)
        if any(bad):
            with pytest.raises(RefusedValue) as caught:
                cast.into(out, values)
            assert caught.value.place == (bad.index(True),)
            continue
        changes = cast.into(out, values)
        np.testing.assert_array_equal(out, np.array([target.type(w[0]) for w in wanted], target))
        assert changes == Changes(sum(w[2] and not w[1] for w in wanted), sum(not w[2] for w in wanted))


def test_many_values_in_threads_and_any_strides():
    values = np.random.default_rng(0).integers(-400, 400, (50, 70, 100)).astype("f4") / 2
    out = np.empty((100, 70, 50), "i1")
    changes = Cast(np.dtype("f4"), np.dtype("i1"), "clip").into(out, values.T)
    np.testing.assert_array_equal(out, np.clip(np.rint(values), -128, 127).astype("i1").T)
    rounded = np.rint(values)
    inside = (rounded >= -128) & (rounded <= 127)
    assert changes == Changes(int(np.count_nonzero((rounded != values) & inside)), int(np.count_nonzero(~inside)))


def test_the_first_refused_value_is_named():
    values = np.zeros((300, 400), "f8")
    values[299, 399], values[299, 398] = 0.25, np.nan
    with pytest.raises(
        InvalidValueError, match=r"holds nan at \(299, 398\), which is not a value of uint8 .*whole numbers from 0 to 255"
    ):
        Cast(np.dtype("f8"), np.dtype("u1"), "exact").into(np.empty(values.shape, "u1"), values)
    with pytest.raises(InvalidValueError, match="There is no number for it: mask it first"):
        Cast(np.dtype("f8"), np.dtype("u1"), "clip").into(np.empty(values.shape, "u1"), values)


def test_complex_numbers_keep_both_parts():
    values = np.array([1 + 2j, 0.1 - 4j], "c16")
    out = np.empty(2, "c8")
    assert Cast(values.dtype, out.dtype, "round").into(out, values) == Changes(1, 0)
    np.testing.assert_array_equal(out, values.astype("c8"))
    with pytest.raises(InvalidValueError, match=r"holds \(0.1-4j\) at \(1,\)"):
        Cast(values.dtype, out.dtype, "exact").into(out, values)


@pytest.mark.parametrize(("source", "target"), [("c16", "f8"), ("S3", "u1"), ("u1", "S3"), ("f8", "M8[s]")])
def test_what_cannot_be_cast_is_refused(source, target):
    with pytest.raises(InvalidTypeError, match=r"cannot be converted to .*; expected bool"):
        checked_target(np.dtype(source), target)


def test_words_are_checked():
    with pytest.raises(InvalidValueError, match="casting='wrap' is not known; expected one of 'exact', 'round', 'clip'"):
        checked_casting("wrap")
    with pytest.raises(InvalidTypeError, match="dtype='unit8' is not a dtype"):
        checked_target(np.dtype("u1"), "unit8")


@pytest.mark.parametrize(
    ("attributes", "stored", "dtype", "values"),
    [
        ({"scale_factor": np.float32(0.5)}, np.array([2, -3], "i2"), "f4", [1.0, -1.5]),
        ({"scale_factor": np.float64(0.1), "add_offset": np.float64(273.15)}, np.array([100], "i2"), "f8", [100 * 0.1 + 273.15]),
        ({"scale_factor": [0.5], "_FillValue": np.int16(-999)}, np.array([-999, 4], "i2"), "f8", [np.nan, 2.0]),
        ({"_FillValue": np.int16(-1), "missing_value": np.int16(-2)}, np.array([-1, -2, 3], "i2"), "f4", [np.nan, np.nan, 3.0]),
        (
            {"_Unsigned": "true", "scale_factor": np.float32(1), "_FillValue": np.int8(-1)},
            np.array([-1, -2], "i1"),
            "f4",
            [np.nan, 254],
        ),
        ({"add_offset": np.float32(1)}, np.array([7, 2**24 + 2], "u4"), "f8", [8.0, 2**24 + 3]),
    ],
)
def test_packed_integers(attributes, stored, dtype, values):
    packing = Packing.of(attributes, stored.dtype)
    assert packing is not None and packing.dtype == np.dtype(dtype)
    out = np.empty(stored.shape, packing.dtype)
    packing.unpack(stored, out)
    np.testing.assert_array_equal(out, np.array(values, dtype))


@pytest.mark.parametrize(
    ("attributes", "dtype"),
    [
        ({}, "i2"),
        ({"scale_factor": 1.0, "add_offset": 0.0}, "i2"),
        ({"_FillValue": np.float32("nan")}, "f4"),
        ({"scale_factor": "half"}, "i2"),
    ],
)
def test_what_is_not_packed(attributes, dtype):
    assert Packing.of(attributes, np.dtype(dtype)) is None


def test_large_arrays_are_unpacked_in_slices():
    stored = np.arange(-100_000, 100_000, dtype="i4").reshape(2, 100, 1000)[:, :, ::-1]
    packing = Packing.of({"scale_factor": 0.25, "_FillValue": 5}, stored.dtype)
    out = np.empty(stored.shape, "f8")
    packing.unpack(stored, out)
    np.testing.assert_array_equal(out, np.where(stored == 5, np.nan, stored * 0.25))
