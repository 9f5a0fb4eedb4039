"""`.npy` files and manifests that lie: refused with an error that says where, or read right, in bounded time and memory."""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading_process import Outcome, ReadingProcess
from stored_files import FRAMES

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and peaks of memory are Linux's")

PAYLOAD = FRAMES.tobytes()


class Runs:
    """A pickle of it, unpickled, would leave a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._path),)


def npy(path: Path, header: str | bytes, payload: bytes = PAYLOAD, version: tuple[int, int] = (1, 0), length: int = -1) -> Path:
    text = header.encode("latin1") if isinstance(header, str) else header
    size = struct.pack(
        "<H" if version == (1, 0) else "<I", (len(text) if length < 0 else length) % (2**16 if version == (1, 0) else 2**32)
    )
    path.write_bytes(b"\x93NUMPY" + bytes(version) + size + text + payload)
    return path


def header(shape: object = (6, 2, 3, 4), descr: object = "<u2", fortran: object = False) -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': {fortran!r}, 'shape': {shape!r}, }}\n"


def checked(outcome: Outcome, path: Path, error: str = "") -> None:
    assert not outcome.complaint(path.name), outcome
    if error:
        assert (outcome.error or outcome.kind) == error, outcome


HEADERS: dict[str, tuple[str, str]] = {
    "right": (header(), "read"),
    "a shape bomb": (header((2**40, 3, 50, 50)), "DamagedFileError"),
    "a shape beyond 64 bits": (header((2**70, 2**70)), "DamagedFileError"),
    "a product that wraps to what is there": (header((2**63, 2, 72)), "DamagedFileError"),
    "no samples, and as many axes as one likes": (header((0, 2**70)), ""),
    "a negative length": (header((-6, 2, 3, 4)), "DamagedFileError"),
    "two negative lengths": (header((-6, -2, 3, 4)), "DamagedFileError"),
    "a fraction": (header((6.0, 2, 3, 4)), "DamagedFileError"),
    "truth": (header((True, 2, 3, 4)), ""),
    "a list": (header([6, 2, 3, 4]), "DamagedFileError"),
    "a number": (header(6), "DamagedFileError"),
    "a thousand axes": (header((1,) * 1000), ""),
    "nested parentheses": ("(" * 4000 + ")" * 4000, "DamagedFileError"),
    "nested parentheses in the shape": (header().replace("(6", "(" * 900 + "6").replace("4)", "4)" + ")" * 899), ""),
    "unary minus without end": (header().replace("6", "-" * 5000 + "6"), "DamagedFileError"),
    "a power": (header().replace("6", "9**9**9"), "DamagedFileError"),
    "code": (header().replace("False", "__import__('os').getpid()"), "DamagedFileError"),
    "objects": (header(descr="|O"), "InvalidTypeError"),
    "an unknown type": (header(descr="<q9"), "DamagedFileError"),
    "a type of 2 GiB": (header(descr="|S2147483647"), "DamagedFileError"),
    "text": (header(descr="<U3"), "InvalidTypeError"),
    "dates": (header(descr="<M8[s]"), "InvalidTypeError"),
    "fields": (header(descr=[("a", "<i4"), ("b", "<f8")]), "InvalidTypeError"),
    "fields that hold objects": (header(descr=[("a", "|O")]), "InvalidTypeError"),
    "fields in fields": (header(descr=[("a", [("b", [("c", "<i4")])])]), "InvalidTypeError"),
    "a tuple as type": (header(descr=("<i4", (2, 2))), ""),
    "a type that is nothing": (header(descr=None), ""),
    "an empty type": (header(descr=""), ""),
    "bytes of no length": (header(descr="|V0"), "InvalidTypeError"),
    "an order that is a number": (header(fortran=2), "DamagedFileError"),
    "more keys": (header().replace("}", "'x': 1}"), "DamagedFileError"),
    "fewer keys": ("{'descr': '<u2'}", "DamagedFileError"),
    "nothing": ("", "DamagedFileError"),
    "zeros": ("\0" * 100, "DamagedFileError"),
    "no dictionary": ("[1, 2]", "DamagedFileError"),
    "keys twice": (header().replace("}", "'shape': (1, 2)}"), ""),
}


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("name", HEADERS)
def test_headers(name: str, version: tuple[int, int], tmp_path: Path, reading: ReadingProcess) -> None:
    text, error = HEADERS[name]
    path = npy(tmp_path / "x.npy", text, version=version)
    checked(reading.read(str(path)), path, error)


@pytest.mark.parametrize("version", [(0, 0), (1, 1), (4, 0), (255, 255)])
def test_versions_nobody_writes(version: tuple[int, int], tmp_path: Path, reading: ReadingProcess) -> None:
    checked(reading.read(str(npy(tmp_path / "x.npy", header(), version=version))), tmp_path / "x.npy", "DamagedFileError")


def test_headers_of_megabytes(tmp_path: Path, reading: ReadingProcess) -> None:
    for number, (text, length) in enumerate(
        [(header() + " " * 2**20, -1), (header(), 2**32 - 1), (header(), 2**31), (header((1,) * 400_000), -1)]
    ):
        path = npy(tmp_path / f"x{number}.npy", text, version=(2, 0), length=length)
        checked(reading.read(str(path)), path, "DamagedFileError")


@pytest.mark.parametrize("name", ["x.npy", "x.h5", "x.bin", "x"])
def test_pickles_are_not_run(name: str, tmp_path: Path, reading: ReadingProcess) -> None:
    mark = tmp_path / "mark"
    content = pickle.dumps(Runs(mark))
    for number, payload in enumerate(
        [content, b"\x93NUMPY\x01\x00" + struct.pack("<H", 60) + header((1,), "|O").encode() + content]
    ):
        path = tmp_path / f"{number}{name}"
        path.write_bytes(payload)
        checked(reading.read(str(path)), path)
    np.save(tmp_path / "objects.npy", np.array([Runs(mark)], object), allow_pickle=True)
    checked(reading.read(str(tmp_path / "objects.npy")), tmp_path / "objects.npy", "InvalidTypeError")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["x.npy", "x.h5", "x.npz", "x"])
@pytest.mark.parametrize("kind", ["fifo", "endless", "itself"])
def test_what_is_no_file(name: str, kind: str, tmp_path: Path, reading: ReadingProcess) -> None:
    path = tmp_path / name
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "endless" else name)
    outcome = reading.read(str(path))
    checked(outcome, path)
    assert outcome.kind == "refused"


SHAPES = st.lists(st.one_of(st.integers(-3, 8), st.integers(-(2**70), 2**70)), max_size=6).map(tuple)
DESCRIPTIONS = st.one_of(
    st.sampled_from(["<u2", ">f4", "|b1", "|O", "<U2", "|S3", "<c16", "<f2", "|V4", "<M8[ns]", "?", "=i8"]),
    st.text(max_size=6),
    st.lists(st.tuples(st.text(max_size=3), st.sampled_from(["<i4", "|O", "<f8"])), max_size=3),
    st.tuples(st.sampled_from(["<i4", "|O"]), st.lists(st.integers(0, 2**40), max_size=3).map(tuple)),
    st.none(),
)


@settings(max_examples=300)
@given(shape=SHAPES, descr=DESCRIPTIONS, fortran=st.sampled_from([True, False, 0, None]), payload=st.binary(max_size=600))
def test_any_header(
    shape: Any, descr: Any, fortran: Any, payload: bytes, tmp_path_factory: pytest.TempPathFactory, reading: ReadingProcess
) -> None:
    path = tmp_path_factory.mktemp("any") / "x.npy"
    text = header(shape, descr, fortran).encode("utf-8", "surrogatepass")
    checked(reading.read(str(npy(path, text, payload, (3, 0)))), path)


# --- manifests -----------------------------------------------------------------------------------------------------------

ENTRY = {
    "file": "data.npy",
    "key": "",
    "shape": list(FRAMES.shape),
    "dtype": "<u2",
    "layout": "NCHW",
    "episodes": [0, 2, 6],
    "block_samples": 4,
    "checksums": ["01234567", "89abcdef"],
}

ENTRIES: dict[str, tuple[dict[str, Any], str]] = {
    "right": ({}, "read"),
    "episodes past the end": ({"episodes": [0, 2, 600]}, "!"),
    "episodes that fall": ({"episodes": [0, 4, 2, 6]}, "DamagedFileError"),
    "episodes that begin late": ({"episodes": [2, 6]}, "DamagedFileError"),
    "episodes beyond 64 bits": ({"episodes": [0, 2**70]}, "!"),
    "no episodes": ({"episodes": []}, "DamagedFileError"),
    "episodes of text": ({"episodes": ["0", "x"]}, "DamagedFileError"),
    "no checksums": ({"checksums": []}, ""),
    "checksums of another kind": ({"checksums": [1, None]}, ""),
    "blocks of nothing": ({"block_samples": 0}, ""),
    "a file outside": ({"file": "../data.npy"}, "DamagedFileError"),
    "a file by its full path": ({"file": "/etc/passwd"}, "DamagedFileError"),
    "a file through a directory": ({"file": "a/../../data.npy"}, "DamagedFileError"),
    "itself": ({"file": "."}, "DamagedFileError"),
    "its own manifest": ({"file": "mmapstore.json"}, "DamagedFileError"),
    "a file with a zero": ({"file": "data\0.npy"}, "!"),
    "a file of no name": ({"file": ""}, "DamagedFileError"),
    "a name of a megabyte": ({"file": "x" * 2**20}, "!"),
    "a key": ({"key": "/x"}, "KeyNotFoundError"),
    "another shape": ({"shape": [6, 3, 2, 4]}, "DamagedFileError"),
    "a shape of text": ({"shape": "6234"}, ""),
    "another type": ({"dtype": "<f4"}, "DamagedFileError"),
    "a type of objects": ({"dtype": "|O"}, "DamagedFileError"),
    "a layout of other axes": ({"layout": "NHWCDT"}, "DamagedFileError"),
    "a layout that is a number": ({"layout": 5}, "DamagedFileError"),
    "infinite statistics": ({"statistics": {"mean": [float("inf")], "count": float("nan")}}, ""),
    "statistics of another kind": ({"statistics": [1]}, ""),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_manifests(name: str, tmp_path: Path, reading: ReadingProcess) -> None:
    changes, error = ENTRIES[name]
    folder = tmp_path / "x"
    folder.mkdir()
    np.save(folder / "data.npy", FRAMES)
    np.save(tmp_path / "data.npy", FRAMES)
    manifest = {"mmapstore": 1, "complete": True, "fields": {"data": {**ENTRY, **changes}}, "written_by": ""}
    (folder / "mmapstore.json").write_text(json.dumps(manifest))
    outcome = reading.read(str(folder))
    checked(outcome, folder, error if error != "!" else "")
    assert error != "!" or outcome.kind == "refused", outcome


TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "deep nesting": b"[" * 100_000,
    "no text": b"\xff\xfe\xff",
    "a number of a million digits": b'{"mmapstore": ' + b"9" * 1_000_000 + b"}",
    "fields that are none": b'{"mmapstore": 1, "complete": true, "fields": [1]}',
    "no fields": b'{"mmapstore": 1, "complete": true, "fields": {}}',
    "not complete": b'{"mmapstore": 1, "complete": 1, "fields": {}}',
    "100 MB of blanks": b" " * 100_000_000,
}


@pytest.mark.parametrize("name", TEXTS)
def test_manifests_that_are_none(name: str, tmp_path: Path, reading: ReadingProcess) -> None:
    np.save(tmp_path / "data.npy", FRAMES)
    (tmp_path / "x").mkdir()
    np.save(tmp_path / "x" / "data.npy", FRAMES)
    for path, manifest in (
        (tmp_path / "x", tmp_path / "x" / "mmapstore.json"),
        (tmp_path / "data.npy", tmp_path / "data.npy.mmapstore.json"),
    ):
        manifest.write_bytes(TEXTS[name])
        outcome = reading.read(str(path))
        checked(outcome, path)
        assert outcome.kind == "refused" or name == "no fields", outcome
