"""The containers that are converted and compared as a whole: each format declares its own, and a directory of .npy files is one."""

from __future__ import annotations

import importlib

from ..plain.errors import DamagedFileError
from .hdf5_tree_writer import CONTAINER as HDF5
from .npy_tree import CONTAINER as NPY_TREE
from .npy_tree import FILE as NPY_FILE
from .registry import identify
from .tree_contract import Container, TreeSource
from .zarr_tree_writer import CONTAINER as ZARR

__all__ = ["HDF5", "NPY_FILE", "NPY_TREE", "WRITTEN", "ZARR", "container_of", "open_tree"]
WRITTEN = (ZARR, HDF5, NPY_TREE)
"""Containers that a tree can be written to."""


def container_of(path: str) -> Container | None:
    """Return the container at a path; None for an array in a file of another format. Raises what `registry.identify` raises."""
    if NPY_TREE.matches(path):
        return NPY_TREE
    module, _, name = identify(path).container.rpartition(".")
    found: Container | None = getattr(importlib.import_module(f".{module}", __package__), name) if name else None
    return found


def open_tree(path: str, inside: str = "", allow_links: bool = False) -> TreeSource:
    """Open a container, or a group of one, as a whole. Raises DamagedFileError for a file that is none."""
    container = container_of(path)
    if container is None:
        raise DamagedFileError(
            f"{path} is {identify(path).title}, no HDF5 file, Zarr store or .npy file. Convert its arrays alone."
        )
    return container.open(path, inside, allow_links)
