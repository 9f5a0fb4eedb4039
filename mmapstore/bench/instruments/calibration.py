"""Known amounts of memory, measured like a strategy is: what the instruments make of them, and what they miss."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ...plain.memory_budget import format_bytes
from .known_amounts import HELD, SPIKE, SPIKE_SECONDS
from .process_tree import Watch, can_watch

# Some systems keep /tmp in memory, where pages of files are memory that cannot be taken back.
_ON_DISK = Path("/var/tmp")


def calibrate() -> list[dict[str, Any]]:
    """What a child took and what was measured of it: [{"what", "expected", "measured", "missed"}], in bytes.

    `missed` is expected minus measured, below zero where too much was seen. Takes some 3 s and 200 MB of disk for a moment;
    empty on a system without /proc.
    """
    if not can_watch():
        return []
    with tempfile.TemporaryDirectory(prefix="mmapstore-", dir=_ON_DISK if _ON_DISK.is_dir() else None) as folder:
        path = Path(folder) / "mapped"
        _write(path)
        with (
            subprocess.Popen(
                [sys.executable, "-m", "mmapstore.bench.instruments.known_amounts", str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as child,
            Watch(child.pid) as watch,
        ):
            try:
                return _measured(child, watch)
            finally:
                child.kill()


def _write(path: Path) -> None:
    """Bytes, not a hole: a map of a hole may be given the one page of zeros over and over."""
    piece = bytes(range(256)) * 4000
    with path.open("wb") as file:
        for start in range(0, HELD, len(piece)):
            file.write(piece[: HELD - start])


def _measured(child: subprocess.Popen[str], watch: Watch) -> list[dict[str, Any]]:
    def took(amount: str) -> tuple[int, int]:
        """(private, file-backed) growth while the child took it."""
        assert child.stdin is not None
        watch.mark()
        mapped_before = watch.file_backed or 0
        child.stdin.write(amount + "\n")
        child.stdin.flush()
        if _answer(child) == "held":
            watch.catch_up()
            child.stdin.write("\n")
            child.stdin.flush()
            _answer(child)
        return watch.private or 0, (watch.file_backed or 0) - mapped_before

    _answer(child)
    anonymous, _ = took("anonymous")
    private, mapped = took("mapped")
    shared, _ = took("shared")
    spike, _ = took("spike")
    return [
        _row(f"private memory of {format_bytes(HELD)} of anonymous memory", HELD, anonymous),
        _row(f"private memory of a mapped file of {format_bytes(HELD)}, all of it read", 0, private),
        _row("file-backed memory of the same", HELD, mapped),
        _row(
            f"private memory of {format_bytes(HELD)} that a process and its child share; that child, a Python, adds some 6 MB",
            HELD,
            shared,
        ),
        _row(f"private memory of {format_bytes(SPIKE)} for {SPIKE_SECONDS * 1e3:.0f} ms; {watch.pace()}", SPIKE, spike),
    ]


def _row(what: str, expected: int, measured: int) -> dict[str, Any]:
    return {"what": what, "expected": expected, "measured": measured, "missed": expected - measured}


def _answer(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    answer = child.stdout.readline().strip()
    if not answer:
        raise RuntimeError(f"the child of the calibration ended with exit status {child.wait()}")
    return answer
