"""The dry run: what it tells, and that nothing is left of it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingest_results import frames

from mmapstore.operations.ingest import Estimate, estimate, ingest
from mmapstore.operations.ingest.estimate import IngestCost
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError, MemoryBudgetError, NotFoundError, TargetExistsError
from mmapstore.plain.memory_budget import MemoryPlan


@pytest.mark.parametrize("out, compression", [("x.npy", None), ("x.h5", "gzip"), ("x.zarr", "zstd"), ("store", None)])
def test_figures_of_a_small_source(tmp_path: Path, out: str, compression: str | None) -> None:
    source: Any = {"image": frames(40), "label": np.arange(40)} if out == "store" else frames(40)
    found = ingest(source, tmp_path / out, dry_run=True, compression=compression, dtype=None if out == "store" else "f4")
    assert found.samples == found.measured_samples == 40
    assert found.nbytes == (40 * 98 if out == "store" else 40 * 360)
    assert found.seconds is not None and found.seconds > 0
    assert found.memory.total > 1_000_000 and found.free_nbytes > 0
    assert list(found.fields) == (["image", "label"] if out == "store" else ["data"])
    assert os.listdir(tmp_path) == []


def test_a_slow_source_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        shape, dtype = (10_000, 1000), np.dtype("u1")
        read = 0

        def __getitem__(self, selection: tuple[slice, ...]) -> np.ndarray[Any, Any]:
            time.sleep(0.02)
            self.read += 1
            return np.zeros((selection[0].stop - selection[0].start, 1000), np.uint8)

    monkeypatch.setattr(estimate, "_SECONDS", 0.01)
    source = Slow()
    found = ingest(source, tmp_path / "x.npy", dry_run=True)
    assert found.measured_samples < 10_000 == found.samples
    assert found.nbytes == 10_000_000
    assert source.read < 10


def test_length_that_shows_at_the_end(tmp_path: Path) -> None:
    class Blocks:
        def __iter__(self) -> Any:
            return iter([frames(7), frames(9)])

    found = ingest(Blocks(), tmp_path / "x.npy", source_layout="NHWC", dry_run=True, epochs=3)
    assert (found.samples, found.nbytes, found.seconds, found.cost) == (None, None, None, None)
    assert "this source shows at its end alone" in str(found)
    assert found.to_json()["samples"] is None


def test_what_cannot_be_estimated(tmp_path: Path) -> None:
    np.save(tmp_path / "there.npy", frames(3))
    generator = iter(frames(3))
    for source, out, options, error, text in [
        (generator, "x.npy", {}, InvalidTypeError, "gives its samples once: a dry run would use some up"),
        ({"a": frames(3), "b": iter([1, 2, 3])}, "store", {}, InvalidTypeError, r"\(field 'b'\) is a list_iterator"),
        (frames(3), "there.npy", {}, TargetExistsError, "exists. Pass overwrite=True"),
        (frames(3), "no.npy", {"append": True}, NotFoundError, "does not exist"),
        (frames(3), "x.npy", {"max_memory": "1MB"}, MemoryBudgetError, "would need"),
        (frames(3), "x.npy", {"epochs": 0}, InvalidValueError, "epochs=0 is too small"),
        (frames(3), "x.npy", {"epochs": 2.5}, InvalidTypeError, "epochs=2.5 is not a whole number"),
        (frames(3), "x.npy", {"epochs": 2, "train_seconds": -1}, InvalidValueError, "is no duration"),
    ]:
        with pytest.raises(error, match=text):
            ingest(source, tmp_path / out, dry_run=True, **options)  # type: ignore[call-overload]
    assert len(list(generator)) == 3
    assert os.listdir(tmp_path) == ["there.npy"]


def test_whether_it_pays_is_said_in_words() -> None:
    cost = IngestCost(prepare=7 * 3600, ingest=7 * 3600, read=3600, train=1.5 * 3600)
    found = Estimate("x.npy", 100, {"data": ((3,), "uint8", "NC")}, 300, 150, 10**9, MemoryPlan({"a": 5}), 10, 7 * 3600, cost, 15)
    text = str(found)
    assert "15 epochs: 127.5 h from the source each time, 44.5 h with ingesting once" in text
    assert text.endswith("it pays: ingesting takes less time in all from epoch 2 on")
    assert "300 B, 150 B on disk (1.00 GB free there), in about 7 h" in text
    assert found.to_json()["pays_from_epoch"] == 2
    once = IngestCost(prepare=1, ingest=3, read=0.5)
    assert (once.pays_from, once.from_source(7) > once.from_store(7), once.from_source(6) > once.from_store(6)) == (7, True, False)
