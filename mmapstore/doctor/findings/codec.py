"""What decoding costs: by a library, or by any codec where mapping would be faster and the disk has room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from ...plain.memory_budget import format_bytes
from ..case import Case, least_step
from ..mending import convert_line
from ..speeds import Speeds
from .contract import NOTE, SLOW, Finding

_WORTH = 2  # times as long as from a mapped file
_OF_A_STEP = 0.5  # the share of the shortest training step below which decoding beside it is hardly felt


def findings(case: Case, speeds: Speeds | None) -> Iterator[Finding]:
    now, then = (None, None) if speeds is None else (_seconds(case, speeds), mapped_seconds(case, speeds))
    if case.is_by_library:
        yield from _mapping(case, f"read {case.reader.why}", now, then)
    elif case.is_compressed and now is not None and then is not None and now > max(_WORTH * then, _hardly_felt(case)):
        assert case.chunks is not None
        codecs = " after ".join(str(codec) for codec in reversed(case.chunks.chain))
        yield from _mapping(case, f"{codecs}: each epoch decodes {format_bytes(case.spec.nbytes * case.decodes)}", now, then)


def _hardly_felt(case: Case) -> float:
    return _OF_A_STEP * least_step(case) * case.steps


def _seconds(case: Case, speeds: Speeds) -> float | None:
    return None if speeds.batch is None else speeds.batch * case.steps


def mapped_seconds(case: Case, speeds: Speeds) -> float:
    """Of an epoch over the same samples in a .npy: copied from the page cache, or read from the disk where that cannot hold it."""
    copied = case.delivered_nbytes / speeds.copy
    if case.spec.nbytes <= case.available or not speeds.disk:
        return copied
    return max(copied, case.spec.nbytes / speeds.disk)


def _mapping(case: Case, found: str, now: float | None, then: float | None) -> Iterator[Finding]:
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(case.place.outer))).free
    more = max(0, case.spec.nbytes - case.stored_nbytes)
    seconds = None if now is None or then is None else max(0.0, now - then)
    level = SLOW if now is None or now > least_step(case) * case.steps else NOTE
    if case.spec.nbytes <= free:
        yield Finding(
            "codec",
            level,
            found,
            convert_line(case, "mapped", suffix=".npy"),
            f"nothing to decode, for {format_bytes(more)} more disk; ds.cache(directory) does the same during the first epoch",
            seconds,
            int(case.spec.nbytes * case.decodes),
        )
    elif case.is_by_library:
        yield Finding(
            "codec",
            level,
            found,
            convert_line(case, "zstd", ("--compression", "zstd"), suffix=".zarr"),
            f"decoded in threads by mmapstore itself ({format_bytes(case.spec.nbytes)} would not fit the disk uncompressed)",
            None,
            None,
        )
