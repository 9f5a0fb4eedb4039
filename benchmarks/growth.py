"""How the cost of an epoch grows: with data, chunks, batches, files, episodes and history, each beside a peer.

    python -m benchmarks.growth
    python -m benchmarks.growth --only files,episodes --rounds 5 --json growth.json --figure growth.svg

Each value of an axis is a process of its own, which opens the data, reads two epochs, and adds up every byte of x and y. The slope
of a figure is the exponent b of value**b over all values and rounds, with its 95 % interval: 0 is a cost that does not grow, 1 is a
cost in proportion. A slope whose interval lies above 1.1 is a fault, and the command ends with 1.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import mmapstore as mm
from mmapstore.bench.child import Say, baseline
from mmapstore.files import page_cache
from mmapstore.files.stored_files import files_of

from .measure import machine, report_arm, run_arm
from .peers import PEERS, Job
from .stored_data import KINDS, Kind, make_array, make_form, row_sums

FRAMES, FEATURES = KINDS["frames"], KINDS["features"]
FIGURES = {"open_s": "open", "first_s": "first batch", "epoch_s": "epoch", "private": "private memory"}
_FAULT = 1.1


@dataclass(frozen=True)
class Setting:
    """The data and batches of one value of an axis.

    Attributes
    ----------
    kind, form : of the stored array
    access : "next" or "shuffled"
    files, episodes : into how many of equal length the samples are cut
    pairs : y is the sample behind x; else there is none
    history : frames of x before that y; 0 for one, without an axis of time
    """

    kind: Kind
    form: str = "npy"
    access: str = "shuffled"
    files: int = 1
    episodes: int = 1
    pairs: bool = True
    history: int = 0


@dataclass(frozen=True)
class Axis:
    """A quantity, its values, and the ways that are measured along it."""

    unit: str
    values: Sequence[int]
    setting: Callable[[int], Setting]
    ways: Sequence[str]


def _frames(nbytes: float) -> Kind:
    return FRAMES.of(int(nbytes / FRAMES.sample_nbytes))


AXES = {
    "data": Axis("MB", (100, 400, 1600, 6400, 25_000), lambda mb: Setting(_frames(mb * 1e6)), ("mmapstore", "memmap by hand")),
    "chunk": Axis(
        "samples of 30 kB",
        (1, 4, 16, 64, 256, 1024, 2048),
        lambda samples: Setting(replace(_frames(400e6), chunk=samples), "zarr-zstd", "next"),
        ("mmapstore", "tensorstore"),
    ),
    "batch": Axis(
        "samples",
        (1, 4, 16, 64, 256, 1024),
        lambda samples: Setting(replace(_frames(400e6), batch=samples)),
        ("mmapstore", "memmap by hand"),
    ),
    "files": Axis(
        "files",
        (1, 10, 100, 1000, 10_000),
        lambda files: Setting(_frames(600e6), files=files, pairs=False),
        ("mmapstore", "memmaps by hand"),
    ),
    "episodes": Axis(
        "episodes",
        (1, 100, 10_000, 1_000_000),
        lambda episodes: Setting(FEATURES.of(2_000_000), episodes=episodes),
        ("mmapstore",),
    ),
    "history": Axis(
        "frames", (1, 2, 4, 8, 16, 32, 64), lambda frames: Setting(_frames(100e6), history=frames), ("mmapstore", "memmap by hand")
    ),
}


# --- one process --------------------------------------------------------------------------------------------------------


def opened_by(way: str, setting: Setting, path: Path) -> Callable[[], Iterator[tuple[Any, ...]]]:
    """Open the data, and return the function that iterates over the batches of the next epoch."""
    if way == "mmapstore":
        episodes = np.linspace(0, setting.kind.samples, setting.episodes + 1).astype(int) if setting.episodes > 1 else None
        ds = mm.open(
            f"{path}/*.npy" if setting.files > 1 else path, key=None if setting.form == "npy" else "data", episodes=episodes
        )
        target: Any = mm.Window(history=setting.history, horizon=None) if setting.history else mm.NextFrame()
        batches = ds.batches(setting.kind.batch, target if setting.pairs else None, shuffle=setting.access == "shuffled")
        return lambda: (batch if isinstance(batch, tuple) else (batch,) for batch in batches)
    if way in PEERS:
        if setting.history:
            return _windows_by_hand(np.load(path, mmap_mode="r"), setting)
        opened = PEERS[way].open(Job(setting.kind, setting.form, path, setting.access))
        epochs = iter(range(10**6))
        assert opened.epoch is not None
        return lambda epoch=opened.epoch: epoch(next(epochs))  # type: ignore[misc]
    arrays = (
        [np.load(each, mmap_mode="r") for each in sorted(Path(path).glob("*.npy"))] if setting.files > 1 else [np.load(path, "r")]
    )
    return _files_by_hand(arrays, setting)


def _windows_by_hand(array: Any, setting: Setting) -> Callable[[], Iterator[tuple[Any, ...]]]:
    def epoch() -> Iterator[tuple[Any, ...]]:
        order = np.random.default_rng().permutation(len(array) - setting.history)
        for start in range(0, len(order), setting.kind.batch):
            rows = order[start : start + setting.kind.batch, None] + np.arange(setting.history)
            yield array[rows], array[rows[:, -1] + 1]

    return epoch


def _files_by_hand(arrays: Sequence[Any], setting: Setting) -> Callable[[], Iterator[tuple[Any, ...]]]:
    ends = np.cumsum([len(array) for array in arrays])

    def epoch() -> Iterator[tuple[Any, ...]]:
        order = np.random.default_rng().permutation(ends[-1])
        for start in range(0, len(order), setting.kind.batch):
            numbers = order[start : start + setting.kind.batch]
            places = np.searchsorted(ends, numbers, side="right")
            yield (np.stack([arrays[place][number - ends[place]] for place, number in zip(places, numbers, strict=True)]),)

    return epoch


def measured(way: str, setting: Setting, path: Path, say: Say) -> dict[str, Any]:
    """Seconds to open, to the first batch, and of the second epoch; open descriptors after it; samples and bytes delivered."""
    page_cache.warm(files_of(path))
    baseline(say)
    began = time.perf_counter()
    epoch = opened_by(way, setting, path)
    result: dict[str, Any] = {"open_s": time.perf_counter() - began}
    began = time.perf_counter()
    for number in range(2):
        started, total, samples, nbytes = time.perf_counter(), np.uint64(0), 0, 0
        for batch in epoch():
            result.setdefault("first_s", time.perf_counter() - began)
            for array in batch:
                total = np.add(total, row_sums(np.ascontiguousarray(array)).sum(dtype=np.uint64), dtype=np.uint64)
                nbytes += array.nbytes
            samples += len(batch[0])
            del batch, array  # buffers are lent
        if number:
            result |= {"epoch_s": time.perf_counter() - started, "samples": samples, "bytes": nbytes, "sum": int(total)}
    result["descriptors"] = len(os.listdir("/proc/self/fd"))
    return result


# --- all of them --------------------------------------------------------------------------------------------------------


def prepared(setting: Setting, folder: Path) -> Path:
    """Make the data of a setting, or find them."""
    kind = setting.kind
    place = folder / f"{kind.name}-{kind.samples}-{kind.chunk}"
    source = make_array(kind, place, seed=0)
    if setting.files == 1:
        return make_form(kind, setting.form, place)
    parts = place / f"{setting.files}-files"
    if not parts.exists():
        partial = place / f"{setting.files}-files.partial"
        partial.mkdir()
        values = np.load(source, mmap_mode="r")
        ends = np.linspace(0, len(values), setting.files + 1).astype(int)
        for number in range(setting.files):
            np.save(partial / f"{number:05}.npy", values[ends[number] : ends[number + 1]])
        partial.rename(parts)
    return parts


def slope(values: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """Return the exponent b of cost = a * value**b, and half of its 95 % interval.

    >>> slope([1, 10, 100, 1000], [3, 30, 300, 3000])
    (1.0, 0.0)
    """
    x, y = np.log(np.asarray(values, float)), np.log(np.maximum(np.asarray(costs, float), 1e-9))
    x, y = x - x.mean(), y - y.mean()
    spread = float((x * x).sum())
    b = float((x * y).sum()) / spread
    rest = max(0.0, float(((y - b * x) ** 2).sum()))
    return round(b, 3), round(1.96 * math.sqrt(rest / max(1, len(x) - 2) / spread), 3)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="axes, apart by commas (default: all of them)")
    parser.add_argument("--most", type=int, default=6400, help="MB of the largest data (default %(default)s)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the samples of all data: a small one tries the command out"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "mmapstore-benchmarks" / "growth")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw all axes (.svg, .png); needs matplotlib")
    options = parser.parse_args(arguments)
    chosen = options.only.split(",") if options.only else list(AXES)
    if unknown := set(chosen) - set(AXES):
        parser.error(f"--only {','.join(sorted(unknown))}: expected {', '.join(AXES)}.")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for turn in range(options.rounds):
        for name in chosen:
            axis = AXES[name]
            for value in axis.values:
                if name == "data" and value > options.most:
                    continue
                setting = axis.setting(value)
                samples = max(setting.files, 2 * setting.episodes, int(setting.kind.samples * options.scale))
                setting = replace(setting, kind=setting.kind.of(samples))
                path = prepared(setting, options.data)
                for way in axis.ways:
                    if way in PEERS and PEERS[way].missing():
                        continue
                    row = run_arm(
                        "benchmarks.growth",
                        [
                            json.dumps(
                                {"axis": name, "value": value, "way": way, "path": str(path), "samples": setting.kind.samples}
                            )
                        ],
                    )
                    row["private"] = row.pop("growth", None)
                    found[name].append({"value": value, "way": way, **row})
                    print(f"  round {turn + 1}: {name} {value}, {way}", file=sys.stderr)
    for name in chosen:
        require_equal_sums(found[name])
    faults = [each for name in chosen for each in _report(name, found[name])]
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": found}, indent=1))
    if options.figure:
        draw(found, options.figure)
    print("\n".join(f"worse than linear: {each}" for each in faults))
    return 1 if faults else 0


def require_equal_sums(rows: Sequence[dict[str, Any]]) -> None:
    """End the command if two ways delivered other bytes for one value: the sums do not depend on the order."""
    for value in {row["value"] for row in rows}:
        sums = {(row["sum"], row["bytes"]) for row in rows if row["value"] == value and "sum" in row}
        if len(sums) > 1:
            sys.exit(f"{value}: ways delivered different bytes: {sums}.")


def _report(name: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Print the table of an axis; return the slopes that are faults of ours."""
    faults = []
    print(f"\n{name} ({AXES[name].unit})\n")
    print(
        "| "
        + " | ".join(["value", "way", *(f"{word} ({'MB' if key == 'private' else 'ms'})" for key, word in FIGURES.items()), "GB/s"])
        + " |"
    )
    print("|---" * (len(FIGURES) + 3) + "|")
    for way in AXES[name].ways:
        good = [row for row in rows if row["way"] == way and "epoch_s" in row]
        for value in sorted({row["value"] for row in rows if row["way"] == way}):
            at = [row for row in good if row["value"] == value]
            if not at:
                print(f"| {value} | {way} | failed |")
                continue
            middle = {key: statistics.median(row[key] for row in at) for key in FIGURES}
            cells = [f"{middle[key] / 1e6:.1f}" if key == "private" else f"{1e3 * middle[key]:.1f}" for key in FIGURES]
            print(f"| {value} | {way} | {' | '.join(cells)} | {at[0]['bytes'] / middle['epoch_s'] / 1e9:.2f} |")
        if len({row["value"] for row in good}) < 2:
            continue
        slopes = {key: slope([row["value"] for row in good], [row[key] for row in good]) for key in FIGURES}
        print(f"| slope | {way} | " + " | ".join(f"{b:.2f} ± {half:.2f}" for b, half in slopes.values()) + " | |")
        if way == "mmapstore":
            faults += [f"{FIGURES[key]} over {name}: {b} ± {half}" for key, (b, half) in slopes.items() if b - half > _FAULT]
    return faults


def draw(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw seconds of an epoch, and private memory, over each axis, on logarithmic scales."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, places = pyplot.subplots(2, len(found), figsize=(3 * len(found), 6), squeeze=False, constrained_layout=True)
    for column, (name, rows) in enumerate(found.items()):
        for row, (key, scale, label) in enumerate((("epoch_s", 1, "epoch (s)"), ("private", 1e-6, "private memory (MB)"))):
            place = places[row][column]
            for way in AXES[name].ways:
                points = sorted({each["value"] for each in rows if each["way"] == way and "epoch_s" in each})
                middle = [
                    scale * statistics.median(each[key] for each in rows if each["way"] == way and each["value"] == value)
                    for value in points
                ]
                place.plot(points, middle, marker="o", label=way)
            place.set(xscale="log", yscale="log", xlabel=f"{name} ({AXES[name].unit})", ylabel=label if column == 0 else "")
            place.legend(fontsize=7)
    figure.savefig(path)


def _arm() -> None:
    spec = json.loads(sys.argv[1])
    setting = AXES[spec["axis"]].setting(spec["value"])
    setting = replace(setting, kind=setting.kind.of(spec["samples"]))
    report_arm(lambda say: measured(spec["way"], setting, Path(spec["path"]), say))


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("{"):
        _arm()
    else:
        sys.exit(main())
