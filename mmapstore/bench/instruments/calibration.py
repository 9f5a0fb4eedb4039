"""Calibration: a child takes known amounts of memory, and is measured like a strategy."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ...plain.memory_budget import format_bytes
from .process_tree import Watch, can_watch

HELD, SPIKE = 200_000_000, 500_000_000  # bytes
_SPIKE_SECONDS = 0.02
# Some systems keep /tmp in memory, where pages of files are memory that cannot be taken back.
_ON_DISK = Path("/var/tmp")
# A small process, so that little beside the known amounts is measured. It takes the amount that a line names and answers "held";
# after another line it gives the memory back and answers "done". It does not wait while it holds the spike.
_CHILD = f"""
import ctypes, mmap, sys, time

def hold():
    print("held", flush=True)
    sys.stdin.readline()

def anonymous(nbytes, then):
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    place = (ctypes.c_char * nbytes).from_buffer(memory)
    ctypes.memset(place, 1, nbytes)  # touches every page, without a copy of as many bytes
    then()

print("ready", flush=True)
while line := sys.stdin.readline().strip():
    if line == "anonymous":
        anonymous({HELD}, hold)
    elif line == "spike":
        anonymous({SPIKE}, lambda: time.sleep({_SPIKE_SECONDS}))
    else:
        with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
            sum(memory[at] for at in range(0, len(memory), mmap.PAGESIZE))
            hold()
    print("done", flush=True)
"""


def calibrate() -> list[dict[str, Any]]:
    """Return the memory that a child took and the figure measured: [{"what", "expected", "measured", "missed"}], in bytes.

    `missed` is expected minus measured, below zero where too much was seen. Takes some 3 s and 200 MB of disk for a moment;
    empty on a system without /proc.
    """
    if not can_watch():
        return []
    with tempfile.TemporaryDirectory(prefix="mmapstore-", dir=_ON_DISK if _ON_DISK.is_dir() else None) as folder:
        path = Path(folder) / "mapped"
        piece = bytes(range(256)) * 3125  # bytes, not a hole: a map of a hole may be the one page of zeros over and over
        with path.open("wb") as file:
            file.writelines([piece] * (HELD // len(piece)))
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen([sys.executable, "-c", _CHILD, str(path)], **pipes) as child, Watch(child.pid) as watch:
            try:
                return _measured(child, watch)
            finally:
                child.kill()


def _measured(child: subprocess.Popen[str], watch: Watch) -> list[dict[str, Any]]:
    assert child.stdin is not None and child.stdout is not None
    writer, reader = child.stdin, child.stdout

    def took(amount: str) -> tuple[int, int]:
        """Return the growth of (private, file-backed) memory while the child took it."""
        watch.mark()
        mapped_before = watch.file_backed or 0
        print(amount, file=writer, flush=True)
        if reader.readline() == "held\n":
            watch.catch_up()
            print(file=writer, flush=True)
            reader.readline()
        return watch.private or 0, (watch.file_backed or 0) - mapped_before

    reader.readline()
    (anonymous, _), (private, mapped), (spike, _) = took("anonymous"), took("mapped"), took("spike")
    held = format_bytes(HELD)
    rows = [
        (f"private memory of {held} of anonymous memory", HELD, anonymous),
        (f"private memory of a mapped file of {held}, all of it read", 0, private),
        ("file-backed memory of the same", HELD, mapped),
        (f"private memory of {format_bytes(SPIKE)} for {_SPIKE_SECONDS * 1e3:.0f} ms", SPIKE, spike),
    ]
    names = ("what", "expected", "measured")
    return [dict(zip(names, row, strict=True)) | {"missed": row[1] - row[2]} for row in rows]
