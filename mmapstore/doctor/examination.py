"""An array, or a folder of images, is looked at from all sides: one call for all there is to say of it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..operations.ingest.images.files import looks_like_images
from ..operations.ingest.video import VIDEO_SUFFIXES
from ..plain.array_spec import DEFAULT_LAYOUTS
from ..plain.errors import DamagedFileError, InvalidValueError
from ..plain.memory_budget import MemoryPlan, format_bytes, parse_bytes
from .bottleneck import bottleneck_of
from .case import NEXT, NONE, Case, case_of
from .diagnosis import Diagnosis
from .findings import alignment, all_findings, elements
from .findings.contract import Finding
from .findings.shuffling import fitting_shuffle
from .frameworks import installed
from .mending import all_at_once
from .routes import routes_of
from .speeds import measured


def examine(
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    layout: str | None = None,
    batch: int = 32,
    target: str | None = None,
    max_memory: int | str | None = None,
    quick: bool = False,
) -> Diagnosis:
    """Judge an array, as it is stored, for training on it.

    Parameters
    ----------
    path, key, layout : as `mmapstore.open` takes them; or a folder of images. Of a file with several arrays, the one that is
        larger than all others by far is judged, if none is named
    batch : samples in a batch
    target : "next" for the next frame, "none", or the name of a field; None for the second field where there is one, else "next"
    max_memory : bytes, or text such as "64MB", that an epoch may take; None for no limit
    quick : measure nothing, and read headers alone: findings then have no seconds, and some are not made

    Raises
    ------
    What `mmapstore.open` raises; DamagedFileError also for data that turns out damaged where it is measured.

    >>> import os, tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(os.path.join(folder, "x.npy"), np.ones((100, 16, 16)))
    ...     found = examine(os.path.join(folder, "x.npy"), quick=True)
    >>> [(each.code, each.nbytes) for each in found.findings]
    [('dtype', 102400)]
    """
    text, frameworks = os.fspath(path), installed()
    limit = None if max_memory is None else parse_bytes(max_memory)
    if key is None and Path(text).is_dir() and looks_like_images(text):
        from .images import examine_images

        return examine_images(text, frameworks, batch, quick)
    try:
        case = case_of(text, frameworks, key=key, layout=layout, batch=batch, target=target, max_memory=limit)
    except DamagedFileError as error:
        raise _explained(text, error) from error
    speeds = None if quick else measured(case)
    findings = all_findings(case, speeds)
    memory, how = _ours(case)
    return Diagnosis(
        path=case.name,
        what=_what(case),
        read="; ".join(words for words in (case.reader.why.partition("; this writes it once")[0], alignment.words(case)) if words),
        findings=tuple(findings),
        routes=tuple(routes_of(case)),
        memory=memory,
        how=how,
        available=case.available,
        frameworks=frameworks,
        speeds=speeds,
        bottleneck=None if speeds is None else bottleneck_of(case, speeds),
        notes=_notes(case, findings),
    )


def _explained(path: str, error: DamagedFileError) -> Exception:
    """What to do with something that is no array, where that can be told."""
    quoted = shlex.quote(path)
    if path.lower().endswith(VIDEO_SUFFIXES):
        return InvalidValueError(
            f"{path} is a video, which is decoded once before training: mmapstore ingest {quoted} frames.npy. Ask again for that."
        )
    if Path(path).is_dir() and not any(name.name.startswith((".z", "zarr.json")) for name in Path(path).iterdir()):
        suffixes = [each.suffix for each in Path(path).iterdir() if each.suffix in (".npy", ".h5", ".hdf5", ".zarr", ".nc")]
        if suffixes:
            several = shlex.quote(os.path.join(path, f"*{max(suffixes, key=suffixes.count)}"))
            return InvalidValueError(
                f"{path} is a directory of files; expected one of them, or those of one kind, joined: {several}. "
                f"mmapstore info {quoted} tells what there is."
            )
        if any(each.name.lower().endswith(VIDEO_SUFFIXES) for each in Path(path).iterdir()):
            return InvalidValueError(
                f"{path} is a directory of videos, which are decoded once before training: mmapstore ingest {quoted} clips.npy. "
                "Ask again for that."
            )
    return error


def _ours(case: Case) -> tuple[MemoryPlan, str]:
    """mmapstore's predicted peak, shuffled the usual way or, under a limit, as well as fits."""
    if case.max_memory is not None and case.usual.memory.total > case.max_memory:
        samples = fitting_shuffle(case, case.max_memory)
        if samples is not None:
            return case.batches(shuffle=samples).memory, f"mmapstore, shuffle={samples}"
    return case.usual.memory, "mmapstore, shuffled"


def _what(case: Case) -> str:
    spec = case.spec
    episodes = len(case.dataset.episodes) - 1
    pieces = f" in {episodes} episodes" if episodes > 1 else ""
    y = {NEXT: ", y the next frame", NONE: ""}.get(case.target, f", y the field {case.target!r}")
    letters = case.layout.letters
    axes = f"axes {letters}" + ("" if letters == DEFAULT_LAYOUTS.get(len(letters)) else f", samples as {spec.layout}")
    shape = f"of {spec.sample_shape} " if spec.sample_shape else ""
    return (
        f"{case.name}: {len(spec)} samples{pieces} {shape}{spec.dtype}, {axes}, {format_bytes(spec.nbytes)}; "
        f"x in batches of {case.batch}{y}"
    )


def _notes(case: Case, findings: Sequence[Finding]) -> tuple[str, ...]:
    together = all_at_once(case, [found.mend for found in findings])
    numbers = elements.words(case)
    return (
        *([f"dtype: {numbers}"] if numbers else []),
        *([f"all that convert mends, at once: {together}"] if together else []),
        *([f"judged was {case.name}, the largest array there; --key NAME judges another"] if case.is_largest else []),
    )
