"""Files that once crashed the process, or raised what no user should see: found by the mutations, kept as they were found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from reading_process import ReadingProcess

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and peaks of memory are Linux's")

CORPUS = sorted(Path(__file__).with_name("corpus").iterdir())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_it_is_refused(path: Path, reading: ReadingProcess) -> None:
    pytest.importorskip("h5py")
    outcome = reading.read(str(path))
    assert not outcome.complaint(path.name), outcome
    assert outcome.error == "DamagedFileError", outcome
