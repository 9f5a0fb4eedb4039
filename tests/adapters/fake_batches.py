"""A stand-in for `Batches`, in memory: the few methods that adapters call, with every read on record and errors on demand."""

from __future__ import annotations

import threading
import weakref

import numpy as np

from mmapstore.batches.cursor import Cursor


class FakeBatches:
    """`samples` samples of shape `shape`, each filled with its own number; y is x + 0.5 (or None).

    The order of epoch e is a rotation by e, so that orders differ and can be told from the numbers.
    """

    def __init__(
        self, samples, batch_size=4, *, shape=(3,), target=True, inputs=1, dtype="float32", shard=(0, 1), fail=None, position=(0, 0)
    ):
        self.samples, self.batch_size, self.shape, self.has_target = samples, batch_size, shape, target
        self.inputs, self.dtype, self.shard, self.fail = inputs, np.dtype(dtype), shard, fail
        self.takes_time, self.transform_workers, self.transform_name = True, 1, None
        self.cursor = Cursor(len(self))
        self.cursor.move_to(*position)
        self.reads: list[tuple[int, int]] = []
        self.addresses: set[int] = set()
        self.alive = self.most_alive = 0  # arrays
        self._lock = threading.Lock()

    def __len__(self):
        return -(-self.samples // self.batch_size)

    @property
    def all_full(self):
        return self.samples % self.batch_size == 0

    def order(self, epoch):
        return (np.arange(self.samples) + epoch) % self.samples

    def read(self, epoch, batch, *, aligned=False):
        with self._lock:
            self.reads.append((epoch, batch))
        if self.fail is not None:
            self.fail(epoch, batch)
        numbers = self.order(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size]
        x = self._filled(numbers, 0, aligned)
        if self.inputs > 1:
            x = tuple(self._filled(numbers, 0, aligned) for _ in range(self.inputs))
        return (x, self._filled(numbers, 0.5, aligned)) if self.has_target else (x,)

    def begin(self, epoch, batch, *, aligned=False):
        made = [self.read(epoch, batch, aligned=aligned)]
        return made.pop

    def named(self, epoch, batch):
        return f"batch {batch} of epoch {epoch}"

    def grouped(self, casts):
        return None

    def _filled(self, numbers, plus, aligned):
        count = len(numbers) * int(np.prod(self.shape))
        raw = np.empty(count * self.dtype.itemsize + 128, np.uint8)
        start = -raw.ctypes.data % 64 + (0 if aligned else self.dtype.itemsize)
        array = raw[start : start + count * self.dtype.itemsize].view(self.dtype).reshape(len(numbers), *self.shape)
        array[:] = (numbers + plus).reshape(-1, *[1] * len(self.shape))
        array.flags.writeable = False
        self.alive += 1
        self.most_alive = max(self.alive, self.most_alive)
        weakref.finalize(raw, self._died)
        self.addresses.add(array.ctypes.data)
        return array

    def _died(self):
        self.alive -= 1

    def state_at(self, epoch, batch):
        return {"epoch": epoch, "batch": batch, "fingerprint": "fake"}

    def state_dict(self, trained=None):
        return self.state_at(*(self.cursor.position if trained is None else self.cursor.after(trained)))

    def load_state_dict(self, state):
        self.cursor.move_to(state["epoch"], state["batch"])

    def __getstate__(self):
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock())

    def __repr__(self):
        return f"FakeBatches({self.samples} samples)"
