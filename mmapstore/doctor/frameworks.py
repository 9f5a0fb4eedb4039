"""What is installed to train with, told from package metadata and settings: no framework is imported."""

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
    """
    Attributes
    ----------
    versions : by package, of those that are installed
    backend : of Keras: "tensorflow", "jax" or "torch"
    floatx : the float dtype that Keras casts arrays to
    has_gpu : the machine has one, and what is installed may use it
    has_onednn : TensorFlow computes convolutions on processors with oneDNN, which knows channels_first
    """

    versions: Mapping[str, str]
    backend: str = "tensorflow"
    floatx: str = "float32"
    has_gpu: bool = False
    has_onednn: bool = True

    @property
    def is_here(self) -> bool:
        """Keras, and a backend for it."""
        return "keras" in self.versions and len(self.versions) > 1

    def __str__(self) -> str:
        if not self.versions:
            return "Keras is not installed: judged by Keras 3 on TensorFlow"
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())


def installed() -> Frameworks:
    """What Keras would find if it were imported now."""
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
    """Keras's own: keras.json, which it writes on its first import."""
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
    """As TensorFlow decides (`IsMklEnabled` in tensorflow/core/util/util.cc): as asked, else on Linux for these processors."""
    asked = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "").strip().lower()
    if platform.machine().lower() not in ("x86_64", "amd64") or asked in ("0", "false"):
        return False
    return asked in ("1", "true") or bool(_ONEDNN_FLAGS & _processor_flags())


def _processor_flags() -> set[str]:
    """What the first processor can do, in the words of /proc/cpuinfo; nothing where there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()
