"""The diagnosis of a folder of image files: every epoch opens and decodes each file, where an ingested copy is mapped."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import time

from ..bench import strategies
from ..bench.contract import Task
from ..files.process_memory import memory_available
from ..operations.ingest.contract import Position
from ..operations.ingest.images.files import images_in_folder
from ..operations.ingest.images.form import FULL_SCALE
from ..operations.ingest.images.header import read_header
from ..operations.ingest.images.images import Images
from ..plain.display import format_duration
from ..plain.memory_budget import format_bytes
from .diagnosis import Diagnosis
from .findings import SLOW, Finding
from .frameworks import Frameworks
from .remedies import free_name
from .routes import predicted
from .speeds import copy_speed

_SAMPLED = 256  # files that stand for all
_SECONDS = 1.0


def examine_images(path: str, frameworks: Frameworks, batch: int, quick: bool) -> Diagnosis:
    """Judge a folder of images. Raises what reading images raises: a broken one among those sampled, Pillow missing."""
    listed = images_in_folder(path)
    count, step = len(listed.paths), max(1.0, len(listed.paths) / _SAMPLED)
    sampled = [listed.paths[int(k * step)] for k in range(min(count, _SAMPLED))]
    headers = [read_header(each) for each in sampled]
    sizes = sorted({header.size for header in headers})
    heights, widths = (sorted(header.size[axis] for header in headers) for axis in (0, 1))
    size = None if len(sizes) == 1 else (heights[len(heights) // 2], widths[len(widths) // 2])
    dtypes = {header.dtype for header in headers}
    differ = len(dtypes) > 1 or any(header.is_reduced for header in headers)
    dtype = "uint8" if differ and dtypes <= FULL_SCALE.keys() else None  # as Keras reads files of 8 and of 16 bits
    chosen = Images(sampled, size=size, dtype=dtype, labels=None, skip_broken=True, masks=False)
    shape, decoded = chosen.specs["image"].sample_shape, chosen.specs["image"].dtype
    nbytes = count * math.prod(shape) * decoded.itemsize
    seconds = None
    if not quick:  # decoded in as many threads as there are processors
        began, done = time.perf_counter(), 0
        with contextlib.closing(chosen.pieces(Position(), 16)) as pieces:  # type: ignore[type-var]
            for piece in pieces:
                done += len(piece.fields["image"])
                if time.perf_counter() - began > _SECONDS:
                    break
        seconds = (time.perf_counter() - began) / max(1, done) * count
    stored = sum(os.path.getsize(each) for each in sampled) * count // len(sampled)
    words = [path, free_name(f"{os.path.normpath(path)}-ingested", ".npy" if listed.labels is None else "")]
    words += ["--size", _words(size)] * (size is not None) + ["--dtype", dtype or ""] * (dtype is not None)
    finding = Finding(
        "images",
        SLOW,
        f"each epoch opens and decodes {count} files"
        + ("" if seconds is None else f", which takes {format_duration(seconds)} in all threads of this machine"),
        shlex.join(["mmapstore", "ingest", *words]),
        f"decoded once, then mapped, for {format_bytes(nbytes)} on disk (the files have {format_bytes(stored)}); "
        "--dry-run --epochs N predicts from which epoch that is faster"
        + ("; some have 16 bits, of which --dtype uint8 keeps the upper 8" if dtype else ""),
        None if seconds is None else max(0.0, seconds - nbytes / copy_speed()),
        nbytes,
    )
    task = Task("images", "folder", path, count, shape, decoded.name, batch=batch)
    available = memory_available()
    classes = f" in {len(listed.classes)} classes" if listed.classes else ""
    sized = _words(sizes[0]) if size is None else f"of sizes from {_words(sizes[0])} to {_words(sizes[-1])}"
    return Diagnosis(
        path=path,
        what=f"{path}: {count} images{classes}, {sized}; decoded {shape} {decoded}, {format_bytes(nbytes)}; in batches of {batch}",
        read="file by file, each decoded again in every epoch, by Keras or in your own code; mmapstore ingests them first",
        findings=(finding,),
        routes=tuple(predicted(dict.fromkeys(strategies.serving(task), task), available)),
        memory=None,
        how="",
        available=available,
        frameworks=frameworks,
    )


def _words(size: tuple[int, int] | None) -> str:
    return "" if size is None else f"{size[0]}x{size[1]}"
