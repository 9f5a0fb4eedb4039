"""Calibration: a child takes known amounts of memory, and is measured like a strategy.

`python -m mmapstore.bench.instruments.calibration PATH` is the child. It reads names of `AMOUNTS` from standard input, one a line,
takes that memory and answers "held"; after another line it frees the memory and answers "done". The spike does not wait.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import time
from pathlib import Path
from typing import Any

if __name__ != "__main__":  # the child is a small process, so that little beside the known amounts is measured
    import subprocess
    import tempfile

    from ...plain.memory_budget import format_bytes
    from .process_tree import Watch, can_watch

HELD, SPIKE = 200_000_000, 500_000_000  # bytes
_SPIKE_SECONDS = 0.02
# Some systems keep /tmp in memory, where pages of files are memory that cannot be taken back.
_ON_DISK = Path("/var/tmp")


def calibrate() -> list[dict[str, Any]]:
    """Return the memory that a child took and the figure measured: [{"what", "expected", "measured", "missed"}], in bytes.

    `missed` is expected minus measured, below zero where too much was seen. Takes some 3 s and 200 MB of disk for a moment;
    empty on a system without /proc.
    """
    if not can_watch():
        return []
    with tempfile.TemporaryDirectory(prefix="mmapstore-", dir=_ON_DISK if _ON_DISK.is_dir() else None) as folder:
        path = Path(folder) / "mapped"
        piece = bytes(range(256)) * 4000  # bytes, not a hole: a map of a hole may be the one page of zeros over and over
        with path.open("wb") as file:
            for start in range(0, HELD, len(piece)):
                file.write(piece[: HELD - start])
        with (
            subprocess.Popen(
                [sys.executable, "-m", __name__, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as child,
            Watch(child.pid) as watch,
        ):
            try:
                return _measured(child, watch)
            finally:
                child.kill()


def _measured(child: subprocess.Popen[str], watch: Watch) -> list[dict[str, Any]]:
    assert child.stdin is not None and child.stdout is not None
    writer, reader = child.stdin, child.stdout

    def answer() -> str:
        if found := reader.readline().strip():
            return found
        raise RuntimeError(f"the child of the calibration ended with exit status {child.wait()}")

    def took(amount: str) -> tuple[int, int]:
        """Return the growth of (private, file-backed) memory while the child took it."""
        watch.mark()
        mapped_before = watch.file_backed or 0
        print(amount, file=writer, flush=True)
        if answer() == "held":
            watch.catch_up()
            print(file=writer, flush=True)
            answer()
        return watch.private or 0, (watch.file_backed or 0) - mapped_before

    answer()
    found, held = {name: took(name) for name in AMOUNTS}, format_bytes(HELD)
    shared = "that a process and its child share; that child, a Python, adds some 6 MB"
    spike = f"private memory of {format_bytes(SPIKE)} for {_SPIKE_SECONDS * 1e3:.0f} ms; {watch.pace()}"
    rows = [
        (f"private memory of {held} of anonymous memory", HELD, found["anonymous"][0]),
        (f"private memory of a mapped file of {held}, all of it read", 0, found["mapped"][0]),
        ("file-backed memory of the same", HELD, found["mapped"][1]),
        (f"private memory of {held} {shared}", HELD, found["shared"][0]),
        (spike, SPIKE, found["spike"][0]),
    ]
    return [
        {"what": what, "expected": expected, "measured": measured, "missed": expected - measured}
        for what, expected, measured in rows
    ]


# --- the child ----------------------------------------------------------------------------------------------------------


def _fill(memory: mmap.mmap) -> None:
    """Write to every page, without a copy of as many bytes."""
    place = (ctypes.c_char * len(memory)).from_buffer(memory)
    ctypes.memset(place, 1, len(memory))
    del place


def _hold() -> None:
    print("held", flush=True)
    sys.stdin.readline()


def _anonymous(path: str) -> None:
    with mmap.mmap(-1, HELD, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        _fill(memory)
        _hold()


def _mapped(path: str) -> None:
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        sum(memory[at] for at in range(0, len(memory), mmap.PAGESIZE))
        _hold()


def _shared(path: str) -> None:
    """Share memory with a child, both of which have touched every page."""
    with mmap.mmap(-1, HELD) as memory:
        _fill(memory)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writing)
            _fill(memory)
            print("held", flush=True)
            os.read(reading, 1)  # until the parent closes its end, or is gone
            os._exit(0)
        sys.stdin.readline()
        os.close(writing)
        os.close(reading)
        os.waitpid(child, 0)


def _spike(path: str) -> None:
    with mmap.mmap(-1, SPIKE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        _fill(memory)
        time.sleep(_SPIKE_SECONDS)


AMOUNTS = {"anonymous": _anonymous, "mapped": _mapped, "shared": _shared, "spike": _spike}


if __name__ == "__main__":
    print("ready", flush=True)
    while line := sys.stdin.readline():
        AMOUNTS[line.strip()](sys.argv[1])
        print("done", flush=True)
