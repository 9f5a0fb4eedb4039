"""Journals of interrupted writes with other bytes in them, or made up by somebody: no wrong result, and no other file touched."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from mutations import all_mutations, sampled

import mmapstore as mm
from mmapstore.operations.convert.archives import JOURNAL, convert_directory
from mmapstore.operations.convert.tree import convert_all
from mmapstore.operations.flow import journal, slabs
from mmapstore.operations.flow.journal import journal_line
from mmapstore.operations.ingest import plan
from mmapstore.plain.errors import MmapstoreError

FRAMES = np.random.default_rng(0).integers(0, 255, (60, 3, 10, 8)).astype(np.uint8)
THOROUGH = "MMAPSTORE_THOROUGH" in os.environ
HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2.5, 10**6, 10**19, float("nan"), "", "x", "victim.npy", "../victim.npy", "\0", [], [None], [-1], {},
    {"a": 1},
)  # fmt: skip


SOURCES = ("source.h5", "archives")


class Stopped(Exception):
    pass


def stopping(done: int, total: Any = None) -> None:
    if done >= 30:
        raise Stopped


def ingested(folder: Path, **options: Any) -> None:
    mm.ingest(FRAMES, folder / "x.npy", layout=None, progress=options.pop("progress", False), **options)


def appended(folder: Path, **options: Any) -> None:
    if not (folder / "x.npy").exists():
        mm.ingest(FRAMES[:20], folder / "x.npy", layout=None)
    mm.ingest(FRAMES[20:], folder / "x.npy", append=True, progress=options.pop("progress", False), **options)


def fields(folder: Path, **options: Any) -> None:
    source = {"a": FRAMES, "b": np.arange(60)}
    mm.ingest(source, folder / "store", layout=None, progress=options.pop("progress", False), **options)


def converted(folder: Path, **options: Any) -> None:
    if not (folder / "source.h5").exists():
        with h5py.File(folder / "source.h5", "w") as file:
            file["x"] = FRAMES
    mm.convert(folder / "source.h5", folder / "x.npy", progress=options.pop("progress", False), **options)


def tree(folder: Path, **options: Any) -> None:
    if not (folder / "source.h5").exists():
        with h5py.File(folder / "source.h5", "w") as file:
            for part in range(4):
                file[f"{part}"] = FRAMES[part * 15 : part * 15 + 15]
    if "progress" in options:
        rows = iter(range(4))
        options["progress"] = lambda row: stopping(15 * next(rows))
    convert_all(folder / "source.h5", folder / "x.zarr", **{"progress": False, **options})


def directory(folder: Path, **options: Any) -> None:
    (folder / "archives").mkdir(exist_ok=True)
    for name in "ab":
        if not (folder / "archives" / f"{name}.npy").exists():
            np.save(folder / "archives" / f"{name}.npy", FRAMES)
    options.pop("progress", None)  # its journal stays: what was done is not done again
    convert_directory(folder / "archives", folder / "out", **{"progress": False, **options})


def tree_values(folder: Path) -> Any:
    return np.concatenate([zarr.open_array(folder / "x.zarr" / f"{part}", mode="r")[...] for part in range(4)])


# By name: (the call, where its journal is, what it writes).
CASES: dict[str, tuple[Callable[..., None], str, Callable[[Path], Any]]] = {
    "ingest": (ingested, "x.npy.partial.json", lambda folder: np.load(folder / "x.npy")),
    "append": (appended, "x.npy.partial.json", lambda folder: np.load(folder / "x.npy")),
    "fields": (fields, "store.partial.json", lambda folder: np.load(folder / "store" / "a.npy")),
    "convert": (converted, "x.npy.partial.json", lambda folder: np.load(folder / "x.npy")),
    "convert --all": (tree, "x.zarr.partial.json", tree_values),
    "directory": (directory, f"out/{JOURNAL}", lambda folder: zarr.open_array(folder / "out/b.zarr/data", mode="r")[...]),
}


@pytest.fixture(params=CASES)
def interrupted(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Interrupted]:
    monkeypatch.setattr(journal, "COMMIT_SECONDS", 0.0)
    for name in ("fsync", "fdatasync"):  # thousands of them, and nobody pulls the plug here
        monkeypatch.setattr(os, name, lambda number: None)
    monkeypatch.setattr(plan, "BLOCK_NBYTES", 3000)
    monkeypatch.setattr("mmapstore.plain.chunk_grid.USUAL_CHUNK_NBYTES", 3000)
    monkeypatch.setattr(slabs, "PREFERRED_NBYTES", 3000)
    monkeypatch.setattr("mmapstore.operations.convert.plan.PREFERRED_NBYTES", 3000)
    yield Interrupted(tmp_path, *CASES[request.param])


class Interrupted:
    """A folder with a write that was interrupted half way, as often as it is wanted, and a file that is nobody's business."""

    def __init__(self, folder: Path, call: Callable[..., None], name: str, written: Callable[[Path], Any]) -> None:
        self.folder, self._prepared = folder / "here", folder / "prepared"
        self._call, self._name, self._written = call, name, written
        self.folder.mkdir()
        np.save(self.folder / "victim.npy", FRAMES[:5])
        with contextlib.suppress(Stopped):
            call(self.folder, progress=stopping)
        self.journal = (self.folder / name).read_bytes()
        shutil.copytree(self.folder, self._prepared)

    def outcome(self, content: bytes, **options: Any) -> str:
        """What comes of the same call with this journal: "right", "wrong", or the name of an error of ours."""
        for path in self.folder.iterdir():
            if path.name not in SOURCES:  # they are known by more than what is in them
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self._prepared, self.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*SOURCES))
        (self.folder / self._name).write_bytes(content)
        return self.again(**options)

    @property
    def overwriting(self) -> dict[str, bool]:
        """What a fresh start needs where the journal says which of the files are ours."""
        return {"overwrite": True} if self._call is directory else {}

    def again(self, **options: Any) -> str:
        try:
            self._call(self.folder, **options)
        except MmapstoreError as error:
            return type(error).__name__
        finally:
            np.testing.assert_array_equal(np.load(self.folder / "victim.npy"), FRAMES[:5])
        return "right" if np.array_equal(self._written(self.folder), FRAMES) else "wrong"


def test_a_journal_as_it_was_is_gone_on_with(interrupted: Interrupted) -> None:
    assert interrupted.outcome(interrupted.journal) == "right"


def test_other_bytes_are_noticed(interrupted: Interrupted) -> None:
    """Cut short anywhere, or a bit of it flipped: the result is right, or there is none, and a fresh start makes it right."""
    seen = set()
    for mutation in sampled(all_mutations(interrupted.journal), 2000 if THOROUGH else 40, "journals"):
        outcome = interrupted.outcome(mutation.apply(interrupted.journal))
        assert outcome in ("right", "StateMismatchError", "TargetExistsError"), f"{mutation}: {outcome}"
        if outcome == "StateMismatchError":
            assert interrupted.again(resume=False, **interrupted.overwriting) == "right", mutation
        seen.add(outcome)
    assert "StateMismatchError" in seen


def test_what_somebody_made_up_harms_nothing(interrupted: Interrupted) -> None:
    """Each value in turn replaced by what it never is, with a CRC-32 that fits: no other error, and no other file is touched."""
    journals = list(made_up(interrupted.journal))
    chosen = journals if THOROUGH else random.Random("made up").sample(journals, min(60, len(journals)))
    for where, value, content in chosen:
        try:
            interrupted.outcome(content)
        except (Exception, RecursionError) as error:
            raise AssertionError(f"{where} is {value!r}") from error


def made_up(content: bytes) -> Iterator[tuple[str, Any, bytes]]:
    """(which value, what it is now, the journal)."""
    lines = [json.loads(line[9:]) for line in content.splitlines()]
    for number, line in enumerate(lines):
        for where, value, changed in replaced(line):
            yield (
                f"line {number}{where}",
                value,
                "".join(map(journal_line, [*lines[:number], changed, *lines[number + 1 :]])).encode(),
            )


def replaced(found: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Copies of a JSON value with one value in it, at any depth, replaced by each of the hostile ones."""
    parts = found.items() if isinstance(found, dict) else enumerate(found)
    for key, part in list(parts)[:8]:
        inside = replaced(part, f"{where}/{key}") if isinstance(part, (dict, list)) else ()
        for at, value, changed in [*((f"{where}/{key}", value, value) for value in HOSTILE), *inside]:
            copy = dict(found) if isinstance(found, dict) else list(found)
            copy[key] = changed
            yield at, value, copy
