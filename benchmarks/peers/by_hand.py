"""Peers written by hand over NumPy and h5py, and arrays in RAM."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from .contract import Array, Batch, Job, Opened, block_windows, mixed, peer


def whole_array(job: Job) -> Array:
    """Everything in RAM, through the format's own library."""
    if job.form == "npy":
        return np.load(job.path)
    if job.form.startswith("h5"):
        with _hdf5_file(job) as file:
            return np.asarray(file[job.key][:])
    import zarr

    return np.asarray(zarr.open_group(job.path, mode="r")[job.key][:])


def _hdf5_file(job: Job, **options: Any) -> Any:
    import h5py

    if job.form not in ("h5-contiguous", "h5-gzip", "h5-lzf"):
        import hdf5plugin  # noqa: F401  registers its filters

    return h5py.File(job.path, "r", **options)


def _sliced(array: Any, job: Job) -> Iterator[Batch]:
    """One slice of the source for each batch; x and y are cut from it."""
    size = job.kind.batch
    for start in range(0, job.anchors, size):
        stop = min(start + size, job.anchors)
        if job.pairs:
            samples = array[start : stop + 1]
            yield samples[:-1], samples[1:]
        else:
            yield (array[start:stop],)


def _gathered(array: Array, job: Job, epoch: int) -> Iterator[Batch]:
    """Full shuffle: every batch gathered from all over the array."""
    order = np.random.default_rng([job.seed, epoch]).permutation(job.anchors)
    for start in range(0, job.anchors, job.kind.batch):
        chosen = order[start : start + job.kind.batch]
        yield array[chosen], array[chosen + 1]


def _sequence(array: Any, job: Job) -> Any:
    import keras

    class Samples(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return -(-job.anchors // job.kind.batch)

        def __getitem__(self, i: int) -> Any:
            start = i * job.kind.batch
            stop = min(start + job.kind.batch, job.anchors)
            samples = array[start : stop + 1]
            return samples[:-1], samples[1:]

    return Samples()


@peer("arrays in RAM")
def arrays_in_ram(job: Job) -> Opened:
    """The whole array loaded, then slices, or batches gathered from all over it."""
    array = whole_array(job)
    return Opened(lambda epoch: _gathered(array, job, epoch) if job.shuffled else _sliced(array, job))


@peer("memmap by hand", forms="npy", accesses=("sequential", "next", "shuffled", "fit"))
def memmap_by_hand(job: Job) -> Opened:
    """The six-line Sequence; shuffled, it gathers from all over the map."""
    array = np.load(job.path, mmap_mode="r")
    return Opened(
        lambda epoch: _gathered(array, job, epoch) if job.shuffled else _sliced(array, job), keras=lambda: _sequence(array, job)
    )


@peer("bare preadv, unmixed", forms="npy", accesses=("shuffled",), floor=True)
def bare_preadv(job: Job) -> Opened:
    """Nothing but preadv of blocks as long as ours, in random order, into one buffer; pairs come in stored order inside them."""
    from mmapstore.plain.sample_order import Shuffling

    kept = np.load(job.path, mmap_mode="r")
    assert isinstance(kept, np.memmap)
    offset, nbytes = kept.offset, job.kind.sample_nbytes
    del kept
    shuffling = Shuffling.of(job.kind.shuffle, nbytes)
    assert shuffling is not None
    block = shuffling.block
    descriptor = os.open(job.path, os.O_RDONLY)
    buffer = np.zeros((block + 1, *job.kind.shape), np.float32)

    def epoch(number: int) -> Iterator[Batch]:
        starts = np.arange(0, job.anchors, block)
        np.random.default_rng([job.seed, number]).shuffle(starts)
        for start in starts.tolist():
            samples = buffer[: min(block, job.anchors - start) + 1]
            if os.preadv(descriptor, [samples], offset + start * nbytes) != samples.nbytes:
                raise OSError("a short read")
            yield samples[:-1], samples[1:]

    return Opened(epoch, close=lambda: os.close(descriptor))


@peer("h5py slices", forms="h5", accesses=("sequential", "next"), requires=("h5py",))
def h5py_slices(job: Job) -> Opened:
    """`dataset[a:b]` for each batch, and nothing else."""
    file = _hdf5_file(job)
    return Opened(lambda epoch: _sliced(file[job.key], job), close=file.close)


def _cache_options(job: Job) -> dict[str, Any]:
    """HDF5's chunk cache made to hold a few chunks, as its documentation advises: no chunk is then decoded twice in order."""
    return {"rdcc_nbytes": max(64 * 2**20, 4 * job.kind.chunk * job.kind.sample_nbytes), "rdcc_nslots": 10_007}


@peer("h5py by hand", forms="h5", accesses=("sequential", "next", "shuffled", "fit"), requires=("h5py",))
def h5py_by_hand(job: Job) -> Opened:
    """A careful Sequence: chunk cache of 64 MiB. Shuffled, it reads windows of chunks and mixes each."""
    file = _hdf5_file(job, **_cache_options(job))
    stored = file[job.key]

    def shuffled(epoch: int) -> Iterator[Batch]:
        windows = ([stored[start : stop + 1] for start, stop in window] for window in block_windows(job, epoch))
        return mixed(windows, job, epoch)

    return Opened(
        lambda epoch: shuffled(epoch) if job.shuffled else _sliced(stored, job),
        keras=lambda: _sequence(stored, job),
        close=file.close,
    )
