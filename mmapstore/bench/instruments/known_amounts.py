"""The child of the calibration: takes known amounts of memory when told to, and gives them back.

Started as a program with the path of a file to map. Reads names of `AMOUNTS` from standard input, one a line, and answers "held";
after another line it gives everything back and answers "done". The spike does not wait.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import time
from pathlib import Path

HELD, SPIKE = 200_000_000, 500_000_000  # bytes
SPIKE_SECONDS = 0.02


def _fill(memory: mmap.mmap) -> None:
    """Write to every page, without a copy of as many bytes."""
    place = (ctypes.c_char * len(memory)).from_buffer(memory)
    ctypes.memset(place, 1, len(memory))
    del place


def _hold() -> None:
    print("held", flush=True)
    sys.stdin.readline()


def anonymous(path: str) -> None:
    with mmap.mmap(-1, HELD, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        _fill(memory)
        _hold()


def mapped(path: str) -> None:
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        sum(memory[at] for at in range(0, len(memory), mmap.PAGESIZE))
        _hold()


def shared(path: str) -> None:
    """Shared with a child, both of which have touched every page."""
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


def spike(path: str) -> None:
    with mmap.mmap(-1, SPIKE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        _fill(memory)
        time.sleep(SPIKE_SECONDS)


AMOUNTS = {each.__name__: each for each in (anonymous, mapped, shared, spike)}


def main() -> None:
    print("ready", flush=True)
    while line := sys.stdin.readline():
        AMOUNTS[line.strip()](sys.argv[1])
        print("done", flush=True)


if __name__ == "__main__":
    main()
