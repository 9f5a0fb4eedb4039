"""Every way to store one array of frames: written by the format's own library, opened by mmapstore.

A new format, or a new way to store in an old one, is accepted when it is added here and everything passes unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmapstore as mm

Make = Callable[[Path, np.ndarray], Any]


@dataclass(frozen=True)
class Stored:
    """One way to store an array.

    Attributes
    ----------
    name : what it is called in the test report
    make : writes the frames (N, C, H, W) below a directory and returns what `open` takes: (source, its options)
    place : what the repr says of how it is read
    pickles : False for live objects that no other process can open
    """

    name: str
    make: Make
    place: str
    pickles: bool = True

    @contextmanager
    def open(self, folder: Path, frames: np.ndarray) -> Iterator[mm.Dataset]:
        source, options, close = self.make(folder, frames)
        try:
            yield mm.open(source, **options)
        finally:
            close()


def _nothing() -> None:
    pass


def _npy(folder: Path, frames: np.ndarray, **options: Any) -> Any:
    np.save(folder / "frames.npy", frames)
    return folder / "frames.npy", options, _nothing


def _npz(folder: Path, frames: np.ndarray, **options: Any) -> Any:
    np.savez(folder / "frames.npz", label=np.arange(len(frames)), frames=frames)
    return f"{folder}/frames.npz::/frames", options, _nothing


def _raw(folder: Path, frames: np.ndarray) -> Any:
    (folder / "frames.bin").write_bytes(b"a header of 22 bytes, " + frames.tobytes())
    return folder / "frames.bin", {"dtype": frames.dtype, "shape": (-1, *frames.shape[1:]), "offset": 22}, _nothing


def _live(folder: Path, change: Callable[[np.ndarray], np.ndarray], stored: np.ndarray, **options: Any) -> Any:
    np.save(folder / "frames.npy", stored)
    return change(np.load(folder / "frames.npy", mmap_mode="r")), options, _nothing


def _hdf5(folder: Path, frames: np.ndarray, layout: str | None = None, **options: Any) -> Any:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "frames.h5", "w") as file:
        if isinstance(options.get("chunks"), tuple):
            options["chunks"] = tuple(map(min, options["chunks"], frames.shape))  # h5py refuses larger ones
        file.create_dataset("group/frames", data=frames, **options)
    return f"{folder}/frames.h5::/group/frames", {"layout": layout}, _nothing


def _live_hdf5(folder: Path, frames: np.ndarray) -> Any:
    h5py = pytest.importorskip("h5py")
    _hdf5(folder, frames, chunks=(8, *frames.shape[1:]), compression="lzf")
    file = h5py.File(folder / "frames.h5", "r")
    return file["group/frames"], {}, file.close


def _hdf5_in_memory(folder: Path, frames: np.ndarray) -> Any:
    h5py = pytest.importorskip("h5py")
    file = h5py.File("memory", "w", driver="core", backing_store=False)
    file["frames"] = frames
    return file["frames"], {}, file.close


def _zarr(folder: Path, frames: np.ndarray, layout: str | None = None, **options: Any) -> Any:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(folder / "frames.zarr", mode="w", zarr_format=options.get("zarr_format", 3))
    array = group.create_array(
        "frames", shape=frames.shape, dtype=frames.dtype, **{k: v for k, v in options.items() if k != "zarr_format"}
    )
    array[...] = frames
    return f"{folder}/frames.zarr::/frames", {"layout": layout}, _nothing


def _live_zarr(folder: Path, frames: np.ndarray) -> Any:
    zarr = pytest.importorskip("zarr")
    _zarr(folder, frames, chunks=(8, *frames.shape[1:]))
    return zarr.open_group(folder / "frames.zarr", mode="r")["frames"], {}, _nothing


def _zarr_in_memory(folder: Path, frames: np.ndarray) -> Any:
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(zarr.storage.MemoryStore(), shape=frames.shape, dtype=frames.dtype, chunks=(8, *frames.shape[1:]))
    array[...] = frames
    return array, {}, _nothing


def _zstd() -> Any:
    return pytest.importorskip("zarr").codecs.ZstdCodec(level=1)


def _several(folder: Path, frames: np.ndarray) -> Any:
    """Files of unequal length. They are one episode, so that the batches are those of one array."""
    cuts = [0, 13, 14, 50, len(frames)]
    for number, (start, stop) in enumerate(pairwise(cuts)):
        np.save(folder / f"part{number + 8}.npy", frames[start:stop])
    return f"{folder}/part*.npy", {"episodes": [0, len(frames)]}, _nothing


def _several_compressed(folder: Path, frames: np.ndarray) -> Any:
    h5py = pytest.importorskip("h5py")
    for number, part in enumerate((frames[:30], frames[30:])):
        with h5py.File(folder / f"part{number}.h5", "w") as file:
            file.create_dataset("x", data=part, chunks=(4, *frames.shape[1:]), compression="gzip")
    return [f"{folder}/part0.h5", f"{folder}/part1.h5"], {"episodes": [0, len(frames)]}, _nothing


def _mixed(folder: Path, frames: np.ndarray) -> Any:
    """As a field. It has the name that a single array gets, so that it has the same fingerprint."""
    _zarr(folder, frames, chunks=(8, *frames.shape[1:]))
    return {"data": f"{folder}/frames.zarr::/frames"}, {"layout": {"data": "NCHW"}}, _nothing


def _rows(frames: np.ndarray) -> tuple[int, ...]:
    return (8, *frames.shape[1:])


def _one_episode_many_axes(stored_layout: str) -> Callable[[np.ndarray], np.ndarray]:
    """(N, C, H, W) as an array of the layout, with N 1 where there is a T: the frames are one episode."""

    def change(frames: np.ndarray) -> np.ndarray:
        whole = frames[None] if "T" in stored_layout else frames
        axes = "NTCHW" if "T" in stored_layout else "NCHW"
        return np.ascontiguousarray(whole.transpose([axes.index(letter) for letter in stored_layout]))

    return change


STORED = [
    Stored(".npy", _npy, "memory-mapped"),
    Stored(".npy big-endian", lambda d, f: _npy(d, f.astype(f.dtype.newbyteorder(">"))), "memory-mapped"),
    Stored(".npy Fortran order", lambda d, f: _npy(d, np.asfortranarray(f)), "memory-mapped"),
    Stored(".npz", _npz, "memory-mapped"),
    Stored(".npz Fortran order", lambda d, f: _npz(d, np.asfortranarray(f)), "memory-mapped"),
    Stored("headerless", _raw, "memory-mapped"),
    Stored("headerless big-endian", lambda d, f: _raw(d, f.astype(f.dtype.newbyteorder(">"))), "memory-mapped"),
    Stored("HDF5 contiguous", _hdf5, "memory-mapped"),
    Stored("HDF5 chunked", lambda d, f: _hdf5(d, f, chunks=_rows(f)), "read in place"),
    Stored("HDF5 chunked across rows", lambda d, f: _hdf5(d, f, chunks=(8, 1, 2, 3)), "decoded in threads"),
    Stored("HDF5 gzip", lambda d, f: _hdf5(d, f, chunks=_rows(f), compression="gzip", shuffle=True), "decoded in threads"),
    Stored("HDF5 gzip, one chunk", lambda d, f: _hdf5(d, f, chunks=f.shape, compression="gzip"), "decoded in threads"),
    Stored("Zarr 2", lambda d, f: _zarr(d, f, zarr_format=2, chunks=_rows(f), compressors=None), "read in place"),
    Stored("Zarr 3", lambda d, f: _zarr(d, f, chunks=_rows(f), compressors=None), "read in place"),
    Stored("Zarr 3 zstd", lambda d, f: _zarr(d, f, chunks=_rows(f), compressors=_zstd()), "decoded in threads"),
    Stored("Zarr 3 split rows", lambda d, f: _zarr(d, f, chunks=(8, 1, 2, 3), compressors=None), "decoded in threads"),
    Stored("Zarr 3 sharded", lambda d, f: _zarr(d, f, chunks=_rows(f), shards=(16, *f.shape[1:])), "decoded in threads"),
    Stored("live memmap", lambda d, f: _live(d, lambda m: m, f), "memory-mapped"),
    Stored("live memmap, sliced", lambda d, f: _live(d, lambda m: m[3:-2], np.pad(f, [(3, 2), *[(0, 0)] * 3])), "memory-mapped"),
    Stored("live memmap, strided", lambda d, f: _live(d, lambda m: m[::-2], np.repeat(f[::-1], 2, axis=0)), "memory-mapped"),
    Stored("live h5py.Dataset", _live_hdf5, "decoded in threads"),
    Stored("live h5py.Dataset in memory", _hdf5_in_memory, "decoded by its library", pickles=False),
    Stored("live zarr.Array", _live_zarr, "decoded in threads"),
    Stored("live zarr.Array in memory", _zarr_in_memory, "decoded by its library", pickles=False),
    Stored("ndarray", lambda d, f: (f, {}, _nothing), "in RAM"),
    Stored("several .npy", _several, "memory-mapped"),
    Stored("several HDF5 gzip", _several_compressed, "decoded in threads"),
    Stored("a dict", _mixed, "decoded in threads"),
]

for _letters in ("NTCHW", "TNCHW", "TCHW", "CNHW", "CTHW", "NCTHW"):

    def _in_layout(frames: np.ndarray, letters: str = _letters) -> np.ndarray:
        """(N, C, H, W) as stored: the frames run along T where there is one, in one episode."""
        axes = "NTCHW" if "T" in letters else "NCHW"
        shaped = frames[None] if "T" in letters else frames
        stored = shaped.transpose([axes.index(letter) for letter in (letters if "N" in letters else "N" + letters)])
        return np.ascontiguousarray(stored if "N" in letters else stored[0])

    STORED += [
        Stored(f".npy {_letters}", lambda d, f, c=_in_layout, n=_letters: _npy(d, c(f), layout=n), "memory-mapped"),
        Stored(f"HDF5 {_letters}", lambda d, f, c=_in_layout, n=_letters: _hdf5(d, c(f), layout=n), "memory-mapped"),
        Stored(
            f"HDF5 gzip {_letters}",
            lambda d, f, c=_in_layout, n=_letters: _hdf5(d, c(f), layout=n, chunks=True, compression="gzip"),
            "decoded in threads",
        ),
    ]
