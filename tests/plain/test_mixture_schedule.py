"""Schedules of mixtures against brute force: exact counts, nearly even everywhere, the same by any way of asking."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmapstore.plain.errors import InvalidValueError
from mmapstore.plain.mixture_schedule import MixtureSchedule, counts_in_epoch

SEEDS = st.integers(-(2**70), 2**70)
COUNTS = st.lists(st.integers(0, 60), min_size=1, max_size=4).filter(any)


@given(st.lists(st.tuples(st.integers(1, 10**7), st.integers(0, 20)), min_size=1, max_size=5), st.sampled_from(["first", "all"]))
def test_one_source_ends_an_epoch_and_all_others_give_their_share(sources, stop):
    lengths, parts = zip(*sources, strict=True)
    weights = [part / max(1, sum(parts)) for part in parts]
    if not any(parts):
        return
    ends = {i: Fraction(length, part) for i, (length, part) in enumerate(sources) if part}
    end = (min if stop == "first" else max)(ends.values())  # in epochs of `part` steps of each source
    if any(0 < end * part < 0.5 for part in parts):
        with pytest.raises(InvalidValueError, match=r"none of the .* steps of an epoch"):
            counts_in_epoch(lengths, weights, stop)
        return
    counts = counts_in_epoch(lengths, weights, stop)
    assert any(counts[i] == lengths[i] for i, one in ends.items() if one == end)
    for count, length, part in zip(counts, lengths, parts, strict=True):
        assert abs(count - end * part) <= Fraction(1, 2) + Fraction(length, 10**12)
        assert part == 0 or (count <= length if stop == "first" else count >= length)


def test_an_epoch_that_never_ends_is_refused():
    with pytest.raises(InvalidValueError, match=r"make an epoch of 1e\+20 steps with stop='all'"):
        counts_in_epoch([10, 100], [1.0, 1e-18], "all")
    assert counts_in_epoch([10, 0], [1.0, 0.0], "all") == [10, 0]


def walk(schedule, epoch, block):
    return [schedule.block_of(epoch, number)[0].tolist() for number in range(-(-len(schedule) // block))]


@given(COUNTS, st.integers(1, 40), SEEDS, st.integers(0, 2**60))
@settings(max_examples=200)
def test_an_epoch_gives_exact_counts_evenly_and_by_any_way_of_asking(counts, block, seed, epoch):
    schedule = MixtureSchedule(counts, block, seed)
    blocks = walk(schedule, epoch, block)
    assert [len(one) for one in blocks[:-1]] == [block] * (len(blocks) - 1) and sum(map(len, blocks)) == sum(counts)
    given_so_far = [0] * len(counts)
    for number, one in enumerate(blocks):
        sources, before = MixtureSchedule(counts, block, seed).block_of(epoch, number)
        assert sources.tolist() == one and before == given_so_far
        for source, count in enumerate(counts):
            share = Fraction(len(one) * count, sum(counts))
            found = one.count(source)
            given_so_far[source] += found
            # Of the first source, and of one of two, the share is rounded down or up; of others it may be one more, or less.
            slack = 0 if source == 0 or len(counts) == 2 else 1
            if source < 2 or len(counts) < 4:
                assert math.floor(share) - slack <= found <= math.ceil(share) + slack
    assert given_so_far == counts


def test_epochs_and_seeds_mix_differently_and_evenly():
    schedule = MixtureSchedule([600, 300, 100], 10, seed=3)
    epochs = np.array([np.concatenate(walk(schedule, epoch, 10)) for epoch in range(200)])
    assert len({one.tobytes() for one in epochs}) == 200
    other = np.concatenate(walk(MixtureSchedule([600, 300, 100], 10, seed=4), 0, 10))
    assert not np.array_equal(epochs[0], other)
    # Each place of an epoch has each source as often as its share, over many epochs: 200 draws each, by chance within 5 deviations.
    for source, share in enumerate([0.6, 0.3, 0.1]):
        found = (epochs == source).sum(axis=0)
        assert np.abs(found - 200 * share).max() < 5 * math.sqrt(200 * share * (1 - share))
