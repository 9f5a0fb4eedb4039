"""The contract of readers, and the abilities that some of them have.

Rules for every reader
----------------------
- Samples are numbered 0 .. len(spec) - 1; a run is [start, stop) of them. There is no reading inside a sample.
- Delivered samples have the dtype and sample shape of `spec`: native byte order, samples first.
- `read` fills the caller's buffer and keeps no reference to it, nor replaces it.
- Any thread may call any method at any time; a reader locks what it must.
- A reader pickles by path and opens again where it is unpickled: a file descriptor or a map is never sent.
- Errors name the file and the place in it; foreign exceptions are translated, with their cause kept.

An ability is a field or a method with a default: callers ask `reader.gathers`, never which class a reader is.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..plain.array_spec import ArraySpec
from ..plain.runs import Numbers, Runs, samples_of

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

    def frames(self, starts: Numbers) -> Numbers:
        """Return the samples wanted of windows that begin at the samples `starts`: (windows, count)."""
        first = starts[:, None] + self.first
        return first if self.count == 1 else first + self.step * np.arange(self.count)

    def take(self, array: Array, rows: Numbers) -> None:
        """Copy array[rows] to `out`, with Python's lock let go of. `array` has the dtype of `out`; rows are not checked."""
        # Without mode= NumPy checks the rows first, and copies through a buffer.
        np.take(array, rows.reshape(-1), axis=0, out=self.out.reshape(-1, *array.shape[1:]), mode="clip")


class Reader(abc.ABC):
    """Reads runs of samples into the caller's buffer.

    Attributes
    ----------
    spec : of the samples as they are delivered
    why : one plain sentence for `info`: how the bytes are reached, and the reason
    place : the same in two or three words, for a repr: "memory-mapped", "read in place", "in RAM"
    gathers : `gather` costs as much as the bytes asked for; else windows are cut from runs that are held in memory
    joins_runs : `read_runs` decodes each chunk once, however many runs it holds samples of, and all chunks in threads
    offers_views : `view` may return an array
    takes_advice : `will_need` and `let_go` do something
    """

    spec: ArraySpec
    why: str = ""
    place: str = ""
    gathers: bool = False
    joins_runs: bool = False
    offers_views: bool = False
    takes_advice: bool = False

    @abc.abstractmethod
    def read(self, start: int, stop: int, out: Array) -> None:
        """Fill `out`, of shape (stop - start, *sample shape), with samples [start, stop)."""

    def read_runs(self, runs: Runs, out: Array) -> None:
        """Fill `out` with the samples of all runs [start, stop), one run after the other. `runs` has the shape (runs, 2)."""
        if self.gathers and len(runs) > len(out) // 8:
            self.gather(samples_of(runs), [Part(0, 1, 1, out[:, None])])
            return
        at = 0
        for start, stop in runs.tolist():
            self.read(start, stop, out[at : at + stop - start])
            at += stop - start

    def gather(self, starts: Numbers, parts: Sequence[Part]) -> None:
        """Fill every part for the windows that begin at the samples `starts`. Only of readers that have `gathers`."""
        raise NotImplementedError

    def view(self, start: int, stop: int) -> Array | None:
        """Return samples [start, stop) without a copy, read-only; None where this run needs one."""
        return None

    @property
    def decoded_together(self) -> int:
        """Consecutive samples that are decoded as one: the length of a chunk. 0 where a part costs less than the chunk."""
        return 0

    def whole_chunks(self, start: int, stop: int) -> tuple[int, int]:
        """Return the run [start, stop), longer at both ends by the samples that are decoded along with it anyway."""
        return start, stop

    @property
    def scratch_nbytes(self) -> int:
        """Bytes of memory that reading takes beside the caller's buffer: part of every prediction."""
        return self.kept_nbytes

    def scratch_of(self, samples: int) -> int:
        """Return `scratch_nbytes` of runs of at most so many samples, which begin where a chunk does.

        No more threads take part than chunks are decoded.
        """
        return self.scratch_nbytes

    @property
    def left_nbytes(self) -> int:
        """Bytes of `scratch_nbytes` that stay behind, in malloc, in each thread that has called."""
        return 0

    @property
    def kept_nbytes(self) -> int:
        """The part of `scratch_nbytes` that belongs to this reader alone, such as an index.

        Readers that are used one after the other take the rest once for all of them.
        """
        return 0

    def within(self, nbytes: int) -> Reader:
        """Return a reader of the same in so few threads that `scratch_nbytes` is at most `nbytes`; one may still take more.

        A reader that has no such choice returns itself.
        """
        return self

    def will_need(self, start: int, stop: int) -> None:
        """Ask the kernel to have samples [start, stop) in the page cache soon. Never blocks, never fails."""

    def let_go(self, start: int, stop: int) -> None:
        """Tell the kernel that samples [start, stop) are done with: their pages may go. Never blocks, never fails."""

    def check(self) -> None:
        """Raise DamagedFileError if a file is not the one that was opened: another size, time of change, or inode."""

    def settled(self) -> Reader:
        """Return this reader, or another of the same samples that has become the better one. Called as an epoch begins."""
        return self

    @property
    def files(self) -> Sequence[str]:
        """The files, or directories of a store, that samples come from: their sizes and times of change identify the contents."""
        return ()


def within(readers: Mapping[str, Reader], nbytes: int) -> dict[str, Reader]:
    """Return readers that take at most `nbytes` of scratch memory together, as far as fewer threads make it so."""
    choosing = sum(reader.within(0) is not reader for reader in readers.values())
    return {name: reader.within(nbytes // max(1, choosing)) for name, reader in readers.items()}
