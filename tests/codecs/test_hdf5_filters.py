"""Chunks that HDF5 itself wrote decode to the bytes that HDF5 itself reads."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from mmapstore.codecs.chain import decoder_for
from mmapstore.codecs.contract import CorruptChunk
from mmapstore.plain.codecs import Codec

h5py = pytest.importorskip("h5py")

SHAPE = (5, 3, 7)
DTYPES = ["<f4", ">f4", "<f8", "u1", "<i2", ">u2", "<u8", "<c8", "S3", "?"]


def values(dtype: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    count = int(np.prod(shape))
    rng = np.random.default_rng(7)
    base = np.cumsum(rng.integers(-3, 4, count)) + 40
    if dtype == "S3":
        return np.array([f"{value:03d}"[-3:] for value in base.tolist()], "S3").reshape(shape)
    return base.astype(dtype).reshape(shape)


def stored_by_hdf5(path, data: np.ndarray, **options):
    """(stored bytes of the one chunk, filter mask)."""
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("x", data=data, chunks=data.shape, **options)
        mask, raw = dataset.id.read_direct_chunk((0,) * data.ndim)
        np.testing.assert_array_equal(dataset[...], data)
    return np.frombuffer(raw, np.uint8), mask


def decoded(chain, data: np.ndarray, stored: np.ndarray, mask: int = 0) -> np.ndarray:
    decoder, why = decoder_for(tuple(chain), data.dtype, data.shape)
    if decoder is None and "needs the package" in why:
        pytest.skip(why)
    assert why == "", why
    out = np.full(data.nbytes + 16, 0xA5, np.uint8)
    decoder.decode(stored, out[8:-8], mask)
    assert set(out[:8].tolist() + out[-8:].tolist()) == {0xA5}, "it wrote past the buffer"
    return out[8:-8].copy().view(data.dtype).reshape(data.shape)


def chain_of(data: np.ndarray, *names: str) -> list[Codec]:
    with_size = {"shuffle": {"itemsize": data.dtype.itemsize}, "lzf": {"size": data.nbytes}}
    return [Codec(name, with_size.get(name, {})) for name in names]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("fletcher", [False, True])
@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_built_in_filters(tmp_path, dtype, shuffle, fletcher, compression):
    data = values(dtype)
    options = {"compression": compression, "shuffle": shuffle, "fletcher32": fletcher}
    stored, mask = stored_by_hdf5(tmp_path / "x.h5", data, **options)
    names = ["shuffle"] * shuffle + {"gzip": ["zlib"], "lzf": ["lzf"], None: []}[compression] + ["fletcher32"] * fletcher
    np.testing.assert_array_equal(decoded(chain_of(data, *names), data, stored, mask), data)


@pytest.mark.parametrize("dtype", ["<f4", "<u2", "<f8", "u1"])
def test_shuffle_of_a_large_chunk(tmp_path, dtype):
    """Large enough for the way that works in blocks, and no multiple of them."""
    data = values(dtype, (3, 101, 999))
    stored, mask = stored_by_hdf5(tmp_path / "x.h5", data, compression="gzip", compression_opts=1, shuffle=True)
    np.testing.assert_array_equal(decoded(chain_of(data, "shuffle", "zlib"), data, stored, mask), data)


@pytest.mark.parametrize("dtype", ["<f4", ">u2", "<f8", "u1"])
@pytest.mark.parametrize(
    ("plugin", "options", "name"),
    [
        ("Blosc", {"cname": "zstd", "shuffle": 1}, "blosc"),
        ("Blosc", {"cname": "lz4", "shuffle": 2}, "blosc"),
        ("Blosc", {"cname": "blosclz", "shuffle": 0}, "blosc"),
        ("Blosc", {"cname": "zlib", "clevel": 9}, "blosc"),
        ("LZ4", {}, "hdf5-lz4"),
        ("LZ4", {"nbytes": 1024}, "hdf5-lz4"),
        ("Zstd", {}, "zstd"),
        ("BZip2", {}, "bzip2"),
    ],
)
def test_plugin_filters(tmp_path, dtype, plugin, options, name):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    for shape in ((4, 31, 33), (2, 3)):
        data = values(dtype, shape)
        stored, mask = stored_by_hdf5(tmp_path / "x.h5", data, **getattr(hdf5plugin, plugin)(**options))
        np.testing.assert_array_equal(decoded(chain_of(data, name), data, stored, mask), data)


def test_noise_that_does_not_shrink(tmp_path):
    """Filters leave such chunks as they are, and say so in the mask or in the block."""
    data = np.random.default_rng(1).integers(0, 256, (9, 1111), np.uint8)
    stored, mask = stored_by_hdf5(tmp_path / "a.h5", data, compression="lzf")
    assert mask == 1
    decoder, why = decoder_for((Codec("lzf", {"size": data.nbytes}),), data.dtype, data.shape)
    if decoder is not None:
        np.testing.assert_array_equal(decoded(chain_of(data, "lzf"), data, stored, mask), data)
    else:
        assert why == "lzf needs the package imagecodecs: pip install 'mmapstore[codecs]'"
    hdf5plugin = pytest.importorskip("hdf5plugin")
    stored, mask = stored_by_hdf5(tmp_path / "b.h5", data, **hdf5plugin.LZ4())
    np.testing.assert_array_equal(decoded(chain_of(data, "hdf5-lz4"), data, stored, mask), data)


def test_skipped_filters(tmp_path):
    """Any part of a chain may have been skipped for a chunk: HDF5 reads what was written with such a mask, and so do we."""
    data = values("<f4")
    names = ("shuffle", "zlib", "fletcher32")
    of_zlib, _ = stored_by_hdf5(tmp_path / "x.h5", data, compression="gzip", fletcher32=True)
    options = {"compression": "gzip", "shuffle": True, "fletcher32": True}
    for mask, stored in ((0b111, data.reshape(-1).view(np.uint8)), (0b001, of_zlib), (0b101, of_zlib[:-4])):
        path = tmp_path / f"{mask}.h5"
        with h5py.File(path, "w") as file:
            dataset = file.create_dataset("x", data.shape, data.dtype, chunks=data.shape, **options)
            dataset.id.write_direct_chunk((0, 0, 0), stored.tobytes(), mask)
        with h5py.File(path) as file:  # HDF5 remembers the mask of a single chunk from before, until it is opened anew
            np.testing.assert_array_equal(file["x"][...], data)
        np.testing.assert_array_equal(decoded(chain_of(data, *names), data, stored, mask), data)


def test_fletcher32_in_the_old_byte_order(tmp_path):
    data = values("<f4")
    stored, _ = stored_by_hdf5(tmp_path / "x.h5", data, fletcher32=True)
    old = stored.copy()
    old[-4:] = stored[[-3, -4, -1, -2]]
    assert (old != stored).any()
    np.testing.assert_array_equal(decoded(chain_of(data, "fletcher32"), data, old), data)


@pytest.mark.parametrize("at", [0, 5, 200, -1])
def test_a_flipped_bit_under_fletcher32(tmp_path, at):
    data = values("<f4")
    stored, _ = stored_by_hdf5(tmp_path / "x.h5", data, fletcher32=True)
    damaged = stored.copy()
    damaged[at] ^= 0x10
    with pytest.raises(CorruptChunk, match=r"its fletcher32 checksum is 0x[0-9a-f]{8}, stored is 0x[0-9a-f]{8}"):
        decoded(chain_of(data, "fletcher32"), data, damaged)


def test_a_decoder_pickles(tmp_path):
    data = values("<f4")
    stored, _ = stored_by_hdf5(tmp_path / "x.h5", data, compression="gzip", shuffle=True)
    decoder, _ = decoder_for(tuple(chain_of(data, "shuffle", "zlib")), data.dtype, data.shape)
    out = np.empty(data.nbytes, np.uint8)
    pickle.loads(pickle.dumps(decoder)).decode(stored, out)
    assert out.tobytes() == data.tobytes()
