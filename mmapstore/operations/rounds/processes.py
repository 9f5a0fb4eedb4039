"""Python processes that prepare rounds: at low priority, and never left behind.

They are started as programs of their own, not as copies of this one: copies of a process in which TensorFlow runs hang. The
training script is not imported in them, unless the augmenting function is defined in it.

A process ends when its round is ready; when the one that started it has ended, however it did; and on Ctrl-C. An ingest that ends
in the middle is resumed by the next one.
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

from ...plain.errors import InvalidTypeError, InvalidValueError, MmapstoreError

HELD_NBYTES = 32_000_000  # private memory of such a process before it does anything
_NICE = 10  # a tenth of a processor that training wants as well; at 19 a round would make no progress beside it
_POLL_SECONDS = 0.5
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


def script_of(fn: Any) -> dict[str, str]:
    """Return the settings with which a process imports the script that defines `fn`; an empty dict for a module of its own.

    Raises InvalidTypeError for a function that does not pickle, and InvalidValueError for one that is defined in a notebook or an
    interactive session, which no other process can import.
    """
    if not callable(fn):
        raise InvalidTypeError(f"fn={fn!r} cannot be called; expected a function fn(x, rng) of one sample.")
    try:
        pickled = pickle.dumps(fn)
    except Exception as error:
        raise InvalidTypeError(
            f"fn={fn!r} does not pickle ({type(error).__name__}: {error}), so no other process can call it. Define it with `def` "
            "in a module, not inside a function and not as a lambda; give it fixed arguments with functools.partial."
        ) from error
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
        self._answer = self._process.stdout
        search = [entry if entry else os.getcwd() for entry in sys.path if isinstance(entry, str)]
        head = {"search": search, "script": script, "parent": os.getpid(), **given}
        try:
            with contextlib.suppress(OSError), self._process.stdin as pipe:  # it has ended already; `result` tells why
                pipe.write(json.dumps(head).encode() + b"\n")
                pickle.dump(work, pipe, pickle.HIGHEST_PROTOCOL)
        except BaseException:
            self.end()
            raise

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def result(self) -> None:
        """Wait for the end of the process. Raises what went wrong in it."""
        answer, code = self._answer.read(), self._process.wait()
        if code == 0:
            return
        if code == 1 and answer:
            raise pickle.loads(answer)
        if code in (_INTERRUPTED, -signal.SIGINT):
            raise MmapstoreError("The preparation of a round was interrupted. Run again: it resumes where it stopped.")
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        memory = ", as the system does where memory runs out" if code == -9 else ""
        raise MmapstoreError(f"{how} ended the process that prepared a round{memory}. Run again: it resumes where it stopped.")

    def end(self) -> None:
        """End the process at once."""
        if os.getpid() != self._owner:
            return  # a forked copy of the training process has this object, but not the process
        self._process.kill()
        self._process.wait()
        self._answer.close()


def prepare(given: dict[str, Any]) -> None:
    """Do what the process was started for, and end without Python's shutdown. What `fn` prints goes to stderr."""
    global is_child
    is_child = True
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    code = 0
    try:
        work = _loaded(given)
        threading.Thread(target=_end_with, args=(given["parent"],), daemon=True).start()
        work(given)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BaseException as error:
        code = 1
        is_ours = isinstance(error, MmapstoreError)
        text = str(error) if is_ours else f"preparing a round: {type(error).__name__}: {error}"
        told = (type(error) if is_ours else MmapstoreError)(text[:_LONGEST_MESSAGE])
        told.add_note("".join(getattr(error, "__notes__", traceback.format_exception(error)))[-_LONGEST_MESSAGE:])
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


def _end_with(parent: int) -> None:
    while os.getppid() == parent:  # which stays the same on Windows: there the round is made to its end
        time.sleep(_POLL_SECONDS)
    os._exit(1)
