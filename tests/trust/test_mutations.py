"""Files of every format and codec, cut short at every byte and with every bit flipped: refused with an error that names the
file, or read; and where a checksum protects the bytes, read as they were written. Never a crash, a hang, or much memory.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from mutations import Mutation, all_mutations, mutated, sampled
from reading_process import ReadingProcess
from stored_files import STORED_FILES, StoredFile, checked_bytes, files_of

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and peaks of memory are Linux's")


def complaints(kind: StoredFile, folder: Path, reading: ReadingProcess, count: int | None) -> list[str]:
    """What was wrong, for all mutations of all files, or for `count` of them."""
    source = kind.make(folder)
    whole = reading.read(str(folder / source))
    assert whole.kind == "read", whole
    every = [
        (name, mutation)
        for name in files_of(folder)
        for mutation in all_mutations((folder / name).read_bytes(), every_bit=kind.every_bit or count is not None)
    ]
    chosen: dict[str, list[Mutation]] = {}
    for name, mutation in every if count is None else sampled(every, count, kind.name):
        chosen.setdefault(name, []).append(mutation)
    found = []
    for name, mutations in chosen.items():
        checked = checked_bytes(kind, folder, name)
        for mutation, outcome in mutated(folder / name, mutations, reading, str(folder / source)):
            what = outcome.complaint(str(folder))
            protected = any(start <= mutation.at < stop for start, stop in checked)
            if not what and protected and outcome.kind == "read" and outcome.values != whole.values:
                what = "other values were read from bytes under a checksum"
            if what:
                found.append(f"{kind.name}, {name}, {mutation!s}: {what}")
    again = reading.read(str(folder / source))
    assert again.values == whole.values, again
    return found


@pytest.mark.parametrize("kind", STORED_FILES, ids=lambda kind: kind.name)
def test_some_changes(kind: StoredFile, tmp_path: Path, reading: ReadingProcess) -> None:
    assert not complaints(kind, tmp_path, reading, 60)


@pytest.mark.slow
@pytest.mark.parametrize("kind", STORED_FILES, ids=lambda kind: kind.name)
def test_many_changes(kind: StoredFile, tmp_path: Path, reading: ReadingProcess) -> None:
    every = "MMAPSTORE_THOROUGH" in os.environ  # then for hours
    assert not complaints(kind, tmp_path, reading, None if every else 500)
