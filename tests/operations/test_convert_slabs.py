"""Slabs against counting by brute force: every value once, in order, within the budget, no chunk of the target cut in two."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmapstore.operations.flow.slabs import decodes, planned
from mmapstore.plain.c_order import Slabs

shapes = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


@st.composite
def cases(draw):
    shape = draw(shapes)
    chunk = [draw(st.one_of(st.none(), st.tuples(*(st.integers(1, 12) for _ in shape)))) for _ in range(2)]
    first = tuple(draw(st.integers(0, 7)) for _ in shape)
    return shape, draw(st.integers(1, 2000)), *chunk, first


def touched(box, chunk, first):
    """The chunks of the source that a slab needs, one by one."""
    return set(
        itertools.product(
            *(
                {(at + more) // each for at in range(part.start, part.stop)}
                for part, each, more in zip(box, chunk, first, strict=True)
            )
        )
    )


@settings(deadline=None, max_examples=400)
@given(cases())
def test_every_value_once_in_order_within_the_budget(case):
    shape, most, target, source, first = case
    slabs = planned(shape, 1, most, target, source, first)
    if slabs is None:
        return
    seen = np.arange(math.prod(shape)).reshape(shape)
    parts = [seen[box].reshape(-1) for box in slabs]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(math.prod(shape)))
    assert len(parts) == len(slabs) and all(0 < len(part) <= min(most, slabs.most_values) for part in parts)
    assert max(map(len, parts)) == slabs.most_values
    assert [slabs.first_value(number) for number in range(len(parts) + 1)] == [*(part[0] for part in parts), seen.size]
    assert all({slabs.holding(int(value)) for value in part} == {number} for number, part in enumerate(parts))
    assert slabs.is_uniform == (len({len(part) for part in parts[:-1]} | {len(parts[0])}) == 1)
    for box in slabs if target else ():
        assert all(
            part.start % each == 0 and (part.stop % each == 0 or part.stop == length)
            for part, each, length in zip(box, target, shape, strict=True)
        )


@settings(deadline=None, max_examples=300)
@given(cases())
def test_decodes_are_counted(case):
    shape, most, target, source, first = case
    slabs = planned(shape, 1, most, target, source, first)
    if slabs is None or source is None:
        return
    found = [touched(box, source, first) for box in slabs]
    assert decodes(slabs, source, first) == (sum(map(len, found)), len(set().union(*found)))


@settings(deadline=None, max_examples=300)
@given(cases())
def test_no_slab_that_fits_is_refused_and_no_larger_ones_save_decodes_where_chunks_do_not_last(case):
    shape, most, target, source, first = case
    slabs = planned(shape, 1, most, target, source, first)
    rows = [(axis, min((target or (1,) * len(shape))[axis], length)) for axis, length in enumerate(shape)]
    fits = False
    for axis, each in rows:
        if each * math.prod(shape[axis + 1 :]) <= most:
            fits = True
            break
        if each != 1:
            break
    assert (slabs is not None) == fits
    if slabs is None or source is None:
        return
    each = min((target or (1,) * len(shape))[slabs.axis], shape[slabs.axis])
    steps = list(range(each, most // math.prod(shape[slabs.axis + 1 :]) + 1, each))
    aligned = not first[slabs.axis] % source[slabs.axis]
    together = math.lcm(each, source[slabs.axis])
    if aligned and together in steps:  # then none is decoded twice along that axis
        least = min(decodes(Slabs(shape, slabs.axis, step), source, first)[0] for step in steps)
        assert decodes(slabs, source, first)[0] == least


def test_a_single_long_episode_is_cut_along_its_steps():
    slabs = planned((1, 100_000, 3, 50, 50), 4, 8 << 20)
    assert slabs is not None and (slabs.axis, slabs.step) == (1, 279) and slabs.is_uniform
    assert slabs[1][:2] == (slice(0, 1), slice(279, 558))


def test_chunks_that_fight_the_order_are_decoded_as_often_as_memory_asks():
    shape, chunk = (10_000, 3, 64, 64), (10_000, 1, 8, 8)
    counts = []
    for megabytes in (4, 32, 128, 1000):
        slabs = planned(shape, 1, megabytes << 20, None, chunk)
        assert slabs is not None
        counts.append(decodes(slabs, chunk)[0] / decodes(slabs, chunk)[1])
    assert (
        counts == sorted(counts, reverse=True)
        and counts[-1] == 1
        and counts[1] == pytest.approx(math.ceil(10_000 / (32 * 2**20 // 12288)))
    )


def test_what_holds_nothing_has_no_slabs():
    assert list(planned((0, 3), 4, 100)) == [] and len(Slabs((3, 0), 0, 1)) == 0
