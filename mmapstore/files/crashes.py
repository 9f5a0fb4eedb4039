"""Steps in which a C library may crash: after a restart, the crash is an error of the step in which it happened.

A child process of `supervised` writes the steps it is in to a file. After a crash the next child gets the names of the steps to
blame, and entering one of them raises: the code around the step treats the crash like any other error of the object. In a process
without a supervisor a step does nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..plain.errors import DamagedFileError

_notes: BinaryIO | None = None
_entered: list[str] = []
_blamed: dict[str, str] = {}


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Run the block as a step with a name that is the same in each run, "copying /x of a.h5".

    Raises DamagedFileError if the step crashed before.
    """
    if _notes is None:
        yield
        return
    if name in _blamed:
        raise DamagedFileError(
            f"{name} ended the process with {_blamed[name]}: a C library crashed. Repair the file, or update HDF5 and its filters."
        )
    _entered.append(name)
    _write()
    try:
        yield
    finally:
        _entered.pop()
        _write()


def _write() -> None:
    global _notes
    if _notes is None:
        return
    try:
        _notes.seek(0)
        _notes.write(json.dumps(_entered).encode() + b"\n")
    except OSError:  # after a full disk a crash is blamed on no step, which is better than on a wrong one
        _notes.truncate(0)
        _notes = None


def note_steps(path: str, blamed: dict[str, str]) -> None:
    """Write the steps of this process to a file from now on. `blamed`: the steps that raise, each with the signal it ended with."""
    global _notes
    _blamed.update(blamed)
    _notes = Path(path).open("wb", buffering=0)  # noqa: SIM115 - open as long as the process runs


def noted_steps(path: str) -> list[str]:
    """Return the steps that a process was in when it ended, the outermost first."""
    with contextlib.suppress(OSError, ValueError):
        return list(json.loads(Path(path).read_bytes().partition(b"\n")[0]))
    return []


def has_restarted() -> bool:
    """True in a process that goes on after a crash."""
    return bool(_blamed)
