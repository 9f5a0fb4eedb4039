"""torch's DataLoader: over `to_torch()`, and over a Dataset as one writes it around an array."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .by_hand import _hdf5_file
from .contract import Batch, Job, Opened, peer
from .ours import _batches, _dataset, _opened

_WORKERS: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": "fork"}


def _arrays(loader: Any) -> Iterator[Batch]:
    for batch in loader:
        tensors = batch if isinstance(batch, (tuple, list)) else (batch,)
        yield tuple(tensor.numpy() for tensor in tensors)
        del batch, tensors  # the buffers are lent


def _ours(job: Job, **workers: Any) -> Opened:
    from torch.utils.data import DataLoader

    ds = _dataset(job)
    batches = _batches(job, ds)
    opened = _opened(batches, ds)
    if workers:  # what each of them takes is in `batches.memory`, and what torch has queued is not
        opened.predicted = None
    loader = DataLoader(batches.to_torch(), batch_size=None, **workers)
    opened.epoch = lambda epoch: _arrays(loader)
    return opened


@peer("mmapstore to_torch", requires=("torch",), default=False)
def mmapstore_to_torch(job: Job) -> Opened:
    """A DataLoader without workers."""
    return _ours(job)


@peer("mmapstore to_torch, 2 workers", requires=("torch",), default=False)
def mmapstore_to_torch_workers(job: Job) -> Opened:
    """A DataLoader with two forked workers."""
    return _ours(job, **_WORKERS)


class _Samples:
    """A map-style Dataset of samples, or pairs by one slice; its array is opened in each worker."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.array: Any = None

    def __len__(self) -> int:
        return self.job.anchors

    def slice_of(self, start: int, stop: int) -> Any:
        import torch

        job = self.job
        if self.array is None:
            if job.form == "npy":
                self.array = np.load(job.path, mmap_mode="r")
            elif job.form.startswith("h5"):
                self.array = _hdf5_file(job)[job.key]
            else:
                import zarr

                self.array = zarr.open_group(job.path, mode="r")[job.key]
        return torch.from_numpy(np.array(self.array[start : stop + job.pairs]))

    def __getitem__(self, index: int) -> Any:
        return tuple(self.slice_of(index, index + 1))


class _Slices(_Samples):
    """The same, with one slice for the indices of a batch."""

    def __getitems__(self, indices: list[int]) -> Any:
        samples = self.slice_of(indices[0], indices[-1] + 1)
        return (samples[:-1], samples[1:]) if self.job.pairs else (samples,)


@peer("torch Dataset, 2 workers", requires=("torch",), default=False)
def torch_dataset(job: Job) -> Opened:
    """A map-style Dataset of samples and two forked workers; the DataLoader shuffles and stacks."""
    import torch
    from torch.utils.data import DataLoader

    def epoch(number: int) -> Iterator[Batch]:
        torch.manual_seed(job.seed + number)
        return _arrays(DataLoader(_Samples(job), batch_size=job.kind.batch, shuffle=job.shuffled, **_WORKERS))

    return Opened(epoch)


@peer("torch Dataset by slices, 2 workers", accesses=("sequential", "next"), requires=("torch",), default=False)
def torch_dataset_slices(job: Job) -> Opened:
    """The same in stored order, with one slice for each batch; x and y look at the same tensor."""
    from torch.utils.data import DataLoader

    loader = DataLoader(_Slices(job), batch_size=job.kind.batch, collate_fn=lambda made: made, **_WORKERS)
    return Opened(lambda epoch: _arrays(loader))
