"""Axes that nobody named: where the shape, or who wrote the array, speaks against the usual order."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from .array_spec import DEFAULT_LAYOUTS
from .errors import SourceWarning

_CHANNELS = (1, 2, 3, 4)  # entries that an axis of channels usually has
_LEAST_SIDE = 8  # pixels of a picture that people train on
_LAST = {4: "NHWC", 5: "NDHWC"}
_MATLAB = {2: "CN", 3: "NWH", 4: "NCWH", 5: "NCDWH"}


@dataclass(frozen=True)
class Doubt:
    """An array whose axes were taken in the usual order, and likely have another.

    >>> doubt = doubt_about("x.npy", (100, 32, 32, 3))
    >>> doubt.likely, doubt_about("x.npy", (100, 3, 32, 32)), doubt_about("x.npy", (100, 32, 32, 3), "NCHW")
    ('NHWC', None, None)
    >>> doubt.words("source_layout").partition(" Say ")[2]
    "source_layout='NHWC' (--source-layout NHWC), or 'NCHW' if that is right."
    """

    name: str
    taken: str
    likely: str
    why: str

    def words(self, argument: str, option: str = "") -> str:
        """Return the warning for an axes argument of that name, on the command line `option`."""
        option = option or f"--{argument.replace('_', '-')}"
        return (
            f"{self.name}: {self.why} Say {argument}={self.likely!r} ({option} {self.likely}), or {self.taken!r} if that is right."
        )


def doubt_about(name: str, shape: tuple[int, ...], layout: str | None = None, is_matlab: bool = False) -> Doubt | None:
    """Return the reason to doubt the usual order of axes; None without such a reason, and if a layout was given."""
    taken = DEFAULT_LAYOUTS.get(len(shape))
    if layout is not None or taken is None:
        return None
    if is_matlab and len(shape) in _MATLAB and sum(n > 1 for n in shape) > 1:
        why = f"MATLAB wrote it with the axes {shape[::-1]}; HDF5 has them in reverse, {shape}, and they are taken as {taken}."
        return Doubt(name, taken, _MATLAB[len(shape)], why)
    if len(shape) in _LAST and shape[-1] in _CHANNELS and shape[1] not in _CHANNELS and min(shape[-3:-1]) >= _LEAST_SIDE:
        why = f"its axes {shape} are taken as {taken}, and the last one has {shape[-1]} entries, as channels have."
        return Doubt(name, taken, _LAST[len(shape)], why)
    return None


def warn_of_doubts(doubts: Iterable[Doubt], argument: str, option: str = "", stacklevel: int = 2) -> None:
    """Warn of each, with a SourceWarning that names the argument."""
    for doubt in doubts:
        warnings.warn(doubt.words(argument, option), SourceWarning, stacklevel=stacklevel + 1)
