"""Which chunks a region touches, against a look at every element."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmapstore.plain.chunk_grid import ChunkGrid


@st.composite
def grids(draw):
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    chunk = tuple(draw(st.integers(1, length + 1)) for length in shape)
    box = tuple(slice(*sorted((draw(st.integers(0, length)), draw(st.integers(0, length))))) for length in shape)
    return ChunkGrid(shape, chunk), box


@given(case=grids())
def test_touching_is_every_element_once(case):
    grid, box = case
    values = np.arange(np.prod(grid.shape)).reshape(grid.shape)
    found = np.full(values[box].shape, -1)
    numbers = []
    for number, inside, outside in grid.touching(box):
        corner = [place * each for place, each in zip(grid.place(number), grid.chunk, strict=True)]
        region = tuple(slice(at + part.start, at + part.stop) for at, part in zip(corner, inside, strict=True))
        assert (found[outside] == -1).all()
        found[outside] = values[region]
        numbers.append(number)
    np.testing.assert_array_equal(found, values[box])
    assert numbers == sorted(set(numbers))


@given(case=grids())
def test_numbers_are_in_c_order(case):
    grid, _ = case
    places = list(itertools.product(*(range(count) for count in grid.counts)))
    assert [grid.place(number) for number in range(len(grid))] == places
    assert [grid.number(place) for place in places] == list(range(len(grid)))


def test_a_grid_is_its_shape_and_chunk():
    """What it remembers of its own arithmetic is no part of it."""
    one, other = ChunkGrid((10, 6), (4, 6)), ChunkGrid((10, 6), (4, 6))
    assert one.counts == (3, 1)
    assert one == other == pickle.loads(pickle.dumps(one)) and hash(one) == hash(other)
    with pytest.raises(AttributeError):
        one.shape = (1,)
