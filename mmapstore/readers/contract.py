"""The contract of readers, and the abilities that they may have beside.

Rules for every reader
----------------------
- Samples are numbered 0 .. len(spec) - 1; a run is [start, stop) of them. There is no reading inside a sample.
- What comes out has the dtype and sample shape of `spec`: native byte order, samples first.
- `read` fills the caller's buffer and keeps no reference to it, nor replaces it.
- Any thread may call any method at any time; a reader locks what it must.
- A reader pickles by path and opens again where it is unpickled: a file descriptor or a map is never sent.
- Errors name the file and the place in it; foreign exceptions are translated, with their cause kept.

An ability is a protocol of its own: callers ask `isinstance(reader, OffersViews)`, never which reader it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from ..plain.array_spec import ArraySpec
from ..plain.runs import Runs, samples_of

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Part:
    """The part to take from each window: samples `first + k * step` of it, k = 0 .. count - 1, into `out[j, k]` for window j.

    `out` has shape (windows, count, *sample shape), is C-contiguous and has the dtype of the reader's `spec`.
    """

    first: int
    count: int
    step: int
    out: Array

    def frames(self, starts: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The samples wanted of windows that begin at the samples `starts`: (windows, count)."""
        return starts[:, None] + (self.first + self.step * np.arange(self.count))

    def take(self, array: Array, rows: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        """Copy array[rows] to `out`, with Python's lock let go of. `array` has the dtype of `out`; rows are not checked."""
        # Without mode= NumPy checks the rows first, and copies through a buffer.
        np.take(array, rows.reshape(-1), axis=0, out=self.out.reshape(-1, *array.shape[1:]), mode="clip")


class Reader(Protocol):
    """Reads runs of samples into the caller's buffer."""

    @property
    def spec(self) -> ArraySpec: ...

    @property
    def why(self) -> str:
        """One plain sentence for `info`: how the bytes are reached, and why this way."""
        ...

    @property
    def place(self) -> str:
        """The same in two or three words, for a repr: "memory-mapped", "read in place", "in RAM"."""
        ...

    def read(self, start: int, stop: int, out: Array) -> None:
        """Fill `out`, of shape (stop - start, *sample shape), with samples [start, stop)."""
        ...


@runtime_checkable
class OffersViews(Protocol):
    def view(self, start: int, stop: int) -> Array | None:
        """Samples [start, stop) without a copy, read-only; None where this run cannot be had so."""
        ...


@runtime_checkable
class GathersWindows(Protocol):
    def gather(self, starts: np.ndarray[Any, np.dtype[np.int64]], parts: Sequence[Part]) -> None:
        """Fill every part for the windows that begin at the samples `starts`, at the cost of the bytes asked for."""
        ...


@runtime_checkable
class ReadsRuns(Protocol):
    def read_runs(self, runs: Runs, out: Array) -> None:
        """Fill `out` with the samples of all runs [start, stop), one run after the other. `runs` has the shape (runs, 2).

        Each chunk is decoded once, however many runs it holds samples of, and all of them at once in threads. Offered by
        readers that decode.
        """
        ...


def read_runs(reader: Reader, runs: Runs, out: Array) -> None:
    """`ReadsRuns.read_runs` of any reader: short runs by one call where it gathers, else with a call for each."""
    if isinstance(reader, ReadsRuns):
        reader.read_runs(runs, out)
    elif isinstance(reader, GathersWindows) and len(runs) > len(out) // 8:
        reader.gather(samples_of(runs), [Part(0, 1, 1, out[:, None])])
    else:
        at = 0
        for start, stop in runs.tolist():
            reader.read(start, stop, out[at : at + stop - start])
            at += stop - start


@runtime_checkable
class Decodes(Protocol):
    """Offered by readers for which a part of a chunk costs as much as all of it."""

    @property
    def decoded_together(self) -> int:
        """Consecutive samples that are decoded as one: the length of a chunk."""
        ...

    def whole_chunks(self, start: int, stop: int) -> tuple[int, int]:
        """The run [start, stop), longer at both ends by the samples that are decoded along with it anyway."""
        ...


@runtime_checkable
class NeedsScratch(Protocol):
    @property
    def scratch_nbytes(self) -> int:
        """Bytes of memory that reading takes beside the caller's buffer: part of every prediction."""
        ...


@runtime_checkable
class ReadsInThreads(NeedsScratch, Protocol):
    def within(self, nbytes: int) -> Self:
        """Return a reader of the same in so few threads that `scratch_nbytes` is at most `nbytes`; one may still take more."""
        ...


@runtime_checkable
class TakesAdvice(Protocol):
    def will_need(self, start: int, stop: int) -> None:
        """Ask the kernel to have samples [start, stop) in the page cache soon. Never blocks, never fails."""
        ...

    def let_go(self, start: int, stop: int) -> None:
        """Tell the kernel that samples [start, stop) are done with: their pages may go. Never blocks, never fails."""
        ...


@runtime_checkable
class Checks(Protocol):
    def check(self) -> None:
        """Raise DamagedFileError if a file is not the one that was opened: another size, time of change, or inode."""
        ...


@runtime_checkable
class KeepsMemory(Protocol):
    @property
    def kept_nbytes(self) -> int:
        """The part of `scratch_nbytes` that is this reader's own, such as an index. Readers that are used one after the other
        take the rest once for all of them."""
        ...


@runtime_checkable
class Settles(Protocol):
    def settled(self) -> Reader:
        """This reader, or another for the same samples that has become the better one. Asked at the beginning of an epoch."""
        ...


@runtime_checkable
class NamesFiles(Protocol):
    @property
    def files(self) -> Sequence[str]:
        """The files, or directories of a store, that samples come from: their sizes and times of change tell whether they are
        what they were."""
        ...


def within(readers: Mapping[str, Reader], nbytes: int) -> dict[str, Reader]:
    """Return readers that take at most `nbytes` of scratch memory together, as far as fewer threads make it so."""
    needing = [reader for reader in readers.values() if isinstance(reader, ReadsInThreads)]
    share = nbytes // max(1, len(needing))
    return {name: reader.within(share) if isinstance(reader, ReadsInThreads) else reader for name, reader in readers.items()}
