"""Real `Batches` over files, whose samples are filled with their own numbers."""

from __future__ import annotations

import numpy as np

import mmapstore as mm


def real_batches(folder, samples, batch_size=4, *, shape=(3,), shuffle=True, **more):
    """Batches of (x, y) from two .npy files; x is the number of the sample, y is x + 0.5."""
    x = np.broadcast_to(np.arange(samples, dtype=np.float32).reshape(-1, *[1] * len(shape)), (samples, *shape))
    for name, array in (("x", x), ("y", x + np.float32(0.5))):
        if not (folder / f"{name}{samples}.npy").exists():  # a file that is written again is another one for whoever has it open
            np.save(folder / f"{name}{samples}.npy", array)
    dataset = mm.open({name: str(folder / f"{name}{samples}.npy") for name in "xy"})
    return dataset.batches(batch_size, target="y", shuffle=shuffle, **more)
