"""Processes that load megabatches: unpickling a million small objects holds Python's lock, which each process has of its own.

They are started as programs of their own, not as copies of this one: the script that the user runs is not imported in them, so
it needs no `if __name__ == "__main__":`, and nothing is left behind when they, or the process that started them, are killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from ....files.process_memory import give_back_freed_memory
from ....plain import errors
from ....plain.errors import DamagedFileError, MmapstoreError
from ..contract import Array
from .columns import Columns, read_columns

HELD_NBYTES = 40_000_000  # private memory of such a process before it loads anything
# Started with -P: the current directory may hold a json.py of others.
_PROGRAM = f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {__name__} import serve; serve()"


def can_be_started() -> bool:
    """False inside programs that are not Python's own executable."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


class ReadingProcesses:
    """Up to `most` processes, started when there is work for them. Any thread may call `read`; `close` ends them all."""

    def __init__(self, most: int) -> None:
        self._idle: queue.LifoQueue[_ReadingProcess | None] = queue.LifoQueue()
        for _ in range(most):
            self._idle.put(None)
        self._started: list[_ReadingProcess] = []
        self._closed = False

    def read(self, path: str, fields: Sequence[str] | None, allow_pickle: bool) -> Columns:
        """Return or raise the outcome of `read_columns`, from the first process that is free."""
        process = self._idle.get()
        try:
            if process is None:
                process = _ReadingProcess()
                self._started.append(process)
                if self._closed:
                    process.end()
            return process.read(path, fields, allow_pickle)
        finally:
            alive = process is not None and process.is_alive()
            self._idle.put(process if alive else None)

    def close(self) -> None:
        """Ends the processes at once, whatever they do; a `read` under way raises."""
        self._closed = True
        for process in self._started:
            process.end()


class _ReadingProcess:
    def __init__(self) -> None:
        search = json.dumps([entry if entry else os.getcwd() for entry in sys.path if isinstance(entry, str)])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, search], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def read(self, path: str, fields: Sequence[str] | None, allow_pickle: bool) -> Columns:
        assert self._process.stdin is not None and self._process.stdout is not None
        request = json.dumps({"path": path, "fields": fields, "allow_pickle": allow_pickle})
        try:
            self._process.stdin.write(request.encode() + b"\n")
            answer = json.loads(_line(self._process.stdout))
            if "error" in answer:
                raise getattr(errors, answer["error"])(answer["message"])
            arrays = {name: _received(self._process.stdout, dtype, shape) for name, dtype, shape in answer["arrays"]}
        except (OSError, EOFError) as error:
            if isinstance(error, MmapstoreError):
                raise
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self._process.kill()
            code = self._process.wait()
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise DamagedFileError(
                f"{path} ended the process that loaded it ({how}). It is damaged, or takes more memory than there is."
            ) from error
        return Columns(arrays, frozenset(answer["coded"]), answer["held"], answer["objects"], answer["made"])

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _line(pipe: IO[bytes]) -> bytes:
    found = bytearray()
    while not found.endswith(b"\n"):  # unbuffered: what follows the line must stay in the pipe
        byte = pipe.read(1)
        if not byte:
            raise EOFError
        found += byte
    return bytes(found)


def _received(pipe: IO[bytes], dtype: str, shape: Sequence[int]) -> Array:
    array = np.empty(tuple(shape), dtype)
    rest = array.reshape(-1).view(np.uint8).data
    while rest:
        done = pipe.readinto(rest)  # type: ignore[attr-defined]
        if not done:
            raise EOFError
        rest = rest[done:]
    return array


def serve() -> None:
    """In the process: answer requests until there are no more. What a pickle prints goes to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that was asked ends the others
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):
        for line in requests:
            _answer(json.loads(line), answers)
            give_back_freed_memory()


def _answer(request: dict[str, Any], answers: IO[bytes]) -> None:
    try:
        found = read_columns(request["path"], request["fields"], request["allow_pickle"])
    except MmapstoreError as error:
        answers.write(json.dumps({"error": type(error).__name__, "message": str(error)}).encode() + b"\n")
        return
    head = {
        "arrays": [[name, array.dtype.str, array.shape] for name, array in found.arrays.items()],
        "coded": sorted(found.coded),
        "held": found.held,
        "objects": found.objects,
        "made": found.made,
    }
    _write(answers, json.dumps(head).encode() + b"\n")
    while found.arrays:
        array = found.arrays.pop(next(iter(found.arrays)))
        _write(answers, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _write(pipe: IO[bytes], data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[pipe.write(rest) :]
