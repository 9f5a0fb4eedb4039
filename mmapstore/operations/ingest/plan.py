"""The plan of an ingest, made before it begins: every field's form and place, and the number of samples in a block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...files.worker_threads import usable_cpus
from ...formats.contract import NewArray
from ...plain.array_spec import ArraySpec
from ...plain.channel_statistics import difference_nbytes, scratch_nbytes
from ...plain.chunk_grid import usual_chunk_samples
from ...plain.errors import InvalidTypeError, InvalidValueError
from ...plain.manifest import ArrayManifest
from ...plain.memory_budget import MemoryPlan
from ..flow import casts
from ..flow.record import Record
from ..flow.target import Place, Target
from .contract import ONLY, FitsMemory, Source
from .conversion import Conversion

BLOCK_NBYTES = 8 << 20  # large enough that calls cost nothing, small enough to stay in cache between reading, checking and writing
MOST_CHANNELS = 4096  # with more, what is known of each would take more room in the manifest and in memory than it is worth
_SMALL_THINGS = 4 * 2**20  # manifest, journal, Python objects, and what malloc rounds up


@dataclass(frozen=True)
class Options:
    """The options of a user. All but `samples` may be a dict by field."""

    layout: Any = "NCHW"
    source_layout: Any = None
    dtype: Any = None
    compression: Any = None
    chunk_samples: Any = None
    samples: int | None = None

    def of(self, name: str, field: str) -> Any:
        """The option `name` for one field."""
        option = getattr(self, name)
        return option.get(field) if isinstance(option, Mapping) else option

    def dtype_of(self, field: str, spec: ArraySpec) -> Any:
        """The dtype asked for; one for all fields is that of numbers, and texts beside them stay as they are."""
        is_beside = spec.dtype.kind == "S" and field != ONLY and not isinstance(self.dtype, Mapping)
        return None if is_beside else self.of("dtype", field)

    def check(self, fields: Mapping[str, Any], named: bool) -> None:
        """Raise if an option cannot be meant, whatever is written. `named`: the fields have names that a user knows."""
        for name, option in vars(self).items():
            if not isinstance(option, Mapping):
                continue
            unknown = sorted(map(str, set(option) - set(fields if named else ())))
            if unknown or name == "samples":
                known = sorted(fields) if named else "not named: there is one array"
                raise InvalidValueError(f"{name}= is given for {unknown}, but the fields are {known}.")
        for field in fields:
            _check_number("chunk_samples", self.of("chunk_samples", field))
        _check_number("samples", self.samples)


def _check_number(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(f"{name}={value!r} is not a number of samples; expected an int.")
    if value < 1:
        raise InvalidValueError(f"{name}={value} is less than 1; expected how many samples, or None.")


@dataclass(frozen=True)
class FieldPlan:
    """An array to write: its form and its place. `is_shared`: other processes write other samples meanwhile."""

    conversion: Conversion
    place: Place
    compression: str | None
    chunk_samples: int
    is_shared: bool = False

    @property
    def is_counted(self) -> bool:
        """True if statistics are kept: there are numbers, and not too many channels."""
        target, axis = self.conversion.target, self.conversion.channel_axis
        return target.dtype.kind in "biuf" and (axis is None or target.shape[axis] <= MOST_CHANNELS)

    @property
    def statistics_nbytes(self) -> int:
        """Bytes that statistics of the values and of their change take, at the same time, the latter with a sample kept."""
        if not self.is_counted:
            return 0
        target, axis = self.conversion.target, self.conversion.channel_axis
        form = target.dtype, 1 if axis is None else target.shape[axis]
        return scratch_nbytes(*form) + difference_nbytes(*form) + 2 * target.sample_nbytes

    def new_array(self, samples: int, resizable: bool) -> NewArray:
        target = self.conversion.target
        shape = (samples, *target.sample_shape)
        attributes, shared = {"layout": target.layout}, self.is_shared
        return NewArray(shape, target.dtype, self.compression, self.chunk_samples, attributes, resizable, is_shared=shared)


@dataclass(frozen=True)
class Before:
    """The data that samples are appended to: the manifest's entry of each field of the source.

    `in_place`: the new samples are written behind the old, which are never touched; else a copy of the old takes their place.
    `complete`: how many of the old lie in whole blocks that end where chunks do; those behind are written again.
    `leaves`: those of each field's digest that more samples do not change, by number. They are not hashed again, so that the digest
    of old samples is the one of what was written, whatever is read now.
    """

    samples: int
    block_samples: int
    entries: Mapping[str, ArrayManifest]
    in_place: bool
    complete: int
    leaves: Mapping[str, Mapping[int, bytes]]

    @property
    def skipped(self) -> list[str]:
        """Names of items that were left out."""
        return next(
            (list(entry.notes["skipped"]) for entry in self.entries.values() if entry.notes and "skipped" in entry.notes), []
        )


@dataclass(frozen=True)
class WritePlan:
    """A write of all fields of a source, together, in blocks of `block_samples`. `limit` ends the source early."""

    source: Source
    fields: dict[str, FieldPlan]
    block_samples: int
    limit: int | None
    before: Before | None = None

    @property
    def samples(self) -> int | None:
        """Number of samples that will be written, None if that shows at the end."""
        return self.source.samples if self.limit is None or self.source.samples is None else min(self.limit, self.source.samples)

    @property
    def guess(self) -> int:
        """Number of samples that may be written, to reserve space; 0 for no idea."""
        return self.source.guess if self.limit is None else min(self.limit, self.source.guess or self.limit)

    @property
    def sample_nbytes(self) -> int:
        """Bytes of one sample of all fields as they are written."""
        return sum(field.conversion.target.sample_nbytes for field in self.fields.values())

    def memory(self) -> MemoryPlan:
        """Predicted peak of private memory while all is written."""
        writing = [
            field.place.writing.writing_nbytes(
                field.new_array(self.samples or self.guess or self.block_samples, self.samples is None),
                self.block_samples * field.conversion.target.sample_nbytes,
            )
            for field in self.fields.values()
        ]
        # A region is read back at its end: a block, and the copy of the format's library.
        is_shared = any(field.is_shared for field in self.fields.values())
        return MemoryPlan(
            {
                "block being written": self.block_samples * self.sample_nbytes,
                **({"reading back": 2 * self.block_samples * self.sample_nbytes} if is_shared else {}),
                **self.source.memory(self.block_samples),
                "checks and statistics": 2_000_000 + sum(field.statistics_nbytes for field in self.fields.values()),
                **({"conversion": usable_cpus() * casts.SCRATCH_NBYTES} if any(map(_is_checked, self.fields.values())) else {}),
                "writing": max(writing),  # one field after the other
                "bookkeeping": _SMALL_THINGS,
            }
        )


def _is_checked(field: FieldPlan) -> bool:
    """True if values are looked at one by one on their way to another dtype."""
    source, target = field.conversion.source.dtype.newbyteorder("="), field.conversion.target.dtype
    return source != target and source.kind in "biuf"


def write_plan(source: Source, target: Target, options: Options, max_memory: int, is_shared: bool = False) -> WritePlan:
    """Blocks as large as is good, and as fits into `max_memory` bytes; if none does, the smallest ones."""
    if isinstance(source, FitsMemory):
        source.fit(max_memory)
    conversions = {
        field: Conversion.of(spec, options.of("layout", field), options.dtype_of(field, spec))
        for field, spec in source.specs.items()
    }
    nbytes = min(BLOCK_NBYTES, max_memory // 4)
    while True:
        plan = _in_blocks_of(nbytes, source, target, options, conversions, is_shared)
        if plan.memory().total <= max_memory or nbytes <= 1:
            return plan
        nbytes //= 2


def recorded_plan(source: Source, target: Target, options: Options, record: Record, is_shared: bool = False) -> WritePlan:
    """The plan of an interrupted call: its checksums are of its blocks, whatever would fit now."""
    fields = {}
    for field, spec in source.specs.items():
        conversion = Conversion.of(spec, options.of("layout", field), options.dtype_of(field, spec))
        compression, chunk = options.of("compression", field), record.chunk_samples[field]
        fields[field] = FieldPlan(conversion, target.place(field), compression, chunk, is_shared)
    return WritePlan(source, fields, record.block_samples, options.samples)


def _in_blocks_of(
    nbytes: int, source: Source, target: Target, options: Options, conversions: Mapping[str, Conversion], is_shared: bool
) -> WritePlan:
    sample_nbytes = sum(
        max(1, conversion.target.sample_nbytes, conversion.source.sample_nbytes) for conversion in conversions.values()
    )
    fitting = max(1, nbytes // sample_nbytes)
    places = {field: target.place(field) for field in conversions}
    chunks = {}
    for field in conversions:
        if not places[field].writing.compressions:
            chunks[field] = 1
        elif options.of("chunk_samples", field) is not None:
            chunks[field] = options.of("chunk_samples", field)
    if len(conversions) == 1:
        ((field, conversion),) = conversions.items()
        chunk = chunks.get(field) or chunk_samples_for(conversion, source.samples)
        chunks, block = {field: chunk}, max(chunk, fitting // chunk * chunk)
    else:
        multiple = math.lcm(*chunks.values())
        times = max(1, fitting // multiple)
        # Twice, and twice again: such a number has divisors near every size that a chunk should have.
        block = multiple * times if len(chunks) == len(conversions) else multiple << times.bit_length() - 1
        for field, conversion in conversions.items():
            if field not in chunks:
                chunks[field] = _dividing(block, chunk_samples_for(conversion, source.samples), source.samples)
    fields = {
        field: FieldPlan(conversion, places[field], options.of("compression", field), chunks[field], is_shared)
        for field, conversion in conversions.items()
    }
    return WritePlan(source, fields, block, options.samples)


def chunk_samples_for(conversion: Conversion, samples: int | None) -> int:
    fitting = usual_chunk_samples(conversion.target.sample_nbytes)
    return fitting if samples is None else max(1, min(fitting, samples))


def _dividing(block_samples: int, wanted: int, samples: int | None) -> int:
    """The largest number up to `wanted` of which a block holds whole ones.

    >>> _dividing(48, 10, None), _dividing(48, 100, 1000), _dividing(48, 10, 10)
    (8, 48, 10)
    """
    if samples is not None and samples <= block_samples:
        return wanted  # there is one block
    return next(size for size in range(min(wanted, block_samples), 0, -1) if block_samples % size == 0)


def call_of(plan: WritePlan, options: Options) -> dict[str, Any]:
    """Return the part of a call that a resumed call has to share with the interrupted one, as plain JSON."""
    fields = {}
    for name, field in plan.fields.items():
        target = field.conversion.target
        fields[name] = {
            "sample shape": list(target.sample_shape),
            "dtype": target.dtype.str,
            "layout": f"{field.conversion.source.layout} to {target.layout}",
            "compression": field.compression,
            "chunk_samples": options.of("chunk_samples", name),
        }
    found = {"source": plan.source.fingerprint, "samples": options.samples, "fields": fields, "append": None}
    if plan.before is not None:
        found["append"] = {name: [plan.before.samples, entry.sha256] for name, entry in plan.before.entries.items()}
    return found
