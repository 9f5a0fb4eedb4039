"""Zarr through zarr-python, with and without zarrs, through zarrista, and through tensorstore."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from .contract import Array, Batch, Job, Opened, block_windows, in_order, mixed, peer, slabs

_IN_FLIGHT = 4


def _slab(job: Job) -> int:
    """Samples of a read in stored order: about 8 chunks, so that there is something to do at once; at least one shard."""
    return job.kind.shard if "sharded" in job.form else 8 * job.kind.chunk


def _zarr_batches(stored: Any, job: Job, epoch: int) -> Iterator[Batch]:
    if not job.shuffled:
        return in_order(lambda _: (stored[a:b] for a, b in slabs(job.kind.samples, _slab(job))), job)
    windows = ([stored[start : stop + 1] for start, stop in window] for window in block_windows(job, epoch))
    return mixed(windows, job, epoch)


@peer("zarr-python", forms="zarr", requires=("zarr",))
def zarr_python(job: Job) -> Opened:
    """Slices of 8 chunks, which zarr-python reads concurrently; batches are cut from them."""
    import zarr

    stored = zarr.open_group(job.path, mode="r")[job.key]
    return Opened(lambda epoch: _zarr_batches(stored, job, epoch))


@peer("zarr-python, zarrs", forms="zarr", requires=("zarr", "zarrs"), pip="zarrs", default=False)
def zarrs_pipeline(job: Job) -> Opened:
    """The same with zarrs' codec pipeline, set as its README says."""
    import zarr

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    stored = zarr.open_group(job.path, mode="r")[job.key]
    return Opened(lambda epoch: _zarr_batches(stored, job, epoch))


@peer("zarrista", forms="zarr", requires=("zarrista",), default=False)
def zarrista(job: Job) -> Opened:
    """The same slices by zarrista, which decodes in threads of its own."""
    from zarrista import Array
    from zarrista.store import FilesystemStore

    array = Array.open(FilesystemStore(str(job.path)), path=f"/{job.key}")

    class Stored:
        def __getitem__(self, samples: slice) -> Any:
            return array[samples].to_numpy()

    return Opened(lambda epoch: _zarr_batches(Stored(), job, epoch))


@peer("tensorstore", forms="zarr", requires=("tensorstore",))
def tensorstore(job: Job) -> Opened:
    """Slices of 8 chunks, 4 of them in flight; shuffled, the blocks of the next window are in flight while one is consumed."""
    import tensorstore as ts

    stored = ts.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(job.path / job.key)}}, read=True, open=True
    ).result()

    def pipelined(epoch: int) -> Iterator[Array]:
        waiting: deque[Any] = deque()
        for start, stop in slabs(job.kind.samples, _slab(job)):
            waiting.append(stored[start:stop].read())
            if len(waiting) >= _IN_FLIGHT:
                yield np.asarray(waiting.popleft().result())
        while waiting:
            yield np.asarray(waiting.popleft().result())

    def windows(epoch: int) -> Iterator[list[Array]]:
        ahead: list[Any] | None = None
        for window in block_windows(job, epoch):
            asked = [stored[start : stop + 1].read() for start, stop in window]
            if ahead is not None:
                yield [np.asarray(future.result()) for future in ahead]
            ahead = asked
        if ahead is not None:
            yield [np.asarray(future.result()) for future in ahead]

    return Opened(lambda epoch: mixed(windows(epoch), job, epoch) if job.shuffled else in_order(pipelined, job))
