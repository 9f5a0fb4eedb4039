"""Data loaders of others: grain, mmap-ninja, xbatcher, insitubatch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .contract import Batch, Job, Opened, peer


@peer("grain", forms="npy", requires=("grain",), default=False)
def grain(job: Job) -> Opened:
    """A random-access source over the memory map; global shuffle; read threads and prefetch at grain's defaults."""
    import grain as library

    array = np.load(job.path, mmap_mode="r")

    class Source:
        def __len__(self) -> int:
            return job.anchors

        def __getitem__(self, index: Any) -> Any:
            return (array[index], array[index + 1]) if job.pairs else (array[index],)

    def epoch(number: int) -> Iterator[Batch]:
        data = library.MapDataset.source(Source())
        if job.shuffled:
            data = data.shuffle(seed=job.seed + number)
        return iter(data.to_iter_dataset().batch(job.kind.batch, drop_remainder=False))

    return Opened(epoch)


def _ninja(job: Job) -> Path:
    return job.path.with_suffix(".ninja")


def _write_ninja(job: Job) -> None:
    import mmap_ninja.numpy

    if not _ninja(job).exists():
        mmap_ninja.numpy.from_ndarray(_ninja(job), np.load(job.path, mmap_mode="r"))


@peer("mmap-ninja", forms="npy", requires=("mmap_ninja",), pip="mmap-ninja", default=False, prepare=_write_ninja)
def mmap_ninja(job: Job) -> Opened:
    """Its own copy of the array, opened as it says; the batches are by hand, as it makes none."""
    import mmap_ninja.numpy

    from .by_hand import _gathered, _sliced

    array = mmap_ninja.numpy.open_existing(_ninja(job))
    return Opened(lambda epoch: _gathered(array, job, epoch) if job.shuffled else _sliced(array, job))


@peer(
    "xbatcher",
    forms="zarr",
    accesses=("sequential", "next"),
    requires=("xbatcher", "xarray", "zarr"),
    pip="xbatcher",
    default=False,
)
def xbatcher(job: Job) -> Opened:
    """Two generators over lazily opened arrays, as its Keras loader takes them. It cannot shuffle."""
    import xarray
    import xbatcher as library

    stored = xarray.open_zarr(job.path, chunks=None, consolidated=False)[job.key]
    size = job.kind.batch
    dims = {name: size if name == "sample" else length for name, length in stored.sizes.items()}

    def epoch(number: int) -> Iterator[Batch]:
        parts = [stored[:-1], stored[1:]] if job.pairs else [stored]
        generators = [library.BatchGenerator(part, input_dims=dims) for part in parts]
        for batch in zip(*generators, strict=True):
            yield tuple(each.values for each in batch)
        rest = job.anchors % size
        if rest:  # it leaves a last batch that is not full out; the bytes of an epoch are to be the same for all
            yield tuple(part[-rest:].values for part in parts)

    return Opened(epoch)


@peer("insitubatch", forms="zarr", requires=("insitubatch",), pip='"insitubatch==0.2.*"', default=False, python=(3, 12))
def insitubatch(job: Job) -> Opened:
    """Its dataset as in its quickstart: pairs by `shift(1)`, the same window of chunks as the others, decoded chunks kept."""
    import insitubatch as library

    geometry = library.open_geometries(library.obstore_store(job.path.as_uri()), variables=[job.key])[job.key]
    geometries = {"x": geometry, "y": geometry.shift(1)} if job.pairs else {"x": geometry}
    window = job.kind.block * job.kind.blocks * job.kind.sample_nbytes
    data = library.InSituDataset(
        library.obstore_store(job.path.as_uri()),
        library.split_by_chunk(geometry, fractions=(1.0, 0.0, 0.0)),
        geometries=geometries,
        batch_size=job.kind.batch,
        block_chunks=max(1, job.kind.block * job.kind.blocks // geometry.sample_chunk_size),
        seed=job.seed,
        cache_budget_bytes=2 * job.kind.nbytes + 6 * window,  # all of it decoded, and the three windows of x and y it asks for
    )

    def epoch(number: int) -> Iterator[Batch]:
        data.set_epoch(number)
        for batch in data.train if job.shuffled else data.all:
            yield tuple(batch.arrays[name] for name in geometries)

    return Opened(epoch, close=data.close)
