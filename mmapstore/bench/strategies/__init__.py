"""The strategies of feeding Keras, naive ones first, ours last; see strategy.py for the parts of each.

All strategies deliver the samples in sequential order unless their name says otherwise, so that rows differ in the strategy alone.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
from typing import Any

from ...plain.errors import KeyNotFoundError
from ..contract import Task
from . import arrays, images, ours, sequences  # noqa: F401  registers their strategies
from .strategy import REGISTERED, Strategy, own

__all__ = ["Strategy", "libraries", "load", "missing", "names", "serving", "source"]

_NAMES = sorted(REGISTERED, key=lambda name: name.startswith("mmapstore"))
_EXTRAS = {"keras": "tensorflow", "tensorflow": "tensorflow", "h5py": "hdf5", "zarr": "zarr", "PIL": "images"}
_LIBRARIES = {"h5": "h5py", "zarr": "zarr"}  # beginning of a form: import name


def names() -> list[str]:
    """Return the names of all strategies, in the order of the table.

    >>> names()[0], names()[-1]
    ('array_in_ram', 'mmapstore_shuffled')
    """
    return list(_NAMES)


def load(name: str) -> Strategy:
    """Return the strategy with this name, or from the user's own .py file. Imports no framework.

    >>> load("fit_memmap").title
    'fit(memmap)'
    """
    if name.endswith(".py"):
        return own(name)
    if name not in REGISTERED:
        raise KeyNotFoundError(f"there is no strategy {name!r}. `mmapstore bench --list` tells them: {', '.join(_NAMES)}.")
    return REGISTERED[name]


def source(name: str) -> str:
    """Return the text of a strategy, to be judged, and below it that of the functions of this package that it calls."""
    parts: list[Any] = [load(name).fit_arguments]
    for part in parts:  # which grows
        _, _, text = inspect.getsource(part).partition("def ")  # without its decorator
        own = [each for each in part.__globals__.values() if inspect.isfunction(each) and each.__module__.startswith(__name__)]
        parts += [each for each in own if re.search(rf"(?<![.\w]){each.__name__}\(", text) and each not in parts]
    return "\n\n".join(map(inspect.getsource, parts))


def serving(task: Task) -> list[str]:
    """Return the names of the strategies that serve such a task, installed or not.

    >>> serving(Task("images", "folder", "photos", 100, (64, 64, 3), "uint8"))[0]
    'image_data_generator'
    """
    return [name for name in _NAMES if REGISTERED[name].serves(task.kind, task.form)]


def libraries(task: Task) -> list[str]:
    """Return the installed packages that every strategy on such a task imports sooner or later."""
    found = [library for form, library in _LIBRARIES.items() if task.form.startswith(form)]
    return [library for library in found if importlib.util.find_spec(library) is not None]


def missing(name: str) -> str:
    """Return the packages to install before a strategy can run, in words; "" if none is missing."""
    needed = ("keras", "tensorflow", *load(name).requires)
    absent = [package for package in needed if importlib.util.find_spec(package) is None]
    if not absent:
        return ""
    extras = dict.fromkeys(f'"mmapstore[{_EXTRAS[package]}]"' for package in absent if package in _EXTRAS)
    return f"needs {' and '.join(absent)}" + (f": pip install {' '.join(extras)}" if extras else "")
