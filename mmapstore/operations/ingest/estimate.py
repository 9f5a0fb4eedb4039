"""The cost of an ingest, measured on a sample of the source that is written to a temporary place and deleted again."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from ...files import descriptors
from ...formats.contract import Writer
from ...formats.registry import PARTIAL
from ...plain.display import format_duration
from ...plain.errors import InvalidTypeError, InvalidValueError
from ...plain.memory_budget import MemoryPlan, format_bytes
from ...plain.windows import whole_number
from ..flow.record import Record
from ..flow.tally import Beside
from ..flow.target import Target
from .contract import Array, Position
from .field_write import blocks_of, tallies_of
from .images.order import order_words
from .plan import WritePlan

_SECONDS = 2.0  # spent on measuring, and the time that the block takes which is begun before they are over
_READ_SECONDS = 0.5
_BLOCK_NBYTES = 1 << 20  # smaller than those of a real run, so that a slow source is not waited for


@dataclass(frozen=True)
class IngestCost:
    """Durations in one unit: to `prepare` all samples from the source, to `ingest` them, to `read` them from the store, to `train`.

    >>> cost = IngestCost(prepare=4 + 2 + 1, ingest=4 + 2 + 1, read=1, train=1.5)
    >>> cost.from_source(15), cost.from_store(15), cost.pays_from
    (127.5, 44.5, 2)
    >>> IngestCost(prepare=3, ingest=4, read=3).pays_from is None
    True
    """

    prepare: float
    ingest: float
    read: float
    train: float = 0.0

    def from_source(self, epochs: int) -> float:
        """Return `(prepare + train) * epochs`."""
        return (self.prepare + self.train) * epochs

    def from_store(self, epochs: int) -> float:
        """Return `ingest + (train + read) * epochs`."""
        return self.ingest + (self.train + self.read) * epochs

    @property
    def pays_from(self) -> int | None:
        """The first number of epochs with which ingesting takes less time in all; None if no number is enough."""
        saved = self.prepare - self.read
        return math.floor(self.ingest / saved) + 1 if saved > 0 else None


@dataclass(frozen=True)
class Estimate:
    """The predicted cost of an ingest. Times are for this machine, this disk, and a source whose samples are all alike.

    Attributes
    ----------
    path : what would appear
    samples : how many; None where that shows at the end alone, and then so are all figures that depend on it
    fields : (sample shape, dtype, layout) as written, by field
    nbytes : of all values; `stored_nbytes` of what is stored, compressed as the sample was
    free_nbytes : on the disk of the target, now
    memory : predicted peak of private memory
    measured_samples : written in order to measure
    seconds : of the whole ingest
    cost : seconds of one epoch from the source, of the ingest, of reading one epoch from the store, and of training as given
    epochs : as asked, or None
    order : the order of the samples in words, where the source decides on one
    """

    path: str
    samples: int | None
    fields: Mapping[str, tuple[tuple[int, ...], str, str]]
    nbytes: int | None
    stored_nbytes: int | None
    free_nbytes: int
    memory: MemoryPlan
    measured_samples: int
    seconds: float | None
    cost: IngestCost | None
    epochs: int | None
    order: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values, durations in seconds, sizes in bytes."""
        found: dict[str, Any] = {
            "path": self.path,
            "samples": self.samples,
            "fields": {
                name: {"shape": list(shape), "dtype": dtype, "layout": layout}
                for name, (shape, dtype, layout) in self.fields.items()
            },
            "bytes": self.nbytes,
            "stored_bytes": self.stored_nbytes,
            "free_bytes": self.free_nbytes,
            "memory_bytes": self.memory.total,
            "memory": dict(self.memory.parts),
            "measured_samples": self.measured_samples,
            "seconds": self.seconds,
        }
        if self.order:
            found["order"] = self.order
        if self.epochs is not None:
            found["epochs"] = self.epochs
            if self.cost is not None:
                found["seconds_from_source"] = self.cost.from_source(self.epochs)
                found["seconds_from_store"] = self.cost.from_store(self.epochs)
                found["pays_from_epoch"] = self.cost.pays_from
        return found

    def __str__(self) -> str:
        fields = "; ".join(
            f"{name + ' ' if len(self.fields) > 1 else ''}({', '.join(map(str, shape))}) {dtype} {layout}"
            for name, (shape, dtype, layout) in self.fields.items()
        )
        free = f"{format_bytes(self.free_nbytes)} free there"
        lines = [f"{self.path} would hold {'samples of' if self.samples is None else f'{self.samples} x'} {fields}"]
        if self.nbytes is None or self.stored_nbytes is None or self.seconds is None:
            lines.append(f"how many samples there are, this source shows at its end alone; {free}")
        else:
            size = format_bytes(self.nbytes)
            stored = (
                f", {format_bytes(self.stored_nbytes)} on disk" if abs(self.stored_nbytes - self.nbytes) > self.nbytes / 50 else ""
            )
            lines.append(
                f"{size}{stored} ({free}), in about {format_duration(self.seconds)}, judged by {self.measured_samples} samples"
            )
        lines += [self.order] if self.order else []
        lines.append(f"memory: {self.memory}")
        if self.epochs is not None and self.cost is not None:
            cost, training = self.cost, "" if self.cost.train else ", without the training itself"
            lines.append(
                f"{self.epochs} epochs{training}: {format_duration(cost.from_source(self.epochs))} from the source each time, "
                f"{format_duration(cost.from_store(self.epochs))} with ingesting once "
                f"(each epoch reads {format_duration(cost.prepare)} from the source, {format_duration(cost.read)} from the store)"
            )
            if cost.pays_from is None:
                lines.append("ingesting saves no time here: the store is read no faster than the source")
            else:
                verdict = "it pays" if self.epochs >= cost.pays_from else "it does not pay"
                lines.append(f"{verdict}: ingesting takes less time in all from epoch {cost.pays_from} on")
        return "\n".join(lines)


def require_can_be_measured(source: Any, parts: Mapping[str, Any] | None) -> None:
    """Raise InvalidTypeError for what gives its samples once: measuring would use them up."""
    for name, part in (parts or {"": source}).items():
        if hasattr(part, "__next__"):
            of = f" (field {name!r})" if name else ""
            raise InvalidTypeError(
                f"The source{of} is a {type(part).__name__}, which gives its samples once: a dry run would use some up, and "
                "the real run would lack them. Pass something that can be iterated over again, such as a list, for the dry run."
            )


def require_epochs(epochs: Any, train_seconds: Any, dry_run: bool) -> None:
    """Raise if the options of the cost model cannot be meant."""
    if epochs is not None and not dry_run:
        raise InvalidValueError(f"epochs={epochs!r} is for a dry run, which tells whether ingesting pays; add dry_run=True.")
    if epochs is not None:
        whole_number("epochs", epochs, least=1)
    if isinstance(train_seconds, bool) or not isinstance(train_seconds, (int, float)) or not 0 <= train_seconds < float("inf"):
        raise InvalidValueError(f"train_seconds={train_seconds!r} is no duration; expected the seconds that an epoch trains.")


def estimate_of(plan: WritePlan, target: Target, memory: MemoryPlan, epochs: int | None, train_seconds: float) -> Estimate:
    """Write what 2 seconds are enough for, read it back, and multiply."""
    with target.temporary_directory() as folder:
        measured = _Measurement(_elsewhere(plan, target, folder), folder)
    samples = plan.samples if plan.samples is not None else plan.guess or None
    times = None if samples is None else samples / measured.samples
    cost = None
    if times is not None:
        cost = IngestCost(
            prepare=measured.source_seconds * times,
            ingest=measured.seconds * times,
            read=measured.read_seconds * times,
            train=float(train_seconds),
        )
    fields = {}
    for name, field in plan.fields.items():
        spec = field.conversion.target
        fields[target.name_of(name)] = (spec.sample_shape, str(spec.dtype), spec.layout)
    return Estimate(
        path=target.opened_as,
        samples=samples,
        fields=fields,
        nbytes=None if samples is None else samples * plan.sample_nbytes,
        stored_nbytes=None if times is None else round(measured.stored_nbytes * times),
        free_nbytes=shutil.disk_usage(os.path.dirname(os.path.abspath(target.path))).free,
        memory=memory,
        measured_samples=measured.samples,
        seconds=None if cost is None else cost.ingest,
        cost=cost,
        epochs=epochs,
        order=next(filter(None, (order_words(notes.get("order")) for notes in plan.source.notes.values())), ""),
    )


def _elsewhere(plan: WritePlan, target: Target, folder: str) -> WritePlan:
    """The same plan in small blocks, to be written into `folder`."""
    chunk = max(field.chunk_samples for field in plan.fields.values())
    small = max(1, _BLOCK_NBYTES // max(1, plan.sample_nbytes) // chunk) * chunk
    fields = {}
    for name, field in plan.fields.items():
        file = os.path.relpath(field.place.path, target.partial) if target.is_directory_of_fields else f"sample{PARTIAL}"
        place = field.place._replace(path=os.path.join(folder, file))
        fields[name] = dataclasses.replace(field, place=place)
    return dataclasses.replace(plan, fields=fields, block_samples=min(plan.block_samples, small))


class _Measurement:
    """Seconds that the source took for `samples`, that all of it took, and that reading them back from the disk takes."""

    def __init__(self, plan: WritePlan, folder: str) -> None:
        self.samples, self.source_seconds, self.read_seconds = 0, 0.0, 0.0
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            writers: dict[str, Writer] = {}
            for name, field in plan.fields.items():
                new = field.new_array(plan.block_samples, resizable=True)
                writers[name] = field.place.writing.create(field.place.path, field.place.key or None, new)
                stack.callback(writers[name].close)
            blocks = blocks_of(plan, Position(), Record(plan.block_samples, {}))
            with contextlib.closing(self._timed(blocks)) as timed, Beside(tallies_of(plan)) as beside:
                for block in timed:
                    # A real run tallies each block beside writing it, which takes processors away.
                    wait = beside.take(block, ())
                    for name, writer in writers.items():
                        writer.write(self.samples, block[name])
                    wait()
                    self.samples += len(next(iter(block.values())))
                    if time.monotonic() - began > _SECONDS:
                        break
            if not self.samples:
                raise InvalidValueError(f"{plan.source.name} gave no samples; there is nothing to write. Check the source.")
            for writer in writers.values():
                writer.truncate(self.samples)
                writer.flush()
            self.seconds = time.monotonic() - began
            self.stored_nbytes = _forgotten_by_the_cache(folder)
            self.read_seconds = self._read(plan, writers)

    def _timed(self, blocks: Generator[Mapping[str, Array]]) -> Generator[Mapping[str, Array]]:
        try:
            while True:
                began = time.monotonic()
                block = next(blocks, None)
                self.source_seconds += time.monotonic() - began
                if block is None:
                    return
                yield block
        finally:
            blocks.close()

    def _read(self, plan: WritePlan, writers: Mapping[str, Writer]) -> float:
        began, at = time.monotonic(), 0
        while at < self.samples and time.monotonic() - began < _READ_SECONDS:
            stop = min(at + plan.block_samples, self.samples)
            for writer in writers.values():
                writer.read(at, stop)
            at = stop
        return (time.monotonic() - began) * self.samples / at


def _forgotten_by_the_cache(folder: str) -> int:
    """Bytes of all files below, after the kernel was asked to drop them: an epoch of large data comes from the disk."""
    nbytes = 0
    for above, _, names in os.walk(folder):
        for name in names:
            descriptor = descriptors.Descriptor(os.path.join(above, name))
            nbytes += descriptor.status.st_size
            descriptors.let_go(descriptor, 0, descriptor.status.st_size)
    return nbytes
