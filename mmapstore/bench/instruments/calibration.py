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


def calibrate() -> str:
    """Say what was measured of memory that a child took: "" on a system without /proc.

    Takes some 3 s and 200 MB of disk for a moment.
    """
    if not can_watch():
        return ""
    with tempfile.TemporaryDirectory(prefix="mmapstore-", dir=_ON_DISK if _ON_DISK.is_dir() else None) as folder:
        path = Path(folder) / "mapped"
        piece = bytes(range(256)) * 3125  # bytes, not a hole: a map of a hole may be the one page of zeros over and over
        with path.open("wb") as file:
            file.writelines([piece] * (HELD // len(piece)))
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen([sys.executable, "-c", _CHILD, str(path)], **pipes) as child, Watch(child.pid) as watch:
            try:
                anonymous, mapped, spike = (format_bytes(max(0, nbytes)) for nbytes in measured(child, watch))
            finally:
                child.kill()
    held, high, seconds = format_bytes(HELD), format_bytes(SPIKE), f"{_SPIKE_SECONDS * 1e3:.0f} ms"
    return (
        f"Of a process that took known amounts the instruments saw {anonymous} of {held} of private memory, {mapped} of private "
        f"memory for a mapped file of {held} that it read, and {spike} of {high} that it held for {seconds}."
    )


def measured(child: subprocess.Popen[str], watch: Watch) -> list[int]:
    """Return the growth of private memory while the child took each amount: anonymous memory, a mapped file, the spike."""
    assert child.stdin is not None and child.stdout is not None
    child.stdout.readline()
    found = []
    for amount in ("anonymous", "mapped", "spike"):
        watch.mark()
        print(amount, file=child.stdin, flush=True)
        if child.stdout.readline() == "held\n":
            watch.catch_up()
            print(file=child.stdin, flush=True)
            child.stdout.readline()
        found.append(watch.private or 0)
    return found
