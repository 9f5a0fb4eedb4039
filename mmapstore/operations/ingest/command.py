"""The command `mmapstore ingest SOURCE... OUT`."""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from ...batches.labels import class_counts, class_words, label_field
from ...batches.opening import open_quietly
from ...files.stored_files import nbytes_on_disk
from ...files.stored_manifest import read_manifest
from ...plain.inside_names import file_of
from ...plain.manifest import DIRECTORY_MANIFEST, SUFFIX
from ...plain.memory_budget import format_bytes
from ..command_options import RESUMABLE, add_options, engine_of, keywords, refuse_options
from ..flow.engines import THREADS
from . import archive_options, ingest
from .estimate import Estimate, require_epochs
from .images import options as image_options
from .images.order import order_words
from .video import Videos

_MOST_NAMED = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `mmapstore ingest`."""
    parser.usage = "%(prog)s [OPTION ...] SOURCE [SOURCE ...] OUT"  # with all options named, errors would stand below 24 lines
    parser.add_argument("source", nargs="+", metavar="SOURCE", help="an array, a directory, a quoted glob, or several files")
    parser.add_argument(
        "out", metavar="OUT", help="frames.npy, frames.h5, frames.h5::/name or frames.zarr; for several fields also a directory"
    )
    add_options(
        parser, "--layout", "--source-layout", "--dtype", "--compression", "--max-memory", "--overwrite",
        layout="axes of the output, one letter each; 'keep' for those of the source (default: NCHW)",
        dtype="dtype of the output, such as uint8 or float32; a value that does not fit is an error (default: that of the source)",
    )  # fmt: skip
    parser.set_defaults(layout="NCHW", interrupted=RESUMABLE)
    parser.add_argument("--append", action="store_true", help="add the samples to existing output, as new episodes")
    add_options(parser, "--no-resume", "--dry-run", dry_run="write nothing; print samples, size, memory, and time, from 2 seconds")
    parser.add_argument("--epochs", type=int, metavar="N", help="with --dry-run: tell if ingesting is faster over N epochs")
    parser.add_argument(
        "--train-seconds", type=float, default=0.0, metavar="S", help="with --epochs: seconds of training in an epoch (default: 0)"
    )
    add_options(parser, "--json", "--engine", "--scheduler")
    image_options.add_arguments(parser)
    archive_options.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Ingest, and print where the data is and how to open it. Returns 0; raises what `ingest` raises."""
    began = time.monotonic()
    options = keywords(ingest, args, layout=None if args.layout.lower() == "keep" else args.layout, engine=engine_of(args))
    if options["engine"] != THREADS:
        refuse_options(
            args, ["max_pixels"], "is a setting of this process, and not of the workers of --engine. Leave one of them out."
        )
    for name in ("order", "seed"):  # of Images, which has them from `args`
        options.pop(name, None)
    if (source := archive_options.source_from(args)) is not None:
        options.update(source=source, source_layout=args.source_layout if isinstance(source, Videos) else None)
    elif (images := image_options.source_from(args)) is not None:
        options.update(source=images, dtype=None)
    elif len(args.source) == 1:
        options["source"] = args.source[0]
    options["dry_run"] = args.dry_run or args.epochs is not None
    require_epochs(args.epochs, args.train_seconds, args.dry_run)
    done: Estimate | str = ingest(**options)
    if isinstance(done, Estimate):
        print(json.dumps(done.to_json()) if args.json else done)
        return 0
    found = _summary(done, time.monotonic() - began)
    print(json.dumps(found) if args.json else _line(found))
    return 0


def _summary(path: str, seconds: float) -> dict[str, Any]:
    file = file_of(path)
    inside = Path(file) / DIRECTORY_MANIFEST
    where = inside if inside.exists() else Path(file + SUFFIX)
    manifest = read_manifest(where)
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
    for entry in manifest.fields.values():
        if "memory" in (entry.provenance or {}):  # of an engine
            found["memory"] = (entry.provenance or {})["memory"]
    if order_words(order):
        found["order"] = {**order[0], "words": order_words(order)}
    if (labels := label_field(open_quietly(path))) is not None:
        found["classes"] = {"field": labels[0], "counts": class_counts(labels[1]), "words": class_words(*labels)}
    return {**found, "skipped": skipped} if skipped else found


def _line(found: dict[str, Any]) -> str:
    parts = [
        (f"{name} " if len(found["fields"]) > 1 else "")
        + f"{field['samples']} x ({', '.join(map(str, field['shape']))}) {np.dtype(field['dtype'])}"
        for name, field in found["fields"].items()
    ]
    held = sum(
        field["samples"] * math.prod(field["shape"]) * np.dtype(field["dtype"]).itemsize for field in found["fields"].values()
    )
    lines = [
        f"{found['path']}: {'; '.join(parts)}, {format_bytes(held)} in {found['seconds']:.1f} s "
        f"({format_bytes(held / max(found['seconds'], 1e-3))}/s), {format_bytes(found['bytes'])} on disk"
    ]
    if "classes" in found:
        lines.append(found["classes"]["words"])
    if "order" in found:
        lines.append(found["order"]["words"])
    if "memory" in found:
        peak, predicted = map(format_bytes, found["memory"].values())
        lines.append(f"memory: at most {peak} in a process, of {predicted} predicted")
    lines.append(f"open it with: ds = mmapstore.open({found['path']!r})")
    if skipped := found.get("skipped"):
        more = " ... (the manifest names all)" if len(skipped) > _MOST_NAMED else ""
        lines.append(f"skipped {len(skipped)}, broken or unmatched: {', '.join(skipped[:_MOST_NAMED])}{more}")
    return "\n".join(lines)
