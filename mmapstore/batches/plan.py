"""What each array of a batch is made of: which frames of which field, in which dtype and layout. Arithmetic only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..plain.array_spec import LETTERS, ArraySpec, checked_dtype
from ..plain.errors import InvalidTypeError, InvalidValueError, KeyNotFoundError
from ..plain.nests import leaves
from ..plain.windows import Window

Target = Window | str | Sequence[str] | None


@dataclass(frozen=True)
class Frames:
    """One array of a batch.

    Attributes
    ----------
    field : the field it is taken from
    offsets : frames, in samples from the anchor
    has_time_axis : whether they are an axis after the batch axis; if not there is one frame
    spec : of the field as it is read: (samples, *sample shape), dtype, layout
    dtype : delivered
    axes : the sample axes as delivered, counted in the sample as read; -1 is a new axis of length 1. None: as read
    """

    field: str
    offsets: range
    has_time_axis: bool
    spec: ArraySpec
    dtype: np.dtype[Any]
    axes: tuple[int, ...] | None

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one frame as delivered."""
        shape = self.spec.sample_shape
        return shape if self.axes is None else tuple(1 if axis < 0 else shape[axis] for axis in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample of the batch as delivered: without the batch axis."""
        return ((len(self.offsets), *self.sample_shape)) if self.has_time_axis else self.sample_shape

    @property
    def converts(self) -> bool:
        return self.dtype != self.spec.dtype or self.axes is not None

    @property
    def read_nbytes(self) -> int:
        """Bytes of one sample of the batch as read."""
        return len(self.offsets) * self.spec.sample_nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of one sample of the batch as delivered."""
        return self.read_nbytes // self.spec.dtype.itemsize * self.dtype.itemsize


@dataclass(frozen=True)
class Plan:
    """The arrays of a batch, and the window they are cut from.

    Attributes
    ----------
    parts : the structure of a batch: (x,) or (x, y), each a nest of `Frames`
    """

    parts: tuple[Any, ...]
    window: Window

    @cached_property
    def arrays(self) -> tuple[Frames, ...]:
        """All arrays, x before y."""
        return tuple(leaves(self.parts))

    @property
    def fields(self) -> dict[str, ArraySpec]:
        return {frames.field: frames.spec for frames in self.arrays}

    def reach(self, field: str | None = None) -> tuple[int, int]:
        """Lowest and highest offset of a frame from the anchor, over all arrays or those of one field."""
        offsets = [frames.offsets for frames in self.arrays if field in (None, frames.field)]
        return min(0, *(r[0] for r in offsets)), max(0, *(r[-1] for r in offsets))

    def digest(self) -> str:
        """The same for two plans that make the same batches of the same anchors: part of a saved position."""
        arrays = [[f.field, [*f.offsets], f.has_time_axis, f.dtype.str, f.axes] for f in self.arrays]
        window = [self.window.stride, self.window.start_index, self.window.end_index]
        return hashlib.blake2b(repr((arrays, window)).encode(), digest_size=8).hexdigest()


def plan_for(
    specs: Mapping[str, ArraySpec],
    inputs: str | Sequence[str] | None,
    target: Target,
    dtype: Any = None,
    layout: str | None = None,
) -> Plan:
    """Work out the arrays of a batch from the arguments of `Dataset.batches`."""
    names = (next(iter(specs)),) if inputs is None else (inputs,) if isinstance(inputs, str) else tuple(inputs)
    if not names:
        raise InvalidValueError(f"inputs={inputs!r} names no field; expected some of {', '.join(specs)}.")
    for name in names:
        _known(name, specs, "inputs")
    window, y_names, y_is_single = _targets(specs, names, target)
    x_offsets, y_offsets = window.offsets()
    casts = _casts(specs, names, dtype)

    def frames(name: str, offsets: range, has_time_axis: bool) -> Frames:
        spec = specs[name]
        return Frames(name, offsets, has_time_axis, spec, casts.get(name, spec.dtype), _axes(spec.layout[1:], layout, name))

    x = tuple(frames(name, x_offsets, window.history is not None) for name in names)
    y = tuple(frames(name, y_offsets, window.horizon is not None) for name in y_names)
    parts = (x[0] if inputs is None or isinstance(inputs, str) or len(names) == 1 else x, y[0] if y_is_single and y else y)
    return Plan(parts if y else parts[:1], window)


def _known(name: Any, specs: Mapping[str, ArraySpec], argument: str) -> None:
    if name not in specs:
        raise KeyNotFoundError(
            f"{argument} names the field {name!r}, which is not there; the fields are {', '.join(map(repr, specs))}."
        )


def _targets(specs: Mapping[str, ArraySpec], inputs: tuple[str, ...], target: Target) -> tuple[Window, tuple[str, ...], bool]:
    same = Window(history=None, horizon=None, lead=0)
    if target is None:
        return same, (), True
    if isinstance(target, Window):
        field = target.field if target.field is not None else inputs[0]
        _known(field, specs, "the target")
        return target, (field,), True
    if isinstance(target, type) or callable(target):
        raise InvalidTypeError(f"target={target!r} is not called yet; write NextFrame() or Window(...).")
    if isinstance(target, str):
        _known(target, specs, "target")
        return same, (target,), True
    if isinstance(target, (list, tuple)) and target:
        for name in target:
            _known(name, specs, "target")
        return same, tuple(target), False
    raise InvalidTypeError(f"target={target!r} is not understood; expected NextFrame(), Window(...), a field name, or None.")


def _casts(specs: Mapping[str, ArraySpec], inputs: tuple[str, ...], dtype: Any) -> dict[str, np.dtype[Any]]:
    if dtype is None:
        return {}
    wanted = dtype if isinstance(dtype, Mapping) else dict.fromkeys(inputs, dtype)
    found = {}
    for name, one in wanted.items():
        _known(name, specs, "dtype")
        try:
            found[name] = checked_dtype(one, "dtype=").newbyteorder("=")
        except TypeError as error:
            raise InvalidTypeError(f"dtype={one!r} is not a NumPy dtype of numbers; expected something like 'float32'.") from error
    return found


def _axes(have: str, layout: str | None, field: str) -> tuple[int, ...] | None:
    """How the sample axes `have` are brought into the order of `layout`. Only fields with H and W are images."""
    if layout is None:
        return None
    letters = layout.upper() if isinstance(layout, str) else ""
    want = letters.replace("N", "").replace("T", "")
    if not letters.startswith("N") or len(set(letters)) != len(letters) or set(letters) - set(LETTERS) or "T" in letters[2:]:
        raise InvalidValueError(
            f"layout={layout!r} is not understood; expected N first, then the axes of a sample in the wanted order, such as 'NHWC'."
        )
    if not {"H", "W"} <= set(have):
        return None
    if set(want) - {"C"} != set(have) - {"C"} or ("C" in have and "C" not in want):
        raise InvalidValueError(f"layout={layout!r} does not fit the field {field!r}, whose samples have the axes {have!r}.")
    axes = tuple(have.index(letter) if letter in have else -1 for letter in want)
    return None if axes == tuple(range(len(have))) else axes
