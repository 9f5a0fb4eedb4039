"""How well an epoch is mixed within the memory it may take, and whether it fits at all."""

from __future__ import annotations

from collections.abc import Iterator

from ...plain.errors import MemoryBudgetError
from ...plain.memory_budget import format_bytes
from ...plain.sample_order import Shuffling
from ..case import Case
from ..mending import batches_line
from ..speeds import Speeds
from .contract import FAILS, NOTE, SLOW, Finding

_ENOUGH = 0.4  # of the batch, as independent samples: what shuffle=True gives batches of 32, or nearly
_GOOD = 0.5


def findings(case: Case, speeds: Speeds | None) -> Iterator[Finding]:
    if case.max_memory is not None:
        try:
            case.batches(max_memory=case.max_memory)
        except MemoryBudgetError:
            yield _limited(case, case.max_memory)
            return
    yield from _mixing(case)


def _limited(case: Case, limit: int) -> Finding:
    """The usual window does not fit: another that does, and how well it mixes; or what would fit."""
    needed = case.usual.memory.total
    samples = fitting_shuffle(case, limit)
    if samples is None:
        least = _rounded_up(case.batches(shuffle=False).memory.total)
        fewer = _fitting_batch(case, limit)
        line = batches_line(case, fewer[0], shuffle=fewer[1], max_memory=limit) if fewer else batches_line(case, max_memory=least)
        return Finding(
            "memory",
            FAILS,
            f"an epoch in batches of {case.batch} takes {format_bytes(needed)}, over --max-memory {format_bytes(limit)}, and no "
            "shuffling window fits either",
            line,
            "an epoch that fits",
            None,
            needed - limit,
        )
    smaller = case.batches(shuffle=samples)
    effective = smaller.effective_batch
    good = effective >= _ENOUGH * case.batch
    return Finding(
        "memory",
        NOTE if good else SLOW,
        f"the usual shuffling takes {format_bytes(needed)}, over --max-memory {format_bytes(limit)}; a window of {samples} samples "
        f"fits, and mixes a batch of {case.batch} like {effective:.1f} independent samples",
        batches_line(case, shuffle=samples if good else True, max_memory=limit if good else _rounded_up(needed)),
        f"an epoch in {format_bytes(smaller.memory.total)}" if good else f"batches that mix like {case.usual.effective_batch:.1f}",
        None,
        needed - limit,
    )


def fitting_shuffle(case: Case, limit: int) -> int | None:
    """The samples of about the largest shuffling window within `limit` bytes; None if none fits."""
    samples = case.usual.samples
    while samples >= 2:
        if case.batches(shuffle=samples).memory.total <= limit:
            return samples
        samples = samples * 3 // 4
    return None


def _fitting_batch(case: Case, limit: int) -> tuple[int, bool] | None:
    """About the most samples of a batch that fits, and whether it can be shuffled; None where not even one sample fits."""
    batch = case.batch // 2
    while batch:
        for shuffle in (True, False):
            if case.batches(shuffle=shuffle, batch=batch).memory.total <= limit:
                return batch, shuffle
        batch //= 2
    return None


def _rounded_up(nbytes: int) -> str:
    """As `max_memory` takes it."""
    return f"{-(-nbytes // 10**6)}MB"


def _mixing(case: Case) -> Iterator[Finding]:
    effective = case.usual.effective_batch
    if effective >= _ENOUGH * case.batch:
        return
    usual = Shuffling.of(True, case.spec.sample_nbytes)
    assert usual is not None
    samples = min(usual.block * case.batch, case.usual.samples)
    wider = case.batches(shuffle=samples)
    while wider.effective_batch < _GOOD * case.batch and samples < case.usual.samples:  # blocks that the end cuts
        samples = min(samples * 5 // 4 + 1, case.usual.samples)
        wider = case.batches(shuffle=samples)
    fits = case.max_memory is None or wider.memory.total <= case.max_memory
    yield Finding(
        "shuffling",
        NOTE,
        f"shuffle=True mixes a batch of {case.batch} like {effective:.1f} independent samples, if neighbours are alike",
        batches_line(case, shuffle=samples, max_memory=None if fits else _rounded_up(wider.memory.total)),
        f"like {wider.effective_batch:.1f}, in {format_bytes(wider.memory.total)} of memory instead of "
        f"{format_bytes(case.usual.memory.total)}",
        None,
        None,
    )
