"""Objects of two places are paired in time linear in their number: comparisons of names are counted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmapstore.operations.verify.matching import matched
from mmapstore.operations.verify.objects import Objects

COUNT = 20_000


class Key(str):
    """A name that counts how often it is compared, hashed or searched."""

    __slots__ = ()
    used = 0

    def __eq__(self, other: object) -> bool:
        Key.used += 1
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        Key.used += 1
        return str.__hash__(self)

    def startswith(self, *given: Any) -> bool:
        Key.used += 1
        return str.startswith(self, *given)


def objects(arrays: Any = (), links: dict[str, str] | None = None, empty: Any = frozenset(), groups: Any = ()) -> Objects:
    found = Objects()
    for key in (*arrays, *empty, *groups):
        found.add(Key(key), attributes=[], is_empty=key in empty)
    for key in arrays:
        found.add(Key(key), name=key, path="x.h5")
    for key, target in (links or {}).items():
        found.add(Key(key), link=Key(target))
    return found


def numbered(words: str) -> list[str]:
    return [words.format(number) for number in range(COUNT)]


@pytest.mark.parametrize(
    ("first", "second", "pairs", "missing"),
    [
        (objects(numbered("g/{}")), objects(numbered("g/{}")), COUNT, 0),
        (objects(numbered("a{}")), objects(numbered("b{}")), 0, COUNT),
        (objects(numbered("x{}")), objects(numbered("x{}/frames")), COUNT, 0),
        (objects(numbered("x/{}/frames")), objects(["x", *numbered("{}")]), 0, COUNT),
        (objects(numbered("{}")), objects(["last"], dict.fromkeys(numbered("{}"), "last")), COUNT, 0),
        (objects(["0"], {f"{n + 1}": f"{n}" for n in range(COUNT)}), objects(["0"]), 1, COUNT),
        (objects(empty=set(numbered("{}")), groups=numbered("g{}")), objects(["x"]), 0, 2 * COUNT),
    ],
)
def test_comparisons_are_linear(first: Objects, second: Objects, pairs: int, missing: int) -> None:
    Key.used = 0
    for turned in (False, True):
        found, left, right = matched(second, first) if turned else matched(first, second)
        assert (len(found), len(right if turned else left)) == (pairs, missing)
    assert Key.used < 2 * 64 * COUNT


@given(
    st.sets(st.sampled_from(["x", "y", "x/a", "x/b", "y/a", "x/a/c"])), st.sets(st.sampled_from(["x", "y/a", "y/b", "x/a/c", "z"]))
)
def test_every_object_is_paired_or_named_once(first: set[str], second: set[str]) -> None:
    pairs, left, right = matched(objects(first), objects(second))
    assert sorted([*left, *(pair[1].key for pair in pairs)]) == sorted(first)
    assert sorted([*right, *(pair[2].key for pair in pairs)]) == sorted(second)
    assert {key for key, *_ in pairs} >= first & second
