"""One seed, one content: the same batches from every kind of storage, through every adapter."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import mmapstore as mm

tf = pytest.importorskip("tensorflow")
FRAMES = np.random.default_rng(3).random((70, 3, 8, 8), dtype=np.float32)


def stores(folder):
    import h5py
    import zarr

    np.save(folder / "frames.npy", FRAMES)
    with h5py.File(folder / "frames.h5", "w") as file:
        file["contiguous"] = FRAMES
        file.create_dataset("chunked", data=FRAMES, chunks=(16, 3, 8, 8), compression="gzip", shuffle=True)
    for name, compressors in (("raw", None), ("compressed", "auto")):
        array = zarr.create_array(
            folder / f"{name}.zarr", shape=FRAMES.shape, chunks=(16, 3, 8, 8), dtype="f4", compressors=compressors
        )
        array[:] = FRAMES
    return ["frames.npy", "frames.h5::/contiguous", "frames.h5::/chunked", "raw.zarr", "compressed.zarr"]


def digest(batches):
    """Of every byte of x and y, in order."""
    seen = hashlib.sha256()
    for x, y in batches:
        seen.update(np.ascontiguousarray(x))
        seen.update(np.ascontiguousarray(y))
    return seen.hexdigest()


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_same_bytes_from_every_store_through_every_adapter(tmp_path, shuffle):
    found = {}
    for name in stores(tmp_path):

        def made(name=name):
            return mm.open(f"{tmp_path}/{name}").batches(8, mm.NextFrame(), shuffle=shuffle, seed=11)

        found[name, "loop"] = digest(made())
        found[name, "to_keras"] = digest(made().to_keras())
        found[name, "to_tf"] = digest(made().to_tf().as_numpy_iterator())
        found[name, "to_tf generator"] = digest(made().to_tf(method="generator").as_numpy_iterator())
    tf.compat.v1.reset_default_graph()
    assert len(found) == 5 * 4
    assert len(set(found.values())) == 1, found
    if not shuffle:
        expected = digest((FRAMES[i : min(i + 8, 69)], FRAMES[i + 1 : min(i + 8, 69) + 1]) for i in range(0, 69, 8))
        assert found["frames.npy", "loop"] == expected
