"""The shape of chunks against the order in which they are read, and how many there are."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

from ...operations.decodes import decodes_per_chunk
from ...plain.array_spec import DEFAULT_LAYOUTS, ArraySpec
from ...plain.memory_budget import format_bytes
from ...plain.runs import Runs
from ...plain.sample_order import BLOCK_BYTES
from ...plain.windows import Episodes
from ...readers.chunk_runs import batch_cost, whole_chunks
from ..case import Case
from ..mending import convert_line
from ..speeds import Speeds
from .contract import SLOW, Finding

MANY_DECODES = 2.0
_MUCH = 4  # times the bytes wanted, or a block of a shuffled epoch
_SMALL = 64 << 10  # bytes decoded; below it, finding a chunk costs more than decoding it
_MANY = 1000
_MANY_FILES = 256


def findings(case: Case, speeds: Speeds | None) -> Iterator[Finding]:
    if case.chunk is not None:
        yield from _shape(case, speeds, case.chunk)
    yield from _files(case, speeds, case.chunk)


def _shape(case: Case, speeds: Speeds | None, chunk: tuple[int, ...]) -> Iterator[Finding]:
    itemsize = case.spec.dtype.itemsize
    samples = min(case.batch, case.layout.episode_length)
    wanted = samples * case.spec.sample_nbytes
    count, elements = batch_cost(case.layout, chunk, samples)
    decoded = elements * itemsize
    each, together = math.prod(chunk) * itemsize, batch_cost(case.layout, chunk, 1)[0]
    times, reasons = case.decodes * _episodes_in(case, chunk), []
    if decoded > _MUCH * max(wanted, BLOCK_BYTES):
        reasons.append(
            f"{samples} samples in order ({format_bytes(wanted)}) lie in {count} of them, {format_bytes(decoded)} to decode"
        )
    if together > 1:
        reasons.append(f"each sample is put together from {together}")
    if times > MANY_DECODES:
        reasons.append(f"a shuffled epoch decodes each {times:.1f} times")
    if not reasons:
        return
    length = _best_length(case)
    after = min(times, _decodes_with(case, length))
    saved = int(case.spec.nbytes * (times - after))
    seconds = None
    if speeds is not None:
        decoding = (speeds.batch or 0.0) * case.steps * (1 - after / times)
        seconds = max(decoding, case.spec.nbytes / speeds.copy if together > 1 else 0.0)
    gain = f"{format_bytes(saved)} fewer to decode in each epoch"
    if saved * 10 < case.spec.nbytes:
        gain = "smaller windows of frames held in memory" + (", and one copy of every sample less" if together > 1 else "")
    yield Finding(
        "chunks",
        SLOW,
        f"chunks of {chunk} ({format_bytes(each)}) do not suit how it is read: {'; '.join(reasons)}",
        convert_line(case, "chunked", rechunking(case, length)),
        gain,
        seconds,
        saved,
    )


def _episodes_in(case: Case, chunk: tuple[int, ...]) -> int:
    """Episodes that are decoded together where only one is read at a time."""
    letters = case.layout.letters
    if not {"N", "T"} <= set(letters):
        return 1
    axis = letters.index("N")
    return min(chunk[axis], case.layout.shape[axis])


def rechunking(case: Case, length: int) -> list[str]:
    """Options of `convert` that cut chunks of so many whole samples, sample axes in their usual order."""
    options = ["--chunk-samples", str(length)]
    letters = case.layout.letters
    if letters != DEFAULT_LAYOUTS.get(len(letters)) and not case.given_layout:
        options += ["--source-layout", letters]
    ordered = "".join(letter for letter in "NT" if letter in letters) + case.layout.sample_letters
    return options if letters == ordered else [*options, "--layout", ordered]


def _best_length(case: Case) -> int:
    """Samples in a chunk: a megabyte of them, or fewer, so that a shuffled epoch decodes each about once."""
    length = max(1, min(case.layout.episode_length, BLOCK_BYTES // 2 // max(1, case.spec.sample_nbytes)))
    while length > 1 and _decodes_with(case, length) > MANY_DECODES:
        length //= 2
    return length


class _Chunked:
    """A reader of the same samples in chunks of another length, of which nothing is ever read."""

    why = place = ""

    def __init__(self, case: Case, length: int) -> None:
        self.spec: ArraySpec = case.spec
        self._layout = case.layout
        self.decoded_together = length

    def read(self, start: int, stop: int, out: Any) -> None:
        raise NotImplementedError

    def read_runs(self, runs: Runs, out: Any) -> None:
        raise NotImplementedError

    def whole_chunks(self, start: int, stop: int) -> tuple[int, int]:
        return whole_chunks(self._layout, self.decoded_together, start, stop)


def _decodes_with(case: Case, length: int) -> float:
    return decodes_per_chunk(_Chunked(case, length), Episodes.of(case.dataset.episodes)) or 1.0


# --- many of them -------------------------------------------------------------------------------------------------------


def _files(case: Case, speeds: Speeds | None, chunk: tuple[int, ...] | None) -> Iterator[Finding]:
    pieces = len(case.place.paths)
    if pieces >= _MANY_FILES and case.stored_nbytes / pieces < BLOCK_BYTES:
        what = f"{pieces} files of {format_bytes(case.stored_nbytes / pieces)}"
    elif chunk is not None and math.prod(chunk) * case.spec.dtype.itemsize < _SMALL:
        count = math.prod(-(-length // each) for length, each in zip(case.stored.shape, chunk, strict=True))
        if count < _MANY:
            return
        nbytes = math.prod(chunk) * case.spec.dtype.itemsize
        is_file = os.path.isdir(case.place.outer) and not _is_sharded(case)
        what = f"{count} chunks of {format_bytes(nbytes)}" + (", each in a file of its own" if is_file else "")
    else:
        return
    seconds = None
    if speeds is not None and speeds.batch is not None:
        seconds = max(0.0, speeds.batch * case.steps - case.delivered_nbytes / speeds.copy)
    line = (
        convert_line(case, "joined", suffix=".npy")
        if chunk is None or not case.is_compressed
        else convert_line(case, "chunked", rechunking(case, _best_length(case)))
    )
    yield Finding(
        "pieces",
        SLOW,
        f"{what}: finding and opening them takes longer than what is in them",
        line,
        "one file" if chunk is None or not case.is_compressed else f"chunks of {format_bytes(BLOCK_BYTES // 2)}",
        seconds,
        None,
    )


def _is_sharded(case: Case) -> bool:
    places = case.chunks.places([0]) if case.chunks is not None else []
    return bool(places) and places[0] is not None and places[0].nbytes >= 0
