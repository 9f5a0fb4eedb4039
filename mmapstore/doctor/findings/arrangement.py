"""Findings about the order of axes and samples: doubtful axes, scattered samples, channels first, sorted classes."""

from __future__ import annotations

from collections.abc import Iterator

from ...batches.labels import sorted_classes
from ...plain.array_spec import DEFAULT_LAYOUTS
from ...plain.display import format_duration
from ...plain.memory_budget import format_bytes
from ..remedies import batches_line, convert_line, open_line
from ..speeds import Speeds
from ..subject import Subject
from . import FAILS, NOTE, SLOW, Finding


def findings(subject: Subject, speeds: Speeds | None) -> Iterator[Finding]:
    doubt = subject.dataset.doubts.get(subject.field)
    if doubt is not None:
        gain = f"layout=, statistics and pictures take the right axis for channels (--layout {doubt.likely} judges it so)"
        yield Finding("axes", NOTE, doubt.why.rstrip("."), open_line(subject, doubt.likely), gain)
    else:
        yield from _scattered(subject, speeds)
        yield from _channels_first(subject, speeds)
    if speeds is not None and (classes := sorted_classes(subject.dataset)) is not None:
        field, words = classes
        yield Finding(
            "sorted-classes",
            FAILS,
            f"the classes of the field {field!r} lie one after the other ({words}): contiguous parts, as of split(0.8, 0.2), lack "
            "some",
            f"train, val = {open_line(subject)}.split(0.8, 0.2, stratify={field!r})",
            "every class in each part, in proportion",
        )


def _scattered(subject: Subject, speeds: Speeds | None) -> Iterator[Finding]:
    layout = subject.layout
    is_fortran = "scattered" in subject.reader.why and layout.has_rows
    if (subject.chunks is not None and not subject.chunks.has_rows) or (layout.is_consecutive and not is_fortran):
        return
    in_rows = layout.has_rows and not is_fortran
    what = "consecutive samples lie far apart" if in_rows else "the values of a sample are scattered"
    letters, options = layout.letters, []
    if not subject.given_layout and not subject.location.layout and letters != DEFAULT_LAYOUTS.get(len(letters)):
        options = ["--source-layout", letters]
    yield Finding(
        "order",
        SLOW,
        f"stored as {letters}{', in Fortran order' if is_fortran else ''}: {what}, and are collected piece by piece",
        convert_line(subject, "ordered", options, ".npy", command="ingest"),
        f"{format_bytes(subject.spec.nbytes)} read in sequential order in each epoch",
        None if speeds is None else speeds.beyond_copying(subject),
        subject.spec.nbytes,
    )


def _channels_first(subject: Subject, speeds: Speeds | None) -> Iterator[Finding]:
    letters = subject.spec.layout[1:]
    if not letters.startswith("C") or not {"H", "W"} <= set(letters) or subject.frameworks.backend != "tensorflow":
        return
    nbytes = subject.delivered_nbytes
    cost = "" if speeds is None else f", {format_duration(nbytes / speeds.copy)}"
    yield Finding(
        "layout",
        NOTE,
        f"stored channels first ({subject.spec.layout}): on a processor TensorFlow needs 2 to 3 times as long for "
        "channels_first convolutions as for channels_last, and without oneDNN fit fails",
        batches_line(subject, shuffle=True, layout="N" + letters[1:] + "C"),
        f"the fastest convolutions on a processor, for a copy of each batch ({format_bytes(nbytes)} an epoch{cost}); "
        "keras.layers.Permute as the first layer does the same",
    )
