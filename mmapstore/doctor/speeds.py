"""Speeds of one file, measured for a second or two at a few places of it, and the likely bottleneck. Reads only."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..plain.display import format_duration
from ..plain.memory_budget import format_bytes
from ..plain.nests import leaves
from ..plain.sample_order import BLOCK_BYTES
from ..readers.chunk_runs import batch_cost
from .subject import Subject

DISK, DECODER, PYTHON, STEP = "disk", "decoder", "Python", "the step"
_OVERHEAD = 4  # times the seconds of copying a batch; what takes longer is slowed down by Python
_READ_SECONDS, _LOOP_SECONDS = 0.4, 0.4
_MOST_AT_ONCE = 64 << 20  # bytes held
_MOST_DECODED = 256 << 20  # bytes of one call, in chunks that cannot be decoded in part
_MOST_HELD = 1 << 30  # bytes held by the loop that is tried
_COPIED = 8 << 20


@dataclass(frozen=True)
class Speeds:
    """Bytes of decoded samples per second, or seconds."""

    copy: float  # from one array in RAM to another
    # from the page cache, by the reader in use, whole chunks where there are any; None for chunks too large to try
    read: float | None
    batch: float | None  # seconds of a shuffled batch, once its data is in the page cache

    def beyond_copying(self, subject: Subject) -> float | None:
        """Return the seconds of an epoch that are more than copying its batches would take."""
        if self.batch is None:
            return None
        return max(0.0, self.batch * subject.steps - subject.delivered_nbytes / self.copy)


def measured(subject: Subject) -> Speeds:
    """Measure the speeds. Raises what reading raises, such as DamagedFileError."""
    copy = copy_speed()
    read = _read_speed(subject)
    return Speeds(copy, read, _batch_seconds(subject, read, copy))


def copy_speed() -> float:
    """Measure bytes per second from one array in RAM to another."""
    source, target = np.ones(_COPIED, np.uint8), np.empty(_COPIED, np.uint8)
    np.copyto(target, source)
    return _COPIED / min(_timed(np.copyto, target, source) for _ in range(3))


def _timed(function: Callable[..., object], *arguments: Any) -> float:
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


@dataclass(frozen=True)
class Bottleneck:
    """The likely bottleneck."""

    name: str  # DISK, DECODER, PYTHON or STEP
    batch_seconds: float  # seconds until the next batch is ready, if the step takes none
    epoch_seconds: float  # seconds of an epoch without training steps
    words: str


def bottleneck_of(subject: Subject, speeds: Speeds) -> Bottleneck | None:
    """Return the likely bottleneck; None if too little could be measured."""
    if speeds.batch is None:
        return None
    each, epoch = speeds.batch, speeds.batch * subject.steps
    source = "the page cache"
    if subject.exceeds_memory:
        name, source = DISK, "memory, and longer from the disk: memory does not hold the data"
    elif each <= subject.least_step:
        name = STEP
    elif subject.is_compressed or subject.is_by_library:
        name = DECODER
    else:
        name = PYTHON if epoch > _OVERHEAD * subject.delivered_nbytes / speeds.copy else STEP
    step, speed = format_duration(each), format_bytes(subject.delivered_nbytes / epoch)
    words = f"an epoch of {subject.steps} batches comes in {format_duration(epoch)}, {speed}/s, from {source}"
    waits = f"if it takes more than {step} a batch" if name == STEP else f"for steps shorter than {step}"
    return Bottleneck(name, each, epoch, f"{words}; likely bottleneck: {name}, {waits}")


def _read_speed(subject: Subject) -> float | None:
    reader, spec = subject.reader, subject.spec
    samples = max(1, min(len(spec), BLOCK_BYTES // max(1, spec.sample_nbytes)))
    if subject.chunk and batch_cost(subject.layout, subject.chunk, samples)[1] * spec.dtype.itemsize > _MOST_DECODED:
        return None
    runs: dict[tuple[int, int], int] = {}  # bytes decoded for each
    for k in range(8):
        start = (len(spec) - samples) * k // 7
        run = start, start + samples
        whole = reader.whole_chunks(*run)
        decoded = (whole[1] - whole[0]) * spec.sample_nbytes
        if decoded > _MOST_DECODED:
            return None
        runs[whole if decoded <= _MOST_AT_ONCE else run] = decoded
    began, seconds, nbytes = time.perf_counter(), 0.0, 0
    out = np.empty((max(stop - start for start, stop in runs), *spec.sample_shape), spec.dtype)
    for (start, stop), decoded in runs.items():
        _timed(reader.read, start, stop, out[: stop - start])  # into the page cache, and the library into memory
        seconds += _timed(reader.read, start, stop, out[: stop - start])
        nbytes += decoded
        if seconds > _READ_SECONDS / 2 or time.perf_counter() - began > 2 * _READ_SECONDS:
            break
    return nbytes / max(seconds, 1e-9)


def _batch_seconds(subject: Subject, read: float | None, copy: float) -> float | None:
    """Return seconds of a batch: measured, or calculated where windows of frames are decoded, each for many batches."""
    batches, memory = subject.usual, subject.usual.memory
    if memory.parts["windows of frames"]:
        decoding = None if read is None else subject.spec.nbytes * subject.decodes / subject.steps / read
        return None if decoding is None else decoding + subject.delivered_nbytes / subject.steps / copy
    if memory.total > _MOST_HELD:
        return None
    steps = _loop(batches, subject.steps)[0]  # into the page cache
    steps, seconds = _loop(batches, steps)
    return seconds / steps


def _loop(batches: Any, most: int) -> tuple[int, float]:
    """Read the first `most` batches, or fewer in the time there is, and touch x and y. Returns (batches, seconds)."""
    began, step = time.perf_counter(), 0
    while step < most:
        for array in leaves(batches.read(0, step)):
            np.bitwise_or.reduce(np.ascontiguousarray(array).reshape(-1).view(np.uint8)[::64])  # touches every cache line
        step += 1
        if time.perf_counter() - began > _LOOP_SECONDS:
            break
    return step, time.perf_counter() - began
