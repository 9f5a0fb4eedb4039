"""Small files of every format and codec, each written by the format's own library: what the mutations are made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Array = np.ndarray[Any, np.dtype[Any]]

FRAMES = (np.arange(6 * 2 * 3 * 4, dtype="<u2").reshape(6, 2, 3, 4) ** 2 % 997).astype("<u2")
CHUNK = (2, 2, 3, 4)
_METADATA = ("zarr.json", ".zarray", ".zattrs", "mmapstore.json")


@dataclass(frozen=True)
class StoredFile:
    """One way to store `FRAMES`.

    Attributes
    ----------
    name : what the reports call it
    make : writes it below a directory; returns what `open` takes, relative to that directory
    checked : every byte of the chunks lies under a checksum: whatever changes there is refused, or changes no value
    every_bit : the slow test flips every bit of it, and not one in each byte: for one kind of each way to lay out metadata
    """

    name: str
    make: Callable[[Path], str]
    checked: bool = False
    every_bit: bool = False


def files_of(folder: Path) -> list[str]:
    """Every file below a directory, relative to it, in order."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def checked_bytes(kind: StoredFile, folder: Path, name: str) -> list[tuple[int, int]]:
    """[start, stop) of the bytes of a file that lie under a checksum."""
    path = folder / name
    if not kind.checked or path.name in _METADATA:
        return []
    if path.suffix != ".h5":
        return [(0, path.stat().st_size)]
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "r") as file:
        chunks = file["x"].id
        infos = [chunks.get_chunk_info(number) for number in range(chunks.get_num_chunks())]
    return [(info.byte_offset, info.byte_offset + info.size) for info in infos]


def _npy(folder: Path, change: Callable[[Array], Array] = lambda frames: frames) -> str:
    np.save(folder / "x.npy", change(FRAMES))
    return "x.npy"


def _npz(folder: Path) -> str:
    np.savez(folder / "x.npz", x=FRAMES)
    return "x.npz"


def _hdf5(folder: Path, libver: str = "earliest", **options: Any) -> str:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "x.h5", "w", libver=libver) as file:
        file.create_dataset("x", data=FRAMES, **options)
    return "x.h5"


def _plugin(name: str, **options: Any) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        plugins = pytest.importorskip("hdf5plugin")
        return _hdf5(folder, chunks=CHUNK, **getattr(plugins, name)(**options))

    return make


def _compact(folder: Path) -> str:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "x.h5", "w") as file:
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple(FRAMES.shape)
        h5py.h5d.create(file.id, b"x", h5py.h5t.STD_U16LE, space, how).write(h5py.h5s.ALL, h5py.h5s.ALL, FRAMES)
    return "x.h5"


def _zarr(folder: Path, zarr_format: int = 3, **options: Any) -> str:
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(
        folder / "x.zarr", shape=FRAMES.shape, dtype=FRAMES.dtype, zarr_format=zarr_format, **{"chunks": CHUNK, **options}
    )
    array[...] = FRAMES
    return "x.zarr"


def _numcodecs(folder: Path, filters: list[Any], compressor: Any) -> str:
    numcodecs = pytest.importorskip("numcodecs")
    made = [numcodecs.get_codec(each) for each in filters]
    return _zarr(folder, 2, filters=made or None, compressors=numcodecs.get_codec(compressor) if compressor else None)


def _codecs() -> Any:
    return pytest.importorskip("zarr").codecs


def _written(folder: Path) -> str:
    """A directory of fields with its manifest, as `ingest` leaves it."""
    target = folder / "x"
    target.mkdir()
    np.save(target / "data.npy", FRAMES)
    entry = {
        "file": "data.npy",
        "key": "",
        "shape": list(FRAMES.shape),
        "dtype": FRAMES.dtype.str,
        "layout": "NCHW",
        "episodes": [0, 2, 6],
        "block_samples": 4,
        "checksums": ["01234567", "89abcdef"],
        "statistics": {"count": 12, "mean": [1.5, 2.5]},
        "source": "frames",
    }
    text = json.dumps({"mmapstore": 1, "complete": True, "fields": {"data": entry}, "written_by": "mmapstore"}, indent=1)
    (target / "mmapstore.json").write_text(text)
    return "x"


STORED_FILES = [
    StoredFile("npy", _npy, every_bit=True),
    StoredFile("npy-fortran", lambda d: _npy(d, np.asfortranarray)),
    StoredFile("npy-big-endian", lambda d: _npy(d, lambda frames: frames.astype(">u2"))),
    StoredFile("written", _written, every_bit=True),
    StoredFile("npz", _npz, every_bit=True),
    StoredFile("hdf5-contiguous", _hdf5, every_bit=True),
    StoredFile("hdf5-contiguous-latest", lambda d: _hdf5(d, "latest")),
    StoredFile("hdf5-compact", _compact, every_bit=True),
    StoredFile("hdf5-chunked", lambda d: _hdf5(d, chunks=CHUNK), every_bit=True),
    StoredFile("hdf5-chunked-latest", lambda d: _hdf5(d, "latest", chunks=CHUNK)),
    StoredFile("hdf5-gzip-shuffle", lambda d: _hdf5(d, chunks=CHUNK, compression="gzip", shuffle=True), checked=True),
    StoredFile("hdf5-gzip-latest", lambda d: _hdf5(d, "latest", chunks=CHUNK, compression="gzip"), checked=True, every_bit=True),
    StoredFile(
        "hdf5-growing-latest",
        lambda d: _hdf5(d, "latest", chunks=CHUNK, compression="gzip", maxshape=(None, 2, 3, 4)),
        every_bit=True,
    ),
    StoredFile("hdf5-fletcher32", lambda d: _hdf5(d, chunks=CHUNK, fletcher32=True), checked=True),
    StoredFile("hdf5-lzf-fletcher32", lambda d: _hdf5(d, chunks=CHUNK, compression="lzf", fletcher32=True), checked=True),
    StoredFile("hdf5-lzf", lambda d: _hdf5(d, chunks=CHUNK, compression="lzf")),
    StoredFile("hdf5-scale-offset", lambda d: _hdf5(d, chunks=CHUNK, scaleoffset=10)),
    StoredFile("hdf5-zstd", _plugin("Zstd")),
    StoredFile("hdf5-blosc", _plugin("Blosc")),
    StoredFile("hdf5-blosc2", _plugin("Blosc2")),
    StoredFile("hdf5-lz4", _plugin("LZ4")),
    StoredFile("hdf5-bitshuffle", _plugin("Bitshuffle")),
    StoredFile("hdf5-bzip2", _plugin("BZip2"), checked=True),
    StoredFile("zarr2", lambda d: _zarr(d, 2, compressors=None)),
    StoredFile(
        "zarr2-zlib-delta", lambda d: _numcodecs(d, [{"id": "delta", "dtype": "<u2"}], {"id": "zlib"}), checked=True, every_bit=True
    ),
    StoredFile("zarr2-gzip-fortran", lambda d: _zarr(d, 2, order="F", compressors=None)),
    StoredFile("zarr2-gzip", lambda d: _numcodecs(d, [], {"id": "gzip"}), checked=True),
    StoredFile("zarr2-blosc", lambda d: _numcodecs(d, [], {"id": "blosc"})),
    StoredFile("zarr2-zstd", lambda d: _numcodecs(d, [], {"id": "zstd"})),
    StoredFile("zarr2-lz4-shuffle", lambda d: _numcodecs(d, [{"id": "shuffle", "elementsize": 2}], {"id": "lz4"})),
    StoredFile("zarr2-bz2-crc32", lambda d: _numcodecs(d, [{"id": "crc32"}], {"id": "bz2"}), checked=True),
    StoredFile("zarr2-lzma", lambda d: _numcodecs(d, [], {"id": "lzma"}), checked=True),
    StoredFile("zarr3", lambda d: _zarr(d, compressors=None)),
    StoredFile("zarr3-split", lambda d: _zarr(d, compressors=None, chunks=(2, 1, 3, 2))),
    StoredFile("zarr3-gzip", lambda d: _zarr(d, compressors=_codecs().GzipCodec()), checked=True),
    StoredFile("zarr3-zstd", lambda d: _zarr(d, compressors=_codecs().ZstdCodec(checksum=True)), checked=True),
    StoredFile("zarr3-blosc", lambda d: _zarr(d, compressors=_codecs().BloscCodec(cname="lz4")), every_bit=True),
    StoredFile("zarr3-crc32c", lambda d: _zarr(d, compressors=_codecs().Crc32cCodec()), checked=True),
    StoredFile("zarr3-transpose", lambda d: _zarr(d, compressors=None, filters=_codecs().TransposeCodec(order=(3, 1, 0, 2)))),
    StoredFile(
        "zarr3-sharded",
        lambda d: _zarr(d, shards=(4, 2, 3, 4), compressors=[_codecs().Crc32cCodec()]),
        checked=True,
        every_bit=True,
    ),
    StoredFile("zarr3-sharded-zstd", lambda d: _zarr(d, shards=(4, 2, 3, 4), compressors=_codecs().ZstdCodec())),
]
