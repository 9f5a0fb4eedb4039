"""A batch contains what was asked for, in the structure asked for: nests of fields, windows of several horizons, weights, text."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmapstore as mm
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError, KeyNotFoundError
from mmapstore.plain.nests import leaves, map_leaves

SAMPLES = 60
NUMBERS = np.arange(SAMPLES)
IMAGES = np.random.default_rng(0).random((SAMPLES, 2, 3, 3), "f4")
TEXT = np.array([b"sample %d" % n for n in NUMBERS])
FIELDS = {"x": IMAGES, "t": TEXT, "label": NUMBERS % 3, "w": NUMBERS / 10, "time": NUMBERS.astype("f8")}


@pytest.fixture(scope="module")
def ds():
    return mm.open(FIELDS)


@pytest.fixture
def stored(tmp_path):
    """The same fields in several formats, mapped and compressed."""
    folder = tmp_path
    with h5py.File(folder / "fields.h5", "w") as file:
        for name, array in FIELDS.items():
            file.create_dataset(name, data=array, chunks=(7, *array.shape[1:]), compression="gzip")
    for name in ("label", "w"):
        np.save(folder / f"{name}.npy", FIELDS[name])
    sources = {name: f"{folder}/fields.h5::/{name}" for name in FIELDS}
    return mm.open({**sources, "label": folder / "label.npy", "w": folder / "w.npy"})


def same(found, expected):
    """Equal structures, dtypes and values."""
    assert map_leaves(lambda leaf: leaf.dtype, found) == map_leaves(lambda leaf: leaf.dtype, expected)
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


# --- structure -----------------------------------------------------------------------------------------------------------

FIELD = st.sampled_from(["x", "t", "label", "w", "time"])
NEST = st.recursive(
    FIELD,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=3).map(tuple),
        st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


@given(inputs=NEST, target=NEST, weighted=st.booleans(), shuffle=st.sampled_from([False, True, 16]), size=st.integers(1, 25))
@settings(max_examples=40, deadline=None)
def test_fields_come_in_the_structure_asked_for(ds, inputs, target, weighted, shuffle, size):
    b = ds.batches(size, target, inputs=(inputs, "time"), sample_weight="w" if weighted else None, shuffle=shuffle)
    seen = []
    for number, ((x, time), *rest) in enumerate(b):
        rows = time.astype(int)
        seen += rows.tolist()
        asked = (inputs, target, "w")[: 2 + weighted]
        expected = [map_leaves(lambda name, rows=rows: FIELDS[name][rows], nest) for nest in asked]
        same([x, *rest], expected)
        same(list(b.read(0, number, aligned=True)), [(x, time), *rest])
    assert sorted(seen) == NUMBERS.tolist() and (shuffle or seen == NUMBERS.tolist())


@pytest.mark.parametrize("shuffle", [False, 16])
def test_compressed_and_mapped_fields_make_the_same_nests(ds, stored, shuffle):
    asked = {"inputs": {"image": "x", "text": "t"}, "target": ["label", ("time", "t")], "sample_weight": "w", "shuffle": shuffle}
    expected, found = ds.batches(8, **asked), stored.batches(8, **asked)
    assert list(found[0][0]) == ["image", "text"] and isinstance(found[0][1], list) and isinstance(found[0][1][1], tuple)
    for one, other in zip(found, expected, strict=True):
        same(one, other)


# --- windows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, 16])
@pytest.mark.parametrize("history, rate, horizon", [(None, 1, None), (3, 1, None), (3, 2, 2), (1, 4, None)])
def test_windows_of_several_horizons_share_one_x(stored, shuffle, history, rate, horizon):
    leads = {"soon": 1, "later": 6, "label": -1}
    target = {name: mm.Window(history, horizon, lead=lead, sampling_rate=rate) for name, lead in leads.items()}
    target["label"] = "label"
    b = stored.batches(7, target, inputs="time", sample_weight=dict.fromkeys(target, "w"), shuffle=shuffle)
    last = (history or 1) * rate - rate
    anchors = SAMPLES - (last + 6 + (horizon or 1) * rate - rate)
    seen = 0
    for x, y, w in b:
        seen += len(x)
        begin = x if history is None else x[:, 0]
        np.testing.assert_array_equal(x, begin if history is None else begin[:, None] + rate * np.arange(history))
        for name, lead in (("soon", 1), ("later", 6)):
            expected = begin + last + lead
            np.testing.assert_array_equal(y[name], expected if horizon is None else expected[:, None] + rate * np.arange(horizon))
        at = (begin + last).astype(int)  # the last input frame
        np.testing.assert_array_equal(y["label"], FIELDS["label"][at])
        for weight in w.values():
            np.testing.assert_array_equal(weight, FIELDS["w"][at])
    assert seen == anchors


def test_a_list_of_windows_as_in_the_public_case():
    d = mm.open(np.arange(60.0)[:, None])
    x, y = next(iter(d.batches(4, target=[mm.Window(history=3, horizon=None, lead=k) for k in (1, 6, 24)])))
    assert x.shape == (4, 3, 1) and [one[0, 0] for one in y] == [3, 8, 26]


# --- weights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [np.nan, -0.5, np.inf])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("size", [1, 8])
def test_a_weight_that_is_none_is_named(tmp_path, wrong, shuffle, size):
    weights = FIELDS["w"].copy()
    weights[41] = wrong
    np.save(tmp_path / "w.npy", weights)
    part = mm.open({"x": IMAGES, "label": FIELDS["label"], "w": tmp_path / "w.npy"}).split(10, 50)[1]
    b = part.batches(size, "label", sample_weight="w", shuffle=shuffle)
    number = next(n for n in range(len(b)) if np.isin(41, 10 + b._reader._numbers(0, n)))
    said = rf"the field 'w' of .* is {wrong} at sample 41 of the store, in batch {number} of epoch 0; expected finite"
    with pytest.raises(InvalidValueError, match=said):
        b[number]
    with pytest.raises(InvalidValueError, match=said):
        list(b)
    with pytest.raises(InvalidValueError, match=said):
        b.grouped(lambda have, want: True).fetch(0, 0, len(b))


@pytest.mark.parametrize("weights", [np.ones(SAMPLES, "i2"), np.ones(SAMPLES, bool), np.ones((SAMPLES, 4), "f2")])
def test_weights_of_any_real_dtype_and_shape_come_as_they_are(weights):
    *_, w = mm.open({"x": IMAGES, "w": weights}).batches(4, "x", sample_weight="w")[2]
    np.testing.assert_array_equal(w, weights[8:12], strict=True)


# --- state ---------------------------------------------------------------------------------------------------------------


def test_a_position_belongs_to_what_batches_contain(ds):
    made = [
        ds.batches(4, **asked)
        for asked in (
            {"inputs": {"a": "x", "b": "time"}, "target": "label"},
            {"inputs": {"b": "x", "a": "time"}, "target": "label"},
            {"inputs": ("x", "time"), "target": "label"},
            {"inputs": ("x", "time"), "target": "label", "sample_weight": "w"},
        )
    ]
    for one in made:
        one.load_state_dict(one.state_dict())
        for other in made:
            if other is not one:
                with pytest.raises(mm.MmapstoreError, match="another order"):
                    other.load_state_dict(one.state_dict())
    reordered = ds.batches(4, inputs={"b": "time", "a": "x"}, target="label")
    reordered.load_state_dict(made[0].state_dict())


# --- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked, error, said",
    [
        (
            {"sample_weight": "w"},
            InvalidValueError,
            r"sample_weight='w' weighs the loss of a target, and there is none",
        ),
        (
            {"target": "label", "sample_weight": "t"},
            InvalidTypeError,
            r"names the field 't', which holds \|S9; expected real",
        ),
        (
            {"target": "label", "sample_weight": "v"},
            KeyNotFoundError,
            r"names the field 'v', which is not there; the fields",
        ),
        (
            {"target": {"a": "label", "b": "x"}, "sample_weight": {"a": "w"}},
            InvalidValueError,
            r"sample_weight=\{'a': 'w'\} has another structure than target=.*'b': 'x'\}. Expected the name of one field",
        ),
        ({"target": ["label", "x"], "sample_weight": {"a": "w", "b": "w"}}, InvalidValueError, r"has another structure than"),
        ({"target": "label", "sample_weight": ["w"]}, InvalidValueError, r"has another structure than"),
        ({"target": {"a": "label", "b": None}}, InvalidTypeError, r"target=None is not understood; expected NextFrame\(\), Window"),
        ({"target": {}}, InvalidValueError, r"target=\{\} names no field; expected some of x, t"),
        ({"target": {"a": ["label", []]}}, InvalidValueError, r"names no field"),
        ({"inputs": {1: "x"}}, InvalidTypeError, r"inputs has the key 1; expected text"),
        ({"target": np.zeros(3)}, InvalidTypeError, "target=ndarray is not understood; .* Add an array as a field: mmapstore.open"),
        ({"inputs": ["x", mm.NextFrame()]}, InvalidTypeError, r"inputs=Window\(.*\) is not understood; expected a field name"),
        ({"inputs": {"a": "x", "b": "nothing"}}, KeyNotFoundError, r"inputs names the field 'nothing', which is not there"),
        (
            {"target": [mm.Window(3), mm.Window(4)]},
            InvalidValueError,
            r"they differ in history 3 and 4. Expected one",
        ),
        (
            {"target": [mm.NextFrame(), mm.Window(4)]},
            InvalidValueError,
            r"history None and 4.*Window\(history=4, horizon",
        ),
        (
            {"target": [mm.Window(3, stride=2), mm.Window(3, end_index=9)]},
            InvalidValueError,
            r"stride 2 and 1; end_index None",
        ),
        ({"target": [mm.Window(3, sampling_rate=2), mm.Window(3)]}, InvalidValueError, r"differ in sampling_rate 2 and 1"),
        (
            {"inputs": "t", "dtype": {"t": "f4"}},
            InvalidTypeError,
            r"the field 't', which holds \|S9: text and numbers",
        ),
        ({"inputs": "x", "dtype": "S3"}, InvalidTypeError, r"dtype='S3' for the field 'x', which holds float32: text and numbers"),
    ],
)
def test_what_cannot_be_meant_is_said(ds, asked, error, said):
    with pytest.raises(error, match=said):
        ds.batches(4, **asked)


def test_one_dtype_for_all_inputs_leaves_text_alone(ds):
    x, y = ds.batches(4, "x", inputs={"image": "x", "text": "t"}, dtype="f2")[0]
    assert (x["image"].dtype, x["text"].dtype, y.dtype) == (np.float16, TEXT.dtype, np.float16)
