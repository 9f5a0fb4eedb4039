"""Chunks that we encode and place ourselves are what h5py would have written: h5py reads them."""

import h5py
import numpy as np
import pytest

from mmapstore.codecs.encoding import FilterEncoder
from mmapstore.formats import hdf5_writer
from mmapstore.formats.contract import NewArray
from mmapstore.formats.hdf5_filters import FILTERS

SHAPE = (23, 3, 10, 7)


def values(dtype):
    return np.random.default_rng(0).integers(0, 50, SHAPE).astype(dtype)


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8", "?"])
@pytest.mark.parametrize("chunks", [(5, 3, 10, 7), (4, 2, 4, 7)])
def test_what_is_encoded_here_h5py_reads(tmp_path, dtype, chunks, monkeypatch):
    monkeypatch.setattr("mmapstore.formats.hdf5_writer._ENCODED_NBYTES", 40_000)
    encoded = []
    encode = FilterEncoder.encode
    monkeypatch.setattr(FilterEncoder, "encode", lambda self, chunk: encoded.append(1) or encode(self, chunk))
    data = values(dtype)
    new = NewArray(SHAPE, data.dtype, "gzip", chunks=chunks)
    writer = hdf5_writer.create(tmp_path / "a.h5", "x", new)
    step = 3 * chunks[0]
    for start in range(0, SHAPE[0], step):
        stop = min(start + step, SHAPE[0])
        writer.write_box((slice(start, stop), slice(0, 3), slice(0, 10), slice(0, 7)), data[start:stop])
        np.testing.assert_array_equal(writer.read_box((slice(start, stop), *(slice(0, n) for n in SHAPE[1:]))), data[start:stop])
    writer.close()
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["x"][()], data)
        assert file["x"].chunks == chunks and file["x"].compression == "gzip"
        assert len(encoded) == file["x"].id.get_num_chunks()


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip", "compression_opts": 4},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"shuffle": True, "fletcher32": True},
    ],
)
def test_each_filter_alone_and_together(tmp_path, options):
    data = np.cumsum(np.random.default_rng(1).integers(0, 3, (4, 999)), axis=1).astype("i4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        stored = file.create_dataset("x", data.shape, "i4", chunks=(1, 999), **options)
        plist = stored.id.get_create_plist()
        filters = [plist.get_filter(at) for at in range(plist.get_nfilters())]
        encoder = FilterEncoder.of([(FILTERS[code].codec, tuple(given)) for code, _, given, _ in filters])
        for row in range(4):
            chunk, skipped = encoder.encode(data[row].view(np.uint8))
            stored.id.write_direct_chunk((row, 0), chunk, skipped)
        np.testing.assert_array_equal(stored[()], data)
        if options.get("shuffle") and not options.get("compression"):
            reference = file.create_dataset("y", data=data, chunks=(1, 999), **options)
            assert [stored.id.read_direct_chunk((row, 0)) for row in range(4)] == [
                reference.id.read_direct_chunk((row, 0)) for row in range(4)
            ]


def test_what_gets_no_smaller_is_stored_as_it_is_and_says_so(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, (2, 500), np.uint8)
    writer = hdf5_writer.create(tmp_path / "a.h5", "x", NewArray(data.shape, data.dtype, "gzip", chunk_samples=1))
    writer.write(0, data)
    writer.close()
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["x"].id.read_direct_chunk((0, 0)) == (1, data[0].tobytes())
        np.testing.assert_array_equal(file["x"][()], data)


def test_filters_that_hdf5_alone_applies_are_left_to_it(tmp_path):
    assert FilterEncoder.of([("lzf", ())]) is None and FilterEncoder.of([("shuffle", (4,)), ("szip", ())]) is None
    data = values("f4")
    writer = hdf5_writer.create(tmp_path / "a.h5", "x", NewArray(SHAPE, data.dtype, "lzf", chunk_samples=5))
    writer.write(0, data)
    writer.close()
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["x"][()], data)


def test_blocks_that_cut_chunks_in_two(tmp_path):
    data = values("f4")
    writer = hdf5_writer.create(tmp_path / "a.h5", "x", NewArray(SHAPE, data.dtype, "gzip", chunk_samples=5))
    for start, stop in ((0, 10), (10, 13), (13, 20), (20, 23)):
        writer.write(start, data[start:stop])
    writer.close()
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["x"][()], data)
