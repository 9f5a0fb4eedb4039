"""The result of a conversion, or of its dry run, and the entry in the manifest."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ...plain.content_digest import LeafDigests
from ...plain.display import format_duration
from ...plain.json_values import as_json
from ...plain.manifest import ArrayManifest
from ...plain.memory_budget import MemoryPlan, format_bytes
from ..ingest.description import written_by
from . import origin
from .copying import FIELD
from .dropped_metadata import lost_in
from .plan import Plan, call_of

_CALL = "call"  # in the provenance: which call published the target


@dataclass(frozen=True)
class Converted:
    """The result of `convert`. It is a path: `open(converted)`, `str(converted)`, `os.fspath(converted)`.

    Attributes
    ----------
    path : what `mmapstore.open` takes
    source : name of what was read
    shape, dtype, layout : of the target
    nbytes : of all values as written, uncompressed
    stored_nbytes : of the target on disk
    sha256 : content digest of what was written, the same in any format; "" of a dry run
    rounded, clipped : values that a cast changed
    chunks : of the target; 0 where it has none
    chunks_copied : how the chunks came: True if encoded as they were
    decodes, source_chunks : how many times a chunk of the source was decoded, and how many chunks it took
    verified : read back and found equal
    changes : what is not as it was, in words
    notes : what a reader of the result should know, in words
    memory : predicted peak of private memory
    seconds : that it took, or of a dry run is expected to
    peak_nbytes : private memory that the worst process took, as measured; 0 where one process did all
    part, regions : "i/n" of a part, which publishes nothing, with the numbers of regions (done by this call, of all parts)
    was_published : an earlier call published the same, and this one did nothing
    dry_run : nothing was written
    """

    path: str
    source: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    nbytes: int
    stored_nbytes: int
    memory: MemoryPlan
    seconds: float
    sha256: str = ""
    rounded: int = 0
    clipped: int = 0
    chunks: int = 0
    chunks_copied: bool = False
    decodes: int = 0
    source_chunks: int = 0
    verified: bool = False
    peak_nbytes: int = 0
    part: str = ""
    regions: tuple[int, int] = (0, 0)
    was_published: bool = False
    dry_run: bool = False
    changes: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.to_text() if self.dry_run else self.path

    def to_json(self) -> dict[str, Any]:
        found = {**vars(self), "shape": list(self.shape), "changes": list(self.changes), "notes": list(self.notes)}
        return {**found, "memory": {**self.memory.parts, "total": self.memory.total}}

    def to_text(self) -> str:
        """Some lines for a terminal."""
        what = f"{self.shape} {self.dtype}{f' {self.layout}' if self.layout else ''}, {format_bytes(self.nbytes)}"
        chunks = f", {self.chunks} chunk{'s' * (self.chunks != 1)}{', copied as they are' * self.chunks_copied}" * bool(self.chunks)
        decoded = ""
        if self.source_chunks:
            decoded = f"{self.source_chunks} chunks of the source, decoded {self.decodes / self.source_chunks:.3g} times each"
        if self.was_published:
            return f"{self.path} was published before, by the same call: there is nothing left to do"
        if self.part:
            return (
                f"part {self.part} of {self.path}: {self.regions[0]} of {self.regions[1]} regions converted in {self.seconds:.1f} "
                "s. Once all parts are done: the same command with --finish in place of --part (part='finish')"
            )
        if self.dry_run:
            lines = [
                f"{self.path} would hold {what}; about {format_bytes(self.stored_nbytes)} on disk{chunks}",
                f"from {self.source}{f': {decoded}' * bool(decoded)}",
                f"memory: {self.memory}",
                f"about {format_duration(self.seconds)}, by a timed sample",
            ]
        else:
            rate = format_bytes(self.nbytes / max(self.seconds, 1e-3))
            lines = [
                f"{self.path}: {what} in {self.seconds:.1f} s ({rate}/s), {format_bytes(self.stored_nbytes)} on disk{chunks}"
                f"{', read back and equal' * self.verified}",
                *([decoded] if decoded and self.decodes > self.source_chunks else []),
                f"sha256 of the values: {self.sha256}",
                *([self._peak_words()] if self.peak_nbytes else []),
            ]
        lines += [f"changed: {each}" for each in self.changes]
        if not self.dry_run:
            lines.append(f"open it with: ds = mmapstore.open({self.path!r})")
        return "\n".join(lines)

    def _peak_words(self) -> str:
        return f"memory: at most {format_bytes(self.peak_nbytes)} in a process, of {format_bytes(self.memory.total)} predicted"


def entry_of(plan: Plan, digest: LeafDigests, checksums: Iterable[str], verified: bool) -> ArrayManifest:
    """Return the entry of the manifest of a target that is on disk. `checksums` are those of all slabs.

    Slabs of whole samples are the blocks of the manifest. Of others it has no checksums, and the leaves of the digest alone tell
    damaged ranges.
    """
    place, values, each = plan.target.place(FIELD), plan.slabs.most_values, plan.sample_values
    are_blocks = plan.is_in_sample_order and plan.slabs.is_uniform and values % each == 0
    return ArrayManifest(
        file=place.file,
        key=place.key,
        shape=plan.new.shape,
        dtype=plan.new.dtype.str,
        layout=plan.layout,
        episodes=_episodes(plan),
        block_samples=values // each if are_blocks else plan.samples,
        checksums=tuple(checksums) if are_blocks else (),
        source=plan.origin.name,
        sha256=digest.root(plan.new.shape),
        leaves=tuple(filter(None, digest.of(plan.new.shape))),
        provenance={**origin.provenance(plan.origin), "written by": written_by(), "verified": verified, _CALL: _mark_of(plan)},
        notes=_notes(plan) or None,
    )


def published(plan: Plan) -> ArrayManifest | None:
    """Return the entry in the manifest of a target that was published by the same call, None if there is none."""
    target = plan.target
    if any(map(os.path.lexists, (target.partial, target.journal))) or not os.path.lexists(target.path):
        return None
    return next((entry for entry in target.written() if (entry.provenance or {}).get(_CALL) == _mark_of(plan)), None)


def _mark_of(plan: Plan) -> str:
    """CRC-32 of a call, the same for any bound of memory."""
    call = {**call_of(plan, origin.fingerprint(plan.origin)), "slabs": None, "copies chunks": None}
    return f"{zlib.crc32(json.dumps(call, sort_keys=True).encode()):08x}"


def _episodes(plan: Plan) -> tuple[int, ...]:
    """Offsets of the episodes in the samples of the target."""
    given, start, samples = plan.origin.episodes, 0, plan.samples
    if given:
        axis = plan.origin.layout.index("T" if "T" in plan.origin.layout else "N") if plan.origin.layout else 0
        start = plan.first[axis]
        inside = [at - start for at in given if start < at < start + samples]
        if plan.layout == plan.origin.layout:
            return (0, *inside, samples)
    if "T" in plan.layout and "N" in plan.layout:
        length = plan.new.shape[plan.layout.index("T")]
        return tuple(range(0, samples + 1, length))
    return (0, samples) if not given else (0, *inside, samples)


def _notes(plan: Plan) -> dict[str, object]:
    """Return the notes of the manifest: those of the source, and its attributes where the target has no place for them."""
    lost = lost_in(plan.target.writing, plan.origin.attributes, plan.packing is not None)
    found = {name: as_json(plan.origin.attributes[name]) for name in lost}
    kept = {name: value for name, value in found.items() if value is not None}
    return {**plan.origin.noted.to_json(), **({"attributes": kept} if kept else {})}
