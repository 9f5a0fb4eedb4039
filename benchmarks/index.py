"""The cost of opening: the index of 100,000 chunks (time, bytes a chunk), and `import mmapstore` over `import numpy`.

python -m benchmarks.index
python -m benchmarks.index --chunks 10000 --json index.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .measure import machine
from .stored_data import remove

_ROW = 16  # float32 values in a chunk of one row


def _hdf5(path: Path, chunks: int) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=_values(chunks), chunks=(1, _ROW), compression="gzip", compression_opts=1)


def _sharded(path: Path, chunks: int) -> None:
    import zarr

    per_shard = min(chunks, 10_000)
    rows = -(-chunks // per_shard) * per_shard
    stored = zarr.create_group(path).create_array(
        "data", shape=(rows, _ROW), dtype="f4", chunks=(1, _ROW), shards=(per_shard, _ROW)
    )
    values = _values(rows)
    for start in range(0, rows, per_shard):
        stored[start : start + per_shard] = values[start : start + per_shard]


def _values(rows: int) -> Any:
    return np.random.default_rng(0).integers(1, 9, (rows, _ROW)).astype("f4")


STORES = {"HDF5, gzip": (".h5", _hdf5, "h5py"), "Zarr, sharded": (".zarr", _sharded, "zarr")}


def measure_index(path: Path, rounds: int) -> dict[str, Any]:
    """Seconds from before `open` until the index of all chunks is there, and the bytes that the index says it takes."""
    from mmapstore.formats.registry import open_stored

    seconds, nbytes, chunks, why = [], 0, 0, ""
    for _ in range(rounds):
        start = time.perf_counter()
        stored = open_stored(str(path), "data")
        encoded = getattr(stored, "located", None)
        if encoded is None or stored.chunks is None:
            why = getattr(stored, "why_not", "") or "this version builds no index"
            break
        encoded.places(range(0, len(encoded.grid), max(1, len(encoded.grid) // 1000)))  # reaches into every shard
        seconds.append(time.perf_counter() - start)
        nbytes, chunks = encoded.nbytes, len(encoded.grid)
    return {"seconds": seconds, "bytes": nbytes, "chunks": chunks, "why_not": why}


def import_seconds(statement: str) -> float:
    """Of a fresh interpreter that runs the statement, from its start to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""})
    return time.perf_counter() - start


def loaded_by_import() -> list[str]:
    """Frameworks and format libraries that `import mmapstore` has loaded: none is right."""
    names = ("tensorflow", "keras", "torch", "jax", "h5py", "zarr", "numcodecs", "av", "PIL", "deflate", "hdf5plugin")
    script = f"import sys, mmapstore; print([name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return [name for name in names if f"'{name}'" in done.stdout]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--imports", type=int, default=15, help="times each import is measured")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "mmapstore-benchmarks" / "index")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(given)
    options.data.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"machine": machine(), "index": {}}
    for name, (suffix, write, library) in STORES.items():
        if importlib.util.find_spec(library) is None:
            print(f"{name}: not installed: pip install {library}")
            continue
        path = options.data / f"{options.chunks}{suffix}"
        if not path.exists():
            partial = options.data / f"{options.chunks}.partial{suffix}"
            remove(partial)
            write(partial, options.chunks)
            os.replace(partial, path)
        found = result["index"][name] = measure_index(path, options.rounds)
        if found["why_not"]:
            print(f"{name}: no index: {found['why_not']}")
            continue
        seconds = found["seconds"]
        each = found["bytes"] / found["chunks"]
        print(
            f"{name}: {found['chunks']} chunks in {statistics.median(seconds) * 1e3:.0f} ms "
            f"({min(seconds) * 1e3:.0f}..{max(seconds) * 1e3:.0f}), {each:.1f} bytes a chunk"
        )
    pairs = [(import_seconds("import numpy"), import_seconds("import numpy, mmapstore")) for _ in range(options.imports)]
    extra = [ours - numpy for numpy, ours in pairs]
    result["import"] = {"numpy": [numpy for numpy, _ in pairs], "both": [ours for _, ours in pairs], "loaded": loaded_by_import()}
    print(
        f"import mmapstore: {statistics.median(extra) * 1e3:+.0f} ms ({min(extra) * 1e3:+.0f}..{max(extra) * 1e3:+.0f}) over "
        f"import numpy at {statistics.median(numpy for numpy, _ in pairs) * 1e3:.0f} ms; "
        f"frameworks and format libraries loaded: {', '.join(result['import']['loaded']) or 'none'}"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
