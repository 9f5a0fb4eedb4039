"""kill -9 at random moments, again and again: what was there before is there until it is replaced, and the next call goes on to the
same bytes that one undisturbed run writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "npy": ("x.npy", "array", {}),
    "npy, length unknown": ("x.npy", "generator", {}),
    "hdf5": ("x.h5", "array", {}),
    "hdf5, gzip, length unknown": ("x.h5", "generator", {"compression": "gzip"}),
    "zarr": ("x.zarr", "array", {}),
    "zarr, zstd, length unknown": ("x.zarr", "generator", {"compression": "zstd"}),
    "fields": ("store", "fields", {}),
    "fields, hdf5": ("x.h5", "fields", {}),
    "fields, zarr": ("x.zarr", "fields", {}),
    "npy, converted": ("x.npy", "convert", {}),
    "hdf5, converted": ("x.h5", "convert", {}),
    "zarr, converted": ("x.zarr", "convert", {}),
}


def outcome(folder: Path, case: str, replaces: bool, kills: int) -> dict[str, Any]:
    name, call, options = CASES[case]
    job = {
        "folder": str(folder),
        "name": name,
        "call": call,
        "options": options,
        "replaces": replaces,
        "kills": kills,
        "pause": 0.002,
    }
    child = Path(__file__).with_name("writing_child.py")
    done = subprocess.run([sys.executable, str(child), json.dumps(job)], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert not found["wrong"], (found, done.stderr[-3000:])
    return found


@pytest.mark.parametrize("replaces", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("case", ["npy", "hdf5", "zarr", "fields"])
def test_a_few_kills(case: str, replaces: bool, tmp_path: Path) -> None:
    assert outcome(tmp_path, case, replaces, 3)["struck"] >= 3


@pytest.mark.slow
@pytest.mark.parametrize("replaces", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("case", CASES)
def test_many_kills(case: str, replaces: bool, tmp_path: Path) -> None:
    kills = 40 if "MMAPSTORE_THOROUGH" in os.environ else 10
    found = outcome(tmp_path, case, replaces, kills)
    assert found["struck"] >= kills, found
