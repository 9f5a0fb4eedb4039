"""The data of the suite: three kinds of samples, made once from a seed and stored in every format and codec.

Values are smooth fields that move, quantised, with a little noise: gzip after shuffle makes about half of them. Beside
the array lies the sum of the 64-bit words of each sample, from which the checksum of any epoch follows.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmapstore.bench.checksum import word_sums
from mmapstore.bench.generated_data import waves

Array = np.ndarray[Any, np.dtype[Any]]
KEY = "data"


@dataclass(frozen=True)
class Kind:
    """One sort of samples, all float32.

    chunk : samples in a chunk; `shard` in a shard. `block` and `blocks`: the shuffling window of hand-written peers, in
    samples and in blocks, about the size of ours. `shuffle`: what mmapstore is given.
    """

    name: str
    samples: int
    shape: tuple[int, ...]
    chunk: int
    shard: int
    batch: int
    block: int
    blocks: int
    shuffle: bool | int = True

    @property
    def nbytes(self) -> int:
        return self.samples * self.sample_nbytes

    @property
    def sample_nbytes(self) -> int:
        return int(np.prod(self.shape)) * 4

    def of(self, samples: int | None) -> Kind:
        return self if samples is None else replace(self, samples=samples)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("frames", 20_000, (3, 50, 50), chunk=64, shard=1024, batch=32, block=64, blocks=32),
        Kind("features", 1_000_000, (64,), chunk=8192, shard=65_536, batch=256, block=8192, blocks=32),
        Kind("volumes", 24, (1, 128, 192, 192), chunk=1, shard=4, batch=2, block=1, blocks=8, shuffle=8),
    )
}
QUICK = {"frames": 2_000, "features": 100_000, "volumes": 6}


# --- making it ----------------------------------------------------------------------------------------------------------


def make_array(kind: Kind, directory: Path, seed: int) -> Path:
    """The `.npy` of this kind, and `sums.npy` beside it; kept if they are there already."""
    path = directory / "array.npy"
    if path.exists() and (directory / "sums.npy").exists():
        return path
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    basis, speeds = waves(kind.shape, random)
    partial = directory / "array.npy.partial"
    out = np.lib.format.open_memmap(partial, mode="w+", dtype="f4", shape=(kind.samples, *kind.shape))
    sums = np.empty(kind.samples, np.uint64)
    step = max(1, 2**24 // kind.sample_nbytes)
    for start in range(0, kind.samples, step):
        stop = min(start + step, kind.samples)
        at = np.outer(np.arange(start, stop), speeds)
        block = (np.concatenate([np.cos(at), np.sin(at)], axis=1).astype("f4") @ basis) * np.float32(4096)
        block += random.standard_normal(block.shape, dtype="f4") * np.float32(12)
        np.rint(block, out=block)
        block *= np.float32(2**-14)
        out[start:stop] = block.reshape(-1, *kind.shape)
        sums[start:stop] = row_sums(block)
    out.flush()
    del out
    np.save(directory / "sums.npy", sums)
    os.replace(partial, path)
    return path


def row_sums(samples: Array) -> Array:
    """(samples,) uint64: the sum of the 64-bit words of each sample, modulo 2**64. Reads every byte once."""
    return word_sums(samples).view(np.uint64)


def _npy(source: Path, target: Path, kind: Kind) -> None:
    os.link(source, target)


def _hdf5(**options: Any) -> Callable[[Path, Path, Kind], None]:
    def write(source: Path, target: Path, kind: Kind) -> None:
        import h5py

        chosen = {name: value() if callable(value) else value for name, value in options.items()}
        plugin = chosen.pop("plugin", {})
        data = np.load(source, mmap_mode="r")
        samples = chosen.pop("chunk", kind.chunk)
        chunks = None if chosen.pop("contiguous", False) else (min(samples, kind.samples), *kind.shape)
        with h5py.File(target, "w") as file:
            stored = file.create_dataset(KEY, data.shape, "f4", chunks=chunks, **chosen, **plugin)
            for start in range(0, len(data), kind.chunk * 8):
                stored[start : start + kind.chunk * 8] = data[start : start + kind.chunk * 8]

    return write


def _plugin(name: str, **options: Any) -> Callable[[], Any]:
    def made() -> Any:
        import hdf5plugin

        return dict(getattr(hdf5plugin, name)(**options))

    return made


def _zarr(
    compressors: Callable[[], Any], sharded: bool = False, chunk: tuple[int, ...] | None = None
) -> Callable[[Path, Path, Kind], None]:
    """Return a writer of Zarr v3. `chunk` : the first lengths of a chunk, where they are not the usual ones of the kind."""

    def write(source: Path, target: Path, kind: Kind) -> None:
        import zarr

        data = np.load(source, mmap_mode="r")
        lengths = (*(chunk or (kind.chunk,)), *data.shape[len(chunk or (0,)) :])
        step = kind.shard if sharded else kind.chunk * 8
        stored = zarr.create_group(target).create_array(
            KEY,
            shape=data.shape,
            dtype="f4",
            chunks=tuple(map(min, lengths, data.shape)),
            shards=(kind.shard, *kind.shape) if sharded else None,
            compressors=compressors(),
            dimension_names=["sample", *(f"axis{i}" for i in range(len(kind.shape)))],
        )
        for start in range(0, len(data), step):
            stored[start : start + step] = data[start : start + step]

    return write


def _zarr_blosc() -> Any:
    from zarr.codecs import BloscCodec

    return BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")


def _zarr_zstd() -> Any:
    from zarr.codecs import ZstdCodec

    return ZstdCodec(level=3)


def sharded_zstd(samples: int) -> Callable[[Path, Path, Kind], None]:
    """Return a writer of Zarr v3 in shards, with so many samples in a chunk."""
    return _zarr(_zarr_zstd, sharded=True, chunk=(samples,))


@dataclass(frozen=True)
class Form:
    """One format with one codec. `requires`: modules without which it can neither be written nor read."""

    suffix: str
    write: Callable[[Path, Path, Kind], None]
    requires: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("frames",)


EVERY = tuple(KINDS)
FORMS = {
    "npy": Form(".npy", _npy, kinds=EVERY),
    "h5-contiguous": Form(".h5", _hdf5(contiguous=True), ("h5py",)),
    "h5-gzip": Form(".h5", _hdf5(compression="gzip", compression_opts=4, shuffle=True), ("h5py",), EVERY),
    "h5-small-gzip": Form(".h5", _hdf5(compression="gzip", compression_opts=4, shuffle=True, chunk=1), ("h5py",)),
    "h5-lzf": Form(".h5", _hdf5(compression="lzf", shuffle=True), ("h5py",)),
    "h5-blosc-zstd": Form(".h5", _hdf5(plugin=_plugin("Blosc", cname="zstd", clevel=5, shuffle=1)), ("h5py", "hdf5plugin")),
    "h5-zstd": Form(".h5", _hdf5(shuffle=True, plugin=_plugin("Zstd", clevel=3)), ("h5py", "hdf5plugin")),
    "zarr-raw": Form(".zarr", _zarr(lambda: None), ("zarr",)),
    "zarr-blosc": Form(".zarr", _zarr(_zarr_blosc), ("zarr",)),
    "zarr-zstd": Form(".zarr", _zarr(_zarr_zstd), ("zarr",), EVERY),
    "zarr-sharded-zstd": Form(".zarr", _zarr(_zarr_zstd, sharded=True), ("zarr",)),
    "zarr-small-zstd": Form(".zarr", _zarr(_zarr_zstd, chunk=(1,)), ("zarr",)),
    "zarr-small-sharded-zstd": Form(".zarr", sharded_zstd(1), ("zarr",)),
    "zarr-tiles-zstd": Form(".zarr", _zarr(_zarr_zstd, chunk=(16, 3, 25, 25)), ("zarr",)),
}


def make_form(kind: Kind, name: str, directory: Path) -> Path:
    """`array.npy` of the directory, stored in that form beside it; kept if it is there already."""
    form = FORMS[name]
    target = directory / f"{name}{form.suffix}"
    if not target.exists():
        partial = directory / f"{name}.partial{form.suffix}"
        remove(partial)
        form.write(directory / "array.npy", partial, kind)
        os.replace(partial, target)
    return target


def remove(path: Path) -> None:
    """A file or a directory, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
