"""Values as JSON holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def as_json(value: Any) -> Any:
    """Return an equal value that JSON holds; None where there is none.

    >>> as_json(np.float32(0.5)), as_json(np.array([1, 2], "i2")), as_json(b"m/s"), as_json(1j)
    (0.5, [1, 2], 'm/s', None)
    """
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return None
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, np.ndarray) and value.ndim:
        found = [as_json(each) for each in value]
        return None if any(each is None for each in found) else found
    if isinstance(value, (np.generic, np.ndarray)):
        return as_json(value.item()) if value.dtype.kind in "biufSU" and value.dtype.itemsize <= (1 << 20) else None
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        found = [as_json(each) for each in value]
        return None if any(each is None for each in found) else found
    if isinstance(value, Mapping):
        made = {str(name): as_json(each) for name, each in value.items()}
        return None if any(each is None for each in made.values()) else made
    return None
