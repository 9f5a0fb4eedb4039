"""mmapstore, as its README says."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .contract import Batch, Job, Opened, peer


def _dataset(job: Job) -> Any:
    import mmapstore as mm

    return mm.open(str(job.path), key=None if job.form == "npy" else job.key)


def _batches(job: Job, ds: Any = None) -> Any:
    import mmapstore as mm

    return (ds or _dataset(job)).batches(
        job.kind.batch,
        mm.NextFrame() if job.pairs else None,
        shuffle=job.kind.shuffle if job.shuffled else False,
        seed=job.seed,
        max_memory=job.max_memory,
    )


def _opened(batches: Any, ds: Any) -> Opened:
    readers = {reader.place for reader in ds.readers.values()}
    return Opened(predicted=batches.memory.total, words=", ".join(sorted(readers)))


def _as_tuple(batches: Any) -> Iterator[Batch]:
    for batch in batches:
        yield batch if isinstance(batch, tuple) else (batch,)
        del batch  # the buffer is lent


@peer("mmapstore")
def mmapstore(job: Job) -> Opened:
    """Iterating over the batches: NumPy arrays."""
    ds = _dataset(job)
    batches = _batches(job, ds)
    opened = _opened(batches, ds)
    opened.epoch = lambda epoch: _as_tuple(batches)
    return opened


@peer("mmapstore to_tf", accesses=("sequential", "next", "shuffled", "fit"), requires=("tensorflow",))
def mmapstore_to_tf(job: Job) -> Opened:
    """tf.data, as NumPy arrays that look at its tensors."""
    ds = _dataset(job)
    batches = _batches(job, ds)
    opened = _opened(batches, ds)
    data = batches.to_tf()
    opened.epoch = lambda epoch: _as_tuple(data.as_numpy_iterator())
    opened.keras = lambda: data
    return opened


@peer("mmapstore to_keras", accesses=("fit",), requires=("tensorflow", "keras"))
def mmapstore_to_keras(job: Job) -> Opened:
    ds = _dataset(job)
    batches = _batches(job, ds)
    opened = _opened(batches, ds)
    opened.keras = batches.to_keras
    return opened


@peer(
    "mmapstore .cache()",
    forms="h5-gzip h5-blosc-zstd h5-zstd h5-lzf zarr-blosc zarr-zstd zarr-sharded",
    accesses=("next", "shuffled"),
)
def mmapstore_cached(job: Job) -> Opened:
    """Decoded once, mapped from the second epoch on."""
    ds = _dataset(job)
    if not hasattr(ds, "cache"):
        raise NotImplementedError("this version of mmapstore has no Dataset.cache")
    directory = tempfile.TemporaryDirectory(prefix="mmapstore-cache-", dir=Path(job.path).parent)
    cached = ds.cache(directory.name, max_disk=2 * job.kind.nbytes)
    batches = _batches(job, cached)
    opened = _opened(batches, cached)
    opened.epoch = lambda epoch: _as_tuple(batches)
    opened.close = directory.cleanup
    return opened
