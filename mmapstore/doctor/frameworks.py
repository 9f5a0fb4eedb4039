"""The installed frameworks, according to package metadata and settings: none of them is imported."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "tensorflow-intel", "jax", "torch")
_ONEDNN_FLAGS = {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"}
_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Frameworks:
    """Keras and its backend.

    Attributes
    ----------
    versions : versions of the installed packages
    backend : backend of Keras: "tensorflow", "jax" or "torch"
    floatx : float dtype that Keras casts arrays to
    has_gpu : the machine has a GPU, and the installed packages may use it
    has_onednn : TensorFlow computes convolutions on processors with oneDNN, which supports channels_first
    """

    versions: Mapping[str, str]
    backend: str = "tensorflow"
    floatx: str = "float32"
    has_gpu: bool = False
    has_onednn: bool = True

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
        has_gpu=_has_gpu() and not {"tensorflow-cpu", "tensorflow-intel"} & set(versions),
        has_onednn=_has_onednn(),
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


def _has_gpu() -> bool:
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    apple = sys.platform == "darwin" and bool(_version("tensorflow-metal"))
    return apple or any(os.path.exists(path) for path in ("/dev/nvidia0", "/dev/kfd", "/dev/dxg"))


def _has_onednn() -> bool:
    """Decide as TensorFlow does (`IsMklEnabled` in tensorflow/core/util/util.cc): as set, else on Linux by processor flags."""
    asked = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "").strip().lower()
    if platform.machine().lower() not in ("x86_64", "amd64") or asked in ("0", "false"):
        return False
    if asked in ("1", "true"):
        return True
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
        return not _ONEDNN_FLAGS.isdisjoint(flags)
    return False
