"""The time of an epoch by thread, beside the least cost of its bytes: reading them, decoding them, copying them once.

    python -m benchmarks.profile
    python -m benchmarks.profile --only h5-gzip zarr-raw --access shuffled --json profile.json

Seconds of processor time (not of waiting), so that other work on the machine disturbs less; one epoch over `frames`, from a warm
cache, never the first of its process. Divide the sum by the number of cores for the wall time of an epoch that leaves no core idle.
Parts: adding up every word, as a training step would read it; the rest of the main thread; threads that read or gather ahead;
threads that decode; the rest, which is threads that have ended, and those of libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmapstore.files.page_cache import warm
from mmapstore.files.stored_files import files_of

from .floor import chunks_of
from .measure import machine
from .stored_data import FORMS, KEY, KINDS, make_array, make_form, row_sums

ACCESSES = ("next", "shuffled")
_EVERY = 10**9
_TICK = os.sysconf("SC_CLK_TCK")
PARTS = ("adding up", "Python", "ahead", "decoders", "rest")


def processor_seconds() -> dict[str, float]:
    """Of this thread, of the threads of ours by name, and of all the rest."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    found: dict[str, float] = defaultdict(float)
    for task in Path("/proc/self/task").iterdir():
        try:
            fields = (task / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        name = names.get(int(task.name), "")
        if name.startswith("mmapstore-"):
            found["ahead" if "ahead" in name else "decoders"] += (int(fields[11]) + int(fields[12])) / _TICK
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found["Python"] = time.thread_time()
    found["rest"] = usage.ru_utime + usage.ru_stime - sum(found.values())
    return found


def epoch_of(batches: Any) -> dict[str, float]:
    """Seconds of one epoch, every word of which is added up as the suite does it."""
    before, start, adding = processor_seconds(), time.perf_counter(), 0.0
    for x, y in batches:
        begin = time.thread_time()
        for array in (x, y):
            row_sums(array)
        adding += time.thread_time() - begin
        del x, y  # lent buffers: held here, they would be one batch more alive while the next is read
    wall, after = time.perf_counter() - start, processor_seconds()
    spent = {part: max(0.0, after[part] - before[part]) for part in PARTS[1:]}
    return {"wall": wall, "adding up": adding, **spent, "Python": spent["Python"] - adding}


def least(path: Path, kind: Any, access: str) -> dict[str, float]:
    """Processor seconds in one thread: every stored byte read once, every chunk decoded once, what is gathered copied once."""

    def timed(work: Callable[[], object]) -> float:
        begin = time.thread_time()
        work()
        return time.thread_time() - begin

    buffer = np.zeros(2**21, np.uint8)

    def read() -> None:
        for file in files_of(path):
            with file.open("rb", buffering=0) as stream:
                while stream.readinto(buffer):
                    pass

    found = {"read": timed(read), "decode": 0.0, "copy": 0.0}
    chunks = chunks_of(path, _EVERY) if path.suffix != ".npy" else None
    if chunks is not None and (decode := chunks.decode) is not None:
        out = np.zeros(chunks.nbytes, np.uint8)
        found["decode"] = timed(lambda: [decode(chunk, out) for chunk in chunks.stored])
    if access == "shuffled":
        one, other = np.ones((2, kind.batch, *kind.shape), np.float32)
        count = 2 * kind.samples // kind.batch  # x and y
        found["copy"] = timed(lambda: [np.copyto(other, one) for _ in range(count)])
    return found


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=["npy", "h5-gzip", "zarr-raw", "zarr-zstd"], choices=FORMS)
    parser.add_argument("--access", nargs="*", default=list(ACCESSES), choices=ACCESSES)
    parser.add_argument("--epochs", type=int, default=5, help="after the first, which is not counted; the median is printed")
    parser.add_argument("--samples", type=int, help="frames of the data, instead of the usual")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "mmapstore-benchmarks" / "suite")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(given)
    import mmapstore as mm

    kind = KINDS["frames"].of(options.samples)
    directory = options.data / f"{kind.name}-{kind.samples}-seed{options.seed}"
    make_array(kind, directory, options.seed)
    rows = []
    print(f"{'':27}{'an epoch, seconds: wall = what the threads did':^58}{'at least, in one thread':^28}")
    print(f"{'stored as':16}{'access':11}" + "".join(f"{name:>10}" for name in ("wall", *PARTS, "read", "decode", "copy")))
    for form in options.only:
        path = make_form(kind, form, directory)
        warm(files_of(path))
        for access in options.access:
            dataset = mm.open(str(path), key=None if form == "npy" else KEY)
            batches = dataset.batches(kind.batch, mm.NextFrame(), shuffle=access == "shuffled" and kind.shuffle, seed=options.seed)
            epochs = [epoch_of(batches) for _ in range(1 + options.epochs)][1:]
            row: dict[str, Any] = {name: statistics.median(epoch[name] for epoch in epochs) for name in ("wall", *PARTS)}
            row |= least(path, kind, access)
            print(f"{form:16}{access:11}" + "".join(f"{seconds:10.2f}" for seconds in row.values()), flush=True)
            rows.append({"stored": form, "access": access, **row, "epochs": epochs})
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "seed": options.seed, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
