"""Run as a program: DataLoaders over `to_torch()` with 0 and 2 workers, forked and spawned; says "all right" or fails."""

import pickle
import sys
from pathlib import Path

import numpy as np
from real_batches import real_batches

import mmapstore as mm


def numbers(x):
    return tuple(x[:, 0].int().tolist())


def alone(folder):
    return real_batches(folder, 43)


def mixed(folder):
    """As many batches, which are put together of samples of two sources."""
    return mm.mix([real_batches(folder, 13), real_batches(folder, 79)], [1, 2.4], within_batch=True)


WAYS = [{"num_workers": 0}] + [
    {"num_workers": 2, "multiprocessing_context": how, "persistent_workers": kept}
    for how, kept in (("fork", False), ("fork", True), ("spawn", True))
]


def check(made, ways):
    from torch.utils.data import DataLoader

    expected = [[tuple(x[:, 0].astype(int).tolist()) for x, _ in epoch] for epoch in [list(b) for b in [made()] * 4]]
    assert len({tuple(epoch) for epoch in expected}) == 4  # four orders
    for way in ways:
        b = made()
        loader = DataLoader(b.to_torch(), batch_size=None, **way)
        assert len(loader) == 11
        first = [(numbers(x), numbers(y - 0.5)) for x, y in loader]
        assert first == [(one, one) for one in expected[0]], way
        for step, (x, _) in enumerate(loader):  # broken off: the pass is begun again
            assert numbers(x) == expected[1][step], (way, step)
            if step == 1:
                break
        state = b.state_dict(step + 1)
        assert (state["epoch"], state["batch"]) == (1, 2), (way, state)
        del loader, x
        loader = DataLoader(b.to_torch(), batch_size=None, **way)
        assert [numbers(x) for x, _ in loader] == expected[1], way
        assert b.position == b.cursor.next == (2, 0), (way, b.position)
        resumed = made()
        resumed.load_state_dict(state)
        loader = DataLoader(resumed.to_torch(), batch_size=None, **way)
        assert [numbers(x) for x, _ in loader] == expected[1][2:], way
        assert [numbers(x) for x, _ in loader] == expected[2], way
        assert resumed.position == (3, 0)
    copy = pickle.loads(pickle.dumps(b))  # moves by itself
    list(copy)
    assert copy.position != b.position


def check_many(made):
    from torch.utils.data import DataLoader

    expected = [[numbers(x) for x, _ in epoch.to_torch()] for epoch in [made()] * 2]
    many = DataLoader(made().to_torch(), batch_size=None, num_workers=13)  # more than batches
    assert [[numbers(x) for x, _ in many] for _ in range(2)] == expected[:2]


def check_other_workers(folder):
    """A position of three workers is loaded before the loader begins, and by each pass's own workers."""
    from torch.utils.data import DataLoader

    state = real_batches(folder, 43, 2, shard=(0, 3)).state_at(1, 4)
    alone = real_batches(folder, 43)
    alone.load_state_dict(state)
    expected = [numbers(x) for x, _ in alone.to_torch()]
    assert sum(map(len, expected)) == 43 - 3 * 8
    for way in WAYS:
        b = real_batches(folder, 43)
        b.load_state_dict(state)
        assert [numbers(x) for x, _ in DataLoader(b.to_torch(), batch_size=None, **way)] == expected, way
        b = real_batches(folder, 43)
        loader = DataLoader(b.to_torch(), batch_size=None, **way)
        assert len(list(loader)) == 11
        b.load_state_dict(state)
        try:
            assert [numbers(x) for x, _ in loader] == expected and not way.get("persistent_workers"), way
        except mm.MmapstoreError as error:  # the order that other workers began did not reach these
            assert way["persistent_workers"] and "Load it before a DataLoader starts persistent workers" in str(error)


def main(folder):
    check_other_workers(folder)
    check(lambda: alone(folder), WAYS)
    check(lambda: mixed(folder), WAYS[1::2])
    check_many(lambda: alone(folder))
    x = next(iter(mm.open(np.arange(6.0).reshape(6, 1)).batches(4).to_torch()))
    x += 1  # a tensor of its own, not over the array
    try:
        next(iter(mm.open(np.array([b"a", b"b"])).batches(2).to_torch()))
    except mm.MmapstoreError as error:
        assert "torch has no tensors of text" in str(error)
    else:
        raise AssertionError("text was taken")
    print("all right")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
