"""Findings about chunks, files and codecs: chunks of the wrong shape, too many of them, and decoding that mapping would save."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator

from ...operations.decodes import decodes_with
from ...plain.array_spec import DEFAULT_LAYOUTS
from ...plain.memory_budget import format_bytes
from ...plain.sample_order import BLOCK_BYTES
from ...plain.windows import Episodes
from ...readers.chunk_runs import batch_cost, whole_chunks
from ..remedies import convert_line
from ..speeds import Speeds
from ..subject import Subject
from . import NOTE, SLOW, Finding

_MANY_DECODES = 2.0
_MUCH = 4  # times the bytes wanted, or a block of a shuffled epoch
_SMALL = 64 << 10  # decoded bytes below which finding a chunk costs more than decoding it
_MANY_CHUNKS, _MANY_FILES = 1000, 256
_WORTH = 2  # times the seconds of a mapped file
_OF_A_STEP = 0.5  # share of the shortest training step below which decoding is hardly noticed


def findings(subject: Subject, speeds: Speeds | None) -> Iterator[Finding]:
    if subject.chunk is not None:
        yield from _shape(subject, speeds, subject.chunk)
    yield from _pieces(subject, speeds, subject.chunk)
    yield from _codec(subject, speeds)


def _shape(subject: Subject, speeds: Speeds | None, chunk: tuple[int, ...]) -> Iterator[Finding]:
    spec, layout = subject.spec, subject.layout
    samples = min(subject.batch, layout.episode_length)
    wanted = samples * spec.sample_nbytes
    count, elements = batch_cost(layout, chunk, samples)
    decoded, together = elements * spec.dtype.itemsize, batch_cost(layout, chunk, 1)[0]
    is_clips = {"N", "T"} <= set(layout.letters)  # a chunk may hold several episodes, of which one is read at a time
    axis = layout.letters.index("N") if is_clips else 0
    times, reasons = subject.decodes * (min(chunk[axis], layout.shape[axis]) if is_clips else 1), []
    if decoded > _MUCH * max(wanted, BLOCK_BYTES):
        reasons.append(
            f"{samples} samples in order ({format_bytes(wanted)}) lie in {count} of them, {format_bytes(decoded)} to decode"
        )
    if together > 1:
        reasons.append(f"each sample is put together from {together}")
    if times > _MANY_DECODES:
        reasons.append(f"a shuffled epoch decodes each {times:.1f} times")
    if not reasons:
        return
    length = _best_length(subject)
    after = min(times, _decodes_with(subject, length))
    saved = int(spec.nbytes * (times - after))
    seconds = None
    if speeds is not None:
        decoding = (speeds.batch or 0.0) * subject.steps * (1 - after / times)
        seconds = max(decoding, spec.nbytes / speeds.copy if together > 1 else 0.0)
    gain = f"{format_bytes(saved)} fewer to decode in each epoch"
    if saved * 10 < spec.nbytes:
        gain = "smaller windows of frames held in memory" + ", and one copy of every sample less" * (together > 1)
    found = f"chunks of {chunk} ({format_bytes(math.prod(chunk) * spec.dtype.itemsize)}) do not suit how it is read: "
    line = convert_line(subject, "chunked", _rechunking(subject, length))
    yield Finding("chunks", SLOW, found + "; ".join(reasons), line, gain, seconds, saved)


def _rechunking(subject: Subject, length: int) -> list[str]:
    """Return options of `convert` for chunks of `length` whole samples, sample axes in their usual order."""
    options = ["--chunk-samples", str(length)]
    letters = subject.layout.letters
    if letters != DEFAULT_LAYOUTS.get(len(letters)) and not subject.given_layout:
        options += ["--source-layout", letters]
    ordered = "".join(letter for letter in "NT" if letter in letters) + subject.layout.sample_letters
    return options if letters == ordered else [*options, "--layout", ordered]


def _best_length(subject: Subject) -> int:
    """Return samples in a chunk: a megabyte of them, or fewer, so that a shuffled epoch decodes each about once."""
    length = max(1, min(subject.layout.episode_length, BLOCK_BYTES // 2 // max(1, subject.spec.sample_nbytes)))
    while length > 1 and _decodes_with(subject, length) > _MANY_DECODES:
        length //= 2
    return length


def _decodes_with(subject: Subject, length: int) -> float:
    def chunks_of(start: int, stop: int) -> tuple[int, int]:
        return whole_chunks(subject.layout, length, start, stop)

    return decodes_with(subject.spec, Episodes.of(subject.dataset.episodes), chunks_of) or 1.0


def _pieces(subject: Subject, speeds: Speeds | None, chunk: tuple[int, ...] | None) -> Iterator[Finding]:
    files = len(subject.location.paths)
    chunk_nbytes = _SMALL if chunk is None else math.prod(chunk) * subject.spec.dtype.itemsize
    if files >= _MANY_FILES and subject.stored_nbytes / files < BLOCK_BYTES:
        what = f"{files} files of {format_bytes(subject.stored_nbytes / files)}"
    elif chunk is not None and chunk_nbytes < _SMALL:
        count = math.prod(-(-length // each) for length, each in zip(subject.stored.shape, chunk, strict=True))
        if count < _MANY_CHUNKS:
            return
        places = subject.chunks.places([0]) if subject.chunks is not None else []
        is_sharded = bool(places) and places[0] is not None and places[0].nbytes >= 0
        is_file = os.path.isdir(subject.location.outer) and not is_sharded
        what = f"{count} chunks of {format_bytes(chunk_nbytes)}{', each in a file of its own' * is_file}"
    else:
        return
    line, gain = convert_line(subject, "joined", suffix=".npy"), "one file"
    if chunk is not None and subject.is_compressed:
        line = convert_line(subject, "chunked", _rechunking(subject, _best_length(subject)))
        gain = f"chunks of {format_bytes(BLOCK_BYTES // 2)}"
    seconds = None if speeds is None else speeds.beyond_copying(subject)
    yield Finding("pieces", SLOW, f"{what}: finding and opening them takes longer than reading them", line, gain, seconds)


def _codec(subject: Subject, speeds: Speeds | None) -> Iterator[Finding]:
    """Yield a finding where a library decodes, or where mapping would be faster and the disk has room."""
    now = None if speeds is None or speeds.batch is None else speeds.batch * subject.steps
    then = None if speeds is None else subject.delivered_nbytes / speeds.copy
    shortest = subject.least_step * subject.steps
    if subject.is_by_library:
        found = f"read {subject.reader.why}"
    elif subject.chunks and subject.is_compressed and now and then and now > max(_WORTH * then, _OF_A_STEP * shortest):
        codecs = " after ".join(str(codec) for codec in reversed(subject.chunks.chain))
        found = f"{codecs}: each epoch decodes {format_bytes(subject.spec.nbytes * subject.decodes)}"
    else:
        return
    level, nbytes = SLOW if now is None or now > shortest else NOTE, subject.spec.nbytes
    if nbytes <= shutil.disk_usage(os.path.dirname(os.path.abspath(subject.location.outer))).free:
        more = format_bytes(max(0, nbytes - subject.stored_nbytes))
        gain = f"nothing to decode, for {more} more disk; ds.cache(directory) does the same during the first epoch"
        seconds = None if now is None or then is None else max(0.0, now - then)
        line = convert_line(subject, "mapped", suffix=".npy")
        yield Finding("codec", level, found, line, gain, seconds, int(nbytes * subject.decodes))
    elif subject.is_by_library:
        gain = f"decoded in threads by mmapstore itself ({format_bytes(nbytes)} would not fit the disk uncompressed)"
        yield Finding("codec", level, found, convert_line(subject, "zstd", ("--compression", "zstd"), ".zarr"), gain)
