"""No value changes on its way into a NumPy array, whatever the array-like."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmapstore.plain.array_likes import exact_array, is_array_like, is_fields, is_read_in_slices, lies_in_memory
from mmapstore.plain.errors import InvalidTypeError

_BIG = 2**53 + 1  # float64 has no such number
_VALUES = st.one_of(
    st.booleans(),
    st.integers(-5, 300),
    st.sampled_from([_BIG, -_BIG, 2**62, 2**63, 2**64 - 1, 2**64, np.uint64(2**63 + 1), np.int64(_BIG), np.float32(0.1), 1 + 2j]),
    st.floats(),
    st.sampled_from([b"a", b"a\0", "a", None, np.ma.masked, np.array([1, 2]), np.ma.masked_array([1, 2], [0, 1])]),
)


def _flat(values: Any) -> list[Any]:
    if isinstance(values, (list, np.ndarray)):
        return [each for part in values for each in _flat(part)]
    return [values.item() if isinstance(values, np.generic) else values]


def _assert_same(array: Any, values: Any) -> None:
    for given_value, kept in zip(_flat(values), array.reshape(-1).tolist(), strict=True):
        assert kept == given_value or (kept != kept and given_value != given_value)


_ROWS = st.lists(_VALUES, min_size=1, max_size=3)


@given(st.one_of(_VALUES, _ROWS, st.lists(st.one_of(_VALUES, _ROWS, st.lists(_ROWS, max_size=2)), max_size=3)))
@settings(max_examples=200)
def test_a_list_keeps_every_value_or_is_refused(values: Any) -> None:
    try:
        array = exact_array(values, "it")
    except InvalidTypeError:
        return
    if array.dtype.kind in "OU":  # refused by their dtype where they are used
        return
    _assert_same(array, values)


@given(
    st.lists(
        st.sampled_from([f"{order}{kind}" for kind in ("i1", "u2", "i4", "u8", "i8", "f2", "f4", "f8", "c8") for order in "<>"])
    ),
    st.integers(0, 2**64 - 1),
)
def test_arrays_of_mixed_dtypes_keep_every_value_or_are_refused(dtypes: list[str], bits: int) -> None:
    parts = [np.frombuffer(bits.to_bytes(8, "little"), dtype) for dtype in dtypes]
    rows = [part[:1] for part in parts]
    try:
        array = exact_array(rows, "it")
    except InvalidTypeError as error:
        assert "common dtype" in str(error)
        return
    _assert_same(array, rows)


def test_an_array_is_the_same_memory() -> None:
    array = np.arange(6).reshape(2, 3)
    assert exact_array(array, "it") is array
    assert np.shares_memory(exact_array(np.ma.masked_array(array), "it"), array)


class _Raising:
    shape = (2,)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("call detach() first")


def test_what_another_library_raises_is_told() -> None:
    with pytest.raises(InvalidTypeError, match=r"it is not an array of one shape and dtype \(RuntimeError: call detach"):
        exact_array(_Raising(), "it")


def test_lists_within_themselves_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidTypeError, match="one shape"):
        exact_array([endless], "it")


def test_kinds() -> None:
    assert is_array_like(np.zeros(2)) and is_array_like(memoryview(b"ab")) and is_array_like(_Raising())
    assert not any(map(is_array_like, ([1], (1,), np.float32(1), "x.npy", iter([1]), {"a": 1})))
    assert is_read_in_slices(np.zeros(2)) and not is_read_in_slices([1]) and not is_read_in_slices(_Raising())
    assert is_fields({"a": 1}) and not is_fields([1])
    assert lies_in_memory(np.zeros(2)) and not lies_in_memory(_Raising())
