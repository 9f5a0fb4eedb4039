"""The checked cast against what a cast and back shows, and the permutation of axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mmapstore.operations.flow import casts
from mmapstore.operations.ingest.conversion import Conversion
from mmapstore.plain.array_spec import ArraySpec
from mmapstore.plain.errors import InvalidValueError

KINDS = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]


def converted(values: np.ndarray[Any, Any], dtype: str, first: int = 0) -> np.ndarray[Any, Any]:
    spec = ArraySpec(values.shape, values.dtype, "NCHW"[: values.ndim])
    made = Conversion.of(spec, None, dtype)
    out = np.empty(values.shape, made.target.dtype)
    made.into(out, values, first)
    return out


def fits(value: Any, dtype: np.dtype[Any]) -> bool:
    """By Python's own numbers, one value at a time."""
    number = value.item()
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return not np.isfinite(float(number)) or bool(np.isfinite(np.array(number).astype(dtype)))
    if isinstance(number, float):
        if not np.isfinite(number) or number != int(number):
            return False
        number = int(number)
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return bool(low <= int(number) <= high)


@given(data=st.data(), source=st.sampled_from(KINDS), target=st.sampled_from(KINDS))
def test_refuses_the_first_value_that_does_not_fit_and_no_other(data: st.DataObject, source: str, target: str) -> None:
    values = data.draw(arrays.arrays(np.dtype(source), arrays.array_shapes(min_dims=2, max_dims=3, max_side=4)))
    misfits = [place for place, value in np.ndenumerate(values) if not fits(np.asarray(value), np.dtype(target))]
    if misfits:
        sample, *place = misfits[0]
        with pytest.raises(
            InvalidValueError, match=rf"^Sample {sample + 5} of the source holds .* at \({', '.join(map(str, place))},?\), and"
        ):
            converted(values, target, first=5)
    else:
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(converted(values, target), values.astype(target))


@pytest.mark.parametrize(
    "value, source, target, text",
    [
        (300.0, "f4", "u1", r"Sample 2 of the source holds 300.0 at \(1,\), and uint8 holds whole numbers from 0 to 255"),
        (np.nan, "f8", "i4", "holds nan"),
        (np.inf, "f4", "i8", "holds inf"),
        (0.5, "f4", "u1", "holds 0.5.*scale, round or mask"),
        (-1, "i4", "u2", "holds -1"),
        (2**63, "u8", "i8", "holds 9223372036854775808"),
        (2.0**63, "f8", "i8", "holds 9.22"),
        (2.0**64, "f8", "u8", "holds 1.84"),
        (70000, "i4", "f2", "float16 holds at most 65504"),
        (1e300, "f8", "f4", "holds 1e.300"),
        (2, "u1", "?", "only 0 and 1"),
    ],
)
def test_what_does_not_fit_is_named(value: Any, source: str, target: str, text: str) -> None:
    values = np.zeros((4, 3), source)
    values[2, 1] = value
    with pytest.raises(InvalidValueError, match=text):
        converted(values, target)


@pytest.mark.parametrize(
    "value, source, target", [(np.nan, "f8", "f2"), (np.inf, "f8", "f4"), (1e-300, "f8", "f4"), (2**53 + 1, "i8", "f4")]
)
def test_what_floats_can_hold_or_round_passes(value: Any, source: str, target: str) -> None:
    values = np.full((2, 3), value, source)
    np.testing.assert_array_equal(converted(values, target), values.astype(target))


@pytest.mark.parametrize("shape", [(3, 2, 300, 700), (2, 200_000), (2, 3, 100_000)])
def test_large_samples_are_looked_at_in_pieces(shape: tuple[int, ...]) -> None:
    values = np.zeros(shape, np.float32)
    place = tuple(n - 1 for n in shape[1:])
    values[(1, *place)] = 300
    with pytest.raises(InvalidValueError, match=rf"Sample 1 .* at \({', '.join(map(str, place))},?\)"):
        converted(values, "u1")
    values[(1, *place)] = 200
    assert converted(values, "u1").max() == 200
    assert values[0].size > casts._PIECE


def test_scalars_have_no_place() -> None:
    with pytest.raises(InvalidValueError, match=r"Sample 1 of the source holds 7, and bool"):
        converted(np.array([0, 7]), "?")
