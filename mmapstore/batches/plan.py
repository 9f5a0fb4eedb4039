"""The sources of each array of a batch: frames of a field, in a dtype and layout. Arithmetic only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..plain.array_spec import LETTERS, ArraySpec, checked_dtype
from ..plain.errors import InvalidTypeError, InvalidValueError, KeyNotFoundError
from ..plain.nests import leaves, map_leaves, pack
from ..plain.windows import Window

Nested = Any  # a tuple, list or dict of what is said, nested as deep as wanted


@dataclass(frozen=True)
class Frames:
    """One array of a batch."""

    field: str  # the field it is taken from
    offsets: range  # frames, in samples from the anchor
    has_time_axis: bool  # whether they are an axis after the batch axis; if not there is one frame
    spec: ArraySpec  # of the field as it is read: (samples, *sample shape), dtype, layout
    dtype: np.dtype[Any]  # delivered
    # the sample axes as delivered, counted in the sample as read; -1 is a new axis of length 1. None: as read
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
    """The arrays of a batch, and the window they are cut from."""

    parts: tuple[Any, ...]  # the structure of a batch: (x,), (x, y) or (x, y, w), each a nest of `Frames`
    window: Window

    @cached_property
    def arrays(self) -> tuple[Frames, ...]:
        """All arrays, x before y before w."""
        return tuple(leaves(self.parts))

    @cached_property
    def weights(self) -> tuple[Frames, ...]:
        """The arrays of w, which come last among `arrays`."""
        return tuple(leaves(self.parts[2:]))

    @property
    def fields(self) -> dict[str, ArraySpec]:
        return {frames.field: frames.spec for frames in self.arrays}

    def reach(self, field: str | None = None) -> tuple[int, int]:
        """Return the lowest and highest offset of a frame from the anchor, over all arrays or those of one field."""
        return self._reaches[field]

    @cached_property
    def _reaches(self) -> dict[str | None, tuple[int, int]]:
        found = {}
        for field in (None, *self.fields):
            offsets = [frames.offsets for frames in self.arrays if field in (None, frames.field)]
            found[field] = min(0, *(r[0] for r in offsets)), max(0, *(r[-1] for r in offsets))
        return found

    @property
    def words(self) -> str:
        """The shapes and dtypes of all arrays, as `repr` of batches says them."""
        listed = [", ".join(f"{frames.shape} {frames.dtype}" for frames in leaves(part)) for part in self.parts]
        return ", ".join(f"{name} {said}" for name, said in zip("xyw", listed, strict=False))

    def digest(self) -> str:
        """Return a digest that plans share if they make the same batches of the same anchors: part of a saved position."""
        arrays = [[f.field, [*f.offsets], f.has_time_axis, f.dtype.str, f.axes] for f in self.arrays]
        window = [self.window.stride, self.window.start_index, self.window.end_index]
        structure = json.dumps(pack(self.parts, range(len(arrays))), sort_keys=True)
        return hashlib.blake2b(repr((arrays, window, structure)).encode(), digest_size=8).hexdigest()


def plan_for(
    specs: Mapping[str, ArraySpec],
    inputs: Nested = None,
    target: Nested = None,
    dtype: Any = None,
    layout: str | None = None,
    sample_weight: Nested = None,
) -> Plan:
    """Return the arrays of a batch that the arguments of `Dataset.batches` ask for.

    A field named in `target` or `sample_weight` is taken at the last input frame of each window.
    """
    inputs = next(iter(specs)) if inputs is None else inputs
    if target is None and sample_weight is not None:
        raise InvalidValueError(
            f"sample_weight={sample_weight!r} weighs the loss of a target, and there is none. Give target= too, or leave "
            "sample_weight= out; a field that is to be had beside x belongs into inputs=."
        )
    names = [_known(name, specs, "inputs") for name in _asked("inputs", inputs, specs)]
    targets = [] if target is None else _asked("target", target, specs)
    window = _window_of(targets)
    x_offsets, _ = window.offsets()
    casts = _casts(specs, names, dtype)

    def frames(name: str, offsets: range, has_time_axis: bool) -> Frames:
        spec = specs[name]
        return Frames(name, offsets, has_time_axis, spec, casts.get(name, spec.dtype), _axes(spec.layout[1:], layout, name))

    def last(argument: str, name: Any) -> Frames:
        return frames(_known(name, specs, argument), x_offsets[-1:], False)

    def of_target(one: Any) -> Frames:
        if not isinstance(one, Window):
            return last("target", one)
        field = _known(names[0] if one.field is None else one.field, specs, "the target")
        return frames(field, one.offsets()[1], one.horizon is not None)

    x = map_leaves(lambda name: frames(name, x_offsets, window.history is not None), inputs)
    if target is None:
        return Plan((x,), window)
    y = map_leaves(of_target, target)
    if sample_weight is None:
        return Plan((x, y), window)
    for name in _asked("sample_weight", sample_weight, specs):
        kind = specs[_known(name, specs, "sample_weight")].dtype
        if kind.kind not in "biuf":
            raise InvalidTypeError(f"sample_weight names the field {name!r}, which holds {kind}; expected real numbers, 0 or more.")
    return Plan((x, y, map_leaves(lambda name: last("sample_weight", name), sample_weight)), window)


def require_weights_like(target: Nested, sample_weight: Nested) -> None:
    """Raise InvalidValueError for weights that are neither one field nor a field for each output, in the structure of y.

    Keras would raise a KeyError in the first training step, or give the first weights to all metrics.
    """
    if isinstance(sample_weight, (Mapping, tuple, list)) and _structure(sample_weight) != _structure(target):
        raise InvalidValueError(
            f"sample_weight={sample_weight!r} has another structure than target={target!r}. Expected the name of one field, for "
            "all outputs, or a field for each of them under the same names; a field of ones weighs an output's samples alike."
        )


def _structure(nest: Nested) -> Any:
    """Return the nest without its leaves."""
    if isinstance(nest, Mapping):
        return {name: _structure(part) for name, part in nest.items()}
    return [_structure(part) for part in nest] if isinstance(nest, (tuple, list)) else None


def _asked(argument: str, nest: Nested, specs: Mapping[str, ArraySpec]) -> list[Any]:
    """Return the leaves of an argument, which has some, under names that Keras takes."""

    def check(part: Any) -> None:
        if isinstance(part, Mapping):
            odd = [name for name in part if not isinstance(name, str)]
            if odd:
                raise InvalidTypeError(
                    f"{argument} has the key {odd[0]!r}; expected text, the name of an input or output of a model."
                )
            part = list(part.values())
        if isinstance(part, (tuple, list)):
            if not part:
                raise InvalidValueError(f"{argument}={nest!r} names no field; expected some of {', '.join(specs)}.")
            for inner in part:
                check(inner)

    check(nest)
    return leaves(nest)


def _known(name: Any, specs: Mapping[str, ArraySpec], argument: str) -> str:
    """Return the name of an existing field."""
    if isinstance(name, str):
        if name in specs:
            return name
        raise KeyNotFoundError(
            f"{argument} names the field {name!r}, which is not there; the fields are {', '.join(map(repr, specs))}."
        )
    if isinstance(name, type) or callable(name):
        raise InvalidTypeError(f"{argument}={name!r} is not called yet; write NextFrame() or Window(...).")
    expected = "NextFrame(), Window(...), a field name" if argument == "target" else "a field name"
    if hasattr(name, "__array__"):
        raise InvalidTypeError(
            f"{argument}={type(name).__name__} is not understood; expected the name of a field. Add an array as a field: "
            "mmapstore.open({**ds.fields, 'name': array})."
        )
    raise InvalidTypeError(f"{argument}={name!r} is not understood; expected {expected}, or a tuple, list or dict of them.")


def _window_of(targets: list[Any]) -> Window:
    """Return the window that all targets share: one x belongs to all of them."""
    windows = [one for one in targets if isinstance(one, Window)]
    if not windows:
        return Window(history=None, horizon=None, lead=0)
    first = windows[0]
    for other in windows[1:]:
        differing = [
            name for name in ("history", "stride", "start_index", "end_index") if getattr(first, name) != getattr(other, name)
        ]
        if first.offsets()[0] != other.offsets()[0] and not differing:
            differing = ["sampling_rate"]
        if differing:
            said = "; ".join(f"{name} {getattr(first, name)} and {getattr(other, name)}" for name in differing)
            raise InvalidValueError(
                f"target has windows that share no x: they differ in {said}. Expected one history, sampling_rate, stride, "
                "start_index and end_index in all; horizon, lead and field may differ. The next frame after a history of 4, say, "
                "is Window(history=4, horizon=None)."
            )
    return first


def _casts(specs: Mapping[str, ArraySpec], inputs: list[str], dtype: Any) -> dict[str, np.dtype[Any]]:
    if dtype is None:
        return {}
    # One dtype for all is meant for numbers: text beside them stays text.
    wanted = dtype if isinstance(dtype, Mapping) else {name: dtype for name in inputs if specs[name].dtype.kind != "S"}
    found = {}
    for name, one in wanted.items():
        _known(name, specs, "dtype")
        try:
            found[name] = checked_dtype(one, "dtype=").newbyteorder("=")
        except TypeError as error:
            raise InvalidTypeError(f"dtype={one!r} is not a NumPy dtype of numbers; expected something like 'float32'.") from error
        if "S" in (found[name].kind, specs[name].dtype.kind):
            raise InvalidTypeError(
                f"dtype={one!r} for the field {name!r}, which holds {specs[name].dtype}: text and numbers are not cast to each "
                "other. Leave it out; a transform= makes numbers of text."
            )
    return found


def _axes(have: str, layout: str | None, field: str) -> tuple[int, ...] | None:
    """Return the permutation that brings the sample axes `have` into the order of `layout`. Only fields with H and W are images."""
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
