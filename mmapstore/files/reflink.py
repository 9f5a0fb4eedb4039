"""Copies to work on beside an original that must stay as it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable


def copy_file(path: str, copy: str) -> None:
    """All bytes of a file, under a new name; the file system shares them where it can. Raises OSError."""
    shutil.copyfile(path, copy)
    shutil.copymode(path, copy)


def copy_store(directory: str, copy: str, is_rewritten: Callable[[str], bool]) -> None:
    """A directory of which files are replaced or deleted, but for some never changed in place: their names are linked.

    Files whose name `is_rewritten` are copied, as all are where the file system has no hard links. `copy` must not be there.
    Raises OSError.
    """
    for folder, _, names in os.walk(directory):
        inside = os.path.join(copy, os.path.relpath(folder, directory))
        os.makedirs(inside, exist_ok=True)
        for name in names:
            source, target = os.path.join(folder, name), os.path.join(inside, name)
            if is_rewritten(name) or not _link(source, target):
                shutil.copyfile(source, target)


def _link(source: str, target: str) -> bool:
    """False where the file system has no hard links, or no more for this file."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True
