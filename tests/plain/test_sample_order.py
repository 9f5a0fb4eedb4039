"""The order of an epoch, against brute force."""

from __future__ import annotations

from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmapstore.plain.errors import InvalidTypeError, InvalidValueError
from mmapstore.plain.sample_order import Permutation, SampleOrder, Shuffling

shufflings = st.builds(Shuffling, block=st.integers(1, 12), blocks_per_window=st.integers(1, 9))
seeds = st.integers(-(2**70), 2**70)


@st.composite
def orders(draw):
    """(order of every shard, epoch), of up to 400 anchors."""
    anchors = draw(st.integers(1, 400))
    count = draw(st.integers(1, min(anchors, 7)))
    shuffling, seed = draw(shufflings), draw(seeds)
    return [SampleOrder(anchors, shuffling, seed, (index, count)) for index in range(count)], draw(st.integers(0, 50))


def epoch_of(order: SampleOrder, epoch: int) -> list[int]:
    return order.anchors_at(epoch, 0, len(order)).tolist()


def anchors_in(runs: list[tuple[int, int]]) -> list[int]:
    return list(chain.from_iterable(range(a, b) for a, b in runs))


# --- the epoch ------------------------------------------------------------------------------------------------------------


@given(orders())
def test_shards_are_disjoint_equal_and_leave_out_less_than_their_number(case):
    shards, epoch = case
    anchors, count = shards[0].anchors, len(shards)
    seen = [epoch_of(order, epoch) for order in shards]
    assert [len(order) for order in shards] == [anchors // count] * count == [len(one) for one in seen]
    together = list(chain.from_iterable(seen))
    assert sorted([*together, *shards[0].left_out(epoch).tolist()]) == list(range(anchors))
    assert anchors - len(together) < count


@given(orders(), st.randoms(use_true_random=False))
def test_random_access_agrees_with_the_whole_epoch(case, random):
    shards, epoch = case
    order = shards[random.randrange(len(shards))]
    whole = epoch_of(order, epoch)
    for _ in range(5):
        start = random.randrange(len(order) + 1)
        stop = random.randrange(start, len(order) + 1)
        # Another epoch and another shard in between: what is kept for speed must not show.
        order.anchors_at(epoch + 1 + random.randrange(3), 0, 1)
        assert order.anchors_at(epoch, start, stop).tolist() == whole[start:stop]


@given(orders())
def test_windows_cut_the_shard_into_whole_blocks(case):
    """Windows follow each other without a gap; their anchors are those of their blocks; only shards and the end cut a block."""
    shards, epoch = case
    row: list[tuple[int, int]] = []
    for order in shards:
        block, whole, at, number = order.shuffling.block, epoch_of(order, epoch), 0, 0
        while at < len(order):
            window = order.window_at(epoch, at)
            assert (window.number, window.start) == (number, at) and at < window.stop <= len(order)
            assert all(order.window_at(epoch, position) == window for position in range(at, window.stop))
            runs = np.concatenate([*order.window_runs(epoch, window)]).tolist()
            assert sorted(whole[window.start : window.stop]) == sorted(anchors_in(runs))
            assert all(a // block == (b - 1) // block for a, b in runs)
            row += runs
            at, number = window.stop, number + 1
    # The shards one after the other: each block once, in one piece or in pieces that follow each other.
    pieces: dict[int, list[tuple[int, int]]] = {}
    for a, b in row:
        pieces.setdefault(a // shards[0].shuffling.block, []).append((a, b))
    for number, found in pieces.items():
        assert all(left[1] == right[0] for left, right in pairwise(found))
        assert found[0][0] >= number * shards[0].shuffling.block
    places = [a // shards[0].shuffling.block for a, _ in row]
    assert len([p for k, p in enumerate(places) if k == 0 or places[k - 1] != p]) == len(pieces), "a block lies in two places"


@given(orders())
def test_blocks_are_spread_over_windows_evenly(case):
    shards, epoch = case
    for order in shards:
        sizes, at = [], 0
        while at < len(order):
            window = order.window_at(epoch, at)
            sizes.append(window.last_place - window.first_place + 1)
            at = window.stop
        assert max(sizes) - min(sizes) <= 1
        wanted = order.shuffling.blocks_per_window
        assert max(1, round(sum(sizes) / wanted)) == len(sizes)


@given(orders())
def test_no_window_is_larger_than_the_largest(case):
    shards, epoch = case
    for order in shards:
        anchors, blocks = order.largest_window()
        at = 0
        while at < len(order):
            window = order.window_at(epoch, at)
            assert window.stop - window.start <= anchors and window.last_place - window.first_place + 1 <= blocks
            at = window.stop
        assert anchors <= len(order)
        # Good enough to plan memory by: never over by more than the places that a shard may touch beside its own.
        assert blocks <= 2 * order.shuffling.blocks_per_window + 1


@given(st.integers(1, 400), st.integers(1, 5), seeds)
def test_without_shuffling_shards_are_consecutive_ranges(anchors, count, seed):
    count = min(anchors, count)
    left_out = set()
    for epoch in range(count):
        seen = [epoch_of(SampleOrder(anchors, None, seed, (index, count)), epoch) for index in range(count)]
        assert [len(one) for one in seen] == [anchors // count] * count
        together = list(chain.from_iterable(seen))
        assert together == list(range(together[0], together[0] + len(together)))
        left_out |= set(range(anchors)) - set(together)
    assert len(left_out) == 2 * (anchors % count)  # others in each epoch: all that lie at either end
    assert SampleOrder(anchors, None).largest_window() == (0, 0)


def test_each_epoch_seed_and_window_has_its_own_order():
    shuffling = Shuffling(10, 4)
    epochs = {tuple(epoch_of(SampleOrder(200, shuffling, seed), epoch)) for seed in (-1, 0, 1, 2**64) for epoch in range(20)}
    assert len(epochs) == 80
    # Windows of equal size in one epoch are permuted differently from each other.
    order = SampleOrder(160, Shuffling(4, 10), seed=1)
    inner = set()
    for start in range(0, 160, 40):
        unshuffled = anchors_in(np.concatenate([*order.window_runs(0, order.window_at(0, start))]).tolist())
        inner.add(tuple(unshuffled.index(anchor) for anchor in order.anchors_at(0, start, start + 40).tolist()))
    assert len(inner) == 4


def test_the_anchors_left_out_by_shards_change():
    shards = [SampleOrder(101, Shuffling(5, 3), seed=2, shard=(index, 10)) for index in range(10)]
    left_out = [set(range(101)) - {a for order in shards for a in epoch_of(order, epoch)} for epoch in range(30)]
    assert all(len(one) == 1 for one in left_out) and len(set(map(frozenset, left_out))) > 10


def test_a_billion_billion_anchors_cost_no_more():
    order = SampleOrder(10**12, Shuffling.of(True, 30_000), seed=5, shard=(6, 7))
    found = order.anchors_at(2, len(order) - 4000, len(order))
    assert len(set(found.tolist())) == 4000 and found.min() >= 0 and found.max() < 10**12
    window = order.window_at(2, len(order) - 1)
    held = anchors_in(np.concatenate([*order.window_runs(2, window)]).tolist())
    assert set(order.anchors_at(2, window.start, window.stop).tolist()) == set(held)


def test_the_order_is_the_same_for_ever():
    """A change here breaks every saved position: it needs a new version in the key, and in saved states."""
    assert Permutation(10, b"key")(np.arange(10)).tolist() == [7, 2, 5, 1, 4, 0, 6, 8, 3, 9]
    assert Permutation(1000, b"key")(np.arange(8)).tolist() == [195, 172, 570, 416, 130, 169, 110, 246]
    assert epoch_of(SampleOrder(23, Shuffling(4, 3), seed=7), 0) == [
        9,
        3,
        13,
        11,
        0,
        10,
        1,
        2,
        12,
        14,
        15,
        8,
        6,
        22,
        4,
        20,
        19,
        21,
        17,
        7,
        5,
        18,
        16,
    ]
    assert epoch_of(SampleOrder(23, Shuffling(4, 3), seed=7), 1) == [
        22,
        18,
        16,
        3,
        17,
        21,
        0,
        19,
        1,
        2,
        20,
        8,
        10,
        4,
        5,
        7,
        13,
        12,
        9,
        15,
        6,
        14,
        11,
    ]
    assert epoch_of(SampleOrder(23, Shuffling(4, 2), seed=-(2**65), shard=(1, 3)), 5) == [14, 6, 15, 7, 5, 4, 13]
    assert SampleOrder(10**12, Shuffling(69, 32), seed=1).anchors_at(0, 10**11, 10**11 + 4).tolist() == [
        994270379514,
        878336418009,
        254744960130,
        878336417983,
    ]


# --- the permutation ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.binary(max_size=20))
def test_permutation_is_a_bijection_with_its_inverse(size, key):
    order, numbers = Permutation(size, key), np.arange(size)
    shuffled = order(numbers)
    assert shuffled.dtype == np.int64
    np.testing.assert_array_equal(np.sort(shuffled), numbers)
    np.testing.assert_array_equal(order.inverse(shuffled), numbers)
    np.testing.assert_array_equal(order(order.inverse(numbers)), numbers)


@given(st.integers(2**31 - 100, 2**62), st.binary(max_size=8), st.lists(st.integers(0, 2**62), min_size=1, max_size=20))
def test_permutation_of_large_sizes(size, key, numbers):
    order, numbers = Permutation(size, key), np.array([n % size for n in numbers])
    shuffled = order(numbers)
    assert shuffled.min() >= 0 and shuffled.max() < size
    np.testing.assert_array_equal(order.inverse(shuffled), numbers)


def chi_square(counts: np.ndarray) -> float:
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2).sum() / expected)


@pytest.mark.parametrize("size", [2, 3, 5, 16, 50, 64])
def test_every_number_lands_everywhere_equally_often(size):
    """Over many keys. The keys are fixed, so the statistic is too; the limit is that of one case in a million, and a bit."""
    keys = 2000
    counts = np.zeros((size, size), np.int64)
    for key in range(keys):
        counts[np.arange(size), Permutation(size, str(key).encode())(np.arange(size))] += 1
    freedom = (size - 1) ** 2
    assert chi_square(counts) < freedom + 6 * np.sqrt(2 * freedom) + 24


@pytest.mark.parametrize("size", [6, 20, 64, 81])
def test_pairs_land_everywhere_equally_often(size):
    """Neighbours, and numbers of one row or column of the grid, are not sent to related places."""
    keys, apart = 2000, {1, 2, int(np.ceil(np.sqrt(size)))}
    for distance in apart:
        counts = np.zeros(size, np.int64)
        for key in range(keys):
            a, b = Permutation(size, f"pairs {key}".encode())(np.array([1, 1 + distance])).tolist()
            counts[(b - a) % size] += 1
        assert counts[0] == 0
        freedom = size - 2
        assert chi_square(counts[1:]) < freedom + 6 * np.sqrt(2 * freedom) + 24


# --- the argument ---------------------------------------------------------------------------------------------------------


def test_shuffling_from_the_argument():
    assert Shuffling.of(False, 100) is None
    assert Shuffling.of(True, 30_000) == Shuffling(64, 32)
    assert Shuffling.of(True, 10**9) == Shuffling(1, 32)
    assert Shuffling.of(True, 0).window == 2**21 * 32
    assert Shuffling.of(np.int64(320), 30_000) == Shuffling(8, 40)


@given(st.integers(2, 10**7), st.integers(1, 10**7))
def test_a_window_has_about_the_samples_asked_for(samples, sample_nbytes):
    found = Shuffling.of(samples, sample_nbytes)
    assert abs(found.window - samples) <= found.block // 2 + 1
    assert found.blocks_per_window >= min(samples, 32)
    assert found.block == 1 or found.block * sample_nbytes <= 2 * 2**20
    assert found.block & (found.block - 1) == 0


@pytest.mark.parametrize("shuffle", [1, 0, -5])
def test_windows_too_small_to_shuffle_are_refused(shuffle):
    with pytest.raises(InvalidValueError, match=rf"shuffle={shuffle} samples cannot be shuffled; expected 2 or more"):
        Shuffling.of(shuffle, 100)


@pytest.mark.parametrize("shuffle", ["yes", 2.5, None, np.True_])
def test_other_arguments_are_refused(shuffle):
    with pytest.raises(InvalidTypeError, match=r"is not understood; expected False, True, or the samples"):
        Shuffling.of(shuffle, 100)


def test_effective_batch():
    assert Shuffling(5, 32).effective_batch(1) == 1
    assert Shuffling(5, 32).effective_batch(32) > 16
    assert Shuffling(5, 10**9).effective_batch(32) == pytest.approx(32)
