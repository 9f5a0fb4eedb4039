"""Blosc frames decoded block by block, against the whole frame decoded by Blosc itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmapstore.codecs.blosc import Unblosc
from mmapstore.codecs.chain import decoder_for
from mmapstore.codecs.codec import CorruptChunk
from mmapstore.plain.codecs import Codec

numcodecs = pytest.importorskip("numcodecs")


def frame(data, **options):
    return np.frombuffer(numcodecs.Blosc(**options).encode(data), np.uint8)


def smooth(count, dtype, seed=0):
    values = np.cumsum(np.random.default_rng(seed).integers(0, 3, count))
    return (values % 200).astype(dtype)


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 60_000),
    dtype=st.sampled_from(["u1", "<i2", "<f4", "<f8", "V3"]),
    cname=st.sampled_from(["lz4", "zstd", "blosclz", "lz4hc", "zlib"]),
    shuffle=st.sampled_from([0, 1, 2]),
    clevel=st.sampled_from([0, 1, 5, 9]),
    blocksize=st.sampled_from([0, 512, 4096, 10_000, 65_536]),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_part_is_that_part_of_the_whole(count, dtype, cname, shuffle, clevel, blocksize, ends):
    data = smooth(count * 3, "u1").view("V3") if dtype == "V3" else smooth(count, dtype)
    start, stop = sorted(round(end * data.nbytes) for end in ends)
    out = np.full(stop - start, 77, np.uint8)
    stored = frame(data, cname=cname, shuffle=shuffle, clevel=clevel, blocksize=blocksize)
    if Unblosc().undo_part(stored, data.nbytes, start, stop, out):
        assert out.tobytes() == data.tobytes()[start:stop]
    else:
        assert (out == 77).all()


def test_a_fifth_of_a_chunk_is_decoded_by_itself():
    data = smooth(200_000, "<f4")
    stored = frame(data, cname="zstd", shuffle=1, clevel=5, blocksize=65_536)
    for start, stop in ((0, 160_000), (320_001, 480_000), (640_000, 800_000)):
        out = np.empty(stop - start, np.uint8)
        assert Unblosc().undo_part(stored, data.nbytes, start, stop, out)
        assert out.tobytes() == data.tobytes()[start:stop]


def test_most_of_a_chunk_is_not():
    data = smooth(200_000, "<f4")
    out = np.empty(700_000, np.uint8)
    assert not Unblosc().undo_part(frame(data, cname="lz4", blocksize=16_384), data.nbytes, 0, 700_000, out)


def test_blocks_that_threads_wrote_in_any_order():
    """The table may name blocks in another order than they lie."""
    data = smooth(64_000, "<f4")
    stored = frame(data, cname="lz4", shuffle=1, blocksize=16_384)
    begins = stored[16:32].view("<u4")
    blocks = [stored[begin:end] for begin, end in zip(begins, [*begins[1:], len(stored)], strict=True)]
    places = np.cumsum([32, len(blocks[3]), len(blocks[2]), len(blocks[1])])
    table = np.array([places[3], places[2], places[1], places[0]], "<u4").view(np.uint8)
    turned = np.concatenate([stored[:16], table, *reversed(blocks)])
    out = np.empty(90_000, np.uint8)
    assert Unblosc().undo_part(turned, data.nbytes, 70_000, 160_000, out)
    assert out.tobytes() == data.tobytes()[70_000:160_000]


@pytest.mark.parametrize("at", range(16, 32))
def test_a_table_that_lies_is_refused_or_decodes_within_the_frame(at):
    data = smooth(64_000, "<f4")
    stored = frame(data, cname="lz4", shuffle=1, blocksize=16_384).copy()
    stored[at] ^= 0xA5
    out = np.empty(60_000, np.uint8)
    for start in (0, 70_000, 196_000):
        try:
            Unblosc().undo_part(stored, data.nbytes, start, start + 60_000, out)
        except CorruptChunk as error:
            assert "blosc" in str(error)


def test_chunks_of_blosc_alone_are_decoded_in_parts():
    """Under a checksum of its own a chunk is decoded whole, and so is one whose codec was skipped."""
    data = smooth(100_000, "<f4")
    stored = np.frombuffer(bytes(frame(data, cname="lz4", shuffle=1, blocksize=8_192)), np.uint8)
    out = np.empty(40_000, np.uint8)
    decoder, _ = decoder_for((Codec("blosc"),), data.dtype, data.shape)
    assert decoder.decode_part(stored, 100_000, 140_000, out)
    assert out.tobytes() == data.tobytes()[100_000:140_000]
    assert not decoder.decode_part(stored, 100_000, 140_000, out, skipped=1)
    summed, _ = decoder_for((Codec("blosc"), Codec("crc32c")), data.dtype, data.shape)
    assert not summed.decode_part(stored, 100_000, 140_000, out)
