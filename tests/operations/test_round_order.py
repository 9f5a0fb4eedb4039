"""The samples of a round: against counting, over many rounds of random classes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmapstore.operations.rounds.source import WINDOW_BYTES, RoundOrder

CLASSES = st.lists(st.integers(0, 3), min_size=1, max_size=40)


def coded(numbers):
    return np.unique(numbers, return_inverse=True)[1].astype(np.uint8)  # every class has a sample


@settings(max_examples=30)
@given(CLASSES, st.integers(1, 30), st.integers(-5, 10**9), st.sampled_from([1, 3000, WINDOW_BYTES // 7, 2 * WINDOW_BYTES]))
def test_uses_differ_by_at_most_one_in_a_round_and_over_all(numbers, per_class, seed, nbytes):
    codes = coded(numbers)
    order, again = (RoundOrder(codes, per_class, seed, nbytes) for _ in range(2))
    over_all = np.zeros(len(codes), np.int64)
    for number in range(4):
        drawn = order.draw(number)
        assert np.bincount(codes[drawn.samples]).tolist() == [per_class] * len(order.counts)
        uses = np.bincount(drawn.samples, minlength=len(codes))
        over_all += uses
        for code in range(len(order.counts)):
            assert np.ptp(uses[codes == code]) <= 1 and np.ptp(over_all[codes == code]) <= 1
            if (codes == code).sum() >= per_class:
                assert uses[codes == code].max() == 1
        seen: dict[int, int] = {}
        for sample, repeat in zip(drawn.samples.tolist(), drawn.repeats.tolist(), strict=True):
            assert repeat == seen.get(sample, 0)
            seen[sample] = repeat + 1
        assert drawn.ends[-1] == len(order) == len(drawn.samples) and all(np.diff([0, *drawn.ends]) > 0)
        assert np.diff([0, *drawn.ends]).max() <= order.window and order.window * nbytes <= max(WINDOW_BYTES * 1.6, 3 * nbytes)
        np.testing.assert_array_equal(drawn.samples, again.draw(number).samples)


@settings(max_examples=30)
@given(CLASSES, st.integers(1, 30))
def test_for_validation_each_original_is_there_and_scarce_classes_are_filled_up(numbers, per_class):
    codes = coded(numbers)
    order = RoundOrder(codes, per_class, 0, 1, validation=True)
    uses = np.bincount(order.draw(0).samples, minlength=len(codes))
    for code, count in enumerate(np.bincount(codes).tolist()):
        mine = uses[codes == code]
        assert mine.sum() == max(count, per_class) == order.counts[code] and mine.min() >= 1 and np.ptp(mine) <= 1


def test_rounds_and_seeds_differ_and_the_order_is_mixed():
    codes = np.repeat(np.array([0, 1], np.uint8), [3000, 40])
    one, other = RoundOrder(codes, 1000, 0, 3000), RoundOrder(codes, 1000, 1, 3000)
    first = one.draw(0).samples
    assert set(first) & set(one.draw(1).samples) < set(range(3040)) and not np.array_equal(first, other.draw(0).samples)
    in_a_batch = (codes[first] == 1).reshape(-1, 50).sum(axis=1)  # of two classes alike; 25 expected
    assert in_a_batch.min() > 8 and in_a_batch.max() < 42
