"""Zarr stores that lie: refused with an error that says where, or read right, in bounded time and memory."""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reading_process import Outcome, ReadingProcess
from stored_files import FRAMES

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and peaks of memory are Linux's")

SHAPE, CHUNK = [6, 2, 3, 4], [2, 2, 3, 4]
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
GZIP = {"name": "gzip", "configuration": {"level": 1}}
DEEP = "[" * 100_000 + "]" * 100_000


def grid(chunk: Any) -> dict[str, Any]:
    return {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}}}


def sharding(inner: Any, codecs: Any = None, **settings: Any) -> dict[str, Any]:
    settings = {"chunk_shape": inner, "codecs": codecs or [BYTES], "index_codecs": [BYTES, {"name": "crc32c"}], **settings}
    return {"name": "sharding_indexed", "configuration": settings}


def nested_shards(depth: int) -> dict[str, Any]:
    found = sharding(CHUNK)
    for _ in range(depth):
        found = sharding(CHUNK, [found])
    return found


def store_3(folder: Path, changes: dict[str, Any] | None = None, chunks: dict[str, bytes] | None = None) -> Path:
    """A store of format 3 with some of its metadata replaced. It is uncompressed, and whole, unless the changes say else."""
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": SHAPE,
        "data_type": "uint16",
        **grid(CHUNK),
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [BYTES],
        "attributes": {},
        **(changes or {}),
    }
    return _store(folder, "zarr.json", json.dumps(metadata), chunks, "c/{}/0/0/0")


def store_2(folder: Path, changes: dict[str, Any] | None = None, chunks: dict[str, bytes] | None = None) -> Path:
    metadata = {
        "zarr_format": 2,
        "shape": SHAPE,
        "chunks": CHUNK,
        "dtype": "<u2",
        "compressor": None,
        "fill_value": 0,
        "order": "C",
        "filters": None,
        "dimension_separator": ".",
        **(changes or {}),
    }
    return _store(folder, ".zarray", json.dumps(metadata), chunks, "{}.0.0.0")


def _store(folder: Path, name: str, text: str, chunks: dict[str, bytes] | None, naming: str) -> Path:
    store = folder / "x.zarr"
    store.mkdir()
    (store / name).write_text(text)
    if chunks is None:
        chunks = {naming.format(k): FRAMES[2 * k : 2 * k + 2].tobytes() for k in range(3)}
    for chunk, content in chunks.items():
        (store / chunk).parent.mkdir(parents=True, exist_ok=True)
        (store / chunk).write_bytes(content)
    return store


def checked(outcome: Outcome, store: Path, error: str, words: str = "") -> None:
    """`error` is the class that refuses it; "read" if nothing does, "" if both are right."""
    assert not outcome.complaint(store.name), outcome
    if error:
        assert (outcome.error or outcome.kind) == error, outcome
    assert words in outcome.text, outcome


def test_what_was_not_changed_is_read(tmp_path: Path, reading: ReadingProcess) -> None:
    for make in (store_2, store_3):
        (tmp_path / make.__name__).mkdir()
        assert reading.read(str(make(tmp_path / make.__name__))).shape == (6, 2, 3, 4)


METADATA_3: dict[str, tuple[dict[str, Any], str]] = {
    "a shape beyond reason": ({"shape": [2**57, 2, 3, 4]}, "read"),
    "a shape beyond 64 bits": ({"shape": [2**70, 2, 3, 4]}, "DamagedFileError"),
    "a sample beyond reason": ({"shape": [6, 2**20, 2**20, 4], **grid([1, 2**20, 2**20, 4])}, ""),
    "a chunk beyond reason": ({"shape": [2**40, 2, 3, 4], **grid([2**40, 2, 3, 4])}, ""),
    "a compressed chunk beyond reason": ({"shape": [2**40, 2, 3, 4], **grid([2**40, 2, 3, 4]), "codecs": [BYTES, GZIP]}, ""),
    "a negative length": ({"shape": [-6, 2, 3, 4]}, "DamagedFileError"),
    "a fraction": ({"shape": [6.5, 2, 3, 4]}, "DamagedFileError"),
    "a shape of text": ({"shape": "6234"}, ""),
    "a shape that is null": ({"shape": None}, "DamagedFileError"),
    "truth as a length": ({"shape": [True, 2, 3, 4]}, ""),
    "70 axes": ({"shape": [1] * 70, **grid([1] * 70)}, ""),
    "no chunk length": ({**grid([0, 2, 3, 4])}, "DamagedFileError"),
    "a negative chunk": ({**grid([-2, 2, 3, 4])}, "DamagedFileError"),
    "chunks longer than the array": ({**grid([2**40, 2, 3, 4])}, ""),
    "chunks of another rank": ({**grid([2, 2])}, "DamagedFileError"),
    "chunks of text": ({**grid("2234")}, "DamagedFileError"),
    "an unknown grid": ({"chunk_grid": {"name": "spiral", "configuration": {}}}, "DamagedFileError"),
    "no codecs": ({"codecs": []}, "DamagedFileError"),
    "codecs that are no list": ({"codecs": {"name": "bytes"}}, "DamagedFileError"),
    "an unknown codec": ({"codecs": [BYTES, {"name": "quantum"}]}, ""),
    "a codec without a name": ({"codecs": [BYTES, {}]}, "DamagedFileError"),
    "a codec with a name of another kind": ({"codecs": [BYTES, {"name": {"name": "gzip"}}]}, "DamagedFileError"),
    "two codecs that make bytes": ({"codecs": [BYTES, BYTES]}, "DamagedFileError"),
    "a thousand codecs": ({"codecs": [BYTES, *[{"name": "crc32c"}] * 1000]}, "DamagedFileError"),
    "a pickle as codec": ({"codecs": [{"name": "numcodecs.pickle", "configuration": {}}]}, "DamagedFileError"),
    "a pickle within shards": ({"codecs": [sharding(CHUNK, [{"name": "numcodecs.pickle"}])]}, "DamagedFileError"),
    "shards in shards": ({"codecs": [nested_shards(60)]}, ""),
    "shards of chunks of nothing": ({"codecs": [sharding([0, 2, 3, 4])]}, "DamagedFileError"),
    "shards whose index is beyond reason": (
        {"shape": [2**50, 2, 3, 4], **grid([2**40, 2, 3, 4]), "codecs": [sharding([1, 1, 1, 1])]},
        "",
    ),
    "shards that do not divide": ({"codecs": [sharding([3, 2, 3, 4])]}, "DamagedFileError"),
    "a transposition of no axes": ({"codecs": [{"name": "transpose", "configuration": {"order": [0, 0, 1, 2]}}, BYTES]}, ""),
    "a type nobody has": ({"data_type": "float1024"}, "DamagedFileError"),
    "a type that is an object": ({"data_type": {"name": "struct", "configuration": {"fields": []}}}, ""),
    "a type that is a number": ({"data_type": 5}, "DamagedFileError"),
    "text of a gigabyte": (
        {"data_type": {"name": "fixed_length_utf32", "configuration": {"length_bytes": 2**30}}, "fill_value": ""},
        "",
    ),
    "raw bytes": ({"data_type": "r65536", "fill_value": [0]}, ""),
    "a fill value out of range": ({"fill_value": 2**80}, ""),
    "a fill value of text": ({"fill_value": "many"}, "DamagedFileError"),
    "a fill value that is a list": ({"fill_value": [1, 2]}, "DamagedFileError"),
    "Infinity in whole numbers": ({"fill_value": float("inf")}, "DamagedFileError"),
    "NaN as JSON does not have it": ({"fill_value": float("nan"), "data_type": "float16"}, ""),
    "names that leave the store": (
        {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "/../../"}}},
        "",
    ),
    "a storage transformer": ({"storage_transformers": [{"name": "encrypt"}]}, ""),
    "an extension that must be understood": ({"quantum": {"must_understand": True}}, ""),
    "names of axes of another kind": ({"dimension_names": [5, {}, None, []]}, ""),
    "attributes that are no object": ({"attributes": [1]}, ""),
}


def test_shards_in_shards_without_end(tmp_path: Path, reading: ReadingProcess) -> None:
    for depth in (200, 2000, 50_000):
        (tmp_path / str(depth)).mkdir()
        store = store_3(tmp_path / str(depth), {"codecs": [sharding(CHUNK, ["HERE"])]})
        text = (store / "zarr.json").read_text()
        start, end = json.dumps(sharding(CHUNK, ["HERE"])).split('"HERE"')
        (store / "zarr.json").write_text(text.replace('"HERE"', start * depth + json.dumps(BYTES) + end * depth))
        checked(reading.read(str(store)), store, "")


METADATA_2: dict[str, tuple[dict[str, Any], str]] = {
    "a shape beyond reason": ({"shape": [2**62, 2, 3, 4]}, ""),
    "a chunk beyond reason": ({"shape": [2**40, 2, 3, 4], "chunks": [2**40, 2, 3, 4], "compressor": {"id": "zlib"}}, ""),
    "no chunk length": ({"chunks": [0, 2, 3, 4]}, "DamagedFileError"),
    "objects": ({"dtype": "|O", "filters": [{"id": "pickle"}], "fill_value": None}, "UnsafeFileError"),
    "a pickle behind zlib": ({"dtype": "|O", "filters": [{"id": "pickle"}], "compressor": {"id": "zlib"}}, "UnsafeFileError"),
    "a pickle as compressor": ({"compressor": {"id": "pickle"}}, "UnsafeFileError"),
    "objects of text": ({"dtype": "|O", "filters": [{"id": "vlen-utf8"}], "fill_value": ""}, ""),
    "objects of runs": ({"dtype": "|O", "filters": [{"id": "vlen-array", "dtype": "<i4"}], "fill_value": 0}, ""),
    "fields that hold objects": ({"dtype": [["a", "|O"], ["b", "<i4"]]}, ""),
    "a type beyond reason": ({"dtype": "|S2147483647"}, ""),
    "a type that is code": ({"dtype": "__import__('os')"}, "DamagedFileError"),
    "an unknown codec": ({"compressor": {"id": "quantum"}}, "DamagedFileError"),
    "a codec without a name": ({"compressor": {"level": 1}}, ""),
    "an order nobody has": ({"order": "Z"}, "DamagedFileError"),
    "filters that are text": ({"filters": "delta"}, "DamagedFileError"),
    "delta of nonsense": ({"filters": [{"id": "delta", "dtype": "<Q9"}]}, "DamagedFileError"),
    "a shuffle of nothing": ({"filters": [{"id": "shuffle", "elementsize": 0}]}, ""),
    "names that leave the store": ({"dimension_separator": "/../"}, ""),
    "blosc with settings beyond reason": ({"compressor": {"id": "blosc", "clevel": 10**9, "blocksize": 2**60}}, ""),
    "lzma with filters that lie": ({"compressor": {"id": "lzma", "format": 3, "filters": [{"id": 33, "dict_size": 2**31}]}}, ""),
    "a fill value that is base64": ({"fill_value": "AAAA"}, ""),
}


@pytest.mark.parametrize("name", METADATA_3)
def test_metadata_of_format_3(name: str, tmp_path: Path, reading: ReadingProcess) -> None:
    changes, error = METADATA_3[name]
    store = store_3(tmp_path, changes)
    checked(reading.read(str(store)), store, error)


@pytest.mark.parametrize("name", METADATA_2)
def test_metadata_of_format_2(name: str, tmp_path: Path, reading: ReadingProcess) -> None:
    changes, error = METADATA_2[name]
    store = store_2(tmp_path, changes)
    checked(reading.read(str(store)), store, error)


TEXTS = {
    "nothing": "",
    "deep nesting": DEEP,
    "deep nesting in an attribute": '{"zarr_format": 3, "node_type": "group", "attributes": {"a": ' + DEEP + "}}",
    "a number of a million digits": '{"zarr_format": ' + "9" * 1_000_000 + "}",
    "a list": "[3]",
    "a byte that is no text": b"\xff\xfe{",
    "two of the same key": '{"zarr_format": 3, "zarr_format": 3, "node_type": "array", "node_type": "group"}',
    "100 MB of blanks": b" " * 100_000_000,
    "NaN as format": '{"zarr_format": NaN, "node_type": "array"}',
    "a node of no kind": '{"zarr_format": 3, "node_type": ["array"]}',
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("file", ["zarr.json", ".zarray", ".zgroup"])
def test_metadata_that_is_no_metadata(name: str, file: str, tmp_path: Path, reading: ReadingProcess) -> None:
    store = tmp_path / "x.zarr"
    store.mkdir()
    text = TEXTS[name]
    (store / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    outcome = reading.read(str(store))
    checked(outcome, store, "")
    assert outcome.kind == "refused"


@pytest.mark.parametrize("file", ["zarr.json", "c/1/0/0/0"])
@pytest.mark.parametrize("kind", ["fifo", "directory", "endless", "link to nothing", "link to itself", "no permission"])
@pytest.mark.parametrize("sharded", [False, True])
def test_what_is_no_file(file: str, kind: str, sharded: bool, tmp_path: Path, reading: ReadingProcess) -> None:
    if kind == "no permission" and os.geteuid() == 0:
        pytest.skip("whoever may do everything is refused nothing")
    store = store_3(tmp_path, {"codecs": [sharding(CHUNK)]} if sharded else {})
    path = store / file
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "no permission":
        path.touch(mode=0)
    else:
        path.symlink_to({"endless": "/dev/zero", "link to nothing": "nothing", "link to itself": path.name}[kind])
    outcome = reading.read(str(store))
    checked(outcome, store, "")
    assert outcome.kind == "refused" or kind == "link to nothing", outcome


def bomb(nbytes: int) -> bytes:
    return gzip.compress(bytes(nbytes), 9)


def test_a_chunk_that_unpacks_to_a_gigabyte(tmp_path: Path, reading: ReadingProcess) -> None:
    numcodecs = pytest.importorskip("numcodecs")
    once = gzip.compress(bytes(2**20), 9)
    cases: dict[str, tuple[dict[str, Any], bytes]] = {
        "gzip": ({"id": "gzip", "level": 1}, once * 1000),
        "zlib": ({"id": "zlib", "level": 1}, numcodecs.Zlib(9).encode(bytes(2**28))),
        "zstd": ({"id": "zstd", "level": 1}, bytes(numcodecs.Zstd(1).encode(bytes(2**28)))),
        "blosc": ({"id": "blosc"}, bytes(numcodecs.Blosc("zstd", clevel=9).encode(bytes(2**28)))),
        "lz4": ({"id": "lz4"}, bytes(numcodecs.LZ4().encode(bytes(2**28)))),
        "bz2": ({"id": "bz2"}, numcodecs.BZ2(9).encode(bytes(2**28))),
        "lzma": ({"id": "lzma"}, numcodecs.LZMA(preset=0).encode(bytes(2**28))),
    }
    for name, (compressor, content) in cases.items():
        (tmp_path / name).mkdir()
        store = store_2(tmp_path / name, {"compressor": compressor}, {"0.0.0.0": content})
        checked(reading.read(str(store)), store, "DamagedFileError")


@pytest.mark.parametrize("claimed", [0, 1, 95, 97, 2**31 - 1, 2**31, 2**32 - 1])
def test_frames_that_claim_another_size(claimed: int, tmp_path: Path, reading: ReadingProcess) -> None:
    numcodecs = pytest.importorskip("numcodecs")
    values = FRAMES[:2].tobytes()
    blosc = bytearray(bytes(numcodecs.Blosc().encode(values)))
    stored = bytes(blosc[:12]) + claimed.to_bytes(4, "little") + bytes(blosc[16:])
    blosc[4:8] = claimed.to_bytes(4, "little")
    lz4 = claimed.to_bytes(4, "little") + bytes(numcodecs.LZ4().encode(values))[4:]
    zstd = bytes.fromhex("28b52ffda0") + claimed.to_bytes(4, "little") + bytes(numcodecs.Zstd().encode(values))[6:]
    for number, (codec, content) in enumerate([("blosc", bytes(blosc)), ("blosc", stored), ("lz4", lz4), ("zstd", zstd)]):
        (tmp_path / str(number)).mkdir()
        store = store_2(tmp_path / str(number), {"compressor": {"id": codec}}, {"0.0.0.0": content})
        checked(reading.read(str(store)), store, "DamagedFileError")


@pytest.mark.parametrize("key", ["..", "../x.zarr", "a/../../x.zarr", "/..", "a//..", ".", "a\0b", "c/0"])
def test_keys_that_leave_the_store(key: str, tmp_path: Path, reading: ReadingProcess) -> None:
    store = store_3(tmp_path)
    outcome = reading.read(str(store), key=key)
    checked(outcome, store, "")
    assert outcome.kind == "refused"


def test_a_store_of_groups_in_groups(tmp_path: Path, reading: ReadingProcess) -> None:
    group = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}})
    store = folder = tmp_path / "x.zarr"
    for _ in range(600):
        folder.mkdir()
        (folder / "zarr.json").write_text(group)
        folder = folder / "g"
    checked(reading.read(str(store)), store, "KeyNotFoundError")


def test_a_shard_whose_index_lies(tmp_path: Path, reading: ReadingProcess) -> None:
    """An index without a checksum may say anything; chunks may overlap, but not leave the file."""
    codec = {"codecs": [sharding(CHUNK, index_codecs=[BYTES])], **grid(SHAPE)}
    for number, (offset, nbytes) in enumerate(
        [(0, 96), (2**63, 96), (2**64 - 1, 96), (0, 2**64 - 1), (2**64 - 96, 96), (300, 96), (0, 0), (0, 95), (240, 96)]
    ):
        entries = np.array([[offset, nbytes]] * 3, "<u8").tobytes()
        (tmp_path / str(number)).mkdir()
        store = store_3(tmp_path / str(number), codec, {"c/0/0/0/0": FRAMES.tobytes() + entries})
        checked(reading.read(str(store)), store, "" if nbytes == 96 and offset <= 240 else "DamagedFileError")
