"""What numcodecs encodes, as Zarr stores it, decodes to what numcodecs decodes."""

from __future__ import annotations

import gzip
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmapstore.codecs.chain import decoder_for
from mmapstore.codecs.codec import CorruptChunk
from mmapstore.plain.codecs import Codec

numcodecs = pytest.importorskip("numcodecs")

COMPRESSORS = {
    "zlib": lambda: numcodecs.Zlib(3),
    "gzip": lambda: numcodecs.GZip(3),
    "bzip2": lambda: numcodecs.BZ2(1),
    "zstd": lambda: numcodecs.Zstd(3),
    "blosc": lambda: numcodecs.Blosc("zstd", 3, numcodecs.Blosc.SHUFFLE),
    "numcodecs-lz4": lambda: numcodecs.LZ4(),
}


def of(encoded) -> np.ndarray:
    return np.frombuffer(np.ascontiguousarray(encoded).tobytes() if isinstance(encoded, np.ndarray) else bytes(encoded), np.uint8)


def decoded(chain, dtype, count: int, stored: np.ndarray) -> np.ndarray:
    dtype = np.dtype(dtype)
    decoder, why = decoder_for(tuple(chain), dtype, (count,))
    if decoder is None and "needs the package" in why:
        pytest.skip(why)
    assert why == "", why
    out = np.full(count * dtype.itemsize + 16, 0xA5, np.uint8)
    decoder.decode(stored, out[8:-8])
    assert set(out[:8].tolist() + out[-8:].tolist()) == {0xA5}, "it wrote past the buffer"
    return out[8:-8].copy().view(dtype)


@pytest.mark.parametrize("name", COMPRESSORS)
@given(values=st.lists(st.integers(0, 255), min_size=1, max_size=400), repeats=st.integers(1, 40))
def test_compressors(name, values, repeats):
    data = np.tile(np.array(values, np.uint8), repeats)
    stored = of(COMPRESSORS[name]().encode(data))
    np.testing.assert_array_equal(decoded([Codec(name)], "u1", len(data), stored), data)


@pytest.mark.parametrize("cname", ["lz4", "zstd", "zlib", "blosclz", "lz4hc"])
@pytest.mark.parametrize("shuffle", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["u1", "<f4", ">i8"])
def test_blosc(cname, shuffle, dtype):
    data = np.arange(70_001).astype(dtype)
    stored = of(numcodecs.Blosc(cname, 5, shuffle, blocksize=1 << 14).encode(data))
    np.testing.assert_array_equal(decoded([Codec("blosc")], dtype, len(data), stored), data)


@pytest.mark.parametrize("count", [1, 8, 1003, 70_000])
@pytest.mark.parametrize("itemsize", [1, 2, 4])
def test_shuffle(count, itemsize):
    data = np.random.default_rng(3).integers(0, 256, 4 * count, np.uint8).view("<f4")
    codec = Codec("numcodecs-shuffle", {"elementsize": itemsize})
    found = decoded([codec], "<f4", count, of(numcodecs.Shuffle(itemsize).encode(data)))
    assert found.tobytes() == data.tobytes()


@pytest.mark.parametrize(
    ("codec", "settings"),
    [
        (numcodecs.CRC32(), {}),
        (numcodecs.CRC32("end"), {"location": "end"}),
        (numcodecs.Adler32(), {"location": "start"}),
        (numcodecs.Adler32("end"), {"location": "end"}),
    ],
)
def test_checksums(codec, settings):
    data = np.arange(1000, dtype="<i4")
    chain = [Codec(codec.codec_id, settings)]
    stored = of(codec.encode(data))
    np.testing.assert_array_equal(decoded(chain, "<i4", 1000, stored), data)
    for at in (0, 3, 2000, -1):
        damaged = stored.copy()
        damaged[at] ^= 1
        with pytest.raises(CorruptChunk, match=f"its {codec.codec_id} checksum is 0x[0-9a-f]{{8}}, stored is 0x[0-9a-f]{{8}}"):
            decoded(chain, "<i4", 1000, damaged)


def test_crc32c_over_a_compressor():
    google = pytest.importorskip("google_crc32c")
    data = np.arange(1000, dtype="<i4")
    inner = bytes(numcodecs.Zstd(1).encode(data))
    stored = np.frombuffer(inner + google.value(inner).to_bytes(4, "little"), np.uint8)
    chain = [Codec("zstd"), Codec("crc32c")]
    np.testing.assert_array_equal(decoded(chain, "<i4", 1000, stored), data)
    damaged = stored.copy()
    damaged[20] ^= 4
    with pytest.raises(CorruptChunk, match="its crc32c checksum is"):
        decoded(chain, "<i4", 1000, damaged)


def test_chains_of_several_steps():
    data = (np.arange(5000) % 97).astype("<u4")
    steps = [
        (numcodecs.CRC32(), Codec("crc32")),
        (numcodecs.Shuffle(4), Codec("numcodecs-shuffle", {"elementsize": 4})),
        (numcodecs.Zstd(1), Codec("zstd")),
        (numcodecs.Adler32(), Codec("adler32")),
    ]
    stored = data
    for codec, _ in steps:
        stored = of(codec.encode(stored))
    np.testing.assert_array_equal(decoded([named for _, named in steps], "<u4", 5000, of(stored)), data)


def test_zstd_that_does_not_declare_its_size():
    data = (np.arange(5000) % 97).astype("<u4")
    # As a streaming writer leaves it: magic, no size, a window of 1 MiB, then one raw block that is the last.
    stream = b"\x28\xb5\x2f\xfd\x00\x50" + (1 | data.nbytes << 3).to_bytes(3, "little") + data.tobytes()
    np.testing.assert_array_equal(decoded([Codec("zstd")], "<u4", 5000, np.frombuffer(stream, np.uint8)), data)


def test_frames_and_members_one_behind_the_other():
    """Writers that append leave several; the format's own libraries join them."""
    data = (np.arange(5000) % 97).astype("<u4")
    first, second = data[:1234].tobytes(), data[1234:].tobytes()
    of_zstd = bytes(numcodecs.Zstd(1).encode(first)) + bytes(numcodecs.Zstd(1).encode(second))
    np.testing.assert_array_equal(decoded([Codec("zstd")], "<u4", 5000, np.frombuffer(of_zstd, np.uint8)), data)
    of_gzip = gzip.compress(first) + gzip.compress(second)
    np.testing.assert_array_equal(decoded([Codec("gzip")], "<u4", 5000, np.frombuffer(of_gzip, np.uint8)), data)


def test_slack_behind_a_stream():
    """The contract: bytes behind a codec that ends by itself are not looked at."""
    data = np.arange(500, dtype="<i4")
    for name, stream in (("zlib", zlib.compress(data.tobytes())), ("gzip", gzip.compress(data.tobytes()))):
        np.testing.assert_array_equal(decoded([Codec(name)], "<i4", 500, np.frombuffer(stream + bytes(100), np.uint8)), data)
    stored = of(numcodecs.Blosc().encode(data))
    np.testing.assert_array_equal(decoded([Codec("blosc")], "<i4", 500, np.append(stored, np.zeros(9, np.uint8))), data)
