"""One seed, one content: the same batches from every kind of storage, through every adapter."""

from __future__ import annotations

import hashlib
import importlib.util

import numpy as np
import pytest

import mmapstore as mm
from mmapstore.adapters.batch_shapes import with_tuples
from mmapstore.plain.nests import leaves

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
    """Of the structure and every byte of all parts of a batch, in order. Lists count as tuples, as TensorFlow has them."""
    seen = hashlib.sha256()
    for batch in batches:
        seen.update(str(with_tuples(batch)).encode())
        for array in leaves(batch):
            seen.update(np.ascontiguousarray(array))
    return seen.hexdigest()


def augmented(x, y, w, *, rng):
    return {"x": x["a"] + rng.random(x["a"].shape, "f4")}, [y["next"], y["later"]], w


NEST = {
    "inputs": {"a": "x", "b": ("x", ["x"])},
    "target": {"next": mm.NextFrame(), "later": mm.Window(None, 2, lead=3, sampling_rate=2), "same": ["x"]},
    "sample_weight": "x",
}
CONTENTS = {
    "nests and weights": NEST,
    "nests and weights, transformed": {**NEST, "transform": augmented, "transform_workers": 2},
}

# Installed by CI in one environment at least; TensorFlow alone is in all.
OTHERS = [name for name in ("torch", "jax") if importlib.util.find_spec(name) is not None]
MIXTURES = {"alone": None, "mixed batches": {}, "mixed samples": {"within_batch": True}}


def mixed(make, options):
    """Return the batches of `make`, alone or mixed with others of the same data in another order."""
    return make(seed=11) if options is None else mm.mix([make(seed=11), make(seed=12)], [2, 1], stop="all", seed=1, **options)


def through_all(name, made):
    """Return the digest of an epoch by each adapter."""
    return {
        (name, "loop"): digest(made()),
        (name, "to_keras"): digest(made().to_keras()),
        (name, "to_tf"): digest(made().to_tf().as_numpy_iterator()),
        (name, "to_tf generator"): digest(made().to_tf(method="generator").as_numpy_iterator()),
        **{(name, f"to_{other}"): digest(getattr(made(), f"to_{other}")()) for other in OTHERS},
    }


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("contents", CONTENTS)
def test_the_same_nests_from_every_store_through_every_adapter(tmp_path, shuffle, contents, mixture):
    found = {}
    for name in stores(tmp_path)[::2]:  # one of each format, two of them compressed

        def made(name=name, **seed):
            return mm.open({"x": f"{tmp_path}/{name}"}).batches(8, shuffle=shuffle, **seed, **CONTENTS[contents])

        found.update(through_all(name, lambda made=made: mixed(made, MIXTURES[mixture])))
    tf.compat.v1.reset_default_graph()
    assert len(found) == 3 * (4 + len(OTHERS)) and len(set(found.values())) == 1, found


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_same_bytes_from_every_store_through_every_adapter(tmp_path, shuffle):
    found = {}
    for name in stores(tmp_path):
        found.update(
            through_all(name, lambda name=name: mm.open(f"{tmp_path}/{name}").batches(8, mm.NextFrame(), shuffle=shuffle, seed=11))
        )
    tf.compat.v1.reset_default_graph()
    assert len(found) == 5 * (4 + len(OTHERS))
    assert len(set(found.values())) == 1, found
    if not shuffle:
        expected = digest((FRAMES[i : min(i + 8, 69)], FRAMES[i + 1 : min(i + 8, 69) + 1]) for i in range(0, 69, 8))
        assert found["frames.npy", "loop"] == expected
