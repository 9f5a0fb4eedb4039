"""One seed gives the same batches, bit for bit, however the array is stored."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from formats import STORED, Stored

import mmapstore as mm
from mmapstore.plain.nests import leaves

FRAMES = np.random.default_rng(3).random((61, 3, 4, 5)).astype("f4")
FRAMES[7, 0, 0, :3] = [np.nan, np.inf, -0.0]

PLANS = {
    "in order": {"target": mm.NextFrame()},
    "shuffled throughout": {"target": mm.NextFrame(), "shuffle": True, "seed": 3},
    "shuffled in windows": {"target": mm.NextFrame(), "shuffle": 10, "seed": 5},
    "windows in order": {"target": mm.Window(3, 2, lead=2, sampling_rate=2)},
    "windows shuffled": {"target": mm.Window(3, 2, lead=-3, sampling_rate=2, stride=3), "shuffle": 8},
    "a shard, last batch dropped": {"target": mm.NextFrame(2), "shuffle": 10, "shard": (1, 3), "drop_last": True},
    "other dtype and layout": {"target": mm.NextFrame(), "shuffle": 10, "dtype": "f2", "layout": "NHWC"},
    "x alone, in order, other layout": {"layout": "NHWC"},
}


def bits(array: np.ndarray) -> bytes:
    return f"{array.shape} {array.dtype.str}".encode() + np.ascontiguousarray(array).tobytes()


HOLES = np.random.default_rng(4).random(61) < 0.7  # a selection with holes
HOLES[:20] = True


def digest(ds: mm.Dataset, plan: str, epochs: int = 2) -> list[bytes]:
    """Two epochs of every batch, as bytes."""
    b = ds.batches(9, **PLANS[plan])
    batches = [b.read(epoch, number) for epoch in range(epochs) for number in range(len(b))]
    return [b"|".join(map(bits, leaves(made))) for made in batches]


@pytest.fixture(scope="module")
def expected():
    ds = mm.open(FRAMES)
    return {plan: digest(ds, plan) for plan in PLANS}


@pytest.fixture(scope="module")
def expected_of_selection():
    ds = mm.open(FRAMES).select(HOLES)
    return {
        plan: digest(ds, plan)
        for plan in ("in order", "shuffled in windows", "windows in order", "x alone, in order, other layout")
    }


def test_the_plans_differ(expected):
    assert len({tuple(found) for found in expected.values()}) == len(PLANS)


@pytest.mark.parametrize("stored", STORED, ids=lambda stored: stored.name)
def test_batches_do_not_depend_on_storage(tmp_path, stored: Stored, expected, expected_of_selection):
    with stored.open(tmp_path, FRAMES) as ds:
        assert (ds.shape, ds.dtype, ds.layout) == (FRAMES.shape, FRAMES.dtype, "NCHW")
        assert stored.place in repr(ds), repr(ds)
        assert ds.fingerprint() == mm.open(FRAMES).fingerprint()
        for plan in PLANS:
            assert digest(ds, plan) == expected[plan], plan
        assert bits(ds[:]) == bits(FRAMES)
        assert bits(ds[5:5]) == bits(FRAMES[5:5])
        assert bits(ds[[60, 0, 31, 13]]) == bits(FRAMES[[60, 0, 31, 13]])
        assert bits(ds[::2]) == bits(FRAMES[::2])
        held = ds.select(HOLES)
        for plan, found in expected_of_selection.items():
            assert digest(held, plan) == found, plan
        val = ds.split(0.5, 0.3, gap=2)[1]
        assert bits(val[:]) == bits(FRAMES[32 : 32 + len(val)])
        if stored.pickles:
            for plan in ("in order", "windows shuffled"):
                assert digest(pickle.loads(pickle.dumps(ds)), plan) == expected[plan]
        else:
            with pytest.raises(TypeError, match=r"cannot be (sent|pickled)|can't pickle|cannot pickle"):
                pickle.dumps(ds)


@pytest.mark.parametrize("stored", STORED, ids=lambda stored: stored.name)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 3, 2), (9, 2, 1, 7)])
def test_small_arrays(tmp_path, stored: Stored, shape):
    frames = np.arange(np.prod(shape), dtype="i2").reshape(shape)
    if stored.name.startswith("several"):
        frames = np.tile(frames, (61, 1, 1, 1))[:61]
    if "across rows" in stored.name or "split rows" in stored.name:
        frames = np.tile(frames, (8, 1, 2, 3))
    with stored.open(tmp_path, frames) as ds:
        assert bits(ds[:]) == bits(frames)
        b = ds.batches(4, target="data", shuffle=True)
        order = np.concatenate([x for x, _ in b])
        assert sorted(map(bits, order)) == sorted(map(bits, frames))
        assert all(bits(x) == bits(y) for x, y in b)


@pytest.mark.parametrize("dtype", ["?", "u1", ">i2", "<u4", ">i8", "<f2", ">f8"])
@pytest.mark.parametrize("name", [".npy", "HDF5 contiguous", "HDF5 gzip", "Zarr 3", "Zarr 3 zstd"])
def test_dtypes(tmp_path, name, dtype):
    stored = next(one for one in STORED if one.name == name)
    frames = (FRAMES[10:30] * 200).astype(dtype)
    native = frames.astype(frames.dtype.newbyteorder("="))
    with stored.open(tmp_path, frames) as ds:
        assert ds.dtype == native.dtype and ds.dtype.isnative
        for shuffle in (False, 8):
            x = ds.batches(20, shuffle=shuffle, seed=1)[0]
            assert bits(x) == bits(mm.open(native).batches(20, shuffle=shuffle, seed=1)[0])


LAYOUTS = ["NHWC", "NTHWC", "TNHWC", "NHCW", "HWNC", "WCHTN", "CHWT"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [".npy", "HDF5 contiguous", "HDF5 gzip", "Zarr 3", "ndarray"])
def test_samples_stored_in_another_order_are_delivered_as_asked(tmp_path, name, layout, expected):
    """Any stored order of axes, delivered as NCHW, gives the batches of an array that is stored so."""
    stored = next(one for one in STORED if one.name == name)
    shaped = FRAMES[None] if "T" in layout else FRAMES
    axes = "NTCHW" if "T" in layout else "NCHW"
    array = shaped.transpose([axes.index(letter) for letter in (layout if "N" in layout else layout + "N")])
    array = np.ascontiguousarray(array if "N" in layout else array[..., 0])
    source, options, close = stored.make(tmp_path, array)
    ds = mm.open(source, **{**options, "layout": layout})
    assert len(ds) == len(FRAMES) and ds.layout == "N" + "".join(letter for letter in layout if letter in "CHW")
    for plan in ("in order", "shuffled in windows", "windows in order", "windows shuffled", "other dtype and layout"):
        wanted = PLANS[plan]
        b = ds.batches(9, **{"layout": "NCHW", **wanted})
        found = [b"|".join(map(bits, b.read(epoch, number))) for epoch in range(2) for number in range(len(b))]
        assert found == expected[plan], plan
    del ds, b
    close()
