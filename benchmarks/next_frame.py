"""Next-frame epochs of `fit` from a warm .npy: the strategies of `mmapstore bench` in turns, and mmapstore's time over theirs.

    python -m benchmarks.next_frame                       all strategies, float32
    python -m benchmarks.next_frame --dtype uint8 --json out.json

`mmapstore bench` runs each strategy once. Here they take turns in rounds, so that drift of the machine meets all alike. The
pipelines without `fit` are in the suite: `python -m benchmarks.suite --only frames npy next`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mmapstore.bench import running, strategies
from mmapstore.bench.contract import Row
from mmapstore.bench.derived import counted, finished, outcome, signed
from mmapstore.bench.generated_data import generated
from mmapstore.plain.memory_budget import parse_bytes

from .measure import machine, spread

IN_RAM, BY_HAND = ("array_in_ram", "from_tensor_slices"), ("sequence", "batched_generator")
OURS, SHUFFLED = ("mmapstore_keras", "mmapstore_tf"), ("mmapstore_shuffled",)
STRATEGIES = (*IN_RAM, "fit_memmap", *BY_HAND, *OURS, *SHUFFLED)


def report(rows: dict[str, list[Row]]) -> None:
    """Print seconds an epoch and private memory of each strategy, and the ratios of the fastest of each group."""
    print(f"  {'':36}{'seconds an epoch: median (min to max)':>40}{'private memory':>18}")
    medians = {}
    for name, runs in rows.items():
        if wrong := [outcome(row) for row in runs if not finished(row)]:
            print(f"  {strategies.load(name).title:36}{wrong[0]}")
            continue
        seconds = [epoch.seconds for row in runs for epoch in counted(row)]
        medians[name] = statistics.median(seconds)
        private = max(row.private or 0 for row in runs)
        print(f"  {strategies.load(name).title:36}{spread(seconds):>40}{signed(private):>18}")
    for words, ours, peers in (
        ("mmapstore against the fastest in RAM", OURS, IN_RAM),
        ("mmapstore against the fastest by hand", OURS, BY_HAND),
        ("mmapstore shuffled against the fastest in RAM, unshuffled", SHUFFLED, IN_RAM),
    ):
        mine, other = (min((medians[name] for name in names if name in medians), default=None) for names in (ours, peers))
        if mine and other:
            print(f"  {words}: {mine / other:.2f}x the time")


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", help="stored dtype: float32, float64 (Keras casts it) or uint8")
    parser.add_argument("--size", default="600MB", help="of the data (default: 600MB)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--only", nargs="*", default=STRATEGIES, choices=STRATEGIES, help="names of strategies")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "mmapstore-benchmarks")
    parser.add_argument("--json", type=Path, help="write all rows here")
    options = parser.parse_args(given)
    task = generated("next", "npy", parse_bytes(options.size), options.data, dtype=options.dtype)
    rows: dict[str, list[Row]] = {name: [] for name in options.only}
    for turn in range(options.rounds):
        for name in options.only if turn % 2 == 0 else reversed(options.only):
            print(f"  round {turn + 1} of {options.rounds}: {name}", file=sys.stderr)
            rows[name].append(running.run(name, task, epochs=options.epochs))
    report(rows)
    if options.json:
        found = {name: [asdict(row) for row in runs] for name, runs in rows.items()}
        options.json.write_text(json.dumps({"machine": machine(), "dtype": options.dtype, "rows": found}, indent=1))
    return int(any(not finished(row) for runs in rows.values() for row in runs))


if __name__ == "__main__":
    raise SystemExit(main())
