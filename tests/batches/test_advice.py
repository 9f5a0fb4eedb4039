"""What the kernel is told of a pass stays inside of what the pass reads."""

from __future__ import annotations

import numpy as np
import pytest

import mmapstore as mm
from mmapstore.batches import advice
from mmapstore.readers.raw_reader import StoredRaw

FRAMES = 400


@pytest.fixture
def told(monkeypatch):
    """The samples that a mapped reader is told of, as they come."""
    found: list[tuple[str, int, int]] = []
    for what in ("will_need", "let_go"):
        monkeypatch.setattr(StoredRaw, what, lambda self, start, stop, what=what: found.append((what, start, stop)))
    return found


@pytest.mark.parametrize("fits", [True, False], ids=["fits in memory", "larger than memory"])
@pytest.mark.parametrize("group", [1, 4, 1000], ids=lambda group: f"groups of {group}")
@pytest.mark.parametrize("ours", [True, False], ids=["read", "gathered by others"])
def test_a_pass_over_a_part_asks_for_all_of_it_and_nothing_else(tmp_path, monkeypatch, told, fits, group, ours):
    monkeypatch.setattr(advice, "AHEAD_BYTES", 30 * 48)
    if not fits:
        monkeypatch.setattr(advice, "memory_available", lambda: 0)
    np.save(tmp_path / "x.npy", np.zeros((FRAMES, 3, 4), "f4"))
    train, validation, _ = mm.open(tmp_path / "x.npy").split(0.5, 0.3, 0.2)
    for part, first in ((train, 0), (validation, len(train))):
        step = 1 if ours else group
        b = part.batches(8, target=mm.NextFrame())
        told.clear()
        for batch in range(0, len(b), step):
            b.read(0, batch) if ours else b.grouped(lambda have, want: True).fetch(0, batch, step)
        needed = [number for what, start, stop in told if what == "will_need" for number in range(start, stop)]
        assert set(needed) == set(range(first, first + len(part)))
        assert len(needed) <= len(part) + len(b), "a frame is told of again only where it is the y of one run and the x of the next"
        gone = [number for what, start, stop in told if what == "let_go" for number in range(start, stop)]
        assert set(gone) <= set(needed)
        assert all(number < first + len(part) - 2 * 8 * step for number in gone) or ours, "the last two runs are in use"
        assert bool(gone) == (not fits and (ours or group < 10))
