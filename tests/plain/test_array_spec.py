"""Layouts: how stored axes become samples, against transposing the whole array."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmapstore.plain.array_spec import LETTERS, StoredLayout, checked_dtype
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError


@st.composite
def layouts(draw):
    """Any letters in any order, N or T among them, and a small array of that layout."""
    letters = draw(
        st.lists(st.sampled_from(LETTERS), min_size=1, max_size=6, unique=True).filter(lambda found: {"N", "T"} & set(found))
    )
    shape = tuple(draw(st.integers(1, 4)) for _ in letters)
    return StoredLayout.of("".join(letters), shape, "the array"), np.arange(np.prod(shape)).reshape(shape)


def in_samples(layout: StoredLayout, stored: np.ndarray) -> np.ndarray:
    """The samples, by transposing: episodes first, then time, then the rest in stored order."""
    order = [layout.letters.index(letter) for letter in "NT" if letter in layout.letters]
    order += [axis for axis, letter in enumerate(layout.letters) if letter not in "NT"]
    return np.transpose(stored, order).reshape(layout.samples, *layout.sample_shape)


@given(layouts())
def test_samples_episodes_and_spec(case):
    layout, stored = case
    expected = in_samples(layout, stored)
    view = layout.samples_first(stored)
    assert np.shares_memory(view, stored) and view.shape[:2] == (layout.samples // layout.episode_length, layout.episode_length)
    np.testing.assert_array_equal(view.reshape(expected.shape), expected)
    spec = layout.spec(np.dtype(">f4"))
    assert (spec.shape, spec.dtype, len(spec)) == (expected.shape, np.dtype("f4"), len(expected))
    assert spec.layout == "N" + "".join(letter for letter in layout.letters if letter not in "NT")
    assert spec.sample_nbytes == expected[0].size * 4 and spec.nbytes == expected.size * 4


@given(layouts())
def test_rows_lie_where_they_are_said_to(case):
    """Where each sample is one piece, `rows_of` finds it; `is_consecutive` is true if rows are counted as samples are."""
    layout, stored = case
    expected = in_samples(layout, stored)
    whole = all(np.ptp(sample.reshape(-1)) == sample.size - 1 for sample in expected)
    if layout.has_rows:
        assert whole
        rows = layout.rows_of(np.arange(layout.samples))
        np.testing.assert_array_equal(stored.reshape(expected.shape)[rows], expected)
        assert layout.is_consecutive == (rows.tolist() == list(range(layout.samples)))
    else:
        assert not layout.is_consecutive


@given(layouts(), st.data())
def test_boxes_hold_the_samples(case, data):
    layout, stored = case
    start = data.draw(st.integers(0, layout.samples))
    stop = data.draw(st.integers(start, layout.samples))
    found = np.full((stop - start, *layout.sample_shape), -1)
    for selection, first, last in layout.boxes(start, stop):
        found[first:last] = layout.samples_first(stored[selection])[0]
    np.testing.assert_array_equal(found, in_samples(layout, stored)[start:stop])


def test_default_layouts():
    expected = {1: "N", 2: "NC", 3: "NHW", 4: "NCHW", 5: "NCDHW", 6: "NTCDHW"}
    assert {n: StoredLayout.of(None, (2,) * n, "x").letters for n in range(1, 7)} == expected
    assert StoredLayout.of("nhwc", (1, 2, 3, 4), "x").letters == "NHWC"


@pytest.mark.parametrize(
    ("layout", "shape", "text"),
    [
        (None, (), r"x is a scalar; expected an array of samples"),
        (None, (2,) * 7, r"x has 7 axes .*say what each is with layout="),
        ("NCHW", (2, 3), r"layout='NCHW' names 4 axes but x has 2: \(2, 3\)"),
        ("NN", (2, 3), r"layout='NN' is not understood; expected each letter of NTCDHW at most once"),
        ("NX", (2, 3), r"layout='NX' is not understood"),
        ("HW", (2, 3), r"layout='HW' is not understood.*with N or T among them"),
        ("", (2,), r"layout='' is not understood"),
        ("NC", (0, 3), r"x is empty: its shape is \(0, 3\)"),
        ("NC", (3, 0), r"x is empty: its shape is \(3, 0\)"),
    ],
)
def test_layouts_that_do_not_fit(layout, shape, text):
    with pytest.raises(InvalidValueError, match=text):
        StoredLayout.of(layout, shape, "x")


def test_a_layout_is_text():
    with pytest.raises(InvalidTypeError, match=r"layout=4 is not text; expected one letter"):
        StoredLayout.of(4, (2,), "x")


@pytest.mark.parametrize("dtype", ["?", "u1", ">i8", "f2", "f4", ">f8", "c8", "S7"])
def test_dtypes_that_are_held(dtype):
    assert checked_dtype(dtype, "x") == np.dtype(dtype)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (object, "an object dtype"),
        ([("a", "f4")], "a compound or opaque dtype"),
        ("U3", "a unicode dtype"),
        ("M8[s]", "a date dtype"),
        ("m8[s]", "a time-difference dtype"),
        ("S0", "dtype"),
    ],
)
def test_dtypes_that_are_not(dtype, words):
    with pytest.raises(InvalidTypeError, match=rf"^x has {words}.*; expected fixed-size numbers"):
        checked_dtype(dtype, "x")
