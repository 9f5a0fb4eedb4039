"""Findings about the order of axes and samples: doubtful axes, scattered samples, channels first, alignment, sorted classes."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

from ...batches.missing_classes import sorted_classes
from ...files.lent_buffers import ALIGNMENT
from ...plain.array_spec import DEFAULT_LAYOUTS
from ...plain.display import format_duration
from ...plain.memory_budget import format_bytes
from ..remedies import batches_line, convert_line, open_line
from ..speeds import Speeds
from ..subject import NEXT, Subject
from .contract import FAILS, NOTE, SLOW, Finding

_WORTH_NBYTES = 64 << 10  # of all samples; copying fewer costs nothing


def findings(subject: Subject, speeds: Speeds | None) -> Iterator[Finding]:
    doubt = subject.dataset.doubts.get(subject.field)
    if doubt is not None:
        gain = f"layout=, statistics and pictures take the right axis for channels (--layout {doubt.likely} judges it so)"
        yield Finding("axes", NOTE, doubt.why.rstrip("."), open_line(subject, doubt.likely), gain)
    else:
        yield from _scattered(subject, speeds)
        yield from _channels_first(subject, speeds)
    yield from _alignment(subject, speeds)
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
    if (subject.stored.extents is None and subject.chunks is not None) or (layout.is_consecutive and not is_fortran):
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
    spec, frameworks = subject.spec, subject.frameworks
    letters = spec.layout[1:]
    if not letters.startswith("C") or not {"H", "W"} <= set(letters) or frameworks.backend != "tensorflow" or frameworks.has_gpu:
        return
    nbytes = subject.delivered_nbytes
    cost = "" if speeds is None else f", {format_duration(nbytes / speeds.copy)}"
    level, found = NOTE, "TensorFlow takes 2 to 3 times the time of channels_last for channels_first convolutions on a processor"
    if not frameworks.has_onednn:
        level = FAILS
        found = (
            "TensorFlow has oneDNN off here (TF_ENABLE_ONEDNN_OPTS=1 turns it on), and without it no channels_first convolutions "
            "on a processor: fit fails"
        )
    yield Finding(
        "layout",
        level,
        f"stored channels first ({spec.layout}): {found}",
        batches_line(subject, shuffle=True, layout="N" + letters[1:] + "C"),
        f"the fastest convolutions here, for a copy of each batch ({format_bytes(nbytes)} an epoch{cost}); "
        "keras.layers.Permute as the first layer does the same",
    )


def _alignment(subject: Subject, speeds: Speeds | None) -> Iterator[Finding]:
    """Yield a finding if `to_keras` copies batches in sequential order, which it hands over at multiples of 64 bytes.

    Shuffled batches are copied into aligned memory anyway.
    """
    start, step = first_byte(subject), subject.spec.sample_nbytes
    if start is None or subject.spec.nbytes < _WORTH_NBYTES:
        return
    if start % ALIGNMENT:
        nbytes = subject.delivered_nbytes
        found = f"its first sample lies at byte {start}, no multiple of {ALIGNMENT}: to_keras() copies every batch for TensorFlow"
        line = convert_line(subject, "aligned", suffix=".npy")
    elif step * subject.batch % ALIGNMENT and len(subject.spec) > subject.batch:
        nbytes = subject.usual.samples * step
        several = ALIGNMENT // gcd(step, ALIGNMENT)
        found = (
            f"{subject.batch} samples are {step * subject.batch} bytes, no multiple of {ALIGNMENT}: to_keras() copies most of x "
        )
        found += "for TensorFlow"
        line = batches_line(subject, -(-subject.batch // several) * several)
    else:
        return
    seconds = None if speeds is None else nbytes / speeds.copy
    gain = f"{format_bytes(nbytes)} fewer to copy in each epoch"
    yield Finding("alignment", NOTE, f"in sequential order, {found}", line, gain, seconds, nbytes)


def first_byte(subject: Subject) -> int | None:
    """Return the offset of the first sample if sequential batches are views of the mapped file; else None."""
    extents = subject.stored.extents
    if extents is None or not extents.is_one_run or subject.reader.place != "memory-mapped" or subject.is_cast:
        return None
    if not subject.layout.is_consecutive or not extents.dtype.isnative or subject.spec.sample_nbytes == 0:
        return None
    return extents.offset_of(0)


def alignment_words(subject: Subject) -> str:
    """Say what of a sequential batch `to_keras` hands over without a copy; "" if nothing."""
    start, step = first_byte(subject), subject.spec.sample_nbytes
    if start is None or start % ALIGNMENT or step * subject.batch % ALIGNMENT:
        return ""
    y = "" if subject.target != NEXT else f" (y begins {step} bytes on, and is copied)" if step % ALIGNMENT else ", and y too"
    return f"to_keras() hands x in sequential order to TensorFlow without a copy{y}"
