"""Where encoded Zarr chunks lie: places and codecs against what zarr-python itself reads, damage, and hostile metadata."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import re
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from mmapstore.codecs.chain import decoder_for
from mmapstore.formats import zarr_shards, zarr_store
from mmapstore.formats.zarr_layout import layout_of
from mmapstore.formats.zarr_metadata import Node
from mmapstore.plain.errors import DamagedFileError, NotReadableError

zarr = pytest.importorskip("zarr")
numcodecs = pytest.importorskip("numcodecs")
import zarr.codecs.numcodecs as wrapped  # noqa: E402
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec  # noqa: E402
from zarr.storage import LocalStore  # noqa: E402

# zarr says of numcodecs' codecs, whenever it makes one, that the specification does not have them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3 specification:UserWarning"),
]
NUMCODECS = {"bzip2": "bz2", "numcodecs-lz4": "lz4", "numcodecs-shuffle": "shuffle"}


# --- reading by what `encoded` says, with numcodecs' own decoders ----------------------------------------------------------


def decoded(encoded, stored):
    """One chunk in the order of the grid's axes, from its stored bytes."""
    for codec in reversed(encoded.chain):
        stored = numcodecs.get_codec({"id": NUMCODECS.get(codec.name, codec.name), **codec.settings}).decode(stored)
    chunk, axes = encoded.grid.chunk, encoded.axes or range(len(encoded.grid.chunk))
    values = np.frombuffer(np.ascontiguousarray(stored).tobytes() if isinstance(stored, np.ndarray) else stored, encoded.dtype)
    return values.reshape([chunk[axis] for axis in axes]).transpose(np.argsort(list(axes)).astype(int))


def stored_bytes(place):
    with Path(place.path).open("rb") as file:
        file.seek(place.offset)
        found = file.read(place.nbytes)
    assert place.nbytes in (-1, len(found)) and place.skipped == 0
    return found


def read_all(encoded):
    grid = encoded.grid
    out = np.full(grid.shape, encoded.fill, encoded.dtype)
    decoder, why = decoder_for(encoded.chain, encoded.dtype, grid.chunk)
    assert decoder is not None or why
    for number, place in enumerate(encoded.places(range(len(grid)))):
        if place is None or not os.path.exists(place.path):
            continue
        stored = stored_bytes(place)
        chunk = decoded(encoded, stored)
        if decoder is not None:
            own = np.empty(chunk.nbytes, np.uint8)
            decoder.decode(np.frombuffer(stored, np.uint8), own)
            axes = encoded.axes or range(chunk.ndim)
            assert own.tobytes() == np.ascontiguousarray(chunk.transpose(list(axes))).tobytes()
        box = tuple(slice(at * n, (at + 1) * n) for at, n in zip(grid.place(number), grid.chunk, strict=True))
        out[box] = chunk[tuple(slice(0, len(range(*part.indices(n)))) for part, n in zip(box, grid.shape, strict=True))]
    return out


def assert_same_as_zarr(path):
    """The array at the root of the store, read by places, has zarr's own bytes. Gives the opened array."""
    stored = zarr_store.open_array(path)
    assert stored.why_not == ""
    encoded = stored.located
    assert encoded.root == os.path.abspath(path) and encoded.grid.shape == stored.shape and encoded.dtype == stored.dtype
    expected = np.asarray(zarr.open_array(LocalStore(path), mode="r")[...])
    assert encoded.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
    found = read_all(encoded)
    assert found.astype(found.dtype.newbyteorder("=")).tobytes() == expected.astype(expected.dtype.newbyteorder("=")).tobytes()
    assert encoded.places([]) == []
    return stored


def create(path, *, filled=True, **options):
    options = {"shape": (10, 4, 3), "dtype": "<f4", "chunks": (3, 2, 3), "compressors": None, **options}
    array = zarr.create_array(store=LocalStore(path), **options)
    if filled:
        array[...] = np.random.default_rng(0).integers(1, 100, array.shape).astype(array.dtype)
    return array


def edit(path, change):
    file = path / ("zarr.json" if (path / "zarr.json").exists() else ".zarray")
    metadata = json.loads(file.read_text())
    change(metadata)
    file.write_text(json.dumps(metadata))


# --- every combination ------------------------------------------------------------------------------------------------------

NUMBERS = ["|b1", "|u1", "<i2", ">i4", "<u8", "<f2", "<f4", ">f8", "<c8"]
COMPRESSORS_2 = [
    numcodecs.GZip(1), numcodecs.Zlib(1), numcodecs.Zstd(1), numcodecs.Blosc("lz4", shuffle=2), numcodecs.BZ2(1), numcodecs.LZ4(),
    numcodecs.LZMA(preset=0), numcodecs.LZMA(format=3, filters=[{"id": 33, "preset": 0}]),
]  # fmt: skip


def compressors_3():
    found = [[GzipCodec(level=1)], [ZstdCodec(level=1)], [BloscCodec(cname="lz4")], [Crc32cCodec()], [wrapped.Zlib(level=1)]]
    found += [[ZstdCodec(level=1), Crc32cCodec()], [wrapped.LZ4()], [wrapped.BZ2(level=1), wrapped.CRC32()], [wrapped.CRC32C()]]
    found += [[wrapped.Shuffle(), wrapped.LZMA(preset=0)], [wrapped.Adler32(location="end")], [wrapped.Fletcher32()]]
    return [*found, [wrapped.Blosc(cname="zstd"), GzipCodec(level=1)]]


def filters_2(dtype):
    return [[numcodecs.Shuffle(dtype.itemsize)], [numcodecs.CRC32(), numcodecs.Adler32("end")], [numcodecs.Fletcher32()]]


@st.composite
def arrays(draw):
    """(options for zarr.create_array, boxes to write): any rank, chunks that split any axis, codecs, order, naming, shards."""
    version, rank = draw(st.sampled_from([2, 3])), draw(st.integers(1, 4))
    chunks = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    shape = tuple(draw(st.integers(1, 7)) for _ in range(rank))
    dtype = np.dtype(draw(st.sampled_from(NUMBERS)))
    options = {"shape": shape, "chunks": chunks, "zarr_format": version, "dtype": dtype.str}
    options["fill_value"] = draw(st.sampled_from([0, 1, float("nan"), float("-inf")] if dtype.kind in "fc" else [0, 1]))
    plain = draw(st.booleans())
    if version == 2:
        separator = draw(st.sampled_from("./"))
        options |= {"order": draw(st.sampled_from("CF")), "chunk_key_encoding": {"name": "v2", "separator": separator}}
        options["filters"] = None if plain else draw(st.sampled_from([None, *filters_2(dtype)]))
        options["compressors"] = None if plain else draw(st.sampled_from([None, *COMPRESSORS_2]))
    else:
        name, separator = draw(st.sampled_from([*itertools.product(["default", "v2"], "./")]))
        options |= {"dtype": dtype.newbyteorder("="), "chunk_key_encoding": {"name": name, "separator": separator}}
        big = not dtype.isnative
        if dtype.itemsize > 1:
            options["serializer"] = BytesCodec(endian="big" if big else "little")
        order = draw(st.permutations(range(rank)))
        options["filters"] = [TransposeCodec(order=order)] * draw(st.integers(0, 2))
        options["compressors"] = [] if plain else draw(st.sampled_from([[], *compressors_3()]))
        shards = tuple(n * draw(st.integers(1, 3)) for n in chunks)
        if draw(st.booleans()):
            form = {"index_location": draw(st.sampled_from(["start", "end"]))}
            form["index_codecs"] = [BytesCodec(endian=draw(st.sampled_from(["little", "big"])))]
            form["index_codecs"] += draw(st.sampled_from([[], [Crc32cCodec()]]))
            inner = [*options.pop("filters"), options.pop("serializer", BytesCodec(endian=None)), *options.pop("compressors")]
            options["serializer"] = ShardingCodec(chunk_shape=chunks, codecs=inner, **form)
            options |= {"chunks": shards, "compressors": None, "filters": None}
    edges = [[draw(st.tuples(st.integers(0, n - 1), st.integers(1, n))) for n in shape] for _ in range(draw(st.integers(0, 2)))]
    return options, [tuple(slice(first, max(first + 1, last)) for first, last in edge) for edge in edges]


@given(arrays(), st.integers(0, 2**32 - 1))
def test_places_and_codecs_give_what_zarr_reads(tmp_path_factory, case, seed):
    options, boxes = case
    path = tmp_path_factory.mktemp("any") / "a{}.zarr"
    array = create(path, filled=False, **options)
    dtype = np.dtype(options["dtype"])
    for box in boxes:
        values = np.random.default_rng(seed).integers(0, 100, [part.stop - part.start for part in box])
        array[box] = values.astype(dtype)
    note((path / "zarr.json").read_text() if options["zarr_format"] == 3 else (path / ".zarray").read_text())
    stored = assert_same_as_zarr(path)
    again = pickle.loads(pickle.dumps(stored.located))
    numbers = range(len(stored.located.grid))
    assert again.places(numbers) == stored.located.places(numbers) == pickle.loads(pickle.dumps(stored)).located.places(numbers)
    assert again.chain == stored.located.chain and again.nbytes == stored.located.nbytes


# --- what the property test leaves out --------------------------------------------------------------------------------------

OLD_FILLS = [("<f4", "NaN"), ("<f4", "-Infinity"), ("<f8", None), ("<i4", None), ("|S4", None), ("|S4", "YWJjZA=="), ("|b1", True)]


@pytest.mark.parametrize(("dtype", "fill"), OLD_FILLS)
def test_fill_values_of_format_2_as_zarr_reads_them(tmp_path, dtype, fill):
    create(tmp_path / "a.zarr", filled=False, shape=(5, 2), chunks=(2, 1), dtype=dtype, zarr_format=2)
    edit(tmp_path / "a.zarr", lambda metadata: metadata.update(fill_value=fill))
    stored = assert_same_as_zarr(tmp_path / "a.zarr")
    assert not any(os.path.exists(place.path) for place in stored.located.places(range(6)))
    if fill is None:
        assert stored.located.fill == np.zeros((), dtype)[()]


@pytest.mark.parametrize(
    ("name", "fill", "bits"), [("float32", "0x7fc00001", 0x7FC00001), ("float64", "-Infinity", None), ("int8", -3, None)]
)
def test_fill_values_of_format_3_as_zarr_reads_them(tmp_path, name, fill, bits):
    create(tmp_path / "a.zarr", filled=False, dtype=name)
    edit(tmp_path / "a.zarr", lambda metadata: metadata.update(fill_value=fill))
    fill = assert_same_as_zarr(tmp_path / "a.zarr").located.fill
    assert bits is None or int(np.asarray(fill).view("u4")) == bits


def test_scalars_and_empty_arrays(tmp_path):
    for version, name in [(2, "0"), (3, "c")]:
        create(tmp_path / f"{version}.zarr", shape=(), chunks=(), zarr_format=version)
        (place,) = assert_same_as_zarr(tmp_path / f"{version}.zarr").located.places([0])
        assert place.path == str(tmp_path / f"{version}.zarr" / name)
        create(tmp_path / f"empty{version}.zarr", shape=(0, 3), chunks=(2, 3), zarr_format=version)
        assert len(assert_same_as_zarr(tmp_path / f"empty{version}.zarr").located.grid) == 0


def test_a_separator_outside_of_its_configuration_is_left_to_zarr(tmp_path):
    # zarr goes by it; the specification does not know it. To go by "/" would find no file, and give the fill value for every chunk.
    create(tmp_path / "a.zarr", chunks=(2, 4, 3), chunk_key_encoding={"name": "default", "separator": "."})
    edit(tmp_path / "a.zarr", lambda metadata: metadata.update(chunk_key_encoding={"name": "default", "separator": "."}))
    stored = zarr_store.open_array(tmp_path / "a.zarr")
    assert stored.located is None and "more than mmapstore understands" in stored.why_not
    box = np.zeros((10, 4, 3), "f4")
    stored.read_box((slice(0, 10), slice(0, 4), slice(0, 3)), box)
    assert box.all()


def test_axes_of_length_one_may_be_moved_for_nothing(tmp_path):
    create(tmp_path / "a.zarr", shape=(6, 1, 4), chunks=(1, 1, 4), order="F", zarr_format=2)
    stored = assert_same_as_zarr(tmp_path / "a.zarr")
    assert stored.located.axes is None and stored.located.has_rows
    create(tmp_path / "b.zarr", shape=(6, 2, 4), chunks=(1, 2, 4), order="F", zarr_format=2)
    assert assert_same_as_zarr(tmp_path / "b.zarr").located.axes == (2, 1, 0)


def test_paths_are_computed_and_take_no_memory(tmp_path):
    create(tmp_path / "a.zarr", filled=False, shape=(10**12, 4, 6), chunks=(1, 4, 3))
    encoded = zarr_store.open_array(tmp_path / "a.zarr").located
    assert encoded.nbytes == 0 and len(encoded.grid) == 2 * 10**12
    (place,) = encoded.places([2 * 10**12 - 1])
    assert place == (str(tmp_path / "a.zarr" / "c" / str(10**12 - 1) / "0" / "1"), 0, -1, 0)


def test_chain_and_storage_in_words(tmp_path):
    create(tmp_path / "a.zarr", chunks=(2, 4, 3), shards=(4, 4, 3), compressors=[wrapped.BZ2(level=1), Crc32cCodec()])
    stored = zarr_store.open_array(tmp_path / "a.zarr")
    assert stored.storage == "Zarr 3, chunks of (2, 4, 3), in shards of (4, 4, 3), bz2, crc32c"
    assert [(codec.name, str(codec)) for codec in stored.located.chain] == [("bzip2", "bz2"), ("crc32c", "crc32c")]


@pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")
def test_chunks_that_are_links_are_followed_as_zarr_does(tmp_path):
    create(tmp_path / "a.zarr", shards=(6, 4, 3))
    for file in (tmp_path / "a.zarr" / "c").rglob("0"):
        if file.is_file():
            target = tmp_path / "-".join(file.parts[-3:])
            file.rename(target)
            file.symlink_to(target)
    assert_same_as_zarr(tmp_path / "a.zarr")


# --- shards -----------------------------------------------------------------------------------------------------------------


def sharded(path, **options):
    create(path, **{"shape": (12, 4), "chunks": (2, 4), "shards": (6, 4), "compressors": [ZstdCodec(level=1)], **options})
    return zarr_store.open_array(path).located


def test_missing_chunks_and_shards_have_no_place(tmp_path):
    array = create(tmp_path / "a.zarr", filled=False, shape=(20, 4), chunks=(2, 4), shards=(6, 4))
    array[8:10] = 1
    places = zarr_store.open_array(tmp_path / "a.zarr").located.places(range(10))
    assert [number for number, place in enumerate(places) if place is not None] == [4]
    assert places[4].path == str(tmp_path / "a.zarr" / "c" / "1" / "0") and places[4].nbytes == 32
    assert_same_as_zarr(tmp_path / "a.zarr")


def test_one_missing_field_of_an_entry_is_damage(tmp_path):
    encoded = sharded(tmp_path / "a.zarr")
    rewrite_index(encoded.places([0])[0].path, lambda entries: entries.__setitem__((1, 0), 2**64 - 1))
    with pytest.raises(DamagedFileError, match=r"c.0.0: its index places chunk \(1, 0\) of the array at byte 18446744073709551615"):
        encoded_again(tmp_path).places([0, 1])


def encoded_again(tmp_path):
    return zarr_store.open_array(tmp_path / "a.zarr").located


def rewrite_index(path, change, chunks=3):
    """Change the entries of the index at a shard's end, and make its checksum fit again."""
    import google_crc32c

    data = bytearray(Path(path).read_bytes())
    entries = np.frombuffer(bytes(data[-4 - 16 * chunks : -4]), "<u8").reshape(-1, 2).copy()
    change(entries)
    data[-4 - 16 * chunks :] = entries.tobytes() + google_crc32c.value(entries.tobytes()).to_bytes(4, "little")
    Path(path).write_bytes(data)


def test_places_outside_of_the_shard_are_damage(tmp_path):
    path = Path(sharded(tmp_path / "a.zarr").places([0])[0].path)
    size = path.stat().st_size
    for offset, nbytes in [(size, 1), (0, size + 1), (2**63, 2**63), (2**64 - 2, 2**64 - 1)]:
        rewrite_index(path, lambda entries, entry=(offset, nbytes): entries.__setitem__(1, entry))
        encoded = encoded_again(tmp_path)
        assert encoded.places([0, 2])[1] is not None
        message = (
            rf"{path}: its index places chunk \(1, 0\) of the array at byte {offset}, {nbytes} bytes long, .* ends at byte {size}"
        )
        with pytest.raises(DamagedFileError, match=message):
            encoded.places([0, 1])


def test_a_flipped_bit_in_the_index_is_found_by_its_checksum(tmp_path):
    path = Path(sharded(tmp_path / "a.zarr").places([3])[0].path)
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    encoded = encoded_again(tmp_path)
    assert all(encoded.places([0, 1, 2]))
    with pytest.raises(
        DamagedFileError, match=rf"{path}: the index of the shard has the checksum 0x\w+, expected 0x\w+ \(crc32c\)"
    ):
        encoded.places([3])


def test_a_shard_shorter_than_its_index_is_damage(tmp_path):
    path = Path(sharded(tmp_path / "a.zarr").places([0])[0].path)
    for size in (0, 20):
        os.truncate(path, size)
        with pytest.raises(DamagedFileError, match=rf"{path} has {size} bytes, fewer than the 52 of a shard's index"):
            encoded_again(tmp_path).places([0])
    path.unlink()
    path.mkdir()
    with pytest.raises(DamagedFileError, match=rf"{path} is not a file; expected a shard"):
        encoded_again(tmp_path).places([0])


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_shard_that_may_not_be_read(tmp_path):
    path = Path(sharded(tmp_path / "a.zarr").places([0])[0].path)
    path.chmod(0)
    with pytest.raises(NotReadableError, match=rf"{path} may not be read"):
        encoded_again(tmp_path).places([0])


def test_a_shard_written_anew_after_its_index_was_read(tmp_path):
    encoded = sharded(tmp_path / "a.zarr")
    first = encoded.places(range(6))
    path = Path(first[3].path)
    path.rename(tmp_path / "kept")
    for written in (None, (tmp_path / "kept").read_bytes()):
        if written is not None:
            path.write_bytes(written)
        assert encoded.places([0, 1, 2]) == first[:3]
        with pytest.raises(DamagedFileError, match=rf"{path} was written anew or deleted since its index was read. Open the store"):
            encoded.places([2, 3])
    assert encoded_again(tmp_path).places(range(6)) == first


def test_without_the_directory_missing_shards_are_damage(tmp_path):
    encoded = sharded(tmp_path / "a.zarr")
    (tmp_path / "a.zarr").rename(tmp_path / "b.zarr")
    with pytest.raises(DamagedFileError, match=r"a.zarr is gone since it was opened, and its shards with it"):
        encoded.places([0])


def test_indexes_kept_are_bounded_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(zarr_shards, "MOST_INDEX_NBYTES", 100_000)
    array = create(tmp_path / "a.zarr", filled=False, shape=(400_000,), chunks=(2,), shards=(2000,), dtype="u1")
    for start in range(0, 400_000, 2000):
        array[start + 2 : start + 4] = 1 + start // 2000 % 200
    encoded = zarr_store.open_array(tmp_path / "a.zarr").located
    tracemalloc.start()
    try:
        places = [place for shard in range(200) for place in encoded.places([1000 * shard, 1000 * shard + 1])]
        before = tracemalloc.get_traced_memory()[0]
        again = [encoded.places([1000 * shard + 1]) for shard in (0, 199, 0)]
        taken = tracemalloc.get_traced_memory()[0] - len(places) * 400
        assert before > 0 and taken <= encoded.nbytes <= 100_000
    finally:
        tracemalloc.stop()
    assert places[::2] == [None] * 200 and all(places[1::2])
    assert again == [[places[1]], [places[399]], [places[1]]]
    small = sharded(tmp_path / "b.zarr")
    assert 2 * (52 + 1024) < small.nbytes < 2 * (52 + 1024 + 4 * 300)


def test_threads_and_forks_share_an_index(tmp_path):
    encoded = sharded(tmp_path / "a.zarr", shape=(600, 4))
    expected, found = encoded_again(tmp_path).places(range(300)), []
    threads = [threading.Thread(target=lambda: found.append(encoded.places(range(300)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8
    with encoded._lock:  # as if another thread were at it when the process forks
        zarr_shards._after_fork()
    assert encoded.places(range(300)) == expected


# --- what only zarr reads ----------------------------------------------------------------------------------------------------


def codecs_3(*codecs):
    return lambda metadata: metadata.update(codecs=list(codecs))


def sharding(**changes):
    settings = {
        "chunk_shape": [3, 2, 3],
        "codecs": [LITTLE],
        "index_codecs": [LITTLE, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {"name": "sharding_indexed", "configuration": {**settings, **changes}}


LITTLE, BIG = ({"name": "bytes", "configuration": {"endian": order}} for order in ("little", "big"))
SHARDED = {"chunks": (3, 2, 3), "shards": (6, 4, 3)}
TRANSPOSE = {"name": "transpose", "configuration": {"order": [2, 1, 0]}}
TRANSPOSE_2 = {"name": "transpose", "configuration": {"order": [1, 0]}}
DELTA = {"name": "numcodecs.delta", "configuration": {"dtype": "<f4"}}
LOOKUP = {"name": "numcodecs.jenkins_lookup3", "configuration": {}}


def compressed_2(**settings):
    return {"zarr_format": 2}, lambda metadata: metadata.update(compressor=settings)


REFUSED = {
    "unknown codec": ({}, codecs_3(LITTLE, LOOKUP), "its codec 'numcodecs.jenkins_lookup3' is one that only zarr decodes"),
    "unknown codec, format 2": (*compressed_2(id="jenkins_lookup3"), "its codec 'jenkins_lookup3' is one that only zarr decodes"),
    "checksum around shards": (SHARDED, codecs_3(sharding(), {"name": "crc32c"}), "the shards are themselves encoded"),
    "transposed shards": (SHARDED, codecs_3(TRANSPOSE, sharding()), "the shards are themselves encoded"),
    "nested shards": (SHARDED, codecs_3(sharding(codecs=[sharding(chunk_shape=[3, 1, 3])])), "the shards hold shards"),
    "a filter of numbers": ({}, codecs_3(DELTA, LITTLE), "its codec 'numcodecs.delta' is one that only zarr decodes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_left_to_zarr_with_a_reason(tmp_path, case):
    options, change, why = REFUSED[case]
    create(tmp_path / "a.zarr", filled=False, **options)
    edit(tmp_path / "a.zarr", change)
    stored = zarr_store.open_array(tmp_path / "a.zarr")
    assert stored.located is None
    assert why in stored.why_not


def test_arrays_outside_of_a_directory_have_no_places():
    stored = zarr_store.from_live(zarr.create_array(zarr.storage.MemoryStore(), shape=(4,), dtype="f4"))
    assert stored.located is None and stored.why_not == "its chunks live in a MemoryStore"


# --- hostile metadata ----------------------------------------------------------------------------------------------------------

ARRAY_2 = {"shape": [12, 4], "chunks": [2, 4], "dtype": "<f4", "order": "C", "filters": [{"id": "shuffle", "elementsize": 4}]}
ARRAY_2 |= {"compressor": {"id": "lzma", "format": 3, "filters": []}, "dimension_separator": "/"}
ARRAY_3 = {"shape": [12, 4], "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}}}
ARRAY_3 |= {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [6, 4]}}, "storage_transformers": []}
ARRAY_3 |= {"codecs": [sharding(chunk_shape=[2, 4], codecs=[TRANSPOSE_2, LITTLE, {"name": "gzip", "configuration": {"level": 1}}])]}


def layout(metadata):
    version = 2 if "chunks" in metadata else 3
    return layout_of(Node("a.zarr", version, True, metadata), (12, 4), np.dtype("f4"))


def changed(metadata, *steps, value):
    found = metadata = json.loads(json.dumps(metadata))
    for step in steps[:-1]:
        found = found[step]
    found[steps[-1]] = value
    return metadata


SHARDS = ("codecs", 0, "configuration")
HOSTILE = [
    (changed(ARRAY_2, "chunks", value=[2, 4, 1]), r"lengths of its chunks are given as \[2, 4, 1\]"),
    (changed(ARRAY_2, "chunks", value=[0, 4]), r"lengths of its chunks are given as \[0, 4\]"),
    (changed(ARRAY_2, "chunks", value=[-2, 4]), r"lengths of its chunks are given as \[-2, 4\]"),
    (changed(ARRAY_2, "chunks", value=[True, 4.0]), r"lengths of its chunks are given as \[True, 4.0\]"),
    (changed(ARRAY_2, "chunks", value=[2**40, 2**40]), "larger than any memory"),
    (changed(ARRAY_2, "order", value="K"), "the unknown order 'K'"),
    (changed(ARRAY_2, "dimension_separator", value="/../"), "the separator '/../' in chunk names is not known"),
    (changed(ARRAY_2, "filters", 0, "id", value="delta"), "its codec 'delta' is one that only zarr decodes"),
    (changed(ARRAY_2, "filters", value=[{"id": "shuffle", "elementsize": 0}]), "its shuffle is of elements of '0' bytes"),
    (changed(ARRAY_2, "filters", value=[{"id": "shuffle", "elementsize": "4"}]), "its shuffle is of elements of"),
    (changed(ARRAY_2, "filters", value=[{"id": "crc32", "location": "middle"}]), "checksum is placed at 'middle'"),
    (changed(ARRAY_2, "compressor", "format", value=1), "its lzma has filters that its format has no place for"),
    (changed(ARRAY_2, "compressor", value=["zstd"]), "more than mmapstore understands"),
    (changed(ARRAY_3, "storage_transformers", value=[{"name": "x"}]), "named in a way that mmapstore does not know"),
    (changed(ARRAY_3, "chunk_key_encoding", "name", value="hashed"), "named in a way that mmapstore does not know"),
    (changed(ARRAY_3, "chunk_key_encoding", value={"name": "default", "separator": "."}), "more than mmapstore understands"),
    (changed(ARRAY_3, "chunk_key_encoding", "configuration", "separator", value=["/"]), r"separator \['/'\] in chunk names"),
    (changed(ARRAY_3, "chunk_grid", "name", value="rectilinear"), "on a grid of kind 'rectilinear'"),
    (changed(ARRAY_3, *SHARDS, "chunk_shape", value=[4, 4]), r"the shards of \(6, 4\) are not whole numbers of chunks of \(4, 4\)"),
    (changed(ARRAY_3, *SHARDS, "index_location", value="middle"), "indexes of its shards stand at 'middle'"),
    (changed(ARRAY_3, *SHARDS, "index_codecs", 1, "name", value="gzip"), "indexes of its shards are encoded in a way"),
    (changed(ARRAY_3, *SHARDS, "index_codecs", 0, value="bytes"), "indexes of its shards are encoded in a way"),
    (changed(ARRAY_3, *SHARDS, "codecs", 1, value="bytes"), "its byte order is given as None"),
    (changed(ARRAY_3, *SHARDS, "codecs", value=[LITTLE, TRANSPOSE_2]), "its codecs stand in an order"),
    (changed(ARRAY_3, *SHARDS, "codecs", 0, "configuration", "order", value=[0, 0]), "transposed in the unknown order"),
    (changed(ARRAY_3, *SHARDS, "codecs", value=[LITTLE, LITTLE]), "more than mmapstore understands"),
    (
        changed(
            changed(ARRAY_3, *SHARDS, "chunk_shape", value=[1, 1]), "chunk_grid", "configuration", "chunk_shape", value=[2**40, 1]
        ),
        "the index of each shard takes 17592186044420 bytes, more than are kept",
    ),
]


@pytest.mark.parametrize(("metadata", "why"), HOSTILE)
def test_hostile_metadata_is_refused_with_a_reason(metadata, why):
    found = layout(metadata)
    assert found.form is None
    assert re.search(why, found.why_not)


def test_names_may_stand_for_themselves():
    metadata = changed(ARRAY_3, "codecs", value=[{"name": "bytes", "configuration": {"endian": "little"}}, "crc32c"])
    assert [codec.name for codec in layout(metadata).form.encoding.chain] == ["crc32c"]


def places_in(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places_in(inner, (*path, key))


ODD = st.recursive(
    st.sampled_from([None, True, -1, 0, 2**70, 0.5, float("nan"), 1e400, "", "bytes", "{}", "../..", "\0", "<f4", "big", "F"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "configuration"]), inner),
    max_leaves=5,
)


@given(st.sampled_from([ARRAY_2, ARRAY_3]), st.data())
def test_no_metadata_raises_or_leads_out_of_the_store(metadata, data):
    for _ in range(data.draw(st.integers(1, 2))):
        steps = data.draw(st.sampled_from(list(places_in(metadata))))
        metadata = changed(metadata, *steps, value=data.draw(ODD))
        found = layout(metadata) if "chunk_key_encoding" in metadata or "chunks" in metadata else None
        if found is None or found.form is None:
            assert found is None or found.why_not
            return
        path = found.form.names.path((0, 0))
        assert os.path.abspath(path) == path and path.startswith(os.path.abspath("a.zarr") + os.sep)


def test_declared_sizes_beyond_reason_cost_nothing(tmp_path):
    create(tmp_path / "a.zarr", filled=False, shape=(12, 4), chunks=(2, 4), shards=(6, 4))
    edit(tmp_path / "a.zarr", lambda metadata: metadata.update(shape=[10**17, 10**17]))
    assert "more chunks of (2, 4) than can be numbered" in zarr_store.open_array(tmp_path / "a.zarr").why_not
    edit(tmp_path / "a.zarr", lambda metadata: metadata.update(shape=[10**17, 4]))
    encoded = zarr_store.open_array(tmp_path / "a.zarr").located
    assert encoded.places([0, len(encoded.grid) - 1]) == [None, None]
    assert encoded.nbytes <= zarr_shards.MOST_INDEX_NBYTES
