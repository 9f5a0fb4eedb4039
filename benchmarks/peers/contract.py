"""A peer of the suite: given a job it opens the stored array and yields the batches of an epoch."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..stored_data import KEY, Kind

Array = np.ndarray[Any, np.dtype[Any]]
Batch = tuple[Array, ...]  # (x,) or (x, y)
ACCESSES = ("sequential", "next", "shuffled", "fit")


@dataclass(frozen=True)
class Job:
    """One stored array, and how it is to be delivered.

    access : "sequential" is x alone in sequential order, "next" (x, y) with y the sample after x, "shuffled" the same pairs in
        block-shuffled order, "fit" those of "next" through `keras.Model.fit`
    """

    kind: Kind
    form: str
    path: Path
    access: str
    seed: int = 0
    max_memory: str | None = None

    @property
    def pairs(self) -> bool:
        return self.access != "sequential"

    @property
    def shuffled(self) -> bool:
        return self.access == "shuffled"

    @property
    def anchors(self) -> int:
        """Samples of an epoch."""
        return self.kind.samples - self.pairs

    @property
    def key(self) -> str:
        return KEY


@dataclass
class Opened:
    """The result of `open`: `epoch(k)` iterates over the batches of epoch k, or `keras()` is what `fit` takes.

    Everything of an array handed out is read before the next one is asked for. `predicted` is in bytes.
    """

    epoch: Callable[[int], Iterator[Batch]] | None = None
    keras: Callable[[], Any] | None = None
    predicted: int | None = None
    words: str = ""
    close: Callable[[], object] = field(default=lambda: None)


@dataclass(frozen=True)
class Peer:
    """One way: which stored forms and accesses it is for, and what it needs installed.

    default : measured without `--peers all`. python : the least version it can be installed on. floor : it does less than a
        loader has to, and says what is possible: its order is not checked for being mixed
    """

    name: str
    open: Callable[[Job], Opened]
    forms: Callable[[str], bool]
    accesses: tuple[str, ...]
    requires: tuple[str, ...]
    pip: str
    default: bool
    python: tuple[int, int] = (3, 11)
    prepare: Callable[[Job], object] | None = None
    floor: bool = False

    def serves(self, form: str, access: str) -> bool:
        return access in self.accesses and self.forms(form)

    def missing(self) -> str:
        """Why it cannot be measured here, with the line that mends it; empty if it can."""
        absent = [name for name in self.requires if importlib.util.find_spec(name) is None]
        if not absent:
            return ""
        if sys.version_info[:2] < self.python:
            return f"not installed: needs Python {self.python[0]}.{self.python[1]}, then pip install {self.pip}"
        return f"not installed: pip install {self.pip}"


PEERS: dict[str, Peer] = {}


def peer(
    name: str,
    *,
    forms: str = "",
    accesses: tuple[str, ...] = ("sequential", "next", "shuffled"),
    requires: tuple[str, ...] = (),
    pip: str = "",
    default: bool = True,
    python: tuple[int, int] = (3, 11),
    prepare: Callable[[Job], object] | None = None,
    floor: bool = False,
) -> Callable[[Callable[[Job], Opened]], Callable[[Job], Opened]]:
    """Enter a way into `PEERS`. `forms`: the beginnings of the names of the forms it reads, apart by blanks; all if empty."""

    def enter(open_: Callable[[Job], Opened]) -> Callable[[Job], Opened]:
        beginnings = tuple(forms.split()) or ("",)
        PEERS[name] = Peer(
            name,
            open_,
            lambda form: form.startswith(beginnings),
            accesses,
            requires,
            pip or " ".join(requires),
            default,
            python,
            prepare,
            floor,
        )
        return open_

    return enter


# --- what a careful author writes around a library that reads slices ----------------------------------------------------


def in_order(read: Callable[[int], Iterator[Array]], job: Job) -> Iterator[Batch]:
    """Batches in sequential order from consecutive slabs, each sample read once; a batch that spans two slabs is joined.

    read : epoch -> slabs, one after the other, that together are the whole array
    """
    size, extra = job.kind.batch, int(job.pairs)
    held = np.empty((0, *job.kind.shape), np.float32)  # the end of the slab before: less than a batch needs
    for slab in read(0):
        at = 0
        if len(held):
            joined = np.concatenate([held, slab[: size + extra - len(held)]])
            if len(joined) < size + extra:
                held = joined
                continue
            yield _cut(joined, size, extra)
            at = size - len(held)
        while len(slab) - at >= size + extra:
            yield _cut(slab[at:], size, extra)
            at += size
        held = slab[at:].copy()
        del slab
    if len(held) > extra:
        yield _cut(held, len(held) - extra, extra)


def _cut(samples: Array, size: int, extra: int) -> Batch:
    return (samples[:size], samples[1 : size + 1]) if extra else (samples[:size],)


def block_windows(job: Job, epoch: int) -> Iterator[list[tuple[int, int]]]:
    """The blocks of pairs of each shuffling window: anchors [start, stop), in a new order each epoch, on chunk boundaries."""
    block = job.kind.block
    starts = np.arange(0, job.anchors, block)
    np.random.default_rng([job.seed, epoch]).shuffle(starts)
    for first in range(0, len(starts), job.kind.blocks):
        yield [(int(start), min(int(start) + block, job.anchors)) for start in starts[first : first + job.kind.blocks]]


def mixed(windows: Iterator[list[Array]], job: Job, epoch: int) -> Iterator[Batch]:
    """Batches of pairs drawn from all over a window. Each block comes with the sample after its last anchor."""
    random = np.random.default_rng([job.seed, epoch, 1])
    size = job.kind.batch
    for blocks in windows:
        at = np.concatenate([[0], np.cumsum([len(block) for block in blocks])])
        samples = np.concatenate(blocks)
        del blocks
        anchors = np.concatenate([np.arange(low, high - 1) for low, high in pairwise(at.tolist())])
        random.shuffle(anchors)
        for first in range(0, len(anchors), size):
            chosen = anchors[first : first + size]
            yield samples[chosen], samples[chosen + 1]


def slabs(samples: int, slab: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + slab, samples)) for start in range(0, samples, slab))
