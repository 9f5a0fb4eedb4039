"""`Batches` as a torch IterableDataset, for a DataLoader with any number of workers and for plain loops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..batches.look_ahead import LookAhead
from ..files.lent_buffers import LentBuffers
from ..plain.errors import InvalidTypeError, MissingPackageError
from ..plain.nests import map_leaves

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError as error:
    raise MissingPackageError(f"to_torch() needs PyTorch, and importing it failed: {error}. Install torch.") from error

if TYPE_CHECKING:
    from ..batches.batch_epochs import BatchEpochs


class TorchDataset(IterableDataset):  # type: ignore[misc]
    """Batches of tensors, for `DataLoader(dataset, batch_size=None, num_workers=n, pin_memory=True)`, forked or spawned.

    Made by `Batches.to_torch()`. Elements are x, (x, y) or (x, y, w) of the batches, in the same order whatever the number of
    workers: worker w of n makes batches w, w + n, ... of the pass. Tensors look at the arrays that were read; arrays that are
    read-only are copied. `batch_size=None` keeps the DataLoader from stacking batches once more.

    Each pass follows and moves the position of the batches, and the next pass has the next order. Workers make batches ahead:
    with them `batches.state_dict(trained)` is exact in mid-epoch, `trained` being the batches taken from the loader in this pass,
    and `batches.state_dict()` stays at the beginning of the pass until its end. A pass that is broken off is begun again, unless
    no more than `prefetch_factor * num_workers` of its batches were left. Each worker takes the memory of `batches.memory`, and
    decodes compressed data for itself: workers pay where `transform=` holds Python's lock. Elsewhere `num_workers=0` is faster:
    batches are read and decoded in threads. Pairs of frames in sequential order are copied, for torch has no read-only tensors.

    Raises
    ------
    InvalidTypeError : while iterating, text: torch has no tensors of it
    MissingPackageError : torch is not installed

    Example
    -------
        loader = torch.utils.data.DataLoader(b.to_torch(), batch_size=None, num_workers=2)
        for epoch in range(10):
            for step, (x, y) in enumerate(loader):
                train_on(x, y)
                state = b.state_dict(step + 1)
    """

    def __init__(self, batches: BatchEpochs) -> None:
        super().__init__()
        self.batches = batches
        batches.cursor.share()
        self._passes = 0
        self._buffers = LentBuffers()  # of copies: fresh memory takes three times as long to fill

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        return map(self._tensors, iter(self.batches) if worker is None else self._share_of(worker))

    def _share_of(self, worker: Any) -> Iterator[Any]:
        """Yield the batches of one worker of a DataLoader."""
        # The seed without the worker's number is that of one iterator of the loader, or of several where workers persist.
        self._passes += 1
        walk = self.batches.cursor.begin_shared((worker.seed - worker.id + self._passes) % 2**63)
        epoch, first = walk.first
        numbers = range(first + worker.id, len(self.batches), worker.num_workers)
        ahead: LookAhead[int, tuple[Any, ...]] = LookAhead(
            lambda batch: self.batches.begin(epoch, batch), self.batches.transform_workers
        )
        try:
            for at, batch in enumerate(numbers):
                made = [ahead.get(batch, numbers[at + 1 :])]
                yield made[0][0] if len(made[0]) == 1 else made.pop()
        finally:
            ahead.close()
        if (len(walk) - 1) % worker.num_workers == worker.id:
            walk.complete()  # asked for more behind the last batch: the batches before it were asked for earlier

    def _tensors(self, batch: Any) -> Any:
        return map_leaves(self._tensor, batch)

    def _tensor(self, array: Any) -> Any:
        if array.dtype.kind == "S":
            raise InvalidTypeError(
                "batches hold text, and torch has no tensors of text. Make numbers of it in transform=, with a tokeniser; or leave "
                "the field out of inputs= and target=."
            )
        if not array.flags.writeable:
            out = self._buffers.lend(array.shape, array.dtype)
            np.copyto(out, array)
            array = out
        return torch.from_numpy(array)
