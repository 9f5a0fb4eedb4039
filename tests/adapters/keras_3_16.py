"""The adapter of Keras 3.16 for a PyDataset, as of keras#23044: under a distribution it deals out batches among workers."""

from __future__ import annotations

import random

from keras.src.trainers.data_adapters import py_dataset_adapter


class PyDatasetAdapter(py_dataset_adapter.PyDatasetAdapter):
    shard = (0, 1)
    _epoch = 0

    def _finite_generator(self):
        index, count = self.shard
        num_batches = self.py_dataset.num_batches
        indices = list(range(num_batches))
        if self.shuffle:
            random.Random(self._epoch).shuffle(indices)
        for i in range(index, num_batches, count):
            yield self._standardize_batch(self.py_dataset[indices[i]])

    def on_epoch_end(self):
        super().on_epoch_end()
        self._epoch += 1

    @property
    def num_batches(self):
        index, count = self.shard
        return (self.py_dataset.num_batches - index + count - 1) // count
