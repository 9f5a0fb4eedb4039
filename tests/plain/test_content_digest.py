"""The content digest against hashlib over bytes made by hand, for every kind of value and every way to store it."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmapstore.plain.content_digest import ContentDigest, content_sha256
from mmapstore.plain.errors import InvalidTypeError


def expected(values: np.ndarray) -> str:
    return hashlib.sha256(values.astype(values.dtype.newbyteorder("<")).tobytes(order="C")).hexdigest()


@pytest.mark.parametrize("dtype", ["u1", ">i2", "<u4", ">f2", "<f4", ">f8", ">c8", "<c16", "S3", ">U2", "<U2", ">M8[s]", "V5"])
def test_same_for_either_byte_order_and_any_strides(dtype):
    raw = np.random.default_rng(1).integers(0, 90, (6, 5, 4), np.uint8)
    values = raw.astype(dtype) if np.dtype(dtype).kind not in "MV" else raw.astype("i8").astype(dtype) if "M" in dtype else None
    if values is None:
        values = np.frombuffer(raw.tobytes() * np.dtype(dtype).itemsize, dtype).reshape(raw.shape)
    native = values.astype(values.dtype.newbyteorder("="))
    assert content_sha256(values) == content_sha256(native) == expected(values)
    for view in (values.transpose(2, 0, 1), values[::-2], values[:, ::2, 1:3], np.asfortranarray(values), values[1]):
        assert content_sha256(view) == expected(view)


def test_blocks_count_as_one_array():
    values = np.random.default_rng(2).standard_normal((300, 7, 50)).astype(">f4")
    digest = ContentDigest()
    for start in range(0, 300, 37):
        digest.update(values[start : start + 37])
    assert digest.hexdigest() == content_sha256(values) == expected(values)


def test_every_byte_but_zero_is_true():
    stored = np.array([0, 1, 2, 255], np.uint8)
    assert content_sha256(stored.view(bool)) == hashlib.sha256(b"\0\1\1\1").hexdigest()
    assert content_sha256(stored.view(bool)[::-1]) == hashlib.sha256(b"\1\1\1\0").hexdigest()


def test_more_values_than_one_buffer_holds():
    values = np.arange(200_003, dtype=">u4")
    assert content_sha256(values) == expected(values)
    flags = np.arange(200_003) % 3 == 0
    assert content_sha256(flags) == hashlib.sha256(flags.tobytes()).hexdigest()


def test_scalars_and_nothing():
    nothing = hashlib.sha256().hexdigest()
    assert content_sha256(np.zeros((0, 3), "f4")) == content_sha256(np.zeros((4, 0), bool)) == nothing
    assert content_sha256(np.array(7, ">i4")) == hashlib.sha256(b"\7\0\0\0").hexdigest()


def test_read_only_arrays_are_hashed_where_they_lie():
    values = np.frombuffer(bytes(range(64)), "<u2")
    assert content_sha256(values) == hashlib.sha256(bytes(range(64))).hexdigest()


@pytest.mark.parametrize("dtype", [object, [("a", "u1"), ("b", "<f8")]])
def test_what_has_no_bytes_of_its_own_is_refused(dtype):
    with pytest.raises(InvalidTypeError, match="has no content digest; expected fixed-size values of one kind"):
        content_sha256(np.zeros(3, dtype))


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(st.sampled_from(["?", ">i2", "<f4", ">f8", "u1"]), hnp.array_shapes(max_dims=4, max_side=6)), st.data())
def test_any_cut_along_the_first_axis(values, data):
    cut = data.draw(st.integers(0, len(values)))
    digest = ContentDigest()
    digest.update(values[:cut])
    digest.update(values[cut:])
    assert digest.hexdigest() == expected(values)
