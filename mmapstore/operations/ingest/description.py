"""The manifest of what was written: what it holds, where it came from, and what was left out."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ...files.stored_files import nbytes_on_disk
from ...plain.manifest import ArrayManifest, Manifest
from ..flow.record import Record
from ..flow.tally import Tally
from ..flow.target import Target
from .appending import Appended
from .contract import TellsTimes
from .plan import WritePlan

PEAK = "peak bytes of a worker"  # of the counts of a record
_MOST_FILES = 100  # of which the manifest keeps size and time of change one by one
_LIBRARIES = ("numpy", "h5py", "zarr", "av", "PIL")


def written_manifest(plan: WritePlan, target: Target, record: Record, tallies: Mapping[str, Tally]) -> Manifest:
    """Return the manifest of all fields, of `record.samples` samples each."""
    read = provenance_of(plan.source.paths)
    if peak := record.counts.get(PEAK, 0):
        read["memory"] = {"peak_bytes": peak, "predicted_bytes": plan.memory().total}
    fields = {}
    for name, field in plan.fields.items():
        spec, digest = field.conversion.target, tallies[name].digest
        shape = (record.samples, *spec.sample_shape)
        notes = dict(plan.source.notes.get(name, {}))
        if record.skipped:
            notes["skipped"] = [item for _, item in record.skipped]
        orders = _orders(plan, record, name, notes.pop("order", None))
        if orders:
            notes["order"] = orders
        times = _times(plan, record, name)
        if any(times):
            notes["time"] = times
        provenance = {**read, "compression": field.compression, "chunk_samples": field.chunk_samples}
        source = plan.source.name
        if plan.before is not None:
            old = plan.before.entries[name]
            source = f"{old.source}; then {source}"
            provenance["files"] = [*(old.provenance or {}).get("files", ()), *read["files"]]
        fields[target.name_of(name)] = ArrayManifest(
            file=field.place.file,
            key=field.place.key,
            shape=shape,
            dtype=spec.dtype.str,
            layout=spec.layout,
            episodes=(*record.starts, record.samples),
            block_samples=plan.block_samples,
            checksums=tuple(record.checksums[name]),
            statistics=tallies[name].statistics(),
            source=source,
            sha256=digest.root(shape),
            leaves=tuple(filter(None, digest.of(shape))),
            provenance=provenance,
            notes=notes or None,
        )
    return Manifest(fields, written_by())


def _orders(plan: WritePlan, record: Record, field: str, given: Any) -> list[Mapping[str, Any]]:
    """The order of the samples of each call that wrote some, if a source tells of any: "as they came" is that of all others.

    `given` is that of the source: of one call, or the list of a dataset.
    """
    given = given[-1] if isinstance(given, list) else given
    known: list[Mapping[str, Any]] = []
    if plan.before is not None:
        old = plan.before.entries[field]
        known = list((old.notes or {}).get("order", ()))
        if given and not known:
            known = [{"samples": plan.before.samples, "order": "as they came"}]
    if not known and not given:
        return []
    samples = record.samples - (plan.before.samples if plan.before is not None else 0)
    return [*known, {"samples": samples, **(given or {"order": "as they came"})}]


def _times(plan: WritePlan, record: Record, field: str) -> list[Mapping[str, Any] | None]:
    """When the samples of each episode were taken, where a source knows it."""
    known: list[Mapping[str, Any] | None] = []
    if plan.before is not None:
        old = plan.before.entries[field]
        known += (old.notes or {}).get("time") or [None] * (len(old.episodes) - 1)
    source = plan.source.appended if isinstance(plan.source, Appended) else plan.source
    if isinstance(source, TellsTimes):
        known += source.times([item for _, item in record.skipped])
    return [*known, *[None] * len(record.starts)][: len(record.starts)]


def provenance_of(paths: Iterable[str]) -> dict[str, Any]:
    """Return bytes and time of change (UTC) of the files that were read, and the versions of the libraries that read them."""
    paths = list(dict.fromkeys(paths))
    found: dict[str, Any] = {"files": [_file(path) for path in paths[:_MOST_FILES]], "versions": _versions()}
    if len(paths) > _MOST_FILES:
        found["more files"] = len(paths) - _MOST_FILES
        found["bytes of all files"] = sum(_file(path).get("bytes", 0) for path in paths)
    return found


def _file(path: str) -> dict[str, Any]:
    try:
        status = os.stat(path)
        nbytes = nbytes_on_disk(path)
    except OSError:
        return {"path": path}
    changed = datetime.datetime.fromtimestamp(status.st_mtime, datetime.UTC).isoformat(timespec="seconds")
    return {"path": path, "bytes": nbytes, "changed": changed}


def _versions() -> dict[str, str]:
    """Return the versions of this package and of the libraries that are loaded: others had no part in it."""
    found = {"mmapstore": _version_of("mmapstore")}
    for name in _LIBRARIES:
        if name in sys.modules:
            found[name] = str(getattr(sys.modules[name], "__version__", "")) or _version_of(name)
    return {name: text for name, text in found.items() if text}


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def written_by() -> str:
    """ "mmapstore 0.1.0", for the manifest."""
    return f"mmapstore {_version_of('mmapstore')}".strip()
