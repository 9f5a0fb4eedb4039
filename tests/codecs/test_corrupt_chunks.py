"""Whatever the stored bytes are: the right bytes, or CorruptChunk; never another exception, a crash, or memory past the cap."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmapstore.codecs.chain import decoder_for
from mmapstore.codecs.codec import CorruptChunk
from mmapstore.plain.codecs import Codec

COUNT = 700
RAW_LZMA = {"format": lzma.FORMAT_RAW, "filters": [{"id": lzma.FILTER_LZMA2, "preset": 1}]}
DATA = (np.arange(COUNT) % 50 * 3).astype("<i4")
SHUFFLED = np.ascontiguousarray(DATA.view(np.uint8).reshape(-1, 4).T).tobytes()


def encoders() -> dict[str, tuple[tuple[Codec, ...], bytes]]:
    found = {
        "zlib": ((Codec("zlib"),), zlib.compress(DATA.tobytes())),
        "gzip": ((Codec("gzip"),), gzip.compress(DATA.tobytes())),
        "lzma": ((Codec("lzma"),), lzma.compress(DATA.tobytes())),
        "lzma, raw": ((Codec("lzma", RAW_LZMA),), lzma.compress(DATA.tobytes(), **RAW_LZMA)),
        "bzip2": ((Codec("bzip2"),), bz2.compress(DATA.tobytes())),
        "shuffle and zlib": ((Codec("shuffle", {"itemsize": 4}), Codec("zlib")), zlib.compress(SHUFFLED)),
        "nothing": ((), DATA.tobytes()),
    }
    try:
        import numcodecs
    except ImportError:
        return found
    lz4 = bytes(numcodecs.LZ4().encode(DATA))
    found["zstd"] = (Codec("zstd"),), bytes(numcodecs.Zstd(3, checksum=True).encode(DATA))
    for name in ("lz4", "zstd", "blosclz", "zlib"):
        found[f"blosc {name}"] = (Codec("blosc"),), bytes(numcodecs.Blosc(name).encode(DATA))
    found["lz4"] = (Codec("numcodecs-lz4"),), lz4
    header = DATA.nbytes.to_bytes(8, "big") + DATA.nbytes.to_bytes(4, "big")
    found["hdf5-lz4"] = (Codec("hdf5-lz4"),), header + (len(lz4) - 4).to_bytes(4, "big") + lz4[4:]
    found["shuffle, zstd, crc32"] = (
        (Codec("numcodecs-shuffle", {"elementsize": 4}), Codec("zstd"), Codec("crc32")),
        bytes(numcodecs.CRC32().encode(numcodecs.Zstd().encode(numcodecs.Shuffle(4).encode(DATA)))),
    )
    try:
        import imagecodecs
    except ImportError:
        return found
    found["lzf"] = (Codec("lzf"),), imagecodecs.lzf_encode(DATA.tobytes())
    return found | filtered_by_hdf5()


def filtered_by_hdf5() -> dict[str, tuple[tuple[Codec, ...], bytes]]:
    try:
        import h5py
        import hdf5plugin
    except ImportError:
        return {}

    def chunk(shape: tuple[int, ...], **options) -> bytes:
        with h5py.File(io.BytesIO(), "w") as file:
            dataset = file.create_dataset("x", data=DATA.reshape(shape), chunks=shape, **options)
            return dataset.id.read_direct_chunk((0,) * len(shape))[1]

    bits = {"itemsize": 4, "block_size": 64}
    found = {}
    for name in ("none", "lz4", "zstd"):
        codec = Codec("hdf5-bitshuffle", bits | {"compression": name})
        found[f"bitshuffle {name}"] = (codec,), chunk((COUNT,), **hdf5plugin.Bitshuffle(nelems=64, cname=name))
    if h5py.h5z.get_filter_info(h5py.h5z.FILTER_SZIP) & h5py.h5z.FILTER_CONFIG_ENCODE_ENABLED:
        options = {"options": 169, "block": 4, "bits": 32, "scanline": 100}
        found["szip"] = (Codec("szip", options),), chunk((7, 100), compression="szip", compression_opts=("nn", 4))
    return found


ENCODED = encoders()


def attempt(chain, stored: bytes, count: int = COUNT) -> bytes | None:
    """The decoded bytes; None for CorruptChunk. Anything else fails, and so does a byte outside the buffer."""
    decoder, why = decoder_for(chain, np.dtype("<i4"), (count,))
    assert decoder is not None, why
    out = np.full(4 * count + 32, 0xA5, np.uint8)
    try:
        decoder.decode(np.frombuffer(stored, np.uint8), out[16:-16])
    except CorruptChunk as error:
        assert str(error)
        found = None
    else:
        found = out[16:-16].tobytes()
    assert set(out[:16].tolist() + out[-16:].tolist()) == {0xA5}, "it wrote past the buffer"
    return found


@pytest.mark.parametrize("name", ENCODED)
def test_what_was_written(name):
    assert attempt(*ENCODED[name]) == DATA.tobytes()


@pytest.mark.parametrize("name", ENCODED)
def test_every_truncation(name):
    chain, stored = ENCODED[name]
    for length in [*range(0, min(len(stored), 64)), *range(64, len(stored), 13), len(stored) - 1]:
        assert attempt(chain, stored[:length]) in (None, DATA.tobytes()), length
    assert attempt(chain, stored[: len(stored) // 2]) is None


@pytest.mark.parametrize("name", ENCODED)
@pytest.mark.parametrize("count", [1, COUNT - 1, COUNT + 1, 8 * COUNT])
def test_another_size_than_expected(name, count):
    assert attempt(*ENCODED[name], count=count) is None


@pytest.mark.parametrize("name", ENCODED)
@given(data=st.data())
def test_flipped_bits(name, data):
    chain, stored = ENCODED[name]
    damaged = bytearray(stored)
    for at in data.draw(st.lists(st.integers(0, len(stored) - 1), min_size=1, max_size=4)):
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    attempt(chain, bytes(damaged))


@pytest.mark.parametrize("name", [name for name in ENCODED if name in ("zlib", "gzip", "bzip2", "zstd")])
def test_flipped_bits_under_the_checksum_of_a_stream(name):
    chain, stored = ENCODED[name]
    start = 12 if name == "gzip" else 4  # the time and the operating system in gzip's head are under no checksum
    for at in range(start, len(stored), 7):
        damaged = bytearray(stored)
        damaged[at] ^= 0x20
        assert attempt(chain, bytes(damaged)) in (None, DATA.tobytes()), at


@pytest.mark.parametrize("name", ENCODED)
@given(noise=st.binary(max_size=300))
def test_noise(name, noise):
    attempt(ENCODED[name][0], noise)


@pytest.mark.parametrize("name", ENCODED)
@given(noise=st.binary(max_size=100))
def test_noise_behind_a_right_start(name, noise):
    chain, stored = ENCODED[name]
    attempt(chain, stored[: 4 + len(noise) % 20] + noise)


BOMB = bytes(64 << 20)
ZSTD = b"\x28\xb5\x2f\xfd"


@pytest.mark.parametrize(
    ("name", "bomb"),
    [
        ("zlib", zlib.compress(BOMB)),
        ("gzip", gzip.compress(BOMB)),
        ("gzip", b"".join([gzip.compress(bytes(1 << 16))] * 1000)),
        ("bzip2", bz2.compress(BOMB)),
        ("shuffle and zlib", zlib.compress(BOMB)),
    ],
)
def test_a_bomb_is_not_unpacked(name, bomb):
    chain, _ = ENCODED[name]
    tracemalloc.start()
    try:
        assert attempt(chain, bomb) is None
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 << 20, f"{most} bytes for a chunk of {DATA.nbytes}"


@pytest.mark.parametrize(
    ("name", "stored", "says"),
    [
        (
            "zstd",
            ZSTD + b"\xe0" + (8 * 10**12).to_bytes(8, "little") + bytes(9),
            "it decodes to 8000000000000 bytes, expected 2800",
        ),
        ("blosc zstd", bytes([2, 1, 0, 4]) + b"\xff\xff\xff\x7f" * 3, "it decodes to 2147483647 bytes, expected 2800"),
        (
            "blosc zstd",
            bytes([2, 1, 0, 4]) + (2800).to_bytes(4, "little") * 2 + (9000).to_bytes(4, "little"),
            "its blosc frame claims 9000 bytes, stored are 16",
        ),
        ("lz4", b"\xff\xff\xff\x7f" + bytes(9), "it decodes to 2147483647 bytes, expected 2800"),
        ("hdf5-lz4", (8 * 10**12).to_bytes(8, "big") + bytes(9), "it decodes to 8000000000000 bytes, expected 2800"),
        ("hdf5-lz4", (2800).to_bytes(8, "big") + bytes(9), "its lz4 header says that blocks have 0 bytes"),
        ("zlib", zlib.compress(b"abc"), "it decodes to 3 bytes, expected 2800"),
        ("zlib", zlib.compress(bytes(2801)), "it decodes to more than 2800 bytes, expected exactly 2800"),
        ("zlib", zlib.compress(bytes(2800))[:-1], "its zlib stream stops short, after 2800 decoded bytes; expected 2800"),
        ("zlib", b"abc", "its 3 stored bytes are not a zlib stream that can be decoded"),
        ("bzip2", bz2.compress(bytes(2801)), "it decodes to more than 2800 bytes, expected exactly 2800"),
        ("nothing", b"abc", "it has 3 stored bytes, expected 2800"),
        ("bitshuffle none", b"abc", "it has 3 stored bytes, expected 2800"),
        ("bitshuffle lz4", b"abc", "it has 3 bytes, fewer than the 12 of a bitshuffle header"),
        ("bitshuffle lz4", (8 * 10**12).to_bytes(8, "big") + bytes(9), "it decodes to 8000000000000 bytes, expected 2800"),
        (
            "bitshuffle lz4",
            (2800).to_bytes(8, "big") + (36).to_bytes(4, "big"),
            "its bitshuffle header says that blocks have 36 bytes, expected a multiple of 32",
        ),
        (
            "bitshuffle zstd",
            (2800).to_bytes(8, "big") + (256).to_bytes(4, "big") + (9000).to_bytes(4, "big") + b"abc",
            "its block at byte 16 claims 9000 bytes, 3 follow",
        ),
        ("szip", b"\xff\xff\xff\x7f" + bytes(9), "it decodes to 2147483647 bytes, expected 2800"),
        ("szip", b"ab", "it has 2 bytes, fewer than the 4 of an szip header"),
    ],
)
def test_the_message_has_the_numbers(name, stored, says):
    if name not in ENCODED:
        pytest.skip("the package that encodes it is not installed")
    decoder, _ = decoder_for(ENCODED[name][0], np.dtype("<i4"), (COUNT,))
    with pytest.raises(CorruptChunk) as raised:
        decoder.decode(np.frombuffer(stored, np.uint8), np.empty(DATA.nbytes, np.uint8))
    assert says in str(raised.value)


@given(data=st.data(), damaged=st.booleans(), itemsize=st.sampled_from([1, 2, 3, 4, 8]), chunks=st.integers(1, 5))
@pytest.mark.parametrize("others", [["zlib"], ["zlib", "fletcher32"], ["lzf"], ["fletcher32"]])
def test_shuffled_chunks_that_one_call_decodes_are_those_that_each_would_be(others, data, damaged, itemsize, chunks):
    h5py = pytest.importorskip("h5py")
    elements = data.draw(st.sampled_from([1, 7, 700, 9000]))
    values = np.random.default_rng(elements).integers(0, 3, (chunks, elements, itemsize), np.uint8)
    options = {"zlib": {"compression": "gzip"}, "lzf": {"compression": "lzf"}, "fletcher32": {"fletcher32": True}}
    with h5py.File(io.BytesIO(), "w") as file:
        given = {key: value for name in others for key, value in options[name].items()}
        rows = values.reshape(chunks, -1).view(f"V{itemsize}")
        dataset = file.create_dataset("x", data=rows, chunks=(1, elements), shuffle=True, **given)
        encoded = [dataset.id.read_direct_chunk((number, 0)) for number in range(chunks)]
    if any(mask for mask, _ in encoded):
        return  # HDF5 leaves out what makes a chunk no smaller
    stored = [np.frombuffer(found, np.uint8).copy() for _, found in encoded]
    if damaged:
        one = data.draw(st.sampled_from(stored))
        one[data.draw(st.integers(0, len(one) - 1))] ^= 0x55
    chain = (Codec("shuffle", {"itemsize": itemsize}), *map(Codec, others))
    decoder, _ = decoder_for(chain, np.dtype(f"V{itemsize}"), (elements,))
    assert decoder is not None and decoder.joins
    gap = np.zeros(data.draw(st.integers(0, 9)), np.uint8)
    ends = list(itertools.accumulate((len(one) + len(gap) for one in stored), initial=0))
    pieces = [(begin, begin + len(one)) for begin, one in zip(ends, stored, strict=False)]
    out = np.empty((chunks, elements * itemsize), np.uint8)
    joined = decoder.decode_joined(np.concatenate([part for one in stored for part in (one, gap)]), pieces, out.reshape(-1))
    if not damaged:
        assert joined
    if joined:
        alone = np.empty_like(out)
        for one, row in zip(stored, alone, strict=True):
            decoder.decode(one, row)
        np.testing.assert_array_equal(out, alone)
        assert damaged or np.array_equal(out, values.reshape(chunks, -1))
    else:
        with pytest.raises(CorruptChunk):
            for one, row in zip(stored, out, strict=True):
                decoder.decode(one, row)


FORMS = ["whole", "halves", "more", "skipped", "too long", "nothing", "cut"]


@given(data=st.data(), forms=st.lists(st.sampled_from(["whole"] * len(FORMS) + FORMS), min_size=1, max_size=5))
def test_chunks_that_one_call_decodes_are_those_that_each_would_be(data, forms):
    """Frames behind one another are one stream of zstd, which takes no notice of where a chunk ends."""
    encode = pytest.importorskip("numcodecs").Zstd(1, checksum=data.draw(st.booleans())).encode
    decoder, _ = decoder_for((Codec("zstd"),), DATA.dtype, DATA.shape)
    assert decoder is not None and decoder.joins
    stored = []
    for number, form in enumerate(forms):
        values = np.random.default_rng(number).integers(0, data.draw(st.sampled_from([2, 256])), DATA.nbytes, np.uint8).tobytes()
        encoded = {
            "halves": encode(values[:1000]) + encode(values[1000:]),
            "more": encode(values) + encode(b""),
            "skipped": encode(values) + b"\x50\x2a\x4d\x18\x01\x00\x00\x00!",  # a frame that decoders take no notice of
            "too long": encode(values + values),
            "nothing": encode(b""),
        }.get(form, encode(values))
        stored.append(np.frombuffer(encoded, np.uint8)[: data.draw(st.integers(0, len(encoded))) if form == "cut" else None])
    pieces = list(itertools.pairwise(itertools.accumulate(map(len, stored), initial=0)))
    out, alone = np.empty((len(stored), DATA.nbytes), np.uint8), np.empty(DATA.nbytes, np.uint8)
    if decoder.decode_joined(np.concatenate(stored), pieces, out.reshape(-1)):
        for one, found in zip(stored, out, strict=True):
            decoder.decode(one, alone)
            np.testing.assert_array_equal(found, alone)
    else:
        assert set(forms) != {"whole"}
