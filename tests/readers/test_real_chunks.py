"""The decoded reader over real HDF5 files and Zarr stores, against h5py and zarr-python themselves."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mmapstore.formats.registry import open_stored
from mmapstore.plain.array_spec import StoredLayout
from mmapstore.plain.errors import DamagedFileError
from mmapstore.plain.runs import as_runs
from mmapstore.readers.select_reader import reader_for

LAYOUTS = ["N", "NC", "NCHW", "NTHW", "TNHW", "CHWN", "CNH", "WTNC", "T"]


@st.composite
def arrays(draw):
    letters = draw(st.sampled_from(LAYOUTS))
    shape = tuple(draw(st.integers(1, 12)) for _ in letters)
    chunk = tuple(draw(st.integers(1, length)) for length in shape)
    dtype = draw(st.sampled_from(["<f4", ">f4", "?", "u1", "<i2", ">f8"]))
    samples = StoredLayout.of(letters, shape, "x").samples
    runs = draw(
        st.lists(st.tuples(st.integers(0, samples), st.integers(0, samples)).map(sorted).map(tuple), min_size=1, max_size=3)
    )
    return letters, shape, chunk, dtype, runs


def values(shape, dtype, seed):
    return np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)


def check(path, letters, whole, runs):
    """`whole` is what the format's own library says is there. Returns how it was read."""
    stored = open_stored(str(path), None)
    layout = StoredLayout.of(letters, stored.shape, "x")
    reader = reader_for(stored, layout)
    expected = layout.samples_first(whole).reshape(layout.spec(whole.dtype).shape)
    wanted = np.concatenate([expected[start:stop] for start, stop in runs])
    out = np.zeros(wanted.shape, reader.spec.dtype)
    if reader.place == "decoded in threads":
        reader.read_runs(as_runs(runs), out)
    else:
        at = 0
        for start, stop in runs:
            reader.read(start, stop, out[at : at + stop - start])
            at += stop - start
    np.testing.assert_array_equal(out, wanted)
    return reader


@given(
    case=arrays(),
    seed=st.integers(0, 3),
    how=st.sampled_from(
        [{}, {"compression": "gzip"}, {"compression": "gzip", "shuffle": True, "fletcher32": True}, {"shuffle": True}]
    ),
    written=st.floats(0, 1),
)
@settings(max_examples=120)
def test_hdf5(tmp_path_factory, case, seed, how, written):
    h5py = pytest.importorskip("h5py")
    letters, shape, chunk, dtype, runs = case
    path = tmp_path_factory.mktemp("x") / "a.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("x", shape, dtype, chunks=chunk, fillvalue=1, **how)
        part = max(1, int(written * shape[0]))
        dataset[:part] = values((part, *shape[1:]), dtype, seed)  # chunks behind that are never stored
    with h5py.File(path) as file:
        whole = file["x"][...]
    reader = check(path, letters, whole, runs)
    if how.get("compression"):
        assert reader.place == "decoded in threads", reader.why


FILTERS = {
    "bitshuffle": lambda plugins: plugins.Bitshuffle(cname="none"),
    "bitshuffle lz4": lambda plugins: plugins.Bitshuffle(nelems=16, cname="lz4"),
    "bitshuffle zstd": lambda plugins: plugins.Bitshuffle(cname="zstd"),
    "blosc": lambda plugins: plugins.Blosc("zstd"),
    "bzip2": lambda plugins: plugins.BZip2(),
    "lz4": lambda plugins: plugins.LZ4(),
    "szip": lambda plugins: {"compression": "szip", "compression_opts": ("nn", 2)},
    "zstd": lambda plugins: plugins.Zstd(),
}


@given(
    case=arrays(),
    seed=st.integers(0, 3),
    name=st.sampled_from(sorted(FILTERS)),
    fletcher=st.booleans(),
    written=st.floats(0, 1),
)
@settings(max_examples=200)
def test_hdf5_filters(tmp_path_factory, case, seed, name, fletcher, written):
    """Chunks at the edges, chunks that were never stored, and those that a filter left as they were, included."""
    h5py = pytest.importorskip("h5py")
    plugins = pytest.importorskip("hdf5plugin")
    pytest.importorskip("imagecodecs")
    letters, shape, chunk, dtype, runs = case
    path = tmp_path_factory.mktemp("x") / "a.h5"
    with h5py.File(path, "w") as file:
        try:
            dataset = file.create_dataset(
                "x", shape, dtype, chunks=chunk, fillvalue=1, fletcher32=fletcher, **FILTERS[name](plugins)
            )
        except ValueError:
            assume(name != "szip")  # blocks longer than a line
            raise
        part = max(1, int(written * shape[0]))
        dataset[:part] = values((part, *shape[1:]), dtype, seed)
    with h5py.File(path) as file:
        whole = file["x"][...]
    reader = check(path, letters, whole, runs)
    reasons = ("as if they had been stored uncompressed", "no multiple of its blocks", "which the format has not")
    assert reader.place == "decoded in threads" or any(words in reader.why for words in reasons), reader.why


@given(
    case=arrays(),
    seed=st.integers(0, 3),
    version=st.sampled_from([2, 3]),
    codec=st.sampled_from(["none", "gzip", "zstd", "blosc", "sharded"]),
    order=st.sampled_from("CF"),
    written=st.floats(0, 1),
)
@settings(max_examples=100)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_zarr(tmp_path_factory, case, seed, version, codec, order, written):
    zarr = pytest.importorskip("zarr")
    letters, shape, chunk, dtype, runs = case
    path = tmp_path_factory.mktemp("x") / "a.zarr"
    how = {}
    if codec == "sharded" and version == 3:
        how = {"shards": tuple(each * (-(-n // each)) for n, each in zip(shape, chunk, strict=True))}
    elif codec in ("gzip", "zstd", "blosc") and version == 3:
        how = {
            "compressors": {"gzip": zarr.codecs.GzipCodec, "zstd": zarr.codecs.ZstdCodec, "blosc": zarr.codecs.BloscCodec}[codec]()
        }
    elif codec in ("gzip", "zstd", "blosc"):
        import numcodecs

        how = {"compressors": {"gzip": numcodecs.GZip, "zstd": numcodecs.Zstd, "blosc": numcodecs.Blosc}[codec]()}
    else:
        how = {"compressors": None}
    if version == 2:
        how["order"] = order
    array = zarr.create_array(path, shape=shape, dtype=dtype, chunks=chunk, zarr_format=version, fill_value=1, **how)
    part = max(1, int(written * shape[0]))
    array[:part] = values((part, *shape[1:]), dtype, seed)
    reader = check(path, letters, zarr.open_array(path, mode="r")[...], runs)
    assert math.prod(shape) and reader.place in ("decoded in threads", "read in place"), reader.why


FRAMES = np.random.default_rng(5).integers(0, 100, (40, 3, 8, 8)).astype("f4")


def flip(path, at):
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def reader_at(path):
    stored = open_stored(str(path), None)
    reader = reader_for(stored, StoredLayout.of(None, stored.shape, "x"))
    assert reader.place == "decoded in threads", reader.why
    return reader


@pytest.mark.parametrize(
    "how",
    [{"fletcher32": True}, {"fletcher32": True, "shuffle": True, "compression": "gzip"}, {"compression": "gzip", "shuffle": True}],
)
def test_flipped_bits_and_lost_bytes_in_hdf5(tmp_path, how):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=FRAMES, chunks=(8, 3, 8, 8), **how)
        chunk = file["x"].id.get_chunk_info(2)
    reader, out = reader_at(path), np.empty_like(FRAMES)
    reader.read(0, 40, out)
    np.testing.assert_array_equal(out, FRAMES)
    flip(path, chunk.byte_offset + chunk.size - 1)  # in the checksum of the chunk, or of the stream
    where = rf"a.h5.*x: the chunk that begins at \({chunk.chunk_offset[0]}, 0, 0, 0\), at byte {chunk.byte_offset} of .*a.h5,"
    with pytest.raises(DamagedFileError, match=where + " is damaged: "):
        reader.read(0, 40, out)
    os.truncate(path, chunk.byte_offset + 10)
    with pytest.raises(DamagedFileError, match=r" cannot be read: .*a.h5 ends at byte"):
        reader.read(0, 40, out)
    with pytest.raises(DamagedFileError, match=r"truncated or replaced since"):
        reader.check()


def test_flipped_bits_and_lost_files_in_zarr(tmp_path):
    zarr = pytest.importorskip("zarr")
    path = tmp_path / "a.zarr"
    compressors = [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]
    array = zarr.create_array(path, shape=FRAMES.shape, dtype="f4", chunks=(8, 3, 8, 8), compressors=compressors, fill_value=5)
    array[...] = FRAMES
    reader, out = reader_at(path), np.empty_like(FRAMES)
    reader.read(0, 40, out)
    np.testing.assert_array_equal(out, FRAMES)
    chunk = path / "c" / "2" / "0" / "0" / "0"
    flip(chunk, chunk.stat().st_size // 2)
    with pytest.raises(
        DamagedFileError, match=r"a.zarr: the chunk that begins at \(16, 0, 0, 0\), at byte 0 of .*c/2/0/0/0, is damaged: .*"
    ):
        reader.read(0, 40, out)
    chunk.unlink()
    reader.read(0, 40, out)
    assert (out[16:24] == 5).all()
    reader.check()
    path.rename(tmp_path / "b.zarr")
    for call in (reader.check, lambda: reader.read(0, 8, out[:8])):
        with pytest.raises(DamagedFileError, match=r"a.zarr does not exist any more: it was deleted or moved"):
            call()
