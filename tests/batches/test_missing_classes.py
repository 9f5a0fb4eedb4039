"""Parts that lack a class say so, and nothing else is taken for a class. Warnings are errors here."""

from __future__ import annotations

import numpy as np
import pytest

import mmapstore as mm
from mmapstore.batches import labels
from mmapstore.batches.labels import label_field
from mmapstore.plain.errors import LabelWarning

SORTED = np.repeat([0, 1], [300, 60])


def opened(label, field="label", **how):
    return mm.open({"x": np.zeros((len(label), 2), np.uint8), field: label}, **how)


@pytest.mark.parametrize(
    "label",
    [SORTED, SORTED == 1, np.eye(2, dtype="f4")[SORTED], np.array([b"cat", b"dog"])[SORTED]],
    ids=["int", "bool", "hot", "text"],
)
def test_sorted_classes_are_told_of(label):
    a, b = ("'cat'", "'dog'") if label.dtype.kind == "S" else ("class 0", "class 1")
    expected = rf"part 1 has 288 of {a}, 0 of {b}; part 2 has 12 of {a}, 60 of {b}\. The samples lie sorted by class"
    with pytest.warns(LabelWarning, match=rf"split\(0.8, 0.2\) makes parts without .* 'label': {expected}") as caught:
        opened(label).split(0.8, 0.2)
    assert caught[0].filename == __file__
    line = str(caught[0].message).partition("Write ds.")[2].partition(" for parts")[0]
    assert line == "split(0.8, 0.2, stratify='label')"
    eval(line, {"split": opened(label).split})  # the line it says warns of nothing


def test_folds_and_groups_are_told_of():
    ds = mm.open({"x": np.zeros((360, 2)), "label": SORTED, "who": np.repeat(np.arange(36), 10)})
    with pytest.warns(LabelWarning, match=r"kfold\(5\) .*fold 4 has 72 of class 0, 0 of class 1; and 1 more parts.* Write ds.k"):
        folds = ds.kfold(5)
    assert len(list(folds)) == 5
    with pytest.warns(LabelWarning, match=r"Write ds.split\(0.8, 0.2, groups='who', stratify='label'\) .* as near as whole"):
        mm.open({"x": np.zeros((360, 2)), "label": SORTED, "who": SORTED}).split(0.8, 0.2, groups="who")


def test_many_episodes_are_dealt_whole():
    with pytest.warns(LabelWarning, match=r"Write ds.split\(0.8, 0.2, by='episode', stratify='label'\)"):
        opened(SORTED, episodes=10).split(0.8, 0.2)


def test_many_classes_are_named_where_they_are_missing():
    label = np.repeat(np.arange(40), 20)
    with pytest.warns(LabelWarning, match=r"part 2 \(80 samples\) has no class 0 \(20 in all\), class 1 \(20 .* and 33 other cl"):
        opened(label).split(0.9, 0.1)


def test_a_class_of_one_sample_cannot_be_divided():
    with pytest.warns(LabelWarning, match=r"part 2 has 20 of class 0, 0 of class 7\. Each part needs a sample"):
        opened(np.append(np.zeros(99, int), 7)).split(0.8, 0.2, stratify="label")


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("field", "label", "how"),
    [
        ("label", RNG.integers(0, 4, 400), {}),  # every class in every part
        ("label", SORTED * 1.5, {}),  # numbers to be predicted
        ("label", RNG.uniform(size=(360, 3)), {}),  # soft labels
        ("label", RNG.integers(0, 99, (360, 4)), {}),  # boxes
        ("label", np.sort(RNG.integers(0, 10**6, 400)), {}),  # a number of its own for nearly each
        ("label", np.zeros((360, 8, 8), int), {}),  # masks
        ("label", np.repeat(np.arange(12), 30), {"episodes": 30}),  # numbers of episodes
        ("y", np.repeat(np.arange(30), 20), {}),  # ages, say
        ("episode", SORTED, {}),
        ("x2", SORTED, {}),
        ("text", np.array([b"cat", b"dog"])[SORTED], {}),
        ("label", np.full(100, 3), {}),
        ("label", np.zeros(12, "S3"), {}),
    ],
)
def test_nothing_is_told_of_other_fields(field, label, how):
    opened(label, field, **how).split(0.5, 0.3, 0.2)


def test_a_part_too_small_for_a_class_is_no_news():
    label = RNG.permutation(np.repeat([0, 1, 2], [450, 449, 1]))
    rare = int(np.flatnonzero(label == 2)[0])
    ds = opened(label)
    assert label_field(ds)[0] == "label"
    where = 0 if rare < 450 else 1  # the larger part has the rare sample
    ds.split(*((0.6, 0.4) if where == 0 else (0.4, 0.6)))


def test_large_fields_are_not_read(monkeypatch):
    monkeypatch.setattr(labels, "_MOST_SAMPLES", 359)
    opened(SORTED).split(0.8, 0.2)
    monkeypatch.setattr(labels, "_MOST_SAMPLES", 360)
    monkeypatch.setattr(labels, "_MOST_BYTES", 359 * 8)
    opened(SORTED).split(0.8, 0.2)


# --- weights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int", "one-hot", "text"])
def test_weights_are_those_of_scikit_learn(kind):
    weights = pytest.importorskip("sklearn.utils.class_weight")
    numbers = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [7, 20, 33]))
    label = {"int": numbers - 5, "one-hot": np.eye(3)[numbers], "text": np.array([b"c", b"d", b"e"])[numbers]}[kind]
    found = opened(label).class_weights("label")
    expected = weights.compute_class_weight("balanced", classes=np.arange(3), y=numbers)
    assert found == pytest.approx(dict(zip(np.arange(3) - 5 * (kind == "int"), expected, strict=True)))
    assert all(type(key) is int and type(value) is float for key, value in found.items())


@pytest.mark.parametrize(
    ("label", "absent"), [(np.eye(3)[SORTED], "2"), (np.array([b"c", b"d", b"e"])[np.append(SORTED, 2)], "'e'")]
)
def test_a_class_without_samples_gets_no_weight(label, absent):
    part = opened(label).select(np.arange(360))
    with pytest.warns(LabelWarning, match=rf"no sample of .* has the class {absent}; it gets no weight, and Keras takes 1"):
        assert part.class_weights("label") == {0: 0.6, 1: 3.0}
