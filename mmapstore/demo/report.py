"""What the demo found, as a table to read and as JSON."""

from __future__ import annotations

import json
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..plain.memory_budget import format_bytes
from .frames import HISTORY, Frames, Parts, in_ram_bytes
from .picture import save_strip
from .training import Trained, compared

_WIDTH = 28
_REMARK = 76  # characters in a line of the last column
_AMPLIFIED = 4  # errors in the picture, so that an eye sees them


@dataclass(frozen=True)
class Outcome:
    """One run of the demo."""

    data: str
    disk_bytes: int
    place: str
    parts: Parts
    frames: Frames
    trained: Trained
    picture: Path
    picture_size: tuple[int, int]
    seconds: float

    def to_json(self) -> str:
        """Bytes and seconds as numbers; null where this system tells no figure."""
        trained, parts = self.trained, self.parts
        held, copied = in_ram_bytes(parts, self.frames)
        return json.dumps(
            {
                "data": self.data,
                "frames": {"train": len(parts.train), "validation": len(parts.validation), "test": len(parts.test)},
                "bytes_on_disk": self.disk_bytes,
                "predicted_private_bytes": parts.predicted_bytes,
                "measured_private_bytes": trained.measured_bytes,
                "framework_private_bytes": trained.framework_bytes,
                "data_path_private_bytes": trained.data_path_bytes,
                "in_ram_bytes": held + copied,
                "samples_per_second": round(trained.samples_per_second, 2),
                "epochs": trained.epochs,
                "validation_losses": trained.losses,
                "validation_loss": trained.losses[-1],
                "validation_baseline": trained.baseline,
                "test_loss": trained.test_loss,
                "test_baseline": trained.test_baseline,
                "picture": str(self.picture),
                "picture_size": list(self.picture_size),
                "training_seconds": round(trained.seconds, 2),
                "seconds": round(self.seconds, 2),
            },
            indent=1,
        )

    def to_text(self) -> str:
        trained, parts = self.trained, self.parts
        held, copied = in_ram_bytes(parts, self.frames)
        predicted = parts.predicted_bytes
        memory = parts.train_batches.memory.parts, parts.validation_batches.memory.parts
        named = {name: memory[0].get(name, 0) + memory[1].get(name, 0) for name in memory[0] | memory[1]}
        parts_text = ", ".join(f"{name} {format_bytes(size)}" for name, size in named.items() if size * 100 > predicted)
        rows = [
            ("bytes on disk", format_bytes(self.disk_bytes), f"{self.data}, {self.place}"),
            ("private memory, predicted", format_bytes(predicted), f"while training and validating: {parts_text}"),
            *self._measured_rows(predicted),
            (
                "fit on the array in RAM",
                format_bytes(held + copied),
                f"computed: all frames as float32 {format_bytes(held)}, and the x and y that Keras copies {format_bytes(copied)}",
            ),
            ("samples a second", f"{trained.samples_per_second:.3g}", "in training, reading and down-sampling included"),
            ("validation loss", f"{trained.losses[-1]:.3g}", _against(trained.losses[-1], trained.baseline)),
            (
                "test loss",
                f"{trained.test_loss:.3g}",
                f"{_against(trained.test_loss, trained.test_baseline)}; the last part, used for nothing else",
            ),
            ("time", f"{self.seconds:.0f} s", f"of which training and validation {trained.seconds:.0f} s"),
            ("picture", "", str(self.picture)),
        ]
        return "\n".join(_row(*row) for row in rows)

    def _measured_rows(self, predicted: int) -> list[tuple[str, str, str]]:
        trained = self.trained
        if trained.measured_bytes is None or trained.framework_bytes is None or trained.data_path_bytes is None:
            return [("private memory, measured", "-", f"{sys.platform} has no /proc/self/status to read it from; Linux has")]
        own = trained.data_path_bytes
        if own <= predicted:
            verdict = "within the prediction"
        elif own <= predicted + trained.framework_bytes:
            verdict = "above the prediction, by less than the framework's own: too little data to tell them apart"
        else:
            verdict = "MORE than predicted: please report this with the lines above"
        return [
            (
                "private memory, measured",
                format_bytes(trained.measured_bytes),
                "peak growth (RssAnon) while training and validating; the framework, the model and a warm-up came before",
            ),
            (
                "  of it the framework's own",
                format_bytes(trained.framework_bytes),
                "the same steps on one batch held in RAM grew by this",
            ),
            ("  left for the data", format_bytes(own), verdict),
        ]


def _row(name: str, figure: str, remark: str) -> str:
    # A path stays whole, so that it can be copied.
    lines = textwrap.wrap(remark, _REMARK, break_long_words=False, break_on_hyphens=False) or [""]
    first = f"  {name:<{_WIDTH}} {figure:>9}   {lines[0]}".rstrip()
    return "\n".join([first, *(" " * (_WIDTH + 15) + line for line in lines[1:])])


def _against(loss: float, baseline: float) -> str:
    return f"{compared(loss, baseline)} ({baseline:.3g})"


def save_picture(path: Path, trained: Trained, frames: Frames) -> tuple[int, int]:
    """The strip: what went in, what came, what was predicted, and how far off. Returns (width, height) in pixels."""
    strip = trained.strip

    def off(guesses: list[Any]) -> list[Any]:
        return [np.abs(truth - guess) * _AMPLIFIED for truth, guess in zip(strip.truth, guesses, strict=True)]

    scale = f"x{_AMPLIFIED}, black is exact"
    rows = [
        ("input", f"the last of the\n{HISTORY} frames that\nthe model sees", strip.last),
        ("truth", "the frame\nthat came", strip.truth),
        ("prediction", "of the model", strip.predicted),
        ("difference", f"truth - prediction\n{scale}", off(strip.predicted)),
        ("... if repeated", f"truth - input\n{scale}", off(strip.last)),
    ]
    return save_strip(path, strip.titles, rows)
