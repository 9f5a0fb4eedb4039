"""Nests: their leaves in order, and the same structure with other leaves."""

from __future__ import annotations

import collections

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmapstore.plain.nests import leaves, map_leaves, pack

NESTS = st.recursive(
    st.integers(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    max_leaves=12,
)


@given(NESTS)
def test_a_nest_is_its_structure_and_its_leaves(nest):
    found = leaves(nest)
    assert all(isinstance(leaf, int) for leaf in found)
    assert pack(nest, found) == nest
    numbered = pack(nest, range(len(found)))
    assert leaves(numbered) == list(range(len(found)))
    assert map_leaves(lambda number: found[number], numbered) == nest


def test_kinds_are_kept():
    Pair = collections.namedtuple("Pair", "left right")
    array = np.arange(3)
    made = map_leaves(lambda leaf: leaf + 1, Pair([array], collections.OrderedDict(b=array, a=(array,))))
    assert isinstance(made, Pair) and isinstance(made.left, list) and isinstance(made.right["a"], tuple)
    assert list(made.right) == ["b", "a"], "dicts keep the order of their keys"
    np.testing.assert_array_equal(leaves(made), [array + 1] * 3)
    assert leaves(array)[0] is array, "an array is one leaf"
