"""The numbers as they are stored: byte order, and a dtype wider than what is trained on, or than its values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...plain.memory_budget import format_bytes
from ..case import Case
from ..mending import convert_line
from ..speeds import Speeds
from .contract import FAILS, SLOW, Finding

_LOOKED_AT = 4 << 20  # bytes of samples
_NARROW = ("uint8", "int8", "uint16", "int16", "int32")


def findings(case: Case, speeds: Speeds | None) -> Iterator[Finding]:
    if case.packed:
        yield _packed(case)
        return  # unpacked values have another dtype, and the byte order of this machine
    yield from _byte_order(case, speeds)
    yield from _dtype(case, speeds)


def words(case: Case) -> str:
    """What becomes of numbers that Keras does not train in, and that are well stored all the same; empty for others."""
    dtype, floatx = case.spec.dtype, case.floatx
    if case.is_cast and dtype.itemsize < floatx.itemsize:
        whole = format_bytes(case.spec.nbytes // dtype.itemsize * floatx.itemsize)
        return (
            f"{dtype} is cast to {floatx} batch by batch, as dtype={floatx.name!r} asks for; fit(memmap) casts all of it, {whole}"
        )
    if dtype == np.uint8 and {"H", "W"} <= set(case.spec.layout):
        return f"uint8 has 1/{floatx.itemsize} of the bytes of {floatx}; keras.layers.Rescaling(1 / 255) in the model scales it"
    return ""


def _packed(case: Case) -> Finding:
    packing = case.packed[0].packing
    return Finding(
        "packed",
        FAILS,
        f"its numbers are packed ({packing}): training would take what is stored for the values",
        convert_line(case, "unpacked", ("--unpack",)),
        f"{packing.dtype} values, NaN where there is none",
    )


def _byte_order(case: Case, speeds: Speeds | None) -> Iterator[Finding]:
    if case.stored.dtype.isnative:
        return
    nbytes = case.usual.samples * case.spec.sample_nbytes
    seconds = None if speeds is None else nbytes / speeds.copy
    yield Finding(
        "byte-order",
        SLOW,
        f"its byte order ({case.stored.dtype.str}) is not this machine's: every batch is copied and swapped, and none mapped",
        convert_line(case, "native", ("--dtype", case.spec.dtype.name)),
        f"{format_bytes(nbytes)} fewer to swap in each epoch",
        seconds,
        nbytes,
    )


def _dtype(case: Case, speeds: Speeds | None) -> Iterator[Finding]:
    dtype = case.spec.dtype
    narrow = narrower(case) if speeds is not None and speeds.read is not None else None
    if narrow is not None:
        saved = case.spec.nbytes * (dtype.itemsize - narrow.itemsize) // dtype.itemsize
        yield Finding(
            "values",
            SLOW,
            f"{dtype}, but the values looked at are whole numbers that {narrow} holds exactly, in "
            f"1/{dtype.itemsize // narrow.itemsize} of the bytes",
            convert_line(case, narrow.name, ("--dtype", narrow.name)),
            f"{format_bytes(saved)} fewer to read in each epoch and to store (it refuses if another value does not fit)",
            _reading_seconds(case, speeds, saved),
            saved,
        )
        return
    if dtype.kind != "f" or dtype.itemsize <= case.floatx.itemsize:
        return
    saved = case.spec.nbytes - case.spec.nbytes * case.floatx.itemsize // dtype.itemsize
    yield Finding(
        "dtype",
        SLOW,
        f"{dtype}, but Keras trains in {case.floatx}: every batch is read in {dtype.itemsize // case.floatx.itemsize} times the "
        f"bytes and cast, and fit(memmap) casts all of it at once, {format_bytes(case.spec.nbytes - saved)} of memory",
        convert_line(case, case.floatx.name, ("--dtype", case.floatx.name, "--casting", "round")),
        f"{format_bytes(saved)} fewer to read in each epoch and to store; without a copy, "
        f'batches(dtype="{case.floatx.name}") casts batch by batch',
        _reading_seconds(case, speeds, saved),
        saved,
    )


def _reading_seconds(case: Case, speeds: Speeds | None, nbytes: int) -> float | None:
    if speeds is None:
        return None
    share = nbytes / max(1, case.spec.nbytes)
    read = 0.0 if speeds.read is None else nbytes * case.decodes / speeds.read
    disk = case.stored_nbytes * share / speeds.disk if speeds.disk and case.exceeds_memory else 0.0
    return max(read, disk)


def narrower(case: Case) -> np.dtype[Any] | None:
    """The smallest integer dtype that holds all values of some samples from all over the array; None if it is not smaller.

    None also for samples of a single value, and where all looked at are 0: that says nothing about the others.
    """
    spec = case.spec
    if spec.dtype.kind not in "iuf" or spec.dtype.itemsize < 2 or spec.sample_nbytes <= spec.dtype.itemsize:
        return None
    if spec.sample_nbytes > _LOOKED_AT or spec.dtype == np.float16:
        return None
    count = min(len(spec), max(1, min(16, _LOOKED_AT // spec.sample_nbytes)))
    low, high = 0, 0
    for k in range(count):
        sample = np.asarray(case.dataset.fields[case.field][(len(spec) - 1) * k // max(1, count - 1)])
        if spec.dtype.kind == "f" and not _are_whole(sample):
            return None
        low, high = min(low, int(sample.min())), max(high, int(sample.max()))
    if low == high == 0:
        return None
    for name in _NARROW:
        limits, dtype = np.iinfo(name), np.dtype(name)
        if limits.min <= low and high <= limits.max:
            is_small = dtype.itemsize * 2 <= spec.dtype.itemsize and (spec.dtype.kind != "f" or dtype.itemsize == 1)
            return dtype if is_small else None
    return None


def _are_whole(sample: Any) -> bool:
    with np.errstate(invalid="ignore"):
        return bool(np.isfinite(sample).all() and (np.abs(sample) < 2.0**31).all() and (sample == np.trunc(sample)).all())
