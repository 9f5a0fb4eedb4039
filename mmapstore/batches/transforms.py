"""Calling the function given as `transform=`, and making a batch of what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..plain.errors import InvalidTypeError

Transform = Callable[..., Any]


def transformed(transform: Transform, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the parts of a batch, (x,), (x, y) or (x, y, w), as `transform` makes them of its own."""
    made = transform(*parts)
    if len(parts) == 1:
        made = (made,)
    elif not (isinstance(made, tuple) and len(made) in (2, 3)):
        raise InvalidTypeError(f"transform returned {type(made).__name__}; expected the tuple (x, y) or (x, y, w).")
    return tuple(map(_as_arrays, made))


def _as_arrays(nest: Any) -> Any:
    """Return the nest with NumPy arrays as leaves. A list of numbers, one for each sample, is one array."""
    if isinstance(nest, Mapping):
        return {name: _as_arrays(part) for name, part in nest.items()}
    if not isinstance(nest, (tuple, list)) or all(isinstance(part, (int, float, np.generic)) for part in nest):
        return np.asarray(nest)
    parts = map(_as_arrays, nest)
    return list(parts) if isinstance(nest, list) else tuple(parts)
