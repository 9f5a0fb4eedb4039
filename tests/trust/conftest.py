from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from reading_process import ReadingProcess

collect_ignore = ["reading_child.py"]


@pytest.fixture(scope="session")
def reading() -> Iterator[ReadingProcess]:
    """A child process that reads hostile files."""
    if not sys.platform.startswith("linux"):
        pytest.skip("limits and peaks of memory are read from Linux")
    process = ReadingProcess()
    yield process
    process.close()
