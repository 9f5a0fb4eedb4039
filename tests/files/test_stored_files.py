"""What a store is made of on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmapstore.files.stored_files import files_of, nbytes_on_disk


def test_a_file_and_a_directory(tmp_path: Path) -> None:
    (tmp_path / "store" / "c" / "0").mkdir(parents=True)
    (tmp_path / "store" / "empty").mkdir()
    for name, nbytes in {"a": 1, "store/.zarray": 2, "store/b": 0, "store/c/0/1": 4, "store/c/0/0": 8}.items():
        (tmp_path / name).write_bytes(bytes(nbytes))
    (tmp_path / "store" / "d").symlink_to(tmp_path / "nowhere")
    found = [path.relative_to(tmp_path / "store").as_posix() for path in files_of(tmp_path / "store")]
    assert found == [".zarray", "b", "c/0/0", "c/0/1"]
    assert files_of(f"{tmp_path}/a::/frames") == files_of(tmp_path / "a") == [tmp_path / "a"]
    assert (nbytes_on_disk(tmp_path / "a"), nbytes_on_disk(str(tmp_path / "store"))) == (1, 14)


def test_what_is_not_there_has_no_size(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        nbytes_on_disk(tmp_path / "nowhere")


def test_a_name_may_have_colons(tmp_path: Path) -> None:
    (tmp_path / "a::b").write_bytes(bytes(3))
    assert nbytes_on_disk(tmp_path / "a::b") == 3
