"""The draws of balanced and weighted epochs, against counting."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmapstore.plain import draws as module
from mmapstore.plain.draws import Balance, Draws, Weighted, shares
from mmapstore.plain.errors import InvalidValueError
from mmapstore.plain.runs import runs_of
from mmapstore.plain.sample_order import SampleOrder, Shuffling

seeds = st.integers(-(2**70), 2**70)


@st.composite
def balanced(draw):
    """Codes of up to 300 anchors in up to 5 classes, mixed or sorted, and draws of each class."""
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=5))
    codes = np.repeat(np.arange(len(sizes), dtype=np.uint8), sizes)
    if draw(st.booleans()):
        codes = draw(st.permutations(codes.tolist()).map(lambda found: np.array(found, np.uint8)))
    weights = draw(st.just([1] * len(sizes)) | st.lists(st.integers(1, 9), min_size=len(sizes), max_size=len(sizes)))
    return codes, shares(len(codes), weights)


def uses(draws: Draws, epoch: int) -> np.ndarray:
    anchors = draws.anchors(epoch, np.arange(len(draws), dtype=np.int64))
    assert (np.diff(anchors) >= 0).all()
    return np.bincount(anchors, minlength=len(draws))


@given(balanced(), seeds, st.integers(0, 2**40))
def test_classes_are_drawn_as_asked_and_their_anchors_equally_often(case, seed, first):
    codes, counts = case
    draws = Draws(Balance(codes, counts, seed))
    together = np.zeros(len(codes), np.int64)
    for epoch in range(first, first + 4):
        found = uses(draws, epoch)
        together += found
        assert np.bincount(codes, weights=found, minlength=len(counts)).tolist() == counts
        for code in range(len(counts)):
            assert np.ptp(found[codes == code]) <= 1
            assert np.ptp(together[codes == code]) <= 1
        assert found.max() <= draws.rule.most


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=200), seeds, st.integers(0, 10**6))
def test_weighted_draws_are_the_expected_number_rounded_down_or_up(weights, seed, epoch):
    given_weights = np.array(weights, np.float32)
    if not given_weights.any():
        with pytest.raises(InvalidValueError, match="add up to 0"):
            Weighted(given_weights, seed)
        return
    draws = Draws(Weighted(given_weights, seed))
    found = uses(draws, epoch)
    expected = given_weights.astype(np.float64) / given_weights.astype(np.float64).sum() * len(weights)
    assert found.sum() == len(weights)
    assert (np.abs(found - expected) < 1 + 1e-6).all()
    assert not found[given_weights == 0].any()
    assert found.max() <= draws.rule.most


def test_weighted_draws_come_near_the_expected_number_over_epochs():
    weights = np.random.default_rng(0).random(50)
    draws = Draws(Weighted(weights, 3))
    found = sum(uses(draws, epoch) for epoch in range(200))
    assert np.abs(found - weights / weights.sum() * 50 * 200).max() < 8  # chance alone: some 14 at one standard deviation


@given(balanced(), seeds, st.data())
def test_random_access_runs_and_pieces_agree_with_counting(case, seed, data):
    codes, counts = case
    draws = Draws(Balance(codes, counts, seed))
    epoch = data.draw(st.integers(0, 5))
    whole = np.repeat(np.arange(len(codes)), uses(Draws(Balance(codes, counts, seed)), epoch)).tolist()
    numbers = data.draw(st.lists(st.integers(0, len(codes) - 1), min_size=1, max_size=30))
    draws.anchors(epoch + 1, np.array([0]))
    assert draws.anchors(epoch, np.array(numbers)).tolist() == [whole[number] for number in numbers]
    asked = runs_of(np.unique(numbers))
    with mock.patch.object(module, "_AT_ONCE", data.draw(st.integers(1, 40))):
        found = [run for runs in draws.runs(epoch, asked) for run in runs.tolist()]
    assert list(itertools.chain.from_iterable(range(*run) for run in found)) == sorted({whole[number] for number in numbers})


def test_pieces_do_not_show(monkeypatch):
    codes = np.random.default_rng(1).integers(0, 3, 1000).astype(np.uint8)
    weights = np.random.default_rng(2).random(1000)
    rules = [Balance(codes, [334, 333, 333], 5), Weighted(weights, 5)]
    whole = [uses(Draws(rule), 7).tolist() for rule in rules]
    monkeypatch.setattr(module, "_PIECE", 64)
    assert [uses(Draws(rule), 7).tolist() for rule in rules] == whole


@given(balanced(), seeds, st.integers(1, 12), st.integers(1, 6), st.integers(1, 4))
def test_a_shuffled_sharded_epoch_holds_the_draws(case, seed, block, blocks, count):
    codes, counts = case
    count = min(count, len(codes))
    draws = Draws(Balance(codes, counts, seed))
    epoch = 3
    seen = []
    for index in range(count):
        order = SampleOrder(len(codes), Shuffling(block, blocks), seed, (index, count), draws)
        whole = order.anchors_at(epoch, 0, len(order))
        seen += whole.tolist()
        at = 0
        while at < len(order):
            window = order.window_at(epoch, at)
            held = itertools.chain.from_iterable(range(*run) for runs in order.window_runs(epoch, window) for run in runs)
            assert set(held) == set(whole[window.start : window.stop].tolist())
            at = window.stop
    every = uses(draws, epoch)
    left_out = every - np.bincount(seen, minlength=len(codes))
    assert (left_out >= 0).all() and left_out.sum() == len(codes) % count


def test_order_is_for_ever():
    codes = np.array([0, 1, 0, 0, 0, 2, 0, 0, 1, 0], np.uint8)
    draws = Draws(Balance(codes, [4, 3, 3], seed=7))
    assert [draws.anchors(epoch, np.arange(10)).tolist() for epoch in (0, 1)] == [
        [0, 1, 2, 4, 5, 5, 5, 7, 8, 8],
        [0, 1, 1, 3, 5, 5, 5, 6, 8, 9],
    ]
    assert Draws(Weighted(np.arange(6.0), seed=7)).anchors(2, np.arange(6)).tolist() == [2, 3, 4, 4, 5, 5]


@given(st.integers(0, 500), st.lists(st.floats(0.01, 100), min_size=1, max_size=8))
def test_shares(total, weights):
    found = shares(total, weights)
    assert sum(found) == total
    assert all(abs(one - total * weight / sum(weights)) < 1 for one, weight in zip(found, weights, strict=True))
