"""Warnings point at the user's line, whichever libraries lie between."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import pytest

from mmapstore.plain.errors import TrainingWarning, warn_user


def within(name: str, inner: Any) -> Any:
    """Return a function of a module of this name that calls `inner`."""
    scope: dict[str, Any] = {"__name__": name, "inner": inner}
    exec(compile("def call():\n    inner()\n", f"{name}.py", "exec"), scope)
    return scope["call"]


@pytest.mark.parametrize("names", [["mmapstore.here"], ["mmapstore.adapters.backup", "keras.src.trainers", "tensorflow.python"]])
def test_the_line_is_the_users(names: list[str]) -> None:
    call: Any = partial(warn_user, "told", TrainingWarning)
    for name in [*names, "users.own", "keras.src.trainers"]:
        call = within(name, call)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call()
    assert [(warning.category, warning.filename, warning.lineno) for warning in seen] == [(TrainingWarning, "users.own.py", 2)]
