"""The order of axes: scattered samples, channels that TensorFlow cannot take, axes that were likely meant otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from ...plain.array_spec import DEFAULT_LAYOUTS
from ...plain.display import format_duration
from ...plain.guessed_axes import Doubt
from ...plain.memory_budget import format_bytes
from ..case import Case
from ..mending import batches_line, ingest_line, open_line
from ..speeds import Speeds
from .contract import FAILS, NOTE, SLOW, Finding


def findings(case: Case, speeds: Speeds | None) -> Iterator[Finding]:
    doubt = case.dataset.doubts.get(case.field)
    if doubt is not None:
        yield _misnamed(case, doubt)
        return
    yield from _scattered(case, speeds)
    yield from _channels_first(case, speeds)


def _misnamed(case: Case, doubt: Doubt) -> Finding:
    return Finding(
        "axes",
        NOTE,
        doubt.why.rstrip("."),
        open_line(case, doubt.likely),
        f"layout=, statistics and pictures take the right axis for channels (--layout {doubt.likely} judges it so)",
    )


def _scattered(case: Case, speeds: Speeds | None) -> Iterator[Finding]:
    layout = case.layout
    if (case.stored.extents is None and case.chunks is not None) or (layout.is_consecutive and not _is_strided(case)):
        return
    nbytes = case.spec.nbytes
    what = (
        "the values of a sample are scattered" if not layout.has_rows or _is_strided(case) else "consecutive samples lie far apart"
    )
    seconds = None
    if speeds is not None and speeds.batch is not None:
        seconds = max(0.0, speeds.batch * case.steps - case.delivered_nbytes / speeds.copy)
    options = () if case.given_layout or case.place.layout else _source_layout(case)
    yield Finding(
        "order",
        SLOW,
        f"stored as {layout.letters}{', in Fortran order' if _is_strided(case) else ''}: {what}, and are collected piece by piece",
        ingest_line(case, "ordered", options),
        f"{format_bytes(nbytes)} read as they lie in each epoch",
        seconds,
        nbytes,
    )


def _is_strided(case: Case) -> bool:
    return "scattered" in case.reader.why and case.layout.has_rows


def _source_layout(case: Case) -> tuple[str, ...]:
    letters = case.layout.letters
    return () if letters == DEFAULT_LAYOUTS.get(len(letters)) else ("--source-layout", letters)


def _channels_first(case: Case, speeds: Speeds | None) -> Iterator[Finding]:
    spec, frameworks = case.spec, case.frameworks
    letters = spec.layout[1:]
    if not letters.startswith("C") or not {"H", "W"} <= set(letters) or frameworks.backend != "tensorflow" or frameworks.has_gpu:
        return
    last = "N" + letters[1:] + "C"
    nbytes = case.delivered_nbytes
    cost = "" if speeds is None else f", {format_duration(nbytes / speeds.copy)}"
    if frameworks.has_onednn:
        found = "TensorFlow computes channels_first convolutions on a processor, but in 2 to 3 times the time of channels_last"
        level = NOTE
    else:
        found = (
            "TensorFlow has oneDNN off here (TF_ENABLE_ONEDNN_OPTS=1 turns it on), and without it no channels_first convolutions "
            "on a processor: fit fails"
        )
        level = FAILS
    yield Finding(
        "layout",
        level,
        f"stored channels first ({spec.layout}): {found}",
        batches_line(case, shuffle=True, layout=last),
        f"convolutions as fast as they can be here, for a copy of each batch ({format_bytes(nbytes)} an epoch{cost}); "
        "keras.layers.Permute as the first layer does the same",
        None,
        None,
    )
