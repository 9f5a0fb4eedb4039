"""A process of its own that opens and reads what it is told to, and says what came of it, one line for each line it is given.

What kills, hangs or bloats it harms nobody else.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import resource
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import mmapstore as mm
from mmapstore.plain.errors import MmapstoreError

SECONDS = 10  # of computing
WAITING = 150  # seconds in all, for what waits and computes nothing
ADDRESSES = 1 << 30  # that may be taken beside what the libraries have taken when loaded
SMALL = 1 << 20


def digest_of_everything(source: Any, **options: Any) -> tuple[list[int], str, str]:
    """Shape, dtype and SHA-256 of the values, read as a whole, and a shuffled batch of them, which must agree.

    Of data that declares to be large, as no file here is, the first and last sample and a batch.
    """
    dataset = mm.open(source, **options)
    shape, dtype = list(dataset.shape), dataset.dtype.str
    if dataset.nbytes > SMALL:
        if dataset.nbytes // len(dataset) <= SMALL:
            for at in (0, len(dataset) - 1):
                dataset[at]
        with contextlib.suppress(MmapstoreError):
            dataset.batches(2, shuffle=True, seed=1, max_memory="64MB")[0]
        return shape, dtype, "not read as a whole"
    whole = np.asarray(dataset[0 : len(dataset)])
    batch = dataset.batches(min(4, len(dataset)), shuffle=True, seed=1)[0]
    if list(whole.shape) != shape or whole.dtype.str != dtype:
        raise AssertionError(f"declared {shape} {dtype}, gave {whole.shape} {whole.dtype}")
    rows = {row.tobytes() for row in whole}
    if any(row.tobytes() not in rows for row in batch):
        raise AssertionError("a batch holds rows that reading everything does not give")
    return shape, dtype, hashlib.sha256(whole.tobytes()).hexdigest()


def outcome(source: Any, options: dict[str, Any]) -> dict[str, Any]:
    try:
        shape, dtype, digest = digest_of_everything(source, **options)
    except MmapstoreError as error:
        return {"kind": "refused", "error": type(error).__name__, "text": str(error)}
    except BaseException as error:
        return {"kind": "broken", "error": type(error).__name__, "text": str(error)[:1000]}
    return {"kind": "read", "shape": shape, "dtype": dtype, "digest": digest}


def main() -> None:
    warnings.simplefilter("ignore")
    for library in ("h5py", "hdf5plugin", "zarr", "numcodecs", "imagecodecs", "concurrent.futures.thread"):
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ADDRESSES, resource.RLIM_INFINITY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for line in sys.stdin:
        source, options = json.loads(line)
        # With no handlers, so that they also end what never returns to Python.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(WAITING)
        found = outcome(source, options)
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["grown_kib"], before = peak - before, peak
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
