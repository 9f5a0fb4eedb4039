"""Classes read from fields of labels, against NumPy over the whole field."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import mmapstore as mm
from mmapstore.batches import labels
from mmapstore.batches.labels import counts_of, read_labels
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError, KeyNotFoundError, LabelWarning

TYPES = ["?", "i1", "u1", "<i2", ">i4", "u4", "i8", "u8", "S1", "S5"]


def opened(values):
    return mm.open({"x": np.zeros((len(values), 2), np.uint8), "label": values}, layout={"label": "N" + "CHW"[: values.ndim - 1]})


@given(st.sampled_from(TYPES).flatmap(lambda dtype: arrays.arrays(dtype, st.integers(1, 60))), st.sampled_from([1, 24, 10**6]))
def test_codes_are_those_of_unique(values, nbytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels, "_READ_BYTES", nbytes)
        found = read_labels(opened(values), "label", "stratify")
    unique, inverse = np.unique(values, return_inverse=True)
    assert found.codes.tolist() == inverse.tolist() and found.codes.dtype == np.min_scalar_type(len(unique) - 1)
    assert found.counts.tolist() == np.bincount(inverse).tolist()
    if values.dtype.kind == "S":
        assert found.names == tuple(value.decode("utf-8", "backslashreplace") for value in unique.tolist())
        assert found.indices == tuple(range(len(unique)))
    else:
        assert found.names == found.indices == tuple(int(value) for value in unique)


def test_many_classes_widen_the_codes(monkeypatch):
    monkeypatch.setattr(labels, "_READ_BYTES", 800)
    values = np.random.default_rng(0).permutation(np.repeat(np.arange(-700, 700) * 10**12, 2))
    found = read_labels(opened(values), "label", "stratify")
    assert found.codes.dtype == np.uint16 and (found.values[found.codes] == values).all()


@pytest.mark.parametrize("dtype", ["?", "u1", "f4"])
def test_one_hot_rows_and_columns_of_one(dtype):
    numbers = np.array([2, 0, 2, 3, 3, 3])
    found = read_labels(opened(np.eye(5, dtype=dtype)[numbers]), "label", "stratify")
    assert found.names == (0, 2, 3) and found.codes.tolist() == [1, 0, 1, 2, 2, 2]
    column = read_labels(opened(numbers[:, None]), "label", "stratify", class_names={"label": ["ant", "bee", "cat"]})
    assert column.names == ("ant", "cat", 3) and column.indices == (0, 2, 3) and column.codes.tolist() == found.codes.tolist()


def test_labels_of_a_part_are_those_of_its_samples():
    part = opened(np.array([5, 5, 1, 7, 1, 5])).split(3, 3)[1]
    found = read_labels(part, "label", "stratify")
    assert found.names == (1, 5, 7) and found.codes.tolist() == [2, 0, 1]
    assert part._labels("label", "balance") is part._labels("label", "stratify")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_whole_floats_are_integers_with_a_warning(dtype):
    with pytest.warns(LabelWarning, match=rf"the labels are {dtype} numbers that are all whole; .* integers -1, 2") as told:
        found = read_labels(opened(np.array([2, -1, 2], dtype)), "label", "stratify")
    assert len(told) == 1
    assert found.names == (-1, 2)


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        (np.array([1, 0.5, 2]), InvalidValueError, r"balance='label': sample 1 is 0.5, a float64 that is not whole; .*regression"),
        (np.array([1, np.nan]), InvalidValueError, r"sample 1 is nan, a float64 that is not whole"),
        (np.array([np.inf]), InvalidValueError, r"sample 0 is inf"),
        (np.array([1e300]), InvalidValueError, r"sample 0 is 1e\+300"),
        (np.array([1j]), InvalidTypeError, r"samples of \(\) complex128; expected one integer or text"),
        (np.zeros((2, 3, 4), int), InvalidTypeError, r"samples of \(3, 4\) int64; expected one integer or text"),
        (np.array([["a", "b"]], "S1"), InvalidTypeError, r"samples of \(2,\) \|S1"),
        (np.array([[1.0, 0], [0.25, 0.75]]), InvalidValueError, r"sample 1 is \[0.25 0.75\]; expected a single 1 and zeros"),
        (np.array([[1, 0], [1, 1]]), InvalidValueError, r"sample 1 is \[1 1\]; .*Soft or multiple labels"),
        (np.array([[1, 0], [0, 0]]), InvalidValueError, r"sample 1 is \[0 0\]"),
        (np.array([[1, 0], [0, 2]]), InvalidValueError, r"sample 1 is \[0 2\]"),
        (np.array([[0, np.nan]]), InvalidValueError, r"sample 0 is \[ 0. nan\]"),
    ],
)
def test_fields_without_classes(values, error, text):
    with pytest.raises(error, match=text):
        read_labels(opened(values), "label", "balance")


def test_other_arguments_that_cannot_be_meant():
    ds = opened(np.arange(10))
    with pytest.raises(KeyNotFoundError, match=r"groups names the field 'patient', .*; the fields are 'x', 'label'"):
        read_labels(ds, "patient", "groups")
    with pytest.raises(InvalidTypeError, match=r"stratify=ndarray is not understood; .* Add an array"):
        read_labels(ds, np.arange(10), "stratify")
    with pytest.raises(InvalidValueError, match=r"stratify='label': the field holds more than 9 different values"):
        read_labels(ds, "label", "stratify", most=9)


def test_counts_in_pieces(monkeypatch):
    monkeypatch.setattr(labels, "_READ_SAMPLES", 10)
    codes = np.random.default_rng(0).integers(0, 7, 95).astype(np.uint8)
    assert counts_of(codes, 8).tolist() == np.bincount(codes, minlength=8).tolist()
