"""Findings about stored numbers: packed values, byte order, and a dtype wider than that of training or than the values need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...plain.memory_budget import format_bytes
from ..remedies import convert_line
from ..speeds import Speeds
from ..subject import Subject
from . import FAILS, SLOW, Finding

_SAMPLED_NBYTES = 4 << 20
_NARROW = ("uint8", "int8", "uint16", "int16", "int32")


def findings(subject: Subject, speeds: Speeds | None) -> Iterator[Finding]:
    if subject.packed:  # unpacked values have another dtype, and the byte order of this machine
        packing = subject.packed[0].packing
        found = f"its numbers are packed ({packing}): training would take the stored numbers for the values"
        line = convert_line(subject, "unpacked", ("--unpack",))
        yield Finding("packed", FAILS, found, line, f"{packing.dtype} values, NaN for missing ones")
        return
    stored = subject.stored.dtype
    if not stored.isnative:
        nbytes = subject.usual.samples * subject.spec.sample_nbytes
        yield Finding(
            "byte-order",
            SLOW,
            f"its byte order ({stored.str}) is not this machine's: every batch is copied and swapped, and none mapped",
            convert_line(subject, "native", ("--dtype", subject.spec.dtype.name)),
            f"{format_bytes(nbytes)} fewer to swap in each epoch",
            None if speeds is None else nbytes / speeds.copy,
            nbytes,
        )
    yield from _dtype(subject, speeds)


def _dtype(subject: Subject, speeds: Speeds | None) -> Iterator[Finding]:
    dtype, floatx, nbytes = subject.spec.dtype, subject.floatx, subject.spec.nbytes
    narrow = narrower(subject) if speeds is not None and speeds.read is not None else None
    if narrow is not None:
        saved = nbytes * (dtype.itemsize - narrow.itemsize) // dtype.itemsize
        yield Finding(
            "values",
            SLOW,
            f"{dtype}, but all sampled values are whole numbers that {narrow} holds exactly, in "
            f"1/{dtype.itemsize // narrow.itemsize} of the bytes",
            convert_line(subject, narrow.name, ("--dtype", narrow.name)),
            f"{format_bytes(saved)} fewer to read in each epoch and to store (an error if another value does not fit)",
            _reading_seconds(subject, speeds, saved),
            saved,
        )
    elif dtype.kind == "f" and dtype.itemsize > floatx.itemsize:
        cast = nbytes * floatx.itemsize // dtype.itemsize
        yield Finding(
            "dtype",
            SLOW,
            f"{dtype}, but Keras trains in {floatx}: every batch is read in {dtype.itemsize // floatx.itemsize} times the bytes "
            f"and cast, and fit(memmap) casts all of it at once, {format_bytes(cast)} of memory",
            convert_line(subject, floatx.name, ("--dtype", floatx.name, "--casting", "round")),
            f"{format_bytes(nbytes - cast)} fewer to read in each epoch and to store; without a copy, "
            f'batches(dtype="{floatx.name}") casts batch by batch',
            _reading_seconds(subject, speeds, nbytes - cast),
            nbytes - cast,
        )


def _reading_seconds(subject: Subject, speeds: Speeds | None, nbytes: int) -> float | None:
    if speeds is None:
        return None
    return 0.0 if speeds.read is None else nbytes * subject.decodes / speeds.read


def narrower(subject: Subject) -> np.dtype[Any] | None:
    """Return the smallest integer dtype that holds all values of samples from all over the array; None if it is not smaller.

    None also for samples of a single value, and if all sampled values are 0, which says nothing about the others.
    """
    spec = subject.spec
    if spec.dtype.kind not in "iuf" or spec.dtype.itemsize < 2 or spec.dtype == np.float16:
        return None
    if not spec.dtype.itemsize < spec.sample_nbytes <= _SAMPLED_NBYTES:
        return None
    count = min(len(spec), max(1, min(16, _SAMPLED_NBYTES // spec.sample_nbytes)))
    low, high = 0, 0
    for k in range(count):
        sample = np.asarray(subject.dataset.fields[subject.field][(len(spec) - 1) * k // max(1, count - 1)])
        if spec.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                are_whole = np.isfinite(sample) & (np.abs(sample) < 2.0**31) & (sample == np.trunc(sample))
            if not are_whole.all():
                return None
        low, high = min(low, int(sample.min())), max(high, int(sample.max()))
    fitting = (np.dtype(name) for name in _NARROW if np.iinfo(name).min <= low and high <= np.iinfo(name).max)
    dtype = None if low == high == 0 else next(fitting, None)
    is_small = dtype is not None and dtype.itemsize * 2 <= spec.dtype.itemsize and (spec.dtype.kind != "f" or dtype.itemsize == 1)
    return dtype if is_small else None
