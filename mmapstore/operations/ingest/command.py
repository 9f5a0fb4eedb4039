"""`mmapstore ingest SOURCE... OUT`: the command line's side of `ingest`."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from ...files.stored_files import nbytes_on_disk
from ...plain.manifest import DIRECTORY_MANIFEST, SUFFIX, Manifest
from ...plain.memory_budget import format_bytes
from . import archive_options, ingest
from .estimate import require_epochs
from .images import options as image_options
from .images.order import order_words

_MOST_NAMED = 10
INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `mmapstore ingest` to a parser made for it."""
    parser.usage = "%(prog)s [OPTION ...] SOURCE [SOURCE ...] OUT"  # with all options named, errors would stand below 24 lines
    parser.add_argument("source", nargs="+", metavar="SOURCE", help="an array, a directory, a quoted glob, or several files")
    parser.add_argument(
        "out", metavar="OUT", help="frames.npy, frames.h5, frames.h5::/name or frames.zarr; for several fields also a directory"
    )
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
    parser.add_argument("--append", action="store_true", help="add the samples to what is at OUT, as new episodes")
    parser.add_argument("--no-resume", action="store_true", help="forget an interrupted run and start again")
    parser.add_argument(
        "--dry-run", action="store_true", help="write nothing; tell samples, bytes, memory, and the time, measured for 2 seconds"
    )
    parser.add_argument("--epochs", type=int, help="with --dry-run: tell whether ingesting pays for that many epochs")
    parser.add_argument(
        "--train-seconds", type=float, default=0.0, help="with --epochs: what an epoch of the training itself takes (default: 0)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    image_options.add_arguments(parser)
    archive_options.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Ingest, and say where the data is and how to open it. Returns 0 or, stopped by Ctrl-C, 130; raises what `ingest` raises."""
    began = time.monotonic()
    try:
        source = archive_options.source_from(args) or image_options.source_from(args)
        if source is None:
            source = args.source[0] if len(args.source) == 1 else list(args.source)
        options: dict[str, Any] = {
            "layout": None if args.layout.lower() == "keep" else args.layout,
            "source_layout": args.source_layout,
            "dtype": args.dtype,
            "compression": args.compression,
            "max_memory": args.max_memory,
            "overwrite": args.overwrite,
            "append": args.append,
        }
        if args.dry_run or args.epochs is not None:
            require_epochs(args.epochs, args.train_seconds, args.dry_run)
            estimated = ingest(source, args.out, **options, dry_run=True, epochs=args.epochs, train_seconds=args.train_seconds)
            print(json.dumps(estimated.to_json()) if args.json else estimated)
            return 0
        path = ingest(source, args.out, **options, resume=not args.no_resume, progress=False if args.json else None)
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
    skipped: list[str] = []
    order: list[dict[str, Any]] = []
    for name, entry in manifest.fields.items():
        skipped = skipped or list((entry.notes or {}).get("skipped", ()))
        order = order or (entry.notes or {}).get("order", [])[-1:]  # of what this call wrote
        fields[name] = {
            "samples": entry.shape[0],
            "shape": list(entry.shape[1:]),
            "dtype": entry.dtype.lstrip("<|>="),
            "layout": entry.layout,
            "episodes": len(entry.episodes) - 1,
            # Fields that share a file have the bytes of all of it.
            "bytes": nbytes_on_disk(where.parent / entry.file / entry.key if Path(file).is_dir() else where.parent / entry.file),
        }
    total = sum(nbytes_on_disk(where.parent / name) for name in {entry.file for entry in manifest.fields.values()})
    found = {"path": path, "fields": fields, "bytes": total, "seconds": round(seconds, 3)}
    if order_words(order):
        found["order"] = {**order[0], "words": order_words(order)}
    return {**found, "skipped": skipped} if skipped else found


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
    skipped = found.get("skipped", ())
    named = ", ".join(skipped[:_MOST_NAMED])
    more = " ... (the manifest names all)" if len(skipped) > _MOST_NAMED else ""
    left_out = f"\nskipped {len(skipped)}, broken or unmatched: {named}{more}" if skipped else ""
    order = f"\n{found['order']['words']}" if "order" in found else ""
    return (
        f"{found['path']}: {'; '.join(parts)}, {format_bytes(held)} in {found['seconds']:.1f} s ({rate}/s), "
        f"{format_bytes(found['bytes'])} on disk{order}\n"
        f"open it with: ds = mmapstore.open({found['path']!r}){left_out}"
    )
