"""Byte counts as text, and predictions in parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmapstore.plain.errors import InvalidTypeError, InvalidValueError, MemoryBudgetError
from mmapstore.plain.memory_budget import MemoryPlan, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256MB", 256 * 10**6),
        ("256 MiB", 256 * 2**20),
        ("1.5GiB", 3 * 2**29),
        (" 2k ", 2000),
        ("2kib", 2048),
        ("7", 7),
        ("7B", 7),
        ("1TB", 10**12),
        (4096, 4096),
        (np.int64(5), 5),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size and type(parse_bytes(text)) is int


@pytest.mark.parametrize("text", ["", "MB", "12 parsecs", "-5MB", "1,5GB", "1e9", "5 MB extra"])
def test_text_that_is_no_size(text):
    with pytest.raises(InvalidValueError, match=r"max_memory=.* is not a size; expected text such as '256MB'"):
        parse_bytes(text)


@pytest.mark.parametrize("value", [1.5, None, True, b"5MB", [5]])
def test_values_that_are_no_size(value):
    with pytest.raises(InvalidTypeError, match=r"budget=.* is not a size; expected bytes as an int, or text"):
        parse_bytes(value, "budget")


@pytest.mark.parametrize("value", [0, -1, "0", "0.1B"])
def test_nothing_is_no_budget(value):
    with pytest.raises(InvalidValueError, match=r"max_memory is -?\d+ bytes; expected more than 0"):
        parse_bytes(value)


@given(st.integers(1, 10**15))
def test_formatted_sizes_are_right_to_three_digits(size):
    text = format_bytes(size)
    number, unit = text.split()
    assert abs(float(number) * 1000 ** ["B", "kB", "MB", "GB", "TB"].index(unit) - size) <= 0.006 * size
    assert len(number.replace(".", "")) == 3 or unit in ("B", "TB")
    assert not number.endswith(".")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (99_960, "100 kB"), (999_499, "999 kB"), (999_600, "1.00 MB")]
)
def test_formatted_sizes(size, text):
    assert format_bytes(size) == text


def test_a_plan_is_refused_with_its_numbers():
    plan = MemoryPlan({"batches": 12_000_000, "nothing": 0, "bookkeeping": 4_000_000})
    plan.require(16_000_000, "an epoch", "never shown")
    with pytest.raises(MemoryBudgetError) as caught:
        plan.require(15_999_999, "an epoch over x.npy", "Make the batch smaller.")
    assert str(caught.value) == (
        "an epoch over x.npy would need 16.0 MB predicted peak = batches 12.0 MB + bookkeeping 4.00 MB, over max_memory=16.0 MB. "
        "Make the batch smaller."
    )
    assert isinstance(caught.value, MemoryError)
