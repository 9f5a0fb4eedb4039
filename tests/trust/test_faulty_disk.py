"""A disk that fails at each call in turn: the error names the file and the cause, nothing that was there is harmed, and the same
call, made again, ends with the bytes that it would have written at once."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmapstore.files.system_errors import explaining_write_errors
from mmapstore.operations.flow import journal
from mmapstore.operations.ingest import ingest, plan
from mmapstore.plain import chunk_grid
from mmapstore.plain.errors import DamagedFileError, MmapstoreError, WriteError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the calls are those of Linux")

WRITING = ("pwrite", "write", "fsync", "fdatasync", "replace", "ftruncate", "posix_fallocate", "mkdir")
FRAMES = np.random.default_rng(0).integers(0, 255, (60, 3, 10, 8)).astype(np.uint8)
OLD = FRAMES[::-1].copy()
Fails = Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]


@contextmanager
def faulty(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], at: int, fails: Fails) -> Iterator[list[str]]:
    """Have call number `at` of these functions of `os` be what `fails(name, call, arguments)` makes of it. Gives their names."""
    seen: list[str] = []

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            return fails(name, call, arguments) if len(seen) == at else call(*arguments, **options)

        return counted

    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(os, name, wrapped(name, getattr(os, name)))
        yield seen


def error(number: int) -> Fails:
    def fails(name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        raise OSError(number, os.strerror(number))

    return fails


def short(name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Half of what was to be written is, as when a disk fills up or a signal comes."""
    descriptor, data, *offset = arguments
    return call(descriptor, memoryview(data).cast("B")[: len(memoryview(data).cast("B")) // 2], *offset)


@pytest.fixture
def stepwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(plan, "BLOCK_NBYTES", 6000)
    monkeypatch.setattr(chunk_grid, "USUAL_CHUNK_NBYTES", 6000)
    for name in ("fsync", "fdatasync"):  # nothing here outlives the machine, and the disk is slow
        monkeypatch.setattr(os, name, lambda descriptor: None)


def stored(target: Path) -> np.ndarray[Any, Any]:
    if target.suffix == ".npy":
        return np.load(target)
    if target.suffix == ".h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(target, "r") as file:
            return file["data"][()]
    return pytest.importorskip("zarr").open_array(str(target), mode="r")[...]


@pytest.mark.parametrize("replaces", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize(
    "out", ["x.npy", pytest.param("x.h5", marks=pytest.mark.slow), pytest.param("x.zarr", marks=pytest.mark.slow)]
)
def test_each_write_fails(
    out: str, number: int, replaces: bool, tmp_path: Path, stepwise: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source.npy", tmp_path / out
    np.save(source, FRAMES)
    before = source.read_bytes()
    at = 0
    while True:
        at += 1
        if replaces:
            ingest(OLD, target, overwrite=True)
        with faulty(monkeypatch, WRITING, at, error(number)) as seen:
            try:
                ingest(str(source), target, overwrite=replaces, progress=False)
                failed = ""
            except WriteError as found:
                failed = str(found)
        if len(seen) < at:
            assert not failed
            break
        if failed:  # a directory that cannot be synced is no failure
            assert str(target) in failed and os.strerror(number) in failed, (seen[-1], failed)
            if target.exists():
                assert any(np.array_equal(stored(target), whole) for whole in ((OLD, FRAMES) if replaces else (FRAMES,)))
            ingest(str(source), target, overwrite=replaces, progress=False)
        np.testing.assert_array_equal(stored(target), FRAMES)
        assert source.read_bytes() == before
        assert sorted(os.listdir(tmp_path)) == sorted(["source.npy", out, f"{out}.mmapstore.json"]), (at, seen[-1])
        if not replaces:
            for name in (out, f"{out}.mmapstore.json"):
                _remove(tmp_path / name)
    assert at > 5


def _remove(path: Path) -> None:
    if path.is_dir():
        for below in sorted(path.rglob("*"), reverse=True):
            below.rmdir() if below.is_dir() else below.unlink()
        path.rmdir()
    else:
        path.unlink()


def test_each_write_is_short(tmp_path: Path, stepwise: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(1, 100):
        with faulty(monkeypatch, ("pwrite", "write"), at, short) as seen:
            ingest(FRAMES, tmp_path / "x.npy", overwrite=True, progress=False)
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), FRAMES)
        if len(seen) < at:
            break
    assert at > 3


STORED = [("x.npy", {}), ("x.h5", {"compression": "gzip"}), ("x.h5", {}), ("x.zarr", {"compression": "zstd"})]

# --- reading -------------------------------------------------------------------------------------------------------------


def _epoch(target: Path, mapped: bool) -> list[np.ndarray[Any, Any]]:
    import mmapstore

    batches = mmapstore.open(target, mapped=mapped).batches(7, shuffle=True, seed=3)
    return [batches[number].copy() for number in range(len(batches))]


@pytest.mark.parametrize(
    "out, options", [("x.npy", {}), ("x.h5", {"compression": "gzip"}), ("x.h5", {}), ("x.zarr", {"compression": "zstd"})]
)
def test_each_read_is_short_or_interrupted(
    out: str, options: dict[str, Any], tmp_path: Path, stepwise: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(FRAMES, tmp_path / out, progress=False, **options)
    whole = _epoch(tmp_path / out, mapped=False)

    def short_read(name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        descriptor, buffers, offset, *flags = arguments
        first = memoryview(buffers[0]).cast("B")
        return call(descriptor, [first[: max(1, len(first) // 3)]], offset, *flags)

    for at in range(1, 60):
        with faulty(monkeypatch, ("preadv",), at, short_read) as seen:
            found = _epoch(tmp_path / out, mapped=False)
        assert all(map(np.array_equal, found, whole))
        if len(seen) < at:
            break
    assert at > 1


@pytest.mark.parametrize(
    "out, options", [("x.npy", {}), ("x.h5", {"compression": "gzip"}), ("x.h5", {}), ("x.zarr", {"compression": "zstd"})]
)
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_each_read_fails(
    out: str, options: dict[str, Any], number: int, tmp_path: Path, stepwise: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(FRAMES, tmp_path / out, progress=False, **options)
    whole = _epoch(tmp_path / out, mapped=False)
    for at in range(1, 60):
        with faulty(monkeypatch, ("preadv",), at, error(number)) as seen:
            try:
                found = _epoch(tmp_path / out, mapped=False)
            except DamagedFileError as damage:
                assert damage.errno == number and os.strerror(number) in str(damage) and str(tmp_path / out) in str(damage)
            else:
                assert all(map(np.array_equal, found, whole))
        if len(seen) < at:
            break
    assert at > 1
    assert all(map(np.array_equal, _epoch(tmp_path / out, mapped=False), whole))


def test_every_error_of_writing_says_what_to_do(tmp_path: Path) -> None:
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EFBIG):
        with pytest.raises(MmapstoreError, match=os.strerror(number)), explaining_write_errors("x.npy"):
            raise OSError(number, os.strerror(number))
