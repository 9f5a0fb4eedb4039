"""`mmapstore ingest SOURCE... OUT`: the command line's side of `ingest`."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from ...plain.manifest import DIRECTORY_MANIFEST, SUFFIX, Manifest
from ...plain.memory_budget import format_bytes
from . import ingest

INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `mmapstore ingest` to a parser made for it."""
    parser.add_argument(
        "source", nargs="+", metavar="SOURCE", help="an array, a directory, a quoted glob, or several files or videos"
    )
    parser.add_argument("out", metavar="OUT", help="frames.npy, frames.h5, frames.h5::/name or frames.zarr")
    parser.add_argument(
        "--layout", default="NCHW", help="axes as written, one letter each; 'keep' for those of the source (default: NCHW)"
    )
    parser.add_argument(
        "--source-layout", help="axes as they come, such as NHWC or NTHWC (default: the usual ones for that many axes)"
    )
    parser.add_argument("--dtype", help="convert to this, such as uint8 or float32; a value that does not fit is an error")
    parser.add_argument("--compression", help="for HDF5 and Zarr: gzip, zstd, blosc ...")
    parser.add_argument("--max-memory", default="256MB", help="bound for private memory (default: 256MB)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT when the new data is whole")
    parser.add_argument("--no-resume", action="store_true", help="forget an interrupted run and start again")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Ingest, and say where the data is and how to open it. Returns 0 or, stopped by Ctrl-C, 130; raises what `ingest` raises."""
    began = time.monotonic()
    try:
        path = ingest(
            args.source[0] if len(args.source) == 1 else list(args.source),
            args.out,
            layout=None if args.layout.lower() == "keep" else args.layout,
            source_layout=args.source_layout,
            dtype=args.dtype,
            compression=args.compression,
            max_memory=args.max_memory,
            overwrite=args.overwrite,
            resume=not args.no_resume,
            progress=False if args.json else None,
        )
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to go on from here.", file=sys.stderr)
        return INTERRUPTED
    found = _summary(path, time.monotonic() - began)
    print(json.dumps(found) if args.json else _line(found))
    return 0


def _summary(path: str, seconds: float) -> dict[str, Any]:
    file = path.partition("::")[0]
    inside = Path(file) / DIRECTORY_MANIFEST
    where = inside if inside.exists() else Path(file + SUFFIX)
    manifest = Manifest.from_json(where.read_text(encoding="utf-8"), str(where))
    fields = {}
    total = 0
    for name, entry in manifest.fields.items():
        data = where.parent / entry.file
        stored = sum(each.stat().st_size for each in data.rglob("*") if each.is_file()) if data.is_dir() else data.stat().st_size
        total += stored
        fields[name] = {
            "samples": entry.shape[0],
            "shape": list(entry.shape[1:]),
            "dtype": entry.dtype.lstrip("<|>="),
            "layout": entry.layout,
            "episodes": len(entry.episodes) - 1,
            "bytes": stored,
        }
    return {"path": path, "fields": fields, "bytes": total, "seconds": round(seconds, 3)}


def _line(found: dict[str, Any]) -> str:
    import numpy as np

    parts = [
        (f"{name} " if len(found["fields"]) > 1 else "")
        + f"{field['samples']} x ({', '.join(map(str, field['shape']))}) {np.dtype(field['dtype'])}"
        for name, field in found["fields"].items()
    ]
    held = sum(
        field["samples"] * math.prod(field["shape"]) * np.dtype(field["dtype"]).itemsize for field in found["fields"].values()
    )
    rate = format_bytes(held / max(found["seconds"], 1e-3))
    return (
        f"{found['path']}: {'; '.join(parts)}, {format_bytes(held)} in {found['seconds']:.1f} s ({rate}/s), "
        f"{format_bytes(found['bytes'])} on disk\n"
        f"open it with: ds = mmapstore.open({found['path']!r})"
    )
