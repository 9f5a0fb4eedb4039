"""One directory of rounds: who writes there, the process that prepares the next round, and what is on disk."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import weakref
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...files import durable_writes
from ...files.exclusive_lock import exclusive_lock
from ...files.stored_files import nbytes_on_disk
from ...files.system_errors import explaining_write_errors
from ...formats.registry import PARTIAL
from ...plain.errors import LockedFileError, MmapstoreError, StateMismatchError, TargetExistsError
from ...plain.manifest import DIRECTORY_MANIFEST
from ..ingest import ingest
from .processes import Process
from .source import RoundSource

_DESCRIPTION = "rounds.json"
_STORE = re.compile(r"round-(\d+)(\.partial.*|\.replaced)?$")
_holders: dict[str, weakref.ref[Preparation]] = {}


@dataclass
class RoundWork:
    """Writes one round; called in a process of its own with its number and path."""

    source: RoundSource
    max_memory: int
    script: dict[str, str]

    def __call__(self, given: Mapping[str, Any]) -> None:
        source, path = replace(self.source, number=given["number"]), given["path"]
        resume = True
        while not is_ready(path):
            try:
                ingest(source, path, layout=None, max_memory=self.max_memory, resume=resume, progress=False)
            except LockedFileError:
                time.sleep(0.1)  # the process of a training run that was killed is about to end
            except StateMismatchError:
                if not resume:
                    raise
                resume = False  # begun by another version, or from files that were touched since
            except TargetExistsError:
                for leftover in (path, f"{path}{PARTIAL}"):  # no manifest, no journal: nothing to resume from
                    durable_writes.remove(leftover)


def is_ready(path: str) -> bool:
    """Return True if a round is there, whole."""
    return os.path.isfile(os.path.join(path, DIRECTORY_MANIFEST))


class Preparation:
    """A directory held by this process alone, and at most one process that prepares a round there.

    The object of this process that asked last holds the directory; in another process `hold` raises LockedFileError.
    """

    def __init__(self, directory: str, work: RoundWork) -> None:
        self.directory = directory
        self._work = work
        self._process: Process | None = None
        self._number = -1
        self._held: contextlib.ExitStack | None = None
        self._owner = os.getpid()

    def path(self, number: int) -> str:
        return os.path.join(self.directory, f"round-{number:06d}")

    # --- the directory -----------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Take the directory. Raises LockedFileError if another process has it."""
        if self._held is not None:
            return
        key = os.path.realpath(self.directory)
        other = _holders.get(key, lambda: None)()
        if other is not None:
            other.end()
        with contextlib.ExitStack() as stack:
            stack.enter_context(exclusive_lock(os.path.join(self.directory, "rounds.lock"), self.directory))
            self._held = stack.pop_all()
        _holders[key] = weakref.ref(self)

    def describe(self, description: Mapping[str, Any]) -> None:
        """Note what the rounds are made of. Raises StateMismatchError if those that are there are made of something else."""
        path = os.path.join(self.directory, _DESCRIPTION)
        wanted = json.loads(json.dumps(description))
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            with explaining_write_errors(path):
                durable_writes.write_text_atomically(path, json.dumps(wanted, indent=1))
            return
        except (OSError, ValueError) as error:
            raise StateMismatchError(
                f"{path} is not what mmapstore wrote ({error}). Delete {self.directory}, or give another directory."
            ) from error
        found = found if isinstance(found, dict) else {}
        others = [key for key in sorted(wanted) if found.get(key) != wanted[key]]
        if others:
            differing = ", ".join(f"{key} (there {found.get(key)!r}, here {wanted[key]!r})" for key in others)
            raise StateMismatchError(
                f"{self.directory} holds rounds of another dataset or of other arguments: {differing}. Delete it, or give another "
                " directory."
            )

    def _stored(self) -> Iterator[tuple[int, str]]:
        """Yield the number and the path of each round in the directory, finished or not."""
        for name in os.listdir(self.directory):
            if match := _STORE.fullmatch(name):
                yield int(match[1]), os.path.join(self.directory, name)

    def keep(self, numbers: Collection[int]) -> None:
        """Delete all other rounds. Mapped files stay readable; rounds that another process writes are left."""
        for number, path in self._stored():
            if number not in numbers:
                with contextlib.suppress(OSError):  # on Windows, a mapped file cannot be deleted: the next time
                    durable_writes.remove(path)

    def on_disk(self) -> int:
        """Return the bytes that all rounds take, finished or not."""
        found = 0
        for _, path in self._stored():
            with contextlib.suppress(OSError):
                found += nbytes_on_disk(path)
        return found

    # --- the process -------------------------------------------------------------------------------------------------

    def begin(self, number: int) -> None:
        """Have a round prepared, unless it is ready or under way; another one under way ends."""
        if self.is_preparing(number):
            return
        self._stop()
        if not is_ready(self.path(number)):
            self.hold()
            self._process = Process(self._work, self._work.script, number=number, path=self.path(number))
            self._number = number

    def is_preparing(self, number: int) -> bool:
        return self._process is not None and self._number == number and self._process.is_running

    def wait(self, number: int) -> None:
        """Return when a round is ready. Raises what keeps it from becoming so."""
        self.begin(number)
        process, self._process = self._process, None
        if process is not None:
            try:
                process.result()
            finally:
                process.end()
        if not is_ready(self.path(number)):
            raise MmapstoreError(f"{self.path(number)} was deleted while it was prepared. Run again.")

    def _stop(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None

    def end(self) -> None:
        """End the process and give the directory back; `begin` takes it again."""
        if os.getpid() != self._owner:
            return
        self._stop()
        if self._held is not None:
            held, self._held = self._held, None
            held.close()
