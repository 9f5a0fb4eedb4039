"""Balanced and weighted batches, against counting."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmapstore as mm
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError, KeyNotFoundError, StateMismatchError

KINDS = {
    "integers": lambda codes: codes.astype("i8") * 10 - 5,
    "one-hot": lambda codes: np.eye(codes.max() + 1, dtype="f4")[codes],
    "text": lambda codes: np.array([b"cat", b"dog", b"emu", b"fox"])[codes],
}


@st.composite
def labelled(draw):
    """Codes of up to 120 samples in up to 4 classes, each of which has some, in any order."""
    rest = draw(st.lists(st.integers(0, 3), max_size=110))
    classes = max(rest, default=0) + 1
    return np.array(draw(st.permutations([*range(classes), *rest])))


def drawn(batches: mm.Batches, epoch: int) -> np.ndarray:
    """The numbers of the samples of an epoch; x is the number."""
    made = [batches.read(epoch, number)[0] for number in range(len(batches))]
    return np.concatenate(made).astype(int).ravel()


@given(labelled(), st.sampled_from(sorted(KINDS)), st.sampled_from([False, True, 8]), st.integers(1, 3), st.integers(0, 100))
def test_balanced_epochs(codes, kind, shuffle, count, seed):
    count = min(count, len(codes))
    ds = mm.open({"x": np.arange(len(codes)), "label": KINDS[kind](codes)})
    options = {"target": "label", "balance": "label", "shuffle": shuffle, "seed": seed}
    together = np.zeros(len(codes), int)
    for epoch in range(3):
        numbers = drawn(ds.batches(7, **options), epoch)
        together += np.bincount(numbers, minlength=len(codes))
        assert len(numbers) == len(codes)
        assert np.ptp(np.bincount(codes[numbers], minlength=codes.max() + 1)) <= 1
        assert all(np.ptp(together[codes == code]) <= 1 for code in np.unique(codes))
        shards = [drawn(ds.batches(7, shard=(i, count), **options), epoch) for i in range(count)]
        assert {len(one) for one in shards} == {len(codes) // count}
        left = np.bincount(numbers, minlength=len(codes)) - np.bincount(np.concatenate(shards), minlength=len(codes))
        assert (left >= 0).all() and left.sum() < count


@given(labelled(), st.integers(0, 2), st.integers(0, 50))
def test_a_window_has_the_class_of_its_last_input_frame(codes, history, seed):
    ds = mm.open({"x": np.arange(len(codes)), "label": codes}, episodes=[0, len(codes)])
    last = codes[history : len(codes) - 1]  # of windows of history + 1 frames with one more to predict
    window = mm.Window(history=history + 1, horizon=None)
    if not len(last) or set(last) != set(codes):
        with pytest.raises(InvalidValueError, match=r"has no window|no window ends with a sample of the class"):
            ds.batches(5, target=window, balance="label")
        return
    b = ds.batches(5, target=window, balance="label", shuffle=True, seed=seed)
    ends = np.concatenate([b.read(0, number)[0][:, -1] for number in range(len(b))])
    assert len(ends) == len(last) and np.ptp(np.bincount(codes[ends])) <= 1


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_windows_of_a_part_with_holes(stride, seed):
    rng = np.random.default_rng(seed)
    codes, mask = rng.choice(3, 120, p=[0.6, 0.3, 0.1]), rng.random(120) < 0.85
    kept = np.flatnonzero(mask)
    runs = np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1)
    ends = np.array([start + 1 for run in runs for start in run[:-2:stride]])  # by hand: two frames, and one to predict
    ds = mm.open({"x": np.arange(120), "label": codes, "p": codes + 1.0}, episodes=[0, 120]).select(mask)
    for sampling in ({"balance": "label"}, {"sampling_weight": "p"}):
        b = ds.batches(5, target=mm.Window(history=2, horizon=None, stride=stride), shuffle=True, **sampling)
        found = np.concatenate([b.read(0, number)[0][:, -1] for number in range(len(b))])
        assert len(found) == len(ends) and set(found) <= set(ends)
        uses, weights = np.bincount(found, minlength=120)[ends], codes[ends] + 1.0
        if "balance" in sampling:
            assert np.ptp(np.bincount(codes[found])) <= 1
            assert all(np.ptp(uses[codes[ends] == code]) <= 1 for code in range(3))
        else:
            assert (np.abs(uses - weights / weights.sum() * len(ends)) < 1 + 1e-6).all()


def test_states_of_other_labels_or_weights_are_refused():
    # The samples of which the fingerprint takes a digest are the same; the order is not.
    label, p = np.arange(1000) % 3, np.arange(1000.0)
    other = {"label": np.where(np.arange(1000) == 7, 0, label), "p": np.where(np.arange(1000) == 7, 5, p)}
    for sampling in ({"balance": "label"}, {"sampling_weight": "p"}):
        state = mm.open({"x": np.arange(1000), "label": label, "p": p}).batches(8, **sampling).state_at(0, 3)
        with pytest.raises(StateMismatchError, match=r"belongs to another order \(sampling: saved"):
            mm.open({"x": np.arange(1000), **other}).batches(8, **sampling).load_state_dict(state)


def test_classes_by_weight_and_selections():
    codes = np.repeat([0, 1, 2], [70, 20, 10])
    ds = mm.open({"x": np.arange(100), "label": KINDS["text"](codes)})
    for by_class in ({"cat": 1, "dog": 3, "emu": 0}, {0: 1, 1: 3, 2: 0}):
        numbers = drawn(ds.batches(9, balance={"label": by_class}, shuffle=True), 0)
        assert np.bincount(codes[numbers], minlength=3).tolist() == [25, 75, 0]
    part = ds.select(np.arange(0, 100, 3))
    numbers = drawn(part.batches(9, balance="label", shuffle=True), 4)
    assert len(numbers) == 34 and not (numbers % 3).any()
    assert sorted(np.bincount(codes[numbers]).tolist()) == [11, 11, 12]


@given(st.lists(st.sampled_from([0.0, 0.5, 1, 2.25, 7]), min_size=3, max_size=60), st.integers(0, 50))
def test_weighted_epochs(weights, seed):
    ds = mm.open({"x": np.arange(len(weights)), "p": np.array(weights, "f4")})
    if not any(weights):
        with pytest.raises(InvalidValueError, match="add up to 0"):
            ds.batches(5, sampling_weight="p")
        return
    uses = np.bincount(drawn(ds.batches(5, sampling_weight="p", shuffle=True, seed=seed), 2), minlength=len(weights))
    assert (np.abs(uses - np.array(weights) / sum(weights) * len(weights)) < 1 + 1e-6).all()


@pytest.mark.parametrize("sampling", [{"balance": "label"}, {"sampling_weight": "p"}])
def test_formats_give_the_same_batches_and_states_are_gone_on_with(tmp_path, sampling):
    rng = np.random.default_rng(0)
    x, label, p = rng.random((90, 3, 4)).astype("f4"), rng.choice(3, 90, p=[0.8, 0.15, 0.05]), rng.random(90)
    np.save(tmp_path / "x.npy", x)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(8, 3, 4), compression="gzip")
    for plan in ({"target": "label"}, {"target": mm.NextFrame()}):
        for shuffle in (False, True, 10):
            options = {**plan, **sampling, "shuffle": shuffle}
            expected = None
            for source in (x, tmp_path / "x.npy", f"{tmp_path}/x.h5::/x"):
                b = mm.open({"x": source, "label": label, "p": p}).batches(8, **options)
                found = [array.tobytes() for epoch in (0, 1) for n in range(len(b)) for array in b.read(epoch, n)]
                assert found == (expected or found)
                expected = found
            state = json.dumps(b.state_at(1, 3))
            assert len(state) < 1000
            other = mm.open({"x": x, "label": label, "p": p}).batches(8, **options)
            other.load_state_dict(json.loads(state))
            assert [a.tobytes() for batch in other for a in batch] == [a.tobytes() for n in range(3, len(b)) for a in b.read(1, n)]
            plain = mm.open({"x": x, "label": label, "p": p}).batches(8, **plan, shuffle=shuffle)
            with pytest.raises(StateMismatchError, match=r"sampling: saved '.*', now None"):
                plain.load_state_dict(json.loads(state))


def test_repr_and_memory_tell():
    ds = mm.open({"x": np.zeros(100_000, "f4"), "label": np.r_[np.zeros(99_000, "u1"), np.ones(1000, "u1")]})
    b = ds.batches(32, balance="label", shuffle=True)
    assert "balanced by 'label' (a sample of class 1 50 times an epoch)" in repr(b)
    index = b.memory.parts["index of samples"] - ds.batches(32, shuffle=True).memory.parts["index of samples"]
    assert 4 * 100_000 < index - 64 * 2**16 < 5 * 100_000


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"balance": "lable"}, KeyNotFoundError, "balance names the field 'lable'"),
        ({"balance": 3}, InvalidTypeError, "balance=3 is not understood"),
        ({"balance": {"label": {"cat": 1}}}, InvalidValueError, "gives no weight to 'dog' of 'label'"),
        (
            {"balance": {"label": {"cat": 1, "dog": 1, "emu": 1}}},
            KeyNotFoundError,
            "the class 'emu', of which 'label' has no sample",
        ),
        ({"balance": {"label": {"cat": 0, "dog": 0}}}, InvalidValueError, "all classes of 'label' the weight 0"),
        ({"balance": {"label": {"cat": 1, "dog": -1}}}, InvalidValueError, "gives 'dog' the weight -1"),
        ({"balance": {"label": {"cat": 1, "dog": "2"}}}, InvalidValueError, "gives 'dog' the weight '2'"),
        ({"balance": "y"}, InvalidValueError, "balance='y'"),
        ({"sampling_weight": "p", "balance": "label"}, InvalidValueError, "expected one"),
        ({"sampling_weight": "q"}, KeyNotFoundError, "no field 'q'"),
        ({"sampling_weight": np.ones(4)}, InvalidTypeError, "expected the name of a field"),
        ({"sampling_weight": "label"}, InvalidTypeError, "expected one number for each sample"),
        ({"sampling_weight": "p"}, InvalidValueError, "sample 2 has the weight nan"),
        ({"sampling_weight": "n"}, InvalidValueError, "sample 1 has the weight -1"),
    ],
)
def test_sampling_that_cannot_be_meant(options, error, text):
    ds = mm.open(
        {
            "x": np.zeros(4),
            "label": np.array([b"cat", b"dog", b"dog", b"dog"]),
            "y": np.array([0.1, 0.2, 0.3, 0.4]),
            "p": np.array([0, 1, np.nan, 1]),
            "n": np.array([0, -1, 1, 1]),
        }
    )
    with pytest.raises(error, match=text):
        ds.batches(2, **options)
