"""Adding to what is there: an append is an interrupted ingest of which the old samples are the part that is complete.

It goes on as every interrupted ingest does: complete blocks are read back and compared, a last block that is not full is written
again, and what comes out is what one ingest of all samples would have left. Where it is written keeps the old data whole:

- `.npy`: behind the end of the file, whose header is changed last (`formats.npy_tail`);
- Zarr: into a sibling store that shares the old chunk files; HDF5: into a copy of the file; either takes the place of the old.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...batches.opening import open_quietly
from ...files import durable_writes
from ...files.stored_manifest import read_leaves, read_manifest
from ...files.system_errors import explaining_write_errors
from ...formats.registry import open_stored
from ...plain.array_spec import ArraySpec
from ...plain.digest_leaves import leaves_of
from ...plain.errors import InvalidTypeError, InvalidValueError, MmapstoreError, NotFoundError
from ...plain.manifest import ArrayManifest
from ..flow.copying import checksum_of
from ..flow.record import Record
from ..flow.target import Place, Target
from .contract import Array, Piece, Position, Source
from .conversion import Conversion
from .field_write import damaged
from .plan import Before, FieldPlan, Options, WritePlan

_NOTHING: Mapping[str, Any] = {}
_GROWING = ("skipped", "time", "order")  # notes of single episodes or samples, which grow with them


def before_of(target: Target, source: Source, options: Options) -> Before:
    """Return the data at the target, if samples of the source can follow it.

    Raises NotFoundError, DamagedFileError, InvalidValueError, InvalidTypeError.
    """
    if not os.path.lexists(target.path):
        raise NotFoundError(f"{target.path} does not exist, so nothing is appended to it. Leave out append=True the first time.")
    fields = {target.name_of(field): field for field in source.specs}
    entries = _entries(target)
    if set(entries) != set(fields):
        raise InvalidValueError(
            f"{target.path} holds the fields {', '.join(sorted(entries))}, and the source gives {', '.join(sorted(fields))}. "
            "What is appended needs the same fields (of images, 'source' can be left out: source_field=False, --no-source)."
        )
    samples = {entry.shape[0] for entry in entries.values()}
    blocks = {entry.block_samples for entry in entries.values()}
    # Plain bytes are the same whoever wrote them; how else samples are chunked and encoded, only an ingest has noted.
    is_known = not target.writing.compressions or all("compression" in (entry.provenance or _NOTHING) for entry in entries.values())
    has_blocks = all(len(entry.checksums) == -(-entry.shape[0] // entry.block_samples) for entry in entries.values())
    if len(samples) > 1 or len(blocks) > 1 or not is_known or not has_blocks:
        raise InvalidValueError(
            f"{target.path} was not written by `ingest`, whose manifest says in which chunks and with which compression to go on. "
            f"Write it anew where you append, once: mmapstore ingest {shlex.quote(target.opened_as)} NEW"
        )
    for name, field in fields.items():
        _require_fits(target, source, options, field, entries[name])
    found = {field: entries[name] for name, field in fields.items()}
    whole, block = samples.pop(), blocks.pop()
    complete = whole // block
    while any(complete * block % _chunk_samples(target, found[field]) for field in found):
        complete -= 1
    leaves = {field: _whole_leaves(target.manifest_path, entry) for field, entry in found.items()}
    return Before(whole, block, found, target.writing.tail is not None, complete * block, leaves)


def _entries(target: Target) -> dict[str, ArrayManifest]:
    path = target.manifest_path
    try:
        fields = read_manifest(path).fields
    except MmapstoreError as error:
        raise InvalidValueError(
            f"{target.path} has no manifest that can be read: it says where episodes begin, and what the data was when it was "
            "whole. Ingest it to a new place first, and append to that."
        ) from error
    return {name: entry for name, entry in fields.items() if target.is_directory_of_fields or entry.key == target.place(name).key}


def _whole_leaves(path: str, entry: ArrayManifest) -> Mapping[int, bytes]:
    """The leaves of a field that stay as they are when samples are added, by number."""
    leaves = leaves_of(entry.shape, np.dtype(entry.dtype).itemsize)
    return {} if leaves.merged else dict(enumerate(read_leaves(path, entry)[: leaves.values // leaves.each]))


def _require_fits(target: Target, source: Source, options: Options, field: str, entry: ArrayManifest) -> None:
    spec, dtype = source.specs[field], options.dtype_of(field, source.specs[field])
    where = f"{target.path} holds {target.name_of(field)} as"
    for name in ("compression", "chunk_samples"):
        if options.of(name, field) is not None:
            raise InvalidValueError(f"{name}={options.of(name, field)!r} cannot be chosen anew for samples appended. Leave it out.")
    if set(spec.layout) != set(entry.layout):
        raise InvalidValueError(f"{where} {entry.layout}, and the source gives {spec.layout}; expected the same axes.")
    found = Conversion.of(_as_wide(spec, entry), entry.layout, dtype).target
    if found.dtype != np.dtype(entry.dtype):
        remedy = f"Say dtype={np.dtype(entry.dtype).name!r} to convert." if dtype is None else "Leave dtype= out, or say that."
        raise InvalidTypeError(f"{where} {np.dtype(entry.dtype)}, and this would append {found.dtype}. {remedy}")
    if found.sample_shape != entry.shape[1:]:
        is_turned = sorted(found.sample_shape) == sorted(entry.shape[1:])
        remedy = (
            "Say the order of its axes with source_layout= (--source-layout)" if is_turned else "Resize, crop or pad them first"
        )
        raise InvalidValueError(
            f"{where} samples of shape {entry.shape[1:]} ({entry.layout}), and the source gives {found.sample_shape}. {remedy}."
        )
    kept, given = (
        {name: note for name, note in (notes or _NOTHING).items() if name not in _GROWING}
        for notes in (entry.notes, source.notes.get(field))
    )
    if kept != given:
        raise InvalidValueError(
            f"{where} noted {_differing(kept, given)}, and the source notes {_differing(given, kept)}: the same numbers would mean "
            "something else. Append with the same options and classes, or ingest all of it anew."
        )


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return in words the notes of `one` that `other` has not, or has otherwise."""
    return ", ".join(f"{name}={note!r}" for name, note in one.items() if name not in other or other[name] != note) or "none of that"


def _as_wide(spec: ArraySpec, entry: ArrayManifest) -> ArraySpec:
    """Text that is narrower than the field has room for, as wide as the field."""
    stored = np.dtype(entry.dtype)
    is_narrower = spec.dtype.kind == stored.kind == "S" and spec.dtype.itemsize < stored.itemsize
    return ArraySpec(spec.shape, stored, spec.layout) if is_narrower else spec


class Appended:
    """The samples that are there, and then those of a source: a source of all."""

    def __init__(self, before: Before, target: Target, source: Source) -> None:
        self._before, self.appended = before, source
        self._old = open_quietly(target.opened_as).fields
        self._names = {field: target.name_of(field) if target.named else next(iter(self._old)) for field in source.specs}
        total = None if source.samples is None else before.samples + source.samples
        self.name = source.name
        self.specs = {
            field: ArraySpec((total or 0, *spec.sample_shape), _as_wide(spec, before.entries[field]).dtype, spec.layout)
            for field, spec in source.specs.items()
        }
        self.samples = total
        self.guess = before.samples + source.guess if source.guess else 0
        self.paths = source.paths
        self.fingerprint = source.fingerprint
        self.gives_from_any_sample = source.gives_from_any_sample
        self.notes = source.notes

    def pieces(self, after: Position, at_most: int) -> Iterator[Piece]:
        at, old = after.samples, self._before
        starts = next(iter(old.entries.values())).episodes[:-1]
        skipped = old.skipped if at == 0 else []
        for first in range(at, old.samples, at_most):
            last = min(first + at_most, old.samples)
            begun = [start - first for start in starts if first <= start < last]
            yield Piece({field: self._read(field, first, last) for field in self.specs}, begun, skipped)
            skipped = []
        samples = old.samples
        begun = [start - samples for start in after.starts if start >= samples]
        new = Position(max(0, at - samples), begun if at >= samples else (), after.skipped[len(old.skipped) :])
        yield from self.appended.pieces(new, at_most)

    def _read(self, field: str, first: int, last: int) -> Array:
        """Old samples as the source would give them: a view, but for the dtype, which is that of the target already."""
        read = np.asarray(self._old[self._names[field]][first:last])
        stored = self._before.entries[field].layout
        return read.transpose([stored.index(letter) for letter in self.specs[field].layout])

    def require_whole(self) -> None:
        """Raise DamagedFileError if the last samples, which are no whole block, are not those that were written."""
        old = self._before
        first = old.samples // old.block_samples * old.block_samples
        if first == old.samples:
            return
        for field, entry in old.entries.items():
            read = np.asarray(self._old[self._names[field]][first : old.samples])
            if checksum_of(read) != entry.checksums[-1]:
                raise damaged(entry, first)

    def memory(self, at_most: int) -> dict[str, int]:
        nbytes = sum(_sample_nbytes(entry) for entry in self._before.entries.values())
        found = dict(self.appended.memory(at_most))
        return {**found, "old samples being read": max(0, 3 * at_most * nbytes - sum(found.values()))}


def _sample_nbytes(entry: ArrayManifest) -> int:
    return int(np.prod(entry.shape[1:], dtype=np.int64)) * np.dtype(entry.dtype).itemsize


def append_plan(source: Source, target: Target, options: Options, before: Before) -> WritePlan:
    """In the form and the blocks of what is there."""
    fields = {}
    for field, spec in source.specs.items():
        entry = before.entries[field]
        place = target.place(field)
        if target.writing.tail is not None:
            path = os.path.join(target.path, entry.file) if target.is_directory_of_fields else target.path
            place = Place(target.writing.tail, path, entry.file, "")
        conversion = Conversion.of(spec, entry.layout, np.dtype(entry.dtype) if spec.dtype.kind != "S" else None)
        compression = (entry.provenance or _NOTHING).get("compression")
        fields[field] = FieldPlan(conversion, place, compression, _chunk_samples(target, entry))
    limit = None if options.samples is None else before.samples + options.samples
    return WritePlan(source, fields, before.block_samples, limit, before)


def _chunk_samples(target: Target, entry: ArrayManifest) -> int:
    if not target.writing.compressions:
        return 1
    chunks = open_stored(target.path, entry.key or None).chunks
    return chunks[0] if chunks else int((entry.provenance or _NOTHING)["chunk_samples"])


def first_record(plan: WritePlan, before: Before) -> Record:
    """The old samples as the part of an interrupted ingest that is complete."""
    blocks = before.complete // before.block_samples
    record = Record(plan.block_samples, {field: each.chunk_samples for field, each in plan.fields.items()})
    record.samples = before.complete
    for field, entry in before.entries.items():
        record.checksums[field] = list(entry.checksums[:blocks])
    if blocks:
        record.starts = [start for start in next(iter(before.entries.values())).episodes[:-1] if start < record.samples]
        record.skipped = [(0, name) for name in before.skipped]
    return record


def _shared(source: str, copy: str) -> None:
    """Link a chunk's file, which is replaced or deleted as a whole; copy metadata, which is changed in place."""
    if os.path.basename(source) != "zarr.json":
        with contextlib.suppress(OSError):  # no hard links here, or no more for this file
            os.link(source, copy)
            return
    shutil.copyfile(source, copy)


def copy_to_work_on(plan: WritePlan, target: Target, record: Record) -> None:
    """Have the old data at the partial path, without what is written again."""
    with explaining_write_errors(target.partial):
        durable_writes.remove(target.partial)  # what a copy that was interrupted left
        if os.path.isdir(target.path):
            shutil.copytree(target.path, target.partial, copy_function=_shared)
        else:
            shutil.copy(target.path, target.partial)
    if os.path.isdir(target.partial) and record.samples:
        for field in plan.fields.values():
            # Chunk files behind these are shared with the old store: they are taken away here, so that they are never written to.
            new = field.new_array(record.samples, resizable=True)
            writer = field.place.writing.reopen(field.place.path, field.place.key or None, new)
            writer.truncate(record.samples)
            writer.close()
