"""Processes that load megabatches: unpickling a million small objects holds Python's lock, which each process has of its own.

Processes are started as programs of their own, not as copies of this one: the user's script is not imported in them, so it needs no
`if __name__ == "__main__":`, and no process stays behind when one is killed, this one included. The pools of `concurrent.futures`
and loky import the script, or end by a timeout.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from ....files.process_memory import give_back_freed_memory
from ....plain.errors import DamagedFileError, MmapstoreError
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
        self._idle: queue.LifoQueue[subprocess.Popen[bytes] | None] = queue.LifoQueue()
        for _ in range(most):
            self._idle.put(None)
        self._started: list[subprocess.Popen[bytes]] = []
        self._closed = False

    def read(self, path: str, fields: Mapping[str, str] | None, allow_pickle: bool) -> Columns:
        """Return or raise the outcome of `read_columns`, from the first process that is free."""
        process = self._idle.get()
        try:
            if process is None or process.poll() is not None:
                process = _started()
                self._started.append(process)
                if self._closed:
                    process.kill()
            return _answer(process, path, fields, allow_pickle)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End the processes at once, whatever they do; a `read` under way raises."""
        self._closed = True
        for process in self._started:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # of what was not yet sent
                    assert pipe is not None
                    pipe.close()


def _started() -> subprocess.Popen[bytes]:
    search = json.dumps([entry if entry else os.getcwd() for entry in sys.path if isinstance(entry, str)])
    return subprocess.Popen([sys.executable, "-P", "-c", _PROGRAM, search], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _answer(process: subprocess.Popen[bytes], path: str, fields: Mapping[str, str] | None, allow_pickle: bool) -> Columns:
    assert process.stdin is not None and process.stdout is not None
    try:
        pickle.dump((path, fields, allow_pickle), process.stdin)
        process.stdin.flush()
        answer = _received(process.stdout)
    except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        code = process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise DamagedFileError(
            f"{path} ended the process that loaded it ({how}). It is damaged, or takes more memory than there is."
        ) from error
    if isinstance(answer, MmapstoreError):
        raise answer
    return answer


def _received(pipe: IO[bytes]) -> Columns | MmapstoreError:
    head, lengths = pickle.load(pipe)
    arrays = [np.empty(length, np.uint8) for length in lengths]
    if any(pipe.readinto(array.data) < len(array) for array in arrays):  # type: ignore[attr-defined]
        raise EOFError
    answer: Columns | MmapstoreError = pickle.loads(head, buffers=arrays)
    return answer


def serve() -> None:
    """Answer requests in the process until there are no more. The output of a pickle that prints goes to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that was asked ends the others
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError, EOFError):
        while True:
            answer: Columns | MmapstoreError | None
            try:
                answer = read_columns(*pickle.load(requests))
            except MmapstoreError as error:
                answer = error
            _send(answer, answers)
            answer = None
            give_back_freed_memory()
    os._exit(0)


def _send(answer: Any, pipe: IO[bytes]) -> None:
    """Send arrays from where they lie: a pickle that holds them would hold a copy."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(answer, 5, buffer_callback=buffers.append)
    arrays = [buffer.raw() for buffer in buffers]
    pickle.dump((head, [array.nbytes for array in arrays]), pipe)
    for array in arrays:
        pipe.write(array)
    pipe.flush()
