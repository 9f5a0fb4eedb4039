"""Where parts begin and end."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmapstore as mm
from mmapstore.batches.split import split_points
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError, MmapstoreError


@given(
    st.integers(1, 10_000),
    st.lists(st.floats(0.001, 1, allow_nan=False) | st.integers(1, 300), min_size=1, max_size=5),
    st.integers(0, 20),
)
def test_parts_lie_apart_inside_the_data(total, parts, gap):
    try:
        points = split_points(total, parts, gap, "samples")
    except InvalidValueError:
        return
    assert len(points) == len(parts) and points[0][0] == 0 and points[-1][1] <= total
    for (_, stop), (start, _) in itertools.pairwise(points):
        assert start - stop == gap
    room = total - gap * (len(parts) - 1)
    for part, (start, stop) in zip(parts, points, strict=True):
        assert stop > start
        assert stop - start == part if isinstance(part, int) else abs((stop - start) - part * room) <= 1


@given(st.integers(1, 10**12), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_fractions_that_add_up_leave_nothing_over(total, weights):
    parts = [weight / sum(weights) for weight in weights]
    try:
        points = split_points(total, parts, 0, "samples")
    except InvalidValueError:
        assert total < 20 * len(parts)
        return
    assert points[-1][1] == total


@pytest.mark.parametrize("whole", [np.int64(6), np.float32(0.6), Fraction(3, 5)])
def test_any_kind_of_number_is_a_part(whole):
    assert split_points(10, (whole, 2), 0, "samples")[0] == (0, 6)


@pytest.mark.parametrize(
    ("parts", "gap", "error", "text"),
    [
        ((), 0, InvalidValueError, r"split\(\) was given no parts"),
        ((0.6, 0.6), 0, InvalidValueError, r"the fractions \[0.6, 0.6\] add up to 1.2; expected at most 1"),
        ((1.5,), 0, InvalidValueError, r"add up to 1.5; expected at most 1"),
        ((0.0, 1.0), 0, InvalidValueError, r"a part of 0.0 is empty"),
        ((-0.5,), 0, InvalidValueError, r"a part of -0.5 is empty"),
        ((float("nan"),), 0, InvalidValueError, r"a part of nan is empty"),
        ((0, 5), 0, InvalidValueError, r"a part of 0 is empty"),
        ((60, 50), 0, InvalidValueError, r"the parts take 110 samples and the gaps 0, but there are 100"),
        ((0.5, 60), 0, InvalidValueError, r"the parts take 110 samples"),
        ((0.5, 0.5), 100, InvalidValueError, r"come to \[0, 0\]: one is empty"),
        ((0.001, 0.5), 0, InvalidValueError, r"of 100 samples come to \[0, 50\]: one is empty. Make it larger"),
        ((0.5,), -1, InvalidValueError, r"gap=-1 is not a number of samples to leave out"),
        ((0.5,), 1.5, InvalidValueError, r"gap=1.5 is not a number of samples"),
        (("half",), 0, InvalidTypeError, r"'half' is not a part; expected a fraction"),
        ((True,), 0, InvalidTypeError, r"True is not a part"),
        (([0.5, 0.5],), 0, InvalidTypeError, r"\[0.5, 0.5\] is not a part"),
    ],
)
def test_parts_that_cannot_be_meant(parts, gap, error, text):
    with pytest.raises(error, match=text) as caught:
        mm.open(np.zeros((100, 1))).split(*parts, gap=gap)
    assert isinstance(caught.value, MmapstoreError)


def test_parts_share_no_frame_and_keep_their_episodes():
    ds = mm.open(np.arange(100), episodes=[0, 30, 65, 100])
    parts = ds.split(0.6, 0.2, 0.2, gap=2)
    held = [part[:].tolist() for part in parts]
    assert held == [list(range(58)), list(range(60, 79)), list(range(81, 100))]
    assert [part.episodes.tolist() for part in parts] == [[0, 30, 58], [0, 5, 19], [0, 19]]
    again = parts[0].split(0.5, 0.5)[1]
    assert again[:].tolist() == list(range(29, 58)) and again.episodes.tolist() == [0, 1, 29]
    assert "[29:58]" in repr(again)


def test_whole_episodes():
    ds = mm.open(np.arange(100), episodes=[0, 10, 30, 65, 80, 100])
    parts = ds.split(0.6, 0.2, 0.2, by="episode")
    assert [(int(p[0]), int(p[-1])) for p in parts] == [(0, 64), (65, 79), (80, 99)]
    assert [part.episodes.tolist() for part in parts] == [[0, 10, 30, 65], [0, 15], [0, 20]]
    first, last = ds.split(1, 2, by="episode", gap=1)
    assert (len(first), len(last)) == (10, 50)
    with pytest.raises(InvalidValueError, match=r"the parts take 9 episodes and the gaps 0, but there are 5"):
        ds.split(9, by="episode")
    with pytest.raises(InvalidValueError, match=r"by='video' is not understood; expected 'sample' or 'episode'"):
        ds.split(0.5, by="video")
