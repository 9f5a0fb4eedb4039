"""The cost of a conversion: a few of its pieces are read, converted, digested and written to a temporary file, and timed."""

from __future__ import annotations

import os
import time
from dataclasses import replace

from ...files.stored_files import nbytes_on_disk
from ...plain.c_order import Slabs
from ..flow.journal import Journal
from ..flow.record import Record
from ..flow.tally import Tally
from .copying import FIELD, Slabwise, copy_slabs
from .plan import Plan

_SAMPLE_NBYTES = 64 << 20
_MOST_PIECES = 4


def estimated(plan: Plan, verify: bool) -> tuple[float, int]:
    """(seconds, bytes of the target on disk) of the whole conversion, by a sample of at most 64 MB or four pieces.

    The sample is taken from the beginning, written beside the target, on the same disk, and deleted.
    """
    sample = _sample_of(plan)
    with plan.target.temporary_directory() as folder:
        name = os.path.join(folder, os.path.basename(plan.target.path))
        sample = replace(sample, target=replace(plan.target, path=name))
        place = sample.target.place(FIELD)
        began = time.perf_counter()
        sink = Slabwise(sample, place.writing.create)
        empty = nbytes_on_disk(place.path)
        journal = Journal(sample.target, {}, Record(sample.slabs.most_values, {FIELD: 0}))
        copy_slabs(sample, range(len(sample.slabs)), sink, Tally(sample.new.dtype), journal, lambda done: None, verify)
        seconds = time.perf_counter() - began
        on_disk = nbytes_on_disk(place.path)
    share = plan.nbytes / max(1, sample.nbytes)
    if plan.new.chunks is None:
        return seconds * share, on_disk - sample.nbytes + plan.nbytes
    grown = on_disk - (empty if plan.target.writing.is_directory else 0)
    return seconds * share, int(grown * share)


def _sample_of(plan: Plan) -> Plan:
    """The same conversion of the first pieces alone."""
    slabs, itemsize = plan.slabs, plan.new.dtype.itemsize
    pieces = max(1, min(_MOST_PIECES, _SAMPLE_NBYTES // max(1, slabs.most_values * itemsize)))
    shape = list(slabs.shape)
    for axis in range(slabs.axis):
        shape[axis] = 1
    shape[slabs.axis] = min(shape[slabs.axis], pieces * slabs.step)
    source_shape = list(plan.shape)
    for axis, length in zip(plan.axes, shape, strict=True):
        source_shape[axis] = length
    new = replace(plan.new, shape=tuple(shape))
    return replace(plan, shape=tuple(source_shape), new=new, slabs=Slabs(tuple(shape), slabs.axis, slabs.step))
