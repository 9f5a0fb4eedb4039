"""Every format x codec x access, through mmapstore and beside its peers on the same files in the same run; one table.

    python -m benchmarks.suite                          everything with the default peers
    python -m benchmarks.suite --quick                  a small part of it, in a few minutes: does it run?
    python -m benchmarks.suite --peers all --cold --json cold.json
    python -m benchmarks.suite --only frames zarr-zstd,zarr-blosc shuffled

See benchmarks/README.md for what the columns mean. Rows where mmapstore loses are printed like the others.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmapstore.files.stored_files import nbytes_on_disk
from mmapstore.plain.memory_budget import parse_bytes

from .arm import expected_checksum
from .measure import machine, run_arm
from .peers import ACCESSES, PEERS, Job, Peer
from .stored_data import FORMS, KINDS, QUICK, Kind, make_array, make_form

OURS = "mmapstore"
REFERENCES = {"npy": "arrays in RAM", "h5": "h5py slices", "zarr": "zarr-python"}
_BY_HAND = {"h5": "h5py by hand"}  # where the reference has no such access
_NEIGHBOURS = 0.5  # an order with more of them than this is not shuffled

Row = dict[str, Any]


# --- one group: a stored array and an access ----------------------------------------------------------------------------


def measure_group(job: Job, peers: Sequence[Peer], options: argparse.Namespace, sums: Any) -> list[Row]:
    """A row for each peer. Arms take turns, in another order each round."""
    rows: list[Row] = []
    runs: dict[str, list[dict[str, Any]]] = {}
    for each in peers:
        row: Row = {"data": job.kind.name, "stored": job.form, "access": job.access, "way": each.name}
        rows.append(row)
        missing = each.missing() or _missing(FORMS[job.form].requires)
        if missing:
            row["outcome"] = missing
            continue
        if each.prepare is not None:
            each.prepare(job)
        runs[each.name] = []
    shuffled = random.Random(options.seed)
    for turn in range(options.rounds):
        order = list(runs)
        shuffled.shuffle(order)
        for name in order:
            if runs[name] and "failed" in runs[name][-1]:
                continue
            _say(f"{job.kind.name} {job.form} {job.access}, round {turn + 1}: {name}")
            runs[name].append(run_arm("benchmarks.arm", [_spec(job, name, options)], options.timeout, options.limit))
    _say("")
    expected = expected_checksum(sums, job.access)
    for row in rows:
        if row["way"] in runs:
            row.update(summed_up(runs[row["way"]], expected, job, options.cold, PEERS[row["way"]].floor))
    return rows


def _say(words: str) -> None:
    if sys.stderr.isatty():
        print(f"{words:<100}", end="\r", file=sys.stderr)


def _spec(job: Job, peer: str, options: argparse.Namespace) -> str:
    return json.dumps(
        {
            "kind": job.kind.name,
            "samples": job.kind.samples,
            "form": job.form,
            "path": str(job.path),
            "access": job.access,
            "seed": job.seed,
            "max_memory": job.max_memory,
            "peer": peer,
            "epochs": 1 if options.cold else options.epochs,
            "cold": options.cold,
        }
    )


def summed_up(runs: list[dict[str, Any]], expected: int, job: Job, cold: bool, floor: bool = False) -> Row:
    """The figures of one row from all its runs; or why there are none.

    rates : GB/s (10**9) of delivered bytes, one for each counted epoch: from the second on, or the first where it is alone
    """
    failed = [run for run in runs if "failed" in run]
    if failed:
        words = " ".join(map(str, failed[0]["error"]))
        words = words.removeprefix("NotImplementedError: ") if words.startswith("NotImpl") else f"failed: {words}"
        return {"outcome": words, "failed": failed[0]["failed"]}
    wrong = _wrong(runs, expected, job, floor)
    counted = [list(run["epochs"][1:] or run["epochs"]) for run in runs]
    rates = [epoch["nbytes"] / epoch["seconds"] / 1e9 for epochs in counted for epoch in epochs]
    predicted = runs[0]["predicted"]
    growth = max(run["growth"] for run in runs)
    return {
        "outcome": wrong or "measured",
        "rates": rates,
        "by_round": [statistics.median(e["nbytes"] / e["seconds"] / 1e9 for e in epochs) for epochs in counted],
        "rate": statistics.median(rates),
        "first_epoch": statistics.median(run["epochs"][0]["nbytes"] / run["epochs"][0]["seconds"] / 1e9 for run in runs),
        "first_batch": statistics.median(run["first_batch"] for run in runs) if job.access != "fit" else None,
        "growth": growth,
        "predicted": predicted,
        "within": None if predicted is None or job.access == "fit" else growth <= predicted,
        "words": runs[0]["words"],
        "still_cached": max(run["still_cached"] for run in runs) if cold else None,
    }


def _wrong(runs: list[dict[str, Any]], expected: int, job: Job, floor: bool) -> str:
    for run in runs:
        for epoch in run["epochs"]:
            if epoch["samples"] != job.anchors:
                return f"WRONG: {epoch['samples']} samples in an epoch, expected {job.anchors}"
            if epoch["checksum"] != expected:
                return f"WRONG: consumed other bytes, checksum {epoch['checksum']:x}, expected {expected:x}"
            if job.shuffled and not floor and job.anchors > 1000 and epoch["neighbours"] > _NEIGHBOURS:
                return f"WRONG: not shuffled, {epoch['neighbours']:.0%} of samples are followed by their neighbour"
    return ""


def compare(rows: list[Row], form: str) -> None:
    """Put into each measured row its ratio to the reference of the format, from pairs of the same round."""
    measured = {row["way"]: row for row in rows if row["outcome"] == "measured"}
    family = form.split("-")[0]
    name = next((name for name in (REFERENCES[family], _BY_HAND.get(family, "")) if name in measured), None)
    if name is None:
        name = next((way for way in (*(each for each in measured if not each.startswith(OURS)), *measured)), None)
    for row in measured.values():
        row["reference"] = name
        row["ratio"] = _ratio(row, measured[name]) if name else None
    name = next((way for way in measured if way.startswith(OURS)), None)
    if name is not None:
        ours = measured[name]
        others = {way: row for way, row in measured.items() if way != name}
        ours["over"] = {way: _ratio(ours, row) for way, row in others.items()}
        ours["over_first_epoch"] = {way: ours["first_epoch"] / row["first_epoch"] for way, row in others.items()}


def _ratio(row: Row, other: Row) -> float:
    return statistics.median(mine / theirs for mine, theirs in zip(row["by_round"], other["by_round"], strict=True))


# --- the table ----------------------------------------------------------------------------------------------------------

_WIDTHS = (9, 18, 11, 31, 23, 8, 11, 10, 10, 7, 5)
_HEAD = ("data", "stored as", "access", "way", "GB/s", "first", "to first", "private", "predicted", "within", "ratio")
_UNITS = ("", "", "", "", "median (min..max)", "epoch", "batch", "MiB", "MiB", "", "")


def header() -> str:
    lines = []
    for words in (_HEAD, _UNITS):
        cells = [f"{word:<{w}}" if i < 4 else f"{word:>{w}}" for i, (word, w) in enumerate(zip(words, _WIDTHS, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def line(row: Row) -> str:
    """
    >>> print(line({"data": "frames", "stored": "npy", "access": "next", "way": "grain", "outcome": "not installed"}))
    frames     npy                 next         grain                            not installed
    """
    start = "  ".join(f"{row[name]:<{w}}" for name, w in zip(("data", "stored", "access", "way"), _WIDTHS, strict=False))
    if row["outcome"] != "measured":
        return f"{start}  {row['outcome']}"
    rates = row["rates"]
    within = {None: "-", True: "yes", False: "NO"}[row["within"]]
    cells = (
        f"{row['rate']:.2f} ({min(rates):.2f}..{max(rates):.2f})",
        f"{row['first_epoch']:.2f}",
        "-" if row["first_batch"] is None else f"{row['first_batch'] * 1e3:.0f} ms",
        f"{row['growth'] / 2**20:.0f}",
        "-" if row["predicted"] is None else f"{row['predicted'] / 2**20:.0f}",
        within,
        "(ref)" if row["way"] == row["reference"] else "-" if row["ratio"] is None else f"{row['ratio']:.2f}x",
    )
    return start + "  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(cells, _WIDTHS[4:], strict=True))


def footer(rows: list[Row]) -> str:
    """Compare mmapstore in this group, in one line; and say how well the cache was dropped."""
    ours = next((row for row in rows if row.get("over")), None)
    if ours is None:
        return ""
    first = ours["over_first_epoch"]
    over = ", ".join(
        f"{ratio:.2f}x {way} (first epoch {first[way]:.2f}x)" for way, ratio in ours["over"].items() if not way.startswith(OURS)
    )
    reader = f" ({ours['words']})" if ours["words"] else ""
    cached = max((row["still_cached"] or 0 for row in rows if "still_cached" in row), default=0)
    note = f"; {cached:.1%} of the file was still cached" if ours["still_cached"] is not None else ""
    return f"  {ours['way']}{reader} is {over}{note}" if over or note else ""


# --- the command --------------------------------------------------------------------------------------------------------


def wanted(row: tuple[str, ...], words: Sequence[str]) -> bool:
    """Every word, or one of its comma-separated alternatives, begins one of the names of the row; with a $ behind it, is one.

    >>> wanted(("frames", "zarr-zstd", "next", "zarr-python"), ["npy,zarr-zstd", "next"])
    True
    >>> wanted(("frames", "npy", "next", "mmapstore"), ["next", "zarr"])
    False
    >>> [wanted(("frames", "zarr-zstd", "next", "mmapstore to_tf"), ["zarr", word]) for word in ("mmapstore", "mmapstore$")]
    [True, False]
    """
    return all(any(f"{name}$".startswith(tuple(word.split(","))) for name in row) for word in words)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", choices=("default", "all"), default="default")
    parser.add_argument("--access", nargs="+", choices=ACCESSES, default=list(ACCESSES[:3]), help="fit is not in the default")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="WORD",
        help="data, stored form, access or way; all words; a,b: either; a$: a alone",
    )
    parser.add_argument("--cold", action="store_true", help="drop the files from the page cache before each arm: one epoch each")
    parser.add_argument("--quick", action="store_true", help="small data, three forms, one round: shows that it runs, no figures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3, help="in each arm; the first is reported apart")
    parser.add_argument("--samples", type=int, help="of each kind, instead of the usual")
    parser.add_argument("--seed", type=int, default=0, help="of the data and of all orders")
    parser.add_argument("--max-memory", help="given to mmapstore, which refuses what does not fit")
    parser.add_argument(
        "--limit",
        type=parse_bytes,
        help="run each arm under this hard limit of memory, framework included: with --cold, what a file larger than memory does",
    )
    parser.add_argument("--timeout", type=float, default=600, help="seconds after which an arm is given up")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "mmapstore-benchmarks" / "suite")
    parser.add_argument("--json", type=Path, help="write everything here, after each group")
    options = parser.parse_args(given)
    if options.quick:
        options.rounds, options.epochs = 1, 2
    return options


def _groups(options: argparse.Namespace) -> list[tuple[Kind, str, str, list[Peer]]]:
    found = []
    for kind in KINDS.values():
        kind = kind.of(options.samples or (QUICK[kind.name] if options.quick else None))
        for form, about in FORMS.items():
            if kind.name not in about.kinds or (options.quick and form not in ("npy", "h5-gzip", "zarr-zstd") and not options.only):
                continue
            for access in options.access:
                peers = [
                    each
                    for each in PEERS.values()
                    if each.serves(form, access)
                    and (each.default or options.peers == "all")
                    and wanted((kind.name, form, access, each.name), options.only)
                ]
                if peers:
                    found.append((kind, form, access, peers))
    return found


def _missing(modules: Sequence[str]) -> str:
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"not installed: pip install {' '.join(absent)}" if absent else ""


def main(given: Sequence[str] | None = None) -> int:
    options = _arguments(given)
    groups = _groups(options)
    if not groups:
        print(f"nothing is left by --only {' '.join(options.only)}", file=sys.stderr)
        return 2
    settings = {name: getattr(options, name) for name in ("seed", "rounds", "epochs", "cold", "limit")}
    about: dict[str, Any] = {"machine": machine(), **settings}
    rows: list[Row] = []
    sizes: dict[str, Any] = {}
    print(
        f"{about['machine']['processor']}, {about['machine']['cores']} cores; "
        f"{'cold' if options.cold else 'warm'} cache; seed {options.seed}"
    )
    print(header(), flush=True)
    for kind, form, access, peers in groups:
        directory = options.data / f"{kind.name}-{kind.samples}-seed{options.seed}"
        make_array(kind, directory, options.seed)
        absent = _missing(FORMS[form].requires)
        path = directory if absent else make_form(kind, form, directory)
        sizes[f"{kind.name} {form}"] = {"bytes": kind.nbytes, "stored": 0 if absent else nbytes_on_disk(path)}
        job = Job(kind, form, path, access, options.seed, options.max_memory)
        measured = measure_group(job, peers, options, np.load(directory / "sums.npy"))
        compare(measured, form)
        print("\n".join(filter(None, [*map(line, measured), footer(measured)])), flush=True)
        rows += measured
        if options.json:
            options.json.write_text(json.dumps({**about, "sizes": sizes, "rows": rows}, indent=1))
    return int(any("WRONG" in row["outcome"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
