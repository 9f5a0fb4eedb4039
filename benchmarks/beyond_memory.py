"""Data many times larger than memory: shuffled epochs under a hard limit, beside bare reads of the same blocks.

    python -m benchmarks.beyond_memory --data DIR --json beyond-memory.json          # 25 GB in three forms: 55 GB of disk
    python -m benchmarks.beyond_memory --size 500MB --spare 128MB --epochs 2 --rounds 1

The limit is a control group's, and counts all memory, the page cache too: that of the framework alone after one training step, and
`--spare` bytes for everything else. Files are dropped from the page cache before each arm; x is a frame and y the one after it.

    fit           keras.Model.fit over `to_keras`, shuffled; the step reads every bit
    loop          the plain loop over the same batches; every word is added up
    bare reads    blocks as long as ours in random order, read by `preadv`, or past the page cache ("direct"); of chunked data
                  the stored bytes of each chunk that a block touches. Nothing is decoded, copied or added up
    bare decoded  the same, each chunk decoded, in as many threads as there are processors

HDF5 and Zarr (in shards) have chunks of 4 frames, 120 kB: 68 frames hold a block of 64 and the frame behind it. "re-read" is the
bytes that came from the disk over those of the stored form: more than 1 means that bytes are read twice.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmapstore.bench.checksum import checksum, of_batch
from mmapstore.bench.child import Say, baseline, disk_counters, start_libraries, started_model, train
from mmapstore.bench.contract import Task
from mmapstore.bench.derived import USUAL_FRAMEWORK
from mmapstore.bench.generated_data import generated
from mmapstore.bench.strategies import libraries, load
from mmapstore.codecs.chain import decoder_for
from mmapstore.files import page_cache
from mmapstore.files.direct_io import PAGE, room_at
from mmapstore.files.process_memory import private_bytes
from mmapstore.files.stored_files import files_of
from mmapstore.formats.registry import open_stored, split_inside
from mmapstore.plain.memory_budget import format_bytes, parse_bytes
from mmapstore.plain.sample_order import Shuffling

from .measure import machine, report_arm, run_arm
from .stored_data import KEY, KINDS, sharded_zstd

FORMS = ("npy", "h5-gzip", "zarr-zstd")
_CHUNK = 4  # frames
ARMS = ("fit", "loop", "bare reads", "bare reads, direct", "bare decoded")


# --- one process --------------------------------------------------------------------------------------------------------


def measured(arm: str, task: Task, epochs: int, eater: str | None, say: Say) -> dict[str, Any]:
    """The figures of each epoch. `eater`: a file that another process in the same group reads again and again."""
    work = {"fit": _fit, "loop": _loop}.get(arm)
    command = ["sh", "-c", 'while :; do cat "$0" > /dev/null; done', eater]
    beside = subprocess.Popen(command) if eater is not None else None
    try:
        if work is not None:
            return {"epochs": list(work(task, epochs, say)), "predicted": load("mmapstore_shuffled").private(task)}
        baseline(say)
        blocks = _blocks(task)
        read = _decoding(task) if arm == "bare decoded" else _reading(task, arm.endswith("direct"))
        return {"epochs": [_epoch(lambda number=number: _bare(task, blocks, read, number)) for number in range(epochs)]}
    finally:
        if beside is not None:
            beside.kill()


def _epoch(work: Callable[[], tuple[int, int | None]]) -> dict[str, Any]:
    """Run an epoch that returns its bytes of x and y, and their checksum."""
    before, began = disk_counters(), time.perf_counter()
    nbytes, found = work()
    seconds = time.perf_counter() - began
    counted = {name: value - before[name] for name, value in disk_counters().items()}
    return {"seconds": seconds, "nbytes": nbytes, "checksum": found, "private": private_bytes(), **counted}


def _fit(task: Task, epochs: int, say: Say) -> Iterator[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def take(event: str, **fields: Any) -> None:
        if event == "baseline":
            say(event)
        elif event == "epoch":
            found.append(fields)

    train(load("mmapstore_shuffled"), task, epochs, take)
    yield from found


def _loop(task: Task, epochs: int, say: Say) -> Iterator[dict[str, Any]]:
    import mmapstore as mm

    start_libraries(libraries(task))
    started_model(task)  # the limit has room for it, as for `fit`
    baseline(say)
    batches = mm.open(task.path, episodes=task.samples).batches(task.batch, mm.NextFrame(), shuffle=True, seed=task.seed)

    def epoch() -> tuple[int, int]:
        nbytes = total = 0
        for x, y in batches:
            nbytes += x.nbytes + y.nbytes
            total += of_batch(task, x, y)
            del x, y  # lent buffers
        return nbytes, (total + 2**63) % 2**64 - 2**63

    for _ in range(epochs):
        yield _epoch(epoch)


def _blocks(task: Task) -> int:
    """Return the samples in a block of ours."""
    shuffling = Shuffling.of(True, task.nbytes // task.samples)
    assert shuffling is not None
    return shuffling.block


def _bare(task: Task, block: int, read: Callable[[Sequence[tuple[int, int]]], object], epoch: int) -> tuple[int, None]:
    """Read every block, and the sample behind it, in random order, a few blocks at a time."""
    starts = np.arange(0, task.pairs, block)
    np.random.default_rng([task.seed, epoch]).shuffle(starts)
    runs = [(start, min(start + block, task.pairs) + 1) for start in starts.tolist()]
    for at in range(0, len(runs), 8):
        read(runs[at : at + 8])
    return 2 * task.pairs * (task.nbytes // task.samples), None


def _pieces(task: Task) -> Callable[[int, int], Iterator[tuple[str, int, int, Any]]]:
    """Return the function that lists the pieces of samples [start, stop): file, offset, bytes, and the chunk."""
    located = open_stored(*split_inside(task.path)).located
    assert located is not None
    if located.offset is not None:
        sample, offset = task.nbytes // task.samples, located.offset
        return lambda start, stop: iter([(located.root, offset + start * sample, (stop - start) * sample, None)])
    length = located.grid.chunk[0]

    def chunks(start: int, stop: int) -> Iterator[tuple[str, int, int, Any]]:
        for place in located.places(range(start // length, -(-stop // length))):
            assert place is not None
            nbytes = place.nbytes if place.nbytes >= 0 else os.stat(place.path).st_size - place.offset
            yield place.path, place.offset, nbytes, place

    return chunks


class _Files:
    """Read pieces of files into one buffer that is used again."""

    def __init__(self, direct: bool) -> None:
        self._flags = os.O_RDONLY | (os.O_DIRECT if direct else 0)
        self._direct = direct
        self._buffer = np.zeros(1 << 20, np.uint8)
        self._opened: tuple[str, int] = "", -1

    def __call__(self, path: str, offset: int, nbytes: int) -> Any:
        low, high = (offset // PAGE * PAGE, -(-(offset + nbytes) // PAGE) * PAGE) if self._direct else (offset, offset + nbytes)
        if len(self._buffer) < high - low + 2 * PAGE:
            self._buffer = np.zeros(2 * (high - low) + 2 * PAGE, np.uint8)
        room = room_at(self._buffer, low)[: high - low]
        if self._opened[0] != path:
            if self._opened[0]:
                os.close(self._opened[1])
            self._opened = path, os.open(path, self._flags)
        if os.preadv(self._opened[1], [room], low) < offset + nbytes - low:
            raise OSError(f"{path}: a short read at {low}")
        return room[offset - low : offset - low + nbytes]


def _reading(task: Task, direct: bool) -> Callable[[Sequence[tuple[int, int]]], object]:
    pieces, files = _pieces(task), _Files(direct)

    def read(runs: Sequence[tuple[int, int]]) -> None:
        for start, stop in runs:
            for path, offset, nbytes, _ in pieces(start, stop):
                files(path, offset, nbytes)

    return read


def _decoding(task: Task) -> Callable[[Sequence[tuple[int, int]]], object]:
    pieces, cores = _pieces(task), len(os.sched_getaffinity(0))
    located = open_stored(*split_inside(task.path)).located
    assert located is not None
    decoder, why = decoder_for(located.chain, located.dtype, located.grid.chunk)
    if decoder is None:
        raise NotImplementedError(f"nothing of ours decodes {why}")
    nbytes = int(np.prod(located.grid.chunk)) * located.dtype.itemsize
    pool, own = ThreadPoolExecutor(cores), [(_Files(False), np.zeros(nbytes, np.uint8)) for _ in range(cores)]

    def share(number: int, chunks: Sequence[tuple[str, int, int, Any]]) -> None:
        files, out = own[number]
        for path, offset, length, place in chunks[number::cores]:
            decoder.decode(files(path, offset, length), out, place.skipped)

    def read(runs: Sequence[tuple[int, int]]) -> None:
        chunks = [piece for start, stop in runs for piece in pieces(start, stop)]
        list(pool.map(share, range(cores), [chunks] * cores))

    return read


# --- all of them --------------------------------------------------------------------------------------------------------


def stored(form: str, nbytes: int, directory: Path) -> Task:
    """Return the task on generated data in a form, which is made unless it is there."""
    import mmapstore as mm

    task = generated("next", "npy", nbytes, directory)
    source, kind = Path(task.path), KINDS["frames"].of(task.samples)
    if form == "npy":
        return task
    target = source.with_name(f"{form}.{form.split('-')[0]}")
    if not target.exists():
        partial = source.with_name(f"partial-{target.name}")
        if form == "h5-gzip":
            mm.convert(source, f"{partial}::/{KEY}", compression="gzip", chunk_samples=_CHUNK, verify=False, progress=False)
        else:
            sharded_zstd(_CHUNK)(source, partial, kind)
        partial.rename(target)
    return replace(task, form=form, path=f"{target}::/{KEY}")


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_bytes, default=25 * 10**9, help="bytes of data, decoded (default 25GB)")
    parser.add_argument("--spare", type=parse_bytes, default=512 * 10**6, help="bytes of memory over the framework (default 512MB)")
    parser.add_argument("--form", default=",".join(FORMS), help="apart by commas (default %(default)s)")
    parser.add_argument("--arms", default=";".join(ARMS), help="apart by semicolons (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--eater", action="store_true", help="another process in the group reads the .npy again and again")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "mmapstore-benchmarks" / "beyond")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(given)
    limit = USUAL_FRAMEWORK + options.spare
    about = {"machine": machine(), "size": options.size, "limit": limit, "eater": options.eater}
    print(f"{format_bytes(options.size)} of data under a limit of {format_bytes(limit)}, the framework's included")
    print("| stored as | way | GB/s by epoch | of bare | re-read | major faults | private after each, MB | peak | predicted |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for form in options.form.split(","):
        task = stored(form, options.size, options.data)
        expected, files = checksum(task), files_of(Path(split_inside(task.path)[0]))
        nbytes = sum(path.stat().st_size for path in files)
        for turn in range(options.rounds):
            arms = [arm for arm in options.arms.split(";") if arm != "bare decoded" or form != "npy"]
            for arm in arms if turn % 2 == 0 else reversed(arms):
                page_cache.drop(files)
                eater = str(Path(split_inside(task.path)[0]).with_name("data.npy")) if options.eater else None
                spec = {"arm": arm, "task": asdict(task), "epochs": options.epochs, "eater": eater}
                row = {
                    "form": form,
                    "way": arm,
                    "stored": nbytes,
                    **run_arm("benchmarks.beyond_memory", [json.dumps(spec)], 7200, limit),
                }
                if any(epoch.get("checksum") not in (None, expected) for epoch in row.get("epochs", ())):
                    row["failed"], row["error"] = 0, ["WRONG: the checksum of an epoch differs from that of the data"]
                rows.append(row)
                print(f"  round {turn + 1}: {form}, {arm}", file=sys.stderr, flush=True)
        for arm in dict.fromkeys(row["way"] for row in rows if row["form"] == form):
            print(line(form, arm, rows), flush=True)
        if options.json:
            options.json.write_text(json.dumps({**about, "rows": rows}, indent=1))
    return int(any("failed" in row for row in rows))


def line(form: str, arm: str, rows: Sequence[dict[str, Any]]) -> str:
    """Return the row of one way in the table: medians over rounds."""
    mine = [row for row in rows if row["form"] == form and row["way"] == arm]
    if failed := [row for row in mine if "failed" in row]:
        return f"| {form} | {arm} | {failed[0]['error'][0]} |"
    rates = [_rates(row) for row in mine]
    bare = [row for row in rows if row["form"] == form and row["way"].startswith("bare") and "failed" not in row]
    best = max((statistics.median(_rates(row)) for row in bare if row["way"] != "bare decoded"), default=0.0)
    epochs = [epoch for row in mine for epoch in row["epochs"]]
    cells = [
        ", ".join(f"{statistics.median(column):.2f}" for column in zip(*rates, strict=True)),
        f"{statistics.median(rate for row in mine for rate in _rates(row)) / best:.2f}x" if best else "",
        f"{statistics.median(epoch.get('from_disk', 0) for epoch in epochs) / mine[0]['stored']:.3f}",
        str(int(statistics.median(epoch.get("major_faults", 0) for epoch in epochs))),
        ", ".join(f"{(epoch['private'] or 0) / 1e6:.0f}" for epoch in mine[0]["epochs"]),
        f"{max(row['growth'] or 0 for row in mine) / 1e6:.1f} MB",
        f"{mine[0]['predicted'] / 1e6:.1f} MB" if "predicted" in mine[0] else "",
    ]
    return f"| {form} | {arm} | " + " | ".join(cells) + " |"


def _rates(row: dict[str, Any]) -> list[float]:
    return [epoch["nbytes"] / epoch["seconds"] / 1e9 for epoch in row["epochs"]]


def _arm() -> None:
    spec = json.loads(sys.argv[1])
    task = Task(**{**spec["task"], "shape": tuple(spec["task"]["shape"])})
    report_arm(lambda say: measured(spec["arm"], task, spec["epochs"], spec["eater"], say))


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("{"):
        _arm()
    else:
        sys.exit(main())
