"""The machine that figures were taken on: no names, no paths."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    *("numpy", "tensorflow", "tensorflow-cpu", "keras", "tf-keras", "h5py", "hdf5plugin", "zarr", "numcodecs", "deflate", "pillow"),
    *("tensorstore", "zarrs", "grain", "mmap-ninja", "xbatcher", "insitubatch", "mmapstore"),
)


def machine() -> dict[str, Any]:
    """Return processor, usable cores, bytes of memory, system, and versions of packages, for JSON.

    >>> sorted(machine())
    ['control_groups', 'cores', 'kernel', 'memory', 'processor', 'python', 'system', 'versions']
    """
    groups, processor, memory = Path("/sys/fs/cgroup"), platform.processor(), None
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": memory,
        "system": platform.system(),
        "kernel": platform.release(),
        "control_groups": "version 2" if (groups / "cgroup.controllers").exists() else "version 1" if groups.is_dir() else "none",
        "python": platform.python_version(),
        "versions": versions_of(PACKAGES),
    }


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed, without importing them."""
    versions = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
