"""Ingest in regions by an engine: in any order, some of them twice, in processes that die, with the result of one process."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from image_examples import class_folders
from ingest_results import video
from PIL import Image
from test_engines import Silent, in_child

import mmapstore as mm
from mmapstore.cli import main
from mmapstore.files.stored_manifest import read_manifest
from mmapstore.operations.flow.target import Target
from mmapstore.operations.ingest import parts
from mmapstore.plain import digest_leaves
from mmapstore.plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError, StateMismatchError
from mmapstore.plain.manifest import ArrayManifest

SAMPLES = 300


@pytest.fixture(autouse=True)
def small_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 10 kB, regions of 30 kB and leaves of 14 kB: none ends where another does."""
    monkeypatch.setattr("mmapstore.operations.ingest.plan.BLOCK_NBYTES", 10_000)
    monkeypatch.setattr("mmapstore.plain.chunk_grid.USUAL_CHUNK_NBYTES", 3_000)
    monkeypatch.setattr(parts, "REGION_NBYTES", 30_000)
    monkeypatch.setattr(digest_leaves, "LEAF_NBYTES", 14_000)


class Shuffled:
    """An engine that does regions in any order, and some of them twice. It counts calls of `map`, and regions in each."""

    def __init__(self, seed: int = 0) -> None:
        self.random, self.regions = random.Random(seed), list[int]()

    def map(self, function: Callable[[int], Any], items: Iterable[int]) -> list[Any]:
        order = list(items)
        self.regions.append(len(order))
        order += order[:3]
        self.random.shuffle(order)
        return [function(item) for item in order]


def values() -> np.ndarray[Any, Any]:
    found = np.random.default_rng(0).normal(size=(SAMPLES, 3, 10, 8)).astype("f4")
    found[17, 1, 0] = np.nan
    return found


def npy(folder: Path) -> Any:
    np.save(folder / "a.npy", values().reshape(10, 30, 3, 10, 8))
    return str(folder / "a.npy"), {"source_layout": "NTCHW"}


def hdf5(folder: Path) -> Any:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("x", data=np.round(values() * 100), chunks=(7, 3, 10, 8), compression="gzip")[17, 1, 0] = 0
    return str(folder / "a.h5::/x"), {"layout": "NHWC", "dtype": "i2", "samples": 287}


def zarr_part(folder: Path) -> Any:
    zarr.create_array(folder / "a.zarr", data=values(), chunks=(11, 3, 10, 8))
    return mm.open(folder / "a.zarr").split(0.9, 0.1)[0], {}


def directory(folder: Path) -> Any:
    (folder / "many").mkdir()
    for number, (first, last) in enumerate([(0, 40), (40, 41), (41, 200), (200, SAMPLES)]):
        np.save(folder / "many" / f"{number}.npy", values()[first:last])
    return str(folder / "many"), {}


def fields(folder: Path) -> Any:
    np.save(folder / "label.npy", np.arange(SAMPLES) % 7)
    return {"x": npy(folder)[0], "label": mm.open(folder / "label.npy")}, {"source_layout": {"x": "NTCHW"}}


def pictures(folder: Path) -> Any:
    classes = {"cat": ["chelsea.png"] * 20, "dog": ["coffee.png", "rocket.jpg"] * 12}
    return str(class_folders(folder / "pictures", classes, (30, 20))), {"order": "mixed", "seed": 4}


def results(path: Path) -> dict[str, ArrayManifest]:
    return dict(read_manifest(Target.of(path, path.suffix == "" or path.name.startswith("several")).manifest_path).fields)


@pytest.mark.parametrize(
    ("source", "out"),
    [
        (npy, "x.npy"),
        (npy, "x.zarr"),
        (hdf5, "x.npy"),
        (hdf5, "x.zarr"),
        (zarr_part, "x.zarr::/a/b"),
        (directory, "x.npy"),
        (fields, "several"),
        (fields, "several.zarr"),
        (pictures, "several"),
        (pictures, "several.zarr::/group"),
    ],
)
def test_any_order_and_twice_is_what_one_process_writes(source: Callable[[Path], Any], out: str, tmp_path: Path) -> None:
    given, options = source(tmp_path)
    if "zarr" in out:
        options = {**options, "compression": "zstd"}
    (tmp_path / "one").mkdir()
    told: list[tuple[int, int | None]] = []
    engine = Shuffled()
    path = mm.ingest(given, tmp_path / out, engine=engine, progress=lambda *at: told.append(at), **options)
    one = mm.ingest(given, tmp_path / "one" / out, progress=False, **options)
    file = out.partition("::")[0]
    found, expected = results(tmp_path / file), results(tmp_path / "one" / file)
    assert engine.regions[0] > 2 and engine.regions[1] == engine.regions[0] - 1
    assert told[-1] == (len(mm.open(one)), len(mm.open(one)))
    assert found.keys() == expected.keys()
    for name, entry in expected.items():
        memory = found[name].provenance.pop("memory")
        assert 0 < memory["peak_bytes"] < 2**30 and memory["predicted_bytes"] > 2**20
        np.testing.assert_equal(
            dataclasses.replace(found[name], statistics=None).__dict__, dataclasses.replace(entry, statistics=None).__dict__
        )
        assert (found[name].statistics is None) is (entry.statistics is None)
        for key, figure in _figures(entry.statistics):
            np.testing.assert_allclose(dict(_figures(found[name].statistics))[key], figure, rtol=1e-9, atol=1e-9, err_msg=key)
    opened, other = mm.open(path), mm.open(one)
    for field in opened.fields:
        np.testing.assert_array_equal(
            opened[field][:] if len(opened.fields) > 1 else opened[:], other[field][:] if len(other.fields) > 1 else other[:]
        )
    assert mm.verify(path, progress=False) and not list(tmp_path.glob("*.partial*"))


def _figures(statistics: Any) -> list[tuple[str, Any]]:
    """Return the figures of a manifest by name, as arrays; statistics of differences among them."""
    found = dict(statistics or {})
    inner = found.pop("difference", {})
    pairs = [*found.items(), *((f"difference {name}", each) for name, each in inner.items())]
    return [(name, np.array(each, np.float64)) for name, each in pairs]


class Stops:
    """An engine that is stopped by hand before its fifth region, after `then` was called."""

    def __init__(self, then: Callable[[], None] = lambda: None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.then, self.error = then, error

    def map(self, function: Callable[[int], Any], items: Iterable[int]) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == 4:
                self.then()
                raise self.error
            yield function(item)


@pytest.mark.parametrize(("source", "out"), [(npy, "x.zarr"), (fields, "several")])
def test_a_call_that_was_stopped_goes_on(source: Callable[[Path], Any], out: str, tmp_path: Path) -> None:
    """Regions that have receipts are not done again; threads do not go on with regions, nor does another call."""
    given, options = source(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        mm.ingest(given, tmp_path / out, engine=Stops(), progress=False, **options)
    with pytest.raises(StateMismatchError, match=r"begun by another call: in regions '\w+', now None"):
        mm.ingest(given, tmp_path / out, progress=False, **options)
    with pytest.raises(StateMismatchError, match="begun by another call: samples None, now 200"):
        mm.ingest(given, tmp_path / out, progress=False, engine=Stops(), samples=200, **options)
    engine, told = Shuffled(), list[int]()
    path = mm.ingest(given, tmp_path / out, engine=engine, progress=lambda done, total: told.append(done), **options)
    assert engine.regions[0] == engine.regions[1] + 1 - 4 and told[0] > 0 and told[-1] == SAMPLES
    one = mm.ingest(given, tmp_path / f"one-{out}", progress=False, **options)
    assert {name: entry.sha256 for name, entry in results(Path(path)).items()} == {
        name: entry.sha256 for name, entry in results(Path(one)).items()
    }
    assert mm.verify(path, progress=False) and not list(tmp_path.glob("*.partial*"))


def test_a_source_that_changes_is_noticed(tmp_path: Path) -> None:
    given, options = npy(tmp_path)
    np.save(tmp_path / "other.npy", np.zeros((10, 30, 3, 10, 8), "f4"))

    def change() -> None:
        np.save(given, np.zeros((10, 30, 3, 10, 8), "f4"))
        parts._opened.cache_clear()  # as in another process

    class Changes(Shuffled):
        def map(self, function: Callable[[int], Any], items: Iterable[int]) -> list[Any]:
            change()
            return super().map(function, items)

    with pytest.raises(DamagedFileError, match=r"a\.npy was changed since its ingest was planned"):
        mm.ingest(given, tmp_path / "x.npy", engine=Changes(), progress=False, **options)
    assert not list(tmp_path.glob("x.*"))


def test_a_source_that_changes_after_it_was_read(tmp_path: Path) -> None:
    given, options = npy(tmp_path)

    class Changes(Shuffled):
        def map(self, function: Callable[[int], Any], items: Iterable[int]) -> list[Any]:
            found = super().map(function, items)
            if len(self.regions) == 2:
                os.utime(given, (1, 1))
            return found

    with pytest.raises(DamagedFileError, match=r"a\.npy was changed since its ingest was planned"):
        mm.ingest(given, tmp_path / "x.npy", engine=Changes(), progress=False, **options)
    assert not (tmp_path / "x.npy").exists()


def test_late_workers_in_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is published, or begun anew, is not touched, and what a killed process left in a store goes."""
    kept = list[Callable[[int], Any]]()

    class Elsewhere(Shuffled):
        def map(self, function: Callable[[int], Any], items: Iterable[int]) -> list[Any]:
            kept.append(function)
            (tmp_path / "a" / "x.zarr.partial" / "0.partial").touch()
            with contextlib.chdir(tmp_path):
                return super().map(function, items)

    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    npy(Path())
    path = mm.ingest("a.npy", "x.zarr", engine=Elsewhere(), progress=False, source_layout="NTCHW")
    assert mm.verify(path, progress=False) and not list(Path(path).glob("*.partial"))
    for _ in range(2):
        with pytest.raises(StateMismatchError, match="the call is late, and not needed"):
            kept[0](1)
        assert not list(Path().glob("x.zarr.partial*"))
        with pytest.raises(KeyboardInterrupt):
            mm.ingest("a.npy", "x.zarr", engine=Stops(), overwrite=True, progress=False, source_layout="NTCHW")
        with pytest.raises(StateMismatchError, match="the call is late, and not needed"):
            kept[0](1)
        mm.ingest("a.npy", "x.zarr", engine=Shuffled(), overwrite=True, progress=False, source_layout="NTCHW")


def test_regions_state_their_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A region takes no more private memory than is stated for it."""
    monkeypatch.undo()
    np.save(tmp_path / "a.npy", np.zeros((1 << 14, 3, 32, 32), "f4"))
    stated: list[tuple[int, int]] = []
    do_all = parts.do_all

    def counted(do: Any, plan: Any, regions: Any, part: Any, receipts: Any, engine: Any, memory: int, report: Any) -> None:
        do_all(do, plan, regions, part, receipts, engine, memory, report)
        stated.extend((each.peak_nbytes, memory) for each in parts.kept(receipts))

    monkeypatch.setattr(parts, "do_all", counted)
    mm.ingest(
        tmp_path / "a.npy",
        tmp_path / "x.zarr",
        compression="zstd",
        dtype="f8",
        engine=Shuffled(),
        max_memory="64MB",
        progress=False,
    )
    assert len(stated) > 2 and max(stated)[0] > 0 and all(peak <= memory <= 64_000_000 for peak, memory in stated)


def refused(tmp_path: Path) -> list[tuple[Any, dict[str, Any], str, str]]:
    given, _ = npy(tmp_path)
    broken = class_folders(tmp_path / "photos", {"cat": ["chelsea.png"] * 2}, (30, 20))
    np.savez(tmp_path / "a.npz", np.zeros((5, 3)))
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "masks" / "1.png")
    return [
        (values(), {}, "x.npy", "is a ndarray; other processes open files"),
        (np.load(given, mmap_mode="r"), {}, "x.npy", "is a memmap; other processes open files"),
        (iter(values()), {}, "x.npy", "is a iterator; other processes open files"),
        ({"x": given, "y": [1, 2]}, {}, "x", "source of 'y' is a list; other processes open files"),
        (mm.open(values()), {}, "x.npy", "is in the memory of this process"),
        (str(tmp_path / "a.npz"), {}, "x.npy", "gives its samples from the first on"),
        (video("bikes.mp4"), {}, "x.npy", "gives its samples from the first on"),
        (mm.Images(broken, skip_broken=True), {}, "x", "skips files"),
        (mm.Images(broken / "cat", masks=tmp_path / "masks", unmatched="skip"), {}, "x", "skips files"),
        (given, {"append": True}, "x.npy", "append=True needs engine='threads'"),
        (given, {}, "x.h5", "cannot be written in parts: HDF5 has one writer at a time. Write to .npy or .zarr, or"),
    ]


def test_what_workers_cannot_do_is_refused_before_any_work(tmp_path: Path) -> None:
    """The wet run and the dry one refuse the same, and leave nothing behind."""
    for source, options, out, words in refused(tmp_path):
        before = sorted(tmp_path.iterdir())
        for is_dry in (True, False):
            with pytest.raises((InvalidTypeError, InvalidValueError), match=words):
                mm.ingest(source, tmp_path / out, engine="processes", dry_run=is_dry, **options)
        assert sorted(tmp_path.iterdir()) == before
    for is_dry in (True, False):
        with pytest.raises(InvalidTypeError, match="engine='spark' is not understood"):
            mm.ingest(str(tmp_path / "a.npy"), tmp_path / "x.npy", engine="spark", dry_run=is_dry, source_layout="NTCHW")
    with pytest.raises(InvalidValueError, match="no result for"):
        mm.ingest(str(tmp_path / "a.npy"), tmp_path / "x.npy", engine=Silent([]), source_layout="NTCHW")
    assert not list(tmp_path.glob("x.*"))


WORKERS = """
import os
import signal
import sys
import mmapstore as mm
from mmapstore.operations.ingest import parts, plan

folder = sys.argv[1]
done = parts.do


def dies_once(each, number):
    try:
        os.close(os.open(f"{each.target.path}-{number}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return done(each, number)
    if number in (3, 7):
        os.kill(os.getpid(), signal.SIGKILL)
    return done(each, number)


if __name__ == "__main__":
    parts.do, parts.REGION_NBYTES, plan.BLOCK_NBYTES = dies_once, 500_000, 200_000
    mm.ingest(mm.Images(f"{folder}/photos", size=(64, 64)), f"{folder}/x", engine="processes", progress=False)
    parts.do = done
    import distributed

    options = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster):
        source = {"x": mm.open(f"{folder}/a.npy"), "n": f"{folder}/n.npy"}
        mm.ingest(source, f"{folder}/y.zarr", compression="zstd", engine="dask", progress=False)
"""


@pytest.mark.slow
def test_processes_that_die_and_dask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    photos = class_folders(tmp_path / "photos", {"cat": ["chelsea.png"] * 200, "dog": ["coffee.png"] * 250}, (80, 70))
    np.save(tmp_path / "a.npy", np.tile(values(), (4, 1, 1, 1)))
    np.save(tmp_path / "n.npy", np.arange(4 * SAMPLES))
    found = in_child(tmp_path, WORKERS, str(tmp_path))
    assert found.returncode == 0, found.stderr
    assert len(list(tmp_path.glob("x-*"))) > 5  # regions that were begun
    mm.ingest(mm.Images(photos, size=(64, 64)), tmp_path / "one", progress=False)
    sums = [{name: entry.sha256 for name, entry in results(tmp_path / out).items()} for out in ("x", "one")]
    assert sums[0] == sums[1] and len(sums[0]) == 3
    assert mm.verify(tmp_path / "x", progress=False) and mm.verify(tmp_path / "y.zarr", progress=False)
    np.testing.assert_array_equal(mm.open(tmp_path / "y.zarr")["n"][:], np.arange(4 * SAMPLES))
    np.testing.assert_array_equal(mm.open(tmp_path / "y.zarr")["x"][:], np.load(tmp_path / "a.npy"))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", values())
    assert main(["ingest", str(tmp_path / "a.npy"), str(tmp_path / "x.npy"), "--engine", "dask"]) == 2
    assert "--engine dask and --scheduler ADDRESS go together" in capsys.readouterr().err
    options = ["--engine", "processes", "--max-pixels", "9"]
    assert main(["ingest", str(tmp_path / "a.npy"), str(tmp_path / "x.npy"), *options]) == 2
    assert "--max-pixels is a setting of this process" in capsys.readouterr().err
    assert main(["ingest", str(tmp_path / "a.npy"), str(tmp_path / "x.npy"), "--engine", "processes", "--dry-run"]) == 0
    assert "x.npy would hold 300 x" in capsys.readouterr().out
