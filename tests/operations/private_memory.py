"""How far private memory rises while something runs in a process of its own: what all tests of memory bounds share."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmapstore.files.process_memory import give_back_free_memory, private_bytes
from mmapstore.plain.memory_budget import MemoryPlan

needs_counts = pytest.mark.skipif(private_bytes() is None, reason="private memory is read from /proc")
_PREAMBLE = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from private_memory import Rise, predictions
"""
_SECONDS = 0.001  # between two looks


def measured(code: str, *arguments: object, timeout: float = 300) -> dict[str, Any]:
    """Run code that has `json`, `sys`, `Rise` and `predictions` in a new process; return the JSON that it prints last."""
    command = [sys.executable, "-c", _PREAMBLE + textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class Rise:
    """While it is open, looks at the private memory of this process and of those it started; `nbytes` is the most over the start.

    What the block needs has to be loaded before: run the same once, small.
    """

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)  # an error ends the process all the same

    def __enter__(self) -> Rise:
        give_back_free_memory()
        self._start = self._most = _private_now()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.nbytes = max(self._most, _private_now()) - self._start

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS):
            self._most = max(self._most, _private_now())


def _private_now() -> int:
    return (private_bytes() or 0) + sum(map(_private_of, _children()))


def _children() -> Iterator[str]:
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            yield from Path(f"/proc/self/task/{task}/children").read_text().split()


def _private_of(process: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def predictions() -> Iterator[list[int]]:
    """Collects the bytes of every prediction that is held against a bound meanwhile."""
    found: list[int] = []
    require = MemoryPlan.require

    def noting(self: MemoryPlan, *arguments: Any) -> None:
        found.append(self.total)
        require(self, *arguments)

    MemoryPlan.require = noting  # type: ignore[method-assign]
    try:
        yield found
    finally:
        MemoryPlan.require = require  # type: ignore[method-assign]
