"""A process that writes the same small store again and again in forked children, and kills each at a moment of its own.

Its argument is JSON: where (`folder`), what (`name` of the target, `call`, `options`), `kills` and `seed`. It prints JSON: how many
kills struck before the end, how many found something to go on from, and what was wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import mmapstore as mm
from mmapstore.operations.flow import journal
from mmapstore.operations.ingest import plan
from mmapstore.plain import chunk_grid
from mmapstore.plain.errors import MmapstoreError

SAMPLES = 60


def frames(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 255, (SAMPLES, 3, 10, 8)).astype(np.uint8)


def samples_of(array: Any, pause: float = 0.0) -> Any:
    for sample in array:
        time.sleep(pause)
        yield sample


def run(call: str, target: str, source: str, options: dict[str, Any], pause: float = 0.0) -> None:
    """Write what `source` holds, slowly if asked, in steps that are all recorded."""
    journal.COMMIT_SECONDS = 0.0
    plan.BLOCK_NBYTES = chunk_grid.USUAL_CHUNK_NBYTES = 3000
    if call == "convert":
        mm.convert(source, target, **options)
    elif call == "fields":
        array = np.load(source)
        mm.ingest({"a": array, "b": np.arange(SAMPLES)}, target, progress=lambda *_: time.sleep(pause), **options)
    elif call == "generator":
        mm.ingest(samples_of(np.load(source), pause / 10), target, progress=False, **options)
    else:
        mm.ingest(source, target, progress=lambda *_: time.sleep(pause), **options)


def in_child(work: Any, kill_after: float | None) -> int:
    """The exit code; -9 if it was killed. What it says of its end goes to stderr."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def stored(target: str) -> Any:
    """All that is at the target, by its own library; None for nothing."""
    path = Path(target)
    if not path.exists():
        return None
    if path.suffix == ".npy":
        return [np.load(path)]
    if path.suffix == ".h5":
        import h5py

        with h5py.File(path, "r") as file:
            return [file[name][()] for name in sorted(file)]
    if path.suffix == ".zarr":
        import zarr

        found = zarr.open(str(path), mode="r")
        return [found[...]] if isinstance(found, zarr.Array) else [found[name][...] for name in sorted(found.array_keys())]
    return [np.load(path / name) for name in sorted(os.listdir(path)) if name.endswith(".npy")]


def which(target: str, known: dict[str, Any]) -> str:
    found = stored(target)
    if found is None:
        return "nothing"
    for name, arrays in known.items():
        if len(found) == len(arrays) and all(map(np.array_equal, found, arrays)):
            return name
    return "garbage"


def described(target: str) -> Any:
    """What the manifest says of the values, with what differs from run to run left out."""
    manifest = Path(target, "mmapstore.json") if Path(target, "mmapstore.json").exists() else Path(f"{target}.mmapstore.json")
    if not manifest.exists():
        return None
    fields = json.loads(manifest.read_text())["fields"]
    return {name: {key: entry[key] for key in ("shape", "checksums", "episodes", "sha256")} for name, entry in fields.items()}


def loop(job: dict[str, Any]) -> dict[str, Any]:
    rng = random.Random(json.dumps(job))
    folder, call, options = Path(job["folder"]), job["call"], job["options"]
    target, old, new = str(folder / job["name"]), str(folder / "old.npy"), str(folder / "new.npy")
    np.save(old, frames(0))
    np.save(new, frames(1))
    source_bytes = Path(new).read_bytes()
    straight = str(folder / "straight" / job["name"])
    os.mkdir(folder / "straight")
    if in_child(lambda: run(call, straight, new, options), None):
        return {"wrong": ["it does not run at all"]}
    known = {"new": stored(straight)}  # the children to come need not load the library any more, so they take as long as this one
    began = time.monotonic()
    in_child(lambda: run(call, target, new, options, job["pause"]), None)
    seconds = 0.8 * (time.monotonic() - began)
    replaces = job["replaces"]
    if replaces:
        aside = str(folder / "aside" / job["name"])
        os.mkdir(folder / "aside")
        in_child(lambda: run(call, aside, old, options), None)
        known["old"] = stored(aside)
    expected = {"old", "new"} if replaces else {"nothing", "new"}
    options = {**options, "overwrite": replaces}
    wrong: list[str] = []
    struck = went_on = 0
    for round_ in range(20 * job["kills"]):  # on a busy machine many end before they are killed
        if struck >= job["kills"]:
            break
        if replaces:
            run_clean(folder, job["name"])
            in_child(lambda: run(call, target, old, options), None)
        else:
            run_clean(folder, job["name"])
        for _ in range(8):  # each one goes on where the last was killed
            code = in_child(lambda: run(call, target, new, options, job["pause"]), rng.uniform(0, seconds))
            if code == 0:
                break
            if code != -signal.SIGKILL:
                wrong.append(f"round {round_}: it failed by itself, with {code}")
            struck += 1
            went_on += os.path.exists(f"{target}.partial.json")
            found = which(target, known)
            if found == "nothing" and os.path.isdir(f"{target}.replaced"):
                found = which_moved(target, known)
            if found not in expected:
                wrong.append(f"round {round_}: found {found} after a kill")
            if found == "new" and replaces is False and not os.path.exists(f"{target}.partial.json"):
                break  # killed after its last step
            with contextlib.suppress(MmapstoreError):
                mm.open(f"{target}.partial")
                wrong.append(f"round {round_}: a partial target opened as data")
        else:
            if in_child(lambda: run(call, target, new, options), None):
                wrong.append(f"round {round_}: it does not go on")
        if which(target, known) != "new" or described(target) != described(straight):
            wrong.append(f"round {round_}: ended with {which(target, known)}, described as {described(target)}")
        if target.endswith(".npy") and os.path.exists(target) and Path(target).read_bytes() != Path(straight).read_bytes():
            wrong.append(f"round {round_}: other bytes than those of one run")
        left = set(os.listdir(folder)) - {"old.npy", "new.npy", "straight", "aside", job["name"], f"{job['name']}.mmapstore.json"}
        left -= {f"{job['name']}.partial.lock"}  # held by nobody
        if left:
            wrong.append(f"round {round_}: left {sorted(left)}")
        if Path(new).read_bytes() != source_bytes:
            wrong.append(f"round {round_}: the source was changed")
    return {"struck": struck, "went_on": went_on, "wrong": wrong}


def which_moved(target: str, known: dict[str, Any]) -> str:
    """Of a directory that stands under the name it is moved aside to."""
    shutil.copytree(f"{target}.replaced", f"{target}.copy{Path(target).suffix}")
    try:
        return which(f"{target}.copy{Path(target).suffix}", known)
    finally:
        shutil.rmtree(f"{target}.copy{Path(target).suffix}")


def run_clean(folder: Path, name: str) -> None:
    for entry in os.listdir(folder):
        if entry.startswith(name):
            path = folder / entry
            shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(loop(json.loads(sys.argv[1]))))
