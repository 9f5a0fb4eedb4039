"""What is measured, on how much of the data, and that it stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doctor_data import FAULTS, FEW_VALUES, RANDOM, SAMPLES, SOUND

from mmapstore.doctor import speeds
from mmapstore.doctor.frameworks import Frameworks
from mmapstore.doctor.subject import subject_of

KERAS = Frameworks({"keras": "3.15.1", "tensorflow-cpu": "2.21.0"})


@pytest.mark.parametrize("name", [*SOUND, *FAULTS])
def test_every_kind_of_file_can_be_measured(tmp_path: Path, name: str) -> None:
    path = SOUND[name](tmp_path) if name in SOUND else FAULTS[name][1](tmp_path)
    found = speeds.measured(subject_of(path, KERAS))
    assert found.copy > 0 and found.read is not None and found.read > 0 and found.batch is not None and found.batch > 0


class Counted:
    """Batches of which every one that is read is noted."""

    def __init__(self) -> None:
        self.read_ones: list[tuple[int, int]] = []

    def read(self, epoch: int, batch: int) -> Any:
        self.read_ones.append((epoch, batch))
        return np.ones((2, 3)), (np.ones(2), np.ones((0, 4)))


def test_the_loop_stops_at_its_end_and_at_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Counted()
    assert speeds._loop(batches, 3)[0] == 3
    assert batches.read_ones == [(0, 0), (0, 1), (0, 2)]
    monkeypatch.setattr(speeds, "_LOOP_SECONDS", 0.0)
    batches = Counted()
    assert speeds._loop(batches, 4)[0] == 1


def test_reading_stops_at_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", RANDOM)
    case = subject_of(str(tmp_path / "x.npy"), KERAS)
    runs: list[tuple[int, int]] = []
    read = type(case.reader).read
    monkeypatch.setattr("mmapstore.doctor.speeds.BLOCK_BYTES", 10 * RANDOM[0].nbytes)
    monkeypatch.setattr(type(case.reader), "read", lambda self, *run: (runs.append(run[:2]), read(self, *run))[1])
    speeds._read_speed(case)
    assert len(runs) == 16 and all(stop - start == 10 for start, stop in runs)  # 8 places, each twice
    assert (runs[0], runs[-1]) == ((0, 10), (SAMPLES - 10, SAMPLES))
    runs.clear()
    monkeypatch.setattr(speeds, "_READ_SECONDS", 0.0)
    speeds._read_speed(case)
    assert len(runs) == 2


def test_whole_chunks_are_what_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=FEW_VALUES, chunks=(60, 16, 16), compression="gzip")
    case = subject_of(str(tmp_path / "a.h5"), KERAS)
    ticks = iter(range(10**6))
    monkeypatch.setattr("mmapstore.doctor.speeds.BLOCK_BYTES", 4 * RANDOM[0].nbytes)
    monkeypatch.setattr("mmapstore.doctor.speeds._timed", lambda function, *run: (function(*run), float(next(ticks) * 0 + 1.0))[1])
    monkeypatch.setattr(speeds, "_READ_SECONDS", 1e9)
    found = speeds._read_speed(case)
    assert found is not None and found % (60 * RANDOM[0].nbytes) == 0  # a second for each run, and a run is whole chunks
