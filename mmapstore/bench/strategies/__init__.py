"""The ways of feeding Keras, each a module that reads like what people write: naive ones first, ours last.

All deliver the samples in stored order unless their name says otherwise, so that rows differ in the way and not in the order.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from functools import cache
from typing import Any

from ...plain.errors import KeyNotFoundError
from ..contract import Task

# In the order of the table.
_NAMES = (
    "array_in_ram",
    "fit_memmap",
    "from_tensor_slices",
    "from_generator_args",
    "from_generator",
    "shuffle_n",
    "timeseries",
    "batched_generator",
    "sequence",
    "sequence_shuffled",
    "sequence_workers",
    "h5py_sequence",
    "zarr_sequence",
    "image_data_generator",
    "image_dataset",
    "image_dataset_cached",
    "mmapstore_keras",
    "mmapstore_tf",
    "mmapstore_shuffled",
    "mmapstore_images",
)
# Import name: what to install.
_PACKAGES = {"h5py": "mmapstore[hdf5]", "zarr": "mmapstore[zarr]", "PIL": "mmapstore[images]"}
_LIBRARIES = {"h5": "h5py", "zarr": "zarr"}  # beginning of a form: import name
_FRAMEWORKS = {"keras": "mmapstore[tensorflow]", "tensorflow": "mmapstore[tensorflow]"}


def names() -> list[str]:
    """Of all strategies, in the order of the table.

    >>> names()[0], names()[-1]
    ('array_in_ram', 'mmapstore_images')
    """
    return list(_NAMES)


@cache
def load(name: str) -> Any:
    """The module of a strategy; see `bench/contract.py` for what it has. Imports no framework.

    >>> load("fit_memmap").NAME
    'fit(memmap)'
    """
    if name not in _NAMES:
        raise KeyNotFoundError(f"there is no strategy {name!r}. `mmapstore bench --list` tells them: {', '.join(_NAMES)}.")
    return importlib.import_module(f".{name}", __name__)


def source(name: str) -> str:
    """The text of a strategy, to be judged."""
    return inspect.getsource(load(name))


def serving(task: Task) -> list[str]:
    """Names of the strategies that are for such a task, installed or not.

    >>> serving(Task("images", "folder", "photos", 100, (64, 64, 3), "uint8"))[0]
    'image_data_generator'
    """
    return [name for name in _NAMES if task.kind in load(name).KINDS and task.form.startswith(load(name).STORED)]


def libraries(task: Task) -> list[str]:
    """Packages that every way to read such a task imports sooner or later, of those that are installed."""
    found = [library for form, library in _LIBRARIES.items() if task.form.startswith(form)]
    return [library for library in found if importlib.util.find_spec(library) is not None]


def missing(name: str) -> str:
    """What has to be installed before a strategy can run, in words; "" if nothing has."""
    needed = _FRAMEWORKS | {package: _PACKAGES[package] for package in load(name).REQUIRES}
    absent = [package for package in needed if importlib.util.find_spec(package) is None]
    if not absent:
        return ""
    extras = " ".join(f'"{extra}"' for extra in dict.fromkeys(needed[package] for package in absent))
    return f"needs {' and '.join(absent)}: pip install {extras}"
