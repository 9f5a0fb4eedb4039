"""The likely bottleneck of training: the disk, the decoder, Python, or the training step itself."""

from __future__ import annotations

from dataclasses import dataclass

from ..plain.display import format_duration
from ..plain.memory_budget import format_bytes
from .speeds import Speeds
from .subject import Subject

DISK, DECODER, PYTHON, STEP = "disk", "decoder", "Python", "the step"
_MUCH_LONGER = 1.5
_OVERHEAD = 4  # times the seconds of copying a batch; what takes longer is slowed down by Python


@dataclass(frozen=True)
class Bottleneck:
    """The likely bottleneck.

    Attributes
    ----------
    name : DISK, DECODER, PYTHON or STEP
    batch_seconds : seconds until the next batch is ready, if the step takes none; `disk_seconds` of them are the disk's
    epoch_seconds : seconds of an epoch without training steps
    """

    name: str
    batch_seconds: float
    disk_seconds: float
    epoch_seconds: float
    words: str


def bottleneck_of(subject: Subject, speeds: Speeds) -> Bottleneck | None:
    """Return the likely bottleneck; None if too little could be measured."""
    if speeds.batch is None:
        return None
    cached, uncached = speeds.batch, 0.0 if not speeds.disk else subject.stored_nbytes / subject.steps / speeds.disk
    copied = subject.delivered_nbytes / subject.steps / speeds.copy
    each = max(cached, uncached) if subject.exceeds_memory else cached
    if each <= subject.least_step:
        name = STEP
    elif each > cached:
        name = DISK
    elif subject.is_compressed or subject.is_by_library:
        name = DECODER
    else:
        name = PYTHON if cached > _OVERHEAD * copied else STEP
    epoch, first = each * subject.steps, max(cached, uncached) * subject.steps
    source, speed = "the disk" if each > cached else "the page cache", format_bytes(subject.delivered_nbytes / epoch)
    words = f"an epoch of {subject.steps} batches comes in {format_duration(epoch)} from {source}, {speed}/s"
    if speeds.disk and (speeds.cached or 0.0) < 0.5 and first > _MUCH_LONGER * epoch:
        words += f" ({format_duration(first)} the first time, from the disk at {format_bytes(speeds.disk)}/s)"
    step = format_duration(each)
    waits = f"if it takes more than {step} a batch" if name == STEP else f"for steps shorter than {step}"
    return Bottleneck(name, each, uncached, epoch, f"{words}; likely bottleneck: {name}, {waits}")
