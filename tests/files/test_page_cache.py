"""The page cache: files are dropped and brought in, and asking changes nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mmapstore.files import page_cache

MB = 1_000_000
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the page cache is told of on Linux")


def test_files_are_dropped_and_brought_in_again(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "empty")]
    for path in paths:
        path.write_bytes(bytes(5 * MB) if path.name != "empty" else b"")
    if page_cache.drop(paths) == 1.0:
        pytest.skip("these files are on a tmpfs, which keeps what it has")
    assert page_cache.cached_share(paths) <= 0.01
    assert page_cache.warm(paths)
    assert page_cache.cached_share(paths) > 0.9  # memory may be short, and the kernel takes some back


def test_files_larger_than_memory_are_not_brought_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(MB))
    monkeypatch.setattr(page_cache, "memory_available", lambda: MB - 1)
    assert not page_cache.warm([path])


def is_cached(path: Path, at: int) -> bool | None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return page_cache.is_cached(descriptor, at)
    finally:
        os.close(descriptor)


def test_asking_brings_nothing_in(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(5 * MB))
    assert is_cached(path, 3 * MB) is True and is_cached(path, 5 * MB - 1) is True
    if page_cache.drop([path]) > 0:
        pytest.skip("these files are on a tmpfs, which keeps what it has")
    assert [is_cached(path, at) for at in range(0, 5 * MB, 100_001)] == [False] * 50
    assert page_cache.cached_share([path]) == 0
    assert is_cached(path, 5 * MB) is None  # there is no such byte


def test_of_files_of_others_the_system_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(MB))
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    path.chmod(0o600)
    assert is_cached(path, 0) is True  # it may be written to
    asked = []
    monkeypatch.setattr(os, "access", lambda *arguments: asked.append(arguments))
    assert is_cached(path, 0) is None
    assert [mode for _, mode in asked] == [os.W_OK]
