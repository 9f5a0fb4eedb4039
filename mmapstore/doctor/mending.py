"""What mends: command lines that leave a copy of the array under a free name beside it, and lines of Python (`mm` is mmapstore)."""

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
from .case import NEXT, NONE, Case

_SUFFIXES = {".npy": ".npy", "HDF5": ".h5", "Zarr": ".zarr", ".npz": ".npy"}


def convert_line(case: Case, word: str, options: Sequence[str] = (), suffix: str | None = None) -> str:
    """`mmapstore convert`, to a file whose name says what was done: "frames-float32.npy"."""
    words = ["mmapstore", "convert", case.name, target_of(case, word, suffix), *options]
    if case.given_layout:
        words += ["--source-layout", case.given_layout]
    return shlex.join(words)


def ingest_line(case: Case, word: str, options: Sequence[str] = ()) -> str:
    """`mmapstore ingest`, which writes samples one after the other, whatever the order of the axes."""
    words = ["mmapstore", "ingest", case.name, target_of(case, word, ".npy"), *options]
    if case.given_layout:
        words += ["--source-layout", case.given_layout]
    return shlex.join(words)


def open_line(case: Case, layout: str | None = None) -> str:
    """`mm.open(...)`, with the layout given, or another."""
    layout = layout or case.given_layout
    return f"mm.open({case.name!r}{f', layout={layout!r}' if layout else ''})"


def batches_line(case: Case, batch: int | None = None, **options: Any) -> str:
    """`mm.open(...).batches(...)` for the target that is judged."""
    target = {NEXT: ["mm.NextFrame()"], NONE: []}.get(case.target, [repr(case.target)])
    if case.is_cast:
        options["dtype"] = case.floatx.name
    words = [str(batch or case.batch), *target, *(f"{name}={value!r}" for name, value in options.items() if value is not None)]
    return f"{open_line(case)}.batches({', '.join(words)})"


def all_at_once(case: Case, lines: Sequence[str]) -> str:
    """One `mmapstore convert` that does what several of these lines do, each by itself; empty if fewer than two are one."""
    commands = [shlex.split(line) for line in lines if line.startswith("mmapstore convert ")]
    if len(commands) < 2:
        return ""
    suffixes = [Path(words[3]).suffix for words in commands]
    suffix = ".npy" if ".npy" in suffixes else suffixes[0]
    options: dict[str, str] = {}
    flags = [word for words in commands for word in words[4:] if word == "--unpack"]
    for words in commands:
        words[4:] = [word for word in words[4:] if word not in flags]
        options.update(zip(words[4::2], words[5::2], strict=True))
    if suffix == ".npy":
        options.pop("--chunk-samples", None)
    if case.given_layout:
        options.pop("--source-layout", None)  # `convert_line` says it
    return convert_line(case, "mended", [*flags, *(word for pair in options.items() for word in pair)], suffix)


def target_of(case: Case, word: str, suffix: str | None = None) -> str:
    """A path that nothing is at: beside the source; of a glob where one stands, or above that, for it must not match."""
    outer, inside = split_inside(case.name)
    names = [Path(outer).stem, *(inside or "").strip("/").split("/")[-1:]]
    stem = "-".join(name for name in names if re.fullmatch(r"[\w.-]+", name)) or "frames"
    folder = str(Path(outer).parent)
    if len(case.place.paths) > 1:
        folder = os.pardir if fnmatch.fnmatch(os.path.abspath(f"{stem}-{word}.npy"), os.path.abspath(outer)) else os.curdir
    suffix = suffix or _SUFFIXES.get(case.place.format, ".npy")
    taken = itertools.count(2)
    found = os.path.normpath(os.path.join(folder, f"{stem}-{word}{suffix}"))
    while os.path.exists(found):
        found = os.path.normpath(os.path.join(folder, f"{stem}-{word}-{next(taken)}{suffix}"))
    return found
