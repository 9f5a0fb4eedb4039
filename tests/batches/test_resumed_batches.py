"""Positions that one number of workers saved, and another goes on from: each sample once, whatever is asked for."""

from __future__ import annotations

import copy
import itertools
import json
from collections import Counter

import h5py
import numpy as np
import pytest
import zarr

import mmapstore as mm
from mmapstore.plain.errors import MemoryBudgetError, OutOfRangeError, StateMismatchError

SAMPLES = 403
FRAMES = np.arange(SAMPLES * 50, dtype="i4").reshape(SAMPLES, 1, 5, 10)
CLASSES = (np.random.default_rng(0).random(SAMPLES) < 0.2).astype("i8")
EPOCH = 2


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    np.save(folder / "x.npy", FRAMES)
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("data", data=FRAMES, chunks=(7, 1, 5, 10), compression="gzip")
    zarr.create_array(str(folder / "x.zarr"), data=FRAMES, chunks=(16, 1, 5, 5))
    return {"npy": folder / "x.npy", "hdf5": folder / "x.h5", "zarr": folder / "x.zarr"}


def made(path, kind: str, batch_size: int, worker: int = 0, workers: int = 1, **options):
    ds = mm.open({"x": path, "label": CLASSES})
    if kind == "selection":
        ds = ds.select(np.arange(0, SAMPLES, 3))
    if kind == "balance":
        options |= {"balance": "label"}
    if kind == "windows":
        options |= {"target": mm.Window(history=3, horizon=2)}
    return ds.batches(batch_size, inputs="x", shard=(worker, workers), seed=5, **{"target": None, **options})


def first_samples(batch) -> list[int]:
    """The sample at which each window of a batch begins, by its first value."""
    x = batch[0] if isinstance(batch, tuple) else batch
    return (x.reshape(len(x), -1)[:, 0] // 50).tolist()


@pytest.mark.parametrize("shuffle", [False, 40, True])
@pytest.mark.parametrize("kind", ["samples", "windows", "selection", "balance"])
@pytest.mark.parametrize("form", ["npy", "hdf5", "zarr"])
def test_each_sample_is_seen_once_by_ever_other_numbers_of_workers(stores, form, kind, shuffle):
    state, seen = None, []
    for workers, batch_size, taken in ((4, 6, 3), (2, 9, 1), (8, 1, 4), (3, 4, None)):
        every = [made(stores[form], kind, batch_size, worker, workers, shuffle=shuffle) for worker in range(workers)]
        states = []
        for batches in every:
            if state is None:
                batches.cursor.move_to(EPOCH, 0)
            else:
                batches.load_state_dict(state)
            assert batches.position[0] == EPOCH
            for batch in itertools.islice(batches, taken):
                seen += first_samples(batch)
            states.append(json.loads(json.dumps(batches.state_dict())))
        assert all(len(json.dumps(one)) < 1000 for one in states)
        state = states[workers // 2]  # any worker's
        left_out = every[0].left_out(EPOCH).tolist()
    assert batches.position == (EPOCH + 1, 0) and len(left_out) < 3
    alone = made(stores[form], kind, 10, shuffle=shuffle)
    alone.cursor.move_to(EPOCH, 0)
    assert Counter([*seen, *left_out]) == Counter(sample for batch in alone for sample in first_samples(batch))
    # The next epoch is a whole one.
    fresh = made(stores[form], kind, 4, 2, 3, shuffle=shuffle)
    fresh.cursor.move_to(EPOCH + 1, 0)
    assert [first_samples(batch) for batch in batches] == [first_samples(batch) for batch in fresh]


def test_the_same_worker_goes_on_with_its_own_shard_in_batches_of_another_size(stores):
    batches = made(stores["npy"], "samples", 10, 1, 3, shuffle=50)
    samples = [sample for batch in batches for sample in first_samples(batch)]
    state = batches.state_at(0, 4)
    other = made(stores["npy"], "samples", 25, 1, 3, shuffle=50)
    other.load_state_dict(state)
    rest = [first_samples(batch) for batch in other]
    assert [len(batch) for batch in rest] == [25, 25, 25, 19] and [*itertools.chain(*rest)] == samples[40:]


def test_a_rest_is_counted_up_to_the_last_batch(stores):
    batches = made(stores["npy"], "samples", 10)
    batches.load_state_dict(made(stores["npy"], "samples", 10, 3, 4).state_at(1, 7))
    rest = SAMPLES - 4 * 70
    assert batches.position == (1, len(batches) - -(-rest // 10)) and not batches.all_full
    with pytest.raises(OutOfRangeError, match=r"no batch .* in epoch 1: other workers have seen the samples before batch"):
        batches.read(1, batches.position[1] - 1)
    dropping = made(stores["npy"], "samples", 10, drop_last=True)
    dropping.load_state_dict(batches.state_dict())
    assert [len(batch) for batch in dropping] == [10] * (rest // 10) and dropping.all_full
    # Where fewer samples are left than there are workers, nothing is; a finished epoch is finished for any number.
    few = [made(stores["npy"], "samples", 1, 0, workers) for workers in (2, 3, 200)]
    few[1].load_state_dict(few[0].state_at(0, 200))
    assert few[1].position == (0, 133) and len(list(few[1])) == 1
    few[2].load_state_dict(few[0].state_at(0, 200))
    assert few[2].position == (1, 0) and few[2].left_out(0).tolist() == [200, 401, 402]
    few[2].load_state_dict(few[0].state_at(0, 201))
    assert few[2].position == (1, 0)


@pytest.mark.parametrize(
    "before", [[[0, 1]], [[4, 101]], [[4, -1]], [[4]], 7], ids=["no workers", "too many", "negative", "no pair", "no list"]
)
def test_histories_that_cannot_be_are_refused(stores, before):
    batches = made(stores["npy"], "samples", 10)
    with pytest.raises(StateMismatchError, match="saved position"):
        batches.load_state_dict({**batches.state_at(0, 40), "before": before})


def test_a_rest_that_takes_more_memory_than_allowed_is_refused(stores):
    saved = made(stores["hdf5"], "samples", 1, 0, 1, shuffle=40).state_at(0, 1)
    batches = made(stores["hdf5"], "samples", 1, 0, 50, shuffle=40)  # 8 samples each
    whole = batches.memory.total
    batches.load_state_dict(saved)  # from windows of 40
    assert batches.memory.total > whole
    tight = made(stores["hdf5"], "samples", 1, 0, 50, shuffle=40, max_memory=batches.memory.total - 1)
    with pytest.raises(MemoryBudgetError, match="the rest of epoch 0"):
        tight.load_state_dict(saved)
    assert tight.position == (0, 0) and len(list(tight)) == len(tight), "a position that is refused changes nothing"


def test_copies_that_share_a_position_and_not_the_order_say_so(stores):
    state = made(stores["npy"], "samples", 6, 0, 4).state_at(EPOCH, 3)
    batches = made(stores["npy"], "samples", 8)
    shallow, deep = copy.copy(batches), copy.deepcopy(batches)
    shallow.load_state_dict(state)
    with pytest.raises(StateMismatchError, match="by another copy of these batches"):
        next(iter(batches))
    assert len(list(shallow)) == -(-(SAMPLES - 72) // 8) and len(list(deep)) == len(deep)
    shallow.load_state_dict(deep.state_at(5, 1))
    assert len(list(batches)) == len(batches) - 1, "whole epochs are known to all"


def test_mixtures_refuse_sources_that_were_begun_by_others(stores):
    sources = [made(stores["npy"], "samples", 8, transform=lambda x: x + 1) for _ in range(2)]
    mixture = mm.mix(sources, [1, 1])
    sources[1].load_state_dict(made(stores["npy"], "samples", 6, 0, 4, transform=lambda x: x + 1).state_at(0, 3))
    assert sources[1].kinds() == sources[0].kinds()
    with pytest.raises(StateMismatchError, match="a source of this mixture has loaded the position of other workers"):
        list(mixture)
