"""Samples that are decoded once: what was decoded is left in a file, and read from there ever after."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..formats.located import one_run
from ..formats.npy_file import header_bytes
from ..plain.array_spec import ArraySpec, StoredLayout
from ..plain.errors import InvalidTypeError, InvalidValueError
from ..plain.runs import Runs, as_runs
from .cache_file import Numbers, cache_file, check_same
from .contract import Array, Reader
from .raw_reader import StoredRaw

SampleTransform = Callable[[Array], Any]
BLOCK_BYTES = 512 * 2**10  # about; whole chunks
SCRATCH_BYTES = 8 * 2**20  # decoded at once, so that all processors have something to do
_TRANSFORM_COPIES = 4  # of a block, that a transform holds at most beside what it was given: intermediate results


def blocks_of(reader: Reader) -> Numbers:
    """Return the begin of each block, and the end: about `BLOCK_BYTES` each, in whole chunks, each decoded for one block."""
    samples = len(reader.spec)
    most = max(1, BLOCK_BYTES // max(1, reader.spec.sample_nbytes))
    if not reader.decoded_together:
        return np.array([*range(0, samples, most), samples], np.int64)
    ahead = max(1, most - reader.decoded_together + 1)
    ends = [0]
    while ends[-1] < samples:
        ends.append(max(ends[-1] + 1, min(samples, reader.whole_chunks(ends[-1], min(ends[-1] + ahead, samples))[1])))
    return np.array(ends, np.int64)


class Blocks(NamedTuple):
    """The blocks of a cache file, and those of this reader: it needs [first, last), and may write [first, allowed)."""

    ends: Numbers
    first: int
    last: int
    allowed: int


class _Piece(NamedTuple):
    """Samples [start, stop), of one block, that go to `out[at:]`."""

    block: int
    start: int
    stop: int
    at: int


class Cached(Reader):
    """Reads samples from the cache file at `path`; missing samples are read from `source` and written to the file.

    Parameters
    ----------
    spec : of the samples as they come out, transformed
    transform : applied to samples of the source before they are kept; the same samples must give the same result
    """

    place = "decoded once"
    joins_runs = takes_advice = True

    def __init__(
        self, source: Reader, path: str, spec: ArraySpec, blocks: Blocks, transform: SampleTransform | None = None
    ) -> None:
        self.spec = spec
        self._source = source
        self._file = cache_file(path, spec, blocks.ends)
        self._blocks = blocks
        self._transform = transform
        self._scratch: np.ndarray[Any, np.dtype[np.uint8]] | None = None
        self._settled: Reader | None = None
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        # One thread fills at a time: none decodes what another is at work on, and one scratch is enough. Decoding itself takes
        # all processors.
        self._filling = threading.RLock()

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickling keeps the cache's path; once all is cached, neither the source nor the transform.
        settled = self.settled()
        if isinstance(settled, CompleteCache):
            return settled.__reduce__()
        return type(self), (self._source, self._file.path, self.spec, self._blocks, self._transform)

    # --- the contract ------------------------------------------------------------------------------------------------------

    @property
    def why(self) -> str:  # type: ignore[override]  # it counts the blocks that are there
        blocks = self._blocks
        done = int(np.count_nonzero(self._file.filled(blocks.first, blocks.last)))
        words = f"decoded once into {self._file.path}: {done} of {blocks.last - blocks.first} blocks so far"
        if blocks.allowed < blocks.last:
            words += f", of which max_disk allows {blocks.allowed - blocks.first}"
        return f"{words}; what is not there yet: {self._source.why}"

    @property
    def left_nbytes(self) -> int:
        return self._source.left_nbytes

    @property
    def scratch_nbytes(self) -> int:
        index = self._blocks.ends.nbytes + len(self._blocks.ends)
        return self._source.scratch_nbytes + index + self._capacity + self._transform_nbytes

    @property
    def decoded_together(self) -> int:
        # Of blocks that `max_disk` leaves out each chunk is decoded each time; others are decoded once.
        return max(1, self._source.decoded_together) if self._blocks.allowed < self._blocks.last else 0

    def whole_chunks(self, start: int, stop: int) -> tuple[int, int]:
        return self._source.whole_chunks(start, stop) if self.decoded_together else (start, stop)

    def read(self, start: int, stop: int, out: Array) -> None:
        self.read_runs(as_runs([(start, stop)]), out)

    def read_runs(self, runs: Runs, out: Array) -> None:
        pieces = self._pieces(runs)
        if not pieces:
            return
        missing = self._read_filled(pieces, out)
        if missing:
            with self._alone():
                # Another thread may have filled some of them meanwhile.
                self._fill(self._read_filled(missing, out), out)

    def will_need(self, start: int, stop: int) -> None:
        self._advise(start, stop, "will_need")

    def let_go(self, start: int, stop: int) -> None:
        self._advise(start, stop, "let_go")

    def check(self) -> None:
        self._source.check()
        self._file.check()

    def settled(self) -> Reader:
        """Return a reader that maps the file once every block is there; until then this one."""
        if self._settled is None:
            self._file.flush()
            if self._is_complete():
                self._settled = CompleteCache(self._file.path, self.spec)
        return self if self._settled is None else self._settled

    def _is_complete(self) -> bool:
        return bool(self._file.filled(self._blocks.first, self._blocks.last).all())

    # --- which blocks ------------------------------------------------------------------------------------------------------

    def _pieces(self, runs: Runs) -> list[_Piece]:
        pieces, at = [], 0
        for start, stop in runs.tolist():
            if stop <= start:
                continue
            first, last = self._touched(start, stop)
            ends = self._blocks.ends[first : last + 1].tolist()
            ends[0], ends[-1] = start, stop
            for number, (a, b) in enumerate(pairwise(ends), first):
                pieces.append(_Piece(number, a, b, at + a - start))
            at += stop - start
        return pieces

    def _touched(self, start: int, stop: int) -> tuple[int, int]:
        first = int(np.searchsorted(self._blocks.ends, start, side="right")) - 1
        return first, int(np.searchsorted(self._blocks.ends, stop, side="left"))

    def _read_filled(self, pieces: list[_Piece], out: Array) -> list[_Piece]:
        """Read what is there; return the rest."""
        low, high = min(piece.block for piece in pieces), max(piece.block for piece in pieces) + 1
        filled = self._file.filled(low, high)
        missing = []
        start = stop = at = 0
        for piece in pieces:
            if not filled[piece.block - low]:
                missing.append(piece)
            elif piece.start == stop and piece.at == at + stop - start and start < stop:
                stop = piece.stop
            else:
                if start < stop:
                    self._file.read(start, stop, out[at : at + stop - start])
                start, stop, at = piece.start, piece.stop, piece.at
        if start < stop:
            self._file.read(start, stop, out[at : at + stop - start])
        return missing

    # --- filling, one thread at a time -------------------------------------------------------------------------------------

    def _fill(self, missing: list[_Piece], out: Array) -> None:
        wanted: dict[int, list[_Piece]] = {}
        others = []
        for piece in missing:
            if self._file.writes and self._blocks.first <= piece.block < self._blocks.allowed:
                wanted.setdefault(piece.block, []).append(piece)
            else:
                others.append(piece)
        for group in self._groups(sorted(wanted)):
            self._fill_blocks(group, wanted, out)
        self._read_uncached(others, out)
        if wanted and self._is_complete():
            self._file.flush()
            self._scratch = None

    def _groups(self, numbers: list[int]) -> Iterator[list[int]]:
        """Yield the blocks that are decoded at once."""
        group: list[int] = []
        held = 0
        for number in numbers:
            nbytes = self._length(number) * self._source.spec.sample_nbytes
            if group and held + nbytes > self._capacity:
                yield group
                group, held = [], 0
            group.append(number)
            held += nbytes
        if group:
            yield group

    def _fill_blocks(self, numbers: list[int], wanted: dict[int, list[_Piece]], out: Array) -> None:
        runs: list[tuple[int, int]] = []
        for number in numbers:
            start, stop = self._ends(number)
            if runs and runs[-1][1] == start:
                runs[-1] = (runs[-1][0], stop)
            else:
                runs.append((start, stop))
        samples = self._scratch_for(sum(stop - start for start, stop in runs))
        self._read_source(runs, samples)
        at = 0
        for number in numbers:
            start, stop = self._ends(number)
            block = self._made(samples[at : at + stop - start])
            at += stop - start
            self._file.write(number, block)
            for piece in wanted[number]:
                np.copyto(out[piece.at : piece.at + piece.stop - piece.start], block[piece.start - start : piece.stop - start])

    def _read_uncached(self, pieces: list[_Piece], out: Array) -> None:
        """Read blocks that may not, or cannot any more, be written: straight into `out`, where neighbours go together."""
        if self._transform is not None:
            for piece in pieces:
                samples = self._scratch_for(piece.stop - piece.start)
                self._source.read(piece.start, piece.stop, samples)
                np.copyto(out[piece.at : piece.at + len(samples)], self._made(samples))
            return
        begin = end = 0
        runs: list[tuple[int, int]] = []
        for piece in pieces:
            if piece.at != end and runs:
                self._read_source(runs, out[begin:end])
                runs = []
            if not runs:
                begin = piece.at
            end = piece.at + piece.stop - piece.start
            if runs and runs[-1][1] == piece.start:
                runs[-1] = (runs[-1][0], piece.stop)
            else:
                runs.append((piece.start, piece.stop))
        if runs:
            self._read_source(runs, out[begin:end])

    def _read_source(self, runs: list[tuple[int, int]], out: Array) -> None:
        self._source.read_runs(as_runs(runs), out)

    def _made(self, samples: Array) -> Array:
        return samples if self._transform is None else transformed(self._transform, samples, self.spec)

    # --- memory ------------------------------------------------------------------------------------------------------------

    @property
    def _capacity(self) -> int:
        """Bytes of samples of the source that are held at once."""
        spec = self._source.spec
        return max(self._longest() * spec.sample_nbytes, min(SCRATCH_BYTES, spec.nbytes))

    @property
    def _transform_nbytes(self) -> int:
        if self._transform is None:
            return 0
        return _TRANSFORM_COPIES * self._longest() * max(self.spec.sample_nbytes, self._source.spec.sample_nbytes)

    def _longest(self) -> int:
        return int(np.diff(self._blocks.ends).max())

    def _scratch_for(self, samples: int) -> Array:
        spec = self._source.spec
        nbytes = samples * spec.sample_nbytes
        if self._scratch is None:
            self._scratch = np.empty(self._capacity, np.uint8)
        return self._scratch[:nbytes].view(spec.dtype).reshape(samples, *spec.sample_shape)

    # --- the rest ----------------------------------------------------------------------------------------------------------

    def _ends(self, number: int) -> tuple[int, int]:
        return int(self._blocks.ends[number]), int(self._blocks.ends[number + 1])

    def _length(self, number: int) -> int:
        start, stop = self._ends(number)
        return stop - start

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if self._process != os.getpid():
            self._reset()  # in a forked child: a thread that is not there may hold the lock
            self._scratch = None
        with self._filling:
            yield

    def _advise(self, start: int, stop: int, what: str) -> None:
        start, stop = max(0, start), min(stop, len(self.spec))
        if start >= stop:
            return
        pieces = self._pieces(as_runs([(start, stop)]))
        filled = self._file.filled(pieces[0].block, pieces[-1].block + 1).tolist()
        begin = 0
        for number in range(1, len(pieces) + 1):
            if number == len(pieces) or filled[number] != filled[begin]:
                told = self._file if filled[begin] else self._source
                getattr(told, what)(pieces[begin].start, pieces[number - 1].stop)
                begin = number


class CompleteCache(StoredRaw):
    """The cache file, once all that is needed of it is there: mapped, and checked to stay the file it is."""

    def __init__(self, path: str, spec: ArraySpec) -> None:
        rows = one_run(path, len(header_bytes(spec.shape, spec.dtype)), spec.shape, spec.dtype)
        words = f"memory-mapped from the cache {path}: it was decoded once, and no more"
        super().__init__(rows, StoredLayout(spec.layout, spec.shape), words)
        self._arguments = path, spec
        self._status = os.stat(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return CompleteCache, self._arguments

    def check(self) -> None:
        check_same(self._arguments[0], self._status)


def transformed(transform: SampleTransform, samples: Array, spec: ArraySpec | None = None) -> Array:
    """Return the transform of samples, C-contiguous. Raises InvalidTypeError or InvalidValueError unless it is of `spec`."""
    given = samples.shape
    made = np.asarray(transform(samples))
    if made.dtype.kind not in "biufcS":
        raise InvalidTypeError(f"transform returned {made.dtype} for samples {given}; expected an array of fixed-size numbers.")
    if made.shape[:1] != given[:1]:
        raise InvalidValueError(
            f"transform made {made.shape} of samples {given}; expected {given[0]} samples again: it gets an array of samples, and "
            "returns one for each, in order."
        )
    if spec is not None and (made.shape[1:] != spec.sample_shape or made.dtype.newbyteorder("=") != spec.dtype):
        raise InvalidValueError(
            f"transform made samples of {made.shape[1:]} {made.dtype}, but {spec.sample_shape} {spec.dtype} before; expected "
            "the same shape and dtype for every sample."
        )
    return np.ascontiguousarray(made, made.dtype.newbyteorder("="))
