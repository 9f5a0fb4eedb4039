"""Conversion in parts on many workers: the cost of a plan, of a region and of the end, and a simulation of 1,000 workers.

    python -m benchmarks.parts
    python -m benchmarks.parts --regions 1000000 --workers 1000 --json parts.json

The plan, its regions and parts are those of `convert`; its source is a sparse file of the size that so many regions have. The
simulation draws the seconds of each region (log-normal, median 1), workers that are slow throughout, and workers that are killed
and begin their region again after a minute; it compares a part for each worker, more parts than workers, and regions that workers
take as they come (engine=). With `distributed` installed, the overhead of a task is measured on two local workers.
"""

from __future__ import annotations

import argparse
import collections
import heapq
import json
import pickle
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import mmapstore as mm
from mmapstore.operations.convert.parts import Parts, do_part, finish_parts, plan_parts
from mmapstore.operations.convert.request import Request
from mmapstore.operations.flow import engines
from mmapstore.operations.flow.parts import Receipt
from mmapstore.operations.flow.receipts import Part, Receipts
from mmapstore.operations.flow.target import Target
from mmapstore.plain.content_digest import content_sha256

from .measure import machine

AS_IT_IS = Request(None, None, "exact", None, None, None, None, False)
_FILE_EVENTS = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}


def sparse(path: Path, samples: int) -> None:
    """Write an .npy file of zeros, 8 MiB a sample, that takes no space."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (samples, 2, 1024, 1024)})
        file.truncate(file.tell() + samples * (8 << 20))


def cost_of_a_plan(folder: Path, regions: int, workers: int) -> dict[str, Any]:
    """Seconds and bytes of a plan of so many regions of 8 MiB, and of finding a region and a part in it."""
    sparse(folder / "sparse.npy", regions)
    began = time.perf_counter()
    plan = plan_parts(folder / "sparse.npy", folder / "sparse.zarr", AS_IT_IS, count=workers, region_nbytes=8 << 20)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    for number in range(0, len(plan), max(1, len(plan) // 1000)):
        plan.region(number)
    region = (time.perf_counter() - began) / min(1000, len(plan))
    return {"regions": len(plan), "plan s": seconds, "plan bytes": len(pickle.dumps(plan)), "region us": 1e6 * region}


@contextmanager
def counted_file_events() -> Iterator[collections.Counter[str]]:
    """Count the calls of the operating system that a parallel file system's metadata server sees, as Python audits them."""
    found: collections.Counter[str] = collections.Counter()
    is_on = True

    def hook(event: str, arguments: Any) -> None:
        if is_on and event in _FILE_EVENTS and not str(arguments[0]).startswith(("/proc", "/sys", sys.prefix)):
            found[event] += 1

    sys.addaudithook(hook)
    yield found
    is_on = False


def cost_of_a_part(folder: Path) -> dict[str, Any]:
    """File events of joining a conversion, and of each region (of 256 MiB, 8 MiB a chunk); bytes of a receipt."""
    sparse(folder / "a.npy", 128)
    plan = plan_parts(folder / "a.npy", folder / "a.zarr", AS_IT_IS, count=4)
    counts = []
    for part in (Part(0, 4), Part(1, 2)):  # of one region, of two
        with counted_file_events() as found:
            do_part(plan_parts(folder / "a.npy", folder / "a.zarr", AS_IT_IS, count=4), part, engines.THREADS)
        counts.append(sum(found.values()))
    do_part(plan, Part(0, 1), engines.THREADS)
    receipt = max(
        (len(json.dumps(found)) for found in Receipts(Target.of(str(folder / "a.zarr"), False), plan.mark).read()), default=0
    )
    began = time.perf_counter()
    manifest, _ = finish_parts(plan, overwrite=False)
    seconds = time.perf_counter() - began
    assert manifest.fields["data"].sha256 == content_sha256(np.zeros((128, 2, 1024, 1024), "<f4"))
    each = counts[1] - counts[0]
    return {"to join": counts[0] - each, "a region": each, "receipt bytes": receipt, "finish s": seconds}


def cost_of_the_end(folder: Path, plan: Parts, parts: int) -> dict[str, float]:
    """Seconds to read and merge the receipts of all regions, which `parts` processes have left."""
    receipts = Receipts(Target.of(plan.out, False), plan.mark)
    for index in range(parts):
        own = Receipts(Target.of(plan.out, False), plan.mark)
        lines = [
            Receipt(plan.mark, n, {"data": ["0" * 8]}, {"data": {n: bytes(32)}}).to_json()
            for n in Part(index, parts).regions(len(plan))
        ]
        own.add(Part(index, parts), *lines)
    began = time.perf_counter()
    found = [Receipt.from_json(each) for each in receipts.read()]
    return {"receipts": len(found), "read s": time.perf_counter() - began}


def simulated(plan: Parts, workers: int, seed: int) -> dict[str, float]:
    """Seconds until all regions are done, over the seconds that workers without faults would take, for both ways of sharing."""
    chance = random.Random(seed)
    slow = [10.0 if chance.random() < 0.01 else 1.0 for _ in range(workers)]
    seconds = [chance.lognormvariate(0, 0.3) for _ in range(len(plan))]
    killed = [60.0 + second * chance.random() if chance.random() < 0.001 else 0.0 for second in seconds]
    least = sum(seconds) / workers

    def shared(parts: int) -> float:
        free = [(0.0, index) for index in range(workers)]
        for share in range(parts):
            at, index = heapq.heappop(free)
            taken = sum(slow[index] * seconds[number] + killed[number] for number in Part(share, parts).regions(len(plan)))
            heapq.heappush(free, (at + taken, index))
        return max(free)[0] / least

    return {"a part for each": shared(workers), "20 parts for each": shared(20 * workers), "engine": shared(len(plan))}


def nothing(plan: int, number: int) -> int:
    return number


def cost_of_a_task(tasks: int = 1000) -> dict[str, float]:
    """Milliseconds of a task that does nothing, on two Dask workers and on two processes."""
    import distributed

    found = {}
    local = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with local as cluster, distributed.Client(cluster) as client, engines.opened(engines.PROCESSES) as processes:
        for name, engine in (("dask", client), ("processes", processes)):
            list(engines.results(engine, nothing, 0, range(20), 0))  # workers are started
            began = time.perf_counter()
            assert len(list(engines.results(engine, nothing, 0, range(tasks), 0))) == tasks
            found[f"{name} ms"] = 1e3 * (time.perf_counter() - began) / tasks
    return found


def decoding(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds that gzip HDF5 takes into .npy with threads and with as many processes, in turns."""
    import h5py

    values = np.random.default_rng(0).integers(0, 255, (1024, 3, 100, 100)).astype("f4")
    with h5py.File(folder / "b.h5", "w") as file:
        data = file.create_dataset("x", (16 * 1024, 3, 100, 100), "f4", chunks=(16, 3, 100, 100), compression="gzip")
        for at in range(0, len(data), 1024):
            data[at : at + 1024] = values
    found: dict[str, list[float]] = {"threads": [], "processes": []}
    for _ in range(rounds):
        for engine, seconds in found.items():
            began = time.perf_counter()
            mm.convert(folder / "b.h5", folder / "b.npy", engine=engine, overwrite=True, progress=False)
            seconds.append(time.perf_counter() - began)
    return {**found, "ratio": float(np.median(found["threads"]) / np.median(found["processes"]))}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.parts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--regions", type=int, default=1_000_000, help="in the plan (default %(default)s)")
    parser.add_argument("--workers", type=int, default=1000, help="in the simulation (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="conversions by each engine; 0 for none (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation (default %(default)s)")
    parser.add_argument("--data", help="directory for 4 GB of data (default: the temporary directory)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.data) as name:
        folder = Path(name)
        rows["plan"] = cost_of_a_plan(folder, options.regions, options.workers)
        plan = plan_parts(
            folder / "sparse.npy", folder / "sparse.zarr", AS_IT_IS, count=options.workers, region_nbytes=8 << 20
        )  # fmt: skip
        rows["part"] = cost_of_a_part(folder)
        rows["end"] = cost_of_the_end(folder, plan, options.workers)
        rows["simulation"] = simulated(plan, options.workers, options.seed)
        if options.rounds:
            rows["task"] = cost_of_a_task()
            rows["decoding"] = decoding(folder, options.rounds)
    for name, figures in rows.items():
        words = (f"{key} {value:.4g}" if isinstance(value, (int, float)) else f"{key} {value}" for key, value in figures.items())
        print(f"{name}: {', '.join(words)}")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
