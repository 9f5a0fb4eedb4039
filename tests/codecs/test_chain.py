"""Chains as a whole: what can be decoded, what cannot and why, in which memory, in how many threads, and by parts."""

from __future__ import annotations

import subprocess
import sys
import threading
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmapstore.codecs.chain import decoder_for
from mmapstore.codecs.checksums import fletcher32
from mmapstore.codecs.shuffle import unshuffle
from mmapstore.plain.codecs import Codec

SHUFFLE_ZLIB = (Codec("shuffle", {"itemsize": 4}), Codec("zlib"))


@given(itemsize=st.integers(1, 40), count=st.integers(0, 300), tail=st.integers(0, 39))
def test_unshuffle(itemsize, count, tail):
    data = np.random.default_rng(itemsize).integers(0, 256, itemsize * count + tail % itemsize, np.uint8)
    whole = itemsize * count
    stored = np.append(data[:whole].reshape(count, itemsize).T.reshape(-1), data[whole:])
    out = np.zeros(len(data), np.uint8)
    unshuffle(stored, itemsize, out)
    np.testing.assert_array_equal(out, data)


@pytest.mark.parametrize("itemsize", [2, 4, 8])
@pytest.mark.parametrize("count", [32_767, 32_768, 262_143, 262_144, 262_145, 600_001])
@pytest.mark.parametrize("shift", [0, 1])
def test_unshuffle_of_many_elements(itemsize, count, shift):
    data = np.random.default_rng(count).integers(0, 256, itemsize * count + 1, np.uint8)
    stored = np.append(data[:-1].reshape(count, itemsize).T.reshape(-1), data[-1])
    out = np.zeros(len(data) + shift, np.uint8)[shift:]
    unshuffle(stored, itemsize, out)
    np.testing.assert_array_equal(out, data)


def fletcher32_by_the_book(data: bytes) -> int:
    first = second = 0
    for at in range(0, len(data), 2):
        word = data[at] << 8 | (data[at + 1] if at + 1 < len(data) else 0)
        first += word
        second += first
    return (((second - 1) % 65535 + 1) if second else 0) << 16 | (((first - 1) % 65535 + 1) if first else 0)


@given(data=st.binary(max_size=400), repeats=st.integers(1, 40))
def test_fletcher32(data, repeats):
    pytest.importorskip("imagecodecs")
    data = data * repeats
    assert fletcher32()(np.frombuffer(data, np.uint8)) == fletcher32_by_the_book(data)


@pytest.mark.parametrize("data", [bytes(300_001), b"\xff" * 300_001, b"\xff" * 131_072 * 3, bytes(range(256)) * 1500 + b"x"])
def test_fletcher32_of_a_large_chunk(data):
    pytest.importorskip("imagecodecs")
    assert fletcher32()(np.frombuffer(data, np.uint8)) == fletcher32_by_the_book(data)


@pytest.mark.parametrize(
    ("chain", "why"),
    [
        (
            [Codec("szip", {"options": 141, "block": 8, "bits": 25, "scanline": 64})],
            "szip with elements of 25 bits, which the format has not",
        ),
        (
            [Codec("szip", {"options": 141, "block": 8, "bits": 16, "scanline": 50})],
            "szip in lines of 50 elements, no multiple of its blocks of 8: a decoder outside HDF5 does not tell there whether a "
            "stream stops short",
        ),
        ([Codec("szip")], "szip with blocks of 0 elements in lines of 0, which the format has not"),
        (
            [Codec("hdf5-bitshuffle", {"itemsize": 4, "block_size": 12})],
            "bitshuffle in blocks of 12 elements, which is no multiple of 8",
        ),
        ([Codec("hdf5-bitshuffle", {"itemsize": 8})], "bitshuffle of 12 bytes, which are no whole elements of 8"),
        ([Codec("pcodec")], "no decoder outside the format's own library for pcodec"),
        ([Codec("shuffle", {"itemsize": 0})], "a shuffle with itemsize=0, which is not a number of bytes"),
        ([Codec("shuffle")], "a shuffle with itemsize=None, which is not a number of bytes"),
        ([Codec("crc32", {"location": "middle"})], "crc32 with its checksum at 'middle', which is neither 'start' nor 'end'"),
        (
            [Codec("zlib"), Codec("bzip2", words="bzip2 9")],
            "bzip2 9 comes after a compressor, which leaves unknown how many bytes it was given",
        ),
    ],
)
def test_why_there_is_no_decoder(chain, why):
    # The last case is told by the codec that would have to be undone into an unknown number of bytes.
    found, said = decoder_for(tuple(chain), np.dtype("<f4"), (3,))
    assert found is None and said.startswith(why)


def test_objects_have_no_decoder():
    assert decoder_for((Codec("zlib"),), np.dtype(object), (3,)) == (None, "elements of object have no fixed size")


@pytest.mark.parametrize("name", ["blosc", "zstd", "numcodecs-lz4", "hdf5-lz4"])
def test_a_missing_package_is_named(name, monkeypatch):
    for package in ("numcodecs", "numcodecs.blosc", "numcodecs.zstd", "numcodecs.lz4"):
        monkeypatch.setitem(sys.modules, package, None)
    found, why = decoder_for((Codec(name),), np.dtype("u1"), (3,))
    assert found is None
    assert why == f"{name} needs the package numcodecs: pip install 'mmapstore[codecs]'"


@pytest.mark.parametrize(
    ("name", "settings", "called"),
    [
        ("szip", {"options": 141, "block": 8, "bits": 8, "scanline": 64}, "szip"),
        ("hdf5-bitshuffle", {"itemsize": 1, "compression": "lz4"}, "bitshuffle"),
    ],
)
def test_what_imagecodecs_alone_decodes(name, settings, called, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    found, why = decoder_for((Codec(name, settings),), np.dtype("u1"), (3,))
    assert (found, why) == (None, f"{called} needs the package imagecodecs: pip install 'mmapstore[codecs]'")


def test_importing_loads_no_library():
    libraries = {"numcodecs", "imagecodecs", "deflate", "google_crc32c"}
    code = f"import sys, mmapstore.codecs.chain; print(sorted({libraries} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_scratch_is_what_was_said():
    data = np.random.default_rng(0).integers(0, 5, (1 << 19,)).astype("<f4")
    shuffled = np.ascontiguousarray(data.view(np.uint8).reshape(-1, 4).T).tobytes()
    sum_of = zlib.adler32(zlib.compress(shuffled)).to_bytes(4, "little")
    stored = np.frombuffer(zlib.compress(shuffled) + sum_of, np.uint8)
    decoder, _ = decoder_for((*SHUFFLE_ZLIB, Codec("adler32", {"location": "end"})), data.dtype, data.shape)
    out = np.empty(data.nbytes, np.uint8)
    tracemalloc.start()
    try:
        for _ in range(3):
            decoder.decode(stored, out)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert data.nbytes <= most <= decoder.scratch_nbytes
    assert decoder.scratch_nbytes < 3.5 * data.nbytes
    assert out.tobytes() == data.tobytes()


def test_many_threads_at_once():
    datas = [np.random.default_rng(seed).integers(0, 50, 20_000).astype("<f4") for seed in range(6)]
    stored = [zlib.compress(np.ascontiguousarray(data.view(np.uint8).reshape(-1, 4).T).tobytes(), 1) for data in datas]
    decoder, _ = decoder_for(SHUFFLE_ZLIB, np.dtype("<f4"), (20_000,))
    wrong: list[int] = []

    def work(at: int) -> None:
        out = np.empty(80_000, np.uint8)
        for _ in range(20):
            decoder.decode(np.frombuffer(stored[at], np.uint8), out)
            if out.tobytes() != datas[at].tobytes():
                wrong.append(at)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_buffer_of_another_size_is_refused():
    decoder, _ = decoder_for(SHUFFLE_ZLIB, np.dtype("<f4"), (10,))
    with pytest.raises(ValueError, match="a buffer of 39 bytes for a chunk of 40"):
        decoder.decode(np.frombuffer(zlib.compress(bytes(40)), np.uint8), np.empty(39, np.uint8))
