"""Chunks that HDF5 itself wrote decode to the bytes that HDF5 itself reads."""

from __future__ import annotations

import pickle
import threading
import tracemalloc

import numpy as np
import pytest

from mmapstore.codecs.chain import decoder_for
from mmapstore.codecs.codec import CorruptChunk
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


def stored_by_hdf5(path, data: np.ndarray, keep: bool = False, **options):
    """(stored bytes of the one chunk, filter mask). In memory unless told to `keep` it: 4,000 files take longer than decoding."""
    with h5py.File(path, "w", driver="core", backing_store=keep) as file:
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
    with_size = {"shuffle": {"itemsize": data.dtype.itemsize}}
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


SHAPES = [(300,), (3,), (8,), (5, 3, 7), (4, 31, 33), (65, 64), (1, 2048), (2, 3, 2, 3, 4)]


def sorted_bits(data: np.ndarray, elements: int, compression: str) -> Codec:
    return Codec("hdf5-bitshuffle", {"itemsize": data.dtype.itemsize, "block_size": elements, "compression": compression})


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_bitshuffle(tmp_path, shape, compression):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    for dtype in DTYPES:
        for elements in (0, 8, 64):
            data = values(dtype, shape)
            options = hdf5plugin.Bitshuffle(nelems=elements, cname=compression)
            stored, mask = stored_by_hdf5(tmp_path / "x.h5", data, **options)
            chain = [sorted_bits(data, elements, compression)]
            np.testing.assert_array_equal(decoded(chain, data, stored, mask), data)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("elements", [0, 8, 16384, 131072, 2**21])
@pytest.mark.parametrize("noise", [False, True])
def test_bitshuffle_of_many_blocks(tmp_path, compression, elements, noise):
    """More blocks than are decoded together, blocks that no frame of LZ4 can hold, and blocks that do not shrink."""
    hdf5plugin = pytest.importorskip("hdf5plugin")
    shape = (3001, 3) if elements == 8 else (1201, 1001) if elements == 2**21 else (301, 1001)
    data = np.random.default_rng(0).integers(0, 2**32, shape, np.uint32).view("<f4") if noise else values("<f4", shape)
    options = hdf5plugin.Bitshuffle(nelems=elements, cname=compression)
    stored, mask = stored_by_hdf5(tmp_path / "x.h5", data, **options)
    assert decoded([sorted_bits(data, elements, compression)], data, stored, mask).tobytes() == data.tobytes()
    # Predicted by the settings, and no blocks as large as the settings say.
    assert decoded([sorted_bits(data, 64, compression)], data, stored, mask).tobytes() == data.tobytes()


@pytest.mark.parametrize("options", [("nn", 8), ("ec", 16), ("nn", 2), ("ec", 32)])
@pytest.mark.parametrize("shape", [(5, 32), (7, 64), (3, 5, 128), (3, 9, 2, 16)])
def test_szip(tmp_path, shape, options):
    if not h5py.h5z.get_filter_info(h5py.h5z.FILTER_SZIP) & h5py.h5z.FILTER_CONFIG_ENCODE_ENABLED:
        pytest.skip("this HDF5 cannot write szip")
    written = 0
    for dtype in ["u1", "<i2", ">i2", "<f4", ">f4", "<f8", "<i8"]:
        data = values(dtype, shape)
        try:
            stored, mask = stored_by_hdf5(tmp_path / "x.h5", data, keep=True, compression="szip", compression_opts=options)
        except ValueError:
            continue  # blocks longer than a line
        with h5py.File(tmp_path / "x.h5") as file:
            given = file["x"].id.get_create_plist().get_filter(0)[2]
        codec = Codec("szip", dict(zip(("options", "block", "bits", "scanline"), given, strict=True)))
        if given[3] % given[1]:
            assert "no multiple of its blocks" in decoder_for((codec,), data.dtype, data.shape)[1]
            continue
        np.testing.assert_array_equal(decoded([codec], data, stored, mask), data)
        written += 1
        if mask == 0:
            with pytest.raises(CorruptChunk):
                decoded([codec], data, stored[: len(stored) // 2])
    assert written or options[1] > shape[-1]


@pytest.mark.parametrize("name", ["Bitshuffle none", "Bitshuffle lz4", "Bitshuffle zstd"])
@pytest.mark.parametrize("noise", [False, True])
def test_scratch_is_what_was_said(tmp_path, name, noise):
    """Of all that Python and NumPy allocate, in a thread that keeps nothing from before."""
    hdf5plugin = pytest.importorskip("hdf5plugin")
    plugin, compression = name.split()
    shape = (33, 3, 65, 50)  # blocks of boxes reach far past its ends
    data = np.random.default_rng(0).integers(0, 2**32, shape, np.uint32).view("<f4") if noise else values("<f4", shape)
    stored, mask = stored_by_hdf5(tmp_path / "x.h5", data, **getattr(hdf5plugin, plugin)(cname=compression))
    decoder, why = decoder_for((sorted_bits(data, 0, compression),), data.dtype, data.shape)
    assert decoder is not None, why
    out, most = np.empty(data.nbytes, np.uint8), []

    def run() -> None:
        tracemalloc.start()
        try:
            for _ in range(3):
                decoder.decode(stored, out, mask)
            most.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert out.tobytes() == data.tobytes()
    assert most[0] <= decoder.scratch_nbytes + (32 << 10)  # what a first call leaves behind in Python itself
    assert decoder.scratch_nbytes <= 5 * data.nbytes


def test_noise_that_does_not_shrink(tmp_path):
    """Filters leave such chunks as they are, and say so in the mask or in the block."""
    data = np.random.default_rng(1).integers(0, 256, (9, 1111), np.uint8)
    stored, mask = stored_by_hdf5(tmp_path / "a.h5", data, compression="lzf")
    assert mask == 1
    decoder, why = decoder_for((Codec("lzf"),), data.dtype, data.shape)
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
