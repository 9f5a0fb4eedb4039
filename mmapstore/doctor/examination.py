"""`examine`: the diagnosis of an array, or of a folder of images."""

from __future__ import annotations

import os
from pathlib import Path

from ..operations.ingest.images.files import looks_like_images
from ..plain.array_spec import DEFAULT_LAYOUTS
from ..plain.memory_budget import format_bytes, parse_bytes
from .diagnosis import Diagnosis
from .findings import arrangement, elements, shuffling, storage
from .frameworks import installed
from .remedies import all_at_once
from .routes import routes_of
from .speeds import bottleneck_of, measured
from .subject import NEXT, NONE, Subject, subject_of


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
    """Judge how an array is stored for training.

    Parameters
    ----------
    path, key, layout : arguments of `mmapstore.open`; or a folder of images. In a file with several arrays, the array that is
        more than twice as large as all others is judged, if none is named
    batch : samples in a batch
    target : "next" for the next frame, "none", or the name of a field; None for the second field where there is one, else "next"
    max_memory : upper bound of the memory of an epoch, in bytes or text such as "64MB"; None for no bound
    quick : measure nothing and read headers only: findings then have no seconds, and some are not made

    Raises
    ------
    What `mmapstore.open` raises; DamagedFileError also for damage found while measuring.

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
    subject = subject_of(text, frameworks, key=key, layout=layout, batch=batch, target=target, max_memory=limit)
    speeds = None if quick else measured(subject)
    kinds = (elements, arrangement, storage, shuffling)
    findings = sorted((found for kind in kinds for found in kind.findings(subject, speeds)), key=lambda found: found.rank)
    # mmapstore's predicted peak, shuffled the usual way or, under a limit, as well as fits
    options = {} if limit is None else shuffling.fitting_options(subject, limit)
    memory, how = subject.usual.memory, "mmapstore, shuffled"
    if options and "shuffle" in options and "batch" not in options:
        memory, how = subject.batches(**options).memory, f"mmapstore, shuffle={options['shuffle']}"
    together = all_at_once(subject, [found.mend for found in findings])
    notes = [f"all that convert mends, at once: {together}"] if together else []
    notes += [f"judged was {subject.name}, the largest array there; --key NAME judges another"] if subject.is_largest else []
    return Diagnosis(
        path=subject.name,
        what=_what(subject),
        read=subject.reader.why.partition("; this writes it once")[0],
        findings=tuple(findings),
        routes=tuple(routes_of(subject)),
        memory=memory,
        how=how,
        available=subject.available,
        frameworks=frameworks,
        speeds=speeds,
        bottleneck=None if speeds is None else bottleneck_of(subject, speeds),
        notes=tuple(notes),
    )


def _what(subject: Subject) -> str:
    spec, letters = subject.spec, subject.layout.letters
    episodes = len(subject.dataset.episodes) - 1
    pieces = f" in {episodes} episodes" if episodes > 1 else ""
    y = {NEXT: ", y the next frame", NONE: ""}.get(subject.target, f", y the field {subject.target!r}")
    axes = f"axes {letters}" + ("" if letters == DEFAULT_LAYOUTS.get(len(letters)) else f", samples as {spec.layout}")
    shape = f"of {spec.sample_shape} " if spec.sample_shape else ""
    return (
        f"{subject.name}: {len(spec)} samples{pieces} {shape}{spec.dtype}, {axes}, {format_bytes(spec.nbytes)}; "
        f"x in batches of {subject.batch}{y}"
    )
