"""The result of the demo: a table, JSON, and a picture."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..operations.preview.sheet import Sheet, save
from ..plain.memory_budget import format_bytes
from .frames import HISTORY, Frames, Parts, in_ram_bytes
from .training import Trained, compared

_WIDTH, _REMARK = 28, 76  # characters of the first and of the last column
_AMPLIFIED = 4  # errors in the picture, so that an eye sees them
_TILE = 320  # pixels of a frame's longer side in the picture, about
_ROWS = ("input", "truth", "prediction", "difference", "if repeated")


@dataclass(frozen=True)
class Outcome:
    """The result of one run of the demo."""

    data: str
    disk_bytes: int
    place: str
    parts: Parts
    frames: Frames
    trained: Trained
    picture: Path
    picture_size: tuple[int, int]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return bytes and seconds as numbers; None where this system has no figure."""
        trained, parts = self.trained, self.parts
        return {
            "data": self.data,
            "frames": {"train": len(parts.train), "validation": len(parts.validation), "test": len(parts.test)},
            "bytes_on_disk": self.disk_bytes,
            "predicted_private_bytes": parts.predicted_bytes,
            "measured_private_bytes": trained.measured_bytes,
            "framework_private_bytes": trained.framework_bytes,
            "data_path_private_bytes": trained.data_path_bytes,
            "in_ram_bytes": sum(in_ram_bytes(parts, self.frames)),
            "samples_per_second": round(trained.samples_per_second, 2),
            "epochs": len(trained.losses),
            "validation_losses": trained.losses,
            "validation_loss": trained.losses[-1],
            "validation_baseline": trained.baseline,
            "test_loss": trained.test_loss,
            "test_baseline": trained.test_baseline,
            "picture": str(self.picture),
            "picture_size": list(self.picture_size),
            "training_seconds": round(trained.seconds, 2),
            "seconds": round(self.seconds, 2),
        }

    def to_text(self) -> str:
        trained, predicted = self.trained, self.parts.predicted_bytes
        held, copied = in_ram_bytes(self.parts, self.frames)
        memory = self.parts.train_batches.memory.parts, self.parts.validation_batches.memory.parts
        sizes = {name: memory[0].get(name, 0) + memory[1].get(name, 0) for name in memory[0] | memory[1]}
        named = ", ".join(f"{name} {format_bytes(size)}" for name, size in sizes.items() if size * 100 > predicted)
        loss, test = trained.losses[-1], trained.test_loss
        rows = [
            ("bytes on disk", format_bytes(self.disk_bytes), f"{self.data}, {self.place}"),
            ("private memory, predicted", format_bytes(predicted), f"while training and validating: {named}"),
            *self._measured_rows(predicted),
            (
                "fit on the array in RAM",
                format_bytes(held + copied),
                f"computed: all frames as float32 {format_bytes(held)}, and the x and y that Keras copies {format_bytes(copied)}",
            ),
            ("samples a second", f"{trained.samples_per_second:.3g}", "in training and validation, reading and shrinking included"),
            ("validation loss", f"{loss:.3g}", f"{compared(loss, trained.baseline)} ({trained.baseline:.3g})"),
            (
                "test loss",
                f"{test:.3g}",
                f"{compared(test, trained.test_baseline)} ({trained.test_baseline:.3g}); the last part, used for nothing else",
            ),
            ("time", f"{self.seconds:.0f} s", f"of which training and validation {trained.seconds:.0f} s"),
            ("picture", "", str(self.picture)),
        ]
        lines = []
        for name, figure, remark in rows:
            # A path stays whole, so that it can be copied.
            first, *more = textwrap.wrap(remark, _REMARK, break_long_words=False, break_on_hyphens=False)
            lines += [f"  {name:<{_WIDTH}} {figure:>9}   {first}", *(" " * (_WIDTH + 15) + line for line in more)]
        return "\n".join(lines)

    def _measured_rows(self, predicted: int) -> list[tuple[str, str, str]]:
        measured, framework, own = self.trained.measured_bytes, self.trained.framework_bytes, self.trained.data_path_bytes
        if measured is None or framework is None or own is None:
            return [("private memory, measured", "-", f"{sys.platform} has no /proc/self/status to read it from; Linux has")]
        verdict = "MORE than predicted: please report this with the lines above"
        if own <= predicted:
            verdict = "within the prediction"
        elif own <= predicted + framework:
            verdict = "above the prediction, by less than the framework's own: too little data to tell them apart"
        peak = "peak growth while training and validating, after the framework, the model and a warm-up"
        return [
            ("private memory, measured", format_bytes(measured), peak),
            ("  framework's own share", format_bytes(framework), "growth in the same steps on one batch held in RAM"),
            ("  left for the data", format_bytes(own), verdict),
        ]


def save_picture(path: Path, trained: Trained) -> tuple[int, int]:
    """Draw input, truth, prediction and errors of some frames as a PNG. Returns (width, height) in pixels; raises WriteError."""
    columns = []
    for _, last, truth, predicted in trained.shown:
        frames = [last, truth, predicted, *(np.abs(truth - guess) * _AMPLIFIED for guess in (predicted, last))]
        columns.append([[as_picture(frame)] for frame in frames])
    sheet = Sheet(
        title="Next frames, predicted",
        lines=[
            f"input: the last of the {HISTORY} frames that the model sees; truth: the frame that came; prediction: of the model",
            f"difference: truth - prediction, and truth - input if the input is repeated, x{_AMPLIFIED}; black is exact",
        ],
        row_names=_ROWS,
        cells=columns,
        captions=[(name, "") for name, *_ in trained.shown],
        columns=len(columns),
    )
    return save(sheet, str(path))


def as_picture(frame: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return (height, width, 3) uint8 of a float frame (h, w, channels), 0 black to 1 white, enlarged by a whole factor.

    Three channels are RGB, of more the first three; of fewer the first is shown in grey. NaN is black.

    >>> as_picture(np.array([[[0.0, 0.5, 2.0]]]))[0, 0].tolist()
    [0, 128, 255]
    """
    times = max(1, round(_TILE / max(frame.shape[:2])))
    channels = frame[..., :3] if frame.shape[-1] >= 3 else np.repeat(frame[..., :1], 3, axis=-1)
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = (np.clip(np.nan_to_num(channels), 0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels.repeat(times, axis=0).repeat(times, axis=1)
