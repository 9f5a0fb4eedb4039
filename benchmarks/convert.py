"""Converting, beside what one would write or call oneself: a loop over slices of the library, `cp`, `h5repack`.

python -m benchmarks.convert
python -m benchmarks.convert --samples 2000 --rounds 3 --only gzip --json convert.json

Every arm is a process of its own, and arms take turns. The time is from before the source is opened until the target is whole
under its name and on disk: the peers end with `fsync`. "of processors" is the time that all of them were at work. mmapstore
also digests, reads back and compares; `no verify` leaves the reading back out. "read back" is the peer that reads what it wrote
from the disk, and does not look at it: the least that a check of the peer's copy takes. Each target is compared with the source
before it is deleted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmapstore.bench.child import Say, baseline
from mmapstore.files.direct_io import DirectFile, empty_at
from mmapstore.files.page_cache import warm
from mmapstore.files.stored_files import files_of

from .measure import machine, report_arm, spread, take_turns
from .stored_data import FORMS, KEY, KINDS, Kind, make_array, make_form

_STEP = 64  # samples in a slice of the loops: a chunk


@dataclass(frozen=True)
class Row:
    """A form of the source, the suffix of the target, who else does it, and the ratio to reach."""

    form: str
    suffix: str
    peer: str
    reach: float

    @property
    def name(self) -> str:
        return f"{self.form} to {self.suffix}"


ROWS = {
    row.name: row
    for row in (
        Row("h5-gzip", ".npy", "h5py slices", 5.0),
        Row("npy", ".npy", "cp", 0.9),
        Row("h5-contiguous", ".npy", "cp", 0.9),
        Row("zarr-zstd", ".npy", "zarr-python slices", 1.0),
        Row("h5-gzip", ".h5", "h5repack", 1.0),
    )
}


def h5py_slices(source: Path, target: Path) -> None:
    """Fill a memory map slice by slice, as is usually done."""
    import h5py

    with h5py.File(source) as file:
        _fill(file[KEY], target)


def zarr_slices(source: Path, target: Path) -> None:
    import zarr

    _fill(zarr.open_array(source, path=KEY, mode="r"), target)


def _fill(stored: Any, target: Path) -> None:
    out = np.lib.format.open_memmap(target, "w+", np.dtype(stored.dtype), tuple(stored.shape))
    for start in range(0, len(out), _STEP):
        out[start : start + _STEP] = stored[start : start + _STEP]
    out.flush()
    del out
    _sync(target)


def cp(source: Path, target: Path) -> None:
    subprocess.run(["cp", str(source), str(target)], check=True)
    _sync(target)


def h5repack(source: Path, target: Path) -> None:
    """HDF5's own tool: the same chunks without filters."""
    subprocess.run(["h5repack", "-f", "NONE", str(source), str(target)], check=True)
    _sync(target)


def _read_back(path: Path) -> None:
    """Read all from the disk, not from the page cache, in pieces of 8 MiB."""
    number = os.open(path, os.O_RDONLY)
    file, room = DirectFile(str(path), number), empty_at(8 << 20)
    for at in range(0, path.stat().st_size, len(room)):
        os.posix_fadvise(number, at, len(room), os.POSIX_FADV_DONTNEED)
        file.read(at, room)
    file.close()
    os.close(number)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDWR)
    os.fsync(number)
    os.close(number)


def ours(source: Path, target: Path) -> dict[str, Any]:
    return _converted(source, target, verify=True)


def no_verify(source: Path, target: Path) -> dict[str, Any]:
    return _converted(source, target, verify=False)


def _converted(source: Path, target: Path, verify: bool) -> dict[str, Any]:
    import mmapstore

    places = ["" if path.suffix == ".npy" else f"::/{KEY}" for path in (source, target)]
    compression = "none" if target.suffix == ".h5" else None
    done = mmapstore.convert(f"{source}{places[0]}", f"{target}{places[1]}", compression=compression, verify=verify, progress=False)
    return {"predicted": done.memory.total}


READ_BACK = ", read back"
WAYS: dict[str, Callable[[Path, Path], Any]] = {
    "h5py slices": h5py_slices,
    "zarr-python slices": zarr_slices,
    "cp": cp,
    "h5repack": h5repack,
    "mmapstore": ours,
    "mmapstore, no verify": no_verify,
}


def run_arm(way: str, name: str, directory: Path, samples: int, say: Say) -> dict[str, Any]:
    """One conversion: seconds, and bytes of private memory over those of the process with its libraries imported."""
    kind, row = KINDS["frames"].of(samples), ROWS[name]
    source, target = make_form(kind, row.form, directory), directory / f"converted{row.suffix}"
    for package in (*FORMS[row.form].requires, "mmapstore"):
        __import__(package)
    if way.startswith("mmapstore"):
        from mmapstore.operations import convert  # noqa: F401  # with what it imports, as the others have theirs
    warm(files_of(source))
    origin = directory / "array.npy" if way.startswith("cp") else source
    do, is_read_back = WAYS[way.removesuffix(READ_BACK)], way.endswith(READ_BACK)
    try:
        baseline(say)
        began, busy = time.perf_counter(), _processor_seconds()
        found = do(origin, target) or {}
        if is_read_back:
            _read_back(target)
        seconds, busy = time.perf_counter() - began, _processor_seconds() - busy
        equal = _is_equal(directory / "array.npy", target)
    finally:
        for left in directory.glob("converted.*"):
            left.unlink()
    return {"seconds": seconds, "processor": busy, "equal": equal, **found}


def _processor_seconds() -> float:
    """Of this process and of those it has waited for: what a busy machine changes least."""
    return sum(os.times()[:4])


def _is_equal(one: Path, other: Path) -> bool:
    with contextlib.ExitStack() as files:
        a = np.load(one, mmap_mode="r")
        if other.suffix == ".npy":
            b = np.load(other, mmap_mode="r")
        else:
            import h5py

            b = files.enter_context(h5py.File(other))[KEY]
        return a.shape == b.shape and all(np.array_equal(a[at : at + 512], b[at : at + 512]) for at in range(0, len(a), 512))


def compare(row_of: Row, kind: Kind, directory: Path, rounds: int) -> dict[str, Any]:
    """All ways of one row, `rounds` times in turn."""
    peer, reach = row_of.peer, row_of.reach
    ways = (peer, peer + READ_BACK, "mmapstore", "mmapstore, no verify")
    arms = [(way, row_of.name, str(directory), str(kind.samples)) for way in ways]
    results = take_turns("benchmarks.convert", arms, rounds)
    row: dict[str, Any] = {"row": row_of.name, "peer": peer, "reach": reach, "nbytes": kind.nbytes, "arms": results, "ratios": {}}
    print(f"{row_of.name}, {kind.nbytes / 1e6:.0f} MB")
    for way, runs in results.items():
        failed = [run for run in runs if run.get("failed") is not None or not run["equal"]]
        if failed:
            print(f"  {way:22} FAILED: {failed[0]}")
            continue
        words = (
            f"{spread([run['seconds'] for run in runs])} s, {statistics.median(run['processor'] for run in runs):.2f} of processors"
        )
        words += f", private {max(run['growth'] for run in runs) / 1e6:.0f} MB"
        if "predicted" in runs[0]:
            words += f" of {runs[0]['predicted'] / 1e6:.0f} MB predicted"
        for base in (peer, peer + READ_BACK) if way.startswith("mmapstore") else ():
            if base != peer and way != "mmapstore":
                continue
            ratios = [one["seconds"] / run["seconds"] for one, run in zip(results[base], runs, strict=True)]
            row["ratios"][f"{way} / {base}"] = ratios
            words += f", {statistics.median(ratios):.2f}x of {base} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"  {way:22} {words}; to reach {reach:g}" if way.startswith("mmapstore") else f"  {way:22} {words}")
    return row


def main(given: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if given is None else given)
    if arguments and arguments[0].removesuffix(READ_BACK) in WAYS:  # an arm, as `take_turns` starts it
        way, name, directory, samples = arguments
        report_arm(lambda say: run_arm(way, name, Path(directory), int(samples), say))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=KINDS["frames"].samples, help="of 30 kB each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--only",
        nargs="*",
        default=[],
        help=f"rows whose source contains one of these: {', '.join(row.form for row in ROWS.values())}",
    )
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "mmapstore-benchmarks" / "convert")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    kind = KINDS["frames"].of(options.samples)
    directory = options.data / f"frames-{kind.samples}"
    make_array(kind, directory, seed=0)
    if shutil.disk_usage(directory).free < 3 * kind.nbytes:
        raise SystemExit(f"{directory} has no room for {3 * kind.nbytes / 1e9:.1f} GB. Choose another place with --data.")
    rows = []
    for name, row in ROWS.items():
        if options.only and not any(word in row.form for word in options.only):
            continue
        if row.peer == "h5repack" and shutil.which("h5repack") is None:
            print(f"{name}: left out, h5repack (Debian: hdf5-tools) is not installed")
            continue
        make_form(kind, row.form, directory)
        rows.append(compare(row, kind, directory, options.rounds))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
