"""The entry of a converted array in the manifest of its target."""

from __future__ import annotations

from collections.abc import Iterable

from ...plain.content_digest import LeafDigests
from ...plain.json_values import as_json
from ...plain.manifest import ArrayManifest
from ..ingest.description import written_by
from . import origin
from .copying import FIELD
from .dropped_metadata import lost_in
from .plan import Plan


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
        provenance={**origin.provenance(plan.origin), "written by": written_by(), "verified": verified},
        notes=_notes(plan) or None,
    )


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
