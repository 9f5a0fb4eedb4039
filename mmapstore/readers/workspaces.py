"""Memory that a thread needs while it reads and decodes chunks: lent for a call, and shared by all readers that decode."""

from __future__ import annotations

import collections
import weakref
from typing import Any

import numpy as np

from ..files.lent_buffers import new_pages
from ..files.worker_threads import usable_cpus

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Workspace:
    """Two buffers that grow to the largest size asked for: for stored bytes, and for a chunk that is not decoded in place."""

    def __init__(self) -> None:
        self._buffers: dict[str, Bytes] = {}

    def staging(self, nbytes: int) -> Bytes:
        return self._buffer("staging", nbytes)

    def decoded(self, nbytes: int) -> Bytes:
        return self._buffer("decoded", nbytes)

    def _buffer(self, name: str, nbytes: int) -> Bytes:
        found = self._buffers.get(name)
        if found is None or len(found) < nbytes:
            found = None
            self._buffers.pop(name, None)  # the old one goes before the new one comes
            found = self._buffers[name] = new_pages(nbytes)
        return found[:nbytes]


class Workspaces:
    """Lends a workspace to each thread that asks, and keeps as many as there are processors."""

    def __init__(self) -> None:
        self._free: collections.deque[Workspace] = collections.deque(maxlen=usable_cpus())

    def take(self) -> Workspace:
        try:
            return self._free.pop()
        except IndexError:
            return Workspace()

    def give(self, workspace: Workspace) -> None:
        self._free.append(workspace)


_shared: weakref.ref[Workspaces] | None = None


def shared_workspaces() -> Workspaces:
    """Return the workspaces of this process, kept as long as somebody holds them: a hundred joined files need one."""
    global _shared
    found = _shared() if _shared is not None else None
    if found is None:
        found = Workspaces()
        _shared = weakref.ref(found)
    return found
