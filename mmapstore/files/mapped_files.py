"""Tell which file a memory map shows: a path may name another file by now."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

_PROBES, _PROBE_NBYTES = 16, 4096


def shows_file(whole: np.ndarray[Any, np.dtype[np.uint8]], offset: int, path: str) -> bool:
    """Tell whether a map, seen as its bytes from `offset` of the file on, is of the file that now has the name `path`.

    Linux knows the file of each map. Elsewhere 16 pages, spread over the map, are compared with the file; Windows lets nobody
    replace a file that is mapped. Raises OSError where there is no such file.
    """
    try:
        lines = Path("/proc/self/maps").read_bytes().splitlines()
    except OSError:
        return os.name == "nt" or _has_the_bytes(whole, offset, path)
    address = whole.__array_interface__["data"][0]
    for line in lines:
        start, _, end = line.split(maxsplit=1)[0].partition(b"-")
        if int(start, 16) <= address < int(end, 16):
            _, _, _, device, inode, *name = line.split(maxsplit=5)
            status = os.stat(path)
            major, minor = (int(part, 16) for part in device.split(b":"))
            # Layered file systems (containers) show another device; a name that was deleted ends in " (deleted)".
            shown = name[0].replace(b"\\012", b"\n") if name else b""
            same = (int(inode), os.makedev(major, minor)) == (status.st_ino, status.st_dev)
            return same or shown == os.fsencode(os.path.realpath(path))
    return False


def _has_the_bytes(whole: np.ndarray[Any, np.dtype[np.uint8]], offset: int, path: str) -> bool:
    with Path(path).open("rb") as file:
        for start in np.linspace(0, max(len(whole) - _PROBE_NBYTES, 0), _PROBES, dtype=int).tolist():
            file.seek(offset + start)
            if file.read(_PROBE_NBYTES)[: len(whole) - start] != whole[start : start + _PROBE_NBYTES].tobytes():
                return False
    return True
