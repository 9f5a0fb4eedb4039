"""Whether `to_keras` hands TensorFlow batches where they lie. It does at multiples of 64 bytes, and copies everything else once.

`to_tf` does so with batches that are not small, and copies small ones once, wherever the bytes lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

from ...files.lent_buffers import ALIGNMENT
from ...plain.memory_budget import format_bytes
from ..case import NEXT, Case
from ..mending import batches_line, convert_line
from ..speeds import Speeds
from .contract import NOTE, Finding

_WORTH_NBYTES = 64 << 10  # of all samples; copying fewer is nothing


def findings(case: Case, speeds: Speeds | None) -> Iterator[Finding]:
    """In stored order: shuffled batches are copies into aligned memory anyhow."""
    start = first_byte(case)
    if start is None or case.spec.nbytes < _WORTH_NBYTES:
        return
    step = case.spec.sample_nbytes
    if start % ALIGNMENT:
        nbytes = case.delivered_nbytes
        found = f"its first sample lies at byte {start}, no multiple of {ALIGNMENT}: to_keras() copies every batch for TensorFlow"
        line = convert_line(case, "aligned", suffix=".npy")
    elif step * case.batch % ALIGNMENT and len(case.spec) > case.batch:
        nbytes = case.usual.samples * step
        several = ALIGNMENT // gcd(step, ALIGNMENT)
        batch = -(-case.batch // several) * several
        size = step * case.batch
        found = f"{case.batch} samples are {size} bytes, no multiple of {ALIGNMENT}: to_keras() copies most of x for TensorFlow"
        line = batches_line(case, batch)
    else:
        return
    yield Finding(
        "alignment",
        NOTE,
        f"in stored order, {found}",
        line,
        f"{format_bytes(nbytes)} fewer to copy in each epoch",
        None if speeds is None else nbytes / speeds.copy,
        nbytes,
    )


def first_byte(case: Case) -> int | None:
    """Where the samples begin in their file, if batches in stored order are views of it, delivered as they are; else None."""
    extents = case.stored.extents
    if extents is None or not extents.is_one_run or case.reader.place != "memory-mapped" or case.is_cast:
        return None
    if not case.layout.is_consecutive or not extents.dtype.isnative or case.spec.sample_nbytes == 0:
        return None
    return extents.offset_of(0)


def words(case: Case) -> str:
    """What of a batch in stored order `to_keras` hands over without a copy; empty where it is not mapped."""
    start = first_byte(case)
    if start is None:
        return ""
    step = case.spec.sample_nbytes
    x = start % ALIGNMENT == 0 and step * case.batch % ALIGNMENT == 0
    y = x and step % ALIGNMENT == 0
    if not x:
        return ""
    found = "to_keras() hands x in stored order to TensorFlow without a copy"
    if case.target != NEXT:
        return found
    return found + (", and y too" if y else f" (y begins {step} bytes on, and is copied)")
