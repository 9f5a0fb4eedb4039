"""Boxes of an HDF5 dataset, read and written in a type of one's choice."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..plain.chunk_grid import Box
from .contract import Array
from .hdf5_library import library


def read_elements(dataset: Any, memory: np.dtype[Any], box: Box) -> Array:
    """Return a box of an h5py.Dataset converted to `memory`, in a new array: 0 where nothing is stored and no fill value is set."""
    counts = tuple(part.stop - part.start for part in box)
    out: Array = np.zeros(counts, memory)
    if out.size:
        dataset.id.read(*_spaces(dataset.id, box), out, memory_type(memory, dataset.id.get_type()))
    return out


def raw_elements(dataset: Any, box: Box) -> Array:
    """Return the bytes of each element in the type that it is stored in, as a further axis. For flat types: `hdf5_runs.is_flat`."""
    kind, counts = dataset.id.get_type(), tuple(part.stop - part.start for part in box)
    out: Array = np.zeros((*counts, kind.get_size()), np.uint8)
    if out.size:
        dataset.id.read(*_spaces(dataset.id, box), out, kind)
    return out


def write_elements(dataset: Any, values: Array, kind: Any, box: Box) -> None:
    """Write a box of an h5py.h5d.DatasetID whose elements are of the h5py type `kind` in memory."""
    if values.size:
        dataset.write(*_spaces(dataset, box), values, kind)


def memory_type(memory: np.dtype[Any], stored: Any) -> Any:
    """Return the HDF5 type of `memory`. Opaque bytes keep their tag in the file: HDF5 converts between equal tags only."""
    h5t = library().h5t
    if isinstance(stored, h5t.TypeOpaqueID):
        return stored
    if isinstance(stored, h5t.TypeArrayID):
        dims = stored.get_array_dims()
        return h5t.array_create(memory_type(np.dtype((memory.base, memory.shape[len(dims) :])), stored.get_super()), dims)
    if isinstance(stored, h5t.TypeCompoundID) and memory.names:
        kind = h5t.create(h5t.COMPOUND, memory.itemsize)
        for name in memory.names:
            raw = name.encode("utf-8", "surrogateescape")
            member = stored.get_member_type(stored.get_member_index(raw))
            kind.insert(raw, memory.fields[name][1], memory_type(memory[name], member))  # type: ignore[index]
        return kind
    return h5t.py_create(memory)


def _spaces(dataset: Any, box: Box) -> tuple[Any, Any]:
    h5s = library().h5s
    counts = tuple(part.stop - part.start for part in box)
    if not counts:
        return h5s.ALL, h5s.ALL
    stored = dataset.get_space()
    stored.select_hyperslab(tuple(part.start for part in box), counts)
    return h5s.create_simple(counts), stored
