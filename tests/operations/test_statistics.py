"""`mmapstore stats`: the figures, and where they are taken from."""

from __future__ import annotations

import json
import os
import pickle
import random
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmapstore as mm
from mmapstore.cli import main
from mmapstore.operations import statistics
from mmapstore.operations.flow.regions import Regions
from mmapstore.operations.ingest import ingest
from mmapstore.operations.statistics import Pass, statistics_at
from mmapstore.operations.verify.regions import do, finish
from mmapstore.plain.channel_statistics import ChannelStatistics
from mmapstore.plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError, MemoryBudgetError
from mmapstore.plain.manifest import SUFFIX, ArrayManifest, Manifest


def frames(samples: int = 20) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(3, 2, (samples, 3, 6, 5)).astype(np.float32)


def checked(found: ChannelStatistics, channels: np.ndarray[Any, Any]) -> None:
    """`channels` is (channels, values)."""
    np.testing.assert_array_equal(found.count, [channels.shape[1]] * len(channels))
    np.testing.assert_allclose(found.mean, channels.mean(axis=1, dtype=np.float64), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.std, channels.std(axis=1, dtype=np.float64), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(found.minimum, channels.min(axis=1))
    np.testing.assert_array_equal(found.maximum, channels.max(axis=1))


def by_channel(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.moveaxis(array, 1, 0).reshape(array.shape[1], -1).astype(np.float64)


def test_values_and_changes(tmp_path: Path) -> None:
    array = frames()
    np.save(tmp_path / "x.npy", array)
    (found,) = statistics_at(tmp_path / "x.npy")
    checked(found.values, by_channel(array))
    changes = np.diff(array.astype(np.float64), axis=0)
    checked(found.differences, by_channel(changes))
    assert found.change == pytest.approx((changes**2).mean())
    assert (found.origin, found.samples, found.part) == ("computed from the data", (0, 20), "")


@given(st.integers(1, 30), st.integers(1, 5), st.sampled_from([40, 200, 100_000]))
def test_changes_stay_within_episodes(tmp_path: Path, episodes: int, length: int, block: int) -> None:
    array = np.random.default_rng(episodes).integers(-99, 99, (episodes, length, 2, 3)).astype(np.int16)
    np.save(tmp_path / "x.npy", array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmapstore.operations.statistics.BLOCK_NBYTES", block)
        (found,) = statistics_at(tmp_path / "x.npy", layout="NTHW")
    checked(found.values, array.reshape(1, -1))
    changes = np.diff(array.astype(np.int64), axis=1)
    assert found.differences.count.sum() == changes.size
    if changes.size:
        checked(found.differences, changes.reshape(1, -1))


def test_parts_know_nothing_of_each_other(tmp_path: Path) -> None:
    array = frames()
    array[12:] += 100
    np.save(tmp_path / "x.npy", array)
    found = statistics_at(tmp_path / "x.npy", split=(0.6, 0.2, 0.2))
    assert [(part.part, part.samples) for part in found] == [("train", (0, 12)), ("val", (12, 16)), ("test", (16, 20))]
    for part in found:
        own = array[slice(*part.samples)]
        checked(part.values, by_channel(own))
        checked(part.differences, by_channel(np.diff(own.astype(np.float64), axis=0)))


@given(
    episodes=st.integers(1, 4),
    length=st.integers(1, 9),
    dtype=st.sampled_from(["u1", "<i4", ">f4", "f8"]),
    nbytes=st.sampled_from([1, 100, 700, 10**6]),
    cut=st.integers(0, 36),
    chunk=st.sampled_from([None, 1, 4]),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=30)
def test_regions_in_any_order_and_more_than_once(
    tmp_path: Path, episodes: int, length: int, dtype: str, nbytes: int, cut: int, chunk: int | None, order: random.Random
) -> None:
    """Against NumPy over the whole array, and bit for bit against the same regions in their order."""
    array = np.random.default_rng(length).integers(0, 99, (episodes, length, 2, 3)).astype(dtype)
    path = str(tmp_path / "x.h5")
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=array, chunks=(chunk and min(chunk, episodes), length, 1, 3) if chunk else None)
    samples, parts = episodes * length, [(0, cut), (cut, episodes * length)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "REGION_NBYTES", nbytes)
        dataset = mm.open(path, layout="NTCW")
        passes = [Pass.of(dataset, path, "NTCW", "data", part, True, 10**8) for part in parts if part[0] < part[1] <= samples]
    found, again = [], []
    for each in passes:
        sent, count = pickle.dumps(each), len(each.regions)
        assert len(sent) < 10_000 and "dataset" not in vars(pickle.loads(sent))
        numbers = [*range(count), *order.choices(range(count), k=3)] if count else []
        order.shuffle(numbers)
        found.append(finish(each, [pickle.loads(pickle.dumps(do(pickle.loads(sent), number))) for number in numbers]))
        again.append(finish(each, [do(each, number) for number in range(count)]))
    flat = array.reshape(samples, 2, 3).astype(np.float64)
    starts = np.arange(samples) % length == 0
    for each, (values, differences), (same, alike) in zip(passes, found, again, strict=True):
        start, stop = each.regions.start, each.regions.stop
        checked(values, by_channel(flat[start:stop]))
        changes = np.diff(flat[start:stop], axis=0)[~starts[start + 1 : stop]]
        if len(changes):
            checked(differences, by_channel(changes))
        assert differences.count.sum() == changes.size
        assert (values.to_json(), differences.to_json()) == (same.to_json(), alike.to_json())


def test_a_plan_of_a_million_regions_is_small_and_a_changed_source_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "x.npy")
    plan = Pass(path, None, "data", (10**6, 1 << 28), "|u1", 1, True, Regions(0, 10**6, 1), 1, 0)
    assert plan.regions[999_999] == (999_999, 10**6) and len(pickle.dumps(plan)) < 1000
    np.save(path, frames())
    with pytest.raises(DamagedFileError, match="was changed since its statistics were planned"):
        do(plan, 5)


def described(
    path: Path, array: np.ndarray[Any, Any], statistics: dict[str, Any] | None, notes: dict[str, Any] | None = None
) -> Path:
    np.save(path, array)
    shape, letters = array.shape, "NCHW"[: array.ndim]
    entry = ArrayManifest(
        path.name, "", shape, array.dtype.str, letters, (0, len(array)), len(array), ("0",), statistics, notes=notes
    )
    Path(f"{path}{SUFFIX}").write_text(Manifest({"data": entry}).to_json())
    return path


def kept() -> dict[str, Any]:
    values, change = ChannelStatistics(), ChannelStatistics()
    values.update(np.full((4, 3), 7.0), 1)  # not what the data has: so it shows which was taken
    change.update(np.full((4, 3), 1.0), 1)
    return {**values.to_json(), "difference": change.to_json()}


def test_the_manifest_is_believed_unless_the_data_is_newer(tmp_path: Path) -> None:
    path = described(tmp_path / "x.npy", frames(), kept())
    (found,) = statistics_at(path)
    assert found.values.mean.tolist() == [7.0] * 3 and found.differences.mean.tolist() == [1.0] * 3
    assert found.origin == f"from {path}{SUFFIX}, written with the data"
    (found,) = statistics_at(path, recompute=True)
    checked(found.values, by_channel(frames()))
    later = Path(f"{path}{SUFFIX}").stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))
    (found,) = statistics_at(path)
    checked(found.values, by_channel(frames()))
    assert found.origin == "computed from the data, which was changed after its manifest was written"


@pytest.mark.parametrize(
    ("statistics", "why"),
    [
        (None, ""),
        ({"count": 3}, ": its manifest says nothing of how samples change"),
        ({**kept(), "mean": [1]}, ": what its manifest has is damaged"),
        ({**kept(), "difference": 3}, ": what its manifest has is damaged"),
    ],
)
def test_a_manifest_without_use(tmp_path: Path, statistics: dict[str, Any] | None, why: str) -> None:
    (found,) = statistics_at(described(tmp_path / "x.npy", frames(), statistics))
    checked(found.values, by_channel(frames()))
    assert found.origin == f"computed from the data{why}"


def test_keras_lines(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    array = frames()
    np.save(tmp_path / "x.npy", array)
    np.save(tmp_path / "y.npy", array[:, 0])
    for name, layer_input in (("x.npy", array), ("y.npy", array[:, 0])):
        (found,) = statistics_at(tmp_path / name)
        layer = eval(found.keras_line(), {"keras": keras})
        normal = np.asarray(layer(layer_input))
        assert normal.mean() == pytest.approx(0, abs=1e-4) and normal.std() == pytest.approx(1, abs=1e-4)
    np.save(tmp_path / "z.npy", np.full((3, 2, 2), np.inf, np.float32))
    assert statistics_at(tmp_path / "z.npy")[0].keras_line() == ""


@pytest.mark.parametrize("kind", ["text", "numbers"])
def test_labels_are_counted_and_have_no_change(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    label = np.repeat([b"cat", b"dog"] if kind == "text" else [0, 1], [30, 10])
    ingest({"image": frames(40), "label": label}, tmp_path / "pets")
    path = str(tmp_path / "pets")
    image, labels = statistics_at(path)
    assert image.differences.channels and not image.classes
    words = "label: 2 classes, cat 30, dog 10" if kind == "text" else "label: 2 classes, class 0 30, class 1 10"
    assert (labels.classes, labels.keras_line(), labels.differences.channels) == (words, "", 0)
    assert [part.classes for part in statistics_at(path, split=(0.75, 0.25)) if part.field == "label"] == [
        words.replace("10", "0"), words.replace("30", "0")
    ]  # fmt: skip
    assert main(["stats", path, "--recompute"]) == 0
    text = capsys.readouterr().out
    assert words in text and text.count("change to the next sample") == text.count("keras.layers") == 1


@pytest.mark.parametrize("recompute", [True, False])
def test_samples_in_mixed_order_have_no_change(tmp_path: Path, recompute: bool) -> None:
    path = described(tmp_path / "x.npy", frames(), kept(), {"order": [{"samples": 20, "order": "mixed", "seed": 0}]})
    (found,) = statistics_at(path, recompute=recompute)
    assert not found.differences.channels and found.change is None and found.to_json()["difference"] is None
    assert found.values.channels == 3


def test_refusals(tmp_path: Path) -> None:
    np.save(tmp_path / "text.npy", np.array([b"a", b"b"]))
    np.save(tmp_path / "x.npy", frames())
    with pytest.raises(InvalidTypeError, match="holds no numbers"):
        statistics_at(tmp_path / "text.npy")
    with pytest.raises(MemoryBudgetError, match="predicted peak = "):
        statistics_at(tmp_path / "x.npy", max_memory="1MB")
    with pytest.raises(InvalidValueError, match="add up to"):
        statistics_at(tmp_path / "x.npy", split=(0.6, 0.6))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    array = np.arange(6 * 40, dtype=np.uint8).reshape(6, 40)
    np.save(tmp_path / "x.npy", array)
    assert main(["stats", str(tmp_path / "x.npy")]) == 0
    text = capsys.readouterr().out
    assert "6 samples of (40,) uint8, NC; computed from the data" in text
    assert "and 24 more channels; --json prints all" in text
    assert "a model that predicts no change has a mean squared error of 1600" in text
    assert main(["stats", str(tmp_path / "x.npy"), "--split", "3,1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [part["samples"] for part in found] == [[0, 3], [3, 4]] and len(found[0]["values"]["mean"]) == 40
    assert main(["stats", str(tmp_path / "x.npy"), "--split", "half"]) == 2
