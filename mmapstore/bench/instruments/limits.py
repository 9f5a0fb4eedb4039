"""A hard limit of memory for a process, which holds before the process loads anything; and the detection that it was killed by it.

A control group, version 1 or 2, counts every page of all processes in it, and those of the files they read. The kernel takes
back the pages that it can, and then kills. Swap is off in the group. RLIMIT_DATA is the second best, where no group may be made:
it refuses memory that was only asked for, of each process by itself, and counts no file and no shared memory. RLIMIT_AS would
refuse the map of a large file itself, which needs no memory, and is never used.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ...plain.errors import InvalidValueError

CONTROL_GROUP, DATA_LIMIT = "control group", "RLIMIT_DATA"
_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_NAME = "mmapstore-bench-"
_SHELL = "/bin/sh"
# What processes say when memory is refused to them, in Python, C++ and TensorFlow.
_REFUSED = re.compile(
    r"MemoryError|bad_alloc|Unable to allocate|Cannot allocate memory|out of memory|OOM when allocating|ResourceExhausted|"
    r"RESOURCE_EXHAUSTED|Resource temporarily unavailable|can't start new thread",
    re.IGNORECASE,
)
_numbers = itertools.count()


class Limit:
    """A limit of a process; this base class limits nothing. `name` is "control group", "RLIMIT_DATA" or "".

    `prefix` stands before its command, a shell that enters and becomes the command: so Python itself counts.
    """

    name = ""
    prefix: tuple[str, ...] = ()

    def killed(self, code: int, text: str) -> bool:
        """Return True if the limit ended a process that returned `code` and whose last words were `text`."""
        return False


class DataLimit(Limit):
    name = DATA_LIMIT

    def __init__(self, nbytes: int) -> None:
        self.prefix = (_SHELL, "-c", f'ulimit -d {nbytes // 1024} && exec "$@"', "sh")

    def killed(self, code: int, text: str) -> bool:
        return code != 0 and _REFUSED.search(text) is not None


class ControlGroup(Limit):
    """A group of its own below `parent`. Raises OSError where it may not be made."""

    name = CONTROL_GROUP

    def __init__(self, parent: Path, nbytes: int) -> None:
        self.folder = parent / f"{_NAME}{os.getpid()}-{next(_numbers)}"
        self.folder.mkdir()
        try:
            self._unified = (self.folder / "cgroup.controllers").exists()
            if not (self.folder / ("memory.max" if self._unified else "memory.limit_in_bytes")).exists():
                raise PermissionError(f"{parent} does not share out memory")
            self._limit(nbytes)
        except OSError:
            self.remove()
            raise
        self.prefix = (_SHELL, "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"))

    def _limit(self, nbytes: int) -> None:
        if self._unified:
            self._write("memory.max", nbytes)
            with contextlib.suppress(OSError):  # no swap in this kernel
                self._write("memory.swap.max", 0)
            return
        self._write("memory.limit_in_bytes", nbytes)
        try:
            self._write("memory.memsw.limit_in_bytes", nbytes)
        except OSError:  # swap is not counted here; then at least nothing of this group goes there
            with contextlib.suppress(OSError):
                self._write("memory.swappiness", 0)

    def _write(self, name: str, value: int) -> None:
        # Not write_text: it would create a file where the kernel offers none.
        descriptor = os.open(self.folder / name, os.O_WRONLY)
        try:
            os.write(descriptor, str(value).encode())
        finally:
            os.close(descriptor)

    def killed(self, code: int, text: str) -> bool:
        with contextlib.suppress(OSError):
            events = (self.folder / ("memory.events" if self._unified else "memory.oom_control")).read_text(encoding="ascii")
            if killed := re.search(r"^oom_kill (\d+)$", events, re.MULTILINE):
                return int(killed[1]) > 0
        with contextlib.suppress(OSError, ValueError):  # kernels before 4.13
            return code == -signal.SIGKILL and int((self.folder / "memory.failcnt").read_text()) > 0
        return False

    def kill(self) -> None:
        """End every process in it."""
        for _ in range(100):
            try:
                members = (self.folder / "cgroup.procs").read_text().split()
            except OSError:
                return
            if not members:
                return
            for number in members:
                with contextlib.suppress(OSError):
                    os.kill(int(number), signal.SIGKILL)
            time.sleep(0.02)

    def remove(self) -> None:
        for _ in range(200):  # it stays busy until the last process is gone altogether
            try:
                self.folder.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.05)
            else:
                return


def parents(root: Path = _ROOT, own: Path = _OWN) -> list[Path]:
    """Return groups below which one for memory might be made, the nearest first.

    In version 2 a group that has processes shares nothing out, so it is one further up that can.
    """
    unified = (root / "cgroup.controllers").exists()
    base = root if unified else root / "memory"
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if (controllers == "") if unified else ("memory" in controllers.split(",")):
            place = base / path.lstrip("/")
            found = [place, *(each for each in place.parents if each == base or base in each.parents)]
            if not unified:
                return [each for each in found if each.is_dir()]
            shared = {each: each / "cgroup.subtree_control" for each in found}
            return [each for each, names in shared.items() if names.is_file() and "memory" in names.read_text().split()]
    return []


@functools.cache
def _parent() -> Path | None:
    """Return a group below which a process can be limited, found by limiting one."""
    for parent in parents():
        try:
            group = ControlGroup(parent, 1 << 28)
        except OSError:
            continue
        try:
            done = subprocess.run([*group.prefix, _SHELL, "-c", ":"], capture_output=True, check=False, timeout=10)
            if done.returncode == 0:
                return parent
        except (OSError, subprocess.SubprocessError):
            pass
        finally:
            group.kill()
            group.remove()
    return None


def can_limit() -> str | None:
    """ "control group", "RLIMIT_DATA", or None where memory cannot be limited."""
    if not sys.platform.startswith("linux"):
        return None
    return CONTROL_GROUP if _parent() is not None else DATA_LIMIT if Path(_SHELL).exists() else None


@contextlib.contextmanager
def limited(nbytes: int | None) -> Iterator[Limit]:
    """Set the best limit there is; None sets none.

    On leaving, every process under it is killed and the group removed. Raises InvalidValueError where there is no limit.
    """
    means = None if nbytes is None else can_limit()
    if nbytes is None:
        yield Limit()
    elif means == DATA_LIMIT:
        yield DataLimit(nbytes)
    elif means is not None and (parent := _parent()) is not None:
        group = ControlGroup(parent, nbytes)
        try:
            yield group
        finally:
            group.kill()
            group.remove()
    else:
        raise InvalidValueError(
            f"a limit of {nbytes} bytes was asked for, and {sys.platform} offers none that can be relied on. "
            "Leave the limit off, or run inside a Linux container with `docker run --memory`."
        )
