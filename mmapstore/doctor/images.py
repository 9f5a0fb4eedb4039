"""A folder of image files: every epoch opens and decodes each, where an ingested copy is mapped."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shlex
import time
from collections.abc import Sequence

from ..bench import strategies
from ..bench.contract import Task
from ..files.process_memory import memory_available
from ..operations.ingest.contract import Position
from ..operations.ingest.images.decoding import ImageHeader, read_header
from ..operations.ingest.images.files import ListedImages, images_in_folder
from ..operations.ingest.images.images import Images
from ..operations.ingest.images.values import FULL_SCALE
from ..plain.display import format_duration
from ..plain.memory_budget import format_bytes
from .diagnosis import Diagnosis
from .findings.contract import SLOW, Finding
from .frameworks import Frameworks
from .routes import predicted
from .speeds import copy_speed

_LOOKED_AT = 256  # files that stand for all
_SECONDS = 1.0


def examine_images(path: str, frameworks: Frameworks, batch: int, quick: bool) -> Diagnosis:
    """Raises what reading images raises: a broken one among those looked at, Pillow missing."""
    listed = images_in_folder(path)
    looked_at = _spread(listed.paths, _LOOKED_AT)
    headers = [read_header(each) for each in looked_at]
    sizes = sorted({header.size for header in headers})
    size = None if len(sizes) == 1 else _median([header.size for header in headers])
    dtype = _common_dtype(headers)
    chosen = Images(looked_at, size=size, dtype=dtype, labels=None, skip_broken=True, masks=False)
    shape = chosen.specs["image"].sample_shape
    count, decoded = len(listed.paths), chosen.specs["image"].dtype
    nbytes = count * math.prod(shape) * decoded.itemsize
    task = Task("images", "folder", path, count, shape, decoded.name, batch=batch)
    available = memory_available()
    seconds = None if quick else _decoding_seconds(chosen) * count
    saved = None if seconds is None else max(0.0, seconds - nbytes / copy_speed())
    classes = f" in {len(listed.classes)} classes" if listed.classes else ""
    sized = _words(sizes[0]) if size is None else f"of sizes from {_words(sizes[0])} to {_words(sizes[-1])}"
    return Diagnosis(
        path=path,
        what=f"{path}: {count} images{classes}, {sized}; decoded {shape} {decoded}, {format_bytes(nbytes)}; in batches of {batch}",
        read="file by file, each decoded again in every epoch, by Keras or in your own code; mmapstore ingests them first",
        findings=(_ingest(path, listed, size, dtype, nbytes, seconds, saved),),
        routes=tuple(predicted(dict.fromkeys(strategies.serving(task), task), available)),
        memory=None,
        how="",
        available=available,
        frameworks=frameworks,
    )


def _ingest(
    path: str,
    listed: ListedImages,
    size: tuple[int, int] | None,
    dtype: str | None,
    nbytes: int,
    seconds: float | None,
    saved: float | None,
) -> Finding:
    stored = sum(os.path.getsize(each) for each in _spread(listed.paths, _LOOKED_AT)) * len(listed.paths)
    stored //= min(len(listed.paths), _LOOKED_AT)
    told = "" if seconds is None else f", which takes {format_duration(seconds)} in all threads of this machine"
    words = [
        "mmapstore",
        "ingest",
        path,
        _free(path, fields=listed.labels is not None),
        *(["--size", _words(size)] if size else []),
        *(["--dtype", dtype] if dtype else []),
    ]
    return Finding(
        "images",
        SLOW,
        f"each epoch opens and decodes {len(listed.paths)} files{told}",
        shlex.join(words),
        f"decoded once, then mapped, for {format_bytes(nbytes)} on disk (the files have {format_bytes(stored)}); "
        "--dry-run --epochs N tells from which epoch it pays"
        + ("; some have 16 bits, of which --dtype uint8 keeps the upper 8" if dtype else ""),
        saved,
        nbytes,
    )


def _common_dtype(headers: Sequence[ImageHeader]) -> str | None:
    """What files of 8 and of 16 bits are brought to, as Keras reads them; None where nothing needs to be said, or would help."""
    stored = {header.dtype for header in headers}
    differ = len(stored) > 1 or any(header.is_reduced for header in headers)
    return "uint8" if differ and stored <= FULL_SCALE.keys() else None


def _free(path: str, fields: bool) -> str:
    folder, suffix, taken = os.path.normpath(path), "" if fields else ".npy", itertools.count(2)
    found = f"{folder}-ingested{suffix}"
    while os.path.exists(found):
        found = f"{folder}-ingested-{next(taken)}{suffix}"
    return found


def _decoding_seconds(images: Images) -> float:
    """Of one image, in as many threads as there are processors."""
    began, done = time.perf_counter(), 0
    with contextlib.closing(images.pieces(Position(), 16)) as pieces:  # type: ignore[type-var]
        for piece in pieces:
            done += len(piece.fields["image"])
            if time.perf_counter() - began > _SECONDS:
                break
    return (time.perf_counter() - began) / max(1, done)


def _median(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    return sorted(height for height, _ in sizes)[len(sizes) // 2], sorted(width for _, width in sizes)[len(sizes) // 2]


def _words(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _spread(paths: list[str], most: int) -> list[str]:
    return paths if len(paths) <= most else [paths[len(paths) * k // most] for k in range(most)]
