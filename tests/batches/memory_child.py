"""Run in a child process: an epoch or more, and how far private memory rose above what it was before. Prints JSON.

Arguments: JSON of {"open": [source, options], "batches": options, "batches_read": how many or null}, and
"epochs": how many, 1 unless told; "cache": a directory, to read through a cache.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import mmapstore as mm


def private_bytes() -> int:
    """Memory that is this process's own: anonymous, or shared with nobody but its children. Not pages of files."""
    found = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(("RssAnon:", "RssShmem:")):
            found += int(line.split()[1]) * 1024
    return found


def doubled(x: Any, y: Any) -> Any:
    time.sleep(0.005)  # long enough that several threads have a batch each
    return x * 2, y * 2


def target_of(name: str | None) -> Any:
    return {"next": mm.NextFrame(), "window": mm.Window(2, 1, lead=20, stride=30)}.get(name or "")


def main() -> None:
    asked = json.loads(sys.argv[1])
    source, options = asked["open"]
    ds = mm.open(source, **options)
    ds[0]  # loads the format's library, and whatever it sets up once
    if "cache" in asked:
        ds = ds.cache(asked["cache"])
    options = asked["batches"]
    # "mixed": "batches" or "samples", for a mixture with others of the same data
    kept = options.pop("kept", 1)  # the part of samples that are selected
    if kept < 1:
        ds = ds.select(np.random.default_rng(0).random(len(ds)) < kept)
    options["target"] = target_of(options.get("target"))
    if "transform_workers" in options:
        options["transform"] = doubled
    before = private_bytes()
    mixed = options.pop("mixed", None)
    b = ds.batches(**options)
    if mixed is not None:
        b = mm.mix([b, ds.batches(**options, seed=1)], [2, 1], within_batch=mixed == "samples")
    predicted = b.memory.total
    peak, stop = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.002):
            peak = max(peak, private_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    total, count = 0.0, 0
    for batch in itertools.chain.from_iterable(b for _ in range(asked.get("epochs", 1))):
        for array in batch if isinstance(batch, tuple) else (batch,):
            total += float(np.add.reduce(array, axis=None, dtype="f8"))
        count += 1
        peak = max(peak, private_bytes())
        if count == asked.get("batches_read"):
            break
    stop.set()
    watcher.join()
    print(
        json.dumps({"predicted": predicted, "measured": peak - before, "parts": b.memory.parts, "total": total, "batches": count})
    )


if __name__ == "__main__":
    main()
