"""Where encoded HDF5 chunks lie: their bytes, decoded by a few lines of this file, are what h5py reads."""

import ctypes
import itertools
import os
import pickle
import subprocess
import sys
import threading
import types
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmapstore.formats import hdf5_chunk_index, hdf5_chunk_list, hdf5_file, hdf5_filters
from mmapstore.plain.codecs import Codec
from mmapstore.plain.errors import DamagedFileError, MmapstoreError, NotFoundError

NUMBERS = itertools.count()


def unshuffled(data, codec):
    return np.frombuffer(data, np.uint8).reshape(codec.settings["itemsize"], -1).T.tobytes()


DECODERS = {
    "zlib": lambda data, codec: zlib.decompress(data),
    "shuffle": unshuffled,
    "fletcher32": lambda data, codec: data[:-4],
}


def stored(place):
    with Path(place.path).open("rb") as file:
        file.seek(place.offset)
        return file.read(place.nbytes)


def decoded(encoded):
    """The whole array, from the places of all chunks."""
    out = np.full(encoded.grid.shape, encoded.fill, encoded.dtype)
    boxes = list(encoded.grid.touching(tuple(slice(0, length) for length in encoded.grid.shape)))
    for (_, inside, outside), place in zip(boxes, encoded.places([box[0] for box in boxes]), strict=True):
        if place is None:
            continue
        data = stored(place)
        for at, codec in reversed(list(enumerate(encoded.chain))):
            if not place.skipped >> at & 1:
                data = DECODERS[codec.name](data, codec)
        out[outside] = np.frombuffer(data, encoded.dtype).reshape(encoded.grid.chunk)[inside]
    return out


def read_by_h5py(path, key="frames"):
    with h5py.File(path, "r") as file:
        return file[key][...]


def assert_like_h5py(array, path, key="frames"):
    assert array.located is not None, array.why_not
    expected = read_by_h5py(path, key)
    found = decoded(array.located)
    assert found.dtype == expected.dtype == array.dtype
    np.testing.assert_array_equal(found, expected)


@st.composite
def datasets(draw):
    """(options of create_dataset, options of h5py.File, boxes to write, chunks whose filters are skipped in part)"""
    rank = draw(st.integers(1, 4))
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=rank, max_size=rank)))
    chunks = tuple(draw(st.integers(1, length)) for length in shape)
    maxshape = draw(st.none() | st.tuples(*(st.sampled_from([n, n + 1, 2 * n, None]) for n in shape)))
    dtype = draw(st.sampled_from(["u1", "<i2", ">i4", "<f4", ">f8", "?", "<f2", "<c8"]))
    options = {
        "shape": shape,
        "chunks": chunks,
        "maxshape": maxshape,
        "dtype": dtype,
        "shuffle": draw(st.booleans()),
        "fletcher32": draw(st.booleans()),
        "compression": draw(st.sampled_from([None, "gzip"])),
        "fillvalue": None if dtype == "<c8" else draw(st.sampled_from([None, 0, 1])),
    }
    file_options = {
        "libver": draw(st.sampled_from(["earliest", "v110", "latest"])),
        "userblock_size": draw(st.sampled_from([0, 512, 1024])),
    }
    boxes = draw(
        st.lists(st.tuples(*(st.tuples(st.integers(0, n), st.integers(0, n)) for n in shape)), max_size=3),
    )
    return options, file_options, [tuple(slice(*sorted(ends)) for ends in box) for box in boxes], draw(st.integers(0, 7))


def has_chunk_of_full_size(path):
    with h5py.File(path) as file:
        dataset = file["frames"]
        infos = [dataset.id.get_chunk_info(at) for at in range(dataset.id.get_num_chunks())]
        full = np.prod(dataset.chunks) * dataset.dtype.itemsize
        return any(info.size == full and info.filter_mask == 0 for info in infos)


@settings(max_examples=120)
@given(case=datasets(), seed=st.integers(0, 9))
def test_decoded_chunks_are_h5pys_values(tmp_path, case, seed):
    options, file_options, boxes, mask = case
    path = tmp_path / f"{next(NUMBERS)}.h5"  # an example that failed still holds its own open
    random = np.random.default_rng(seed)
    shape, chunks = options["shape"], options["chunks"]
    with h5py.File(path, "w", **file_options) as file:
        dataset = file.create_dataset("frames", **options)
        for box in boxes:
            dataset[box] = random.integers(0, 2, dataset[box].shape).astype(dataset.dtype)
        count = dataset.id.get_create_plist().get_nfilters()
        if mask and count:  # the chunk at the origin, stored with some of its filters skipped
            mask &= (1 << count) - 1
            data = random.integers(0, 2, chunks).astype(dataset.dtype).tobytes()
            names = [dataset.id.get_create_plist().get_filter(at)[0] for at in range(count)]
            for at, code in enumerate(names):
                if mask >> at & 1:
                    continue
                if code == 2:
                    data = np.frombuffer(data, np.uint8).reshape(-1, dataset.dtype.itemsize).T.tobytes()
                elif code == 1:
                    data = zlib.compress(data)
                else:
                    mask |= 1 << at  # the checksum is HDF5's to make
            dataset.id.write_direct_chunk((0,) * len(shape), data, filter_mask=mask)
    array = hdf5_file.open_array(path)
    if array.located is None:
        # Edge chunks that happen to be as large filtered as unfiltered: with shuffle alone, all of them.
        assert "as large as if they had been stored uncompressed" in array.why_not
        assert any(length % each for length, each in zip(shape, chunks, strict=True))
        assert has_chunk_of_full_size(path)
        path.unlink()
        return
    assert_like_h5py(array, path)
    assert array.located.grid.shape == shape and array.located.grid.chunk == chunks
    assert array.located.nbytes <= 20 * len(array.located.grid)
    path.unlink()


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("maxshape", [None, (20, 14), (None, 7), (10, None), (20, None), (None, None)])
def test_every_kind_of_index_is_listed_as_hdf5_reads_chunks(tmp_path, libver, maxshape):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=libver, userblock_size=512) as file:
        for key, chunks, options in [
            ("filtered", (3, 2), {"compression": "gzip"}),
            ("plain", (3, 2), {}),
            ("single", (10, 7), {"compression": "gzip"}),
            ("early", (3, 2), {"dcpl": early()}),
            ("blank", (10, 7), {"compression": "gzip"}),
        ]:
            dataset = file.create_dataset(key, (10, 7), "i4", chunks=chunks, maxshape=maxshape, fillvalue=5, **options)
            if key not in ("early", "blank"):
                dataset[3:9, 1:5] = np.arange(24).reshape(6, 4)
    for key in ["filtered", "plain", "single", "early", "blank"]:
        array = hdf5_file.open_array(path, key)
        assert_places_agree(array, path, key)
        assert_like_h5py(array, path, key)


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("maxshape", list(itertools.product((4, 10, None), (6, 12, None))))
def test_chunks_beyond_the_shape_are_no_damage(tmp_path, libver, maxshape, options):
    """As in files of pre-releases of HDF5 1.10, which numbered chunks otherwise. HDF5 reads as if they were not there."""
    path, outside = tmp_path / "a.h5", [at for at, most in [((4, 0), maxshape[0]), ((0, 6), maxshape[1])] if most not in (4, 6)]
    with h5py.File(path, "w", libver=libver) as file:
        dataset = file.create_dataset("x", (4, 6), "i4", chunks=(2, 3), maxshape=maxshape, fillvalue=7, **options)
        dataset[:2] = np.arange(12).reshape(2, 6)
        data = np.ones((2, 3), "i4").tobytes()
        for at in outside:
            dataset.id.write_direct_chunk(at, zlib.compress(data) if options else data)
        assert dataset.id.get_num_chunks() == 2 + len(outside)
    array = hdf5_file.open_array(path, "x")
    assert (f"{len(outside)} chunks outside its shape" in array.why_not) == bool(outside)
    assert (array.located is None) == bool(outside)
    found = np.empty(array.shape, array.dtype)
    array.read_box((slice(0, 4), slice(0, 6)), found)
    np.testing.assert_array_equal(found, [[*range(6)], [*range(6, 12)], [7] * 6, [7] * 6])


def early():
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    return plist


def assert_places_agree(array, path, key):
    """With the bytes that HDF5 gives of each chunk."""
    encoded = array.located
    assert encoded is not None, array.why_not
    with h5py.File(path, "r") as file:
        identifier = file[key].id
        found = encoded.places(range(len(encoded.grid)))
        assert sum(place is not None for place in found) == identifier.get_num_chunks()
        for number, place in enumerate(found):
            if place is not None:
                at = tuple(which * each for which, each in zip(encoded.grid.place(number), encoded.grid.chunk, strict=True))
                mask, data = identifier.read_direct_chunk(at)
                assert (place.skipped, stored(place)) == (mask, data)
        return identifier.get_num_chunks()


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}])
@pytest.mark.parametrize("maxshape", list(itertools.product(*((n, n + 4, None) for n in (4, 3, 6)))))
def test_half_written_with_every_choice_of_unlimited_axes(tmp_path, maxshape, options):
    shape = (4, 3, 6)
    with h5py.File(tmp_path / "a.h5", "w", libver="latest", userblock_size=512) as file:
        for key, parts in {
            "half": (..., slice(0, 3)),
            "top": (slice(0, 2),),
            "middle": (slice(2, 4), slice(1, 2), slice(2, 5)),
            "nothing": (slice(0, 0),),
            "first": (slice(0, 2), slice(0, 1), slice(0, 2)),
            "last": (slice(3, 4), slice(2, 3), slice(5, 6)),
        }.items():
            dataset = file.create_dataset(key, shape, "i4", chunks=(2, 1, 2), maxshape=maxshape, fillvalue=-1, **options)
            dataset[parts] = np.arange(72).reshape(shape)[parts]
        dataset = file.create_dataset("grown", (2, 3, 6), "i4", chunks=(2, 1, 2), maxshape=maxshape, **options)
        grown = tuple(most or 9 for most in maxshape)
        dataset.resize(grown)
        dataset[...] = np.arange(np.prod(grown)).reshape(grown)
        dataset.resize((3, 2, 5))
    for key in ["half", "top", "middle", "nothing", "first", "last", "grown"]:
        array = hdf5_file.open_array(tmp_path / "a.h5", key)
        assert_like_h5py(array, tmp_path / "a.h5", key)
        assert_places_agree(array, tmp_path / "a.h5", key)


def test_old_files_of_pytables():
    tables = pytest.importorskip("tables")
    seen = refused = 0
    for path in sorted(Path(tables.__file__).parent.rglob("*.h5")):
        try:
            listings = hdf5_file.list_arrays(path)
        except MmapstoreError:
            continue
        for listing in listings:
            try:
                array = hdf5_file.open_array(path, listing.key)
            except MmapstoreError:
                continue
            if array.chunks is None:
                assert array.located is None or array.located.offset is not None
            elif array.located is None:
                assert array.why_not
                refused += 1
            else:
                seen += assert_places_agree(array, path, listing.key) > 0
                if {codec.name for codec in array.located.chain} <= set(DECODERS):
                    assert_like_h5py(array, path, listing.key)
    assert seen >= 5


@pytest.mark.parametrize(
    ("options", "chain"),
    [
        ({}, ()),
        (
            {"compression": "gzip", "compression_opts": 4, "shuffle": True, "fletcher32": True},
            (Codec("shuffle", {"itemsize": 4}, "shuffle"), Codec("zlib", {}, "gzip 4"), Codec("fletcher32", {}, "checksum")),
        ),
        ({"compression": "lzf"}, (Codec("lzf", {}, "lzf"),)),
    ],
)
def test_chain_is_in_the_order_of_writing(tmp_path, options, chain):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=np.zeros((8, 3), "f4"), chunks=(4, 3), **options)
    array = hdf5_file.open_array(path)
    assert sorted(array.located.chain, key=str) == sorted(chain, key=str)
    with h5py.File(path) as file:
        plist = file["frames"].id.get_create_plist()
        names = {1: "zlib", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
        assert [codec.name for codec in array.located.chain] == [
            names[plist.get_filter(at)[0]] for at in range(plist.get_nfilters())
        ]
    assert (array.located.dtype, array.located.axes, array.located.fill) == (np.dtype("f4"), None, 0)
    assert array.why_not == ""


def test_chains_of_plugins(tmp_path):
    plugins = pytest.importorskip("hdf5plugin")
    path = tmp_path / "a.h5"
    expected = {
        "blosc": (plugins.Blosc(), Codec("blosc", {}, "blosc")),
        "bzip2": (plugins.BZip2(), Codec("bzip2", {}, "bzip2")),
        "lz4": (plugins.LZ4(), Codec("hdf5-lz4", {}, "lz4")),
        "zstd": (plugins.Zstd(), Codec("zstd", {}, "zstd")),
        "plain bits": (plugins.Bitshuffle(cname="none"), bitshuffle("none", 0)),
        "bits": (plugins.Bitshuffle(nelems=64, cname="lz4"), bitshuffle("lz4", 64)),
        "zstd bits": (plugins.Bitshuffle(cname="zstd"), bitshuffle("zstd", 0)),
    }
    with h5py.File(path, "w") as file:
        for key, (options, _) in expected.items():
            file.create_dataset(key, data=np.arange(4096, dtype="f4").reshape(64, 64), chunks=(16, 64), **options)
    for key, (_, codec) in expected.items():
        array = hdf5_file.open_array(path, key)
        assert array.located.chain == (codec,)
        assert_places_agree(array, path, key)


def bitshuffle(compression, block_size):
    return Codec("hdf5-bitshuffle", {"itemsize": 4, "block_size": block_size, "compression": compression}, "bitshuffle")


def test_settings_of_another_kind_are_not_guessed():
    assert hdf5_filters._bitshuffle((0, 3, 4, 0, 2))["compression"] == "lz4"
    assert hdf5_filters._bitshuffle((0, 3, 4)) == {"itemsize": 4, "block_size": 0, "compression": "none"}
    for values in [(0, 3, 4, 0, 9), (0, 3, 0, 0, 2), ()]:
        with pytest.raises(LookupError):
            hdf5_filters._bitshuffle(values)
    for values in [(0,), ()]:
        with pytest.raises(LookupError):
            hdf5_filters._shuffle(values)


def test_what_hdf5_alone_can_read_says_why(tmp_path):
    path = tmp_path / "a.h5"
    odd = h5py.h5t.NATIVE_INT16.copy()
    odd.set_precision(12)
    with h5py.File(path, "w") as file:
        file.create_dataset("scaled", data=np.arange(12), chunks=(4,), scaleoffset=0)
        file.create_dataset("scalar", data=1.0)
        file.create_dataset("empty", (0, 3), "f4", chunks=(4, 3), maxshape=(None, 3))
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4,))
        h5py.h5d.create(file.id, b"twelve bits", odd, h5py.h5s.create_simple((12,)), plist)
        file.create_dataset("sparse", (1 << 40,), "u1", chunks=(16,), compression="gzip")
    why = {key: hdf5_file.open_array(path, key).why_not for key in h5py.File(path)}
    assert why == {
        "scaled": "only HDF5 decodes scale-offset",
        "scalar": "it is a scalar",
        "empty": "it holds no values",
        "twelve bits": "its elements are not stored as plain int16, so HDF5 converts them",
        "sparse": f"it has {1 << 36} chunks, of which 0 are stored: more than an index is built for",
    }


def test_files_that_are_being_written_are_left_to_h5py(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        dataset = file.create_dataset("frames", data=np.arange(12), chunks=(4,), compression="gzip")
        live = hdf5_file.from_live(dataset)
        assert live.located is None
        assert live.why_not == "its file is open for writing in this process, so what lies on disk may be behind"
        same = hdf5_file.open_array(tmp_path / "a.h5")
        assert same.located is None
        assert same.why_not == "the file is being written, so what lies on disk may be behind"
        del same
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        live = hdf5_file.from_live(file.create_dataset("frames", data=np.arange(12), chunks=(4,)))
        assert live.located is None
        assert live.why_not == "its file is not an ordinary one on disk"


def test_places_in_a_file_that_was_replaced_are_not_given(tmp_path):
    for name, start in [("a.h5", 0), ("b.h5", 5)]:
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("frames", data=np.arange(start, start + 12), chunks=(4,))
    array = hdf5_file.open_array(tmp_path / "a.h5")
    (tmp_path / "b.h5").replace(tmp_path / "a.h5")
    with pytest.raises(DamagedFileError, match="was replaced by another file since it was opened"):
        _ = array.located
    (tmp_path / "a.h5").unlink()
    with pytest.raises(NotFoundError, match="does not exist"):
        _ = array.located


def test_file_read_through_another_driver_is_left_to_h5py(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("frames", data=np.arange(12), chunks=(4,))
    code = "import sys; from mmapstore.formats import hdf5_file; a = hdf5_file.open_array(sys.argv[1]); print(a.why_not)"
    environment = os.environ | {"HDF5_DRIVER": "stdio"}  # read once, when HDF5 is loaded
    child = subprocess.run([sys.executable, "-c", code, tmp_path / "a.h5"], env=environment, capture_output=True, text=True)
    assert child.stdout.strip() == "HDF5 is told to read its file through the driver stdio", child.stderr


def with_unfiltered_edges(path, compressed):
    """A dataset made with H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS, which h5py has no word for."""
    try:
        set_options = ctypes.CDLL(h5py.h5p.__file__).H5Pset_chunk_opts
    except (OSError, AttributeError):
        pytest.skip("the HDF5 that h5py uses cannot be called here")
    set_options.argtypes = [ctypes.c_int64, ctypes.c_uint]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((4, 4))
    plist.set_shuffle()
    if compressed:
        plist.set_deflate(4)
    assert set_options(plist.id, 2) >= 0
    with h5py.File(path, "w") as file:
        identifier = h5py.h5d.create(file.id, b"frames", h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((10, 7)), plist)
        h5py.Dataset(identifier)[...] = np.arange(70).reshape(10, 7)


@pytest.mark.parametrize("compressed", [True, False])
def test_edge_chunks_that_were_left_unfiltered_are_not_decoded(tmp_path, compressed):
    with_unfiltered_edges(tmp_path / "a.h5", compressed)
    array = hdf5_file.open_array(tmp_path / "a.h5")
    assert array.located is None, array.located
    assert "chunks at its edges are as large as if they had been stored uncompressed" in array.why_not
    out = np.empty((10, 7), np.int32)
    array.read_box((slice(0, 10), slice(0, 7)), out)
    np.testing.assert_array_equal(out, np.arange(70).reshape(10, 7))


def test_incompressible_edge_chunks_have_it_in_their_mask(tmp_path):
    path = tmp_path / "a.h5"
    noise = np.random.default_rng(0).integers(0, 256, (6, 100)).astype("u1")
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=noise, chunks=(4, 100), compression="lzf", shuffle=True)
    array = hdf5_file.open_array(path)
    assert [place.skipped for place in array.located.places([0, 1])] == [0b10, 0]


def test_grown_and_shrunk_datasets(tmp_path):
    path = tmp_path / "a.h5"
    for libver in ["earliest", "latest"]:
        with h5py.File(path, "w", libver=libver) as file:
            dataset = file.create_dataset("frames", data=np.arange(70.0).reshape(10, 7), chunks=(4, 3), maxshape=(None, 20))
            dataset.resize((5, 5))
            dataset.resize((9, 8))
        assert_like_h5py(hdf5_file.open_array(path), path)


@pytest.mark.parametrize("kind", ["STD_B8LE", "STD_B16BE", "STD_B32LE"])
@pytest.mark.parametrize("chunked", [True, False])
def test_bitfields_are_read_where_they_lie(tmp_path, kind, chunked):
    """PyTables stores booleans so."""
    path, kind = tmp_path / "a.h5", getattr(h5py.h5t, kind)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if chunked:
        plist.set_chunk((5, 2))
        plist.set_deflate(1)
    data = np.arange(24, dtype=kind.dtype).reshape(6, 4)
    with h5py.File(path, "w") as file:
        identifier = h5py.h5d.create(file.id, b"frames", kind, h5py.h5s.create_simple((6, 4)), plist)
        identifier.write(h5py.h5s.ALL, h5py.h5s.ALL, data, kind)
    array = hdf5_file.open_array(path)
    if chunked:
        assert_like_h5py(array, path)
    else:
        found = np.fromfile(path, array.located.dtype, 24, offset=array.located.offset).reshape(6, 4)
        np.testing.assert_array_equal(found, data)


def test_bitfields_of_odd_width_are_converted_by_hdf5(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    monkeypatch.setattr(h5py.h5t, "STD_B8LE", h5py.h5t.STD_B16LE)
    monkeypatch.setattr(h5py.h5t, "STD_B8BE", h5py.h5t.STD_B16LE)
    with h5py.File(path, "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4,))
        h5py.h5d.create(file.id, b"frames", h5py.h5t.NATIVE_B8, h5py.h5s.create_simple((12,)), plist)
    assert "so HDF5 converts them" in hdf5_file.open_array(path).why_not


# --- damage ------------------------------------------------------------------------------------------------------------


class Listed:
    """A dataset whose index is what the test says, chunk by chunk: (position, mask, offset, size)."""

    shape, chunks, maxshape = (8, 4), (4, 2), (8, 4)
    file = types.SimpleNamespace(userblock_size=0)

    def __init__(self, *listed, filters=0, iterates=True):
        self.id = self
        self._listed = [h5py.h5d.StoreInfo(*entry) for entry in listed]
        self._filters = filters
        if iterates:
            self.chunk_iter = lambda note: [note(entry) for entry in self._listed] and None

    def get_num_chunks(self):
        return len(self._listed)

    def get_chunk_info(self, number):
        return self._listed[number]

    def get_type(self):
        return h5py.h5t.NATIVE_INT32

    def get_create_plist(self):
        return self

    def get_nfilters(self):
        return self._filters


@pytest.mark.parametrize("iterates", [True, False])
def test_index_as_arrays(tmp_path, iterates):
    path = tmp_path / "a.h5"
    path.write_bytes(bytes(100))
    listed = Listed(((0, 2), 0b101, 10, 32), ((4, 0), 1, 68, 32), filters=2, iterates=iterates)
    index, why = hdf5_chunk_index.chunk_index(listed, str(path), "a.h5::/x")
    assert why == ""
    assert [column.tolist() for column in index] == [[-1, 10, 68, -1], [0, 32, 32, 0], [0, 1, 1, 0]]
    assert index.nbytes == 4 * 16


@pytest.mark.parametrize(
    ("entry", "filters"),
    [
        (((4, 2), 0, 69, 32), 0),  # past the end
        (((4, 2), 0, 101, 1), 1),
        (((4, 2), 0, 2**64 - 2, 32), 0),
        (((4, 2), 0, None, 32), 0),
        (((4, 2), 0, 10, 0), 1),
        (((4, 2), 0, 10, 2**63), 1),
        (((4, 2), 0, 10, 31), 0),  # not the size of a chunk, and not encoded
        (((4, 2), 0b11, 10, 31), 2),
        (((8, 0), 0, 10, 32), 0),  # outside the grid
        (((0, 2**64 - 2), 0, 10, 32), 0),
        (((3, 0), 0, 10, 32), 0),
    ],
)
def test_damaged_entry_is_named(tmp_path, entry, filters):
    path = tmp_path / "a.h5"
    path.write_bytes(bytes(100))
    with pytest.raises(DamagedFileError) as caught:
        hdf5_chunk_index.chunk_index(Listed(((0, 0), 0, 10, 32), entry, filters=filters), str(path), "a.h5::/x")
    position, _, offset, size = entry
    assert f"a.h5::/x: the chunk at {position} is said to be {size} bytes at offset {offset}; expected " in str(caught.value)
    assert "within a file of 100 bytes" in str(caught.value)


def test_user_blocks_that_hdf5_leaves_out_of_its_list(tmp_path, monkeypatch):
    """HDF5 before 1.14.4, to which h5py may be linked."""
    monkeypatch.setattr(hdf5_chunk_list, "_leaves_out_user_blocks", lambda: True)
    monkeypatch.setattr(Listed, "file", types.SimpleNamespace(userblock_size=50))
    path = tmp_path / "a.h5"
    path.write_bytes(bytes(100))
    index, _ = hdf5_chunk_index.chunk_index(Listed(((0, 2), 0, 10, 32)), str(path), "a.h5::/x")
    assert index.offsets.tolist() == [-1, 60, -1, -1]
    with pytest.raises(DamagedFileError, match="within a file of 100 bytes"):
        hdf5_chunk_index.chunk_index(Listed(((0, 2), 0, 19, 32)), str(path), "a.h5::/x")


def test_chunk_listed_twice(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(bytes(100))
    twice = Listed(((0, 0), 0, 10, 32), ((0, 0), 0, 50, 32))
    with pytest.raises(DamagedFileError, match="its index lists 2 chunks, only 1 of them different"):
        hdf5_chunk_index.chunk_index(twice, str(path), "a.h5::/x")


def test_chunks_of_a_size_over_32_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5_chunk_index.os.path, "getsize", lambda path: 1 << 40)
    index, _ = hdf5_chunk_index.chunk_index(Listed(((0, 0), 0, 10, 1 << 33), filters=1), "a.h5", "a.h5::/x")
    assert index.sizes.tolist() == [1 << 33, 0, 0, 0]


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_flipped_bits_in_the_index_are_noticed_or_harmless(tmp_path, libver):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=libver) as file:
        data = np.arange(240, dtype="i4").reshape(20, 12)
        file.create_dataset("frames", data=data, chunks=(4, 5), compression="gzip", maxshape=(None, 12))
    good = path.read_bytes()
    chunks = hdf5_file.open_array(path).located.places(range(15))
    held = {at for place in chunks for at in range(place.offset, place.offset + place.nbytes)}
    random = np.random.default_rng(0)
    noticed = 0
    for at in random.choice([at for at in range(len(good)) if at not in held], 150, replace=False):
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << random.integers(8))]) + good[at + 1 :])
        try:
            encoded = hdf5_file.open_array(path).located
            size = path.stat().st_size
            for place in encoded.places(range(len(encoded.grid))) if encoded else []:
                assert place is None or 0 <= place.offset < place.offset + place.nbytes <= size
        except MmapstoreError:
            noticed += 1
    assert noticed


# --- an object to pass around ------------------------------------------------------------------------------------------


def test_pickles_with_its_index(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=np.arange(24.0).reshape(6, 4), chunks=(4, 3), compression="gzip")
    encoded = hdf5_file.open_array(path).located
    again = pickle.loads(pickle.dumps(encoded))
    assert again.places(range(4)) == encoded.places(range(4))
    assert (again.grid, again.chain, again.dtype, again.fill) == (encoded.grid, encoded.chain, encoded.dtype, encoded.fill)
    np.testing.assert_array_equal(decoded(again), read_by_h5py(path))
    assert "4 chunks" in repr(again) and "gzip 4" in repr(again)


def test_threads_ask_at_once(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=np.arange(4000.0), chunks=(4,), compression="gzip")
    array = hdf5_file.open_array(path)
    expected = hdf5_file.open_array(path).located.places(range(1000))
    found = []
    threads = [threading.Thread(target=lambda: found.append(array.located.places(range(1000)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8


def test_index_takes_few_bytes_for_each_chunk(tmp_path):
    path = tmp_path / "a.h5"
    count = 100_000
    chunk = zlib.compress(b"abcd")
    with h5py.File(path, "w", libver="latest") as file:
        identifier = file.create_dataset("frames", (count, 4), "u1", chunks=(1, 4), compression="gzip").id
        for number in range(0, count, 10):
            identifier.write_direct_chunk((number, 0), chunk)
    encoded = hdf5_file.open_array(path).located
    assert len(encoded.grid) == count
    assert encoded.nbytes <= 20 * count
    assert len(pickle.dumps(encoded)) <= 20 * count + 10_000
    assert [place is None for place in encoded.places([0, 1, 9, 10, count - 10])] == [False, True, True, False, False]
