"""The installed frameworks, according to package metadata and settings: none of them is imported."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "tensorflow-intel", "jax", "torch")
_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Frameworks:
    """Keras and its backend.

    Attributes
    ----------
    versions : versions of the installed packages
    backend : backend of Keras: "tensorflow", "jax" or "torch"
    floatx : float dtype that Keras casts arrays to
    """

    versions: Mapping[str, str]
    backend: str = "tensorflow"
    floatx: str = "float32"

    def __str__(self) -> str:
        if not self.versions:
            return "Keras is not installed: judged by Keras 3 on TensorFlow"
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())


def installed() -> Frameworks:
    """Return what Keras would find if it were imported now."""
    settings = _settings()
    floatx = settings.get("floatx")
    versions = {name: version for name in _PACKAGES if (version := _version(name))}
    return Frameworks(
        versions=versions,
        backend=os.environ.get("KERAS_BACKEND") or settings.get("backend") or "tensorflow",
        floatx=floatx if floatx in _FLOATS else "float32",
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _settings() -> Mapping[str, str]:
    """Read keras.json, which Keras writes on its first import."""
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(Path(home, "keras.json").read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return {name: value for name, value in found.items() if isinstance(value, str)}
    return {}
