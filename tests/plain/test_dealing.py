"""Dealing samples to parts, against brute force and against scikit-learn's splitters on the same labels."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mmapstore.plain import dealing
from mmapstore.plain.dealing import dealt, dealt_groups, majorities, proportional_counts

SEED = st.integers(-(2**70), 2**70)


@st.composite
def tables(draw, classes=12, parts=5, samples=40):
    """Samples of each class, and a size for each part; together as many."""
    counts = draw(st.lists(st.integers(0, samples), min_size=1, max_size=classes))
    total = sum(counts)
    assume(total)
    cuts = sorted(draw(st.lists(st.integers(0, total), max_size=parts - 1)))
    return np.array(counts), np.diff([0, *cuts, total])


def deviations(counts, sizes, table):
    return table - counts[:, None] * sizes / sizes.sum()


@given(tables())
def test_tables_have_their_margins_and_each_entry_is_its_share_rounded(table):
    counts, sizes = table
    found = proportional_counts(counts, sizes)
    assert (found.sum(axis=1) == counts).all() and (found.sum(axis=0) == sizes).all()
    shares = counts[:, None] * sizes
    assert ((found == shares // sizes.sum()) | (found == -(-shares // sizes.sum()))).all()


@given(tables(classes=3, parts=3, samples=4))
def test_no_table_with_these_margins_is_nearer_to_the_shares(table):
    counts, sizes = table
    rows = [[row for row in itertools.product(range(n + 1), repeat=len(sizes)) if sum(row) == n] for n in counts]
    every = np.array(list(itertools.product(*rows)))
    fitting = every[(every.sum(axis=1) == sizes).all(axis=1)]
    least = (deviations(counts, sizes, fitting) ** 2).sum(axis=(1, 2)).min()
    assert (deviations(counts, sizes, proportional_counts(counts, sizes)) ** 2).sum() == pytest.approx(least)


@given(tables(), SEED, st.sampled_from([1, 7, 1000]))
@settings(max_examples=25)
def test_samples_are_dealt_as_the_table_says(table, seed, at_once):
    counts, sizes = table
    codes = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dealing, "_AT_ONCE", at_once)
        found = dealt(sizes, seed, codes, counts)
        plain = dealt(sizes, seed)
    of_parts = np.array([[np.sum(found[codes == c] == part) for part in range(len(sizes))] for c in range(len(counts))])
    assert (of_parts.sum(axis=0) == sizes).all() and (abs(deviations(counts, sizes, of_parts)) < 1).all()
    assert np.bincount(plain, minlength=len(sizes)).tolist() == sizes.tolist()
    assert found.tolist() == dealt(sizes, seed, codes, counts).tolist()  # also with more at once


def test_one_seed_is_one_split_for_ever():
    sizes, codes = np.array([12, 8]), np.arange(20) % 3
    found = [dealt(sizes, 7), dealt(sizes, 7, codes, np.bincount(codes)), dealt_groups(sizes, 7, np.arange(20) // 2)]
    assert ["".join(map(str, one.tolist())) for one in found] == ["11010010111001000000", "11000010111001100000", "1010010100"]
    assert dealt(sizes, 8).tolist() != found[0].tolist()


def test_every_sample_is_dealt_to_every_part_as_often():
    found = np.array([dealt(np.array([6, 3]), seed) for seed in range(600)])
    assert abs(found.mean(axis=0) - 1 / 3).max() < 0.08  # 4 standard deviations
    pairs = np.array([[np.mean(found[:, i] & found[:, j]) for i in range(9) if i != j] for j in range(9)])
    assert abs(pairs - 3 / 9 * 2 / 8).max() < 0.05


def random_groups(rng, groups, classes, largest=30):
    """A group and a class for each of some samples; each group has classes of its own likelihood."""
    sizes = rng.integers(1, largest, groups)
    likely = rng.dirichlet(np.full(classes, rng.choice([0.2, 1, 5])), groups)
    codes = np.concatenate([rng.choice(classes, size, p=p) for size, p in zip(sizes, likely, strict=True)])
    return np.repeat(np.arange(groups), sizes), np.unique(codes, return_inverse=True)[1]


@given(st.integers(0, 10**6), SEED)
@settings(max_examples=30)
def test_groups_stay_whole_and_parts_miss_their_sizes_by_less_than_a_group(numbers, seed):
    rng = np.random.default_rng(numbers)
    groups, _ = random_groups(rng, rng.integers(2, 40), 3)
    sizes = np.diff([0, *sorted(rng.integers(0, len(groups) + 1, rng.integers(0, 4))), len(groups)])
    sizes = sizes[sizes > 0]
    found = np.bincount(dealt_groups(sizes, seed, groups)[groups], minlength=len(sizes))
    assert found.sum() == len(groups) and abs(found - sizes).max() <= np.bincount(groups).max()


@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_classes_of_groups(numbers):
    rng = np.random.default_rng(numbers)
    groups, codes = random_groups(rng, 8, 4)
    majority = [np.bincount(codes[groups == group]).argmax() for group in range(8)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dealing, "_AT_ONCE", 5)
        found, pure = majorities(groups.astype(np.uint8), codes)
    assert found.tolist() == majority
    assert pure.tolist() == [len(set(codes[groups == group])) == 1 for group in range(8)]


# --- against scikit-learn ------------------------------------------------------------------------------------------------


def test_two_parts_are_as_near_to_proportional_as_a_stratified_shuffle_split():
    splitters = pytest.importorskip("sklearn.model_selection")
    rng = np.random.default_rng(0)
    for seed in range(30):
        codes = rng.permutation(np.unique(np.repeat(np.arange(12), rng.integers(0, 30, 12)), return_inverse=True)[1])
        counts, train = np.bincount(codes), round(len(codes) * rng.uniform(0.5, 0.9))
        sizes = np.array([train, len(codes) - train])
        if counts.min() < 2 or sizes.min() < len(counts):
            continue  # which scikit-learn does not take
        split = splitters.StratifiedShuffleSplit(1, train_size=train, test_size=len(codes) - train, random_state=seed)
        theirs = np.bincount(codes[next(split.split(codes, codes))[0]], minlength=len(counts))
        ours = np.bincount(codes[dealt(sizes, seed, codes, counts) == 0], minlength=len(counts))
        exact = counts * train / len(codes)
        assert ((ours - exact) ** 2).sum() <= ((theirs - exact) ** 2).sum() + 1e-9


def test_folds_are_as_near_to_proportional_as_stratified_ones():
    splitters = pytest.importorskip("sklearn.model_selection")
    rng = np.random.default_rng(1)
    for seed in range(30):
        codes = rng.permutation(np.repeat(np.arange(6), rng.integers(5, 40, 6)))
        counts, sizes = np.bincount(codes), np.bincount(np.arange(len(codes)) % 5)
        folds = splitters.StratifiedKFold(5, shuffle=True, random_state=seed).split(codes, codes)
        theirs = np.array([np.bincount(codes[test], minlength=6) for _, test in folds]).T
        part = dealt(sizes, seed, codes, counts)
        ours = np.array([np.bincount(codes[part == fold], minlength=6) for fold in range(5)]).T
        exact = counts[:, None] / 5
        assert ours.sum(axis=0).tolist() == sizes.tolist()
        assert abs(ours - exact).max() <= max(abs(theirs - exact).max(), 1 - 1e-9)
        assert np.ptp(ours, axis=1).max() <= 1


def test_folds_of_groups_are_as_good_as_scikit_learns():
    splitters = pytest.importorskip("sklearn.model_selection")
    rng = np.random.default_rng(2)
    sized, mixed = [], []
    for seed in range(30):
        groups, codes = random_groups(rng, rng.integers(10, 60), 4)
        sizes, counts = np.bincount(np.arange(len(groups)) % 5), np.bincount(codes)

        def missed(part, sizes=sizes):
            return abs(np.bincount(part, minlength=5) - sizes).max() / sizes.sum()

        def unlike(part, codes=codes, counts=counts):
            """How far the shares of classes in folds are from 1/5, on average."""
            return np.mean([abs(np.bincount(codes[part == fold], minlength=len(counts)) / counts - 0.2) for fold in range(5)])

        whole, stratified = np.empty(len(groups), int), np.empty(len(groups), int)
        for fold, (_, test) in enumerate(splitters.GroupKFold(5).split(groups, groups, groups)):
            whole[test] = fold
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes with fewer samples than folds
            split = splitters.StratifiedGroupKFold(5, shuffle=True, random_state=seed)
            for fold, (_, test) in enumerate(split.split(codes, codes, groups)):
                stratified[test] = fold
        sized.append((missed(dealt_groups(sizes, seed, groups)[groups]), missed(whole)))
        ours = dealt_groups(sizes, seed, groups, codes)[groups]
        mixed.append((unlike(ours), unlike(stratified), missed(ours), missed(stratified)))
    assert np.mean(sized, axis=0)[0] <= 1.1 * np.mean(sized, axis=0)[1]
    shares, their_shares, sizes_missed, their_sizes_missed = np.mean(mixed, axis=0)
    assert shares <= their_shares and sizes_missed <= their_sizes_missed


def test_parts_of_groups_are_nearer_to_their_sizes_than_those_of_a_group_shuffle_split():
    splitters = pytest.importorskip("sklearn.model_selection")
    rng = np.random.default_rng(3)
    ours, theirs = [], []
    for seed in range(20):
        groups, _ = random_groups(rng, rng.integers(5, 60), 2)
        sizes = np.array([len(groups) - len(groups) // 5, len(groups) // 5])
        ours.append(abs(np.bincount(dealt_groups(sizes, seed, groups)[groups], minlength=2) - sizes).max())
        _, test = next(splitters.GroupShuffleSplit(1, test_size=0.2, random_state=seed).split(groups, groups, groups))
        theirs.append(abs(len(test) - sizes[1]))
    assert np.mean(ours) < np.mean(theirs) / 2
