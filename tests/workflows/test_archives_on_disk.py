"""Every archive that installed packages carry is converted: nothing dies of a file, and each object is equal or listed.

MMAPSTORE_ARCHIVES names further folders, separated as PATH is, that hold HDF5, NetCDF, MATLAB and Zarr archives.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import archive_child
import numpy as np
import pytest
from archive_child import Outcome

SUFFIXES = {".h5", ".hdf5", ".he5", ".hdf", ".h5ad", ".nc", ".nc4", ".nxs", ".mat", ".keras"}
ZARR = {"zarr.json", ".zgroup", ".zarray"}
CPU_SECONDS, SECONDS = 60, 600  # of processor time, so that other work on the machine is no hang; and of the clock


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


def outcomes_of(paths: list[Path], folder: Path, suffix: str) -> Iterator[Outcome]:
    """Each in a process of its own, so that its memory is its own too; they are forked from one that has imported all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["h5py", "hdf5plugin", "zarr", "mmapstore.cli", "mmapstore.operations.convert.tree"])
    for path in paths:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(
            target=archive_child.send_outcome, args=(sender, str(path), str(folder / f"copy{suffix}"), CPU_SECONDS)
        )
        child.start()
        sender.close()
        try:
            yield receiver.recv() if receiver.poll(SECONDS) else Outcome(str(path), faults=[f"nothing came of it in {SECONDS} s"])
        except EOFError:
            child.join()
            yield Outcome(str(path), faults=[f"the process ended with {child.exitcode}"])
        child.kill()
        child.join()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_each_object_of_each_archive_is_equal_or_listed(tmp_path, suffix):
    paths = archives()
    assert len(paths) >= 100
    outcomes = list(outcomes_of(paths, tmp_path / "copies", suffix))
    total: Counter[str] = sum((Counter(outcome.outcomes) for outcome in outcomes), Counter())
    print(f"{len(outcomes)} archives to {suffix}: objects {dict(total)}; {sum(o.equal for o in outcomes)} arrays judged equal")
    print(f"{sum(outcome.seconds for outcome in outcomes):.0f} s")
    for outcome in sorted(outcomes, key=lambda outcome: -outcome.seconds)[:5]:
        print(f"  {outcome.seconds:6.1f} s of processor time: {outcome.path}")
    for outcome in sorted(outcomes, key=lambda outcome: -outcome.peak_nbytes)[:5]:
        print(f"  {outcome.peak_nbytes / 1e6:6.0f} MB: {outcome.path}")
    for outcome in outcomes:
        for name in outcome.too_large:
            print(f"  too large to be judged here: {name}")
    for reason, number in sum((Counter(outcome.refused) for outcome in outcomes), Counter()).most_common():
        print(f"  {number:4} refused: {reason}")
    faults = [f"{outcome.path}: {fault}" for outcome in outcomes for fault in outcome.faults]
    assert not faults, "\n".join([f"{len(faults)} faults", *faults])
