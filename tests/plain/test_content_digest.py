"""The content digest against the ten lines of the README, for each kind of value, in each memory order, cut into any blocks."""

import hashlib
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmapstore.plain import digest_leaves
from mmapstore.plain.content_digest import LeafDigests, content_sha256, root
from mmapstore.plain.digest_leaves import Leaves
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
RECIPE: dict = {}
TEXT = re.search(r"```python\n(import hashlib.*?)```", README, re.DOTALL)[1]
exec(TEXT, RECIPE)


def expected(values: np.ndarray) -> str:
    return RECIPE["content_sha256"](values, digest_leaves.LEAF_NBYTES, digest_leaves.MOST_LEAVES)


@pytest.fixture
def small_leaves(monkeypatch):
    """Leaves of 64 bytes, merged where there are more than four."""
    monkeypatch.setattr(digest_leaves, "LEAF_NBYTES", 64)
    monkeypatch.setattr(digest_leaves, "MOST_LEAVES", 4)


def test_the_recipe_has_ten_lines_and_the_sizes_of_the_package():
    assert RECIPE["content_sha256"].__defaults__ == (digest_leaves.LEAF_NBYTES, digest_leaves.MOST_LEAVES)
    assert len([line for line in TEXT.splitlines() if line]) <= 10


@pytest.mark.parametrize("dtype", ["u1", ">i2", "<u4", ">f2", "<f4", ">f8", ">c8", "<c16", "S3", ">U2", "<U2", ">M8[s]", "V5"])
def test_same_for_either_byte_order_and_any_strides(dtype, small_leaves):
    raw = np.random.default_rng(1).integers(0, 90, (6, 5, 4), np.uint8)
    values = raw.astype(dtype) if np.dtype(dtype).kind not in "MV" else raw.astype("i8").astype(dtype) if "M" in dtype else None
    if values is None:
        values = np.frombuffer(raw.tobytes() * np.dtype(dtype).itemsize, dtype).reshape(raw.shape)
    native = values.astype(values.dtype.newbyteorder("="))
    assert content_sha256(values) == content_sha256(native) == expected(values)
    for view in (values.transpose(2, 0, 1), values[::-2], values[:, ::2, 1:3], np.asfortranarray(values), values[1]):
        assert content_sha256(view) == expected(view)


def test_dtype_and_shape_count():
    values = np.arange(12, dtype="u1")
    others = [values.reshape(3, 4), values.view("i1"), values.view("<u2"), values.reshape(12, 1)]
    assert len({content_sha256(each) for each in (values, *others)}) == 5


def test_every_byte_but_zero_is_true():
    stored = np.array([0, 1, 2, 255], np.uint8).view(bool)
    assert content_sha256(stored) == content_sha256(stored[::-1][::-1]) == expected(np.array([False, True, True, True]))


def test_more_values_than_one_buffer_holds():
    values = np.arange(200_003, dtype=">u4")
    assert content_sha256(values) == expected(values)
    flags = np.arange(200_003) % 3 == 0
    assert content_sha256(flags) == content_sha256(flags[::-1][::-1]) == expected(flags)


def test_scalars_and_nothing():
    for nothing in (np.zeros((0, 3), "f4"), np.zeros((4, 0), bool)):
        assert content_sha256(nothing) == expected(nothing)
    assert content_sha256(np.array(7, ">i4")) == expected(np.array(7, "<i4"))
    assert len(content_sha256(np.zeros(3, "S0"))) == 64


def test_read_only_arrays_are_hashed_where_they_lie():
    values = np.frombuffer(bytes(range(64)), "<u2")
    assert content_sha256(values) == expected(values)


@pytest.mark.parametrize("dtype", [object, [("a", "u1"), ("b", "<f8")]])
def test_what_has_no_bytes_of_its_own_is_refused(dtype):
    with pytest.raises(InvalidTypeError, match="has no content digest; expected fixed-size values of one kind"):
        content_sha256(np.zeros(3, dtype))


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9), max_size=40), st.data())
@settings(deadline=None, max_examples=60)
def test_text_is_the_same_whatever_its_room(texts, data):
    encoded = [text.encode() for text in texts]
    width = max(map(len, encoded), default=0) + data.draw(st.integers(1, 5))
    leaves = [b"".join(len(text).to_bytes(8, "little") + text for text in encoded[at : at + 8]) for at in range(0, len(texts), 8)]
    header = f"text {(len(texts),)}\n".encode()
    wanted = hashlib.sha256(header + b"".join(hashlib.sha256(leaf).digest() for leaf in leaves)).hexdigest()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digest_leaves, "LEAF_NBYTES", 64)
        assert content_sha256(np.array(encoded, f"S{width}"), is_text=True) == wanted
        assert content_sha256(np.array([*texts, None], object)[:-1], is_text=True) == wanted


ARRAYS = hnp.arrays(st.sampled_from(["?", ">i2", "<f4", ">f8", "u1", "S3"]), hnp.array_shapes(max_dims=4, max_side=6))


@settings(deadline=None, max_examples=100)
@given(ARRAYS, st.integers(8, 40), st.integers(1, 6), st.data())
def test_any_cut_into_blocks_by_any_workers_in_any_order(values, nbytes, most, data):
    """Blocks in order; and parts by workers of which each hashes the leaves that it has whole, the others read afterwards."""
    flat, digests = values.reshape(-1), LeafDigests(values.dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digest_leaves, "LEAF_NBYTES", nbytes)
        patch.setattr(digest_leaves, "MOST_LEAVES", most)
        wanted = expected(values)
        cut = data.draw(st.integers(0, len(values)))
        digests = LeafDigests(values.dtype)
        digests.update(values[:cut])
        digests.update(values[cut:])
        assert digests.root(values.shape) == wanted

        borders = sorted({0, flat.size, *data.draw(st.lists(st.integers(0, flat.size), max_size=5))})
        parts = list(itertools.pairwise(borders))
        merged = LeafDigests(values.dtype)
        runs = Leaves(flat.size, values.dtype.itemsize)
        missing = runs.outside(parts)
        for start, stop in data.draw(st.permutations([*parts, *parts])):
            worker = LeafDigests(values.dtype)
            middle = data.draw(st.integers(start, stop))
            worker.update(flat[start:middle], start)
            worker.update(flat[middle:stop], middle)
            worker.of(values.shape)
            merged.merge(worker)
        found = merged.of(values.shape)
        assert len(found) == len(runs)
        for leaf in (leaf for leaf, each in enumerate(found) if each is None):
            start, stop = runs.span(leaf)
            assert leaf in missing
            merged.update(flat[start:stop], start)
        assert merged.root(values.shape) == wanted == root(values.dtype, values.shape, merged.of(values.shape))


def test_two_readings_that_differ(small_leaves):
    one, other = LeafDigests("u1"), LeafDigests("u1")
    one.update(np.zeros(128, "u1"))
    other.update(np.arange(64, dtype="u1"), 64)
    with pytest.raises(InvalidValueError, match=r"Two readings of the values \[64, 128\) in C order differ. .* Read it again"):
        one.merge(other)


def test_known_leaves_are_not_hashed(small_leaves):
    """An array that grows goes on from its whole leaves: the values of the last, partial one are all that is needed again."""
    values = np.arange(300, dtype="u1")
    old = LeafDigests("u1")
    old.update(values[:200])
    grown = LeafDigests("u1", known=old.done)
    grown.update(values[192:], 192)
    assert sorted(old.done) == [0, 1, 2] and grown.root((300,)) == expected(values)


@given(st.integers(0, 400), st.sampled_from([1, 2, 3, 8, 100]), st.integers(1, 8), st.integers(0, 400), st.integers(0, 400))
def test_the_arithmetic_of_leaves(values, itemsize, most, start, length):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digest_leaves, "LEAF_NBYTES", 16)
        patch.setattr(digest_leaves, "MOST_LEAVES", most)
        leaves = Leaves(values, itemsize)
        spans = [set(range(*leaves.span(leaf))) for leaf in range(len(leaves))]
        assert len(leaves) <= most and sum(map(len, spans)) == values and set().union(*spans) == set(range(values))
        stop = min(start + length, values)
        inside = set(range(start, stop))
        assert [leaf for leaf, span in enumerate(spans) if span <= inside] == list(leaves.inside(start, stop))
        for leaf, span in enumerate(spans):
            rows = {value // 7 for value in span}
            assert leaves.rows(leaf, 7) == (min(rows), max(rows) + 1)
