"""The installed frameworks, according to package metadata and settings: none of them is imported."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bench.machine import versions_of

_PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "tensorflow-intel", "jax", "torch")
_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Frameworks:
    """Keras and its backend."""

    versions: Mapping[str, str]  # versions of the installed packages
    backend: str = "tensorflow"  # backend of Keras: "tensorflow", "jax" or "torch"
    floatx: str = "float32"  # float dtype that Keras casts arrays to

    def __str__(self) -> str:
        if not self.versions:
            return "Keras is not installed: judged by Keras 3 on TensorFlow"
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())


def installed() -> Frameworks:
    """Return what Keras would find if it were imported now."""
    settings: dict[str, Any] = {}
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    with contextlib.suppress(OSError, ValueError, TypeError):  # Keras writes the file on its first import
        settings = dict(json.loads(Path(home, "keras.json").read_text(encoding="utf-8")))
    backend, floatx = os.environ.get("KERAS_BACKEND") or settings.get("backend"), settings.get("floatx")
    return Frameworks(
        versions=versions_of(_PACKAGES),
        backend=backend if backend and isinstance(backend, str) else "tensorflow",
        floatx=floatx if floatx in _FLOATS else "float32",
    )
