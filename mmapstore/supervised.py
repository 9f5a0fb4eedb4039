"""A command line in a child process, which is started again after a crash and then refuses the step that crashed.

See `files.crashes` for the steps. The crashes are those of C libraries on files of others: HDF5, filters, codecs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from .files import crashes
from .files.system_errors import explaining_write_errors
from .plain.errors import DamagedFileError, MmapstoreError

_PROGRAM = (  # started with -P: the current directory may hold a json.py of others
    "import json, sys; given = json.loads(sys.stdin.buffer.readline()); "
    f"sys.path[:] = given['search']; from {__name__} import serve; from {__package__}.cli import main; serve(main, given)"
)
_CRASHES = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS")
_MOST_CRASHES = 20  # inside one step, such as an archive: each costs a restart, and an HDF5 target is begun anew
_PATIENCE_SECONDS = 2.0


def can_be_supervised() -> bool:
    """False on Windows, in programs that are not Python's own executable, and outside the main thread, which alone gets signals."""
    is_python = bool(sys.executable) and not getattr(sys, "frozen", False) and sys.platform != "win32"
    return is_python and threading.current_thread() is threading.main_thread()


def run_supervised(arguments: list[str]) -> int:
    """Run the command line in a child process, and again after each crash. Returns its exit code.

    Raises MmapstoreError if something else ended the child, such as the system when memory ran out; DamagedFileError after a crash
    in no step, or in one that crashed before.
    """
    blamed: dict[str, str] = {}
    crashed: list[list[str]] = []
    with contextlib.ExitStack() as stack:
        with explaining_write_errors("The temporary directory"):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mmapstore-"))
        notes = os.path.join(folder, "steps")
        while True:
            code = _exit_code(arguments, notes, blamed)
            if code >= 0 or code == -signal.SIGINT:
                return code if code >= 0 else 128 - code
            name = {each.value: each.name for each in signal.Signals}.get(-code, "real-time")
            how, steps = f"signal {-code} ({name})", crashes.noted_steps(notes)
            while_ = f" while {steps[-1]}" if steps else ""
            if name not in _CRASHES:
                memory = ", as the system does where memory runs out" if name == "SIGKILL" else ""
                raise MmapstoreError(
                    f"{how} ended the process{while_}{memory}. No file is to blame for that. Run the same command again to go on."
                )
            crashed.append(steps)
            often = (each for each in steps[:-1] if sum(each in others for others in crashed) > _MOST_CRASHES)
            blame = next(often, steps[-1] if steps else "")
            if not blame or blame in blamed:
                raise DamagedFileError(f"{how} ended the process{while_}: a C library crashed. Look at the file with h5dump.")
            blamed[blame] = how
            line_end = "\n" * sys.stderr.isatty()  # behind a line that shows progress
            print(f"{line_end}mmapstore: {how} ended the process{while_}. Going on without that.", file=sys.stderr)


def _exit_code(arguments: list[str], notes: str, blamed: dict[str, str]) -> int:
    given = {"search": sys.path, "arguments": arguments, "notes": notes, "blamed": blamed}
    child = subprocess.Popen([sys.executable, "-P", "-c", _PROGRAM], stdin=subprocess.PIPE)
    assert child.stdin is not None
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        with contextlib.suppress(OSError):  # the child has ended already
            child.stdin.write(json.dumps(given).encode() + b"\n")
            child.stdin.flush()
        try:
            return child.wait()
        except KeyboardInterrupt:  # the terminal tells the child, too; `kill -INT` does not
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(_PATIENCE_SECONDS)
            child.send_signal(signal.SIGINT)
            return child.wait()
    finally:
        child.kill()
        child.wait()
        with contextlib.suppress(OSError):
            child.stdin.close()
        signal.signal(signal.SIGTERM, before)


def _terminated(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


def serve(main: Callable[[list[str]], int], given: dict[str, Any]) -> None:
    """In the child: run the command, and end without Python's shutdown, in which libraries may crash as well."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    crashes.note_steps(given["notes"], given["blamed"])
    code = main(given["arguments"])
    sys.stderr.flush()
    os._exit(code)


def _end_with_parent() -> None:
    os.read(0, 1)  # returns when the parent has ended, however it did
    os._exit(1)
