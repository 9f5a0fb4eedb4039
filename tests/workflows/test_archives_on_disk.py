"""Every archive that installed packages carry is converted: nothing dies of a file, and each object is equal or listed.

MMAPSTORE_ARCHIVES names further folders, separated as PATH is, that hold HDF5, NetCDF, MATLAB and Zarr archives.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import shutil
from collections import Counter
from pathlib import Path

import archive_child
import numpy as np
import pytest
from archive_child import Outcome

SUFFIXES = {".h5", ".hdf5", ".he5", ".hdf", ".h5ad", ".nc", ".nc4", ".nxs", ".mat", ".keras"}
ZARR = {"zarr.json", ".zgroup", ".zarray"}
SECONDS = 60.0


def archives() -> list[Path]:
    folders = [Path(np.__file__).parents[1], *map(Path, filter(None, os.environ.get("MMAPSTORE_ARCHIVES", "").split(os.pathsep)))]
    found: list[Path] = []
    for folder in folders:
        for parent, below, names in os.walk(folder):
            if ZARR & set(names):
                found.append(Path(parent))
                below.clear()
            found += [Path(parent, name) for name in names if Path(name).suffix.lower() in SUFFIXES]
    return sorted(found)


def outcomes_of(paths: list[Path], folder: Path, suffix: str) -> list[Outcome]:
    """Each in the same child process, until one ends it or takes too long."""
    context, outcomes = multiprocessing.get_context("spawn"), []
    pool = concurrent.futures.ProcessPoolExecutor(1, context)
    for path in paths:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            outcomes.append(pool.submit(archive_child.outcome_of, str(path), str(folder / f"copy{suffix}")).result(SECONDS))
        except (concurrent.futures.BrokenExecutor, TimeoutError) as error:
            outcomes.append(Outcome(str(path), faults=[f"the process ended or hung: {type(error).__name__}"]))
            for child in multiprocessing.active_children():
                child.kill()
            pool.shutdown()
            pool = concurrent.futures.ProcessPoolExecutor(1, context)
    pool.shutdown()
    return outcomes


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_each_object_of_each_archive_is_equal_or_listed(tmp_path, suffix):
    paths = archives()
    assert len(paths) >= 100
    outcomes = outcomes_of(paths, tmp_path / "copies", suffix)
    total: Counter[str] = sum((Counter(outcome.outcomes) for outcome in outcomes), Counter())
    slowest, largest = (max(outcomes, key=lambda outcome: getattr(outcome, name)) for name in ("seconds", "peak_nbytes"))
    print(f"{len(outcomes)} archives to {suffix}: objects {dict(total)}; {sum(o.equal for o in outcomes)} arrays judged equal")
    print(f"slowest {slowest.seconds:.1f} s: {slowest.path}; largest {largest.peak_nbytes / 1e6:.0f} MB: {largest.path}")
    for reason, number in sum((Counter(outcome.refused) for outcome in outcomes), Counter()).most_common():
        print(f"  {number:4} refused: {reason}")
    faults = [f"{outcome.path}: {fault}" for outcome in outcomes for fault in outcome.faults]
    assert not faults, "\n".join([f"{len(faults)} faults", *faults])
