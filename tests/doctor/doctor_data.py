"""Small files with one fault each, and some with none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SAMPLES = 600
RANDOM = np.random.default_rng(0).random((SAMPLES, 16, 16), dtype=np.float32) + 0.25  # 1 KiB each, no whole numbers
FEW_VALUES = np.random.default_rng(1).integers(0, 9, (SAMPLES, 16, 16)).astype("f4") + np.float32(0.5)


def _npy(array: Any, name: str = "x.npy") -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        np.save(folder / name, array)
        return str(folder / name)

    return write


def _hdf5(**storage: Any) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        h5py = pytest.importorskip("h5py")
        with h5py.File(folder / "a.h5", "w") as file:
            file.create_dataset("frames", data=FEW_VALUES, **storage)
        return str(folder / "a.h5")

    return write


def _zarr(**storage: Any) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        zarr = pytest.importorskip("zarr")
        zarr.create_array(folder / "a.zarr", data=np.concatenate([FEW_VALUES, RANDOM]), **storage)
        return str(folder / "a.zarr")

    return write


def _many_files(folder: Path) -> str:
    for number in range(300):
        np.save(folder / f"part{number}.npy", RANDOM[2 * number : 2 * number + 2])
    return str(folder / "part*.npy")


# By name: (the finding, what writes the file). Of shape (samples, 16, 16) or more, written so that no other finding is made.
FAULTS: dict[str, tuple[str, Callable[[Path], str]]] = {
    "twice the bytes that Keras takes": ("dtype", _npy(RANDOM.astype("f8") / 3)),
    "another byte order": ("byte-order", _npy(RANDOM.astype(">f4"))),
    "pixels as float32": ("values", _npy((RANDOM * 200).astype("u1").astype("f4"))),
    "pixels as int64": ("values", _npy((RANDOM * 200).astype("i8"))),
    "Fortran order": ("order", _npy(np.asfortranarray(RANDOM))),
    "chunks that split samples": ("chunks", _hdf5(chunks=(100, 8, 8))),
    "a codec of the library alone": ("codec", _hdf5(chunks=(100, 16, 16), scaleoffset=3)),
    "a chunk for each sample": ("pieces", _zarr(chunks=(1, 16, 16), compressors=None)),
    "many small files": ("pieces", _many_files),
}
SOUND: dict[str, Callable[[Path], str]] = {
    ".npy": _npy(RANDOM),
    "uint8": _npy((RANDOM * 200).astype("u1")),
    "channels last": _npy(RANDOM.reshape(SAMPLES, 16, 16)[:, :, :15]),
    "contiguous HDF5": _hdf5(),
    "HDF5 in chunks": _hdf5(chunks=(100, 16, 16)),
    "uncompressed Zarr": _zarr(chunks=(100, 16, 16), compressors=None),
    "all zeros": _npy(np.zeros((100, 16, 16), "f4")),
    "features": _npy(RANDOM.reshape(SAMPLES, 256)),
    "a series": _npy(np.linspace(0, 1, 1000, dtype="f4")),
}
