"""The one rule by which passes move the position: against a model of it that keeps a list."""

from __future__ import annotations

import pickle

from hypothesis import given, settings
from hypothesis import strategies as st

from mmapstore.batches.cursor import Cursor

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.sampled_from([None, None, 1, 3, 11])),
        st.tuples(st.just("take"), st.integers(0, 30)),
        st.tuples(st.just("move"), st.tuples(st.integers(0, 4), st.integers(0, 6))),
    ),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(batches=st.integers(1, 6), steps=STEPS)
def test_any_passes_in_any_order(batches, steps):
    """The model: the row of all batches; a pass is the list of those it has left."""
    cursor, passes = Cursor(batches), []
    begins = reached = latest = 0
    for what, value in steps:
        if what == "begin":
            end = (begins // batches + 1) * batches if value is None else begins + value
            walk, latest = cursor.begin(value), begins
            assert [walk.at(number) for number in range(len(walk))] == [divmod(place, batches) for place in range(begins, end)]
            passes.append((walk, begins, list(range(begins, end))))
        elif what == "take" and passes:
            walk, first, left = passes[value % len(passes)]
            if not left:
                continue
            reached = left.pop(0) + 1
            walk.hand_out(reached - first)
            if not left:
                walk.complete()
                if begins == first:
                    begins = reached
        elif what == "move":
            epoch, batch = value
            begins = reached = latest = epoch * batches + batch % (batches + 1)
            cursor.move_to(epoch, batch % (batches + 1))
            for old, _, left in passes:  # none of those begun before moves it any more
                old.hand_out(len(old) - len(left))
                old.complete()
            passes.clear()
        assert cursor.next == divmod(begins, batches)
        assert cursor.position == divmod(reached, batches)
        assert cursor.latest == divmod(latest, batches)
        assert cursor.after(7) == divmod(latest + 7, batches)


def test_a_cursor_pickles_where_it_stands():
    cursor = Cursor(4)
    cursor.move_to(3, 2)
    assert pickle.loads(pickle.dumps(cursor)).next == (3, 2)
