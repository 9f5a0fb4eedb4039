"""Random, stratified and grouped parts of a dataset, and folds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmapstore as mm
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError, KeyNotFoundError, LabelWarning

RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(1, 9, 40)
OFFSETS = np.append(0, LENGTHS.cumsum())
N = int(OFFSETS[-1])
SUBJECT = RNG.integers(0, 12, 40)  # of each episode
ACTION = RNG.integers(0, 3, 40)


def frames():
    """Frames of 40 episodes: their number, the subject and the action of their episode, and a label of their own."""
    repeated = {name: np.repeat(of, LENGTHS) for name, of in (("subject", SUBJECT), ("action", ACTION))}
    label = np.random.default_rng(1).integers(0, 4, N)
    return mm.open({"x": np.arange(N), **repeated, "kind": label}, episodes=OFFSETS)


def numbers(part):
    return part["x"][:].tolist()


PARTS = st.sampled_from([(0.6, 0.2, 0.2), (0.5, 0.25), (0.8, 0.2), (0.5, 20)])
HOW = st.fixed_dictionaries(
    {"seed": st.integers(-5, 10**20)},
    optional={
        "by": st.sampled_from(["sample", "episode"]),
        "shuffle": st.booleans(),
        "stratify": st.sampled_from(["action"]),
        "groups": st.sampled_from(["subject"]),
    },
)


@given(PARTS, HOW)
@pytest.mark.filterwarnings("ignore::mmapstore.plain.errors.LabelWarning")
def test_parts_share_nothing_and_keep_what_belongs_together(parts, how):
    ds = frames()
    found = ds.split(*parts, **how)
    held = [numbers(part) for part in found]
    assert all(rows == sorted(rows) for rows in held)
    every = list(itertools.chain(*held))
    assert len(set(every)) == len(every) <= N and (sum(parts) != 1 or len(every) == N)
    assert [numbers(part) for part in frames().split(*parts, **how)] == held
    if how.get("by") == "episode":
        owners = [{int(np.searchsorted(OFFSETS, n, side="right")) for n in rows} for rows in held]
        assert sum(map(len, owners)) == len(set.union(*owners))
    if "groups" in how:
        owners = [set(part["subject"][:].tolist()) for part in found]
        assert sum(map(len, owners)) == len(set.union(*owners))


@given(st.integers(2, 8), HOW)
@settings(max_examples=30)
@pytest.mark.filterwarnings("ignore::mmapstore.plain.errors.LabelWarning")
def test_folds_validate_every_sample_once(k, how):
    folds = list(frames().kfold(k, **how))
    assert len(folds) == k
    assert sorted(itertools.chain(*(numbers(val) for _, val in folds))) == list(range(N))
    for train, val in folds:
        assert sorted(numbers(train) + numbers(val)) == list(range(N))


def test_contiguous_folds_are_those_of_scikit_learn():
    splitters = pytest.importorskip("sklearn.model_selection")
    ds = frames()
    for (train, val), (rows, held) in zip(ds.kfold(7), splitters.KFold(7).split(np.zeros(N)), strict=True):
        assert numbers(train) == rows.tolist() and numbers(val) == held.tolist()


def test_windows_stay_inside_the_runs_of_a_fold():
    train, _ = list(frames().kfold(3))[1]
    pairs = {
        (int(x), int(y)) for xs, ys in train.batches(8, target=mm.NextFrame(), inputs="x") for x, y in zip(xs, ys, strict=True)
    }
    rows = numbers(train)
    inside = {(n, n + 1) for n in rows if n + 1 in rows and n + 1 not in OFFSETS}
    assert pairs == inside


def test_classes_are_divided_as_all_samples_are():
    pets = mm.open({"image": np.zeros((360, 4)), "label": np.repeat([0, 1], [300, 60])})
    train, val = pets.split(0.8, 0.2, stratify="label")
    assert [np.bincount(part["label"][:]).tolist() for part in (train, val)] == [[240, 48], [60, 12]]
    for rest, held in pets.kfold(5, stratify="label", seed=3):
        assert np.bincount(held["label"][:]).tolist() == [60, 12] and np.bincount(rest["label"][:]).tolist() == [240, 48]
    # A part is split on: its own labels count.
    again = train.split(0.5, 0.5, stratify="label")
    assert [np.bincount(part["label"][:]).tolist() for part in again] == [[120, 24], [120, 24]]


@pytest.mark.parametrize("kind", ["one-hot", "text", "bool"])
def test_classes_of_every_kind(kind):
    numbers = np.repeat([0, 1], [30, 60])
    label = {"one-hot": np.eye(2)[numbers], "text": np.array([b"ant", b"bee"])[numbers], "bool": numbers == 1}[kind]
    for part, size in zip(mm.open({"x": numbers, "mark": label}).split(0.7, 0.3, stratify="mark"), (63, 27), strict=True):
        assert np.bincount(part["x"][:]).tolist() == [size / 3, size * 2 / 3]


def test_an_episode_has_the_class_of_most_of_its_samples():
    episodes = np.repeat(np.arange(20), 3)
    label = np.where(np.arange(60) % 3 == 0, 5, episodes % 2)  # the first of each episode has another class
    ds = mm.open({"x": episodes, "mark": label}, episodes=3)
    for part in ds.split(0.6, 0.4, by="episode", stratify="mark"):
        owners = part["x"][:].reshape(-1, 3)[:, 0]
        assert np.bincount(owners % 2).tolist() == [len(owners) / 2] * 2


def test_dealing_one_by_one_leaves_no_windows():
    ds = frames()
    shuffled, _ = ds.split(0.5, 0.5, shuffle=True)
    for part in (shuffled, shuffled.split(0.5)[0], ds.split(0.5, stratify="kind")[0], next(ds.kfold(2, shuffle=True))[0]):
        with pytest.raises(InvalidValueError, match=r"dealt one by one.*by='episode', shuffle=True"):
            part.batches(4, target=mm.NextFrame())
        with pytest.raises(InvalidValueError, match="dealt one by one"):
            part.batches(4, target=mm.Window(history=2, horizon=None), inputs="x")
        assert len(part.batches(4, target="kind", inputs="x")) > 0
    for how in ({"by": "episode", "shuffle": True}, {"by": "episode", "stratify": "action"}, {"groups": "subject"}):
        part, _ = ds.split(0.5, 0.5, **how)
        assert part.batches(4, target=mm.NextFrame(), inputs="x").samples > 0
        assert part["x"].split(0.5)[0].batches(4, target=mm.NextFrame()).samples > 0


def test_groups_that_do_not_fit():
    group = np.repeat([0, 1, 2], [90, 5, 5])
    ds = mm.open({"x": np.arange(100), "patient": group})
    with pytest.warns(
        LabelWarning, match=r"groups='patient': whole groups do not fit .* 90, 10 samples instead of 50, 50; the larg.* 90"
    ):
        assert sorted(map(len, ds.split(0.5, 0.5, groups="patient"))) == [10, 90]
    with pytest.raises(InvalidValueError, match=r"there are 3 groups for 4 parts, and a group is in one part only"):
        ds.kfold(4, groups="patient")
    with pytest.raises(InvalidValueError, match=r"there is 1 group for 2 parts"):
        ds.select(group == 0).split(0.5, 0.5, groups="patient")
    with pytest.raises(InvalidValueError, match=r"whole groups make parts of 100, 0 samples instead of 99, 1; .* 90: one is empty"):
        ds.split(0.99, 0.01, groups="patient")
    with pytest.raises(InvalidValueError, match=r"episode 1 has samples of several groups, and by='episode' keeps it whole"):
        mm.open({"x": np.arange(100), "patient": group}, episodes=50).split(1, 1, by="episode", groups="patient")


@pytest.mark.parametrize(
    ("parts", "how", "error", "text"),
    [
        ((0.5, 0.5), {"stratify": "breed"}, KeyNotFoundError, r"stratify names the field 'breed', which is not there"),
        ((0.5, 0.5), {"groups": "owner"}, KeyNotFoundError, r"groups names the field 'owner', which is not there"),
        ((0.5, 0.5), {"stratify": ACTION}, InvalidTypeError, r"stratify=ndarray is not understood; .* as a field"),
        ((0.5, 0.5), {"groups": ["subject"]}, InvalidTypeError, r"groups=list is not understood; expected the name of a field"),
        ((0.5, 0.5), {"shuffle": 100}, InvalidTypeError, r"shuffle=100 is not understood; expected True or False"),
        ((0.5, 0.5), {"shuffle": True, "seed": 0.5}, InvalidTypeError, r"seed=0.5 is not a whole number"),
        ((0.5, 0.5), {"shuffle": True, "gap": 2}, InvalidValueError, r"gap=2 is room between contiguous parts"),
        ((0.5, 0.5), {"stratify": "kind", "gap": 2}, InvalidValueError, r"gap=2 is room between contiguous parts"),
        ((0.999, 0.001), {"shuffle": True}, InvalidValueError, r"one is empty. Make it larger"),
        ((0.5, 0.6), {"shuffle": True}, InvalidValueError, r"add up to 1.1"),
        ((0.5, 0.5), {"by": "video", "shuffle": True}, InvalidValueError, r"by='video' is not understood"),
        ((20, 30), {"by": "episode", "shuffle": True}, InvalidValueError, r"take 50 episodes and the gaps 0, but there are 40"),
    ],
)
def test_splits_that_cannot_be_meant(parts, how, error, text):
    with pytest.raises(error, match=text):
        frames().split(*parts, **how)


@pytest.mark.parametrize(
    ("k", "how", "error", "text"),
    [
        (1, {}, InvalidValueError, r"k=1 is too small; expected 2 or more"),
        (2.5, {}, InvalidTypeError, r"k=2.5 is not a whole number"),
        (N + 1, {"shuffle": True}, InvalidValueError, rf"kfold\({N + 1}\) of {N} samples leaves folds empty; .* at most {N}"),
        (41, {"by": "episode"}, InvalidValueError, r"kfold\(41\) of 40 episodes leaves folds empty"),
    ],
)
def test_folds_that_cannot_be_meant(k, how, error, text):
    with pytest.raises(error, match=text):
        frames().kfold(k, **how)
