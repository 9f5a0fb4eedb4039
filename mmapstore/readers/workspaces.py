"""Memory that a thread needs while it reads and decodes chunks: lent for a call, and shared by all readers that decode."""

from __future__ import annotations

import collections
import weakref
from typing import Any

import numpy as np

from ..files.worker_threads import usable_cpus

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Workspace:
    """Two buffers that grow to the largest size asked for."""

    def __init__(self) -> None:
        self._staging: Bytes = np.empty(0, np.uint8)
        self._decoded: Bytes = np.empty(0, np.uint8)

    def staging(self, nbytes: int) -> Bytes:
        """For stored bytes."""
        if len(self._staging) < nbytes:
            self._staging = np.empty(0, np.uint8)  # the old one goes before the new one comes
            self._staging = np.empty(nbytes, np.uint8)
        return self._staging[:nbytes]

    def decoded(self, nbytes: int) -> Bytes:
        """For a chunk that cannot be decoded in place."""
        if len(self._decoded) < nbytes:
            self._decoded = np.empty(0, np.uint8)
            self._decoded = np.empty(nbytes, np.uint8)
        return self._decoded[:nbytes]


class Workspaces:
    """Lends a workspace to each thread that asks, and keeps as many as threads can be at work for one caller."""

    def __init__(self) -> None:
        self._free: collections.deque[Workspace] = collections.deque(maxlen=most_workers())

    def take(self) -> Workspace:
        try:
            return self._free.pop()
        except IndexError:
            return Workspace()

    def give(self, workspace: Workspace) -> None:
        self._free.append(workspace)


def most_workers() -> int:
    """Threads that decode at once: the helpers, the caller, and those that read two windows ahead."""
    return usable_cpus() + 2


_shared: weakref.ref[Workspaces] | None = None


def shared_workspaces() -> Workspaces:
    """Return the workspaces of this process, kept as long as somebody holds them: a hundred joined files need one."""
    global _shared
    found = _shared() if _shared is not None else None
    if found is None:
        found = Workspaces()
        _shared = weakref.ref(found)
    return found
