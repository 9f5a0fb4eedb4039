"""Remedies: commands that write a better copy under a free name beside the source, and lines of Python (`mm` is mmapstore)."""

from __future__ import annotations

import fnmatch
import itertools
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..formats.registry import split_inside
from .subject import NEXT, NONE, Subject

_SUFFIXES = {"HDF5": ".h5", "Zarr": ".zarr"}


def convert_line(
    subject: Subject, word: str, options: Sequence[str] = (), suffix: str | None = None, command: str = "convert"
) -> str:
    """Return `mmapstore convert`, or another command, to a file whose name ends in `word`: "frames-float32.npy"."""
    given = ["--source-layout", subject.given_layout] if subject.given_layout else []
    return shlex.join(["mmapstore", command, subject.name, _target(subject, word, suffix), *options, *given])


def open_line(subject: Subject, layout: str | None = None) -> str:
    """Return `mm.open(...)`, with `layout` or the layout given."""
    layout = layout or subject.given_layout
    return f"mm.open({subject.name!r}{f', layout={layout!r}' if layout else ''})"


def batches_line(subject: Subject, batch: int | None = None, **options: Any) -> str:
    """Return `mm.open(...).batches(...)` for the subject's target."""
    target = {NEXT: ["mm.NextFrame()"], NONE: []}.get(subject.target, [repr(subject.target)])
    if subject.is_cast:
        options["dtype"] = subject.floatx.name
    words = [str(batch or subject.batch), *target, *(f"{name}={value!r}" for name, value in options.items() if value is not None)]
    return f"{open_line(subject)}.batches({', '.join(words)})"


def all_at_once(subject: Subject, lines: Sequence[str]) -> str:
    """Return one `mmapstore convert` with the options of all these lines that are one; "" for fewer than two."""
    commands = [shlex.split(line)[3:] for line in lines if line.startswith("mmapstore convert ")]
    if len(commands) < 2:
        return ""
    suffixes = [Path(target).suffix for target, *_ in commands]
    suffix = ".npy" if ".npy" in suffixes else suffixes[0]
    flags = [word for words in commands for word in words if word == "--unpack"]
    options: dict[str, str] = {}
    for _, *words in commands:
        pairs = [word for word in words if word not in flags]
        options.update(zip(pairs[::2], pairs[1::2], strict=True))
    for name in ["--chunk-samples"] * (suffix == ".npy") + ["--source-layout"] * bool(subject.given_layout):  # added below
        options.pop(name, None)
    return convert_line(subject, "mended", [*flags, *itertools.chain(*options.items())], suffix)


def free_name(path: str, suffix: str) -> str:
    """Return `path` with the suffix, and a number before the suffix where that exists."""
    candidates = itertools.chain([f"{path}{suffix}"], (f"{path}-{number}{suffix}" for number in itertools.count(2)))
    return next(found for found in candidates if not os.path.exists(found))


def _target(subject: Subject, word: str, suffix: str | None) -> str:
    """A free path beside the source; for a glob in the current directory, or above that if the glob would match."""
    outer, inside = split_inside(subject.name)
    names = [Path(outer).stem, *(inside or "").strip("/").split("/")[-1:]]
    stem = "-".join(name for name in names if re.fullmatch(r"[\w.-]+", name)) or "frames"
    folder = str(Path(outer).parent)
    if len(subject.location.paths) > 1:
        folder = os.pardir if fnmatch.fnmatch(os.path.abspath(f"{stem}-{word}.npy"), os.path.abspath(outer)) else os.curdir
    suffix = suffix or _SUFFIXES.get(subject.location.format, ".npy")
    return free_name(os.path.normpath(os.path.join(folder, f"{stem}-{word}")), suffix)
