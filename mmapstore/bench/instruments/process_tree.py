"""The memory of a process and all its descendants, watched from outside while it runs.

Two kinds of looks take turns. The full one reads /proc/PID/smaps_rollup, where the kernel walks the page tables and divides
each page by the processes that share it: exact, and slow where much is mapped. The quick one reads the counters of
/proc/PID/status, as often as 5 % of a core allows, some 1 ms: it is there for spikes. Counters know nothing of sharing. With one
process there is none; with several, a quick look counts what was added since the last full one, and shared memory by the process
that gained most of it. So memory that several share is never counted twice, and what a quick look misses the next full one finds.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from ..contract import Look

_PROC = Path("/proc")
_PAUSES = 19  # between two looks, in times of what one takes: 5 % of a core
_QUICK, _FULL = 0.001, 0.05  # seconds between two looks, at least
_STEADY = 1 << 20  # bytes by which a tree at rest may change during a full look
_TRIES = 3  # of a full look, where several processes change during it
_BEFORE, _AFTER = 30, 120  # looks kept from before the baseline, and from after it: a plot is some 170 pixels wide
_LINE = re.compile(rb"^(\w+):\s+(\d+)", re.MULTILINE)
_ROLLUP = {b"Pss_Anon", b"Pss_Shmem", b"SwapPss", b"Pss_File"}


def method() -> str:
    """Describe where private memory is read on this machine."""
    with contextlib.suppress(OSError):
        if _numbers((_PROC / "self/smaps_rollup").read_bytes()).keys() >= _ROLLUP:
            return "Pss_Anon + Pss_Shmem + SwapPss of /proc/PID/smaps_rollup"
    with contextlib.suppress(OSError):
        if b"RssAnon" in _numbers((_PROC / "self/status").read_bytes()):
            return "RssAnon + VmSwap of all processes and the largest RssShmem, of /proc/PID/status: this kernel has no Pss by kind"
    return "nowhere: private memory is read from /proc, which only Linux has"


def can_watch() -> bool:
    return not method().startswith("nowhere")


def _numbers(text: bytes) -> dict[bytes, int]:
    """The fields of a file in /proc that are given in kB, as bytes."""
    return {name: int(value) * 1024 for name, value in _LINE.findall(text)}


class _Counters(NamedTuple):
    """Of one process, or added up over several. Bytes. `shared` is of one process, or of the one with most."""

    own: int = 0  # RssAnon + VmSwap
    shared: int = 0  # RssShmem
    file_backed: int = 0
    resident: int = 0


class _Process:
    """One process by descriptors, which stay with it: the number of one that has ended may be given to another."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._status = os.open(_PROC / str(number) / "status", os.O_RDONLY)

    def counters(self) -> _Counters | None:
        """None once it has ended."""
        try:
            found = _numbers(os.pread(self._status, 8192, 0))
        except OSError:
            return None
        if b"VmRSS" not in found:
            return None
        shared = found.get(b"RssShmem", 0)
        own = found.get(b"RssAnon", 0) + found.get(b"VmSwap", 0)
        return _Counters(own, shared, found.get(b"RssFile", 0), found[b"VmRSS"])

    def rollup(self) -> dict[bytes, int] | None:
        # Opened anew each time: the file shows the program that ran when it was opened, and exec starts another.
        try:
            return _numbers((_PROC / str(self.number) / "smaps_rollup").read_bytes())
        except OSError:
            return None

    def close(self) -> None:
        os.close(self._status)


def descendants(root: int) -> set[int]:
    """Running processes that `root` started, directly or not, itself among them, and those of a session that it leads."""
    parents: dict[int, int] = {}
    members = {root}
    for name in os.listdir(_PROC):
        if name.isdigit():
            try:
                stat = (_PROC / name / "stat").read_bytes()
            except OSError:
                continue
            state, parent, _, session = stat[stat.rindex(b")") + 2 :].split(None, 4)[:4]
            if state not in b"ZX":
                parents[int(name)] = int(parent)
                if int(session) == root:  # also one whose parent has ended
                    members.add(int(name))
    added = True
    while added:
        more = {number for number, parent in parents.items() if parent in members} - members
        added = bool(more)
        members |= more
    return members & parents.keys()


class Thinned:
    """At most `most` looks, evenly spread in time; of those that stand for one moment, the one with the most private memory."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._width = 0.002  # seconds
        self.looks: list[Look] = []
        self._until = float("-inf")

    def add(self, look: Look) -> None:
        if look.seconds < self._until:
            if look.private > self.looks[-1].private:
                self.looks[-1] = look
            return
        self.looks.append(look)
        self._until = look.seconds + self._width
        if len(self.looks) > self._most:
            pairs = [self.looks[at : at + 2] for at in range(0, len(self.looks), 2)]
            self.looks = [max(pair, key=lambda each: each.private) for pair in pairs]
            self._width *= 2


class Watch:
    """Watches the process `root` and all it starts, from a thread, for as long as it is open.

    `mark` takes the baseline: peaks are counted from there. Where there is no /proc every figure is None.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._works = can_watch()
        self._by_rollup = method().startswith("Pss")
        self._processes: dict[int, _Process] = {}
        self._newest = b""  # the last number given to any process of the machine
        # excess of the counters at the last full look, in bytes: pages that processes share, also with other programs
        self._shared_private = self._shared_files = 0
        self._unsteady = 0  # full looks that were thrown away since the last good one
        self._full_at = self._members_at = 0.0  # when the next one is due
        self._looks, self._kept = Thinned(_AFTER), Thinned(_BEFORE)
        self._marked: float | None = None
        self._peak = Look(0.0, 0, 0, 0)
        self._full_looks = 0
        self._opened = time.perf_counter()
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory of the process tree", daemon=True)
        self.baseline: int | None = None

    def __enter__(self) -> Watch:
        if self._works:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        if self._works:
            self._thread.join()
        for process in self._processes.values():
            process.close()
        self._processes.clear()

    def mark(self) -> None:
        """Take what is there now as the baseline. The process should be at rest."""
        if not self._works:
            return
        with self._lock:
            self._marked = time.perf_counter()
            self._peak = Look(0.0, 0, 0, 0)
            while not self._full():
                pass
            self.baseline = self._peak.private

    def catch_up(self) -> None:
        """Wait until there has been a full look that began after this call."""
        until = self._full_looks + 2
        while self._works and self._full_looks < until and not self._done.wait(0.005):
            pass

    @property
    def private(self) -> int | None:
        """Bytes of private memory at the highest, over the baseline; None without one."""
        return None if self.baseline is None else self._peak.private - self.baseline

    @property
    def file_backed(self) -> int | None:
        return None if self.baseline is None else self._peak.file_backed

    @property
    def resident(self) -> int | None:
        return None if self.baseline is None else self._peak.resident

    @property
    def looks(self) -> list[Look]:
        """At most 150; seconds from the baseline on."""
        zero = self._opened if self._marked is None else self._marked
        return [replace(look, seconds=round(look.seconds - zero, 4)) for look in self._kept.looks + self._looks.looks]

    def _watch(self) -> None:
        pause = 0.0
        while not self._done.wait(pause):
            with self._lock:
                if self._has_new_members() or time.perf_counter() >= self._full_at:
                    self._full()
                else:
                    begun = time.thread_time()  # what others do to this thread is no reason to look away for longer
                    self._quick()
                    pause = max(_QUICK, (time.thread_time() - begun) * _PAUSES)

    def _has_new_members(self) -> bool:
        """Cheap where no process or thread has been started anywhere since the last time."""
        if time.perf_counter() < self._members_at:
            return False
        with contextlib.suppress(OSError):
            newest = (_PROC / "loadavg").read_bytes().rsplit(None, 1)[-1]
            if newest == self._newest:
                return False
            self._newest = newest
        return self._find_members()

    def _find_members(self) -> bool:
        begun = time.thread_time()
        members = descendants(self._root)
        for number in self._processes.keys() - members:
            self._processes.pop(number).close()
        new = members - self._processes.keys()
        for number in new:
            with contextlib.suppress(OSError):  # it has ended
                self._processes[number] = _Process(number)
        self._members_at = time.perf_counter() + (time.thread_time() - begun) * _PAUSES
        return bool(new & self._processes.keys())

    def _counted(self) -> _Counters | None:
        """Added up over all; None where one has ended, or none is left."""
        found = [process.counters() for process in self._processes.values()]
        if not found or None in found:
            return None
        own, shared, file_backed, resident = zip(*filter(None, found), strict=True)
        return _Counters(sum(own), max(shared), sum(file_backed), sum(resident))

    def _quick(self) -> None:
        begun, found = time.perf_counter(), self._counted()
        if found is None:
            self._full_at = 0.0 if self._processes else self._full_at
            return
        private = max(0, found.own + found.shared - self._shared_private)
        self._note(Look(begun, private, max(0, found.file_backed - self._shared_files), found.resident))

    def _full(self) -> bool:
        """False where it has to be repeated: at once, for a quick look cannot tell what is shared until then."""
        begun, took = time.perf_counter(), time.thread_time()
        self._find_members()
        before = self._counted()
        private = file_backed = 0
        for process in self._processes.values():
            found = process.rollup() if self._by_rollup else None
            if found is not None:
                private += found.get(b"Pss_Anon", 0) + found.get(b"Pss_Shmem", 0) + found.get(b"SwapPss", 0)
                file_backed += found.get(b"Pss_File", 0)
        after = self._counted()
        whole = before is not None and after is not None  # else one has ended meanwhile, and this look is soon repeated
        before, after = before or _Counters(), after or _Counters()
        counted, file_counted = max(each.own + each.shared for each in (before, after)), max(before.file_backed, after.file_backed)
        several = len(self._processes) > 1
        if not self._by_rollup:
            private, file_backed = counted, file_counted
        elif several and abs(after.resident - before.resident) > _STEADY:
            # Pages that a second process took up between the walk of the first and its own are whole in one and half in the other.
            self._unsteady += 1
            if self._unsteady < _TRIES:
                self._full_at = 0.0
                return False
            private = min(private, counted)
        self._unsteady = 0
        # Held against the larger count: what came during the walk may be in it or not, and is not to be counted twice.
        self._shared_private = max(0, counted - private) if several else 0
        self._shared_files = max(0, file_counted - file_backed)
        if self._processes:
            self._note(Look(begun, private, file_backed, max(before.resident, after.resident)))
        cost = time.thread_time() - took
        self._full_looks += 1
        self._full_at = time.perf_counter() + max(_FULL, cost * _PAUSES) if whole or not self._processes else 0.0
        return True

    def _note(self, look: Look) -> None:
        (self._kept if self._marked is None else self._looks).add(look)
        peak = self._peak
        peak.private = max(peak.private, look.private)
        peak.file_backed = max(peak.file_backed, look.file_backed)
        peak.resident = max(peak.resident, look.resident)
