"""Copies to work on: the original stays what it is, whatever is done to the copy's files by replacing them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmapstore.files import reflink


@pytest.mark.parametrize("links", [True, False])
def test_a_store_is_shared_but_for_what_is_rewritten(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a" / "inner").mkdir(parents=True)
    (tmp_path / "a" / "inner" / "c.0").write_text("chunk")
    (tmp_path / "a" / "zarr.json").write_text("metadata")
    reflink.copy_store(str(tmp_path / "a"), str(tmp_path / "b"), lambda name: name == "zarr.json")
    assert (tmp_path / "b" / "inner" / "c.0").read_text() == "chunk"
    assert os.path.samefile(tmp_path / "a" / "inner" / "c.0", tmp_path / "b" / "inner" / "c.0") is links
    (tmp_path / "b" / "zarr.json").write_text("changed")
    assert (tmp_path / "a" / "zarr.json").read_text() == "metadata"
    if links:
        with pytest.raises(FileExistsError):
            reflink.copy_store(str(tmp_path / "a"), str(tmp_path / "b"), lambda name: False)


def test_a_file_is_copied_with_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"bytes")
    (tmp_path / "a").chmod(0o640)
    reflink.copy_file(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == b"bytes" and (tmp_path / "b").stat().st_mode & 0o777 == 0o640
