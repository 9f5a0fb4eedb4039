"""Python processes that prepare rounds: at low priority, and never left behind.

They are started as programs of their own, not as copies of this one: copies of a process in which TensorFlow runs hang. The
training script is not imported in them, unless the augmenting function is defined in it.

A process ends when the one that started it has ended, however it did; on Ctrl-C; and when it has not heard for some seconds that
training goes on: no one tells that `fit` has returned. An ingest that ends in the middle is resumed by the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import spawn
from typing import Any

from ...plain.errors import InvalidValueError, MmapstoreError

HELD_NBYTES = 32_000_000  # private memory of such a process before it does anything
IDLE_SECONDS = 10.0  # at least, after which a process ends that has heard nothing
_NICE = 10  # a tenth of a processor that training wants as well; at 19 a round would make no progress beside it
_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 1.0
_INTERRUPTED = 130
_LONGEST_MESSAGE = 20_000  # characters: what fits into a pipe that nobody reads
# Started with -P: the current directory may hold a json.py of others. No line comes if training ended meanwhile.
_PROGRAM = (
    f"import os; getattr(os, 'nice', int)({_NICE}); import json, sys; "
    f"given = json.loads(sys.stdin.buffer.readline() or sys.exit({_INTERRUPTED})); "
    f"sys.path[:] = given['search']; from {__name__} import prepare; prepare(given)"
)
# Rounds are made beside the training step: not on its GPU, and not by all processors at once.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")

is_child = False  # True in such a process
_heard_until = 0.0  # the time at which it ends, unless it hears before that training goes on


def script_of(pickled: bytes) -> dict[str, str]:
    """Return how a process imports the training script, if what was pickled is defined in it; else an empty dict.

    Raises InvalidValueError for definitions of a notebook or an interactive session, which no other process can import.
    """
    if b"__main__" not in pickled:
        return {}
    script = {name: value for name, value in spawn.get_preparation_data("round").items() if name.startswith("init_main")}
    if "init_main_from_name" not in script and not os.path.isfile(script.get("init_main_from_path", "")):
        raise InvalidValueError(
            "fn, or what it refers to, is defined in a notebook or at the prompt, where the processes that prepare rounds cannot "
            "import it. Write it to a file, such as augment.py (in a notebook, by a cell that begins with %%writefile augment.py), "
            "and import it from there."
        )
    return script


class Process:
    """A process that prepares a round by `work`, a callable that pickles. `given` is plain JSON for it."""

    def __init__(self, work: Callable[[Mapping[str, Any]], Any], script: dict[str, str], **given: Any) -> None:
        if not sys.executable or getattr(sys, "frozen", False):
            raise MmapstoreError(
                "Rounds are prepared by Python processes of their own, and this program is not Python's executable."
            )
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**dict.fromkeys(_THREADS, "1"), **os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        search = [entry if entry else os.getcwd() for entry in sys.path if isinstance(entry, str)]
        head = {"search": search, "script": script, "parent": os.getpid(), "idle": IDLE_SECONDS, **given}
        try:
            self._stdin.write(json.dumps(head).encode() + b"\n")
            pickle.dump(work, self._stdin, pickle.HIGHEST_PROTOCOL)
            self._stdin.flush()
        except OSError:
            pass  # it has ended already; `result` tells why
        except BaseException:
            self.end()
            raise

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def was_interrupted(self) -> bool:
        """True if it ended in the middle, and nothing was wrong."""
        return self._process.poll() in (_INTERRUPTED, -signal.SIGINT)

    def is_wanted(self, seconds: float) -> None:
        """Tell the process that what it does is wanted, and to end if it does not hear that again in so many seconds."""
        with contextlib.suppress(OSError, ValueError):  # it has ended
            self._stdin.write(f"{seconds:.1f}\n".encode())
            self._stdin.flush()

    def result(self) -> None:
        """Wait for the end of the process. Raises what went wrong in it."""
        while True:
            self.is_wanted(IDLE_SECONDS)
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(_POLL_SECONDS)
                break
        answer = self._stdout.read()
        self.end()
        if code == 0:
            return
        if code == 1 and answer:
            raise pickle.loads(answer)
        if code in (_INTERRUPTED, -signal.SIGINT):
            raise MmapstoreError("The preparation of a round was interrupted. Run again: it goes on where it stopped.")
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        memory = ", as the system does where memory runs out" if code == -9 else ""
        raise MmapstoreError(f"{how} ended the process that prepared a round{memory}. Run again: it goes on where it stopped.")

    def end(self) -> None:
        """End the process at once."""
        if os.getpid() != self._owner:
            return  # a forked copy of the training process has this object, but not the process
        with contextlib.suppress(OSError):
            self._stdin.close()  # it ends when it sees that
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_SECONDS)
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._stdout.close()


# --- in the process ------------------------------------------------------------------------------------------------------


def prepare(given: dict[str, Any]) -> None:
    """Do what the process was started for, and end without Python's shutdown. What `fn` prints goes to stderr."""
    global is_child, _heard_until
    is_child, _heard_until = True, time.monotonic() + given["idle"]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    threading.Thread(target=_end_when_not_needed, args=(given["parent"],), daemon=True).start()
    code = 0
    try:
        work = _loaded(given)
        threading.Thread(target=_listen, daemon=True).start()
        work(given)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BaseException as error:
        code = 1
        found = (
            error if isinstance(error, MmapstoreError) else MmapstoreError(f"preparing a round: {type(error).__name__}: {error}")
        )
        told = type(found)(str(found)[:_LONGEST_MESSAGE])
        told.add_note("".join(getattr(found, "__notes__", traceback.format_exception(error)))[-_LONGEST_MESSAGE:])
        with contextlib.suppress(OSError):
            answers.write(pickle.dumps(told))
    with contextlib.suppress(OSError):
        answers.flush()
    sys.stderr.flush()
    os._exit(code)


def _loaded(given: dict[str, Any]) -> Callable[..., Any]:
    try:
        if given["script"]:
            spawn.prepare(given["script"])  # as multiprocessing does, under the name __mp_main__
        work: Callable[..., Any] = pickle.load(sys.stdin.buffer)
        return work
    except MmapstoreError:
        raise
    except Exception as error:
        raise MmapstoreError(
            f"fn and the dataset cannot be loaded in a process of its own: {type(error).__name__}: {error}. Define fn in a module "
            "that can be imported from everywhere, and leave the files of the dataset where they are."
        ) from error


def _listen() -> None:
    global _heard_until
    while found := os.read(0, 1 << 12):
        with contextlib.suppress(ValueError):  # a part of a line
            _heard_until = time.monotonic() + float(found.split()[-1])
    os._exit(1)  # the process that started this one has ended, or wants no more


def _end_when_not_needed(parent: int) -> None:
    # A pipe alone does not tell: a forked copy of the parent may hold it open.
    while sys.platform == "win32" or os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
        if time.monotonic() > _heard_until:
            os._exit(_INTERRUPTED)
    os._exit(1)
