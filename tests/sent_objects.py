"""Objects on their way to another process."""

from __future__ import annotations

import contextlib
import os
import pickle
from typing import Any


def sent(thing: Any, at_most: int) -> Any:
    """What another process gets of `thing`: pickled by path in fewer than `at_most` bytes, opened again in another directory."""
    data = pickle.dumps(thing)
    assert len(data) < at_most, f"{len(data)} bytes: is the data among them?"
    with contextlib.chdir(os.sep):
        return pickle.loads(data)
