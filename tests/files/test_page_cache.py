"""The page cache: files are dropped and brought in, and asking changes nothing."""

from __future__ import annotations

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


def test_asking_brings_nothing_in(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(5 * MB))
    assert page_cache.cached_share([path]) > 0.9
    if page_cache.drop([path]) > 0:
        pytest.skip("these files are on a tmpfs, which keeps what it has")
    assert [page_cache.cached_share([path]) for _ in range(3)] == [0, 0, 0]
