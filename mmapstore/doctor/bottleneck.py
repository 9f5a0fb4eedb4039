"""What training will wait for: the disk, the decoder, Python, or none of them but its own step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..plain.display import format_duration
from ..plain.memory_budget import format_bytes
from .case import Case, least_step
from .speeds import Speeds

DISK, DECODER, PYTHON, STEP = "disk", "decoder", "Python", "the step"
_MUCH_LONGER = 1.5
_OVERHEAD = 4  # times what copying its bytes takes: the rest is Python


@dataclass(frozen=True)
class Bottleneck:
    """
    Attributes
    ----------
    name : DISK, DECODER, PYTHON or STEP, the likely one
    batch_seconds : until the next batch is there, if nothing else is waited for; of that, `disk_seconds` is the disk's share
    epoch_seconds : of an epoch without a training step
    """

    name: str
    batch_seconds: float
    disk_seconds: float
    epoch_seconds: float
    words: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def bottleneck_of(case: Case, speeds: Speeds) -> Bottleneck | None:
    """None where not enough could be measured."""
    if speeds.batch is None:
        return None
    cached, uncached = speeds.batch, 0.0 if not speeds.disk else case.stored_nbytes / case.steps / speeds.disk
    copied = case.delivered_nbytes / case.steps / speeds.copy
    each = max(cached, uncached) if case.exceeds_memory else cached
    if each <= least_step(case):
        name = STEP
    elif each > cached:
        name = DISK
    elif case.is_compressed or case.is_by_library:
        name = DECODER
    else:
        name = PYTHON if cached > _OVERHEAD * copied else STEP
    epoch, first = each * case.steps, max(cached, uncached) * case.steps
    source, speed = "the disk" if each > cached else "the page cache", format_bytes(case.delivered_nbytes / epoch)
    words = f"an epoch of {case.steps} batches comes in {_seconds(epoch)} from {source}, {speed}/s"
    if speeds.disk and (speeds.cached or 0.0) < 0.5 and first > _MUCH_LONGER * epoch:
        words += f" ({_seconds(first)} the first time, from the disk at {format_bytes(speeds.disk)}/s)"
    waits = f"if it takes more than {_seconds(each)} a batch" if name == STEP else f"for steps shorter than {_seconds(each)}"
    return Bottleneck(name, each, uncached, epoch, f"{words}; likely bottleneck: {name}, {waits}")


def _seconds(seconds: float) -> str:
    return format_duration(seconds) if seconds >= 0.001 else f"{seconds * 1e6:.3g} µs"
