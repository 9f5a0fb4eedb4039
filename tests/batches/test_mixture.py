"""Mixtures: each source's own batches or samples in its own order, over epochs; and what cannot be mixed."""

from __future__ import annotations

import pickle
from itertools import chain, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmapstore as mm
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError, OutOfRangeError, StateMismatchError, TransformError
from mmapstore.plain.nests import leaves


def source(number, samples, batch_size=4, **more):
    """Batches of (x, y); x holds the number of the source and of the sample, y the sample and a half."""
    x = np.stack([np.full(samples, number, "f4"), np.arange(samples, dtype="f4")], axis=1)
    return mm.open({"x": x, "y": x[:, 1] + np.float32(0.5)}).batches(batch_size, target="y", seed=number, **more)


def row_of(b, epochs):
    """The batches of some epochs of a source, one after the other, as lists of (source, sample)."""
    return [b.read(epoch, number)[0].astype(int).tolist() for epoch in range(epochs) for number in range(len(b))]


def flat(lists):
    return list(chain.from_iterable(lists))


def epochs_of(mixture, epochs):
    found = [[np.concatenate([x, y[:, None]], axis=1) for x, y in mixture] for _ in range(epochs)]
    for epoch, batches in enumerate(found):
        assert len(batches) == len(mixture)
        for number, batch in enumerate(batches):
            np.testing.assert_array_equal(batch[:, 2], batch[:, 1] + np.float32(0.5))
            np.testing.assert_array_equal(mixture.read(epoch, number)[0], batch[:, :2])  # random access is what the loop gives
    return [[batch[:, :2].astype(int).tolist() for batch in batches] for batches in found]


SOURCES = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), min_size=1, max_size=3)
STOPS, SHUFFLES = st.sampled_from(["first", "all"]), st.sampled_from([False, True, 8])


def made_or_refused(made, weights, **more):
    try:
        return mm.mix(made, weights, **more)
    except InvalidValueError as error:
        assert "none of the" in str(error) or "leaves no batch" in str(error)
        return None


@given(SOURCES, STOPS, SHUFFLES, st.booleans(), st.integers(0, 9))
@settings(max_examples=60)
def test_whole_batches_are_those_of_the_sources_in_order_over_epochs(sizes, stop, shuffle, drop_last, seed):
    made = [source(i, samples + 4 * drop_last, shuffle=shuffle, drop_last=drop_last) for i, (samples, _) in enumerate(sizes)]
    mixture = made_or_refused(made, [weight for _, weight in sizes], stop=stop, seed=seed)
    if mixture is None:
        return
    epochs = epochs_of(mixture, 3)
    for i, b in enumerate(made):
        mine = [[batch for batch in batches if batch[0][0] == i] for batches in epochs]
        count = len(mine[0])
        assert {len(batches) for batches in mine} == {count}
        assert flat(mine) == row_of(b, 3 * count // len(b) + 1)[: 3 * count]
        assert count <= len(b) if stop == "first" else count >= len(b)
        assert b.position == (0, 0)
    assert any(sum(batch[0][0] == i for batch in epochs[0]) == len(b) for i, b in enumerate(made))
    assert {len(batch) for batches in epochs for batch in batches} <= mixture.batch_sizes


@given(SOURCES, STOPS, SHUFFLES, st.booleans(), st.integers(1, 9), st.integers(0, 9))
@settings(max_examples=60)
def test_samples_are_those_of_the_sources_in_order_over_epochs(sizes, stop, shuffle, drop_last, batch_size, seed):
    made = [source(i, samples, batch_size=i + 2, shuffle=shuffle) for i, (samples, _) in enumerate(sizes)]
    weights = [weight for _, weight in sizes]
    options = {"within_batch": True, "batch_size": batch_size, "drop_last": drop_last}
    mixture = made_or_refused(made, weights, stop=stop, seed=seed, **options)
    if mixture is None:
        return
    epochs = epochs_of(mixture, 3)
    dropped = mixture.samples % batch_size if drop_last else 0
    assert [sum(map(len, batches)) for batches in epochs] == [mixture.samples - dropped] * 3
    for i, b in enumerate(made):
        row = flat(row_of(b, 3 * max(1, mixture.samples // b.samples) + 4))
        mine = [[sample for batch in batches for sample in batch if sample[0] == i] for batches in epochs]
        if not dropped:
            assert flat(mine) == row[: 3 * len(mine[0])] and {len(one) for one in mine} == {len(mine[0])}
            assert len(mine[0]) <= b.samples if stop == "first" else len(mine[0]) >= b.samples
        for batch in epochs[0][:-1] if len(made) < 3 else []:
            share = batch_size * weights[i] / sum(weights)
            assert abs(sum(sample[0] == i for sample in batch) - share) <= 1 + batch_size / mixture.samples
    assert all(len(batch) == batch_size for batches in epochs for batch in batches[: len(batches) - (not mixture.all_full)])


def test_a_whole_number_of_samples_in_each_batch():
    mixture = mm.mix([source(0, 70), source(1, 90)], weights=[0.7, 0.3], within_batch=True, batch_size=10)
    found = [x[:, 0].astype(int).tolist() for x, _ in mixture]
    assert [sum(batch) for batch in found] == [3] * 10 and len(set(map(tuple, found))) > 5


@pytest.mark.parametrize("within_batch", [False, True])
def test_workers_take_equally_many_steps_and_share_no_sample(within_batch):
    def made(rank, count):
        sources = [source(i, samples, shuffle=True, shard=(rank, count)) for i, samples in enumerate((50, 70))]
        return mm.mix(sources, [1, 1], within_batch=within_batch)

    workers = [made(rank, 3) for rank in range(3)]
    seen = [tuple(sample) for mixture in workers for x, _ in mixture for sample in x.astype(int).tolist()]
    assert len(set(map(len, workers))) == 1 and len(seen) == len(set(seen))
    state = workers[0].state_at(0, 2)  # of any worker it is that of all
    workers[1].load_state_dict(state)
    assert workers[1].position == (0, 2)
    for count in (1, 4):
        with pytest.raises(StateMismatchError, match=r"another order \(.*workers: saved 3, now"):
            made(0, count).load_state_dict(state)


MIXED = {
    "batches": lambda **more: mm.mix([source(0, 16, shuffle=True), source(1, 30, shuffle=True)], [1, 2], **more),
    "samples": lambda **more: mm.mix([source(0, 16, shuffle=True), source(1, 30)], [1, 2], within_batch=True, **more),
    "mixtures": lambda **more: mm.mix([MIXED["samples"](), source(2, 40)], [3, 1], **more),
}
mixed = pytest.mark.parametrize("make", MIXED.values(), ids=MIXED)


@mixed
def test_a_position_in_mid_epoch_is_gone_on_with_exactly(make):
    whole = make()
    epochs = [[x.tolist() for x, _ in whole] for _ in range(3)]
    first = make()
    for _ in first:
        pass
    for number, (x, _) in enumerate(first):
        assert x.tolist() == epochs[1][number]
        if number == 2:
            break
    state = first.state_dict()
    for resumed in (make(), pickle.loads(pickle.dumps(whole))):
        resumed.load_state_dict(state)
        assert resumed.position == (1, 3)
        assert [x.tolist() for x, _ in resumed] == epochs[1][3:]
        assert [x.tolist() for x, _ in resumed] == epochs[2]


@mixed
def test_positions_of_other_mixtures_are_refused(make):
    state = make().state_dict()
    for other in (make(seed=1), make(stop="all"), mm.mix([source(0, 16)], [1]), source(0, 16, shuffle=True)):
        with pytest.raises(StateMismatchError, match="belongs to another order"):
            other.load_state_dict(state)
        with pytest.raises(StateMismatchError, match="belongs to another order"):
            make().load_state_dict(other.state_dict())


@mixed
def test_states_that_are_none_of_a_mixture(make):
    mixture = make()
    for state in ({}, None, {**mixture.state_dict(), "epoch": "a"}):
        with pytest.raises(StateMismatchError, match="is not a saved position"):
            mixture.load_state_dict(state)
    for epoch, batch in ((-1, 0), (0, len(mixture) + 1), (0, -1)):
        with pytest.raises(StateMismatchError, match=f"epoch {epoch}, batch {batch}, but an epoch has {len(mixture)} batches"):
            mixture.load_state_dict(mixture.state_at(epoch, batch))


def test_positions_of_other_data_are_refused():
    def make(value):
        return mm.mix([mm.open(np.full((8, 2), value)).batches(4), mm.open(np.zeros((8, 2))).batches(4)], [1, 1])

    with pytest.raises(StateMismatchError, match="other data than the sources of this mixture"):
        make(1.0).load_state_dict(make(2.0).state_dict())


@mixed
def test_the_rest_of_what_batches_can_do(make):
    mixture = make()
    first, *_, last = mixture
    np.testing.assert_array_equal(mixture.read(0, 0)[0], first[0])
    mixture.load_state_dict(mixture.state_at(0, 2))
    np.testing.assert_array_equal(mixture[-1][0], last[0])
    with pytest.raises(OutOfRangeError, match="there is no batch"):
        mixture[len(mixture)]
    assert repr(mixture).startswith(f"<Mixture of {'samples' if make is MIXED['samples'] else 'whole batches'}: {len(mixture)} x 4")
    assert "of a mixture" in mixture.named(0, 0)
    assert mixture.memory.total > sum(one.memory.total for one in mixture._sources)


def test_a_batch_of_a_source_is_transformed_once():
    calls = []

    def counted(x, y):
        calls.append(x[0].astype(int).tolist())
        return x, y

    mixture = mm.mix([source(i, 24, transform=counted, transform_workers=3) for i in range(2)], [1, 3], within_batch=True)
    calls.clear()
    assert len(list(mixture)) == 8
    assert sorted(calls) == [[0, 0], [0, 4], *([1, first] for first in range(0, 24, 4))]


def test_nests_and_text_are_mixed():
    def tokens(width, samples):
        text = np.array([b"a" * width] * samples)
        ds = mm.open({"text": text, "n": np.arange(samples)})
        return ds.batches(4, inputs={"t": "text", "n": ("n", ["n"])}, target="n")

    for x, y in mm.mix([tokens(3, 8), tokens(9, 8)], [1, 1], within_batch=True):
        assert set(map(len, x["t"])) == {3, 9} and [type(x["n"]), type(x["n"][1])] == [tuple, list]
        for array in leaves(x["n"]):
            np.testing.assert_array_equal(array, y)


@pytest.mark.parametrize("broken", [RuntimeError("broken"), KeyboardInterrupt("broken")])
def test_a_batch_whose_making_failed_is_made_again(broken):
    errors = [broken] * 2

    def transform(x, y):
        if errors and y[0] > 8:
            raise errors.pop()
        return x, y

    mixture = mm.mix([source(0, 16, transform=transform), source(1, 16)], [1, 1], within_batch=True)
    for _ in range(2):
        with pytest.raises((TransformError, KeyboardInterrupt), match="broken"):
            list(mixture)
    assert len(list(mixture)) == 8


def test_arrays_from_a_transform_are_checked_in_every_batch():
    def uneven(x, y):
        return (x if y[0] < 8 else x[:, :1]), y

    mixture = mm.mix([source(0, 16, transform=uneven), source(1, 16)], [1, 1], within_batch=True)
    with pytest.raises(InvalidValueError, match=r"of source 0 is made of \('float32 \(1,\)', .*; expected \('float32 \(2,\)', "):
        list(mixture)


def other(**more):
    return mm.open({"x": np.zeros((16, 2), "f4"), "y": np.zeros(16, "f4"), "z": np.zeros((16, 3))}).batches(4, **more)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"sources": []}, InvalidValueError, "mix.. has no sources"),
        (
            {"sources": [np.zeros(3), np.zeros(3)]},
            InvalidTypeError,
            "source 0 of mix.. is a ndarray; expected what Dataset.batches",
        ),
        ({"weights": [1]}, InvalidValueError, "for 2 sources; expected as many"),
        ({"weights": [1, -1]}, InvalidValueError, "each a number from 0 to 1e300"),
        ({"weights": [1, np.nan]}, InvalidValueError, "each a number from 0 to 1e300"),
        ({"weights": [1, 1e308]}, InvalidValueError, "each a number from 0 to 1e300"),
        ({"weights": [0, 0]}, InvalidValueError, "and not all of them 0"),
        ({"weights": [1, 1e-3]}, InvalidValueError, "give source 1 none of the 4 steps of an epoch: its share is 0.004"),
        ({"weights": "ab"}, InvalidTypeError, "expected a number for each source"),
        ({"weights": 3}, InvalidTypeError, "expected a number for each source"),
        ({"seed": 0.5}, InvalidTypeError, "seed=0.5"),
        ({"stop": "last"}, InvalidValueError, "stop='last'; expected 'first' or 'all'"),
        ({"batch_size": 3}, InvalidValueError, "without within_batch=True"),
        ({"drop_last": True}, InvalidValueError, "without within_batch=True"),
        ({"batch_size": 0, "within_batch": True}, InvalidValueError, "batch_size=0"),
        ({"batch_size": 99, "drop_last": True, "within_batch": True}, InvalidValueError, "32 samples and batch_size is 99"),
        ({"sources": [source(0, 16), other(target="y", shard=(0, 2))]}, InvalidValueError, "expected one shard in all"),
        (
            {"sources": [source(0, 16), source(1, 16, 5)]},
            InvalidValueError,
            r"batches of \[4, 5\] samples; expected one",
        ),
        ({"sources": [source(0, 16), other()]}, InvalidValueError, r"y of source 1 is missing, and of source 0 float32 \(\)"),
        ({"sources": [source(0, 16), other(inputs="z", target="y")]}, InvalidValueError, r"x of source 1 is float64 \(3,\), and"),
        ({"sources": [source(0, 16), other(target={"y": "y"})]}, InvalidValueError, "y of source 1 is {'y': 'float32"),
    ],
)
def test_mixtures_that_cannot_be_meant(change, error, text):
    arguments = {"sources": [source(0, 16), source(1, 16)], "weights": [1, 1], **change}
    with pytest.raises(error, match=text):
        mm.mix(arguments.pop("sources"), **arguments)


def test_short_batches_in_the_midst_are_not_mixed_once_more():
    inner = mm.mix([source(0, 10), source(1, 16)], [1, 1])
    assert not inner.all_full and inner.batch_sizes == {4, 2}
    with pytest.raises(InvalidValueError, match="Make its sources with drop_last=True"):
        mm.mix([inner, source(2, 16)], [1, 1], within_batch=True)
    assert len(list(islice(mm.mix([inner, source(2, 16)], [1, 1]), 5))) == 5


def test_weights_of_nothing_leave_a_source_out():
    mixture = mm.mix([source(0, 16), source(1, 16)], [1, 0])
    assert {int(x[0, 0]) for x, _ in mixture} == {0}
