"""HDF5 files that lie: refused with an error that says where, or read right, in bounded time and memory."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reading_process import Outcome, ReadingProcess
from stored_files import CHUNK, FRAMES

h5py = pytest.importorskip("h5py")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and peaks of memory are Linux's")

GZIP, SHUFFLE, FLETCHER32, SZIP, NBIT, SCALE_OFFSET = 1, 2, 3, 4, 5, 6
BZIP2, LZF, BLOSC, LZ4, BITSHUFFLE, ZFP, ZSTD, BLOSC2 = 307, 32000, 32001, 32004, 32008, 32013, 32015, 32026
RAW = FRAMES[:2].tobytes()
LONG = (4096, 2, 3, 4)  # HDF5 takes no chunk of more stored bytes than 256 times the number it decodes to


def checked(outcome: Outcome, path: Path, error: str = "") -> None:
    """`error` is the class that refuses it; "read" if nothing does, "" if both are right."""
    assert not outcome.complaint(path.name), outcome
    if error:
        assert (outcome.error or outcome.kind) == error, outcome


def written(path: Path, fill: Callable[[Any], None], **options: Any) -> Path:
    with h5py.File(path, "w", **options) as file:
        fill(file)
    return path


def with_chunk(
    path: Path,
    filters: list[tuple[int, tuple[int, ...]]],
    stored: bytes,
    mask: int = 0,
    dtype: Any = None,
    chunk: tuple[int, ...] = CHUNK,
) -> Path:
    """A dataset with these filters and parameters, whose first chunk has these stored bytes; the others were never stored."""
    with h5py.File(path, "w") as file:
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_chunk(chunk)
        for code, values in filters:
            how.set_filter(code, h5py.h5z.FLAG_OPTIONAL, values)
        kind = dtype or h5py.h5t.STD_U16LE
        shape = (max(chunk[0], len(FRAMES)), *FRAMES.shape[1:])
        made = h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple(shape), how)
        made.write_direct_chunk((0, 0, 0, 0), stored, mask)
    return path


@pytest.mark.parametrize("chunks", [None, (2**20, 1, 1, 1), (64, 3, 50, 50)])
def test_a_small_file_that_declares_terabytes(chunks: Any, tmp_path: Path, reading: ReadingProcess) -> None:
    path = written(tmp_path / "x.h5", lambda file: file.create_dataset("x", (2**30, 3, 50, 50), "f4", chunks=chunks))
    assert path.stat().st_size < 6000
    outcome = reading.read(str(path))
    checked(outcome, path)
    assert outcome.kind == "refused" or outcome.shape == (2**30, 3, 50, 50)


def test_a_sample_of_terabytes(tmp_path: Path, reading: ReadingProcess) -> None:
    for number, chunks in enumerate([None, (1, 1, 2**20, 1)]):
        path = tmp_path / f"x{number}.h5"
        written(path, lambda file, c=chunks: file.create_dataset("x", (2, 1, 2**30, 2**10), "f4", chunks=c))
        checked(reading.read(str(path)), path)


def _noise(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def _bombs() -> dict[str, tuple[list[tuple[int, tuple[int, ...]]], bytes]]:
    zeros = bytes(2**28)
    found = {
        "gzip": ([(GZIP, (6,))], zlib.compress(zeros, 9)),
        "gzip after shuffle": ([(SHUFFLE, (2,)), (GZIP, (6,))], zlib.compress(zeros)),
    }
    numcodecs = pytest.importorskip("numcodecs")
    found["zstd"] = [(ZSTD, (3,))], bytes(numcodecs.Zstd(1).encode(zeros))
    found["blosc"] = [(BLOSC, (2, 2, 2, 96, 5, 1, 1))], bytes(numcodecs.Blosc("lz4").encode(zeros))
    found["bzip2"] = [(BZIP2, (9,))], numcodecs.BZ2(9).encode(zeros)
    return found


def test_chunks_that_unpack_to_a_quarter_of_a_gigabyte(tmp_path: Path, reading: ReadingProcess) -> None:
    pytest.importorskip("hdf5plugin")
    for name, (filters, stored) in _bombs().items():
        path = with_chunk(tmp_path / f"{name.replace(' ', '_')}.h5", filters, stored, chunk=LONG)
        checked(reading.read(str(path)), path, "DamagedFileError")


@pytest.mark.parametrize("claimed", [0, 1, 95, 97, 2**31 - 1, 2**31, 2**32 - 1])
def test_frames_that_claim_another_size(claimed: int, tmp_path: Path, reading: ReadingProcess) -> None:
    pytest.importorskip("hdf5plugin")
    numcodecs = pytest.importorskip("numcodecs")
    four, eight = claimed.to_bytes(4, "big"), claimed.to_bytes(8, "big")
    blosc = bytearray(bytes(numcodecs.Blosc().encode(RAW)))
    blosc[4:8] = claimed.to_bytes(4, "little")
    lz4 = bytes(numcodecs.LZ4().encode(RAW))[4:]
    cases = [
        ([(BLOSC, (2, 2, 2, 96, 5, 1, 1))], bytes(blosc)),
        ([(BLOSC, (2, 2, 2, claimed, 5, 1, 1))], bytes(numcodecs.Blosc().encode(RAW))),
        ([(LZ4, (0,))], eight + (96).to_bytes(4, "big") + len(lz4).to_bytes(4, "big") + lz4),
        ([(LZ4, (0,))], (96).to_bytes(8, "big") + four + len(lz4).to_bytes(4, "big") + lz4),
        ([(LZ4, (0,))], (96).to_bytes(8, "big") + (96).to_bytes(4, "big") + four + lz4),
        ([(ZSTD, (3,))], bytes.fromhex("28b52ffda0") + claimed.to_bytes(4, "little") + bytes(numcodecs.Zstd().encode(RAW))[6:]),
        ([(BITSHUFFLE, (0, 2, 2, 0, 2))], eight + four + _noise(80)),
        ([(BITSHUFFLE, (0, 2, 2, claimed % 2**31, 2))], (96).to_bytes(8, "big") + (96).to_bytes(4, "big") + _noise(80)),
        ([(LZF, (4, 0, claimed))], _noise(90)),
        ([(SHUFFLE, (claimed,))], RAW),
        ([(SHUFFLE, (claimed,)), (GZIP, (6,))], zlib.compress(RAW)),
        ([(GZIP, (claimed,))], zlib.compress(RAW)),
        ([(FLETCHER32, ())], RAW + four),
        ([(FLETCHER32, ())], RAW[:3]),
    ]
    for number, (filters, stored) in enumerate(cases):
        path = with_chunk(tmp_path / f"x{number}.h5", filters, stored)
        checked(reading.read(str(path)), path)


@pytest.mark.parametrize("code", [SZIP, NBIT, SCALE_OFFSET, BZIP2, LZ4, BITSHUFFLE, ZSTD, BLOSC, BLOSC2, LZF, 4242])
def test_filters_without_and_with_senseless_parameters(code: int, tmp_path: Path, reading: ReadingProcess) -> None:
    pytest.importorskip("hdf5plugin")
    for number, values in enumerate([(), (0,), (2**32 - 1,) * 4, tuple(range(20)), (1,) * 7]):
        for stored in (_noise(90), b"", _noise(5), bytes(96)):
            path = tmp_path / f"x{number}_{len(stored)}.h5"
            try:
                with_chunk(path, [(code, values)], stored)
            except (OSError, ValueError, RuntimeError):
                continue  # h5py does not write such a thing
            checked(reading.read(str(path)), path)


def test_what_hdf5_alone_decodes_has_no_cap_but_that_of_its_codec(tmp_path: Path, reading: ReadingProcess) -> None:
    """A limit, stated in `formats/hdf5_file.py`: 12 bits in 16 are HDF5's to convert, so it decodes the chunk, and a deflate
    stream may be 1032 times as long as its stored bytes. What we decode, we decode up to what the chunk should have."""
    kind = h5py.h5t.STD_U16LE.copy()
    kind.set_precision(12)
    stored = zlib.compress(bytes(2**28), 9)
    outcome = reading.read(str(with_chunk(tmp_path / "x.h5", [(GZIP, (6,))], stored, dtype=kind, chunk=LONG)))
    assert outcome.kind in ("read", "refused")
    assert outcome.grown_kib < 2 * 1032 * len(stored) // 1024


def test_packed_chunks_that_are_too_short(tmp_path: Path, reading: ReadingProcess) -> None:
    """HDF5 would go on in the memory behind them."""
    kind = h5py.h5t.STD_U16LE.copy()
    kind.set_precision(12)
    for size, error in [(71, "DamagedFileError"), (72, "read"), (1, "DamagedFileError")]:
        path = with_chunk(tmp_path / f"x{size}.h5", [(NBIT, ())], _noise(size), dtype=kind)
        checked(reading.read(str(path)), path, error)


@pytest.mark.parametrize("mask", [1, 2, 3, 2**31, 2**32 - 1])
def test_masks_that_say_what_was_left_out(mask: int, tmp_path: Path, reading: ReadingProcess) -> None:
    for number, stored in enumerate([RAW, RAW[:-1], RAW + b"x", zlib.compress(RAW), b"\0"]):
        path = with_chunk(tmp_path / f"x{number}.h5", [(SHUFFLE, (2,)), (GZIP, (6,))], stored, mask)
        checked(reading.read(str(path)), path)


def _round(file: Any) -> None:
    file.create_group("a")["b"] = file["/"]
    file["a/self"] = file["a"]
    file["x"] = FRAMES


def _deep(file: Any) -> None:
    group = file
    for _ in range(3000):
        group = group.create_group("g")
    group["x"] = FRAMES


def _soft_round(file: Any) -> None:
    file["x"] = h5py.SoftLink("/y")
    file["y"] = h5py.SoftLink("/x")


def _names(file: Any) -> None:
    file[b"\xff\xfe"] = FRAMES
    file["a\nb\x1b[31m"] = FRAMES


def _references(file: Any) -> None:
    made = file.create_dataset("x", (6,), h5py.ref_dtype)
    made[0] = file.ref


TREES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "groups that hold themselves": (_round, ""),
    "three thousand groups in each other": (_deep, ""),
    "soft links in a circle": (_soft_round, ""),
    "names that are no text, or move the cursor": (_names, "KeyNotFoundError"),
    "references to objects": (_references, "InvalidTypeError"),
    "a named type": (lambda file: file.__setitem__("x", np.dtype("f4")), "KeyNotFoundError"),
    "text of any length": (lambda file: file.create_dataset("x", data=["a", "bc"]), "InvalidTypeError"),
    "runs of any length": (lambda file: file.create_dataset("x", (3,), h5py.vlen_dtype("i4")), "InvalidTypeError"),
    "fields": (lambda file: file.create_dataset("x", (3,), [("a", "i4"), ("b", "f8", (2, 2))]), "InvalidTypeError"),
    "a number of 2 GiB": (lambda file: file.create_dataset("x", (2,), "S2147483647"), ""),
    "bytes of no length": (lambda file: file.create_dataset("x", (2,), h5py.opaque_dtype(np.dtype("V1"))), "InvalidTypeError"),
    "32 axes": (lambda file: file.create_dataset("x", (1,) * 32, "f4"), "InvalidValueError"),
    "no samples": (lambda file: file.create_dataset("x", (0, 3), "f4", maxshape=(None, 3)), "InvalidValueError"),
    "no space": (lambda file: file.create_dataset("x", data=h5py.Empty("f4")), "InvalidValueError"),
    "a link out of the file": (lambda file: file.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/x")), "KeyNotFoundError"),
    "bytes in another file": (
        lambda file: file.create_dataset("x", (4,), "u1", external=[("/etc/passwd", 0, 4)]),
        "UnsafeFileError",
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_trees_and_types(name: str, tmp_path: Path, reading: ReadingProcess) -> None:
    make, error = TREES[name]
    path = written(tmp_path / "x.h5", make)
    checked(reading.read(str(path)), path, error)
    checked(reading.read(f"{path}::/x"), path)


def test_a_virtual_dataset(tmp_path: Path, reading: ReadingProcess) -> None:
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    path = written(tmp_path / "x.h5", lambda file: file.create_virtual_dataset("x", layout))
    checked(reading.read(str(path)), path, "UnsafeFileError")


def test_ten_thousand_datasets(tmp_path: Path, reading: ReadingProcess) -> None:
    path = written(tmp_path / "x.h5", lambda file: [file.create_dataset(f"d{k}", (1,), "u1") for k in range(10_000)])
    outcome = reading.read(str(path))
    checked(outcome, path, "KeyNotFoundError")
    assert len(outcome.text) < 5000


def test_a_name_that_is_no_hdf5(tmp_path: Path, reading: ReadingProcess) -> None:
    signature = b"\x89HDF\r\n\x1a\n"
    for number, content in enumerate([signature, signature + b"\xff" * 100, signature + bytes(2000), signature * 300]):
        path = tmp_path / f"x{number}.h5"
        path.write_bytes(content)
        checked(reading.read(str(path)), path, "DamagedFileError")
