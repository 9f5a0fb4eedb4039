"""The finding about the memory of an epoch: how well it is shuffled within --max-memory, and if it fits at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ...plain.errors import MemoryBudgetError
from ...plain.memory_budget import format_bytes
from ..remedies import batches_line
from ..speeds import Speeds
from ..subject import Subject
from . import FAILS, NOTE, SLOW, Finding

_ENOUGH = 0.4  # independent samples per sample of a batch: about what shuffle=True gives batches of 32


def findings(subject: Subject, speeds: Speeds | None) -> Iterator[Finding]:
    if subject.max_memory is not None and (options := fitting_options(subject, subject.max_memory)) != {}:
        yield _limited(subject, subject.max_memory, options)


def _limited(subject: Subject, limit: int, options: dict[str, Any] | None) -> Finding:
    """Return the finding for a limit below the usual window: a smaller window, or what would fit."""
    batch, needed = subject.batch, subject.usual.memory.total
    over = f"takes {format_bytes(needed)}, over --max-memory {format_bytes(limit)}"
    if options is None or "batch" in options:
        more = {"max_memory": limit} if options else {"max_memory": _rounded_up(subject.batches(shuffle=False).memory.total)}
        found = f"an epoch in batches of {batch} {over}, and no shuffling window fits either"
        line = batches_line(subject, **(options or {}), **more)
        return Finding("memory", FAILS, found, line, "an epoch that fits", None, needed - limit)
    smaller = subject.batches(**options, max_memory=limit)
    found = f"the usual shuffling {over}; a window of {options['shuffle']} samples fits, and mixes a batch of {batch} like "
    found += f"{smaller.effective_batch:.1f} independent samples"
    if smaller.effective_batch >= _ENOUGH * batch:
        level, gain = NOTE, f"an epoch in {format_bytes(smaller.memory.total)}"
        line = batches_line(subject, **options, max_memory=limit)
    else:
        level, gain = SLOW, f"batches that mix like {subject.usual.effective_batch:.1f}"
        line = batches_line(subject, shuffle=True, max_memory=_rounded_up(needed))
    return Finding("memory", level, found, line, gain, None, needed - limit)


def fitting_options(subject: Subject, limit: int) -> dict[str, Any] | None:
    """Return options of `batches` that fit `limit` bytes: none, about the largest shuffling window, or the largest batch.

    None if not even one sample fits.
    """
    tried: list[dict[str, Any]] = [{}]
    samples, batch = subject.usual.samples, subject.batch // 2
    while samples >= 2:
        tried.append({"shuffle": samples})
        samples = samples * 3 // 4
    while batch:
        tried += [{"batch": batch, "shuffle": shuffle} for shuffle in (True, False)]
        batch //= 2
    for options in tried:
        with contextlib.suppress(MemoryBudgetError):
            subject.batches(**options, max_memory=limit)
            return options
    return None


def _rounded_up(nbytes: int) -> str:
    return f"{-(-nbytes // 10**6)}MB"
