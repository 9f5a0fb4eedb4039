"""The array that the tests of `convert` start from, in many forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr

SHAPE = (61, 3, 14, 10)


def frames(dtype: str = "f4") -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).integers(0, 100, SHAPE).astype(dtype)


def make(folder: Path, form: str) -> str:
    """`frames()` in one of many forms; what `open` takes."""
    values = frames()
    hdf5: dict[str, dict[str, Any]] = {
        "contiguous": {},
        "gzip": {"chunks": (8, *SHAPE[1:]), "compression": "gzip", "shuffle": True},
        "fletcher": {"chunks": (8, *SHAPE[1:]), "compression": "gzip", "fletcher32": True},
        "split": {"chunks": (61, 1, 5, 4), "compression": "gzip"},
        "lzf": {"chunks": (9, *SHAPE[1:]), "compression": "lzf"},
        "scaleoffset": {"chunks": (9, *SHAPE[1:]), "scaleoffset": 3},
        "big-endian": {"chunks": (9, *SHAPE[1:]), "compression": "gzip", "dtype": ">f4"},
    }
    if form == "npy":
        np.save(folder / "a.npy", values)
        return str(folder / "a.npy")
    if form == "fortran":
        np.save(folder / "a.npy", np.asfortranarray(values))
        return str(folder / "a.npy")
    if form in hdf5:
        with h5py.File(folder / "a.nc", "w") as file:
            file.create_dataset("g/x", data=values, **hdf5[form])
        return str(folder / "a.nc::/g/x")
    if form == "zarr2":
        zarr.create_array(folder / "a.zarr", data=values, chunks=(9, 2, 14, 10), zarr_format=2)
    else:
        shards = {"shards": (20, *SHAPE[1:])} if form == "sharded" else {}
        zarr.create_array(folder / "a.zarr", data=values, chunks=(10, *SHAPE[1:]), **shards)
    return str(folder / "a.zarr")
